//! Shelves: titles in the orders in which players list them (`shelf.sql`), and the only SQL about that.
//!
//! A title is put on the shelf in the transaction that makes it ready, and leaves with it. A list is an ordered set of
//! row numbers, four bytes each, read from an index alone; [`Reader::each`] then hands out the rows of one page without
//! copying them. What another home's license forbids is not on any list ([`Library::set_listed`]): such a title is off
//! the lists until somebody who may judge says otherwise.

pub use super::lists::{
    Condition, Field, Group, Groups, MAX_TERMS, Order, Shelf, Slot, SortBy, Test,
};
use super::{Library, LibraryError};
use jiff::Timestamp;
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::MediaKind;
use mantel_runtime::db::DbError;
use rusqlite::types::{ToSql, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

type Sql<T> = rusqlite::Result<T>;

/// What music says of itself in its tags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags {
    /// Who plays.
    pub artist: Option<String>,
    /// The album.
    pub album: Option<String>,
    /// Who the album is by, where that differs from the track.
    pub album_by: Option<String>,
    /// Place on the album, from 1.
    pub track: Option<u32>,
}

/// A title as a list shows it; borrowed from the database while it is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShelfRow<'a> {
    /// Its number.
    pub slot: Slot,
    /// Its id, in words (`ttl_…`).
    pub title: &'a str,
    /// What it is.
    pub kind: MediaKind,
    /// Its name.
    pub name: &'a str,
    /// Who plays.
    pub artist: Option<&'a str>,
    /// The album.
    pub album: Option<&'a str>,
    /// Place on the album.
    pub track: Option<u32>,
    /// When it was recorded, Unix milliseconds.
    pub recorded_ms: Option<i64>,
    /// The MIME type of what is played.
    pub mime: &'a str,
    /// Size of what is played, bytes.
    pub bytes: u64,
    /// Running time, milliseconds.
    pub duration_ms: Option<u64>,
    /// Width and height, pixels.
    pub pixels: Option<(u32, u32)>,
    /// Whether there is a thumbnail.
    pub picture: bool,
}

/// What a group is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupName {
    /// Artist, album or home.
    pub name: String,
    /// Who the album is by.
    pub by: Option<String>,
}

const COLUMNS: &str = "id, title, kind, name, artist, album, track, recorded_at_ms, mime, plain_bytes, duration_ms, \
                       width, height, picture";

/// Looks at the shelf within one read of the database.
pub struct Reader<'a> {
    db: &'a Connection,
}

impl Library {
    /// Reads the shelf on a reader of the database; `job` sees one state of it throughout.
    pub async fn on_shelf<T, F>(&self, job: F) -> Result<T, LibraryError>
    where
        F: FnOnce(&Reader<'_>) -> Sql<T> + Send + 'static,
        T: Send + 'static,
    {
        let read = move |db: &Connection| Ok::<_, DbError>(job(&Reader { db })?);
        Ok(self.inner.db.read(read).await?)
    }

    /// Titles from other homes that are on the shelf, with whether they are listed.
    pub async fn foreign_on_shelf(&self) -> Result<Vec<(TitleId, bool)>, LibraryError> {
        let read = |db: &Connection| {
            let mut query =
                db.prepare_cached("SELECT title, listed FROM shelf WHERE home IS NOT NULL")?;
            let rows = query.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? == 1))
            })?;
            rows.filter_map(|row| match row {
                Ok((title, listed)) => title.parse().ok().map(|title| Ok((title, listed))),
                Err(error) => Some(Err(DbError::from(error))),
            })
            .collect::<Result<Vec<_>, _>>()
        };
        Ok(self.inner.db.read(read).await?)
    }

    /// Says which titles from other homes may be listed from now on.
    pub async fn set_listed(&self, changes: Vec<(TitleId, bool)>) -> Result<(), LibraryError> {
        if changes.is_empty() {
            return Ok(());
        }
        let write = move |tx: &Transaction<'_>| {
            let mut update = tx.prepare_cached("UPDATE shelf SET listed = ?1 WHERE title = ?2")?;
            for (title, listed) in &changes {
                update.execute((i64::from(*listed), title.to_string()))?;
            }
            Ok::<_, DbError>(())
        };
        self.inner.db.write(write).await?;
        self.changed();
        Ok(())
    }
}

/// The rows of a list: a condition and its parameters.
struct Where {
    sql: String,
    params: Vec<Box<dyn ToSql>>,
}

