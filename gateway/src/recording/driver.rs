//! One recording from its first sample to its last stored track.

use super::track::OpenTrack;
use super::{Ended, RecordingConfig, Table, TrackRow, TrackState};
use crate::library::Library;
use futures_util::StreamExt;
use jiff::Timestamp;
use mantel_peripherals::live::{AccessUnit, LiveError, LiveStream, TrackKind};
use mantel_peripherals::recorder::split::{Piece, Splitter};
use mantel_runtime::logging::chain;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the page's figures move and the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Room that must stay on the disk beyond the track under way, bytes.
const RESERVE_BYTES: u64 = 16 << 20;
/// Most tracks of one recording; all further sound is the last one's.
const MAX_TRACKS: usize = 500;
/// The quietest that the level shows, decibels below full scale.
const FLOOR_DB: f64 = 60.0;

/// What one recording needs.
pub(super) struct Driver {
    library: Library,
    config: RecordingConfig,
    table: Table,
    /// Key and name.
    device: (String, String),
    started: Timestamp,
    rate: u32,
    frames: u64,
    peaks: [u16; 2],
    open: Option<OpenTrack>,
    saving: JoinSet<()>,
    tracks: usize,
}

impl Driver {
    pub(super) fn new(
        library: Library,
        config: RecordingConfig,
        table: Table,
        device: (String, String),
        started: Timestamp,
    ) -> Self {
        Self {
            library,
            config,
            table,
            device,
            started,
            rate: 0,
            frames: 0,
            peaks: [0; 2],
            open: None,
            saving: JoinSet::new(),
            tracks: 0,
        }
    }

    /// Records until the stream ends or `stop`, then waits until all tracks are stored.
    pub(super) async fn run(
        mut self,
        mut stream: LiveStream,
        stop: CancellationToken,
        gateway: CancellationToken,
    ) {
        let ended = match stream.tracks().first().map(|track| track.kind) {
            Some(TrackKind::Audio { sample_rate, .. }) => {
                self.rate = sample_rate.max(1);
                self.record(&mut stream, &stop, &gateway).await
            }
            _ => Ended::Because("The device gives no sound.".to_owned()),
        };
        // The card is free from here on.
        drop(stream);
        self.show();
        while self.saving.join_next().await.is_some() {}
        self.table.update(|row| {
            row.level = [0; 2];
            row.ended = Some(ended);
        });
    }

