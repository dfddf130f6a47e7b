//! The tables of senders and of the folders that they see: the only SQL about them.

use super::folder::{Entry, FolderError, MAX_ENTRIES};
use super::{Sender, SenderId};
use jiff::Timestamp;
use mantel_protocol::ids::TitleId;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

type Sql<T> = rusqlite::Result<T>;

const DAY_MS: i64 = 24 * 3_600_000;

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or_default()
}

fn sender_from(row: &Row<'_>) -> Sql<Sender> {
    Ok(Sender {
        id: SenderId(row.get("id")?),
        name: row.get("name")?,
        user: row.get("user")?,
        created: time(row.get("created_at_ms")?),
        used: row.get::<_, Option<i64>>("used_at_ms")?.map(time),
        used_by: row.get("used_by")?,
        day_limit_bytes: row.get::<_, i64>("day_limit_bytes")? as u64,
        sent_files: row.get::<_, i64>("sent_files")? as u64,
        sent_bytes: row.get::<_, i64>("sent_bytes")? as u64,
        problem: None,
    })
}

/// All senders, by name.
pub(super) fn senders(db: &Connection) -> Sql<Vec<Sender>> {
    let mut query = db.prepare_cached("SELECT * FROM upload_senders ORDER BY name, id")?;
    query.query_map([], sender_from)?.collect()
}

/// The sender of a user name and its password's PHC string.
pub(super) fn by_user(db: &Connection, user: &str) -> Sql<Option<(SenderId, String)>> {
    let mut query = db.prepare_cached("SELECT id, phc FROM upload_senders WHERE user = $1")?;
    query
        .query_row([user], |row| Ok((SenderId(row.get(0)?), row.get(1)?)))
        .optional()
}

/// Adds a sender; `false`: there are `most` already, or the user name is taken.
pub(super) fn add(tx: &Transaction<'_>, sender: &Sender, phc: &str, most: usize) -> Sql<bool> {
    let count: i64 = tx.query_row("SELECT count(*) FROM upload_senders", [], |row| row.get(0))?;
    if count as usize >= most {
        return Ok(false);
    }
    let added = tx.execute(
        "INSERT INTO upload_senders (id, name, user, phc, created_at_ms, used_at_ms, used_by, day_limit_bytes, day,
             day_bytes, sent_files, sent_bytes)
         VALUES ($1, $2, $3, $4, $5, NULL, NULL, $6, 0, 0, 0, 0) ON CONFLICT (user) DO NOTHING",
        rusqlite::params![
            sender.id.0,
            sender.name,
            sender.user,
            phc,
            sender.created.as_millisecond(),
            i64::try_from(sender.day_limit_bytes).unwrap_or(i64::MAX),
        ],
    )?;
    Ok(added == 1)
}

/// Removes a sender and the names of what it sent; titles stay.
pub(super) fn remove(tx: &Transaction<'_>, id: &SenderId) -> Sql<bool> {
    tx.execute("DELETE FROM upload_entries WHERE sender = $1", [&id.0])?;
    Ok(tx.execute("DELETE FROM upload_senders WHERE id = $1", [&id.0])? == 1)
}

/// Notes a log-in.
pub(super) fn note_use(tx: &Transaction<'_>, id: &SenderId, by: &str, now: Timestamp) -> Sql<()> {
    tx.execute(
        "UPDATE upload_senders SET used_at_ms = $1, used_by = $2 WHERE id = $3",
        rusqlite::params![now.as_millisecond(), by, id.0],
    )
    .map(drop)
}

