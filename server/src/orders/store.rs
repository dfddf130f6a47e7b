//! The SQL of orders, grants and receipts. Each function runs inside its caller's transaction.

use super::{DeliveryRow, GrantRow, Named, ReceiptRow};
use crate::catalog::TitleMode;
use crate::db::{
    all, big, count, json, ms, one, parsed, run, time, time_or_null, to_json, to_word, word,
    word_or_null,
};
use crate::error::Result;
use jiff::Timestamp;
use mantel_protocol::api::{BlobEntry, OrderState};
use mantel_protocol::blob::BlobId;
use mantel_protocol::ids::{CustomerId, DeliveryId, GrantId, HomeId, OrderId, TitleId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::MediaKind;
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::receipt::Path;
use mantel_protocol::restriction::{Initiative, Side};
use mantel_runtime::db::Schema;
use rusqlite::{Connection, Params, Row, params};

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "orders",
    steps: &[include_str!("schema.sql")],
};

/// An order as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Which.
    pub id: OrderId,
    /// Its delivery.
    pub delivery: DeliveryId,
    /// Who called.
    pub initiator: HomeId,
    /// The title.
    pub title: TitleId,
    /// How it was offered.
    pub mode: TitleMode,
    /// Its kind.
    pub kind: MediaKind,
    /// Its name; `None`: private.
    pub title_name: Option<String>,
    /// Who sends.
    pub sender: HomeId,
    /// The gateway that sends.
    pub sender_device: DeviceId,
    /// Who receives.
    pub receiver: HomeId,
    /// The gateway that receives.
    pub receiver_device: DeviceId,
    /// Who pays.
    pub payer: HomeId,
    /// From which account.
    pub payer_customer: CustomerId,
    /// To which account.
    pub publisher_customer: CustomerId,
    /// Who started it.
    pub initiative: Initiative,
    /// Minor units.
    pub price_minor: i64,
    /// What the price buys.
    pub terms: Terms,
    /// The one path that the requester allows.
    pub path_limit: Option<Path>,
    /// Where it is.
    pub state: OrderState,
    /// What is wrong.
    pub problem: Option<String>,
    /// Sealed size.
    pub total_bytes: u64,
    /// At the receiver, as of the last grant.
    pub done_bytes: u64,
    /// How many grants it has had.
    pub grants_issued: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// Its blobs.
    pub blobs: Vec<BlobEntry>,
}

const ORDER: &str =
    "SELECT o.*, (SELECT COALESCE(CAST(SUM(b.done_bytes) AS BIGINT), 0) FROM order_blobs b
        WHERE b.order_id = o.id) AS done_bytes FROM orders o";

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: parsed(row, "id")?,
        delivery: parsed(row, "delivery")?,
        initiator: parsed(row, "initiator")?,
        title: parsed(row, "title")?,
        mode: word(row, "mode")?,
        kind: word(row, "kind")?,
        title_name: row.get("title_name")?,
        sender: parsed(row, "sender")?,
        sender_device: parsed(row, "sender_device")?,
        receiver: parsed(row, "receiver")?,
        receiver_device: parsed(row, "receiver_device")?,
        payer: parsed(row, "payer")?,
        payer_customer: parsed(row, "payer_customer")?,
        publisher_customer: parsed(row, "publisher_customer")?,
        initiative: word(row, "initiative")?,
        price_minor: row.get("price_minor")?,
        terms: json(row, "terms")?,
        path_limit: word_or_null(row, "path_limit")?,
        state: word(row, "state")?,
        problem: row.get("problem")?,
        total_bytes: count(row, "total_bytes")?,
        done_bytes: count(row, "done_bytes")?,
        grants_issued: row.get("grants_issued")?,
        created: time(row, "created_ms")?,
        updated: time(row, "updated_ms")?,
        blobs: Vec::new(),
    })
}