    async fn record(
        &mut self,
        stream: &mut LiveStream,
        stop: &CancellationToken,
        gateway: &CancellationToken,
    ) -> Ended {
        let mut splitter = Splitter::new(self.rate, self.config.rules());
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break if gateway.is_cancelled() {
                    Ended::Gateway
                } else {
                    Ended::Stopped
                },
                _ = look.tick() => {
                    self.show();
                    if let Some(ended) = self.limit().await {
                        break ended;
                    }
                }
                unit = stream.next() => match unit {
                    Some(Ok(unit)) => {
                        let samples = self.hear(&unit);
                        if let Err(why) = self.sort(splitter.push(&samples)).await {
                            break why;
                        }
                    }
                    Some(Err(error)) => break broken(&error),
                    None => break Ended::Over,
                },
            }
        };
        match self.sort(splitter.finish()).await {
            Ok(()) => ended,
            Err(why) => why,
        }
    }

    /// Measures a unit's loudness.
    fn hear(&mut self, unit: &AccessUnit) -> Vec<i16> {
        let (samples, _) = unit.bytes.as_chunks::<2>();
        let samples: Vec<i16> = samples.iter().map(|s| i16::from_le_bytes(*s)).collect();
        self.frames += samples.len() as u64 / 2;
        for frame in samples.chunks_exact(2) {
            for (peak, sample) in self.peaks.iter_mut().zip(frame) {
                *peak = (*peak).max(sample.unsigned_abs());
            }
        }
        samples
    }

    fn time(&self, frames: u64) -> Duration {
        Duration::from_millis(frames.saturating_mul(1000) / u64::from(self.rate))
    }

    /// Moves the page's figures.
    fn show(&mut self) {
        let level = std::mem::take(&mut self.peaks).map(percent_of);
        let elapsed = self.time(self.frames);
        let length = self.open.as_ref().map(|open| self.time(open.frames()));
        self.table.update(|row| {
            row.elapsed = elapsed;
            row.level = level;
            if let (Some(length), Some(track)) = (length, row.tracks.last_mut()) {
                track.length = length;
            }
        });
    }

    /// Whether the recording must end here.
    async fn limit(&self) -> Option<Ended> {
        if self.time(self.frames) >= self.config.longest() {
            let hours = self.config.longest().as_secs() / 3600;
            return Some(Ended::Because(format!(
                "It was as long as a recording may be, {hours} hours. All of it is kept; start another to go on."
            )));
        }
        let held = self.open.as_ref().map_or(0, OpenTrack::held_bytes);
        let needed = held.saturating_add(RESERVE_BYTES);
        (self.library.free_bytes().await < needed).then(|| {
            Ended::Because(
                "The gateway's disk is almost full. What was recorded is kept; remove titles or attach a larger disk \
                 before you record again."
                    .to_owned(),
            )
        })
    }

    /// Puts pieces into tracks.
    async fn sort(&mut self, pieces: Vec<Piece>) -> Result<(), Ended> {
        for piece in pieces {
            match piece {
                Piece::Begin => self.begin()?,
                Piece::Samples(samples) => {
                    if let Some(open) = &mut self.open
                        && let Err(error) = open.push(&samples, &mut self.saving).await
                    {
                        self.open = None;
                        return Err(not_encoded(&error));
                    }
                }
                Piece::End if self.tracks >= MAX_TRACKS => {}
                Piece::End => self.end().await?,
                Piece::Cut(frames) => {
                    let cut = self.time(frames);
                    self.table.update(|row| row.cut += cut);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Ended> {
        if self.open.is_some() {
            return Ok(());
        }
        self.tracks += 1;
        let offset = jiff::SignedDuration::try_from(self.time(self.frames)).unwrap_or_default();
        let began = self.started.checked_add(offset).unwrap_or(self.started);
        let local = self.started.to_zoned(crate::zone::here());
        let name = format!(
            "{} {} - Track {}",
            self.device.1,
            local.strftime("%Y-%m-%d %H:%M"),
            self.tracks
        );
        let index = self.tracks - 1;
        let track = TrackRow {
            name: name.clone(),
            length: Duration::ZERO,
            state: TrackState::Recording,
        };
        self.table.update(|row| row.tracks.push(track));
        let open = OpenTrack::begin(
            self.library.clone(),
            self.table.clone(),
            index,
            (self.device.0.clone(), self.device.1.clone(), name),
            began,
            self.rate,
        );
        self.open = Some(open.map_err(|error| not_encoded(&error))?);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Ended> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let length = self.time(open.frames());
        let index = self.tracks - 1;
        self.table.update(|row| {
            if let Some(track) = row.tracks.get_mut(index) {
                track.length = length;
                track.state = TrackState::Saving;
            }
        });
        open.finish(&mut self.saving)
            .await
            .map_err(|error| not_encoded(&error))
    }
}

fn not_encoded(error: &mantel_peripherals::recorder::flac::FlacError) -> Ended {
    tracing::error!(error = chain(error), "a recording was not encoded");
    Ended::Because(
        "The track under way could not be encoded and was lost; the ones before it are kept. Start the recording again."
            .to_owned(),
    )
}

fn broken(error: &LiveError) -> Ended {
    tracing::warn!(error = chain(error), "a recording broke off");
    Ended::Because(format!("{error} What was recorded until then is kept."))
}

/// A peak as percent of the meter.
fn percent_of(peak: u16) -> u8 {
    if peak == 0 {
        return 0;
    }
    let db = 20.0 * (f64::from(peak) / f64::from(1 << 15)).log10();
    ((db + FLOOR_DB) / FLOOR_DB * 100.0).clamp(0.0, 100.0) as u8
}

#[cfg(test)]
mod tests {
    use super::percent_of;

    #[test]
    fn the_meter_counts_in_decibels() {
        assert_eq!(percent_of(0), 0);
        assert_eq!(percent_of(1), 0);
        assert_eq!(percent_of(1 << 15), 100);
        assert!((49..=50).contains(&percent_of(1036)));
    }
}
