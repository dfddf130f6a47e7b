//! Licenses, their use and the restriction set in the database.

use crate::link::store::{damaged, raise_mark};
use jiff::Timestamp;
use mantel_protocol::ids::{LicenseId, TitleId};
use mantel_protocol::license::Use;
use mantel_runtime::db::{Db, DbError, Schema};
use rusqlite::{Connection, OptionalExtension, Transaction};

/// The module's tables.
pub const SCHEMA: Schema = Schema {
    module: "rights",
    steps: &[include_str!("schema.sql")],
};

/// A stored license and its use.
pub struct Stored {
    /// The vault's token.
    pub token: String,
    /// How it was used.
    pub used: Use,
}

/// Stores a license in place of an older one of the same title.
pub async fn put_license(
    db: &Db,
    title: TitleId,
    id: LicenseId,
    token: String,
) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO license (title, id, token) VALUES ($1, $2, $3)
             ON CONFLICT (title) DO UPDATE SET id = excluded.id, token = excluded.token",
            (title.to_string(), id.to_string(), token),
        )?;
        Ok(())
    })
    .await
}

/// A title's license.
pub async fn license(db: &Db, title: TitleId) -> Result<Option<Stored>, DbError> {
    db.read(move |connection| Ok(license_of(connection, title)?))
        .await
}

/// A title's license, inside a transaction or on a reader.
pub fn license_of(
    connection: &Connection,
    title: TitleId,
) -> Result<Option<Stored>, rusqlite::Error> {
    connection
        .query_row(
            "SELECT license.token, license_use.first_play_ms, license_use.plays
             FROM license LEFT JOIN license_use ON license_use.id = license.id WHERE license.title = $1",
            [title.to_string()],
            |row| {
                let first_play = match row.get::<_, Option<i64>>(1)? {
                    Some(ms) => Some(Timestamp::from_millisecond(ms).map_err(|_| damaged("time of first play"))?),
                    None => None,
                };
                let plays = row.get::<_, Option<u32>>(2)?.unwrap_or(0);
                Ok(Stored { token: row.get(0)?, used: Use { first_play, plays } })
            },
        )
        .optional()
}

/// Counts one play at `now` and raises the clock's mark with it.
pub fn count_play(
    tx: &Transaction<'_>,
    id: LicenseId,
    now: Timestamp,
) -> Result<(), rusqlite::Error> {
    tx.execute(
        "INSERT INTO license_use (id, first_play_ms, plays) VALUES ($1, $2, 1)
         ON CONFLICT (id) DO UPDATE SET plays = license_use.plays + 1,
             first_play_ms = COALESCE(license_use.first_play_ms, excluded.first_play_ms)",
        (id.to_string(), now.as_millisecond()),
    )?;
    raise_mark(tx, now)
}

/// The restriction set's token.
pub async fn restriction_token(db: &Db) -> Result<Option<String>, DbError> {
    db.read(|connection| {
        Ok(connection
            .query_row("SELECT token FROM restriction_set", [], |row| row.get(0))
            .optional()?)
    })
    .await
}

/// Replaces the restriction set.
pub async fn put_restriction_token(db: &Db, token: String) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO restriction_set (one, token) VALUES (1, $1)
             ON CONFLICT (one) DO UPDATE SET token = excluded.token",
            [token],
        )?;
        Ok(())
    })
    .await
}
