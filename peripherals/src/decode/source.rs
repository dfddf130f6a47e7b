//! Where the compressed bytes come from: a URL of the gateway's own media server, by ranges (RFC 9110 §14), or memory.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::{StatusCode, Uri, header};

use crate::http::{HttpError, Opened, Request, StallWatch, open_within};
use crate::media::Cause;
use crate::url::{DeviceUrl, UrlRefused};

/// How long the head of an answer may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A gap that is read over rather than jumped by a request of its own, in bytes.
const MAX_SKIP: u64 = 256 * 1024;

/// Why bytes cannot be had.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("the address names no host by number")]
    NoAddress,
    #[error("the address cannot be used")]
    Url(#[source] UrlRefused),
    #[error("the gateway's media server could not be asked")]
    Http(#[source] HttpError),
    #[error("the gateway's media server refused with status {0}")]
    Status(u16),
    #[error("the gateway's media server gave another part than asked for")]
    OtherRange,
}

/// A file to decode.
#[derive(Debug)]
pub struct ByteSource {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Memory(Bytes),
    Http(Box<Http>),
}

impl ByteSource {
    /// Bytes in memory.
    pub fn memory(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Memory(bytes.into()),
        }
    }

    /// A URL with a numeric host, fetched by ranges. `size`: of the whole, where known; else it is asked for.
    pub fn http(url: &str, size: Option<u64>) -> Result<Self, Cause> {
        let host = url.parse::<Uri>().ok().and_then(|uri| {
            let host = uri.host()?.trim_matches(['[', ']']);
            host.parse::<IpAddr>().ok()
        });
        let host = host.ok_or(SourceError::NoAddress)?;
        let url = DeviceUrl::parse(url, host).map_err(SourceError::Url)?;
        Ok(Self {
            kind: Kind::Http(Box::new(Http {
                url,
                size,
                open: None,
            })),
        })
    }

    /// The size of the whole, where it can be known.
    pub(crate) async fn size(&mut self) -> Result<Option<u64>, Cause> {
        match &mut self.kind {
            Kind::Memory(bytes) => Ok(Some(bytes.len() as u64)),
            Kind::Http(http) => {
                if http.size.is_none() {
                    http.open_at(0).await?;
                }
                Ok(http.size)
            }
        }
    }

    /// Up to `len` bytes from `offset`; none at the end.
    pub(crate) async fn read(&mut self, offset: u64, len: u32) -> Result<Bytes, Cause> {
        match &mut self.kind {
            Kind::Memory(bytes) => {
                let start = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let end = start.saturating_add(len as usize).min(bytes.len());
                Ok(bytes.slice(start..end))
            }
            Kind::Http(http) => {
                if http.size.is_some_and(|size| offset >= size) {
                    return Ok(Bytes::new());
                }
                let running = http.open.is_some();
                match http.read(offset, len).await {
                    // An answer that waited while the player was paused may be over: once more from here.
                    Err(_) if running => {
                        http.open = None;
                        Ok(http.read(offset, len).await?)
                    }
                    other => Ok(other?),
                }
            }
        }
    }
}

#[derive(Debug)]
struct Http {
    url: DeviceUrl,
    size: Option<u64>,
    open: Option<Answering>,
}

/// An answer under way.
struct Answering {
    opened: Opened,
    watch: StallWatch,
    /// The offset of `rest`.
    at: u64,
    rest: Bytes,
}

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answering")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Http {
    async fn open_at(&mut self, offset: u64) -> Result<(), SourceError> {
        let mut request = Request::get(&self.url);
        request
            .headers
            .push((header::RANGE, format!("bytes={offset}-")));
        let opened = open_within(request, HEAD_TIME)
            .await
            .map_err(SourceError::Http)?;
        let told = opened.header(header::CONTENT_RANGE).and_then(content_range);
        let total = match (opened.status, told) {
            (StatusCode::PARTIAL_CONTENT, Some((start, total))) if start == offset => total,
            (StatusCode::OK, _) if offset == 0 => opened.declared,
            (status, _) if status.is_success() => return Err(SourceError::OtherRange),
            (status, _) => return Err(SourceError::Status(status.as_u16())),
        };
        self.size = self.size.or(total);
        self.open = Some(Answering {
            opened,
            watch: StallWatch::default(),
            at: offset,
            rest: Bytes::new(),
        });
        Ok(())
    }

    async fn read(&mut self, offset: u64, len: u32) -> Result<Bytes, SourceError> {
        let near = |open: &Answering| offset >= open.at && offset - open.at <= MAX_SKIP;
        if !self.open.as_ref().is_some_and(near) {
            self.open = None;
            self.open_at(offset).await?;
        }
        let open = self.open.as_mut().expect("opened above");
        loop {
            let skip = (offset - open.at).min(open.rest.len() as u64) as usize;
            let _ = open.rest.split_to(skip);
            open.at += skip as u64;
            if open.at == offset && !open.rest.is_empty() {
                let piece = open.rest.split_to((len as usize).min(open.rest.len()));
                open.at += piece.len() as u64;
                return Ok(piece);
            }
            match open.watch.next(&mut open.opened).await {
                Ok(Some(piece)) => open.rest = piece,
                Ok(None) => return Ok(Bytes::new()),
                Err(error) => return Err(SourceError::Http(error)),
            }
        }
    }
}

/// First byte and size of `bytes 0-99/100`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    Some((start, total.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 5", "lines 1-2/3"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_must_be_numbers() {
        assert!(ByteSource::http("http://127.0.0.1:8080/media/x.flac", None).is_ok());
        assert!(ByteSource::http("http://[::1]:8080/media/x.flac", None).is_ok());
        for bad in ["http://localhost/x", "file:///etc/passwd", "x"] {
            assert!(ByteSource::http(bad, None).is_err(), "{bad}");
        }
    }
}
