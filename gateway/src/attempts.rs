//! How often a password may be tried. Pure: no clock, no I/O.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Wrong passwords that one address may give before it has to wait.
const FREE: u32 = 5;
/// The first wait; each further wrong password doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// A failure is forgotten after this time without another.
const FORGET: Duration = Duration::from_hours(1);
/// Addresses remembered. When all are waiting, a new address waits as well.
const MAX_ADDRESSES: usize = 1_024;

/// What is remembered of wrong passwords, by address (an IPv6 address counts as its /64).
#[derive(Default)]
pub struct Attempts {
    failures: HashMap<IpAddr, Failures>,
}

struct Failures {
    count: u32,
    last: Duration,
}

impl Failures {
    fn wait(&self) -> Duration {
        match self.count.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(over) => FIRST_WAIT
                .saturating_mul(1 << over.min(16))
                .min(LONGEST_WAIT),
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        },
        IpAddr::V4(_) => address,
    }
}

impl Attempts {
    /// Whether `address` may try at `now` (monotonic); else how long it has to wait. A permitted try counts as wrong
    /// until [`Attempts::passed`], so that tries made side by side gain nothing.
    pub fn begin(&mut self, address: IpAddr, now: Duration) -> Result<(), Duration> {
        let address = network(address);
        if !self.failures.contains_key(&address) && self.failures.len() >= MAX_ADDRESSES {
            self.failures
                .retain(|_, f| now.saturating_sub(f.last) < FORGET);
            if self.failures.len() >= MAX_ADDRESSES {
                return Err(FIRST_WAIT);
            }
        }
        let failures = self.failures.entry(address).or_insert(Failures {
            count: 0,
            last: now,
        });
        if now.saturating_sub(failures.last) >= FORGET {
            failures.count = 0;
        }
        let until = failures.last.saturating_add(failures.wait());
        if failures.count > 0 && now < until {
            return Err(until.saturating_sub(now));
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        Ok(())
    }

    /// The password was right: forget the address.
    pub fn passed(&mut self, address: IpAddr) {
        self.failures.remove(&network(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn waits_grow_and_end_and_do_not_touch_others() {
        let mut attempts = Attempts::default();
        let now = Duration::from_secs(10);
        for _ in 0..FREE {
            assert_eq!(attempts.begin(ip(1), now), Ok(()));
        }
        assert_eq!(attempts.begin(ip(1), now), Err(FIRST_WAIT));
        assert_eq!(attempts.begin(ip(2), now), Ok(()));
        let later = now + FIRST_WAIT;
        assert_eq!(attempts.begin(ip(1), later), Ok(()));
        assert_eq!(attempts.begin(ip(1), later), Err(FIRST_WAIT * 2));
        attempts.passed(ip(1));
        assert_eq!(attempts.begin(ip(1), later), Ok(()));
    }

    #[test]
    fn neighbours_in_one_ipv6_network_count_as_one() {
        let mut attempts = Attempts::default();
        for n in 0..u128::from(FREE) {
            let address = IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | n));
            assert_eq!(attempts.begin(address, Duration::ZERO), Ok(()));
        }
        let one_more = IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | 0x99));
        assert!(attempts.begin(one_more, Duration::ZERO).is_err());
    }

    #[test]
    fn remembers_a_bounded_number_of_addresses() {
        let mut attempts = Attempts::default();
        for n in 0..(MAX_ADDRESSES as u32 + 10) {
            let _ = attempts.begin(IpAddr::from(n.to_be_bytes()), Duration::ZERO);
        }
        assert_eq!(attempts.failures.len(), MAX_ADDRESSES);
        assert!(
            attempts.begin(ip(1), FORGET).is_ok(),
            "old failures make room"
        );
    }
}