/// What a sender may still send today, bytes. `None`: it was revoked.
pub(super) fn room_today(db: &Connection, id: &SenderId, now: Timestamp) -> Sql<Option<u64>> {
    let today = now.as_millisecond().div_euclid(DAY_MS);
    let mut query = db.prepare_cached(
        "SELECT day_limit_bytes, CASE WHEN day = $1 THEN day_bytes ELSE 0 END FROM upload_senders WHERE id = $2",
    )?;
    let found = query
        .query_row(rusqlite::params![today, id.0], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    Ok(found.map(|(limit, used)| limit.saturating_sub(used).max(0) as u64))
}

/// Counts bytes that arrived, also of files that were not kept.
pub(super) fn count(
    tx: &Transaction<'_>,
    id: &SenderId,
    files: u64,
    bytes: u64,
    now: Timestamp,
) -> Sql<()> {
    let today = now.as_millisecond().div_euclid(DAY_MS);
    tx.execute(
        "UPDATE upload_senders SET day_bytes = CASE WHEN day = $1 THEN day_bytes ELSE 0 END + $2, day = $1,
             sent_files = sent_files + $3, sent_bytes = sent_bytes + $2 WHERE id = $4",
        rusqlite::params![today, bytes as i64, files as i64, id.0],
    )
    .map(drop)
}

fn entry_from(row: &Row<'_>) -> Sql<Entry> {
    let title: Option<String> = row.get("title")?;
    Ok(Entry {
        path: row.get("path")?,
        folder: row.get::<_, i64>("folder")? != 0,
        size: row.get::<_, i64>("size_bytes")? as u64,
        modified: time(row.get("modified_at_ms")?),
        title: title.and_then(|title| title.parse::<TitleId>().ok()),
        fresh: row.get::<_, i64>("fresh")? != 0,
    })
}

/// One entry; the root is always there.
pub(super) fn entry(db: &Connection, id: &SenderId, path: &str) -> Sql<Option<Entry>> {
    if path.is_empty() {
        return Ok(Some(Entry::root()));
    }
    let mut query =
        db.prepare_cached("SELECT * FROM upload_entries WHERE sender = $1 AND path = $2")?;
    query.query_row([&id.0, path], entry_from).optional()
}

/// What is in a folder, by name.
pub(super) fn list(db: &Connection, id: &SenderId, path: &str) -> Sql<Vec<Entry>> {
    let mut query = db.prepare_cached(
        "SELECT * FROM upload_entries WHERE sender = $1 AND parent = $2 ORDER BY path",
    )?;
    query.query_map([&id.0, path], entry_from)?.collect()
}

/// Refuses where the parent of `path` is not a folder.
fn check_parent(db: &Connection, id: &SenderId, path: &str) -> Result<(), FolderError> {
    match entry(db, id, parent_of(path))? {
        Some(parent) if parent.folder => Ok(()),
        _ => Err(FolderError::NoFolder),
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Writes an entry over one of the same name. When the folder is full the oldest file's name is forgotten; folders
/// without number are refused.
pub(super) fn put(tx: &Transaction<'_>, id: &SenderId, entry: &Entry) -> Result<(), FolderError> {
    check_parent(tx, id, &entry.path)?;
    tx.execute(
        "INSERT INTO upload_entries (sender, path, parent, folder, size_bytes, modified_at_ms, title, fresh)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (sender, path) DO UPDATE SET folder = excluded.folder, size_bytes = excluded.size_bytes,
             modified_at_ms = excluded.modified_at_ms, title = excluded.title, fresh = excluded.fresh",
        rusqlite::params![
            id.0,
            entry.path,
            parent_of(&entry.path),
            i64::from(entry.folder),
            entry.size as i64,
            entry.modified.as_millisecond(),
            entry.title.map(|title| title.to_string()),
            i64::from(entry.fresh),
        ],
    )?;
    let count: i64 = tx.query_row(
        "SELECT count(*) FROM upload_entries WHERE sender = $1",
        [&id.0],
        |row| row.get(0),
    )?;
    let over = count - MAX_ENTRIES as i64;
    if over <= 0 {
        return Ok(());
    }
    let forgotten = tx.execute(
        "DELETE FROM upload_entries WHERE sender = $1 AND path IN
             (SELECT path FROM upload_entries WHERE sender = $1 AND folder = 0 AND path <> $2
              ORDER BY modified_at_ms, path LIMIT $3)",
        rusqlite::params![id.0, entry.path, over],
    )?;
    if (forgotten as i64) < over {
        return Err(FolderError::TooMany);
    }
    Ok(())
}

/// Takes a name away; a folder must be empty.
pub(super) fn delete(
    tx: &Transaction<'_>,
    id: &SenderId,
    path: &str,
    folder: bool,
) -> Result<(), FolderError> {
    let found = entry(tx, id, path)?.ok_or(FolderError::NotFound)?;
    if found.folder != folder || path.is_empty() {
        return Err(FolderError::WrongKind);
    }
    if folder && !list(tx, id, path)?.is_empty() {
        return Err(FolderError::NotEmpty);
    }
    tx.execute(
        "DELETE FROM upload_entries WHERE sender = $1 AND path = $2",
        [&id.0, path],
    )?;
    Ok(())
}

/// Gives a file or a folder, with all in it, another path; a file there is replaced. Gives the entry as it was.
pub(super) fn rename(
    tx: &Transaction<'_>,
    id: &SenderId,
    from: &str,
    to: &str,
) -> Result<Entry, FolderError> {
    let found = entry(tx, id, from)?.ok_or(FolderError::NotFound)?;
    let inside = to.starts_with(&format!("{from}/"));
    if from.is_empty() || to.is_empty() || inside {
        return Err(FolderError::WrongKind);
    }
    if from == to {
        return Ok(found);
    }
    check_parent(tx, id, to)?;
    match entry(tx, id, to)? {
        Some(there) if there.folder || found.folder => return Err(FolderError::Exists),
        Some(_) => delete(tx, id, to, false)?,
        None => {}
    }
    let mut query = tx.prepare_cached(
        "SELECT path FROM upload_entries WHERE sender = $1 AND (path = $2 OR substr(path, 1, length($3)) = $3)",
    )?;
    let below = format!("{from}/");
    let paths: Vec<String> = query
        .query_map([&id.0, from, &below], |row| row.get(0))?
        .collect::<Sql<_>>()?;
    for path in paths {
        let moved = super::folder::clean_path(&format!("{to}{}", &path[from.len()..]))?;
        tx.execute(
            "UPDATE upload_entries SET path = $1, parent = $2 WHERE sender = $3 AND path = $4",
            [&moved, parent_of(&moved), &id.0, &path],
        )?;
    }
    Ok(found)
}