fn select<P: Params>(c: &Connection, filter: &str, values: P) -> Result<Vec<Order>> {
    let mut orders = all(c, &format!("{ORDER} {filter}"), values, order)?;
    for order in &mut orders {
        let sql =
            "SELECT blob, sealed_bytes FROM order_blobs WHERE order_id = $1 ORDER BY position";
        order.blobs = all(c, sql, [order.id.to_string()], |row| {
            Ok(BlobEntry {
                blob: parsed(row, "blob")?,
                sealed_bytes: count(row, "sealed_bytes")?,
            })
        })?;
    }
    Ok(orders)
}

/// One order.
pub fn find(c: &Connection, id: OrderId) -> Result<Option<Order>> {
    Ok(select(c, "WHERE o.id = $1", [id.to_string()])?.pop())
}

/// The order of a delivery.
pub fn of_delivery(c: &Connection, id: DeliveryId) -> Result<Option<Order>> {
    Ok(select(c, "WHERE o.delivery = $1", [id.to_string()])?.pop())
}

/// The order of an initiator's idempotency key, and the hash of its request.
pub fn of_key(c: &Connection, initiator: HomeId, key: &str) -> Result<Option<(OrderId, String)>> {
    let sql = "SELECT id, request_hash FROM orders WHERE initiator = $1 AND idempotency_key = $2";
    one(c, sql, (initiator.to_string(), key), |row| {
        Ok((parsed(row, "id")?, row.get("request_hash")?))
    })
}

/// The active order of a title for a home.
pub fn active_of(c: &Connection, title: TitleId, receiver: HomeId) -> Result<Option<OrderId>> {
    let sql = "SELECT id FROM orders WHERE title = $1 AND receiver = $2 AND ended_ms IS NULL";
    one(c, sql, (title.to_string(), receiver.to_string()), |row| {
        parsed(row, "id")
    })
}

/// Orders in which a home sends, receives or pays, newest first.
pub fn of_home(c: &Connection, home: HomeId, limit: u32) -> Result<Vec<Order>> {
    let filter =
        "WHERE o.sender = $1 OR o.receiver = $1 OR o.payer = $1 ORDER BY o.id DESC LIMIT $2";
    select(c, filter, (home.to_string(), limit))
}

/// Active orders that a home is to serve, oldest first.
pub fn to_send(c: &Connection, home: HomeId, limit: u32) -> Result<Vec<Order>> {
    select(
        c,
        "WHERE o.sender = $1 AND o.ended_ms IS NULL ORDER BY o.id LIMIT $2",
        (home.to_string(), limit),
    )
}

/// All active orders, oldest first.
pub fn active(c: &Connection) -> Result<Vec<Order>> {
    select(c, "WHERE o.ended_ms IS NULL ORDER BY o.id", ())
}

/// How many orders are on their way to a home.
pub fn active_count(c: &Connection, receiver: HomeId) -> Result<u64> {
    let sql = "SELECT COUNT(*) AS n FROM orders WHERE receiver = $1 AND ended_ms IS NULL";
    Ok(one(c, sql, [receiver.to_string()], |row| count(row, "n"))?.unwrap_or(0))
}

/// Writes a new order.
pub fn insert(c: &Connection, it: &Order, key: &str, request_hash: &str) -> Result<()> {
    let id = it.id.to_string();
    run(
        c,
        "INSERT INTO orders (id, delivery, initiator, idempotency_key, request_hash, title, mode, kind, title_name, sender,
            sender_device, receiver, receiver_device, payer, payer_customer, publisher_customer, initiative, price_minor,
            terms, path_limit, state, total_bytes, relayed_bytes, grants_issued, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, 0, 0,
            $23, $23)",
        params![
            id,
            it.delivery.to_string(),
            it.initiator.to_string(),
            key,
            request_hash,
            it.title.to_string(),
            to_word(&it.mode),
            it.kind.as_str(),
            it.title_name,
            it.sender.to_string(),
            it.sender_device.to_string(),
            it.receiver.to_string(),
            it.receiver_device.to_string(),
            it.payer.to_string(),
            it.payer_customer.to_string(),
            it.publisher_customer.to_string(),
            to_word(&it.initiative),
            it.price_minor,
            to_json(&it.terms),
            it.path_limit.map(Path::as_str),
            it.state.as_str(),
            big(it.total_bytes),
            ms(it.created),
        ],
    )?;
    for (position, blob) in it.blobs.iter().enumerate() {
        let sql = "INSERT INTO order_blobs (order_id, position, blob, sealed_bytes, done_bytes) VALUES ($1, $2, $3, $4, 0)";
        run(
            c,
            sql,
            (
                &id,
                position as i64,
                blob.blob.to_string(),
                big(blob.sealed_bytes),
            ),
        )?;
    }
    Ok(())
}

