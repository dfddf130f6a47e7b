//! Sizes in the words of a person: SI units (IEC 80000-13 leaves kB, MB, GB to powers of ten), two digits at least.

/// `count` bytes, e.g. `512 bytes`, `1.4 MB`, `20 GB`.
pub fn size(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if value < 999.5 {
            return match unit {
                "bytes" => format!("{count} bytes"),
                _ => with_unit(value, unit),
            };
        }
        value /= 1000.0;
    }
    with_unit(value, "TB")
}

fn with_unit(value: f64, unit: &str) -> String {
    if value < 9.95 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_read_well() {
        for (count, words) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_000, "1.0 kB"),
            (8_439_441, "8.4 MB"),
            (999_600_000, "1.0 GB"),
            (20_000_000_000, "20 GB"),
            (u64::MAX, "18446744 TB"),
        ] {
            assert_eq!(size(count), words);
        }
    }
}
