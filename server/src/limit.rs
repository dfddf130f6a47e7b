//! Limits on how often something may be tried, in memory: guessing claim codes and passwords must not pay.

use mantel_runtime::clock::Clock;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most callers that one limit remembers; when so many try at once, newcomers wait.
const MAX_CALLERS: usize = 10_000;

/// At most `tries` in any `period` for each caller; cheap to clone.
#[derive(Clone)]
pub struct Limit<K> {
    clock: Clock,
    tries: u32,
    period: Duration,
    /// Caller → when its period began (monotonic), and tries in it.
    seen: Arc<Mutex<HashMap<K, (Duration, u32)>>>,
}

impl<K: Eq + Hash> Limit<K> {
    /// A limit that nobody has used yet.
    pub fn new(clock: Clock, tries: u32, period: Duration) -> Self {
        Self {
            clock,
            tries,
            period,
            seen: Arc::default(),
        }
    }

    /// Counts one try; `false`: too many.
    pub fn allow(&self, caller: K) -> bool {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        if seen.len() >= MAX_CALLERS && !seen.contains_key(&caller) {
            seen.retain(|_, (began, _)| now.saturating_sub(*began) < self.period);
            if seen.len() >= MAX_CALLERS {
                return false;
            }
        }
        let (began, tries) = seen.entry(caller).or_insert((now, 0));
        if now.saturating_sub(*began) >= self.period {
            (*began, *tries) = (now, 0);
        }
        *tries = tries.saturating_add(1);
        *tries <= self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_the_next_try_until_the_period_is_over() {
        let clock = Clock::manual(jiff::Timestamp::UNIX_EPOCH);
        let limit = Limit::new(clock.clone(), 2, Duration::from_mins(1));
        assert_eq!(
            [1, 1, 1, 2].map(|caller| limit.allow(caller)),
            [true, true, false, true]
        );
        clock.advance(Duration::from_mins(1));
        assert!(limit.allow(1));
    }
}
