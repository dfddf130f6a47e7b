//! Where an import comes from: a device's media source, an upload from a browser, a file of the operator.

use super::probe::{Facts, local_time};
use super::shelf::Tags;
use super::store::Imported;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use mantel_peripherals::MediaSource;
use mantel_peripherals::media::{self as peripheral, Item, Resource};
use mantel_protocol::manifest::{MAX_NAME_CHARS, MediaKind};
use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::Pin;
use tokio_util::io::ReaderStream;

/// Longest MIME type kept, bytes (the manifest's limit).
const MAX_MIME_BYTES: usize = 100;
/// The device key of what a person uploaded.
const UPLOAD: &str = "upload";

/// A failure of the source, with its own words.
pub type SourceError = Box<dyn Error + Send + Sync>;
/// Plaintext from a source.
pub type SourceStream = Pin<Box<dyn Stream<Item = Result<Bytes, SourceError>> + Send>>;

/// One file to import.
pub struct ImportSource {
    pub(super) device_key: String,
    pub(super) device: String,
    /// The device's name for it; `None`: nothing to recognise it by, its content decides.
    pub(super) remote_id: Option<String>,
    pub(super) name: String,
    pub(super) size: Option<u64>,
    pub(super) told: Facts,
    pub(super) bytes: ImportBytes,
}

/// How the bytes come.
pub(super) enum ImportBytes {
    /// From a device; an interrupted fetch is taken up where it broke.
    Device {
        source: MediaSource,
        resource: Box<Resource>,
    },
    /// Once, from a browser or a file.
    Stream(SourceStream),
}

impl ImportSource {
    /// An item of a device. `key` is the device's stable key. `None`: the item has nothing that could be fetched.
    pub fn from_device(
        key: &str,
        device_name: &str,
        source: MediaSource,
        item: &Item,
    ) -> Option<Self> {
        let resource = item.original()?.clone();
        let mime = clean_mime(&resource.mime);
        let kind = match item.kind {
            peripheral::MediaKind::Audio => MediaKind::Audio,
            peripheral::MediaKind::Image => MediaKind::Image,
            peripheral::MediaKind::Video => MediaKind::Video,
            peripheral::MediaKind::Data => MediaKind::of_mime(&mime),
        };
        let (width, height) = resource.resolution.unzip();
        let told = Facts {
            duration_ms: resource
                .duration
                .and_then(|d| u64::try_from(d.as_millis()).ok()),
            width,
            height,
            recorded: item.date.and_then(local_time),
            tags: Tags {
                artist: item.artist.clone(),
                album: item.album.clone(),
                ..Tags::default()
            },
            ..bare(kind, mime)
        };
        Some(Self {
            device_key: key.to_owned(),
            device: device_name.to_owned(),
            remote_id: Some(
                item.original_id
                    .as_ref()
                    .unwrap_or(&item.id)
                    .as_str()
                    .to_owned(),
            ),
            name: clean_name(&item.title),
            size: resource.size_bytes,
            told,
            bytes: ImportBytes::Device {
                source,
                resource: Box::new(resource),
            },
        })
    }

    /// A file from a browser. `mime` is the browser's word for it; `size` is for progress and for the room on disk.
    pub fn upload<E: Into<SourceError> + 'static>(
        name: &str,
        mime: Option<&str>,
        size: Option<u64>,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Self {
        let mime = clean_mime(mime.unwrap_or_else(|| mime_of_name(name)));
        Self {
            device_key: UPLOAD.to_owned(),
            device: "Upload".to_owned(),
            remote_id: None,
            name: clean_name(file_stem(name)),
            size,
            told: bare(MediaKind::of_mime(&mime), mime),
            bytes: ImportBytes::Stream(bytes.map_err(Into::into).boxed()),
        }
    }

    /// A track recorded from `device` (key and name), as FLAC; `duration_ms` where it is known beforehand.
    pub fn recording<E: Into<SourceError> + 'static>(
        device: (&str, &str),
        name: &str,
        recorded: Timestamp,
        duration_ms: Option<u64>,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Self {
        Self {
            device_key: device.0.to_owned(),
            device: device.1.to_owned(),
            remote_id: None,
            name: clean_name(name),
            size: None,
            told: Facts {
                duration_ms,
                recorded: Some(recorded),
                ..bare(MediaKind::Audio, "audio/flac".to_owned())
            },
            bytes: ImportBytes::Stream(bytes.map_err(Into::into).boxed()),
        }
    }

