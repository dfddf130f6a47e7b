//! Log-ins and typed cameras (`schema.sql`): the only SQL about them.

use mantel_peripherals::rtsp::Transport;
use rusqlite::{Connection, OptionalExtension, Transaction};

/// The first sealed log-in under one of `keys`, with its key.
pub(super) fn login(
    db: &Connection,
    keys: &[String],
) -> rusqlite::Result<Option<(String, Vec<u8>)>> {
    let mut query = db.prepare_cached("SELECT sealed FROM camera_logins WHERE key = $1")?;
    for key in keys {
        if let Some(sealed) = query.query_row([key], |row| row.get(0)).optional()? {
            return Ok(Some((key.clone(), sealed)));
        }
    }
    Ok(None)
}

/// Stores sealed log-ins, one for each key of a device.
pub(super) fn put_logins(
    tx: &Transaction<'_>,
    sealed: &[(String, Vec<u8>)],
) -> rusqlite::Result<()> {
    for (key, sealed) in sealed {
        tx.execute(
            "INSERT INTO camera_logins (key, sealed) VALUES ($1, $2)
             ON CONFLICT (key) DO UPDATE SET sealed = excluded.sealed",
            (key, sealed),
        )?;
    }
    Ok(())
}

/// Removes the log-ins of a device.
pub(super) fn remove_logins(tx: &Transaction<'_>, keys: &[String]) -> rusqlite::Result<()> {
    for key in keys {
        tx.execute("DELETE FROM camera_logins WHERE key = $1", [key])?;
    }
    Ok(())
}

/// A camera that was added by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Typed {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) transport: Transport,
}

/// All typed cameras, in the order of their names.
pub(super) fn typed(db: &Connection) -> rusqlite::Result<Vec<Typed>> {
    let mut query =
        db.prepare_cached("SELECT url, name, transport FROM typed_cameras ORDER BY name, url")?;
    let rows = query.query_map([], |row| {
        Ok(Typed {
            url: row.get(0)?,
            name: row.get(1)?,
            transport: match row.get::<_, String>(2)?.as_str() {
                "udp" => Transport::Udp,
                _ => Transport::Interleaved,
            },
        })
    })?;
    rows.collect()
}

/// Adds a typed camera, or changes it.
pub(super) fn put_typed(tx: &Transaction<'_>, camera: &Typed) -> rusqlite::Result<()> {
    let transport = match camera.transport {
        Transport::Interleaved => "interleaved",
        Transport::Udp => "udp",
    };
    tx.execute(
        "INSERT INTO typed_cameras (url, name, transport) VALUES ($1, $2, $3)
         ON CONFLICT (url) DO UPDATE SET name = excluded.name, transport = excluded.transport",
        (&camera.url, &camera.name, transport),
    )?;
    Ok(())
}

/// Removes a typed camera; whether there was one.
pub(super) fn remove_typed(tx: &Transaction<'_>, url: &str) -> rusqlite::Result<bool> {
    Ok(tx.execute("DELETE FROM typed_cameras WHERE url = $1", [url])? > 0)
}
