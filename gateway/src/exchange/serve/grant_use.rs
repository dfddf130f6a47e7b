//! The durable count of what was sent under each grant, so that no grant is worth more than it says, however often it is
//! shown and whenever this gateway is killed.
//!
//! Bytes are reserved, and the reservation committed, before they are sent, [`STEP_BYTES`] at a time and never beyond
//! [`AnyGrant::max_bytes`]. What a stream reserved and did not send is given back when it ends; a crash loses it: then the
//! sender refuses the tail of that grant as used, and the receiver asks the server for a grant for what it lacks.

use jiff::Timestamp;
use mantel_protocol::blob::CHUNK_BYTES;
use mantel_protocol::grant::AnyGrant;
use mantel_protocol::ids::{DeliveryId, GrantId};
use mantel_runtime::db::{Db, DbError, Schema};
use rusqlite::OptionalExtension;

/// The tables.
pub const SCHEMA: Schema = Schema {
    module: "serve",
    steps: &[include_str!("grant_use.sql")],
};

/// How much is reserved at once: one commit for so many bytes.
pub const STEP_BYTES: u64 = 16 * CHUNK_BYTES;
/// How long after its end a row is kept, seconds.
const KEEP_S: i64 = 24 * 3_600;

/// Reserves up to `want` bytes of a grant; returns how many it got, 0 when the grant is used up.
pub(super) async fn reserve(
    db: &Db,
    grant: &AnyGrant,
    want: u64,
    now: Timestamp,
) -> Result<u64, DbError> {
    let (id, max) = (grant.id().to_string(), grant.max_bytes());
    let expires = grant.validity().expires;
    let (expires_s, forget_s) = (expires.as_second(), now.as_second() - KEEP_S);
    db.write(move |tx| {
        tx.execute("DELETE FROM grant_use WHERE expires_s < $1", [forget_s])?;
        let reserved: Option<i64> = tx
            .query_row(
                "SELECT reserved_bytes FROM grant_use WHERE grant_id = $1",
                [&id],
                |row| row.get(0),
            )
            .optional()?;
        let reserved = reserved.map_or(0, |bytes| bytes as u64);
        let got = max.saturating_sub(reserved).min(want);
        tx.execute(
            "INSERT INTO grant_use (grant_id, reserved_bytes, expires_s) VALUES ($1, $2, $3)
             ON CONFLICT (grant_id) DO UPDATE SET reserved_bytes = excluded.reserved_bytes",
            (&id, (reserved + got) as i64, expires_s),
        )?;
        Ok(got)
    })
    .await
}

/// Gives back what was reserved and not sent.
pub(super) async fn give_back(db: &Db, grant: GrantId, bytes: u64) -> Result<(), DbError> {
    if bytes == 0 {
        return Ok(());
    }
    db.write(move |tx| {
        tx.execute(
            // SQLite numbers parameters by their first appearance.
            "UPDATE grant_use SET reserved_bytes = reserved_bytes - $1
             WHERE grant_id = $2 AND reserved_bytes >= $1",
            (bytes as i64, grant.to_string()),
        )?;
        Ok(())
    })
    .await
}

/// How many bytes of a grant are reserved or sent.
pub(super) async fn used(db: &Db, grant: GrantId) -> Result<u64, DbError> {
    db.read(move |connection| {
        let bytes: Option<i64> = connection
            .query_row(
                "SELECT reserved_bytes FROM grant_use WHERE grant_id = $1",
                [grant.to_string()],
                |row| row.get(0),
            )
            .optional()?;
        Ok(bytes.map_or(0, |bytes| bytes as u64))
    })
    .await
}

/// Remembers that the server ended a delivery.
pub(super) async fn revoke(db: &Db, delivery: DeliveryId, now: Timestamp) -> Result<(), DbError> {
    let now_s = now.as_second();
    db.write(move |tx| {
        tx.execute(
            "DELETE FROM revoked_delivery WHERE revoked_s < $1",
            [now_s - KEEP_S],
        )?;
        tx.execute(
            "INSERT INTO revoked_delivery (delivery_id, revoked_s) VALUES ($1, $2)
             ON CONFLICT (delivery_id) DO NOTHING",
            (delivery.to_string(), now_s),
        )?;
        Ok(())
    })
    .await
}

/// Whether the server ended a delivery.
pub(super) async fn is_revoked(db: &Db, delivery: DeliveryId) -> Result<bool, DbError> {
    db.read(move |connection| {
        let row: Option<i64> = connection
            .query_row(
                "SELECT 1 FROM revoked_delivery WHERE delivery_id = $1",
                [delivery.to_string()],
                |row| row.get(0),
            )
            .optional()?;
        Ok(row.is_some())
    })
    .await
}