impl Reader<'_> {
    /// The rows of a list, in order. `None`: there is no such artist, album or home.
    pub fn ids(&self, shelf: Shelf, order: Order) -> Sql<Option<Vec<Slot>>> {
        let Some(rows) = self.rows_of(shelf)? else {
            return Ok(None);
        };
        let usual = match shelf {
            Shelf::Kind(_) | Shelf::Home(_) => "name, id",
            Shelf::Artist(_) => "album, track, name, id",
            Shelf::Album(_) => "track, name, id",
            Shelf::Month(..) => "recorded_at_ms, id",
        };
        self.collect(&rows, &sorted(usual, order)).map(Some)
    }

    /// The rows that meet a condition, of one list or of all.
    pub fn search(
        &self,
        within: Option<Shelf>,
        condition: &Condition,
        order: Order,
    ) -> Sql<Option<Vec<Slot>>> {
        let mut rows = match within {
            Some(shelf) => match self.rows_of(shelf)? {
                Some(rows) => rows,
                None => return Ok(None),
            },
            None => Where {
                sql: "listed = 1".to_owned(),
                params: Vec::new(),
            },
        };
        rows.sql.push_str(" AND ");
        compile(condition, &mut rows);
        self.collect(&rows, &sorted("name, id", order)).map(Some)
    }

    fn collect(&self, rows: &Where, order: &str) -> Sql<Vec<Slot>> {
        let sql = format!("SELECT id FROM shelf WHERE {} ORDER BY {order}", rows.sql);
        let mut query = self.db.prepare_cached(&sql)?;
        let params: Vec<&dyn ToSql> = rows.params.iter().map(AsRef::as_ref).collect();
        query.query_map(&params[..], |row| row.get(0))?.collect()
    }

    fn rows_of(&self, shelf: Shelf) -> Sql<Option<Where>> {
        let (sql, params): (&str, Vec<Box<dyn ToSql>>) = match shelf {
            Shelf::Kind(kind) => ("listed = 1 AND kind = ?1", vec![Box::new(kind.as_str())]),
            Shelf::Month(kind, 0) => (
                "listed = 1 AND kind = ?1 AND month IS NULL",
                vec![Box::new(kind.as_str())],
            ),
            Shelf::Month(kind, month) => (
                "listed = 1 AND kind = ?1 AND month = ?2",
                vec![Box::new(kind.as_str()), Box::new(month)],
            ),
            Shelf::Artist(slot) => match self.group_name(Groups::Artists, slot)? {
                Some(found) => (
                    "listed = 1 AND artist = ?1",
                    vec![Box::new(found.name) as Box<dyn ToSql>],
                ),
                None => return Ok(None),
            },
            Shelf::Album(slot) => match self.group_name(Groups::Albums, slot)? {
                Some(found) => (
                    "listed = 1 AND album = ?1 AND album_by IS ?2",
                    vec![Box::new(found.name) as Box<dyn ToSql>, Box::new(found.by)],
                ),
                None => return Ok(None),
            },
            Shelf::Home(slot) => {
                let home: Option<String> = self
                    .db
                    .prepare_cached("SELECT home FROM shelf WHERE id = ?1 AND home IS NOT NULL")?
                    .query_row([slot], |row| row.get(0))
                    .optional()?;
                match home {
                    Some(home) => (
                        "listed = 1 AND home IS NOT NULL AND home = ?1",
                        vec![Box::new(home) as Box<dyn ToSql>],
                    ),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(Where {
            sql: sql.to_owned(),
            params,
        }))
    }

    /// The groups of a list, in order.
    pub fn groups(&self, groups: Groups) -> Sql<Vec<Group>> {
        let (sql, kind) = match groups {
            Groups::Artists => (
                "SELECT MIN(id), COUNT(*) FROM shelf WHERE listed = 1 AND artist IS NOT NULL
                 GROUP BY artist ORDER BY artist",
                None,
            ),
            Groups::Albums => (
                "SELECT MIN(id), COUNT(*) FROM shelf WHERE listed = 1 AND album IS NOT NULL
                 GROUP BY album, album_by ORDER BY album, album_by",
                None,
            ),
            Groups::Months(kind) => (
                "SELECT COALESCE(month, 0), COUNT(*) FROM shelf WHERE listed = 1 AND kind = ?1
                 GROUP BY month ORDER BY month DESC",
                Some(kind.as_str()),
            ),
            Groups::Homes => (
                "SELECT MIN(id), COUNT(*) FROM shelf WHERE listed = 1 AND home IS NOT NULL
                 GROUP BY home ORDER BY MIN(home_name), home",
                None,
            ),
        };
        let mut query = self.db.prepare_cached(sql)?;
        let row = |row: &Row<'_>| {
            Ok(Group {
                key: row.get(0)?,
                titles: row.get(1)?,
            })
        };
        match kind {
            Some(kind) => query.query_map([kind], row)?.collect(),
            None => query.query_map([], row)?.collect(),
        }
    }

    /// Whether there is any title of a kind; of any kind from other homes where `kind` is none.
    pub fn any(&self, kind: Option<MediaKind>) -> Sql<bool> {
        let one = |row: &Row<'_>| row.get::<_, i64>(0);
        let found = match kind {
            Some(kind) => self
                .db
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM shelf WHERE listed = 1 AND kind = ?1)",
                )?
                .query_row([kind.as_str()], one)?,
            None => self
                .db
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM shelf WHERE listed = 1 AND home IS NOT NULL)",
                )?
                .query_row([], one)?,
        };
        Ok(found == 1)
    }

    /// What the group of a row is called; `None`: there is no such row, or it is in no such group.
    pub fn group_name(&self, groups: Groups, key: u32) -> Sql<Option<GroupName>> {
        let sql = match groups {
            Groups::Artists => {
                "SELECT artist, NULL FROM shelf WHERE id = ?1 AND artist IS NOT NULL"
            }
            Groups::Albums => {
                "SELECT album, album_by FROM shelf WHERE id = ?1 AND album IS NOT NULL"
            }
            Groups::Homes => {
                "SELECT COALESCE(home_name, 'Another home'), NULL FROM shelf WHERE id = ?1 AND home IS NOT NULL"
            }
            Groups::Months(_) => return Ok(None),
        };
        let mut query = self.db.prepare_cached(sql)?;
        let found = query.query_row([key], |row| {
            Ok(GroupName {
                name: row.get(0)?,
                by: row.get(1)?,
            })
        });
        found.optional()
    }

    /// Shows rows one after the other, in the order of `ids`; what is no longer listed is left out.
    pub fn each(&self, ids: &[Slot], mut look: impl FnMut(&ShelfRow<'_>)) -> Sql<()> {
        let sql = format!("SELECT {COLUMNS} FROM shelf WHERE id = ?1 AND listed = 1");
        let mut query = self.db.prepare_cached(&sql)?;
        for id in ids {
            let mut rows = query.query([id])?;
            if let Some(row) = rows.next()? {
                look(&row_of(row)?);
            }
        }
        Ok(())
    }
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Sql<Option<&'a str>> {
    Ok(row.get_ref(column)?.as_str_or_null()?)
}

