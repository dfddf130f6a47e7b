//! Restrictions (F17): rules set at the server, signed, sent to gateways, and judged by [`judge`] on both sides.

use crate::ids::{HomeId, RestrictionId};
use crate::manifest::MediaKind;
use crate::token::{Claims, Validity};
use crate::words::size;
use serde::{Deserialize, Serialize};

/// The most restrictions in one server's set that a gateway accepts.
pub const MAX_RESTRICTIONS: usize = 1_000;

/// Who starts an exchange (F10).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Initiative {
    /// The sender.
    Push,
    /// The receiver.
    Pull,
}

/// On which side of an exchange a home is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// It sends.
    Sender,
    /// It receives.
    Receiver,
}

/// One rule. It binds the restriction's home (or every home) on the side that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// The home exchanges nothing with these peers.
    Block {
        /// Which peers; empty: all.
        peers: Vec<HomeId>,
        /// Only exchanges started this way; `None`: both.
        initiative: Option<Initiative>,
        /// Only while the home is on this side; `None`: both.
        side: Option<Side>,
    },
    /// The home exchanges with these peers only.
    AllowOnly {
        /// Which peers.
        peers: Vec<HomeId>,
        /// Only exchanges started this way; `None`: both.
        initiative: Option<Initiative>,
        /// Only while the home is on this side; `None`: both.
        side: Option<Side>,
    },
    /// The home receives these kinds only.
    Kinds {
        /// Which kinds.
        allowed: Vec<MediaKind>,
    },
    /// The home receives no title larger than this.
    MaxTitleBytes {
        /// Sealed size, bytes.
        bytes: u64,
    },
    /// The home receives or sends at most so much in any period of so many hours.
    Quota {
        /// On which side.
        side: Side,
        /// Sealed bytes.
        bytes: u64,
        /// Length of the sliding period, hours.
        period_h: u32,
    },
}

/// A rule with its name and reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Restriction {
    /// Unique.
    pub id: RestrictionId,
    /// The home it binds; `None`: every home.
    pub home: Option<HomeId>,
    /// What it says.
    #[serde(flatten)]
    pub rule: Rule,
    /// Why, in the operator's words; may be shown to the household.
    pub note: String,
}

/// The restrictions that concern one home, signed by the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestrictionSet {
    /// The home.
    pub home: HomeId,
    /// Whether its account is in good standing.
    pub active: bool,
    /// The rules, those for every home included.
    pub restrictions: Vec<Restriction>,
    /// When the set was made; it holds until a newer one comes, at most until it expires.
    pub validity: Validity,
}

impl Claims for RestrictionSet {
    const KIND: &'static str = "mantel/restrictions/1";
    fn validity(&self) -> Option<Validity> {
        Some(self.validity)
    }
}

/// A home in an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Which home.
    pub home: HomeId,
    /// Whether its account is in good standing.
    pub active: bool,
}

/// What is to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Who starts it.
    pub initiative: Initiative,
    /// Who sends.
    pub sender: Party,
    /// Who receives.
    pub receiver: Party,
    /// What kind of media.
    pub kind: MediaKind,
    /// Sealed size, bytes.
    pub bytes: u64,
}

/// Why an exchange is refused; Display is for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// An account is suspended.
    #[error("the account of the {} home is suspended; its owner can ask the operator to reopen it", side_word(*.0))]
    Suspended(Side),
    /// A block or allow list.
    #[error("these two homes may not exchange media{}", because(.note))]
    Peer {
        /// Which restriction.
        id: RestrictionId,
        /// The operator's reason.
        note: String,
    },
    /// The kind is not allowed.
    #[error("the receiving home may not receive {} titles{}", .kind.as_str(), because(.note))]
    Kind {
        /// Which restriction.
        id: RestrictionId,
        /// The kind refused.
        kind: MediaKind,
        /// The operator's reason.
        note: String,
    },
    /// The title is too large.
    #[error("the title has {}; the receiving home may receive at most {}{}", size(*.bytes), size(*.limit), because(.note))]
    TooLarge {
        /// Which restriction.
        id: RestrictionId,
        /// The title's size.
        bytes: u64,
        /// What is allowed.
        limit: u64,
        /// The operator's reason.
        note: String,
    },
    /// The quota is used up.
    #[error(
        "the {} home's quota of {} in {period_h} h does not leave room for this title ({} used); \
         try again later{}",
        side_word(*.side), size(*.limit), size(*.used), because(.note)
    )]
    Quota {
        /// Which restriction.
        id: RestrictionId,
        /// Whose.
        side: Side,
        /// What was used in the period.
        used: u64,
        /// What is allowed.
        limit: u64,
        /// The period, hours.
        period_h: u32,
        /// The operator's reason.
        note: String,
    },
}

