//! Figures as people read them.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// A size: `640 KB`, `23 MB`, `1.4 GB` (decimal units, as on a drive's box).
pub fn bytes(bytes: u64) -> String {
    let units = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
        (1_000, "KB"),
    ];
    for (unit, name) in units {
        if bytes >= unit {
            let tenths = bytes / (unit / 10);
            return if tenths < 100 {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            } else {
                format!("{} {name}", tenths / 10)
            };
        }
    }
    format!("{bytes} bytes")
}

/// A running time: `0:42`, `12:05`, `1:02:03`.
pub fn clock_time(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// A span in words: `3 s`, `5 min`, `2 h`, `4 days`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..=90 => format!("{seconds} s"),
        91..=5_400 => format!("{} min", (seconds + 30) / 60),
        5_401..=172_800 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    }
}

/// How long ago: `just now`, `5 min ago`, or the date when it is long past.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let passed = now.duration_since(then);
    if passed < SignedDuration::from_secs(45) && passed > SignedDuration::from_secs(-45) {
        return "just now".to_owned();
    }
    match u64::try_from(passed.as_secs()) {
        Ok(seconds) if seconds < 7 * 86_400 => format!("{} ago", span(seconds)),
        _ => date(then),
    }
}

/// A day: `3 May 2024`.
pub fn date(at: Timestamp) -> String {
    at.to_zoned(crate::zone::here())
        .strftime("%-d %b %Y")
        .to_string()
}

/// A day and time: `3 May 2024, 14:05`.
pub fn date_time(at: Timestamp) -> String {
    at.to_zoned(crate::zone::here())
        .strftime("%-d %b %Y, %H:%M")
        .to_string()
}

/// A time of day with seconds, for the log: `2024-05-03 14:05:09`.
pub fn log_time(at: Timestamp) -> String {
    at.to_zoned(crate::zone::here())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// Unix seconds as a timestamp; out of range is the epoch.
pub fn from_unix(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Time left at a rate: `about 3 min left`; empty when unknown.
pub fn left(bytes: u64, per_second: u64) -> String {
    match bytes.checked_div(per_second) {
        Some(seconds) if seconds < 30 * 86_400 => format!("about {} left", span(seconds.max(1))),
        _ => String::new(),
    }
}

/// Hundredths done, 0–100; an empty total is done.
pub fn percent(done: u64, total: u64) -> u64 {
    (u128::from(done.min(total)) * 100)
        .checked_div(u128::from(total))
        .unwrap_or(100) as u64
}

/// Seconds with a fraction, for scripts.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_millis() as f64) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let sizes = [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_000, "1.0 KB"),
            (23_456_789, "23 MB"),
            (1_449_999_999, "1.4 GB"),
        ];
        for (size, text) in sizes {
            assert_eq!(bytes(size), text);
        }
        assert_eq!(bytes(u64::MAX), "18446744 TB");
        assert_eq!(
            (clock_time(42), clock_time(3_723)),
            ("0:42".into(), "1:02:03".into())
        );
        assert_eq!(
            (span(5), span(600), span(86_400)),
            ("5 s".into(), "10 min".into(), "24 h".into())
        );
        assert_eq!(
            (
                percent(1, 3),
                percent(5, 0),
                percent(9, 3),
                percent(u64::MAX, u64::MAX)
            ),
            (33, 100, 100, 100)
        );
        assert_eq!(
            (left(100, 0), left(u64::MAX, 1)),
            (String::new(), String::new())
        );
        let now = from_unix(1_700_000_000);
        assert_eq!(ago(from_unix(1_699_999_700), now), "5 min ago");
        assert_eq!(ago(from_unix(i64::MAX), now), "1 Jan 1970");
    }
}
