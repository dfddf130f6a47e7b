//! Recording from a line-in (F2): what a tape deck or record player plays becomes titles, one per track.
//!
//! - `driver`: one task per recording: live sound → split at silence → tracks. `track`: a track as FLAC into the library.
//!
//! Sound is sealed like every import and is in plain only in memory. A track is stored when it ends; kill -9 loses the
//! track under way. A recording that ends by itself (unplugged, disk almost full, longest time) keeps what came.

mod driver;
mod track;

use crate::devices::{DeviceStanding, Devices};
use crate::library::Library;
use driver::Driver;
use jiff::Timestamp;
use mantel_peripherals::live::LiveError;
use mantel_peripherals::recorder::split::SplitRules;
use mantel_protocol::ids::TitleId;
use mantel_runtime::clock::Clock;
use mantel_runtime::tasks::Tasks;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Recordings at the same time.
pub const MAX_RECORDINGS: usize = 2;
/// Rows kept of recordings that ended; one per device.
const MAX_ROWS: usize = 16;

/// How recordings are made.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingConfig {
    /// What counts as silence: decibels below full scale, −90 to −10.
    pub silence_db: f64,
    /// Silence of this length ends a track, seconds, 0.2 to 60.
    pub silence_s: f64,
    /// A track is at least so long, seconds, 0 to 600.
    pub min_track_s: f64,
    /// The longest recording, hours, 1 to 24.
    pub max_hours: u64,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self {
            silence_db: -50.0,
            silence_s: 2.0,
            min_track_s: 10.0,
            max_hours: 6,
        }
    }
}

impl RecordingConfig {
    fn rules(&self) -> SplitRules {
        let time = |seconds: f64, otherwise: Duration| {
            Duration::try_from_secs_f64(seconds).unwrap_or(otherwise)
        };
        let usual = SplitRules::default();
        SplitRules {
            threshold_db: self.silence_db,
            min_silence: time(self.silence_s, usual.min_silence),
            min_track: time(self.min_track_s, usual.min_track),
            ..usual
        }
    }

    fn longest(&self) -> Duration {
        Duration::from_hours(self.max_hours.clamp(1, 24))
    }
}

/// Where a track is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackState {
    /// It is being recorded.
    Recording,
    /// It is over and on its way into the library.
    Saving,
    /// It is in the library.
    Saved(TitleId),
    /// It was not kept; the text says why.
    Lost(String),
}

/// A track of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackRow {
    /// Its title's name.
    pub name: String,
    /// How long it is so far.
    pub length: Duration,
    /// Where it is.
    pub state: TrackState,
}

/// Why a recording is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// A person stopped it.
    Stopped,
    /// The sound came to its end.
    Over,
    /// The gateway stops.
    Gateway,
    /// Something else; in plain words.
    Because(String),
}

/// A recording.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingRow {
    /// The device's key.
    pub device: String,
    /// Its name.
    pub device_name: String,
    /// When it began.
    pub started: Timestamp,
    /// How long it has been recorded, silence included.
    pub elapsed: Duration,
    /// How loud it is now, percent of full scale by decibels: 100 is too loud, 0 is −60 dB or less; left, right.
    pub level: [u8; 2],
    /// Silence that was left out between tracks.
    pub cut: Duration,
    /// Its tracks.
    pub tracks: Vec<TrackRow>,
    /// `None`: it runs.
    pub ended: Option<Ended>,
}

/// Why a recording was not begun.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No such device, or it cannot be recorded from.
    #[error("this device cannot be recorded from; check that it is plugged in and listed")]
    NoRecorder,
    /// The household has not let it in.
    #[error("\"{name}\" is not let in yet; let it in first, then start the recording")]
    NotAdmitted {
        /// Its name.
        name: String,
    },
    /// It is being recorded from.
    #[error("\"{name}\" is being recorded already")]
    UnderWay {
        /// Its name.
        name: String,
    },
    /// Too many at once.
    #[error(
        "{MAX_RECORDINGS} recordings are running, the most that this gateway makes at once; stop one first"
    )]
    TooMany,
    /// The device refused; its own words say why.
    #[error(transparent)]
    Device(#[from] LiveError),
}

