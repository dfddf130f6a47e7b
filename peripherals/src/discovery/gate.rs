//! Who may be heard, before a datagram is even read: every sender has its allowance, and all those of whom nothing
//! useful is known yet share one, so that a flood of invented senders costs only other strangers (F2).

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Messages that a device in use may send at once; a TV repeats some 30 on power-up.
pub const KNOWN_BURST: u32 = 200;
/// Messages per second that a device in use may send steadily.
pub const KNOWN_PER_SECOND: u32 = 20;
/// Messages that a stranger may send at once.
pub const STRANGER_BURST: u32 = 60;
/// Messages per second that a stranger may send steadily.
pub const STRANGER_PER_SECOND: u32 = 5;
/// Messages that all strangers together may send at once.
pub const CROWD_BURST: u32 = 400;
/// Messages per second that all strangers together may send steadily.
pub const CROWD_PER_SECOND: u32 = 100;
/// The first so many messages of a sender are counted apart, so that a newcomer is heard in a crowd that is old.
pub const FIRST_WORDS: u32 = 8;
/// Most senders counted; beyond it strangers are not heard until others fall silent.
pub const MAX_SENDERS: usize = 1024;
/// How often one sender's excess is told.
pub const TELL_EVERY: Duration = Duration::from_secs(10);

/// Addresses of devices that proved to be some: described, or resolved with a known service.
pub(crate) type Known = watch::Receiver<Arc<HashSet<IpAddr>>>;

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Read it.
    Heard,
    /// Drop it.
    Dropped,
    /// Drop it, and tell that its sender (or the crowd of strangers) says too much.
    Told,
}

#[derive(Debug)]
struct Bucket {
    /// In thousandths, so that slow rates are exact.
    tokens: u64,
    filled_at: Duration,
    told_at: Option<Duration>,
    heard: u32,
}

impl Bucket {
    fn new(burst: u32, now: Duration) -> Self {
        Self {
            tokens: u64::from(burst) * 1000,
            filled_at: now,
            told_at: None,
            heard: 0,
        }
    }

    fn take(&mut self, burst: u32, per_second: u32, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled_at).as_millis();
        let earned = u64::try_from(passed)
            .unwrap_or(u64::MAX)
            .saturating_mul(u64::from(per_second));
        self.filled_at = now;
        self.tokens = self
            .tokens
            .saturating_add(earned)
            .min(u64::from(burst) * 1000);
        let may = self.tokens >= 1000;
        if may {
            self.tokens -= 1000;
        }
        may
    }

    fn verdict(&mut self, now: Duration) -> Verdict {
        let due = self
            .told_at
            .is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY);
        if due {
            self.told_at = Some(now);
            Verdict::Told
        } else {
            Verdict::Dropped
        }
    }
}

/// The allowances of those who speak on one socket.
#[derive(Debug)]
pub(crate) struct Gate {
    senders: HashMap<IpAddr, Bucket>,
    crowd: Bucket,
    newcomers: Bucket,
    swept_at: Duration,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            senders: HashMap::new(),
            crowd: Bucket::new(CROWD_BURST, Duration::ZERO),
            newcomers: Bucket::new(CROWD_BURST, Duration::ZERO),
            swept_at: Duration::ZERO,
        }
    }

    /// Counts a message of `sender` at `now`, the time since any fixed moment.
    pub(crate) fn judge(&mut self, sender: IpAddr, known: bool, now: Duration) -> Verdict {
        self.sweep(now);
        let (burst, per_second) = if known {
            (KNOWN_BURST, KNOWN_PER_SECOND)
        } else {
            (STRANGER_BURST, STRANGER_PER_SECOND)
        };
        if !known && !self.senders.contains_key(&sender) && self.senders.len() >= MAX_SENDERS {
            return self.crowd.verdict(now);
        }
        let bucket = self
            .senders
            .entry(sender)
            .or_insert_with(|| Bucket::new(burst, now));
        if !bucket.take(burst, per_second, now) {
            return bucket.verdict(now);
        }
        let company = if bucket.heard < FIRST_WORDS {
            &mut self.newcomers
        } else {
            &mut self.crowd
        };
        if known || company.take(CROWD_BURST, CROWD_PER_SECOND, now) {
            bucket.heard = bucket.heard.saturating_add(1);
            return Verdict::Heard;
        }
        bucket.verdict(now)
    }

    /// How many senders are counted.
    #[cfg(test)]
    fn counted(&self) -> usize {
        self.senders.len()
    }

    /// Forgets those whose allowance is whole again.
    fn sweep(&mut self, now: Duration) {
        let idle = Duration::from_secs(u64::from(STRANGER_BURST / STRANGER_PER_SECOND));
        if now.saturating_sub(self.swept_at) < Duration::from_secs(1) {
            return;
        }
        self.swept_at = now;
        self.senders
            .retain(|_, bucket| now.saturating_sub(bucket.filled_at) < idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    fn heard(verdict: Verdict) -> u32 {
        u32::from(verdict == Verdict::Heard)
    }

    #[test]
    fn ten_thousand_strangers_do_not_silence_a_device_in_use() {
        let mut gate = Gate::new();
        let (mut strangers, mut told, mut device) = (0, 0, 0);
        for n in 0..100_000_u32 {
            let now = Duration::from_micros(u64::from(n) * 100);
            let verdict = gate.judge(ip(10 + n % 5000), false, now);
            strangers += heard(verdict);
            told += u32::from(verdict == Verdict::Told);
            if n % 1000 == 0 {
                device += heard(gate.judge(ip(1), true, now));
            }
        }
        assert_eq!(device, 100);
        assert!(
            strangers <= 2 * (CROWD_BURST + 10 * CROWD_PER_SECOND),
            "{strangers}"
        );
        assert!(gate.counted() <= MAX_SENDERS + 1);
        assert!(told > 0 && told <= 5001, "{told}");
    }

    #[test]
    fn a_newcomer_is_heard_in_a_crowd_that_is_old() {
        let mut gate = Gate::new();
        let mut last = Duration::ZERO;
        for n in 0..100_000_u32 {
            last = Duration::from_micros(u64::from(n) * 100);
            gate.judge(ip(10 + n % 96), false, last);
        }
        let first: u32 = (0..FIRST_WORDS)
            .map(|_| heard(gate.judge(ip(1), false, last)))
            .sum();
        assert_eq!(first, FIRST_WORDS);
    }

    #[test]
    fn one_that_says_too_much_is_told_now_and_then_and_heard_again() {
        let mut gate = Gate::new();
        let mut said = |n: u32, at: u64| {
            let verdicts: Vec<_> = (0..n)
                .map(|_| gate.judge(ip(1), true, Duration::from_secs(at)))
                .collect();
            let count = |wanted| verdicts.iter().filter(|v| **v == wanted).count();
            (count(Verdict::Heard), count(Verdict::Told))
        };
        assert_eq!(said(1000, 0), (200, 1));
        assert_eq!(said(1000, 1), (20, 0));
        assert_eq!(said(10, 100), (10, 0));
    }
}
