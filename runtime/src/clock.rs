//! The one source of time. Code asks a [`Clock`] and never the operating system, so that tests and the simulator own it.

use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Wall-clock and monotonic time; cheap to clone.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Real { start: Instant },
    Manual(Arc<Mutex<(Timestamp, Duration)>>),
}

impl Clock {
    /// The operating system's clock.
    #[allow(
        clippy::disallowed_methods,
        reason = "the clock is where the operating system is asked"
    )]
    pub fn real() -> Self {
        Self(Source::Real {
            start: Instant::now(),
        })
    }

    /// A clock that stands still until [`Clock::advance`].
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(Mutex::new((
            start,
            Duration::ZERO,
        )))))
    }

    /// Wall-clock time. May jump: on a box without a battery it is wrong until the network is there.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            #[allow(
                clippy::disallowed_methods,
                reason = "the clock is where the operating system is asked"
            )]
            Source::Real { .. } => Timestamp::now(),
            Source::Manual(time) => time.lock().expect("no holder of this lock panics").0,
        }
    }

    /// Time since the clock was made; never jumps, never runs backwards.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Source::Real { start } => start.elapsed(),
            Source::Manual(time) => time.lock().expect("no holder of this lock panics").1,
        }
    }

    /// Moves a manual clock; a real one stays as it is.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(time) = &self.0 {
            let mut time = time.lock().expect("no holder of this lock panics");
            let by_signed = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
            time.0 = time.0.saturating_add(by_signed).unwrap_or(Timestamp::MAX);
            time.1 += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let other = clock.clone();
        other.advance(Duration::from_secs(5));
        assert_eq!(clock.now().as_second(), 5);
        assert_eq!(clock.monotonic(), Duration::from_secs(5));
    }
}
