//! Which release a home is offered: a pure function of the releases and of what is known of the home.

use mantel_protocol::ids::HomeId;
use mantel_protocol::update::Version;
use std::collections::BTreeSet;

/// The homes that a release is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Which release.
    pub version: Version,
    /// Of all homes so many in a hundred, 0 to 100.
    pub percent: u8,
    /// These whatever the percentage.
    pub homes: BTreeSet<HomeId>,
}

/// A home's place among a hundred for one version: always the same for the two, and spread anew with each version, so
/// that it is not always the same homes that go first.
fn place(home: HomeId, version: Version) -> u64 {
    let hash = blake3::hash(format!("{home} {version}").as_bytes());
    let (first, _) = hash
        .as_bytes()
        .split_first_chunk::<8>()
        .expect("a hash has 32 bytes");
    u64::from_le_bytes(*first) % 100
}

impl Rollout {
    /// Whether the release is for a home.
    pub fn reaches(&self, home: HomeId) -> bool {
        self.homes.contains(&home) || place(home, self.version) < u64::from(self.percent)
    }
}

/// The newest release for a home that runs `running`, of those not withdrawn. What failed there is never offered to it
/// again.
pub fn newest_for(
    home: HomeId,
    running: Version,
    failed: &BTreeSet<Version>,
    releases: &[Rollout],
) -> Option<Version> {
    releases
        .iter()
        .filter(|release| release.version > running && !failed.contains(&release.version))
        .filter(|release| release.reaches(home))
        .map(|release| release.version)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version(text: &str) -> Version {
        text.parse().expect("a version")
    }

    fn release(text: &str, percent: u8, homes: &[HomeId]) -> Rollout {
        Rollout {
            version: version(text),
            percent,
            homes: homes.iter().copied().collect(),
        }
    }

    #[test]
    fn a_home_gets_the_newest_that_is_for_it() {
        let (home, other) = (HomeId::generate(), HomeId::generate());
        let none = BTreeSet::new();
        let running = version("1.0.0");
        let all = [
            release("0.9.0", 100, &[]),
            release("1.0.0", 100, &[]),
            release("1.9.0", 100, &[]),
            release("1.10.0", 0, &[home]),
        ];
        assert_eq!(
            newest_for(home, running, &none, &all),
            Some(version("1.10.0"))
        );
        assert_eq!(
            newest_for(other, running, &none, &all),
            Some(version("1.9.0"))
        );
        assert_eq!(newest_for(other, version("1.9.0"), &none, &all), None);
        assert_eq!(newest_for(home, running, &none, &[]), None);
    }

    #[test]
    fn what_failed_in_a_home_is_not_offered_to_it_again() {
        let home = HomeId::generate();
        let failed = BTreeSet::from([version("1.2.0")]);
        let all = [release("1.1.0", 100, &[]), release("1.2.0", 100, &[home])];
        assert_eq!(
            newest_for(home, version("1.0.0"), &failed, &all),
            Some(version("1.1.0"))
        );
        assert_eq!(newest_for(home, version("1.1.0"), &failed, &all), None);
    }

    #[test]
    fn a_percentage_takes_about_so_many_and_grows_by_adding() {
        let homes: Vec<HomeId> = (0..2_000).map(|_| HomeId::generate()).collect();
        let reached = |percent| {
            let release = release("3.1.4", percent, &[]);
            let reached = homes.iter().filter(|home| release.reaches(**home));
            reached.copied().collect::<BTreeSet<_>>()
        };
        assert!(reached(0).is_empty());
        assert_eq!(reached(100).len(), homes.len());
        let (ten, half) = (reached(10), reached(50));
        assert!(ten.is_subset(&half));
        assert!((100..300).contains(&ten.len()), "{}", ten.len());
        assert!((850..1_150).contains(&half.len()), "{}", half.len());
    }

    proptest! {
        #[test]
        fn an_offer_is_newer_has_not_failed_and_reaches(
            running in 0u32..6, numbers in proptest::collection::vec((0u32..6, 0u8..=100), 0..8),
            failed in proptest::collection::btree_set(0u32..6, 0..4),
        ) {
            let home = HomeId::generate();
            let at = |n: u32| version(&format!("1.{n}.0"));
            let all: Vec<Rollout> =
                numbers.iter().map(|(n, percent)| release(&at(*n).to_string(), *percent, &[])).collect();
            let failed = failed.into_iter().map(at).collect();
            if let Some(found) = newest_for(home, at(running), &failed, &all) {
                prop_assert!(found > at(running) && !failed.contains(&found));
                prop_assert!(all.iter().any(|it| it.version == found && it.reaches(home)));
            }
        }
    }
}