fn number<T: TryFrom<i64>>(row: &Row<'_>, column: usize) -> Sql<Option<T>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(value) => T::try_from(value).ok(),
        _ => None,
    })
}

fn row_of<'a>(row: &'a Row<'_>) -> Sql<ShelfRow<'a>> {
    let words = |column| text(row, column).map(Option::unwrap_or_default);
    let (width, height): (Option<u32>, Option<u32>) = (number(row, 11)?, number(row, 12)?);
    Ok(ShelfRow {
        slot: row.get(0)?,
        title: words(1)?,
        kind: MediaKind::from_word(words(2)?).unwrap_or(MediaKind::Data),
        name: words(3)?,
        artist: text(row, 4)?,
        album: text(row, 5)?,
        track: number(row, 6)?,
        recorded_ms: number(row, 7)?,
        mime: words(8)?,
        bytes: number(row, 9)?.unwrap_or(0),
        duration_ms: number(row, 10)?,
        pixels: width.zip(height),
        picture: number::<i64>(row, 13)? == Some(1),
    })
}

fn sorted(usual: &'static str, order: Order) -> String {
    let columns = match order.by {
        SortBy::Usual => usual,
        SortBy::Name => "name, id",
        SortBy::Recorded => "recorded_at_ms, id",
        SortBy::Artist => "artist, album, track, name, id",
        SortBy::Album => "album, album_by, track, name, id",
        SortBy::Track => "track, name, id",
    };
    if order.descending {
        let each: Vec<String> = columns
            .split(", ")
            .map(|column| format!("{column} DESC"))
            .collect();
        each.join(", ")
    } else {
        columns.to_owned()
    }
}

