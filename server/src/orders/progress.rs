//! How far deliveries are, in memory and for show: from the gateways' reports and from what the relay counts.

use mantel_protocol::ids::DeliveryId;
use mantel_protocol::key::DeviceId;
use mantel_protocol::receipt::Path;
use mantel_runtime::clock::Clock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Without a report for this long, a delivery is idle.
const IDLE: Duration = Duration::from_secs(10);
/// The relay moved bytes within this time: the path is the relay.
const RELAY_RECENT: Duration = Duration::from_secs(5);
/// How often the console's pages are told of progress.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Deliveries remembered; further ones show what the database knows.
const MAX_TRACKED: usize = 20_000;

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shown {
    /// Verified bytes at the receiver.
    pub bytes_done: u64,
    /// Bytes per second; 0: idle.
    pub rate: u64,
    /// Which way they come now.
    pub path: Option<Path>,
}

struct Track {
    receiver: DeviceId,
    total: u64,
    done: u64,
    rate: f64,
    reported: Option<Duration>,
    relayed: Option<Duration>,
}

/// The deliveries under way; cheap to clone.
#[derive(Clone)]
pub struct Progress {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tracks: HashMap<DeliveryId, Track>,
    told: Duration,
}

impl Progress {
    /// Nothing under way.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// A delivery is under way; its receiver has `done` of `total` bytes.
    pub fn watch(&self, delivery: DeliveryId, receiver: DeviceId, done: u64, total: u64) {
        let mut state = self.locked();
        if state.tracks.len() < MAX_TRACKED || state.tracks.contains_key(&delivery) {
            let track = Track {
                receiver,
                total,
                done,
                rate: 0.0,
                reported: None,
                relayed: None,
            };
            let known = state.tracks.entry(delivery).or_insert(track);
            known.done = known.done.max(done.min(total));
        }
    }

    /// A delivery is over.
    pub fn forget(&self, delivery: DeliveryId) {
        self.locked().tracks.remove(&delivery);
    }

    /// A gateway reports; `true`: tell the pages. A report by another device than the receiver is ignored.
    pub fn report(&self, device: DeviceId, delivery: DeliveryId, bytes_done: u64) -> bool {
        let now = self.clock.monotonic();
        let mut state = self.locked();
        let Some(track) = state
            .tracks
            .get_mut(&delivery)
            .filter(|track| track.receiver == device)
        else {
            return false;
        };
        let done = bytes_done.min(track.total);
        if let Some(before) = track.reported
            && now > before
        {
            let passed = now.saturating_sub(before);
            let rate = done.saturating_sub(track.done) as f64 / passed.as_secs_f64();
            track.rate = if passed > IDLE {
                rate
            } else {
                0.6 * track.rate + 0.4 * rate
            };
        }
        (track.done, track.reported) = (done, Some(now));
        let tell = now.saturating_sub(state.told) >= TELL_EVERY;
        if tell {
            state.told = now;
        }
        tell
    }

    /// The relay moved bytes of a delivery.
    pub fn relayed(&self, delivery: DeliveryId) {
        let now = self.clock.monotonic();
        if let Some(track) = self.locked().tracks.get_mut(&delivery) {
            track.relayed = Some(now);
        }
    }

    /// How far a delivery is; `None`: nothing beyond what the database knows.
    pub fn of(&self, delivery: DeliveryId) -> Option<Shown> {
        let now = self.clock.monotonic();
        let state = self.locked();
        let track = state.tracks.get(&delivery)?;
        let recent =
            |at: Option<Duration>, within| at.is_some_and(|at| now.saturating_sub(at) < within);
        let moving = recent(track.reported, IDLE);
        let path = if recent(track.relayed, RELAY_RECENT) {
            Some(Path::Relay)
        } else {
            moving.then_some(Path::Direct)
        };
        Some(Shown {
            bytes_done: track.done,
            rate: if moving { track.rate as u64 } else { 0 },
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_receiver_reports_and_never_past_the_end() {
        let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let progress = Progress::new(clock.clone());
        let (delivery, receiver) = (DeliveryId::generate(), DeviceId([1; 32]));
        assert_eq!(progress.of(delivery), None);
        progress.watch(delivery, receiver, 10, 1_000);
        clock.advance(Duration::from_secs(1));
        assert!(progress.report(receiver, delivery, 100));
        assert!(!progress.report(DeviceId([2; 32]), delivery, 900));
        clock.advance(Duration::from_secs(1));
        assert!(progress.report(receiver, delivery, u64::MAX));
        let shown = progress.of(delivery).expect("known");
        assert_eq!(
            (shown.bytes_done, shown.rate, shown.path),
            (1_000, 360, Some(Path::Direct))
        );
        progress.relayed(delivery);
        assert_eq!(
            progress.of(delivery).and_then(|shown| shown.path),
            Some(Path::Relay)
        );
        clock.advance(Duration::from_mins(1));
        assert_eq!(
            progress.of(delivery).map(|shown| (shown.rate, shown.path)),
            Some((0, None))
        );
    }
}
