//! The household's decisions about devices, and what is remembered of those devices (`schema.sql`, `schema_3.sql`): the
//! only SQL about them.

use super::DeviceStanding;
use jiff::Timestamp;
use mantel_peripherals::{Capability, DeviceClass, MacAddress};
use mantel_runtime::db::{from_word, to_word};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

/// Decisions that can be undone, newest first.
const UNDO_KEPT: u32 = 20;
/// Most devices remembered; the longest unseen are forgotten.
const MEMORY_KEPT: u32 = 500;

/// What was decided about one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Decision {
    pub(super) standing: DeviceStanding,
    pub(super) name: Option<String>,
    /// What the household says it is.
    pub(super) class: Option<DeviceClass>,
    /// Unix time; where keys of one device disagree, the latest counts.
    pub(super) decided_at_ms: i64,
}

/// Decisions by device key.
pub(super) type Decisions = HashMap<String, Decision>;

/// A device as it was last seen.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Memory {
    pub(super) id: String,
    pub(super) keys: BTreeSet<String>,
    pub(super) name: String,
    pub(super) class: DeviceClass,
    pub(super) maker: Option<String>,
    pub(super) model: Option<String>,
    pub(super) mac: Option<MacAddress>,
    pub(super) serial: Option<String>,
    pub(super) capabilities: BTreeSet<Capability>,
    pub(super) last_seen: Timestamp,
}

/// What was decided last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Undo {
    pub(super) keys: Vec<String>,
    pub(super) name: String,
    pub(super) what: String,
    pub(super) before: Decision,
    pub(super) at: Timestamp,
}

/// All that is stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) decisions: Decisions,
    pub(super) memory: Vec<Memory>,
    pub(super) last: Option<Undo>,
    /// Which write it was read by.
    pub(super) number: u64,
}

impl Stored {
    /// Numbers what a write has read. Writes follow each other, so the numbers do.
    pub(super) fn numbered(mut self, writes: &AtomicU64) -> Self {
        self.number = writes.fetch_add(1, Ordering::Relaxed) + 1;
        self
    }
}

fn word(standing: DeviceStanding) -> &'static str {
    match standing {
        DeviceStanding::New => "new",
        DeviceStanding::Admitted => "admitted",
        DeviceStanding::Ignored => "ignored",
    }
}

fn standing(word: &str) -> DeviceStanding {
    match word {
        "admitted" => DeviceStanding::Admitted,
        "ignored" => DeviceStanding::Ignored,
        _ => DeviceStanding::New,
    }
}

fn list<T: DeserializeOwned>(text: &str) -> Vec<T> {
    let values: Vec<serde_json::Value> = serde_json::from_str(text).unwrap_or_default();
    // A word that an older or newer version wrote and this one does not know is left out.
    let known = values.into_iter();
    known
        .filter_map(|value| serde_json::from_value(value).ok())
        .collect()
}

fn json(values: impl Serialize) -> String {
    serde_json::to_string(&values).expect("lists of words are JSON")
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// All that is stored.
pub(super) fn everything(db: &Connection) -> rusqlite::Result<Stored> {
    Ok(Stored {
        decisions: all(db)?,
        memory: memory(db)?,
        last: last(db)?.map(|(_, undo)| undo),
        number: 0,
    })
}

/// All decisions.
pub(super) fn all(db: &Connection) -> rusqlite::Result<Decisions> {
    let mut query = db
        .prepare_cached("SELECT key, standing, name, class, decided_at_ms FROM device_decisions")?;
    let rows = query.query_map([], |row| {
        let decision = Decision {
            standing: standing(&row.get::<_, String>(1)?),
            name: row.get(2)?,
            class: row
                .get::<_, Option<String>>(3)?
                .as_deref()
                .and_then(from_word),
            decided_at_ms: row.get(4)?,
        };
        Ok((row.get(0)?, decision))
    })?;
    rows.collect()
}

/// Writes one decision under all keys of a device.
pub(super) fn put(
    tx: &Transaction<'_>,
    keys: &[String],
    decision: &Decision,
) -> rusqlite::Result<()> {
    for key in keys {
        tx.execute(
            "INSERT INTO device_decisions (key, standing, name, class, decided_at_ms)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (key) DO UPDATE SET standing = excluded.standing, name = excluded.name,
                 class = excluded.class, decided_at_ms = excluded.decided_at_ms",
            (
                key,
                word(decision.standing),
                &decision.name,
                decision.class.as_ref().map(to_word),
                decision.decided_at_ms,
            ),
        )?;
    }
    Ok(())
}

/// Notes what holds before a decision, so that it can be undone.
pub(super) fn note(tx: &Transaction<'_>, undo: &Undo) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO device_undo (keys, name, what, before_standing, before_name, before_class, at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        (
            json(&undo.keys),
            &undo.name,
            &undo.what,
            word(undo.before.standing),
            &undo.before.name,
            undo.before.class.as_ref().map(to_word),
            undo.at.as_millisecond(),
        ),
    )?;
    tx.execute(
        "DELETE FROM device_undo WHERE seq <= (SELECT MAX(seq) FROM device_undo) - $1",
        [UNDO_KEPT],
    )?;
    Ok(())
}

