//! The SQL of customers, homes and claim codes. Each function runs inside its caller's transaction.

use super::{ClaimCode, CustomerRow, Home, Standing};
use crate::db::{all, ms, one, parsed, run, time};
use crate::error::Result;
use jiff::Timestamp;
use mantel_protocol::ids::{CustomerId, HomeId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::money::{Currency, Money};
use mantel_runtime::db::Schema;
use rusqlite::{Connection, Row};

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "customers",
    steps: &[include_str!("schema.sql")],
};

const HOME: &str =
    "SELECT h.id, h.customer, h.name, h.device, h.seal_key, c.name AS customer_name, c.suspended
     FROM homes h JOIN customers c ON c.id = h.customer WHERE h.removed_ms IS NULL";

fn home(row: &Row<'_>) -> rusqlite::Result<Home> {
    Ok(Home {
        home: parsed(row, "id")?,
        customer: parsed(row, "customer")?,
        customer_name: row.get("customer_name")?,
        name: row.get("name")?,
        device: parsed(row, "device")?,
        seal_key: parsed(row, "seal_key")?,
        active: row.get::<_, i64>("suspended")? == 0,
    })
}

/// The home of an enrolled gateway.
pub fn by_device(c: &Connection, device: DeviceId) -> Result<Option<Home>> {
    one(
        c,
        &format!("{HOME} AND h.device = $1"),
        [device.to_string()],
        home,
    )
}

/// A home that was not removed.
pub fn by_id(c: &Connection, id: HomeId) -> Result<Option<Home>> {
    one(c, &format!("{HOME} AND h.id = $1"), [id.to_string()], home)
}

/// All homes that were not removed, by name; at most [`super::MAX_HOMES`].
pub fn homes(c: &Connection) -> Result<Vec<Home>> {
    all(
        c,
        &format!("{HOME} ORDER BY h.name, h.id LIMIT $1"),
        [super::MAX_HOMES],
        home,
    )
}

/// The gateways of all homes that were not removed.
pub fn devices(c: &Connection) -> Result<Vec<DeviceId>> {
    let sql = "SELECT device FROM homes WHERE removed_ms IS NULL ORDER BY id";
    all(c, sql, [], |row| parsed(row, "device"))
}

/// The homes of one customer that were not removed.
pub fn homes_of(c: &Connection, customer: CustomerId) -> Result<Vec<Home>> {
    all(
        c,
        &format!("{HOME} AND h.customer = $1 ORDER BY h.name, h.id"),
        [customer.to_string()],
        home,
    )
}

/// A home's name, removed or not.
pub fn name_of(c: &Connection, id: HomeId) -> Result<Option<String>> {
    one(
        c,
        "SELECT name FROM homes WHERE id = $1",
        [id.to_string()],
        |row| row.get(0),
    )
}

/// The customer of a home, removed or not, and whether the account is in good standing.
pub fn customer_of(c: &Connection, id: HomeId) -> Result<Option<CustomerId>> {
    one(
        c,
        "SELECT customer FROM homes WHERE id = $1",
        [id.to_string()],
        |row| parsed(row, "customer"),
    )
}

/// Adds a customer.
pub fn add_customer(
    c: &Connection,
    id: CustomerId,
    name: &str,
    contact: &str,
    now: Timestamp,
) -> Result<()> {
    run(
        c,
        "INSERT INTO customers (id, name, contact, suspended, note, created_ms) VALUES ($1, $2, $3, 0, '', $4)",
        (id.to_string(), name, contact, ms(now)),
    )?;
    Ok(())
}

/// Changes what a customer is called; `false`: there is none.
pub fn edit_customer(c: &Connection, id: CustomerId, name: &str, contact: &str) -> Result<bool> {
    let sql = "UPDATE customers SET name = $2, contact = $3 WHERE id = $1";
    Ok(run(c, sql, (id.to_string(), name, contact))? == 1)
}

/// Suspends or reopens an account; `false`: there is none.
pub fn set_standing(
    c: &Connection,
    id: CustomerId,
    standing: Standing,
    note: &str,
) -> Result<bool> {
    let suspended = i64::from(standing == Standing::Suspended);
    let sql = "UPDATE customers SET suspended = $2, note = $3 WHERE id = $1";
    Ok(run(c, sql, (id.to_string(), suspended, note))? == 1)
}

