//! Clips being recorded: a live stream into memory from its first key frame on, made an MP4 in the sandbox, sealed into
//! the library. What came before a camera broke off is kept.

use super::{CameraError, Cameras, Ready, clip, title_name};
use crate::library::{ClipPicture, ClipSound, ImportSource, Reel};
use futures_util::StreamExt;
use mantel_peripherals::live::{AccessUnit, Codec, LiveStream, Track};
use mantel_protocol::ids::TitleId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Longest clip, seconds.
pub const MAX_SECONDS: u32 = 600;
/// Largest clip while it is recorded, bytes; it ends there.
const MAX_REEL_BYTES: u64 = 192 * 1024 * 1024;
/// Clips recorded at the same time.
const RECORDINGS_AT_ONCE: usize = 2;
/// A clip may take this much longer than its length before it is ended: to open the stream, and for cameras whose
/// clock is slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// Ended recordings that are still shown.
const MAX_ROWS: usize = 32;

/// How far a recording is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordingState {
    /// Pictures come.
    Recording,
    /// It is made an MP4 and sealed.
    Saving,
    /// It is in the library.
    Done(TitleId),
    /// Nothing was kept; the text says why.
    Failed(String),
}

/// A recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The camera's key.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Recorded so far, seconds.
    pub seconds: u64,
    /// Wanted, seconds.
    pub wanted: u64,
    /// How far it is.
    pub state: RecordingState,
    /// Why it is shorter than wanted, in plain words.
    pub problem: Option<String>,
}

/// All recordings of this run.
pub(super) struct Recordings {
    rows: watch::Sender<Arc<Vec<Recording>>>,
    running: Mutex<HashMap<String, CancellationToken>>,
}

