//! The library's tables (`schema.sql`): the only SQL about titles, assets, keys, thumbnails and blobs.

use super::shelf::{self, Tags};
use super::{Found, Matches, Origin, Title, TitleState, Wanted};
use jiff::Timestamp;
use mantel_protocol::blob::BlobId;
use mantel_protocol::ids::TitleId;
use mantel_protocol::key::DeviceId;
use mantel_protocol::manifest::{Asset, MediaKind};
use mantel_protocol::seal::Cipher;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;

type Sql<T> = rusqlite::Result<T>;

/// A new title with all that is stored beside it.
pub(super) struct NewTitle {
    pub(super) title: Title,
    pub(super) origin_key: String,
    pub(super) content_mark: Option<String>,
    pub(super) keys: Vec<(BlobId, Vec<u8>)>,
    pub(super) thumbnail: Option<Vec<u8>>,
    pub(super) imported: Option<Imported>,
    pub(super) tags: Tags,
}

/// Where an import came from.
#[derive(Clone)]
pub(super) struct Imported {
    pub(super) device_key: String,
    pub(super) remote_id: String,
    pub(super) size_bytes: Option<u64>,
}

impl Imported {
    fn stored_size(&self) -> i64 {
        self.size_bytes
            .and_then(|size| i64::try_from(size).ok())
            .unwrap_or(-1)
    }
}

fn bad(column: &'static str, text: &str) -> rusqlite::Error {
    let what = FromSqlError::Other(format!("{column} holds {text:?}").into());
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(what))
}

fn parsed<T: FromStr>(row: &Row<'_>, column: &'static str) -> Sql<T> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| bad(column, &text))
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or_default()
}

fn number<T: TryFrom<i64>>(row: &Row<'_>, column: &'static str) -> Sql<Option<T>> {
    let value: Option<i64> = row.get(column)?;
    Ok(value.and_then(|value| T::try_from(value).ok()))
}

fn cipher_word(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::ChaCha20Poly1305 => "chacha20-poly1305",
        Cipher::Aes256Gcm => "aes256-gcm",
    }
}

fn cipher_from(word: &str) -> Sql<Cipher> {
    match word {
        "chacha20-poly1305" => Ok(Cipher::ChaCha20Poly1305),
        "aes256-gcm" => Ok(Cipher::Aes256Gcm),
        other => Err(bad("cipher", other)),
    }
}

fn title_from(row: &Row<'_>) -> Sql<Title> {
    let kind: String = row.get("kind")?;
    let state: String = row.get("state")?;
    let origin: String = row.get("origin")?;
    let origin_name: String = row.get("origin_name")?;
    Ok(Title {
        id: parsed(row, "id")?,
        name: row.get("name")?,
        kind: MediaKind::from_word(&kind).ok_or_else(|| bad("kind", &kind))?,
        origin: match origin.as_str() {
            "own" => Origin::Own {
                device: origin_name,
            },
            "home" => Origin::Home {
                home: parsed(row, "origin_key")?,
                name: origin_name,
            },
            other => return Err(bad("origin", other)),
        },
        state: match state.as_str() {
            "arriving" => TitleState::Arriving,
            "ready" => TitleState::Ready,
            other => return Err(bad("state", other)),
        },
        recorded: row.get::<_, Option<i64>>("recorded_at_ms")?.map(time),
        added: time(row.get("added_at_ms")?),
        assets: Vec::new(),
        publisher: parsed::<DeviceId>(row, "publisher")?,
        manifest: row.get("manifest")?,
        note: row.get("note")?,
    })
}

fn asset_from(row: &Row<'_>) -> Sql<Asset> {
    Ok(Asset {
        blob: parsed(row, "blob")?,
        sealed_bytes: number(row, "sealed_bytes")?.unwrap_or(0),
        plain_bytes: number(row, "plain_bytes")?.unwrap_or(0),
        mime: row.get("mime")?,
        cipher: cipher_from(&row.get::<_, String>("cipher")?)?,
        duration_ms: number(row, "duration_ms")?,
        width: number(row, "width")?,
        height: number(row, "height")?,
        codecs: row.get("codecs")?,
    })
}

