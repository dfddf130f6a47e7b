//! What one home may see of the others and of the catalog (F5, F6, F17).

use crate::catalog;
use crate::customers::{self, Home};
use crate::directory::HomeRow;
use crate::error::Result;
use crate::orders::steps::Question;
use crate::restrictions;
use mantel_protocol::api::{HomeEntry, TitleEntry};
use mantel_protocol::ids::HomeId;
use mantel_protocol::manifest::MediaKind;
use mantel_protocol::money::Currency;
use mantel_protocol::restriction::{Initiative, Party, Restriction, Rule};
use rusqlite::Connection;

pub(super) fn all_of(rows: &[HomeRow], caller: HomeId) -> Vec<HomeId> {
    rows.iter().map(|row| row.id).chain([caller]).collect()
}

/// The rules that hold whatever the title: those about homes.
pub(super) fn lasting(rules: Vec<Restriction>) -> Vec<Restriction> {
    rules
        .into_iter()
        .filter(|it| matches!(it.rule, Rule::Block { .. } | Rule::AllowOnly { .. }))
        .collect()
}

pub(super) fn home_entry(
    c: &Connection,
    caller: &Home,
    row: HomeRow,
    rules: &[Restriction],
    now: jiff::Timestamp,
) -> Result<HomeEntry> {
    let (here, there) = (
        Party {
            home: caller.home,
            active: caller.active,
        },
        Party {
            home: row.id,
            active: row.active,
        },
    );
    let itself = caller.home == row.id;
    let may = |initiative, sender: Party, receiver: Party| -> Result<bool> {
        let question = Question {
            initiative,
            sender: sender.home,
            receiver: receiver.home,
            kind: MediaKind::Data,
            bytes: 0,
            order: None,
        };
        Ok(!itself && question.judge_by(c, now, rules, sender, receiver)?.is_ok())
    };
    let may_push = may(Initiative::Push, here, there)?;
    let may_pull = may(Initiative::Pull, there, here)?;
    // The other direction opens connections too: it may pull from here, or push to here.
    let may_be_asked = may(Initiative::Pull, here, there)? || may(Initiative::Push, there, here)?;
    let reachable = may_push || may_pull || may_be_asked || itself;
    Ok(HomeEntry {
        home: row.id,
        addresses: if reachable {
            row.reachable_at()
        } else {
            Vec::new()
        },
        online: row.online,
        name: row.name,
        device: row.device,
        seal_key: row.seal_key,
        may_push,
        may_pull,
    })
}

pub(super) fn titles_for(
    c: &Connection,
    caller: &Home,
    now: jiff::Timestamp,
    currency: Currency,
) -> Result<Vec<TitleEntry>> {
    let titles = catalog::store::for_home(c, caller.home, catalog::MAX_LISTED)?;
    let publishers: Vec<HomeId> = titles
        .iter()
        .map(|title| title.publisher)
        .chain([caller.home])
        .collect();
    // A quota passes by itself: it does not hide titles, it refuses orders.
    let rules: Vec<Restriction> = restrictions::store::for_homes(c, &publishers)?
        .into_iter()
        .filter(|it| !matches!(it.rule, Rule::Quota { .. }))
        .collect();
    let receiver = Party {
        home: caller.home,
        active: caller.active,
    };
    let mut posters = 0;
    let mut entries = Vec::with_capacity(titles.len());
    for mut title in titles {
        if title.publisher != caller.home {
            let Some(publisher) = customers::store::by_id(c, title.publisher)? else {
                continue;
            };
            let sender = Party {
                home: publisher.home,
                active: publisher.active,
            };
            let question = |initiative| Question {
                initiative,
                sender: sender.home,
                receiver: receiver.home,
                kind: title.kind,
                bytes: title.total_bytes,
                order: None,
            };
            if question(Initiative::Pull)
                .judge_by(c, now, &rules, sender, receiver)?
                .is_err()
            {
                continue;
            }
        }
        posters += title.poster.as_ref().map_or(0, String::len);
        if posters > catalog::MAX_LISTED_POSTERS {
            title.poster = None;
        }
        entries.push(title.entry(c, caller.home, currency)?);
    }
    Ok(entries)
}
