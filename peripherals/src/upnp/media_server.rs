//! A UPnP AV media server as a source of media (UPnP ContentDirectory:1 §2.7.4 Browse).

use std::sync::Arc;

use futures_util::stream;
use hyper::StatusCode;
use hyper::header;

use super::gena::{self, Topic};
use super::session::{CallError, call};
use super::wire::DescriptionError;
use super::{ServerAccess, didl};
use crate::changes::Changes;
use crate::http::{HttpError, Opened, Request, StallWatch, open_within};
use crate::media::{
    AssetBody, Entry, FetchError, FetchRequest, Fetched, Item, ListError, Location, MAX_PAGE,
    ObjectId, Page, PageRequest, Resource,
};

/// Time until the head of an asset's answer.
const OPEN_TIME: std::time::Duration = std::time::Duration::from_secs(20);
/// ContentDirectory: "no such object".
const NO_SUCH_OBJECT: u16 = 701;

/// One media server. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct MediaServer {
    name: String,
    access: Arc<ServerAccess>,
}

impl MediaServer {
    /// A server that was described; `name` is for messages.
    pub fn new(name: String, access: ServerAccess) -> Self {
        Self {
            name,
            access: Arc::new(access),
        }
    }

    /// The name that it gives itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The container in which it lists everything once.
    pub fn top(&self) -> ObjectId {
        self.access.all_in.clone().unwrap_or_else(ObjectId::root)
    }

    /// One page of a container's children.
    pub async fn list(&self, container: &ObjectId, page: PageRequest) -> Result<Page, ListError> {
        self.browse(container, "BrowseDirectChildren", page).await
    }

    /// One item by its id.
    pub async fn item(&self, id: &ObjectId) -> Result<Item, ListError> {
        let page = self
            .browse(id, "BrowseMetadata", PageRequest { start: 0, count: 1 })
            .await?;
        page.entries
            .into_iter()
            .find_map(|entry| match entry {
                Entry::Item(item) => Some(item),
                Entry::Container(_) => None,
            })
            .ok_or_else(|| ListError::NotFound {
                device: self.name.clone(),
            })
    }

    /// One page of the objects whose title contains `text` (ContentDirectory:1 §2.7.5 Search, an optional action).
    pub async fn search(&self, text: &str, page: PageRequest) -> Result<Page, ListError> {
        // §2.5.5.1: backslash and quote are escaped in a quoted value.
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let criteria = format!("dc:title contains \"{quoted}\"");
        let within = self.top();
        let what = [
            ("ContainerID", within.as_str()),
            ("SearchCriteria", &criteria),
        ];
        self.page("Search", what, page).await
    }

    async fn browse(
        &self,
        id: &ObjectId,
        flag: &str,
        page: PageRequest,
    ) -> Result<Page, ListError> {
        let what = [("ObjectID", id.as_str()), ("BrowseFlag", flag)];
        self.page("Browse", what, page).await
    }

    /// `what` are the arguments that Browse and Search do not have in common; both answer alike.
    async fn page(
        &self,
        action: &str,
        [first, second]: [(&str, &str); 2],
        page: PageRequest,
    ) -> Result<Page, ListError> {
        let count = page.count.clamp(1, MAX_PAGE);
        let answer = call(
            &self.access.content_directory,
            action,
            &[
                first,
                second,
                ("Filter", "*"),
                ("StartingIndex", &page.start.to_string()),
                ("RequestedCount", &count.to_string()),
                ("SortCriteria", ""),
            ],
        )
        .await
        .map_err(|error| self.list_error(error))?;
        let text = answer
            .text("Result")
            .map_err(|error| self.list_error(error))?;
        let listing = if text.is_empty() {
            didl::Listing::default()
        } else {
            didl::parse_listing(text, self.access.address())
                .map_err(|error| self.list_error(DescriptionError::Xml(error).into()))?
        };
        let number = |name| {
            answer
                .text(name)
                .ok()
                .and_then(|text| text.parse::<u32>().ok())
                .unwrap_or(0)
        };
        let total = number("TotalMatches");
        // NumberReturned counts what we could not read as well; it may not lead beyond what was asked for.
        let returned = number("NumberReturned")
            .min(count)
            .max(listing.entries.len() as u32);
        let end = page.start.saturating_add(returned);
        // TotalMatches 0 with entries means "not known" (§2.7.4.2): go on while pages come full.
        let more = if total == 0 {
            returned == count
        } else {
            end < total
        };
        Ok(Page {
            next: (more && returned > 0).then_some(end),
            entries: listing.entries,
            total,
            refused: listing.refused,
        })
    }

    /// What it tells of its media (ContentDirectory:1 §2.5.20, §2.5.21).
    pub fn changes(&self) -> Changes {
        let service = self.access.content_directory.clone();
        gena::follow(self.access.address(), vec![(Topic::Directory, service)])
    }

    fn list_error(&self, source: CallError) -> ListError {
        let device = self.name.clone();
        if source.code() == Some(NO_SUCH_OBJECT) {
            ListError::NotFound { device }
        } else if source.is_unreachable() {
            ListError::Unreachable {
                device,
                source: source.into(),
            }
        } else {
            ListError::BadAnswer {
                device,
                source: source.into(),
            }
        }
    }