/// Moves an order to a state.
pub fn set_state(c: &Connection, id: OrderId, state: OrderState, now: Timestamp) -> Result<()> {
    let sql = "UPDATE orders SET state = $2, updated_ms = $3, ended_ms = $4 WHERE id = $1";
    run(
        c,
        sql,
        (
            id.to_string(),
            state.as_str(),
            ms(now),
            state.is_final().then_some(ms(now)),
        ),
    )?;
    Ok(())
}

/// Shows a problem, or none.
pub fn set_problem(c: &Connection, id: OrderId, problem: Option<&str>) -> Result<()> {
    run(
        c,
        "UPDATE orders SET problem = $2 WHERE id = $1",
        (id.to_string(), problem),
    )?;
    Ok(())
}

/// Notes which way the last bytes came.
pub fn set_path(c: &Connection, id: OrderId, path: Path) -> Result<()> {
    run(
        c,
        "UPDATE orders SET path = $2 WHERE id = $1",
        (id.to_string(), path.as_str()),
    )?;
    Ok(())
}

/// A grant to be stored.
pub struct NewGrant<'a> {
    /// Which.
    pub id: GrantId,
    /// For which order.
    pub order: OrderId,
    /// For which blob.
    pub blob: BlobId,
    /// What it allows.
    pub max_bytes: u64,
    /// How much of the blob the receiver has.
    pub done_bytes: u64,
    /// The signed token.
    pub token: &'a str,
    /// When it ends.
    pub expires: Timestamp,
}

/// Stores a grant; the older ones of its blob end.
pub fn add_grant(c: &Connection, it: &NewGrant<'_>, now: Timestamp) -> Result<()> {
    let (order, blob) = (it.order.to_string(), it.blob.to_string());
    let end = "UPDATE grants SET ended_ms = $3, ended_why = 'a newer grant was issued'
         WHERE order_id = $1 AND blob = $2 AND ended_ms IS NULL";
    run(c, end, (&order, &blob, ms(now)))?;
    run(
        c,
        "INSERT INTO grants (id, order_id, blob, max_bytes, relayed_bytes, relay_wanted, token, issued_ms, expires_ms)
         VALUES ($1, $2, $3, $4, 0, 0, $5, $6, $7)",
        (it.id.to_string(), &order, &blob, big(it.max_bytes), it.token, ms(now), ms(it.expires)),
    )?;
    let done = "UPDATE order_blobs SET done_bytes = $3 WHERE order_id = $1 AND blob = $2";
    run(c, done, (&order, &blob, big(it.done_bytes)))?;
    run(
        c,
        "UPDATE orders SET grants_issued = grants_issued + 1 WHERE id = $1",
        [&order],
    )?;
    Ok(())
}

/// Ends all grants of an order.
pub fn end_grants(c: &Connection, order: OrderId, why: &str, now: Timestamp) -> Result<()> {
    let sql =
        "UPDATE grants SET ended_ms = $2, ended_why = $3 WHERE order_id = $1 AND ended_ms IS NULL";
    run(c, sql, (order.to_string(), ms(now), why))?;
    Ok(())
}

/// Notes that the receiver waits at the relay with its newest grant; `false`: it has none that holds.
pub fn want_relay(c: &Connection, order: OrderId, now: Timestamp) -> Result<bool> {
    let sql =
        "UPDATE grants SET relay_wanted = 1 WHERE id = (SELECT id FROM grants WHERE order_id = $1
         AND ended_ms IS NULL AND expires_ms > $2 ORDER BY issued_ms DESC, id DESC LIMIT 1)";
    Ok(run(c, sql, (order.to_string(), ms(now)))? == 1)
}

