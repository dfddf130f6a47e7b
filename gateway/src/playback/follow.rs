//! Following a title on a renderer: what a report means, decided without I/O (UPnP AVTransport:1 §2.2.1).

use mantel_peripherals::media::{PlaybackStatus, TransportState};
use std::time::Duration;

/// Reports of "stopped" before the first "playing" after which a renderer is believed to have given up.
const MAX_IDLE: u32 = 20;
/// Missed reports in a row after which the page says so.
const MISSES_TOLD: u32 = 2;
/// Missed reports in a row after which the renderer is given up.
const MAX_MISSES: u32 = 60;
/// How near its end a title stands still when it is over and the renderer does not say so.
const END: Duration = Duration::from_secs(2);
/// Reports of the same position there after which it is believed to be over. gmediarender may hang between two titles.
const MAX_STOOD: u32 = 8;

/// What is known of a renderer's progress.
#[derive(Debug)]
pub(super) struct Following {
    /// The part of our URL that no renderer rewrites.
    path: String,
    played: bool,
    idle: u32,
    misses: u32,
    position: Option<Duration>,
    stood: u32,
}

/// What follows from a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    On,
    /// It goes on, but the renderer does not answer at the moment.
    Silent,
    /// It came to its end, or was stopped at the renderer.
    Over,
    /// Another program plays something else on it.
    Taken,
    /// It never began to play, or reports an error.
    Failed,
    /// It has not answered for long.
    Gone,
}

impl Following {
    pub(super) fn new(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            played: false,
            idle: 0,
            misses: 0,
            position: None,
            stood: 0,
        }
    }

    pub(super) fn heard(&mut self, status: &PlaybackStatus) -> Verdict {
        self.misses = 0;
        if status
            .url
            .as_ref()
            .is_some_and(|url| !url.contains(&self.path))
        {
            return Verdict::Taken;
        }
        if status.failed {
            return Verdict::Failed;
        }
        match status.state {
            TransportState::Playing | TransportState::Paused => {
                self.played = true;
                if self.stands_at_the_end(status) {
                    Verdict::Over
                } else {
                    Verdict::On
                }
            }
            TransportState::Stopped | TransportState::NoMedia if self.played => Verdict::Over,
            TransportState::Stopped | TransportState::NoMedia => {
                self.idle += 1;
                if self.idle >= MAX_IDLE {
                    Verdict::Failed
                } else {
                    Verdict::On
                }
            }
            TransportState::Transitioning | TransportState::Recording | TransportState::Other => {
                Verdict::On
            }
        }
    }

    fn stands_at_the_end(&mut self, status: &PlaybackStatus) -> bool {
        let at_end = match (status.position, status.duration) {
            (Some(position), Some(duration)) => position + END >= duration,
            (None, _) | (_, None) => false,
        };
        let stands =
            at_end && status.state == TransportState::Playing && status.position == self.position;
        self.position = status.position;
        self.stood = if stands { self.stood + 1 } else { 0 };
        self.stood >= MAX_STOOD
    }

    pub(super) fn missed(&mut self) -> Verdict {
        self.misses += 1;
        match self.misses {
            misses if misses >= MAX_MISSES => Verdict::Gone,
            misses if misses >= MISSES_TOLD => Verdict::Silent,
            _ => Verdict::On,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: TransportState, url: Option<&str>) -> PlaybackStatus {
        PlaybackStatus {
            state,
            failed: false,
            position: None,
            duration: None,
            url: url.map(str::to_owned),
        }
    }

    #[test]
    fn a_title_plays_to_its_end() {
        let mut following = Following::new("/media/abc");
        let ours = Some("http://10.0.0.1:8080/media/abc.mp4");
        for (state, verdict) in [
            (TransportState::Stopped, Verdict::On),
            (TransportState::Transitioning, Verdict::On),
            (TransportState::Playing, Verdict::On),
            (TransportState::Paused, Verdict::On),
            (TransportState::Stopped, Verdict::Over),
        ] {
            assert_eq!(following.heard(&status(state, ours)), verdict, "{state:?}");
        }
    }

    #[test]
    fn a_title_that_stands_still_at_its_end_is_over() {
        let at = |state, seconds| PlaybackStatus {
            position: Some(Duration::from_secs(seconds)),
            duration: Some(Duration::from_secs(42)),
            ..status(state, None)
        };
        let mut following = Following::new("/media/abc");
        for _ in 0..100 {
            let stuck = at(TransportState::Playing, 20);
            assert_eq!(following.heard(&stuck), Verdict::On, "it waits for bytes");
            let paused = at(TransportState::Paused, 41);
            assert_eq!(following.heard(&paused), Verdict::On);
        }
        let verdicts: Vec<Verdict> = (0..MAX_STOOD)
            .map(|_| following.heard(&at(TransportState::Playing, 41)))
            .collect();
        let (last, before) = verdicts.split_last().expect("there are some");
        assert!(before.iter().all(|verdict| *verdict == Verdict::On));
        assert_eq!(*last, Verdict::Over);
    }

    #[test]
    fn a_renderer_that_was_taken_failed_or_left_is_told_apart() {
        let mut following = Following::new("/media/abc");
        let theirs = status(TransportState::Playing, Some("http://10.0.0.9/other.mp3"));
        assert_eq!(following.heard(&theirs), Verdict::Taken);
        let failed = PlaybackStatus {
            failed: true,
            ..status(TransportState::Stopped, None)
        };
        assert_eq!(following.heard(&failed), Verdict::Failed);
        let mut never =
            (0..MAX_IDLE).map(|_| following.heard(&status(TransportState::Stopped, None)));
        assert_eq!(never.by_ref().last(), Some(Verdict::Failed));
        drop(never);
        let missed: Vec<_> = (0..MAX_MISSES).map(|_| following.missed()).collect();
        assert_eq!(
            (missed[0], missed[1], missed.last()),
            (Verdict::On, Verdict::Silent, Some(&Verdict::Gone))
        );
        assert_eq!(
            following.heard(&status(TransportState::Playing, None)),
            Verdict::On
        );
        assert_eq!(following.missed(), Verdict::On, "counted anew");
    }
}