/// Customers with their balances, by name; one customer where `only` names it.
pub fn customers(
    c: &Connection,
    only: Option<CustomerId>,
    currency: Currency,
) -> Result<Vec<CustomerRow>> {
    let sql = "SELECT c.id, c.name, c.contact, c.suspended, c.note, c.created_ms,
            (SELECT COUNT(*) FROM homes h WHERE h.customer = c.id AND h.removed_ms IS NULL) AS homes,
            COALESCE((SELECT a.balance_minor FROM ledger_accounts a WHERE a.customer = c.id AND a.role = 'available'), 0)
                AS available,
            COALESCE((SELECT a.balance_minor FROM ledger_accounts a WHERE a.customer = c.id AND a.role = 'held'), 0)
                AS held
         FROM customers c WHERE $1 = '' OR c.id = $1 ORDER BY c.name, c.id LIMIT $2";
    let only = only.map(|id| id.to_string()).unwrap_or_default();
    all(c, sql, (only, super::MAX_CUSTOMERS), |row| {
        let suspended: i64 = row.get("suspended")?;
        Ok(CustomerRow {
            id: parsed(row, "id")?,
            name: row.get("name")?,
            contact: row.get("contact")?,
            standing: if suspended == 0 {
                Standing::Active
            } else {
                Standing::Suspended
            },
            note: row.get("note")?,
            homes: row.get("homes")?,
            available: Money::new(row.get("available")?, currency),
            held: Money::new(row.get("held")?, currency),
            created: time(row, "created_ms")?,
        })
    })
}

/// What is written when a gateway enrols.
pub struct Enrolment<'a> {
    /// The home: a new one, or the one that this gateway has already.
    pub home: HomeId,
    /// Whose.
    pub customer: CustomerId,
    /// What the household calls itself.
    pub name: &'a str,
    /// The gateway.
    pub device: DeviceId,
    /// Its key for encryption.
    pub seal_key: &'a str,
    /// Its serial number.
    pub serial: Option<&'a str>,
    /// Its MAC addresses.
    pub macs: &'a [String],
    /// The code that it used.
    pub code: &'a str,
    /// When.
    pub now: Timestamp,
}

/// Writes an enrolment and uses up its code.
pub fn enrol(c: &Connection, it: &Enrolment<'_>) -> Result<()> {
    let home = it.home.to_string();
    run(
        c,
        "INSERT INTO homes (id, customer, name, device, seal_key, serial, enrolled_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id) DO UPDATE SET name = excluded.name, seal_key = excluded.seal_key, serial = excluded.serial",
        (&home, it.customer.to_string(), it.name, it.device.to_string(), it.seal_key, it.serial, ms(it.now)),
    )?;
    run(c, "DELETE FROM home_macs WHERE home = $1", [&home])?;
    for mac in it.macs {
        let sql =
            "INSERT INTO home_macs (home, mac) VALUES ($1, $2) ON CONFLICT (home, mac) DO NOTHING";
        run(c, sql, (&home, mac))?;
    }
    run(
        c,
        "UPDATE claim_codes SET home = $2 WHERE code = $1",
        (it.code, &home),
    )?;
    Ok(())
}

/// Renames a home; `false`: there is none.
pub fn rename_home(c: &Connection, id: HomeId, name: &str) -> Result<bool> {
    let sql = "UPDATE homes SET name = $2 WHERE id = $1 AND removed_ms IS NULL";
    Ok(run(c, sql, (id.to_string(), name))? == 1)
}

/// Takes an enrolment back, and returns whose gateway it was; `None`: there is none.
pub fn remove_home(c: &Connection, id: HomeId, now: Timestamp) -> Result<Option<DeviceId>> {
    let sql =
        "UPDATE homes SET removed_ms = $2 WHERE id = $1 AND removed_ms IS NULL RETURNING device";
    one(c, sql, (id.to_string(), ms(now)), |row| {
        parsed(row, "device")
    })
}

/// A claim code as stored, and who used it.
pub fn code(c: &Connection, code: &str) -> Result<Option<(ClaimCode, Option<HomeId>)>> {
    let sql =
        "SELECT code, customer, created_ms, expires_ms, home FROM claim_codes WHERE code = $1";
    one(c, sql, [code], |row| {
        Ok((claim_code(row)?, crate::db::parsed_or_null(row, "home")?))
    })
}

fn claim_code(row: &Row<'_>) -> rusqlite::Result<ClaimCode> {
    Ok(ClaimCode {
        code: row.get("code")?,
        customer: parsed(row, "customer")?,
        created: time(row, "created_ms")?,
        expires: time(row, "expires_ms")?,
    })
}

/// A customer's codes that may still be used, newest first.
pub fn open_codes(c: &Connection, customer: CustomerId, now: Timestamp) -> Result<Vec<ClaimCode>> {
    let sql = "SELECT code, customer, created_ms, expires_ms FROM claim_codes
         WHERE customer = $1 AND home IS NULL AND expires_ms > $2 ORDER BY created_ms DESC";
    all(c, sql, (customer.to_string(), ms(now)), claim_code)
}

/// Adds a claim code; `false`: it exists already.
pub fn add_code(c: &Connection, it: &ClaimCode) -> Result<bool> {
    let sql =
        "INSERT INTO claim_codes (code, customer, created_ms, expires_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT (code) DO NOTHING";
    Ok(run(
        c,
        sql,
        (
            &it.code,
            it.customer.to_string(),
            ms(it.created),
            ms(it.expires),
        ),
    )? == 1)
}

/// Deletes a code that nobody used; `false`: there is none.
pub fn remove_code(c: &Connection, code: &str) -> Result<bool> {
    Ok(run(
        c,
        "DELETE FROM claim_codes WHERE code = $1 AND home IS NULL",
        [code],
    )? == 1)
}
