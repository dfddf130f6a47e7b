//! The household's decisions about devices (`schema.sql`): the only SQL about them.

use super::DeviceStanding;
use rusqlite::{Connection, Transaction};
use std::collections::HashMap;

/// What was decided about one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Decision {
    pub(super) standing: DeviceStanding,
    pub(super) name: Option<String>,
}

/// Decisions by device key.
pub(super) type Decisions = HashMap<String, Decision>;

fn word(standing: DeviceStanding) -> &'static str {
    match standing {
        DeviceStanding::New => "new",
        DeviceStanding::Admitted => "admitted",
        DeviceStanding::Ignored => "ignored",
    }
}

/// All decisions.
pub(super) fn all(db: &Connection) -> rusqlite::Result<Decisions> {
    let mut query = db.prepare_cached("SELECT key, standing, name FROM device_decisions")?;
    let rows = query.query_map([], |row| {
        let standing = match row.get::<_, String>(1)?.as_str() {
            "admitted" => DeviceStanding::Admitted,
            "ignored" => DeviceStanding::Ignored,
            _ => DeviceStanding::New,
        };
        Ok((
            row.get(0)?,
            Decision {
                standing,
                name: row.get(2)?,
            },
        ))
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
            "INSERT INTO device_decisions (key, standing, name) VALUES ($1, $2, $3)
             ON CONFLICT (key) DO UPDATE SET standing = excluded.standing, name = excluded.name",
            (key, word(decision.standing), &decision.name),
        )?;
    }
    Ok(())
}
