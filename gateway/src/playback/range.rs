//! Byte ranges (RFC 9110 §14): what of a title a request asks for; pure.

/// Longest Range header looked at, bytes. A longer one is treated as absent.
const MAX_HEADER_BYTES: usize = 200;

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: 200.
    Whole,
    /// From `start` to before `end`: 206. Never empty.
    Part {
        /// First byte.
        start: u64,
        /// The byte past the last.
        end: u64,
    },
    /// Nothing of the range exists: 416.
    Unsatisfiable,
}

/// Reads a Range header for something of `size` bytes. Several ranges, other units and malformed text are ignored, as
/// RFC 9110 §14.2 allows: the answer is then the whole.
pub(super) fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(header) = header.filter(|header| header.len() <= MAX_HEADER_BYTES) else {
        return Wanted::Whole;
    };
    let Some((unit, spec)) = header.split_once('=') else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || spec.contains(',') {
        return Wanted::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::Whole;
    };
    match (number(first), number(last)) {
        (Number::Is(first), Number::Is(last)) if first > last => Wanted::Whole,
        (Number::Is(first), _) if first >= size && !matches!(number(last), Number::Bad) => {
            Wanted::Unsatisfiable
        }
        (Number::Is(start), Number::Is(last)) => Wanted::Part {
            start,
            end: last.saturating_add(1).min(size),
        },
        (Number::Is(start), Number::Absent) => Wanted::Part { start, end: size },
        (Number::Absent, Number::Is(0)) => Wanted::Unsatisfiable,
        (Number::Absent, Number::Is(_)) if size == 0 => Wanted::Unsatisfiable,
        (Number::Absent, Number::Is(suffix)) => Wanted::Part {
            start: size.saturating_sub(suffix),
            end: size,
        },
        _ => Wanted::Whole,
    }
}

enum Number {
    Is(u64),
    Absent,
    Bad,
}

fn number(text: &str) -> Number {
    if text.is_empty() {
        return Number::Absent;
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Number::Bad;
    }
    // More digits than a u64 holds: past every end.
    Number::Is(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_rfc_9110() {
        let part = |start, end| Wanted::Part { start, end };
        for (header, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=0-99", part(0, 100)),
            ("bytes=0-", part(0, 100)),
            ("bytes=99-", part(99, 100)),
            ("bytes=50-1000", part(50, 100)),
            ("bytes=-1", part(99, 100)),
            ("bytes=-100", part(0, 100)),
            ("bytes=-1000", part(0, 100)),
            ("BYTES= 5-6", part(5, 7)),
            ("bytes=7-99999999999999999999999", part(7, 100)),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=100-200", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=200-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("seconds=0-1", Wanted::Whole),
            ("bytes", Wanted::Whole),
        ] {
            assert_eq!(wanted(Some(header), 100), expected, "{header}");
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
    }

    proptest::proptest! {
        #[test]
        fn a_part_is_inside_and_not_empty(text in "bytes=[0-9]{0,22}-[0-9]{0,22}|.{0,40}", size: u64) {
            if let Wanted::Part { start, end } = wanted(Some(&text), size) {
                assert!(start < end && end <= size);
            }
        }
    }
}
