//! The pass server (F25): grants the paid right to a title when an order settles. The vault takes it.

use crate::db::{ms, one, parsed, run};
use crate::error::Result;
use jiff::Timestamp;
use mantel_protocol::ids::{HomeId, OrderId, PassId};
use mantel_protocol::key::SigningKey;
use mantel_protocol::license::Pass;
use mantel_protocol::token::sign;
use mantel_runtime::db::Schema;
use rusqlite::Connection;

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "passes",
    steps: &[include_str!("schema.sql")],
};

/// How long a pass may be redeemed, seconds: ten years. The same device may redeem it again, after a mishap.
pub const PASS_HOLDS_S: i64 = 10 * 365 * 24 * 3600;

/// Signs and stores a pass.
pub fn grant(tx: &Connection, key: &SigningKey, pass: &Pass, now: Timestamp) -> Result<String> {
    let token = sign(key, pass);
    run(
        tx,
        "INSERT INTO passes (id, order_id, title, home, device, token, granted_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        (
            pass.id.to_string(),
            pass.order.to_string(),
            pass.title.to_string(),
            pass.home.to_string(),
            pass.device.to_string(),
            &token,
            ms(now),
        ),
    )?;
    Ok(token)
}

/// The pass of a settled order.
pub fn of_order(c: &Connection, order: OrderId) -> Result<Option<String>> {
    one(
        c,
        "SELECT token FROM passes WHERE order_id = $1",
        [order.to_string()],
        |row| row.get(0),
    )
}

/// For which home a pass was granted; `None`: this server granted no such pass.
pub fn home_of(c: &Connection, pass: PassId) -> Result<Option<HomeId>> {
    one(
        c,
        "SELECT home FROM passes WHERE id = $1",
        [pass.to_string()],
        |row| parsed(row, "home"),
    )
}
