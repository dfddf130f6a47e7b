//! Audio CDs in a drive of this machine as a source of media (F2): listed by their table of contents, named by CD-TEXT,
//! fetched as FLAC while the drive reads.
//!
//! [`wire`] is pure; `session` runs the separate programs `cd-paranoia` and `cd-info`. Tracks are named
//! `disc id/number`, so that another disc in the same drive is never taken for this one. A rip that breaks off starts
//! its track again. Data discs are not read; DVDs neither.

mod session;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;

use crate::flac::FlacStream;
use crate::media::{
    AssetBody, Entry, FetchError, FetchRequest, Fetched, Item, ListError, Location, MAX_PAGE,
    MediaKind, ObjectId, Page, PageRequest, Resource,
};
use session::{Contents, Rip};
use wire::Track;

pub use session::{DiscError, LOOK_TIME};

/// Without a sample for so long, a rip has failed. A scratch can keep a drive busy for minutes.
pub const STALL_TIME: Duration = Duration::from_mins(5);
/// Samples per second of a CD.
const SAMPLE_RATE: u32 = 44_100;
/// Channels of a CD.
const CHANNELS: u16 = 2;
/// Samples of one channel in a sector.
const SECTOR_SAMPLES: u64 = 588;

/// What lies in a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Nothing.
    Empty,
    /// A disc with sound, or nobody has looked yet.
    Audio,
    /// A disc with files or a film.
    Data,
}

/// How a disc is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscAccess {
    /// The drive's device node, or an image of a disc (`.cue`).
    pub drive: PathBuf,
    /// What lies in it.
    pub medium: Medium,
}

/// One drive. Cheap to clone; holds nothing open.
#[derive(Clone, Debug)]
pub struct Disc {
    name: String,
    access: DiscAccess,
}