fn side_word(side: Side) -> &'static str {
    match side {
        Side::Sender => "sending",
        Side::Receiver => "receiving",
    }
}

fn because(note: &str) -> String {
    if note.is_empty() {
        String::new()
    } else {
        format!(" ({note})")
    }
}

/// Judges an exchange against all restrictions. `used(home, side, period_h)` tells how many sealed bytes a home moved
/// on that side in the last hours, deliveries under way counted whole.
pub fn judge(
    restrictions: &[Restriction],
    exchange: &Exchange,
    used: impl Fn(HomeId, Side, u32) -> u64,
) -> Result<(), Denial> {
    for (side, party) in [
        (Side::Sender, exchange.sender),
        (Side::Receiver, exchange.receiver),
    ] {
        if !party.active {
            return Err(Denial::Suspended(side));
        }
    }
    for restriction in restrictions {
        for side in [Side::Sender, Side::Receiver] {
            judge_one(restriction, exchange, side, &used)?;
        }
    }
    Ok(())
}

/// Judges whether one home may give another the bundle of an update (F65): both accounts in good standing, and the lists
/// of peers. Kinds and sizes speak of titles; a home that may send a limited amount sends no bundles at all.
pub fn judge_bundle(
    restrictions: &[Restriction],
    sender: Party,
    receiver: Party,
) -> Result<(), Denial> {
    let speaks = |it: &&Restriction| {
        matches!(
            it.rule,
            Rule::Block { .. }
                | Rule::AllowOnly { .. }
                | Rule::Quota {
                    side: Side::Sender,
                    ..
                }
        )
    };
    let restrictions: Vec<Restriction> = restrictions.iter().filter(speaks).cloned().collect();
    let exchange = Exchange {
        initiative: Initiative::Pull,
        sender,
        receiver,
        kind: MediaKind::Data,
        bytes: 1,
    };
    judge(&restrictions, &exchange, |_, _, _| u64::MAX)
}