/// The newest grant with which the receiver waits at the relay.
pub fn relay_grant(c: &Connection, order: OrderId, now: Timestamp) -> Result<Option<String>> {
    let sql =
        "SELECT token FROM grants WHERE order_id = $1 AND relay_wanted = 1 AND ended_ms IS NULL
         AND expires_ms > $2 ORDER BY issued_ms DESC, id DESC LIMIT 1";
    one(c, sql, (order.to_string(), ms(now)), |row| row.get(0))
}

/// How much was relayed under a grant, and whether it still holds; `None`: no such grant.
pub fn grant_standing(c: &Connection, id: GrantId) -> Result<Option<(u64, bool)>> {
    let sql = "SELECT relayed_bytes, ended_ms FROM grants WHERE id = $1";
    one(c, sql, [id.to_string()], |row| {
        Ok((
            count(row, "relayed_bytes")?,
            row.get::<_, Option<i64>>("ended_ms")?.is_none(),
        ))
    })
}

/// Adds what was relayed under a grant.
pub fn add_relayed(c: &Connection, id: GrantId, bytes: u64) -> Result<()> {
    let (id, bytes) = (id.to_string(), big(bytes));
    run(
        c,
        "UPDATE grants SET relayed_bytes = relayed_bytes + $2 WHERE id = $1",
        (&id, bytes),
    )?;
    let sql = "UPDATE orders SET relayed_bytes = relayed_bytes + $2
         WHERE id = (SELECT order_id FROM grants WHERE id = $1)";
    run(c, sql, (&id, bytes))?;
    Ok(())
}

/// Whether a grant was issued for this blob of this order.
pub fn is_grant_of(c: &Connection, id: GrantId, order: OrderId, blob: BlobId) -> Result<bool> {
    let sql = "SELECT 1 FROM grants WHERE id = $1 AND order_id = $2 AND blob = $3";
    Ok(one(
        c,
        sql,
        (id.to_string(), order.to_string(), blob.to_string()),
        |_| Ok(()),
    )?
    .is_some())
}

/// Stores a receipt, and that its blob is whole.
pub fn add_receipt(c: &Connection, order: OrderId, it: &ReceiptRow) -> Result<()> {
    let order = order.to_string();
    let sql = "INSERT INTO receipts (hash, order_id, blob, bytes, path, token, at_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    run(
        c,
        sql,
        (
            &it.hash,
            &order,
            it.blob.to_string(),
            big(it.bytes),
            it.path.as_str(),
            &it.token,
            ms(it.at),
        ),
    )?;
    let done = "UPDATE order_blobs SET done_bytes = sealed_bytes WHERE order_id = $1 AND blob = $2";
    run(c, done, (&order, it.blob.to_string()))?;
    Ok(())
}

/// An order's receipts.
pub fn receipts(c: &Connection, order: OrderId) -> Result<Vec<ReceiptRow>> {
    let sql = "SELECT hash, blob, bytes, path, token, at_ms FROM receipts WHERE order_id = $1 ORDER BY at_ms, hash";
    all(c, sql, [order.to_string()], |row| {
        Ok(ReceiptRow {
            hash: row.get("hash")?,
            blob: parsed(row, "blob")?,
            bytes: count(row, "bytes")?,
            path: word(row, "path")?,
            token: row.get("token")?,
            at: time(row, "at_ms")?,
        })
    })
}

/// An order's grants, oldest first.
pub fn grants(c: &Connection, order: OrderId) -> Result<Vec<GrantRow>> {
    let sql = "SELECT id, blob, max_bytes, relayed_bytes, issued_ms, expires_ms, ended_ms, ended_why FROM grants
         WHERE order_id = $1 ORDER BY issued_ms, id";
    all(c, sql, [order.to_string()], |row| {
        Ok(GrantRow {
            id: parsed(row, "id")?,
            blob: parsed(row, "blob")?,
            max_bytes: count(row, "max_bytes")?,
            relayed_bytes: count(row, "relayed_bytes")?,
            issued: time(row, "issued_ms")?,
            expires: time(row, "expires_ms")?,
            ended: time_or_null(row, "ended_ms")?,
            ended_why: row.get("ended_why")?,
        })
    })
}