/// The size of all complete blobs, bytes.
pub(super) fn used_bytes(db: &Connection) -> Sql<u64> {
    let mut query = db.prepare_cached("SELECT COALESCE(sum(size_bytes), 0) FROM blobs")?;
    query.query_row([], |row| Ok(row.get::<_, i64>(0)? as u64))
}

/// All titles, newest first.
pub(super) fn list(db: &Connection) -> Sql<Vec<Title>> {
    let mut assets: HashMap<String, Vec<Asset>> = HashMap::new();
    let mut query = db.prepare_cached("SELECT * FROM assets ORDER BY title, position")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        assets
            .entry(row.get("title")?)
            .or_default()
            .push(asset_from(row)?);
    }
    let mut query = db.prepare_cached("SELECT * FROM titles ORDER BY added_at_ms DESC, id DESC")?;
    let mut titles = query.query_map([], title_from)?.collect::<Sql<Vec<_>>>()?;
    for title in &mut titles {
        title.assets = assets.remove(&title.id.to_string()).unwrap_or_default();
    }
    Ok(titles)
}

/// Shows every title to `matches`, newest first.
pub(super) fn matching(db: &Connection, wanted: &Wanted, matches: &mut Matches) -> Sql<()> {
    let mut query = db.prepare_cached(
        "SELECT id, name, kind, state FROM titles ORDER BY added_at_ms DESC, id DESC",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let text = |column: usize| -> Sql<&str> { Ok(row.get_ref(column)?.as_str()?) };
        let kind = text(2)?;
        let found = Found {
            id: parsed(row, "id")?,
            kind: MediaKind::from_word(kind).ok_or_else(|| bad("kind", kind))?,
            ready: text(3)? == "ready",
        };
        matches.take(wanted, text(1)?, found);
    }
    Ok(())
}

/// How many titles there are and how much of them is stored, sealed, bytes.
pub(super) fn totals(db: &Connection) -> Sql<(u64, u64)> {
    let mut query = db.prepare_cached(
        "SELECT (SELECT count(*) FROM titles), (SELECT COALESCE(sum(sealed_bytes), 0) FROM assets)",
    )?;
    query.query_row([], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
    })
}

/// Whether a title is stored.
pub(super) fn is_there(db: &Connection, id: TitleId) -> Sql<bool> {
    let mut query = db.prepare_cached("SELECT 1 FROM titles WHERE id = $1")?;
    query.exists([id.to_string()])
}

/// One title.
pub(super) fn title(db: &Connection, id: TitleId) -> Sql<Option<Title>> {
    let mut query = db.prepare_cached("SELECT * FROM titles WHERE id = $1")?;
    let Some(mut title) = query.query_row([id.to_string()], title_from).optional()? else {
        return Ok(None);
    };
    let mut query = db.prepare_cached("SELECT * FROM assets WHERE title = $1 ORDER BY position")?;
    title.assets = query
        .query_map([id.to_string()], asset_from)?
        .collect::<Sql<_>>()?;
    Ok(Some(title))
}

/// Writes a title that is not there yet. `Ok(None)`: written; otherwise the title that has the same content.
pub(super) fn insert(tx: &Transaction<'_>, new: &NewTitle) -> Sql<Option<TitleId>> {
    if let Some(mark) = &new.content_mark
        && let Some(other) = by_content(tx, mark)?
    {
        if let Some(imported) = &new.imported {
            note_import(tx, imported, other)?;
        }
        return Ok(Some(other));
    }
    let title = &new.title;
    let (origin, origin_name) = match &title.origin {
        Origin::Own { device } => ("own", device),
        Origin::Home { name, .. } => ("home", name),
    };
    let state = match title.state {
        TitleState::Ready => "ready",
        TitleState::Arriving | TitleState::Importing => "arriving",
    };
    tx.execute(
        "INSERT INTO titles (id, name, kind, origin, origin_key, origin_name, state, recorded_at_ms, added_at_ms,
             publisher, manifest, note, content_mark)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        rusqlite::params![
            title.id.to_string(),
            title.name,
            title.kind.as_str(),
            origin,
            new.origin_key,
            origin_name,
            state,
            title.recorded.map(Timestamp::as_millisecond),
            title.added.as_millisecond(),
            title.publisher.to_string(),
            title.manifest,
            title.note,
            new.content_mark,
        ],
    )?;
    for (position, asset) in title.assets.iter().enumerate() {
        insert_asset(tx, title.id, position, asset)?;
    }
    for (blob, sealed) in &new.keys {
        put_key(tx, title.id, *blob, sealed)?;
    }
    if let Some(sealed) = &new.thumbnail {
        put_thumbnail(tx, title.id, sealed)?;
    }
    if let Some(imported) = &new.imported {
        note_import(tx, imported, title.id)?;
    }
    shelf::put(tx, title.id, &new.tags)?;
    Ok(None)
}

