//! Passes and licenses (F25). A *pass* is the paid right to a title; the vault takes it and gives a *license*: the
//! content keys sealed to one device, with terms.

use crate::envelope::Envelope;
use crate::ids::{EntryId, HomeId, LicenseId, OrderId, PassId, TitleId};
use crate::key::DeviceId;
use crate::token::{Claims, Validity};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// For how long a title may be used (F27).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Terms {
    /// Seconds after payment within which use must start; `None`: no end.
    pub start_within_s: Option<u32>,
    /// Seconds of use from the first play; `None`: no end. (Rental as people know it: 48 h.)
    pub viewing_window_s: Option<u32>,
    /// How many times it may be played; `None`: any number.
    pub plays: Option<u32>,
}

/// The pass server's signed word that a home paid for a title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Unique; the vault redeems it for one device.
    pub id: PassId,
    /// The title.
    pub title: TitleId,
    /// The order that was paid.
    pub order: OrderId,
    /// The ledger entry that captured the payment; `None` for a free title.
    pub entry: Option<EntryId>,
    /// The home that may use it.
    pub home: HomeId,
    /// The device that may redeem it.
    pub device: DeviceId,
    /// What was bought.
    pub terms: Terms,
    /// When it was granted and until when it may be redeemed.
    pub validity: Validity,
}

impl Claims for Pass {
    const KIND: &'static str = "mantel/pass/1";
    fn validity(&self) -> Option<Validity> {
        Some(self.validity)
    }
}

/// The vault's signed answer to a pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct License {
    /// Unique.
    pub id: LicenseId,
    /// The pass that it answers.
    pub pass: PassId,
    /// The title.
    pub title: TitleId,
    /// The device whose key opens `keys`.
    pub device: DeviceId,
    /// [`crate::manifest::TitleKeys`] sealed to the device, context [`crate::manifest::license_context`].
    pub keys: Envelope,
    /// The terms.
    pub terms: Terms,
    /// When the title was paid, by the server's clock; `start_within_s` counts from here.
    pub granted: Timestamp,
}

impl Claims for License {
    const KIND: &'static str = "mantel/license/1";
    fn validity(&self) -> Option<Validity> {
        None
    }
}

/// What a gateway remembers of a license's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Use {
    /// When it was first played, by signed time.
    pub first_play: Option<Timestamp>,
    /// How often it was played.
    pub plays: u32,
}

/// Why a title cannot be played now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LicenseRefusal {
    /// It was not started in time.
    #[error(
        "the time to start this title ended {0}; nothing more will be charged, order it again to play it"
    )]
    StartExpired(Timestamp),
    /// The viewing period is over.
    #[error("the viewing period ended {0}; order it again to play it")]
    WindowExpired(Timestamp),
    /// All plays are used.
    #[error("all {0} plays of this title are used; order it again to play it")]
    PlaysUsed(u32),
}

impl License {
    /// Whether the title may be played at `now` (signed server time, see DESIGN §3), and until when (`None`: no end).
    pub fn judge(&self, used: Use, now: Timestamp) -> Result<Option<Timestamp>, LicenseRefusal> {
        let after = |from: Timestamp, seconds: u32| {
            from.checked_add(SignedDuration::from_secs(i64::from(seconds)))
                .unwrap_or(Timestamp::MAX)
        };
        let window_end = match (used.first_play, self.terms.viewing_window_s) {
            (Some(first), Some(seconds)) => Some(after(first, seconds)),
            _ => None,
        };
        if let Some(end) = window_end.filter(|end| now >= *end) {
            return Err(LicenseRefusal::WindowExpired(end));
        }
        if used.first_play.is_none()
            && let Some(end) = self
                .terms
                .start_within_s
                .map(|seconds| after(self.granted, seconds))
            && now >= end
        {
            return Err(LicenseRefusal::StartExpired(end));
        }
        match self.terms.plays {
            Some(plays) if used.plays >= plays => Err(LicenseRefusal::PlaysUsed(plays)),
            _ => Ok(window_end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Envelope;
    use crate::key::SigningKey;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn judges_both_rental_clocks_and_plays() {
        let terms = Terms {
            start_within_s: Some(100),
            viewing_window_s: Some(50),
            plays: Some(2),
        };
        let license = License {
            id: LicenseId::generate(),
            pass: PassId::generate(),
            title: TitleId::generate(),
            device: SigningKey::generate().device_id(),
            keys: Envelope::from_text(String::new()),
            terms,
            granted: at(1_000),
        };
        let never = Use::default();
        assert_eq!(license.judge(never, at(1_099)), Ok(None));
        assert_eq!(
            license.judge(never, at(1_100)),
            Err(LicenseRefusal::StartExpired(at(1_100)))
        );
        let once = Use {
            first_play: Some(at(1_090)),
            plays: 1,
        };
        assert_eq!(
            license.judge(once, at(1_139)),
            Ok(Some(at(1_140))),
            "started in time: the window rules"
        );
        assert_eq!(
            license.judge(once, at(1_140)),
            Err(LicenseRefusal::WindowExpired(at(1_140)))
        );
        let twice = Use { plays: 2, ..once };
        assert_eq!(
            license.judge(twice, at(1_100)),
            Err(LicenseRefusal::PlaysUsed(2))
        );
    }
}
