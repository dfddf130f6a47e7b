//! What a file is (F3): the media tools' answers, parsed with limits, and the decision made from them. The answers come
//! from a process that has read hostile media, so they are hostile too.

use super::blobs::blocking;
use super::plain::{InMemory, PlainReader};
use super::sandbox::{MediaTools, Operation, Sandbox, SandboxError};
use super::shelf::Tags;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use mantel_protocol::manifest::MediaKind;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Streams looked at; a file may have more.
const MAX_STREAMS: usize = 32;
/// Longest running time believed: 400 days, in milliseconds.
const MAX_DURATION_MS: u64 = 400 * 24 * 3600 * 1000;
/// Largest picture edge believed, pixels.
const MAX_EDGE: u32 = 100_000;
/// Largest thumbnail kept, bytes.
pub(crate) const MAX_THUMBNAIL_BYTES: usize = 256 * 1024;
/// Longest artist or album kept, characters.
const MAX_TAG_CHARS: usize = 200;
/// Highest place on an album believed.
const MAX_TRACK: u32 = 9999;
/// Longest codec list kept, bytes.
const MAX_CODECS_BYTES: usize = 120;

/// What is known of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Facts {
    pub(crate) kind: MediaKind,
    pub(crate) mime: String,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) width: Option<u32>,
    pub(crate) height: Option<u32>,
    pub(crate) codecs: Option<String>,
    pub(crate) recorded: Option<Timestamp>,
    pub(crate) note: Option<String>,
    pub(crate) tags: Tags,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Description {
    format: Format,
    streams: Vec<Stream>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Format {
    #[serde(rename = "format_name")]
    name: String,
    duration: Option<String>,
    tags: Written,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stream {
    codec_type: String,
    codec_name: String,
    width: Option<u32>,
    height: Option<u32>,
    duration: Option<String>,
    nb_frames: Option<String>,
    tags: Written,
    disposition: Disposition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Disposition {
    attached_pic: i64,
}

/// Tags by name; containers write the names large or small.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
struct Written(BTreeMap<String, String>);

impl Written {
    fn of(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, text)| text.as_str())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frames {
    frames: Vec<Frame>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frame {
    tags: PictureTags,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PictureTags {
    #[serde(rename = "DateTimeOriginal")]
    original: Option<String>,
    #[serde(rename = "DateTimeDigitized")]
    digitized: Option<String>,
    #[serde(rename = "DateTime")]
    changed: Option<String>,
}

/// Looks into a file. `told` is what the device said; it stays where the file says nothing better. The second part is
/// a JPEG thumbnail.
pub(crate) async fn look_into(
    sandbox: &Sandbox,
    plain: &PlainReader,
    told: Facts,
) -> (Facts, Option<Vec<u8>>) {
    if let MediaTools::Missing(why) = sandbox.tools().await {
        return (
            Facts {
                note: Some(why),
                ..told
            },
            None,
        );
    }
    let reader = plain.clone();
    let memory = match blocking(move || reader.to_memory()).await {
        Ok(memory) => memory,
        Err(error) => {
            return (
                Facts {
                    note: Some(format!("Not looked into: {error}.")),
                    ..told
                },
                None,
            );
        }
    };
    let mut facts = match sandbox.run(Operation::Describe, &memory).await {
        Ok(json) => decide(&json, &told),
        Err(error) => unreadable(told, &error),
    };
    if facts.kind == MediaKind::Image
        && let Ok(json) = sandbox.run(Operation::PictureDate, &memory).await
    {
        facts.recorded = picture_date(&json).or(facts.recorded);
    }
    let thumbnail = thumbnail(sandbox, &memory, facts.kind, facts.duration_ms).await;
    (facts, thumbnail)
}

/// A thumbnail alone, of a title that came with its description.
pub(crate) async fn thumbnail_of(
    sandbox: &Sandbox,
    plain: &PlainReader,
    kind: MediaKind,
    duration_ms: Option<u64>,
) -> Option<Vec<u8>> {
    let reader = plain.clone();
    let memory = blocking(move || reader.to_memory()).await.ok()?;
    thumbnail(sandbox, &memory, kind, duration_ms).await
}

async fn thumbnail(
    sandbox: &Sandbox,
    memory: &InMemory,
    kind: MediaKind,
    duration_ms: Option<u64>,
) -> Option<Vec<u8>> {
    // A tenth into a film there is more to see than at its beginning; but of a large file only the edges are there.
    let latest = if memory.whole { 30_000 } else { 2_000 };
    let places: &[u64] = match kind {
        MediaKind::Video => &[(duration_ms.unwrap_or(0) / 10).min(latest), 0],
        MediaKind::Image | MediaKind::Audio => &[0],
        MediaKind::Data => &[],
    };
    for at_ms in places {
        let jpeg = sandbox
            .run(Operation::Frame { at_ms: *at_ms }, memory)
            .await
            .unwrap_or_default();
        if is_jpeg(&jpeg) && jpeg.len() <= MAX_THUMBNAIL_BYTES {
            return Some(jpeg);
        }
    }
    None
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8, 0xff]) && bytes.ends_with(&[0xff, 0xd9])
}

fn unreadable(told: Facts, error: &SandboxError) -> Facts {
    let mime = match MediaKind::of_mime(&told.mime) {
        MediaKind::Data => told.mime,
        _ => "application/octet-stream".to_owned(),
    };
    let note = match told.kind {
        MediaKind::Data => None,
        _ => Some(format!(
            "This could not be read as media ({error}). The file was kept as it is; if it plays elsewhere, import it \
             again from its device."
        )),
    };
    Facts {
        kind: MediaKind::Data,
        mime,
        duration_ms: None,
        width: None,
        height: None,
        codecs: None,
        recorded: told.recorded,
        note,
        tags: Tags::default(),
    }
}

/// What the file is, from ffprobe's description and the device's word.
fn decide(json: &[u8], told: &Facts) -> Facts {
    let Ok(mut description) = serde_json::from_slice::<Description>(json) else {
        return unreadable(told.clone(), &SandboxError::Refused);
    };
    description.streams.truncate(MAX_STREAMS);
    let picture = description
        .streams
        .iter()
        .find(|s| s.codec_type == "video" && s.disposition.attached_pic == 0);
    let sound = description.streams.iter().find(|s| s.codec_type == "audio");
    let kind = match (picture, sound) {
        (Some(picture), sound) if is_still(&description.format.name, picture, sound) => {
            MediaKind::Image
        }
        (Some(_), _) => MediaKind::Video,
        (None, Some(_)) => MediaKind::Audio,
        (None, None) => return unreadable(told.clone(), &SandboxError::Refused),
    };
    let edge = |value: Option<u32>| value.filter(|edge| (1..=MAX_EDGE).contains(edge));
    let seconds = [
        Some(&description.format.duration),
        picture.map(|s| &s.duration),
        sound.map(|s| &s.duration),
    ];
    let duration = seconds
        .into_iter()
        .flatten()
        .flatten()
        .find_map(|text| milliseconds(text));
    let written: Vec<&Written> = std::iter::once(&description.format.tags)
        .chain(description.streams.iter().map(|s| &s.tags))
        .collect();
    let recorded = written
        .iter()
        .flat_map(|tags| [tags.of("creation_time"), tags.of("date")])
        .flatten()
        .find_map(tagged_time);
    let tags = if kind == MediaKind::Audio {
        music_tags(&written, &told.tags)
    } else {
        Tags::default()
    };
    Facts {
        kind,
        mime: mime(&description.format.name, kind, &told.mime),
        duration_ms: if kind == MediaKind::Image {
            None
        } else {
            duration.or(told.duration_ms)
        },
        width: picture.and_then(|s| edge(s.width)),
        height: picture.and_then(|s| edge(s.height)),
        codecs: codecs(&description.streams),
        recorded: recorded.or(told.recorded),
        note: None,
        tags,
    }
}

/// What music says of itself; the device's word where it says nothing.
fn music_tags(written: &[&Written], told: &Tags) -> Tags {
    let label = |names: &[&str]| {
        let all = names
            .iter()
            .flat_map(|name| written.iter().filter_map(|tags| tags.of(name)));
        all.into_iter().find_map(clean_tag)
    };
    let track = label(&["track"]).and_then(|text| text.split('/').next()?.trim().parse().ok());
    Tags {
        artist: label(&["artist", "album_artist"]).or_else(|| told.artist.clone()),
        album: label(&["album"]).or_else(|| told.album.clone()),
        album_by: label(&["album_artist"]).or_else(|| told.album_by.clone()),
        track: track
            .filter(|track| (1..=MAX_TRACK).contains(track))
            .or(told.track),
    }
}

/// One line of at most [`MAX_TAG_CHARS`] characters; `None`: nothing is left.
fn clean_tag(text: &str) -> Option<String> {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    let text: String = words.join(" ").chars().take(MAX_TAG_CHARS).collect();
    (!text.is_empty()).then_some(text)
}

fn is_still(format: &str, picture: &Stream, sound: Option<&Stream>) -> bool {
    let one_frame = picture.nb_frames.as_deref() == Some("1");
    let still_format =
        format.ends_with("_pipe") || format == "image2" || (format == "gif" && one_frame);
    still_format && sound.is_none()
}

fn milliseconds(text: &str) -> Option<u64> {
    let seconds: f64 = text.parse().ok()?;
    let ms = (seconds * 1000.0).round();
    (ms >= 1.0 && ms <= MAX_DURATION_MS as f64).then_some(ms as u64)
}

/// `h264, aac`; only letters, digits, `_` and `-` of each name.
fn codecs(streams: &[Stream]) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for stream in streams
        .iter()
        .filter(|s| matches!(s.codec_type.as_str(), "video" | "audio"))
    {
        let name = stream.codec_name.as_str();
        let fits = !name.is_empty()
            && name.len() <= 24
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if fits && stream.disposition.attached_pic == 0 && !names.contains(&name) {
            names.push(name);
        }
    }
    let mut text = names.join(", ");
    text.truncate(MAX_CODECS_BYTES);
    (!text.is_empty()).then_some(text)
}

/// The MIME type of a container that ffprobe named; the device's word where it is of the same kind.
fn mime(format: &str, kind: MediaKind, told: &str) -> String {
    if MediaKind::of_mime(told) == kind && !told.ends_with("/*") {
        return told.to_owned();
    }
    let first = format.split(',').next().unwrap_or_default();
    let known = match (first, kind) {
        ("mov", MediaKind::Audio) => "audio/mp4",
        ("mov", _) => "video/mp4",
        ("matroska", MediaKind::Audio) => "audio/x-matroska",
        ("matroska", _) => "video/x-matroska",
        ("mp3", _) => "audio/mpeg",
        ("aac", _) => "audio/aac",
        ("flac", _) => "audio/flac",
        ("ogg", MediaKind::Video) => "video/ogg",
        ("ogg", _) => "audio/ogg",
        ("wav" | "w64", _) => "audio/wav",
        ("aiff", _) => "audio/aiff",
        ("asf", MediaKind::Audio) => "audio/x-ms-wma",
        ("asf", _) => "video/x-ms-wmv",
        ("avi", _) => "video/x-msvideo",
        ("flv", _) => "video/x-flv",
        ("mpeg" | "mpegvideo", _) => "video/mpeg",
        ("mpegts", _) => "video/mp2t",
        ("jpeg_pipe", _) => "image/jpeg",
        ("png_pipe", _) => "image/png",
        ("webp_pipe", _) => "image/webp",
        ("gif" | "gif_pipe", MediaKind::Image) => "image/gif",
        ("bmp_pipe", _) => "image/bmp",
        ("tiff_pipe", _) => "image/tiff",
        (_, MediaKind::Audio) => "audio/x-unknown",
        (_, MediaKind::Image) => "image/x-unknown",
        (_, MediaKind::Video) => "video/x-unknown",
        (_, MediaKind::Data) => "application/octet-stream",
    };
    known.to_owned()
}

/// A time with a zone (`2013-04-13T10:22:18.000000Z`), or a date; years before 1900 are clocks that were never set.
fn tagged_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let time = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| text.parse::<DateTime>().ok().and_then(local_time))?;
    believable(time)
}

