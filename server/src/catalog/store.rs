//! The SQL of the catalog. Each function runs inside its caller's transaction.

use super::{By, Offering, Title, TitleMode, TitleRow, TitleState};
use crate::db::{all, big, count, json, ms, one, parsed, run, time, to_json, to_word, word};
use crate::error::Result;
use jiff::Timestamp;
use mantel_protocol::api::BlobEntry;
use mantel_protocol::envelope::Envelope;
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::license::Terms;
use mantel_protocol::money::{Currency, Money};
use mantel_runtime::db::Schema;
use rusqlite::{Connection, Params, Row};

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "catalog",
    steps: &[include_str!("schema.sql")],
};

const TITLE: &str = "SELECT t.id, t.publisher, t.publisher_device, t.mode, t.state, t.kind, t.name, t.manifest,
        t.price_minor, t.terms, t.poster, t.total_bytes, t.created_ms, t.updated_ms, h.name AS publisher_name
     FROM titles t JOIN homes h ON h.id = t.publisher";

fn title(row: &Row<'_>) -> rusqlite::Result<Title> {
    Ok(Title {
        id: parsed(row, "id")?,
        publisher: parsed(row, "publisher")?,
        publisher_device: parsed(row, "publisher_device")?,
        publisher_name: row.get("publisher_name")?,
        mode: word(row, "mode")?,
        state: word(row, "state")?,
        kind: word(row, "kind")?,
        name: row.get("name")?,
        manifest: row.get("manifest")?,
        price_minor: row.get("price_minor")?,
        terms: json(row, "terms")?,
        poster: row.get("poster")?,
        total_bytes: count(row, "total_bytes")?,
        blobs: Vec::new(),
    })
}

fn with_blobs(c: &Connection, mut titles: Vec<Title>) -> Result<Vec<Title>> {
    for title in &mut titles {
        title.blobs = blobs(c, title.id)?;
    }
    Ok(titles)
}

fn select<P: Params>(c: &Connection, filter: &str, params: P) -> Result<Vec<Title>> {
    with_blobs(c, all(c, &format!("{TITLE} {filter}"), params, title)?)
}

/// One title.
pub fn find(c: &Connection, id: TitleId) -> Result<Option<Title>> {
    Ok(select(c, "WHERE t.id = $1", [id.to_string()])?.pop())
}

/// A title's blobs, in order.
pub fn blobs(c: &Connection, id: TitleId) -> Result<Vec<BlobEntry>> {
    let sql = "SELECT blob, sealed_bytes FROM title_blobs WHERE title = $1 ORDER BY position";
    all(c, sql, [id.to_string()], |row| {
        Ok(BlobEntry {
            blob: parsed(row, "blob")?,
            sealed_bytes: count(row, "sealed_bytes")?,
        })
    })
}

/// What is offered in the catalog, newest first, and what is offered to or by this home.
pub fn for_home(c: &Connection, home: HomeId, limit: u32) -> Result<Vec<Title>> {
    let filter = "WHERE t.state = 'offered' AND h.removed_ms IS NULL AND (t.mode = 'catalog' OR t.publisher = $1
            OR EXISTS (SELECT 1 FROM title_audience a WHERE a.title = t.id AND a.home = $1))
         ORDER BY t.created_ms DESC, t.id DESC LIMIT $2";
    select(c, filter, (home.to_string(), limit))
}

/// A private title's envelope for one home.
pub fn envelope(c: &Connection, title: TitleId, home: HomeId) -> Result<Option<Envelope>> {
    let sql = "SELECT envelope FROM title_audience WHERE title = $1 AND home = $2";
    one(c, sql, (title.to_string(), home.to_string()), |row| {
        Ok(Envelope::from_text(row.get(0)?))
    })
}

/// The homes that a private title is for.
pub fn audience(c: &Connection, title: TitleId) -> Result<Vec<HomeId>> {
    let sql = "SELECT home FROM title_audience WHERE title = $1 ORDER BY home";
    all(c, sql, [title.to_string()], |row| parsed(row, "home"))
}

/// A catalog title's content keys, sealed to the vault.
pub fn vault_keys(c: &Connection, title: TitleId) -> Result<Option<Envelope>> {
    let sql = "SELECT vault_keys FROM titles WHERE id = $1";
    let text = one(c, sql, [title.to_string()], |row| {
        row.get::<_, Option<String>>(0)
    })?
    .flatten();
    Ok(text.map(Envelope::from_text))
}

/// Whether anyone ever ordered a title.
pub fn was_ordered(c: &Connection, title: TitleId) -> Result<bool> {
    let sql = "SELECT 1 FROM orders WHERE title = $1 LIMIT 1";
    Ok(one(c, sql, [title.to_string()], |_| Ok(()))?.is_some())
}