/// A condition as SQL; every text is a parameter.
fn compile(condition: &Condition, into: &mut Where) {
    let field = |field: &Field| match field {
        Field::Name => "name",
        Field::Artist => "artist",
        Field::Album => "album",
        Field::Date => "strftime('%Y-%m-%d', recorded_at_ms / 1000, 'unixepoch')",
    };
    let mut list = |parts: &[Condition], word: &str, empty: &str| {
        if parts.is_empty() {
            into.sql.push_str(empty);
            return;
        }
        into.sql.push('(');
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                into.sql.push_str(word);
            }
            compile(part, into);
        }
        into.sql.push(')');
    };
    match condition {
        Condition::Const(all) => into.sql.push_str(if *all { "1 = 1" } else { "1 = 0" }),
        Condition::Foreign => into.sql.push_str("home IS NOT NULL"),
        Condition::And(parts) => list(parts, " AND ", "1 = 1"),
        Condition::Or(parts) => list(parts, " OR ", "1 = 0"),
        Condition::Kinds(kinds) => {
            let words: Vec<String> = kinds
                .iter()
                .map(|kind| format!("'{}'", kind.as_str()))
                .collect();
            into.sql.push_str("kind IN (");
            into.sql.push_str(&words.join(", "));
            into.sql.push(')');
        }
        Condition::Exists(which, wanted) => {
            into.sql.push_str(field(which));
            into.sql
                .push_str(if *wanted { " IS NOT NULL" } else { " IS NULL" });
        }
        Condition::Text(which, test, value) => {
            let column = field(which);
            let at = into.params.len() + 1;
            let (sql, like) = match test {
                Test::Is => (format!("{column} = ?{at}"), false),
                Test::IsNot => (format!("{column} IS NOT ?{at}"), false),
                Test::Before => (format!("{column} < ?{at}"), false),
                Test::UpTo => (format!("{column} <= ?{at}"), false),
                Test::After => (format!("{column} > ?{at}"), false),
                Test::From => (format!("{column} >= ?{at}"), false),
                Test::Contains => (format!("{column} LIKE ?{at} ESCAPE '\\'"), true),
                Test::Lacks => (
                    format!("COALESCE({column} NOT LIKE ?{at} ESCAPE '\\', 1)"),
                    true,
                ),
            };
            into.sql.push_str(&sql);
            into.params
                .push(Box::new(if like { pattern(value) } else { value.clone() }));
        }
    }
}

/// A LIKE pattern for a text inside another.
fn pattern(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('%');
    out
}

/// Puts a ready title on the shelf, from its own tables; one of another home is not listed until it is judged.
pub(super) fn put(tx: &Connection, id: TitleId, tags: &Tags) -> Sql<()> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO shelf (title, listed, kind, name, artist, album, album_by, track, recorded_at_ms, month, home,
             home_name, mime, plain_bytes, duration_ms, width, height, picture)
         SELECT t.id, CASE t.origin WHEN 'own' THEN 1 ELSE 0 END, t.kind, t.name, ?2, ?3, ?4, ?5, t.recorded_at_ms,
             CAST(strftime('%Y%m', t.recorded_at_ms / 1000, 'unixepoch') AS INTEGER),
             CASE t.origin WHEN 'home' THEN t.origin_key END, CASE t.origin WHEN 'home' THEN t.origin_name END,
             a.mime, a.plain_bytes, a.duration_ms, a.width, a.height,
             EXISTS (SELECT 1 FROM thumbnails WHERE thumbnails.title = t.id)
         FROM titles t JOIN assets a ON a.title = t.id AND a.position = 0
         WHERE t.id = ?1 AND t.state = 'ready' AND t.kind IN ('audio', 'image', 'video')
         ON CONFLICT (title) DO NOTHING",
    )?;
    let by = tags.album_by.as_ref().or(tags.artist.as_ref());
    insert
        .execute((id.to_string(), &tags.artist, &tags.album, by, tags.track))
        .map(drop)
}

/// Takes a title off the shelf.
pub(super) fn remove(tx: &Connection, id: &str) -> Sql<()> {
    tx.execute("DELETE FROM shelf WHERE title = ?1", [id])
        .map(drop)
}

/// Gives a title another name there.
pub(super) fn rename(tx: &Connection, id: TitleId, name: &str) -> Sql<()> {
    tx.execute(
        "UPDATE shelf SET name = ?1 WHERE title = ?2",
        (name, id.to_string()),
    )
    .map(drop)
}

/// Notes that there is a thumbnail.
pub(super) fn note_picture(tx: &Connection, id: TitleId) -> Sql<()> {
    tx.prepare_cached("UPDATE shelf SET picture = 1 WHERE title = ?1")?
        .execute([id.to_string()])
        .map(drop)
}

/// The month of a time, as the shelf numbers it.
pub fn month_of(time: Timestamp) -> u32 {
    let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    u32::try_from(date.year()).unwrap_or(0) * 100 + u32::from(date.month().unsigned_abs())
}