/// Recordings; cheap to clone.
#[derive(Clone)]
pub struct Recordings {
    inner: Arc<Inner>,
}

struct Inner {
    config: RecordingConfig,
    library: Library,
    devices: Devices,
    clock: Clock,
    tasks: Tasks,
    rows: Arc<watch::Sender<Arc<Vec<RecordingRow>>>>,
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
}

impl Recordings {
    /// Recordings from `devices` into `library`.
    pub fn new(
        config: RecordingConfig,
        library: Library,
        devices: Devices,
        clock: Clock,
        tasks: &Tasks,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                library,
                devices,
                clock,
                tasks: tasks.child(),
                rows: Arc::new(watch::Sender::new(Arc::default())),
                running: Arc::default(),
            }),
        }
    }

    /// Recordings that run, and the last one of each device.
    pub fn rows(&self) -> watch::Receiver<Arc<Vec<RecordingRow>>> {
        self.inner.rows.subscribe()
    }

    /// Begins to record from a device.
    pub async fn start(&self, device: &str) -> Result<(), RecordError> {
        let inner = &self.inner;
        let (recorder, row) = inner
            .devices
            .recorder(device)
            .ok_or(RecordError::NoRecorder)?;
        let name = row.name.clone();
        if row.standing != DeviceStanding::Admitted {
            return Err(RecordError::NotAdmitted { name });
        }
        let stop = inner.tasks.token().child_token();
        {
            let mut running = inner.running.lock().expect("no holder of this lock panics");
            if running.contains_key(&row.id) {
                return Err(RecordError::UnderWay { name });
            }
            if running.len() >= MAX_RECORDINGS {
                return Err(RecordError::TooMany);
            }
            running.insert(row.id.clone(), stop.clone());
        }
        // From here on the place must be given back, also when the caller goes away.
        let place = Place {
            running: Arc::clone(&inner.running),
            device: row.id.clone(),
        };
        let stream = recorder.open().await?;
        let started = inner.clock.now();
        let table = Table {
            rows: Arc::clone(&inner.rows),
            device: row.id.clone(),
        };
        table.begin(RecordingRow {
            device: row.id.clone(),
            device_name: name.clone(),
            started,
            elapsed: Duration::ZERO,
            level: [0; 2],
            cut: Duration::ZERO,
            tracks: Vec::new(),
            ended: None,
        });
        let driver = Driver::new(
            inner.library.clone(),
            inner.config.clone(),
            table,
            (row.id, name),
            started,
        );
        let gateway = inner.tasks.token().clone();
        inner.tasks.spawn_graceful("recording", async move {
            Box::pin(driver.run(stream, stop, gateway)).await;
            drop(place);
        });
        Ok(())
    }

    /// Ends a recording; its last track is stored. Nothing happens where none runs.
    pub fn stop(&self, device: &str) {
        let running = self
            .inner
            .running
            .lock()
            .expect("no holder of this lock panics");
        if let Some(stop) = running.get(device) {
            stop.cancel();
        }
    }
}

/// A place among the running ones.
struct Place {
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
    device: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.running
            .lock()
            .expect("no holder of this lock panics")
            .remove(&self.device);
    }
}

/// One device's row.
#[derive(Clone)]
struct Table {
    rows: Arc<watch::Sender<Arc<Vec<RecordingRow>>>>,
    device: String,
}

impl Table {
    fn begin(&self, row: RecordingRow) {
        self.rows.send_modify(|rows| {
            let rows = Arc::make_mut(rows);
            rows.retain(|other| other.device != row.device);
            rows.push(row);
            if rows.len() > MAX_ROWS
                && let Some(ended) = rows.iter().position(|row| row.ended.is_some())
            {
                rows.remove(ended);
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut RecordingRow)) {
        self.rows.send_modify(|rows| {
            let row = Arc::make_mut(rows)
                .iter_mut()
                .find(|row| row.device == self.device);
            if let Some(row) = row {
                change(row);
            }
        });
    }
}
