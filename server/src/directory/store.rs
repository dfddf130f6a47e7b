//! The SQL of the directory.

use super::{Found, HomeRow};
use crate::db::{all, big, json_or_null, ms, parsed, run, time, time_or_null, to_json};
use crate::error::Result;
use jiff::Timestamp;
use mantel_protocol::ids::HomeId;
use mantel_runtime::db::Schema;
use rusqlite::{Connection, Params, Row};
use std::net::SocketAddr;

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "directory",
    steps: &[include_str!("schema.sql")],
};

/// Writes a gateway's report.
pub fn report(
    c: &Connection,
    home: HomeId,
    addresses: &[SocketAddr],
    observed: &str,
    free_bytes: u64,
    version: &str,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO presence (home, addresses, observed, free_bytes, version, last_seen_ms)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (home) DO UPDATE SET addresses = excluded.addresses, observed = excluded.observed,
            free_bytes = excluded.free_bytes, version = excluded.version, last_seen_ms = excluded.last_seen_ms";
    run(
        c,
        sql,
        (
            home.to_string(),
            to_json(&addresses),
            observed,
            big(free_bytes),
            version,
            ms(now),
        ),
    )?;
    Ok(())
}

fn row(row: &Row<'_>) -> rusqlite::Result<HomeRow> {
    let macs: Option<String> = row.get("macs")?;
    let mut macs: Vec<String> = macs
        .iter()
        .flat_map(|macs| macs.split(','))
        .map(str::to_owned)
        .collect();
    macs.sort();
    let free_bytes: Option<i64> = row.get("free_bytes")?;
    Ok(HomeRow {
        id: parsed(row, "id")?,
        customer: parsed(row, "customer")?,
        customer_name: row.get("customer_name")?,
        name: row.get("name")?,
        device: parsed(row, "device")?,
        seal_key: parsed(row, "seal_key")?,
        serial: row.get("serial")?,
        macs,
        enrolled: time(row, "enrolled_ms")?,
        active: row.get::<_, i64>("suspended")? == 0,
        online: false,
        last_seen: time_or_null(row, "last_seen_ms")?,
        addresses: json_or_null(row, "addresses")?.unwrap_or_default(),
        observed: row.get("observed")?,
        free_bytes: free_bytes.map(|bytes| bytes.max(0) as u64),
        version: row.get("version")?,
    })
}

/// Homes with where they are, by name; `filter` is a condition on `h` (homes), `c` (customers) and `p` (presence).
fn select<P: Params>(c: &Connection, filter: &str, params: P) -> Result<Vec<HomeRow>> {
    let sql = format!(
        "SELECT h.id, h.customer, h.name, h.device, h.seal_key, h.serial, h.enrolled_ms, c.name AS customer_name,
            c.suspended, p.addresses, p.observed, p.free_bytes, p.version, p.last_seen_ms,
            (SELECT GROUP_CONCAT(m.mac) FROM home_macs m WHERE m.home = h.id) AS macs
         FROM homes h JOIN customers c ON c.id = h.customer LEFT JOIN presence p ON p.home = h.id
         WHERE h.removed_ms IS NULL AND {filter} ORDER BY h.name, h.id LIMIT {}",
        crate::customers::MAX_HOMES
    );
    all(c, &sql, params, row)
}

/// All homes.
pub fn homes(c: &Connection) -> Result<Vec<HomeRow>> {
    select(c, "1 = 1", ())
}

/// The homes of one customer.
pub fn homes_of(c: &Connection, customer: &str) -> Result<Vec<HomeRow>> {
    select(c, "h.customer = $1", [customer])
}

/// One home.
pub fn home(c: &Connection, id: HomeId) -> Result<Option<HomeRow>> {
    Ok(select(c, "h.id = $1", [id.to_string()])?.pop())
}

/// The homes that an address names (F5).
pub fn look_up(c: &Connection, address: &Found) -> Result<Vec<HomeRow>> {
    match address {
        Found::Ip(ip) => {
            let ip = *ip;
            // Addresses are few per home; the text match narrows, the parsed address decides.
            let near = select(
                c,
                "(p.observed = $1 OR p.addresses LIKE '%' || $1 || '%')",
                [ip.to_string()],
            )?;
            let is_here = |row: &HomeRow| {
                row.observed.as_deref() == Some(ip.to_string().as_str())
                    || row.addresses.iter().any(|a| a.ip() == ip)
            };
            Ok(near.into_iter().filter(is_here).collect())
        }
        Found::Mac(mac) => select(
            c,
            "h.id IN (SELECT m.home FROM home_macs m WHERE m.mac = $1)",
            [mac],
        ),
        Found::Device(device) => select(c, "h.device = $1", [device.to_string()]),
        Found::Home(id) => select(c, "h.id = $1", [id.to_string()]),
        Found::Text(text) => select(c, "(LOWER(h.name) = LOWER($1) OR h.serial = $1)", [text]),
    }
}