/// The latest decision, with its number.
fn last(db: &Connection) -> rusqlite::Result<Option<(i64, Undo)>> {
    let mut query = db.prepare_cached(
        "SELECT seq, keys, name, what, before_standing, before_name, before_class, at_ms
         FROM device_undo ORDER BY seq DESC LIMIT 1",
    )?;
    let read = |row: &Row<'_>| {
        let before = Decision {
            standing: standing(&row.get::<_, String>(4)?),
            name: row.get(5)?,
            class: row
                .get::<_, Option<String>>(6)?
                .as_deref()
                .and_then(from_word),
            decided_at_ms: 0,
        };
        let undo = Undo {
            keys: list(&row.get::<_, String>(1)?),
            name: row.get(2)?,
            what: row.get(3)?,
            before,
            at: time(row.get(7)?),
        };
        Ok((row.get(0)?, undo))
    };
    query.query_row([], read).optional()
}

/// Takes the latest decision back; `None`: there is none.
pub(super) fn undo(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<Option<Undo>> {
    let Some((number, undo)) = last(tx)? else {
        return Ok(None);
    };
    let before = Decision {
        decided_at_ms: now.as_millisecond(),
        ..undo.before.clone()
    };
    put(tx, &undo.keys, &before)?;
    tx.execute("DELETE FROM device_undo WHERE seq = $1", [number])?;
    Ok(Some(undo))
}

fn memory(db: &Connection) -> rusqlite::Result<Vec<Memory>> {
    let mut query = db.prepare_cached(
        "SELECT id, keys, name, class, maker, model, mac, serial, capabilities, last_seen_ms
         FROM device_memory ORDER BY name, id",
    )?;
    let rows = query.query_map([], |row| {
        Ok(Memory {
            id: row.get(0)?,
            keys: list(&row.get::<_, String>(1)?).into_iter().collect(),
            name: row.get(2)?,
            class: from_word(&row.get::<_, String>(3)?).unwrap_or(DeviceClass::Other),
            maker: row.get(4)?,
            model: row.get(5)?,
            mac: row
                .get::<_, Option<String>>(6)?
                .and_then(|mac| mac.parse().ok()),
            serial: row.get(7)?,
            capabilities: list(&row.get::<_, String>(8)?).into_iter().collect(),
            last_seen: time(row.get(9)?),
        })
    })?;
    rows.collect()
}

/// Forgets what was decided about a device and that it was there.
pub(super) fn forget(tx: &Transaction<'_>, keys: &[String]) -> rusqlite::Result<()> {
    for key in keys {
        tx.execute("DELETE FROM device_decisions WHERE key = $1", [key])?;
        tx.execute("DELETE FROM device_memory WHERE id = $1", [key])?;
    }
    Ok(())
}

/// Remembers a device as it is now; `forgotten` are the ids under which it was remembered before.
pub(super) fn remember(
    tx: &Transaction<'_>,
    device: &Memory,
    forgotten: &[String],
) -> rusqlite::Result<()> {
    for id in forgotten {
        tx.execute("DELETE FROM device_memory WHERE id = $1", [id])?;
    }
    tx.execute(
        "INSERT OR REPLACE INTO device_memory
             (id, keys, name, class, maker, model, mac, serial, capabilities, last_seen_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        (
            &device.id,
            json(&device.keys),
            &device.name,
            to_word(&device.class),
            &device.maker,
            &device.model,
            device.mac.map(|mac| mac.to_string()),
            &device.serial,
            json(&device.capabilities),
            device.last_seen.as_millisecond(),
        ),
    )?;
    tx.execute(
        "DELETE FROM device_memory WHERE id NOT IN
             (SELECT id FROM device_memory ORDER BY last_seen_ms DESC LIMIT $1)",
        [MEMORY_KEPT],
    )?;
    Ok(())
}