    /// What this gateway took from a device itself. `device` is the device's key and name.
    pub(super) fn captured<E: Into<SourceError> + 'static>(
        device: (&str, &str),
        name: &str,
        mime: &str,
        taken: Timestamp,
        size: u64,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Self {
        let (key, device) = device;
        let told = Facts {
            recorded: Some(taken),
            ..bare(MediaKind::of_mime(mime), mime.to_owned())
        };
        Self {
            device_key: key.to_owned(),
            device: device.to_owned(),
            remote_id: None,
            name: clean_name(name),
            size: Some(size),
            told,
            bytes: ImportBytes::Stream(bytes.map_err(Into::into).boxed()),
        }
    }

    /// A file that a device sent by itself. `key` is the device's stable key.
    pub fn pushed(
        key: &str,
        device: &str,
        name: &str,
        size: Option<u64>,
        bytes: impl Stream<Item = Result<Bytes, SourceError>> + Send + 'static,
    ) -> Self {
        Self {
            device_key: key.to_owned(),
            device: clean_name(device),
            ..Self::upload(name, None, size, bytes)
        }
    }

    /// A file on this machine.
    pub async fn file(path: &Path) -> io::Result<Self> {
        let file = tokio::fs::File::open(path).await?;
        let size = file.metadata().await?.len();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        Ok(Self::upload(
            &name,
            None,
            Some(size),
            ReaderStream::with_capacity(file, 256 * 1024),
        ))
    }

    /// Where it comes from, as the database remembers it.
    pub(super) fn imported(&self) -> Option<Imported> {
        let remote_id = self.remote_id.clone()?;
        Some(Imported {
            device_key: self.device_key.clone(),
            remote_id,
            size_bytes: self.size,
        })
    }
}

fn bare(kind: MediaKind, mime: String) -> Facts {
    Facts {
        kind,
        mime,
        duration_ms: None,
        width: None,
        height: None,
        codecs: None,
        recorded: None,
        note: None,
        tags: Tags::default(),
    }
}

/// A name for a page: one line, 1 to [`MAX_NAME_CHARS`] characters.
pub(super) fn clean_name(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect();
    let name: String = words.join(" ").chars().take(MAX_NAME_CHARS).collect();
    if name.is_empty() {
        "Untitled".to_owned()
    } else {
        name
    }
}

pub(super) fn file_stem(name: &str) -> &str {
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && (1..=5).contains(&ending.len()) => stem,
        _ => name,
    }
}

/// A MIME type in lower case without parameters (RFC 2045 §5.1); anything else becomes `application/octet-stream`.
pub(super) fn clean_mime(text: &str) -> String {
    let mime = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
    };
    let fits = mime.len() <= MAX_MIME_BYTES
        && mime
            .split_once('/')
            .is_some_and(|(a, b)| token(a) && token(b));
    if fits {
        mime
    } else {
        "application/octet-stream".to_owned()
    }
}

fn mime_of_name(name: &str) -> &'static str {
    let ending = name
        .rsplit_once('.')
        .map(|(_, ending)| ending.to_ascii_lowercase())
        .unwrap_or_default();
    match ending.as_str() {
        "mp4" | "m4v" => "video/mp4",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "avi" => "video/x-msvideo",
        "mts" | "m2ts" | "ts" => "video/mp2t",
        "mpg" | "mpeg" | "vob" => "video/mpeg",
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "tif" | "tiff" => "image/tiff",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "wav" => "audio/wav",
        "txt" => "text/plain",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_are_made_fit() {
        assert_eq!(clean_name("  Summer\r\n at\tthe sea "), "Summer at the sea");
        assert_eq!(clean_name("\u{0}\n"), "Untitled");
        assert_eq!(clean_name(&"x".repeat(999)).chars().count(), MAX_NAME_CHARS);
        assert_eq!(file_stem("C:\\media\\film.final.mp4"), "film.final");
        assert_eq!(file_stem(".hidden"), ".hidden");
        assert_eq!(clean_mime("Video/MP4; codecs=\"x\""), "video/mp4");
        for bad in ["", "video", "video/", "a/b\r\nX: y", &"v/".repeat(80)] {
            assert_eq!(clean_mime(bad), "application/octet-stream", "{bad}");
        }
    }
}
