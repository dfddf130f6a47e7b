//! The password and the sessions: the only SQL of the pages. Owner of `web_password` and `web_session`; a crash loses
//! nothing that was answered.

use mantel_runtime::db::{Db, DbError, Schema};
use rusqlite::{OptionalExtension as _, Row};

/// The tables of the pages.
pub const SCHEMA: Schema = Schema {
    module: "web",
    steps: &[include_str!("schema.sql")],
};

/// The most sessions kept; one more ends the one unused for longest.
const MAX_SESSIONS: i64 = 200;
/// A session unused for this long has ended, seconds (400 days, what browsers grant a cookie).
pub const SESSION_IDLE_S: i64 = 400 * 86_400;
/// How exactly the last use is kept, seconds: spares the disk a write per page.
const SEEN_STEP_S: i64 = 3_600;

/// Who holds a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// A browser that knew the password: everything but the admin area.
    Household,
    /// A television let in by code: the ten-foot pages only.
    Television,
}

impl SessionKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Household => "household",
            Self::Television => "television",
        }
    }
}

/// A session as stored.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// Names it on a page.
    pub id: String,
    /// Who holds it.
    pub kind: SessionKind,
    /// Browser or television.
    pub label: String,
    /// Begun, Unix seconds.
    pub created_s: i64,
    /// Last used, Unix seconds.
    pub seen_s: i64,
    /// The admin area is open until then, Unix seconds.
    pub admin_until_s: i64,
}

fn session(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let kind: String = row.get(1)?;
    Ok(SessionRow {
        id: row.get(0)?,
        kind: match kind.as_str() {
            "household" => SessionKind::Household,
            _ => SessionKind::Television,
        },
        label: row.get(2)?,
        created_s: row.get(3)?,
        seen_s: row.get(4)?,
        admin_until_s: row.get(5)?,
    })
}

const COLUMNS: &str = "id, kind, label, created_s, seen_s, admin_until_s";

/// The stored password hash; `None` before first use.
pub async fn password(db: &Db) -> Result<Option<String>, DbError> {
    db.read(|c| {
        Ok(
            c.query_row("SELECT phc FROM web_password WHERE one = 1", [], |row| {
                row.get(0)
            })
            .optional()?,
        )
    })
    .await
}

/// Stores the first password; `false` if there is one already.
pub async fn set_first_password(db: &Db, phc: String, now_s: i64) -> Result<bool, DbError> {
    db.write(move |tx| {
        let rows = tx.execute(
            "INSERT INTO web_password (one, phc, changed_s) VALUES (1, $1, $2) ON CONFLICT (one) DO NOTHING",
            (phc, now_s),
        )?;
        Ok(rows == 1)
    })
    .await
}

/// Replaces the password and ends every session but `keep`.
pub async fn change_password(
    db: &Db,
    phc: String,
    keep: String,
    now_s: i64,
) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "UPDATE web_password SET phc = $1, changed_s = $2 WHERE one = 1",
            (phc, now_s),
        )?;
        tx.execute(
            "DELETE FROM web_session WHERE id <> $1 AND kind = 'household'",
            [keep],
        )?;
        Ok(())
    })
    .await
}

/// Stores a new session, ending those over the limit and those unused for too long.
pub async fn add_session(db: &Db, row: SessionRow, token_hash: String) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute("DELETE FROM web_session WHERE seen_s < $1", [row.created_s - SESSION_IDLE_S])?;
        tx.execute(
            "DELETE FROM web_session WHERE id IN
             (SELECT id FROM web_session ORDER BY seen_s DESC, created_s DESC LIMIT -1 OFFSET $1)",
            [MAX_SESSIONS - 1],
        )?;
        tx.execute(
            "INSERT INTO web_session (id, token_hash, kind, label, created_s, seen_s, admin_until_s)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            (row.id, token_hash, row.kind.as_str(), row.label, row.created_s, row.seen_s, row.admin_until_s),
        )?;
        Ok(())
    })
    .await
}

/// The session of a token, unless it was unused for too long; notes its use.
pub async fn session_of(
    db: &Db,
    token_hash: String,
    now_s: i64,
) -> Result<Option<SessionRow>, DbError> {
    let found: Option<SessionRow> = db
        .read(move |c| {
            let sql = format!("SELECT {COLUMNS} FROM web_session WHERE token_hash = $1");
            Ok::<_, DbError>(c.query_row(&sql, [token_hash], session).optional()?)
        })
        .await?;
    let Some(row) = found.filter(|row| now_s - row.seen_s < SESSION_IDLE_S) else {
        return Ok(None);
    };
    if now_s - row.seen_s >= SEEN_STEP_S {
        let id = row.id.clone();
        db.write(move |tx| {
            tx.execute(
                "UPDATE web_session SET seen_s = $1 WHERE id = $2",
                (now_s, id),
            )?;
            Ok::<_, DbError>(())
        })
        .await?;
    }
    Ok(Some(row))
}

/// Opens the admin area for a session.
pub async fn open_admin(db: &Db, id: String, until_s: i64) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "UPDATE web_session SET admin_until_s = $1 WHERE id = $2",
            (until_s, id),
        )?;
        Ok(())
    })
    .await
}

/// Ends a session; `false` if there is none of that id.
pub async fn end_session(db: &Db, id: String) -> Result<bool, DbError> {
    db.write(move |tx| Ok(tx.execute("DELETE FROM web_session WHERE id = $1", [id])? == 1))
        .await
}

/// All sessions, last used first.
pub async fn sessions(db: &Db) -> Result<Vec<SessionRow>, DbError> {
    db.read(|c| {
        let sql = format!("SELECT {COLUMNS} FROM web_session ORDER BY seen_s DESC, created_s DESC");
        let mut query = c.prepare(&sql)?;
        let rows = query.query_map([], session)?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
    .await
}