fn insert_asset(tx: &Transaction<'_>, title: TitleId, position: usize, asset: &Asset) -> Sql<()> {
    tx.execute(
        "INSERT INTO assets (title, position, blob, sealed_bytes, plain_bytes, mime, cipher, duration_ms, width,
             height, codecs)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        rusqlite::params![
            title.to_string(),
            position as i64,
            asset.blob.to_string(),
            asset.sealed_bytes as i64,
            asset.plain_bytes as i64,
            asset.mime,
            cipher_word(asset.cipher),
            asset.duration_ms.map(|ms| ms as i64),
            asset.width,
            asset.height,
            asset.codecs,
        ],
    )
    .map(drop)
}

/// The title that has this content.
pub(super) fn by_content(db: &Connection, mark: &str) -> Sql<Option<TitleId>> {
    let mut query = db.prepare_cached("SELECT id FROM titles WHERE content_mark = $1")?;
    query.query_row([mark], |row| parsed(row, "id")).optional()
}

/// Remembers what was imported from where.
pub(super) fn note_import(tx: &Connection, imported: &Imported, title: TitleId) -> Sql<()> {
    tx.execute(
        "INSERT INTO imported (device_key, remote_id, size_bytes, title) VALUES ($1, $2, $3, $4)
         ON CONFLICT (device_key, remote_id, size_bytes) DO UPDATE SET title = excluded.title",
        (
            &imported.device_key,
            &imported.remote_id,
            imported.stored_size(),
            title.to_string(),
        ),
    )
    .map(drop)
}

/// The title that was imported from there.
pub(super) fn by_import(db: &Connection, imported: &Imported) -> Sql<Option<TitleId>> {
    let mut query = db.prepare_cached(
        "SELECT title FROM imported WHERE device_key = $1 AND remote_id = $2 AND size_bytes = $3",
    )?;
    let key = (
        &imported.device_key,
        &imported.remote_id,
        imported.stored_size(),
    );
    query.query_row(key, |row| parsed(row, "title")).optional()
}

/// The device's objects that are in the library.
pub(super) fn imported_from(db: &Connection, device_key: &str) -> Sql<BTreeSet<String>> {
    let mut query = db.prepare_cached("SELECT remote_id FROM imported WHERE device_key = $1")?;
    query.query_map([device_key], |row| row.get(0))?.collect()
}

/// Removes a title. Returns the blobs that no other title has: their rows are gone, their files may go.
pub(super) fn remove(tx: &Transaction<'_>, id: TitleId) -> Sql<Vec<BlobId>> {
    let id = id.to_string();
    let mut query = tx.prepare_cached(
        "SELECT DISTINCT blob FROM assets WHERE title = $1
         AND blob NOT IN (SELECT blob FROM assets WHERE title <> $1)",
    )?;
    let blobs: Vec<BlobId> = query
        .query_map([&id], |row| parsed(row, "blob"))?
        .collect::<Sql<_>>()?;
    for table in ["assets", "title_keys", "thumbnails", "imported"] {
        tx.execute(&format!("DELETE FROM {table} WHERE title = $1"), [&id])?;
    }
    shelf::remove(tx, &id)?;
    tx.execute("DELETE FROM titles WHERE id = $1", [&id])?;
    for blob in &blobs {
        tx.execute("DELETE FROM blobs WHERE id = $1", [blob.to_string()])?;
    }
    Ok(blobs)
}

