//! What the link keeps in the database: the enrolment and the signed clock's mark.

use jiff::Timestamp;
use mantel_protocol::api::ServerCard;
use mantel_protocol::ids::{CustomerId, HomeId};
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::tls::Pin;
use rusqlite::{OptionalExtension, Transaction};

/// The link's tables.
pub const SCHEMA: Schema = Schema {
    module: "link",
    steps: &[include_str!("schema.sql")],
};

/// Which home this gateway is, and of which server.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// This home.
    pub home: HomeId,
    /// What the household calls itself.
    pub home_name: String,
    /// The customer who owns it.
    pub customer: CustomerId,
    /// The customer's name.
    pub customer_name: String,
    /// The server's keys and ports; the keys are pinned.
    pub server: ServerCard,
    /// The server's name or address, IPv6 without brackets.
    pub host: String,
    /// The API's port.
    pub api_port: u16,
    /// SHA-256 of the server certificate's public key.
    pub pin: Pin,
}

/// A stored value that cannot be read: the file was altered by something else.
pub fn damaged(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::InvalidParameterName(format!("the stored {what} is damaged"))
}

/// Reads the enrolment.
pub async fn enrolment(db: &Db) -> Result<Option<Enrolment>, DbError> {
    db.read(|connection| {
        let row = connection
            .query_row(
                "SELECT home, home_name, customer, customer_name, server, host, api_port, pin FROM enrolment",
                [],
                |row| {
                    let text = |at: usize| row.get::<_, String>(at);
                    Ok(Enrolment {
                        home: text(0)?.parse().map_err(|_| damaged("home"))?,
                        home_name: text(1)?,
                        customer: text(2)?.parse().map_err(|_| damaged("customer"))?,
                        customer_name: text(3)?,
                        server: serde_json::from_str(&text(4)?).map_err(|_| damaged("server card"))?,
                        host: text(5)?,
                        api_port: row.get(6)?,
                        pin: data_encoding::HEXLOWER
                            .decode(text(7)?.as_bytes())
                            .ok()
                            .and_then(|bytes| Pin::try_from(bytes).ok())
                            .ok_or_else(|| damaged("pin"))?,
                    })
                },
            )
            .optional()?;
        Ok(row)
    })
    .await
}

/// Stores the enrolment.
pub async fn set_enrolment(db: &Db, enrolment: &Enrolment) -> Result<(), DbError> {
    let it = enrolment.clone();
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO enrolment (one, home, home_name, customer, customer_name, server, host, api_port, pin)
             VALUES (1, $1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (one) DO UPDATE SET home = excluded.home, home_name = excluded.home_name,
                 customer = excluded.customer, customer_name = excluded.customer_name, server = excluded.server,
                 host = excluded.host, api_port = excluded.api_port, pin = excluded.pin",
            (
                it.home.to_string(),
                &it.home_name,
                it.customer.to_string(),
                &it.customer_name,
                serde_json::to_string(&it.server).expect("a card is plain data"),
                &it.host,
                it.api_port,
                data_encoding::HEXLOWER.encode(&it.pin),
            ),
        )?;
        Ok(())
    })
    .await
}

/// Reads the signed clock's mark.
pub async fn signed_mark(db: &Db) -> Result<Option<Timestamp>, DbError> {
    db.read(|connection| {
        let ms: Option<i64> = connection
            .query_row("SELECT mark_ms FROM signed_time", [], |row| row.get(0))
            .optional()?;
        Ok(ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()))
    })
    .await
}

/// Raises the mark; it is never lowered.
pub fn raise_mark(tx: &Transaction<'_>, mark: Timestamp) -> Result<(), rusqlite::Error> {
    tx.execute(
        "INSERT INTO signed_time (one, mark_ms) VALUES (1, $1)
         ON CONFLICT (one) DO UPDATE SET mark_ms = MAX(signed_time.mark_ms, excluded.mark_ms)",
        [mark.as_millisecond()],
    )?;
    Ok(())
}