/// How many sealed bytes a home moved on a side since `since`: settled orders whole, what arrived of those that were
/// called off, and whole those under way that are older than `before`.
pub fn used(
    c: &Connection,
    home: HomeId,
    side: Side,
    since: Timestamp,
    before: Option<OrderId>,
) -> Result<u64> {
    let column = match side {
        Side::Sender => "sender",
        Side::Receiver => "receiver",
    };
    let sql = format!(
        "SELECT COALESCE(CAST(SUM(CASE
            WHEN o.state IN ('held', 'delivering', 'settled') THEN o.total_bytes
            WHEN o.relayed_bytes >= o.total_bytes THEN o.total_bytes
            WHEN o.relayed_bytes > o.done THEN o.relayed_bytes
            ELSE o.done END) AS BIGINT), 0) AS used
         FROM (SELECT p.*, (SELECT COALESCE(SUM(b.done_bytes), 0) FROM order_blobs b WHERE b.order_id = p.id) AS done
            FROM orders p WHERE p.{column} = $1) o
         WHERE o.ended_ms > $2 OR (o.ended_ms IS NULL AND ($3 = '' OR o.id < $3))"
    );
    let before = before.map(|id| id.to_string()).unwrap_or_default();
    Ok(one(c, &sql, (home.to_string(), ms(since), before), |row| {
        count(row, "used")
    })?
    .unwrap_or(0))
}

const DELIVERY: &str = "SELECT o.id, o.delivery, o.title, o.title_name, o.sender, s.name AS sender_name, o.receiver,
        r.name AS receiver_name, o.payer, p.name AS payer_name, o.initiative, o.price_minor, o.state, o.problem,
        o.total_bytes, o.relayed_bytes, o.path, o.created_ms, o.updated_ms,
        (SELECT COALESCE(CAST(SUM(b.done_bytes) AS BIGINT), 0) FROM order_blobs b WHERE b.order_id = o.id) AS done_bytes
     FROM orders o JOIN homes s ON s.id = o.sender JOIN homes r ON r.id = o.receiver JOIN homes p ON p.id = o.payer";

/// Which orders a list shows.
pub enum Shown {
    /// Those under way.
    Active,
    /// All.
    All,
    /// One.
    Only(OrderId),
}

/// Orders as the operator sees them, newest first.
pub fn rows(
    c: &Connection,
    shown: &Shown,
    currency: Currency,
    limit: u32,
) -> Result<Vec<DeliveryRow>> {
    let (filter, only) = match shown {
        Shown::Active => ("o.ended_ms IS NULL AND $1 = ''", String::new()),
        Shown::All => ("$1 = ''", String::new()),
        Shown::Only(id) => ("o.id = $1", id.to_string()),
    };
    let sql = format!("{DELIVERY} WHERE {filter} ORDER BY o.id DESC LIMIT $2");
    all(c, &sql, (only, limit), |row| {
        let named = |id: &str, name: &str| -> rusqlite::Result<Named> {
            Ok(Named {
                id: parsed(row, id)?,
                name: row.get(name)?,
            })
        };
        Ok(DeliveryRow {
            order: parsed(row, "id")?,
            delivery: parsed(row, "delivery")?,
            title: parsed(row, "title")?,
            title_name: row.get("title_name")?,
            sender: named("sender", "sender_name")?,
            receiver: named("receiver", "receiver_name")?,
            payer: named("payer", "payer_name")?,
            initiative: word(row, "initiative")?,
            price: Money::new(row.get("price_minor")?, currency),
            state: word(row, "state")?,
            problem: row.get("problem")?,
            total_bytes: count(row, "total_bytes")?,
            bytes_done: count(row, "done_bytes")?,
            relayed_bytes: count(row, "relayed_bytes")?,
            rate: 0,
            path: word_or_null(row, "path")?,
            created: time(row, "created_ms")?,
            updated: time(row, "updated_ms")?,
        })
    })
}