impl Disc {
    /// A drive; `name` is for messages.
    pub fn new(name: String, access: DiscAccess) -> Self {
        Self { name, access }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tracks.
    pub async fn list(&self, container: &ObjectId, page: PageRequest) -> Result<Page, ListError> {
        if *container != ObjectId::root() {
            return Err(self.not_found());
        }
        let contents = self.contents().await?;
        let tracks = contents.toc.tracks();
        let start = page.start.min(tracks.len() as u32);
        let count = page.count.clamp(1, MAX_PAGE);
        let end = start.saturating_add(count).min(tracks.len() as u32);
        let shown = &tracks[start as usize..end as usize];
        Ok(Page {
            entries: shown
                .iter()
                .map(|track| Entry::Item(item(&contents, *track)))
                .collect(),
            total: tracks.len() as u32,
            next: (end < tracks.len() as u32).then_some(end),
            refused: 0,
        })
    }

    /// One track by its id.
    pub async fn item(&self, id: &ObjectId) -> Result<Item, ListError> {
        let contents = self.contents().await?;
        let track = find(&contents, id).ok_or_else(|| self.not_found())?;
        Ok(item(&contents, track))
    }

    /// Reads a track and gives it as FLAC. Always from the beginning: what the drive reads is encoded as it comes.
    pub async fn fetch(
        &self,
        resource: &Resource,
        request: FetchRequest,
    ) -> Result<Fetched, FetchError> {
        let gone = || FetchError::Gone {
            device: self.name.clone(),
        };
        let Location::Object(id) = &resource.location else {
            return Err(gone());
        };
        let contents = session::contents(&self.access.drive)
            .await
            .map_err(|error| self.interrupted(error))?;
        let track = find(&contents, id).ok_or_else(gone)?;
        if track.bytes() > request.max_bytes {
            return Err(FetchError::TooLarge {
                device: self.name.clone(),
                limit: request.max_bytes,
            });
        }
        let rip = Rip::begin(&self.access.drive, track)
            .await
            .map_err(|error| self.interrupted(error))?;
        let flac =
            FlacStream::new(SAMPLE_RATE, CHANNELS).map_err(|error| self.interrupted(error))?;
        let samples = u64::from(track.sectors) * SECTOR_SAMPLES;
        let head = flac.head(samples, &comments(&contents, track));
        let ripping = Ripping {
            disc: self.clone(),
            rip: Some(rip),
            flac,
            head: Some(head),
            read: 0,
            expected: track.bytes(),
        };
        Ok(Fetched {
            mime: Some(resource.mime.clone()),
            offset: 0,
            total_bytes: None,
            validator: None,
            body: ripping.into_body(),
        })
    }

    async fn contents(&self) -> Result<Arc<Contents>, ListError> {
        session::contents(&self.access.drive)
            .await
            .map_err(|error| match error {
                DiscError::NoAudio => ListError::NothingInside {
                    device: self.name.clone(),
                    what: "an audio CD",
                },
                source => ListError::Unreachable {
                    device: self.name.clone(),
                    source: source.into(),
                },
            })
    }

    fn not_found(&self) -> ListError {
        ListError::NotFound {
            device: self.name.clone(),
        }
    }

    fn interrupted(&self, source: impl std::error::Error + Send + Sync + 'static) -> FetchError {
        FetchError::Interrupted {
            device: self.name.clone(),
            source: source.into(),
        }
    }
}

fn find(contents: &Contents, id: &ObjectId) -> Option<Track> {
    let (disc, number) = id.as_str().split_once('/')?;
    let number: u8 = number.parse().ok()?;
    let mut tracks = contents.toc.tracks().iter();
    tracks
        .find(|track| track.number == number && contents.disc_id == disc)
        .copied()
}

/// What a track is called: by CD-TEXT, else by its number.
struct Named {
    title: String,
    artist: Option<String>,
    album: String,
}

fn named(contents: &Contents, track: Track) -> Named {
    let own = contents
        .text
        .get(&track.number)
        .cloned()
        .unwrap_or_default();
    let disc = contents.text.get(&0).cloned().unwrap_or_default();
    let album = disc
        .title
        .unwrap_or_else(|| format!("Audio CD {}", contents.disc_id));
    Named {
        title: own
            .title
            .unwrap_or_else(|| format!("{album} - Track {}", track.number)),
        artist: own.performer.or(disc.performer),
        album,
    }
}

fn comments(contents: &Contents, track: Track) -> Vec<(&'static str, String)> {
    let Named {
        title,
        artist,
        album,
    } = named(contents, track);
    let mut comments = vec![
        ("TITLE", title),
        ("ALBUM", album),
        ("TRACKNUMBER", track.number.to_string()),
        ("MUSICBRAINZ_DISCID", contents.disc_id.clone()),
    ];
    comments.extend(artist.map(|artist| ("ARTIST", artist)));
    comments
}

fn item(contents: &Contents, track: Track) -> Item {
    let Named {
        title,
        artist,
        album,
    } = named(contents, track);
    let id = ObjectId(format!("{}/{}", contents.disc_id, track.number));
    Item {
        original_id: None,
        title,
        class: "object.item.audioItem.musicTrack".to_owned(),
        kind: MediaKind::Audio,
        date: None,
        artist,
        album: Some(album),
        resources: vec![Resource {
            location: Location::Object(id.clone()),
            mime: "audio/flac".to_owned(),
            protocol_info: String::new(),
            // How far it can be compressed shows only then.
            size_bytes: None,
            duration: Some(track.duration()),
            resolution: None,
            converted: false,
        }],
        id,
    }
}

/// A track being read and encoded.
struct Ripping {
    disc: Disc,
    rip: Option<Rip>,
    flac: FlacStream,
    head: Option<Vec<u8>>,
    read: u64,
    expected: u64,
}

impl Ripping {
    fn into_body(self) -> AssetBody {
        AssetBody::new(stream::try_unfold(self, |mut ripping| async move {
            if let Some(head) = ripping.head.take() {
                return Ok(Some((Bytes::from(head), ripping)));
            }
            ripping.next().await
        }))
    }

    /// The next frame. Encoding takes some milliseconds and is done beside the runtime's threads.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, FetchError> {
        let Some(rip) = &mut self.rip else {
            return Ok(None);
        };
        let mut block = vec![0; self.flac.frame_bytes()];
        let filled = rip
            .read(&mut block, STALL_TIME)
            .await
            .map_err(|error| self.disc.interrupted(error))?;
        self.read += filled as u64;
        if self.read > self.expected || (filled == 0 && self.read < self.expected) {
            return Err(self.disc.interrupted(std::io::Error::other(format!(
                "{} of {} bytes of sound came",
                self.read, self.expected
            ))));
        }
        if filled == 0 {
            if let Some(rip) = self.rip.take() {
                rip.finish(STALL_TIME)
                    .await
                    .map_err(|error| self.disc.interrupted(error))?;
            }
            return Ok(None);
        }
        block.truncate(filled);
        let device = self.disc.clone();
        let encoding = tokio::task::spawn_blocking(move || {
            let frame = self.flac.frame(&block);
            (frame, self)
        });
        let (frame, ripping) = encoding.await.map_err(|error| device.interrupted(error))?;
        let frame = frame.map_err(|error| device.interrupted(error))?;
        Ok(Some((Bytes::from(frame), ripping)))
    }
}

#[cfg(test)]
mod tests;