    /// Opens a resource for streaming.
    pub async fn fetch(
        &self,
        resource: &Resource,
        request: FetchRequest,
    ) -> Result<Fetched, FetchError> {
        let device = || self.name.clone();
        let url = match &resource.location {
            Location::Url(url) if url.host() == self.access.address() => url,
            _ => return Err(FetchError::Elsewhere { device: device() }),
        };
        let mut get = Request::get(url);
        if request.from > 0 {
            get.headers
                .push((header::RANGE, format!("bytes={}-", request.from)));
            // If-Range takes strong validators only (RFC 9110 §13.1.5).
            if let Some(validator) = request.validator.filter(|v| !v.starts_with("W/")) {
                get.headers.push((header::IF_RANGE, validator));
            }
        }
        let opened = open_within(get, OPEN_TIME)
            .await
            .map_err(|error| match error {
                HttpError::Redirect => FetchError::Elsewhere { device: device() },
                source => FetchError::Interrupted {
                    device: device(),
                    source: source.into(),
                },
            })?;
        let span = self.span(&opened, request.from)?;
        let too_large = |bytes: u64| bytes > request.max_bytes;
        if span.total_bytes.is_some_and(too_large)
            || opened
                .declared
                .is_some_and(|d| too_large(span.offset.saturating_add(d)))
        {
            return Err(FetchError::TooLarge {
                device: device(),
                limit: request.max_bytes,
            });
        }
        let header = |name| opened.header(name).map(str::to_owned);
        Ok(Fetched {
            mime: header(header::CONTENT_TYPE).and_then(|text| plain_mime(&text)),
            offset: span.offset,
            total_bytes: span.total_bytes,
            validator: header(header::ETAG).or_else(|| header(header::LAST_MODIFIED)),
            body: Reading {
                device: device(),
                // What the listing said counts where HTTP says nothing (a body that ends with its connection).
                expected: opened.declared.or_else(|| {
                    resource
                        .size_bytes
                        .and_then(|size| size.checked_sub(span.offset))
                }),
                room: request.max_bytes.saturating_sub(span.offset),
                limit: request.max_bytes,
                opened,
                watch: StallWatch::default(),
                received: 0,
            }
            .into_body(),
        })
    }

    fn span(&self, opened: &Opened, from: u64) -> Result<Span, FetchError> {
        let refused = |status: StatusCode| FetchError::Refused {
            device: self.name.clone(),
            status: status.as_u16(),
        };
        match opened.status {
            StatusCode::OK => Ok(Span {
                offset: 0,
                total_bytes: opened.declared,
            }),
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                let span = opened
                    .header(header::CONTENT_RANGE)
                    .and_then(parse_content_range)
                    .filter(|span| span.offset == from);
                span.ok_or_else(|| refused(opened.status))
            }
            status => Err(refused(status)),
        }
    }
}

/// Which part of a file an answer brings.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    offset: u64,
    total_bytes: Option<u64>,
}

/// `bytes 5-9/10` or `bytes 5-9/*` (RFC 9110 §14.4).
fn parse_content_range(text: &str) -> Option<Span> {
    let rest = text.trim().strip_prefix("bytes")?.trim_start();
    let (range, total) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total_bytes = match total.trim() {
        "*" => None,
        digits => Some(digits.parse().ok()?),
    };
    let sound = first <= last && total_bytes.is_none_or(|total: u64| last < total);
    sound.then_some(Span {
        offset: first,
        total_bytes,
    })
}

/// `Video/MP4; charset=x` → `video/mp4`.
fn plain_mime(text: &str) -> Option<String> {
    let mime = text.split(';').next()?.trim().to_ascii_lowercase();
    let sound =
        mime.len() <= 100 && mime.contains('/') && mime.bytes().all(|b| b.is_ascii_graphic());
    sound.then_some(mime)
}

/// A body being read.
struct Reading {
    device: String,
    opened: Opened,
    watch: StallWatch,
    expected: Option<u64>,
    received: u64,
    room: u64,
    limit: u64,
}

impl Reading {
    fn into_body(self) -> AssetBody {
        AssetBody::new(stream::try_unfold(Some(self), |reading| async move {
            let Some(mut reading) = reading else {
                return Ok(None);
            };
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, Some(reading))))
        }))
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, FetchError> {
        let piece = self.watch.next(&mut self.opened).await;
        let device = || self.device.clone();
        let wrong = |declared, received| FetchError::WrongSize {
            device: device(),
            declared,
            received,
        };
        match piece {
            Ok(Some(chunk)) => {
                self.received += chunk.len() as u64;
                if self.received > self.room {
                    return Err(FetchError::TooLarge {
                        device: device(),
                        limit: self.limit,
                    });
                }
                match self.expected {
                    Some(expected) if self.received > expected => {
                        Err(wrong(expected, self.received))
                    }
                    _ => Ok(Some(chunk)),
                }
            }
            Ok(None) => match self.expected {
                Some(expected) if self.received != expected => Err(wrong(expected, self.received)),
                _ => Ok(None),
            },
            Err(HttpError::Overlong { declared }) => Err(wrong(declared, declared + 1)),
            Err(source) => Err(FetchError::Interrupted {
                device: device(),
                source: source.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let span = |offset, total_bytes| {
            Some(Span {
                offset,
                total_bytes,
            })
        };
        for (text, expected) in [
            ("bytes 5-9/10", span(5, Some(10))),
            ("bytes 5-9/*", span(5, None)),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("items 5-9/10", None),
            ("", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(text in any::<String>()) {
            let _ = parse_content_range(&text);
            let _ = plain_mime(&text);
        }
    }
}