/// Writes an offer, new or again. Price and terms that the operator set stay.
pub fn publish(c: &Connection, it: &Offering, now: Timestamp) -> Result<()> {
    let id = it.title.to_string();
    run(
        c,
        "INSERT INTO titles (id, publisher, publisher_device, mode, state, operator_withdrawn, kind, name, manifest, vault_keys,
            price_minor, operator_price, terms, poster, total_bytes, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, 'offered', 0, $5, $6, $7, $8, $9, 0, $10, $11, $12, $13, $13)
         ON CONFLICT (id) DO UPDATE SET publisher_device = excluded.publisher_device, mode = excluded.mode,
            state = 'offered', kind = excluded.kind, updated_ms = excluded.updated_ms,
            total_bytes = excluded.total_bytes,
            name = COALESCE(excluded.name, titles.name), manifest = COALESCE(excluded.manifest, titles.manifest),
            vault_keys = COALESCE(excluded.vault_keys, titles.vault_keys),
            price_minor = CASE WHEN titles.operator_price = 1 OR excluded.mode = 'private'
                THEN titles.price_minor ELSE excluded.price_minor END,
            terms = CASE WHEN titles.operator_price = 1 OR excluded.mode = 'private'
                THEN titles.terms ELSE excluded.terms END,
            poster = CASE WHEN excluded.mode = 'private' THEN titles.poster ELSE excluded.poster END",
        rusqlite::params![
            id,
            it.publisher.to_string(),
            it.device.to_string(),
            to_word(&it.mode),
            it.kind.as_str(),
            it.name,
            it.manifest,
            it.vault_keys.as_ref().map(Envelope::as_str),
            it.price_minor,
            to_json(&it.terms),
            it.poster,
            big(it.blobs.iter().map(|blob| blob.sealed_bytes).fold(0, u64::saturating_add)),
            ms(now),
        ],
    )?;
    run(c, "DELETE FROM title_blobs WHERE title = $1", [&id])?;
    for (position, blob) in it.blobs.iter().enumerate() {
        let sql =
            "INSERT INTO title_blobs (title, position, blob, sealed_bytes) VALUES ($1, $2, $3, $4)";
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
    run(c, "DELETE FROM title_audience WHERE title = $1", [&id])?;
    for (home, envelope) in &it.audience {
        let sql = "INSERT INTO title_audience (title, home, envelope) VALUES ($1, $2, $3)";
        run(c, sql, (&id, home.to_string(), envelope.as_str()))?;
    }
    Ok(())
}

/// Offers or withdraws. What the operator withdrew, the publisher cannot offer again. `false`: there is no such title.
pub fn set_state(
    c: &Connection,
    id: TitleId,
    state: TitleState,
    by: By,
    now: Timestamp,
) -> Result<bool> {
    let sql = "UPDATE titles SET state = $2, updated_ms = $3, operator_withdrawn = CASE
            WHEN $4 = 1 AND $2 = 'withdrawn' THEN 1 WHEN $4 = 1 THEN 0 ELSE operator_withdrawn END WHERE id = $1";
    let by = i64::from(by == By::Operator);
    Ok(run(c, sql, (id.to_string(), to_word(&state), ms(now), by))? == 1)
}

/// Whether the operator withdrew a title.
pub fn is_operator_withdrawn(c: &Connection, id: TitleId) -> Result<bool> {
    let sql = "SELECT operator_withdrawn FROM titles WHERE id = $1";
    Ok(one(c, sql, [id.to_string()], |row| row.get::<_, i64>(0))? == Some(1))
}

/// Sets a catalog title's price, by the operator; `false`: there is no such catalog title.
pub fn set_price(c: &Connection, id: TitleId, minor: i64, now: Timestamp) -> Result<bool> {
    let sql = "UPDATE titles SET price_minor = $2, operator_price = 1, updated_ms = $3
         WHERE id = $1 AND mode = 'catalog'";
    Ok(run(c, sql, (id.to_string(), minor, ms(now)))? == 1)
}

/// Sets a catalog title's terms, by the operator; `false`: there is no such catalog title.
pub fn set_terms(c: &Connection, id: TitleId, terms: Terms, now: Timestamp) -> Result<bool> {
    let sql = "UPDATE titles SET terms = $2, operator_price = 1, updated_ms = $3
         WHERE id = $1 AND mode = 'catalog'";
    Ok(run(c, sql, (id.to_string(), to_json(&terms), ms(now)))? == 1)
}

/// Titles as the operator sees them, newest first; one where `only` names it.
pub fn rows(
    c: &Connection,
    only: Option<TitleId>,
    currency: Currency,
    limit: u32,
) -> Result<Vec<TitleRow>> {
    let sql = "SELECT t.id, t.name, t.kind, t.mode, t.state, t.publisher, h.name AS publisher_name, t.price_minor,
            t.terms, t.total_bytes, t.poster, t.created_ms, t.updated_ms,
            (SELECT COUNT(*) FROM title_audience a WHERE a.title = t.id) AS audience,
            (SELECT COUNT(*) FROM orders o WHERE o.title = t.id AND o.state = 'settled') AS settled
         FROM titles t JOIN homes h ON h.id = t.publisher
         WHERE $1 = '' OR t.id = $1 ORDER BY t.created_ms DESC, t.id DESC LIMIT $2";
    let only = only.map(|id| id.to_string()).unwrap_or_default();
    all(c, sql, (only, limit), |row| {
        let mode: TitleMode = word(row, "mode")?;
        let open = mode == TitleMode::Catalog;
        let terms: Terms = json(row, "terms")?;
        let price = Money::new(row.get("price_minor")?, currency);
        Ok(TitleRow {
            id: parsed(row, "id")?,
            name: if open { row.get("name")? } else { None },
            kind: word(row, "kind")?,
            mode,
            state: word(row, "state")?,
            publisher: parsed(row, "publisher")?,
            publisher_name: row.get("publisher_name")?,
            price: open.then_some(price),
            terms: open.then_some(terms),
            bytes: count(row, "total_bytes")?,
            poster: if open { row.get("poster")? } else { None },
            audience: row.get("audience")?,
            orders: row.get("settled")?,
            created: time(row, "created_ms")?,
            updated: time(row, "updated_ms")?,
        })
    })
}
