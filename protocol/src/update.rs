//! Updates of the appliance: versions and the outcomes that homes report. The messages are in [`crate::api`].
//!
//! A bundle is checked twice: each chunk by the hash list that the server gives with its offer, which finds damage and
//! lets a download go on where it was; the whole by the signature that the appliance's installer demands (RAUC).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The largest bundle: a slot of the appliance's disk has less than 1 GiB.
pub const MAX_BUNDLE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// The most bytes of a bundle in one answer: one chunk.
pub const MAX_PIECE_BYTES: u64 = crate::blob::CHUNK_BYTES;
/// The longest words with which a gateway says what came of an update, characters; the rest is cut off.
pub const MAX_OUTCOME_CHARS: usize = 300;

/// A version of the appliance: three numbers with dots, as `1.12.0`; ordered as numbers.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "1.12.0")]
pub struct Version([u32; 3]);

/// A text that is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is three numbers with dots, such as 1.12.0")]
pub struct NoVersion;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let mut numbers = text.split('.').map(number);
        let mut next = || numbers.next().flatten().ok_or(NoVersion);
        let version = Self([next()?, next()?, next()?]);
        match numbers.next() {
            None => Ok(version),
            Some(_) => Err(NoVersion),
        }
    }
}

/// A decimal number as it is written: no sign, no leading zero, so that each version has one text.
fn number(text: &str) -> Option<u32> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    plain.then(|| text.parse().ok()).flatten()
}

impl TryFrom<String> for Version {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

/// What came of an update in a home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It runs and has proved good.
    Installed,
    /// It was refused, or did not prove good: the version before it runs.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |text: &str| text.parse::<Version>().expect("a version");
        assert!(version("1.10.0") > version("1.9.9"));
        assert!(version("2.0.0") > version("1.99.99"));
        assert_eq!(version("0.1.0").to_string(), "0.1.0");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "1.2.",
            ".1.2",
            "1..2",
            "1.2.3-rc1",
            "v1.2.3",
            " 1.2.3",
            "1.2.3 ",
            "01.2.3",
            "1.2.+3",
            "-1.2.3",
            "1.2.4294967296",
            "../../etc",
            "1.2.٣",
        ] {
            assert_eq!(text.parse::<Version>(), Err(NoVersion), "{text}");
        }
    }

    proptest! {
        #[test]
        fn texts_round_trip(numbers: [u32; 3]) {
            let version = Version(numbers);
            prop_assert_eq!(version.to_string().parse(), Ok(version));
        }
    }
}