fn judge_one(
    restriction: &Restriction,
    exchange: &Exchange,
    here: Side,
    used: &impl Fn(HomeId, Side, u32) -> u64,
) -> Result<(), Denial> {
    let (home, peer) = match here {
        Side::Sender => (exchange.sender.home, exchange.receiver.home),
        Side::Receiver => (exchange.receiver.home, exchange.sender.home),
    };
    if restriction.home.is_some_and(|bound| bound != home) {
        return Ok(());
    }
    let (id, note) = (restriction.id, || restriction.note.clone());
    let applies = |initiative: &Option<Initiative>, side: &Option<Side>| {
        initiative.is_none_or(|i| i == exchange.initiative) && side.is_none_or(|s| s == here)
    };
    match &restriction.rule {
        Rule::Block {
            peers,
            initiative,
            side,
        } if applies(initiative, side) && (peers.is_empty() || peers.contains(&peer)) => {
            Err(Denial::Peer { id, note: note() })
        }
        Rule::AllowOnly {
            peers,
            initiative,
            side,
        } if applies(initiative, side) && !peers.contains(&peer) => {
            Err(Denial::Peer { id, note: note() })
        }
        Rule::Kinds { allowed } if here == Side::Receiver && !allowed.contains(&exchange.kind) => {
            Err(Denial::Kind {
                id,
                kind: exchange.kind,
                note: note(),
            })
        }
        Rule::MaxTitleBytes { bytes } if here == Side::Receiver && exchange.bytes > *bytes => {
            Err(Denial::TooLarge {
                id,
                bytes: exchange.bytes,
                limit: *bytes,
                note: note(),
            })
        }
        Rule::Quota {
            side,
            bytes,
            period_h,
        } if *side == here => {
            let used = used(home, here, *period_h);
            if used.saturating_add(exchange.bytes) > *bytes {
                return Err(Denial::Quota {
                    id,
                    side: here,
                    used,
                    limit: *bytes,
                    period_h: *period_h,
                    note: note(),
                });
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange() -> Exchange {
        let party = || Party {
            home: HomeId::generate(),
            active: true,
        };
        Exchange {
            initiative: Initiative::Pull,
            sender: party(),
            receiver: party(),
            kind: MediaKind::Video,
            bytes: 100,
        }
    }

    fn rule(home: Option<HomeId>, rule: Rule) -> Vec<Restriction> {
        vec![Restriction {
            id: RestrictionId::generate(),
            home,
            rule,
            note: String::new(),
        }]
    }

    fn none(_: HomeId, _: Side, _: u32) -> u64 {
        0
    }

    #[test]
    fn suspended_account_is_refused_on_either_side() {
        let mut it = exchange();
        assert_eq!(judge(&[], &it, none), Ok(()));
        it.sender.active = false;
        assert_eq!(judge(&[], &it, none), Err(Denial::Suspended(Side::Sender)));
        it.sender.active = true;
        it.receiver.active = false;
        assert_eq!(
            judge(&[], &it, none),
            Err(Denial::Suspended(Side::Receiver))
        );
    }

    #[test]
    fn block_list_names_peer_initiative_and_side() {
        let it = exchange();
        let block = |peers, initiative, side| {
            rule(
                Some(it.sender.home),
                Rule::Block {
                    peers,
                    initiative,
                    side,
                },
            )
        };
        let denied = |rules: Vec<Restriction>| judge(&rules, &it, none).is_err();
        assert!(denied(block(vec![it.receiver.home], None, None)));
        assert!(denied(block(
            vec![],
            Some(Initiative::Pull),
            Some(Side::Sender)
        )));
        assert!(!denied(block(
            vec![it.receiver.home],
            Some(Initiative::Push),
            None
        )));
        assert!(!denied(block(
            vec![it.receiver.home],
            None,
            Some(Side::Receiver)
        )));
        assert!(!denied(block(vec![HomeId::generate()], None, None)));
    }

    #[test]
    fn allow_list_refuses_all_others() {
        let it = exchange();
        let only = |peers| {
            rule(
                Some(it.receiver.home),
                Rule::AllowOnly {
                    peers,
                    initiative: None,
                    side: None,
                },
            )
        };
        assert_eq!(judge(&only(vec![it.sender.home]), &it, none), Ok(()));
        assert!(judge(&only(vec![]), &it, none).is_err());
    }

    #[test]
    fn a_bundle_is_judged_by_standing_peers_and_the_senders_quota() {
        let it = exchange();
        let may = |rules: Vec<Restriction>| judge_bundle(&rules, it.sender, it.receiver).is_ok();
        assert!(may(vec![]));
        let quota = |home, side| {
            let (bytes, period_h) = (1 << 50, 1);
            rule(
                home,
                Rule::Quota {
                    side,
                    bytes,
                    period_h,
                },
            )
        };
        assert!(!may(quota(Some(it.sender.home), Side::Sender)));
        assert!(may(quota(Some(it.receiver.home), Side::Sender)));
        assert!(may(quota(None, Side::Receiver)));
        assert!(may(rule(None, Rule::Kinds { allowed: vec![] })));
        assert!(may(rule(None, Rule::MaxTitleBytes { bytes: 0 })));
        let block = Rule::Block {
            peers: vec![],
            initiative: None,
            side: Some(Side::Sender),
        };
        assert!(!may(rule(Some(it.sender.home), block.clone())));
        assert!(may(rule(Some(it.receiver.home), block)));
        let suspended = Party {
            active: false,
            ..it.sender
        };
        assert!(judge_bundle(&[], suspended, it.receiver).is_err());
    }

    #[test]
    fn kind_size_and_quota_bind_the_receiver() {
        let it = exchange();
        let denied =
            |rule_: Rule, used: u64| judge(&rule(None, rule_), &it, |_, _, _| used).is_err();
        assert!(denied(
            Rule::Kinds {
                allowed: vec![MediaKind::Image]
            },
            0
        ));
        assert!(!denied(
            Rule::Kinds {
                allowed: vec![MediaKind::Video]
            },
            0
        ));
        assert!(denied(Rule::MaxTitleBytes { bytes: 99 }, 0));
        assert!(!denied(Rule::MaxTitleBytes { bytes: 100 }, 0));
        let quota = || Rule::Quota {
            side: Side::Receiver,
            bytes: 150,
            period_h: 24,
        };
        assert!(denied(quota(), 51));
        assert!(!denied(quota(), 50));
        assert!(denied(quota(), u64::MAX));
    }
}
