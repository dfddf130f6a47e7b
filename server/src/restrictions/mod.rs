//! Restrictions (F17): stored here, signed for gateways, judged by the same pure function on both sides.

pub mod store;

use crate::customers;
use crate::error::{MAX_NOTE_CHARS, Result, bad, clean_note, conflict, missing};
use crate::notice::Outbox;
use jiff::Timestamp;
use mantel_protocol::bus::Command;
use mantel_protocol::ids::{HomeId, RestrictionId};
use mantel_protocol::key::SigningKey;
use mantel_protocol::restriction::{
    Initiative, MAX_RESTRICTIONS, Restriction, RestrictionSet, Rule, Side,
};
use mantel_protocol::token::{Validity, sign};
use mantel_protocol::words::size;
use mantel_runtime::db::Db;
use rusqlite::Connection;

/// The most peers in one rule.
pub const MAX_PEERS: usize = 500;
/// The longest quota period: a year.
pub const MAX_PERIOD_H: u32 = 24 * 366;
/// How long a signed set holds where no newer one comes, seconds: a week.
pub const SET_HOLDS_S: i64 = 7 * 24 * 3600;

/// A restriction as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestrictionRow {
    /// The rule with its reach.
    pub restriction: Restriction,
    /// The home's name; `None`: every home.
    pub home_name: Option<String>,
    /// The rule in plain words.
    pub text: String,
    /// When it was made.
    pub created: Timestamp,
}

/// The rules; cheap to clone. They are added and removed through [`crate::state::Core`], which ends what they forbid.
#[derive(Clone)]
pub struct Restrictions {
    db: Db,
}

impl Restrictions {
    /// Over an open database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// All rules, newest first.
    pub async fn list(&self) -> Result<Vec<RestrictionRow>> {
        self.db.read(rows).await
    }
}

fn rows(c: &Connection) -> Result<Vec<RestrictionRow>> {
    let mut rows = Vec::new();
    for (restriction, created) in store::all_with_time(c)? {
        let home_name = match restriction.home {
            Some(home) => customers::store::name_of(c, home)?,
            None => None,
        };
        let text = in_words(c, &restriction.rule)?;
        rows.push(RestrictionRow {
            restriction,
            home_name,
            text,
            created,
        });
    }
    Ok(rows)
}

fn in_words(c: &Connection, rule: &Rule) -> Result<String> {
    let names = |peers: &[HomeId]| -> Result<String> {
        let names = peers.iter().map(|home| {
            Ok(customers::store::name_of(c, *home)?.unwrap_or_else(|| home.to_string()))
        });
        Ok(names.collect::<Result<Vec<_>>>()?.join(", "))
    };
    Ok(match rule {
        Rule::Block {
            peers,
            initiative,
            side,
        } => {
            let whom = if peers.is_empty() {
                "any home".to_owned()
            } else {
                names(peers)?
            };
            format!("exchanges nothing with {whom}{}", reach(*initiative, *side))
        }
        Rule::AllowOnly {
            peers,
            initiative,
            side,
        } => {
            let whom = if peers.is_empty() {
                "no home".to_owned()
            } else {
                format!("{} only", names(peers)?)
            };
            format!("exchanges with {whom}{}", reach(*initiative, *side))
        }
        Rule::Kinds { allowed } if allowed.is_empty() => "receives nothing".to_owned(),
        Rule::Kinds { allowed } => {
            let kinds: Vec<&str> = allowed.iter().map(|kind| kind.as_str()).collect();
            format!("receives only {}", kinds.join(", "))
        }
        Rule::MaxTitleBytes { bytes } => format!("receives no title larger than {}", size(*bytes)),
        Rule::Quota {
            side,
            bytes,
            period_h,
        } => {
            let verb = if *side == Side::Sender {
                "sends"
            } else {
                "receives"
            };
            format!("{verb} at most {} in any {period_h} hours", size(*bytes))
        }
    })
}

fn reach(initiative: Option<Initiative>, side: Option<Side>) -> String {
    let started = match initiative {
        Some(Initiative::Push) => ", of what the sender starts",
        Some(Initiative::Pull) => ", of what the receiver starts",
        None => "",
    };
    let role = match side {
        Some(Side::Sender) => ", while it sends",
        Some(Side::Receiver) => ", while it receives",
        None => "",
    };
    format!("{started}{role}")
}

/// A home's rules and those for every home, signed, with its account's standing.
pub fn signed_set(
    c: &Connection,
    home: &customers::Home,
    key: &SigningKey,
    now: Timestamp,
) -> Result<String> {
    let set = RestrictionSet {
        home: home.home,
        active: home.active,
        restrictions: store::for_homes(c, &[home.home])?,
        validity: Validity::from_now(now, SET_HOLDS_S),
    };
    Ok(sign(key, &set))
}

/// Adds a rule and tells the gateways that it binds.
pub fn add(
    tx: &Connection,
    home: Option<HomeId>,
    rule: Rule,
    note: &str,
    now: Timestamp,
    outbox: &mut Outbox,
) -> Result<RestrictionId> {
    let note = clean_note(note, MAX_NOTE_CHARS, "the note")?;
    check(tx, home, &rule)?;
    if store::count(tx)? >= MAX_RESTRICTIONS {
        return Err(conflict(
            format!("there are {MAX_RESTRICTIONS} restrictions already"),
            "remove one first",
        ));
    }
    let restriction = Restriction {
        id: RestrictionId::generate(),
        home,
        rule,
        note,
    };
    store::add(tx, &restriction, now)?;
    tell(tx, home, outbox)?;
    Ok(restriction.id)
}

/// Removes a rule and tells the gateways that it bound.
pub fn remove(tx: &Connection, id: RestrictionId, outbox: &mut Outbox) -> Result<()> {
    let restriction = store::find(tx, id)?.ok_or_else(|| missing("restriction"))?;
    store::remove(tx, id)?;
    tell(tx, restriction.home, outbox)
}

fn check(tx: &Connection, home: Option<HomeId>, rule: &Rule) -> Result<()> {
    let peers = match rule {
        Rule::Block { peers, .. } | Rule::AllowOnly { peers, .. } => peers.as_slice(),
        Rule::Kinds { allowed } if allowed.len() > 4 => return Err(bad("a kind is named twice")),
        Rule::Quota { period_h, .. } if !(1..=MAX_PERIOD_H).contains(period_h) => {
            return Err(bad("a quota's period is between an hour and a year"));
        }
        _ => &[],
    };
    if peers.len() > MAX_PEERS {
        return Err(bad(format!("a rule names at most {MAX_PEERS} homes")));
    }
    for id in peers.iter().chain(home.iter()) {
        if customers::store::by_id(tx, *id)?.is_none() {
            return Err(missing("home"));
        }
    }
    Ok(())
}

fn tell(tx: &Connection, home: Option<HomeId>, outbox: &mut Outbox) -> Result<()> {
    let homes = match home {
        Some(home) => customers::store::by_id(tx, home)?.into_iter().collect(),
        None => customers::store::homes(tx)?,
    };
    for home in homes {
        outbox.tell(home.device, Command::Restrictions);
    }
    Ok(())
}