impl Recordings {
    pub(super) fn new() -> Self {
        Self {
            rows: watch::Sender::new(Arc::default()),
            running: Mutex::default(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vec<Recording>>> {
        self.rows.subscribe()
    }

    pub(super) fn stop(&self, device: &str) {
        let running = self.running.lock().expect("no holder of this lock panics");
        if let Some(token) = running.get(device) {
            token.cancel();
        }
    }

    fn update(&self, device: &str, change: impl FnOnce(&mut Recording)) {
        self.rows.send_modify(|rows| {
            let rows = Arc::make_mut(rows);
            if let Some(row) = rows.iter_mut().find(|row| row.device == device) {
                change(row);
            }
        });
    }

    fn open(&self, row: Recording) {
        self.rows.send_modify(|rows| {
            let rows = Arc::make_mut(rows);
            rows.retain(|old| old.device != row.device);
            let many = (rows.len() + 1).saturating_sub(MAX_ROWS);
            rows.drain(..many);
            rows.push(row);
        });
    }
}

/// Begins a recording in the background.
pub(super) fn begin(cameras: &Cameras, ready: Ready, length: Duration) -> Result<(), CameraError> {
    let token = cameras.inner.tasks.token().child_token();
    {
        let recordings = &cameras.inner.recordings;
        let mut running = recordings
            .running
            .lock()
            .expect("no holder of this lock panics");
        if running.contains_key(&ready.key) {
            return Err(CameraError::Recording { name: ready.name });
        }
        if running.len() >= RECORDINGS_AT_ONCE {
            return Err(CameraError::TooManyRecordings);
        }
        running.insert(ready.key.clone(), token.clone());
        recordings.open(Recording {
            device: ready.key.clone(),
            name: ready.name.clone(),
            seconds: 0,
            wanted: length.as_secs(),
            state: RecordingState::Recording,
            problem: None,
        });
    }
    let cameras = cameras.clone();
    let tasks = cameras.inner.tasks.clone();
    tasks.spawn_graceful("record-camera", async move {
        let state = match Box::pin(record(&cameras, &ready, length, &token)).await {
            Ok(title) => RecordingState::Done(title),
            Err(error) => {
                let error_chain = mantel_runtime::logging::chain(&error);
                tracing::warn!(camera = ready.name, error = %error_chain, "recording failed");
                RecordingState::Failed(error.to_string())
            }
        };
        let recordings = &cameras.inner.recordings;
        let mut running = recordings
            .running
            .lock()
            .expect("no holder of this lock panics");
        running.remove(&ready.key);
        drop(running);
        recordings.update(&ready.key, |row| row.state = state);
    });
    Ok(())
}

async fn record(
    cameras: &Cameras,
    ready: &Ready,
    length: Duration,
    token: &CancellationToken,
) -> Result<TitleId, CameraError> {
    let nothing = || CameraError::NothingCame {
        name: ready.name.clone(),
    };
    let began = cameras.inner.clock.now();
    let opened = token.run_until_cancelled(ready.camera.live()).await;
    let stream = opened.ok_or_else(nothing)??;
    let (picture, sound) = handling(stream.tracks());
    let mut roll = Roll::new(stream.tracks(), length)?;
    let recordings = &cameras.inner.recordings;
    let shown = |seconds| recordings.update(&ready.key, |row| row.seconds = seconds);
    let filled = token.run_until_cancelled(tokio::time::timeout(
        length + PATIENCE,
        fill(&mut roll, stream, shown),
    ));
    match filled.await {
        // Whole, stopped by a person, or too slow: what is there is kept.
        Some(Ok(Ok(())) | Err(_)) | None => {}
        Some(Ok(Err(error))) if roll.is_empty() => return Err(error),
        Some(Ok(Err(error))) => recordings.update(&ready.key, |row| {
            row.problem = Some(format!("{error} What came before that was kept."));
        }),
    }
    if roll.is_empty() {
        return Err(nothing());
    }
    recordings.update(&ready.key, |row| row.state = RecordingState::Saving);
    let library = &cameras.inner.library;
    let clip = library.mp4_of(roll.reel, picture, sound).await?;
    let name = title_name(&ready.name, began);
    let source = ImportSource::clip((&ready.key, &ready.name), &name, began, clip);
    Ok(Box::pin(library.import(source)).await?)
}

async fn fill(
    roll: &mut Roll,
    mut stream: LiveStream,
    shown: impl Fn(u64),
) -> Result<(), CameraError> {
    let mut told = 0;
    while let Some(unit) = stream.next().await {
        if roll.take(&unit?)? == Taken::Full {
            break;
        }
        let seconds = roll.recorded.as_secs();
        if seconds != told {
            told = seconds;
            shown(seconds);
        }
    }
    Ok(())
}

/// What becomes of a stream's pictures and sound in an MP4.
pub(super) fn handling(tracks: &[Track]) -> (ClipPicture, ClipSound) {
    let picture = tracks.iter().find(|track| track.is_picture());
    let sound = tracks.iter().find(|track| !track.is_picture());
    let picture = match picture.map(|track| &track.codec) {
        Some(Codec::Mjpeg | Codec::Yuyv) => ClipPicture::Encode,
        Some(Codec::H265 { .. }) => ClipPicture::CopyH265,
        _ => ClipPicture::Copy,
    };
    let sound = match sound.map(|track| &track.codec) {
        Some(Codec::Pcmu | Codec::Pcma | Codec::PcmS16) => ClipSound::Encode,
        _ => ClipSound::Copy,
    };
    (picture, sound)
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// More fits.
    Wanted,
    /// It is as long or as large as it may be.
    Full,
}

/// What was recorded so far.
struct Roll {
    reel: Reel,
    pictures: Vec<bool>,
    /// The time of the first key frame, in the stream's time.
    begun: Option<Duration>,
    recorded: Duration,
    length: Duration,
}

impl Roll {
    fn new(tracks: &[Track], length: Duration) -> Result<Self, CameraError> {
        let mut reel = Reel::new()?;
        reel.write(&clip::head(tracks))?;
        Ok(Self {
            reel,
            pictures: tracks.iter().map(Track::is_picture).collect(),
            begun: None,
            recorded: Duration::ZERO,
            length,
        })
    }

    fn is_empty(&self) -> bool {
        self.begun.is_none()
    }

    /// Takes a unit; what comes before the first key frame is left out, since nothing could show it.
    fn take(&mut self, unit: &AccessUnit) -> Result<Taken, CameraError> {
        let picture = self.pictures.get(unit.track).copied().unwrap_or_default();
        let begins = unit.key && (picture || !self.pictures.contains(&true));
        let begun = match self.begun {
            Some(begun) => begun,
            None if begins => *self.begun.insert(unit.at),
            None => return Ok(Taken::Wanted),
        };
        let Some(at) = unit.at.checked_sub(begun) else {
            return Ok(Taken::Wanted);
        };
        if at >= self.length {
            return Ok(Taken::Full);
        }
        let written = clip::unit(unit, at);
        if self.reel.bytes() + written.len() as u64 > MAX_REEL_BYTES {
            return Ok(Taken::Full);
        }
        self.reel.write(&written)?;
        self.recorded = self.recorded.max(at);
        Ok(Taken::Wanted)
    }
}