fn picture_date(json: &[u8]) -> Option<Timestamp> {
    let frames: Frames = serde_json::from_slice(json).ok()?;
    let tags = &frames.frames.first()?.tags;
    [&tags.original, &tags.digitized, &tags.changed]
        .into_iter()
        .flatten()
        .find_map(|text| exif_time(text))
}

/// EXIF 2.3 §4.6.4: `YYYY:MM:DD HH:MM:SS`, local time of the camera.
fn exif_time(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime("%Y:%m:%d %H:%M:%S", text.trim().get(..19)?).ok()?;
    local_time(time).and_then(believable)
}

/// A camera's local time, taken for the time at the gateway.
pub(crate) fn local_time(time: DateTime) -> Option<Timestamp> {
    crate::zone::here()
        .to_ambiguous_zoned(time)
        .compatible()
        .ok()
        .map(|zoned| zoned.timestamp())
}

fn believable(time: Timestamp) -> Option<Timestamp> {
    // 1904 is the zero of MP4's clock, 1970 that of the operating system: both mean "not known".
    let year = time.to_zoned(TimeZone::UTC).year();
    ((1900..2200).contains(&year) && year != 1904 && time.as_second() > 24 * 3600).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mime: &str) -> Facts {
        Facts {
            kind: MediaKind::of_mime(mime),
            mime: mime.to_owned(),
            duration_ms: None,
            width: None,
            height: None,
            codecs: None,
            recorded: None,
            note: None,
            tags: Tags::default(),
        }
    }

    #[test]
    fn a_film_is_read_from_its_description() {
        let json =
            br#"{"streams":[{"codec_type":"video","codec_name":"h264","width":320,"height":240,
            "disposition":{"attached_pic":0},"tags":{}},{"codec_type":"audio","codec_name":"aac"}],
            "format":{"format_name":"mov,mp4,m4a,3gp,3g2,mj2","duration":"60.0004",
            "tags":{"creation_time":"2013-04-13T10:22:18.000000Z"}}}"#;
        let facts = decide(json, &told("application/octet-stream"));
        assert_eq!(
            (facts.kind, facts.mime.as_str()),
            (MediaKind::Video, "video/mp4")
        );
        assert_eq!(
            (facts.duration_ms, facts.width, facts.height),
            (Some(60_000), Some(320), Some(240))
        );
        assert_eq!(facts.codecs.as_deref(), Some("h264, aac"));
        assert_eq!(
            facts.recorded.map(|t| t.to_string()).as_deref(),
            Some("2013-04-13T10:22:18Z")
        );
        assert_eq!(facts.note, None);
    }

    #[test]
    fn a_song_with_a_cover_is_a_song() {
        let json = br#"{"streams":[{"codec_type":"audio","codec_name":"mp3"},{"codec_type":"video",
            "codec_name":"mjpeg","width":500,"height":500,"disposition":{"attached_pic":1}}],
            "format":{"format_name":"mp3","duration":"40.045714"}}"#;
        let facts = decide(json, &told("audio/mpeg"));
        assert_eq!(
            (facts.kind, facts.duration_ms, facts.width),
            (MediaKind::Audio, Some(40_046), None)
        );
        assert_eq!(facts.codecs.as_deref(), Some("mp3"));
    }

    #[test]
    fn what_is_no_media_is_kept_as_data_with_a_word() {
        for json in [
            &b"{}"[..],
            b"not json",
            br#"{"streams":[{"codec_type":"subtitle"}]}"#,
        ] {
            let facts = decide(json, &told("video/mp4"));
            assert_eq!(
                (facts.kind, facts.mime.as_str()),
                (MediaKind::Data, "application/octet-stream")
            );
            assert!(facts.note.is_some());
        }
        let text = decide(b"{}", &told("text/plain"));
        assert_eq!((text.mime.as_str(), text.note), ("text/plain", None));
    }

    #[test]
    fn hostile_answers_are_bounded() {
        let json = br#"{"streams":[{"codec_type":"video","codec_name":"h264;rm -rf","width":4294967295,"height":0}],
            "format":{"format_name":"mov","duration":"1e300","tags":{"creation_time":"9999-99-99"}}}"#;
        let facts = decide(json, &told("video/mp4"));
        assert_eq!(
            (facts.width, facts.height, facts.duration_ms),
            (None, None, None)
        );
        assert_eq!((facts.codecs, facts.recorded), (None, None));
    }

    #[test]
    fn the_date_of_a_photo_is_when_it_was_taken() {
        let json = br#"{"frames":[{"tags":{"DateTime":"2020:01:01 00:00:00",
            "DateTimeOriginal":"2013:04:13 10:22:18"}}]}"#;
        let wanted: DateTime = "2013-04-13T10:22:18".parse().expect("a time");
        assert_eq!(picture_date(json), local_time(wanted));
        for unset in [
            "0000:00:00 00:00:00",
            "    :  :     :  :  ",
            "",
            "1970:01:01 00:00:00",
            "2013:04:13",
        ] {
            assert_eq!(exif_time(unset), None, "{unset}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes: Vec<u8>, text: String) {
            let _ = decide(&bytes, &told("video/mp4"));
            let _ = picture_date(&bytes);
            let _ = (exif_time(&text), tagged_time(&text), milliseconds(&text));
        }
    }
}