/// Gives a title another name; `false`: there is none.
pub(super) fn rename(tx: &Transaction<'_>, id: TitleId, name: &str) -> Sql<bool> {
    shelf::rename(tx, id, name)?;
    tx.execute(
        "UPDATE titles SET name = $1 WHERE id = $2",
        (name, id.to_string()),
    )
    .map(|n| n > 0)
}

/// How many of the title's blobs are not complete.
pub(super) fn missing_blobs(db: &Connection, id: TitleId) -> Sql<u32> {
    let mut query = db.prepare_cached(
        "SELECT COUNT(*) FROM assets WHERE title = $1 AND blob NOT IN (SELECT id FROM blobs)",
    )?;
    query.query_row([id.to_string()], |row| row.get(0))
}

/// Marks a title as ready; `false`: it was already, or there is none.
pub(super) fn set_ready(tx: &Transaction<'_>, id: TitleId) -> Sql<bool> {
    let sql = "UPDATE titles SET state = 'ready' WHERE id = $1 AND state <> 'ready'";
    let changed = tx.execute(sql, [id.to_string()])? > 0;
    shelf::put(tx, id, &Tags::default())?;
    Ok(changed)
}

/// Stores a sealed content key.
pub(super) fn put_key(
    tx: &Transaction<'_>,
    title: TitleId,
    blob: BlobId,
    sealed: &[u8],
) -> Sql<()> {
    tx.execute(
        "INSERT INTO title_keys (title, blob, sealed) VALUES ($1, $2, $3)
         ON CONFLICT (title, blob) DO UPDATE SET sealed = excluded.sealed",
        (title.to_string(), blob.to_string(), sealed),
    )
    .map(drop)
}

/// A sealed content key.
pub(super) fn key(db: &Connection, title: TitleId, blob: BlobId) -> Sql<Option<Vec<u8>>> {
    let mut query =
        db.prepare_cached("SELECT sealed FROM title_keys WHERE title = $1 AND blob = $2")?;
    query
        .query_row((title.to_string(), blob.to_string()), |row| row.get(0))
        .optional()
}

/// Stores a sealed thumbnail.
pub(super) fn put_thumbnail(tx: &Transaction<'_>, title: TitleId, sealed: &[u8]) -> Sql<()> {
    shelf::note_picture(tx, title)?;
    tx.execute(
        "INSERT INTO thumbnails (title, sealed) VALUES ($1, $2)
         ON CONFLICT (title) DO UPDATE SET sealed = excluded.sealed",
        (title.to_string(), sealed),
    )
    .map(drop)
}

/// A sealed thumbnail.
pub(super) fn thumbnail(db: &Connection, title: TitleId) -> Sql<Option<Vec<u8>>> {
    let mut query = db.prepare_cached("SELECT sealed FROM thumbnails WHERE title = $1")?;
    query
        .query_row([title.to_string()], |row| row.get(0))
        .optional()
}

/// Notes that all bytes of a blob are here and durable.
pub(super) fn put_blob(tx: &Connection, blob: BlobId, size: u64, now: Timestamp) -> Sql<()> {
    tx.execute(
        "INSERT INTO blobs (id, size_bytes, completed_at_ms) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
        (blob.to_string(), size as i64, now.as_millisecond()),
    )
    .map(drop)
}

/// The size of a complete blob.
pub(super) fn blob_size(db: &Connection, blob: BlobId) -> Sql<Option<u64>> {
    let mut query = db.prepare_cached("SELECT size_bytes FROM blobs WHERE id = $1")?;
    query
        .query_row([blob.to_string()], |row| row.get::<_, i64>(0))
        .optional()
        .map(|n| n.map(|n| n as u64))
}

/// Blobs that a title names or that are complete: their files are kept.
pub(super) fn known_blobs(db: &Connection) -> Sql<BTreeSet<BlobId>> {
    let mut query =
        db.prepare_cached("SELECT blob AS blob FROM assets UNION SELECT id AS blob FROM blobs")?;
    query.query_map([], |row| parsed(row, "blob"))?.collect()
}
