//! SQLite: one writer thread with group commit, and a few readers (STYLE §6.8).
//!
//! A write is a closure over a transaction. Closures that wait together are committed together, each in a savepoint of
//! its own, so that one fsync serves them all; a closure that fails rolls back alone. [`Db::write`] returns only after
//! the commit: what it acknowledged survives kill -9 and power loss (`synchronous=FULL`).
//! The SQL stays in the common subset of SQLite and PostgreSQL (`$1` parameters, `ON CONFLICT`, `RETURNING`): this
//! module is the seam at which the other database comes in.

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Waiting writes; more callers wait at [`Db::write`].
const WRITE_QUEUE: usize = 1_024;
/// The most writes in one commit.
const MAX_GROUP: usize = 256;
/// Readers at work at once.
const READERS: usize = 4;

/// What the first line of a migration begins with after which the release before can no longer use the tables.
const BREAKING: &str = "-- BREAKING";

/// One module's tables: its name and its migrations in order. A migration that has landed never changes.
///
/// An appliance whose update does not prove good goes back to the release before, which then meets a newer database
/// (F65). A migration therefore leaves what older programs read and write: it adds tables, and columns with defaults.
/// One that cannot is marked by `-- BREAKING` in its first line; older programs refuse the database after it, so it must
/// not land before a release that no longer needs what it breaks.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// The module, e.g. `ledger`.
    pub module: &'static str,
    /// SQL scripts; script *n* brings version *n* to *n* + 1.
    pub steps: &'static [&'static str],
}

/// Why the database was not opened or used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite refused.
    #[error("the database refused")]
    Sql(#[from] rusqlite::Error),
    /// The file was written by a newer version of the program.
    #[error(
        "the database was written by a newer version of this program ({module}: {found}, known: {known}); update"
    )]
    Newer {
        /// Which module.
        module: &'static str,
        /// Its version in the file.
        found: usize,
        /// The newest version known here.
        known: usize,
    },
    /// The writer has stopped; the process is ending.
    #[error("the database is closed")]
    Closed,
}

type Job = Box<dyn FnOnce(&Transaction<'_>) -> Done + Send>;
/// Whether to keep a job's changes, and how to tell its caller after the commit.
struct Done {
    keep: bool,
    tell: Box<dyn FnOnce(Result<(), rusqlite::Error>) + Send>,
}

/// A database; cheap to clone.
#[derive(Clone)]
pub struct Db {
    writes: mpsc::Sender<Job>,
    readers: Arc<Readers>,
}

struct Readers {
    path: PathBuf,
    idle: std::sync::Mutex<Vec<Connection>>,
    places: Semaphore,
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(())
}

impl Schema {
    /// How many migrations a program must know to use the tables.
    fn readable_from(&self) -> usize {
        let last = self
            .steps
            .iter()
            .rposition(|step| step.starts_with(BREAKING));
        last.map_or(usize::from(!self.steps.is_empty()), |index| index + 1)
    }
}

fn migrate(connection: &mut Connection, schemas: &[Schema]) -> Result<(), DbError> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version (module TEXT PRIMARY KEY, version BIGINT NOT NULL)",
    )?;
    if !connection.column_exists(None, "schema_version", "readable_from")? {
        connection.execute_batch(
            "ALTER TABLE schema_version ADD COLUMN readable_from BIGINT NOT NULL DEFAULT 1",
        )?;
    }
    for schema in schemas {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (found, readable_from) = tx
            .prepare("SELECT version, readable_from FROM schema_version WHERE module = $1")?
            .query_map([schema.module], |row| {
                Ok((
                    row.get::<_, i64>(0)? as usize,
                    row.get::<_, i64>(1)? as usize,
                ))
            })?
            .next()
            .transpose()?
            .unwrap_or_default();
        let known = schema.steps.len();
        if found > known && known < readable_from {
            return Err(DbError::Newer {
                module: schema.module,
                found,
                known,
            });
        }
        if found > known {
            tracing::warn!(
                module = schema.module,
                found,
                known,
                "a newer version of this program wrote the database; it is used as it is"
            );
            continue;
        }
        for step in &schema.steps[found..] {
            tx.execute_batch(step)?;
        }
        tx.execute(
            "INSERT INTO schema_version (module, version, readable_from) VALUES ($1, $2, $3)
             ON CONFLICT (module) DO UPDATE SET version = excluded.version, readable_from = excluded.readable_from",
            (schema.module, known as i64, schema.readable_from() as i64),
        )?;
        tx.commit()?;
    }
    Ok(())
}

impl Db {
    /// Opens or makes the database, brings every module's tables up to date and starts the writer thread. The thread
    /// ends when the last clone is dropped.
    pub fn open(path: &Path, schemas: &[Schema]) -> Result<Self, DbError> {
        let mut connection = Connection::open(path)?;
        configure(&connection)?;
        migrate(&mut connection, schemas)?;
        let (writes, jobs) = mpsc::channel(WRITE_QUEUE);
        std::thread::Builder::new()
            .name("db-writer".into())
            .spawn(move || writer(connection, jobs))
            .expect("the system can start one more thread");
        let idle = std::sync::Mutex::new(Vec::new());
        let readers = Readers {
            path: path.to_owned(),
            idle,
            places: Semaphore::new(READERS),
        };
        Ok(Self {
            writes,
            readers: Arc::new(readers),
        })
    }

    /// Runs a transaction and commits it before returning. `job` rolls back by returning an error.
    pub async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let boxed: Job = Box::new(move |tx| {
            let result = job(tx);
            let keep = result.is_ok();
            let tell = Box::new(move |committed: Result<(), rusqlite::Error>| {
                let _ = reply.send(match committed {
                    Ok(()) => result,
                    Err(error) => result.and_then(|_| Err(DbError::Sql(error).into())),
                });
            });
            Done { keep, tell }
        });
        self.writes.send(boxed).await.map_err(|_| DbError::Closed)?;
        answer.await.map_err(|_| E::from(DbError::Closed))?
    }

    /// Runs a query on a reader. Sees everything committed before the call.
    pub async fn read<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<DbError> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        let _place = self
            .readers
            .places
            .acquire()
            .await
            .map_err(|_| E::from(DbError::Closed))?;
        tokio::task::spawn_blocking(move || {
            let connection = readers.take()?;
            let result = job(&connection);
            readers
                .idle
                .lock()
                .expect("no holder of this lock panics")
                .push(connection);
            result
        })
        .await
        .unwrap_or_else(|_| Err(DbError::Closed.into()))
    }
}

impl Readers {
    fn take(&self) -> Result<Connection, DbError> {
        if let Some(connection) = self
            .idle
            .lock()
            .expect("no holder of this lock panics")
            .pop()
        {
            return Ok(connection);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        Ok(connection)
    }
}

fn writer(mut connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut group = vec![first];
        while group.len() < MAX_GROUP
            && let Ok(job) = jobs.try_recv()
        {
            group.push(job);
        }
        commit_group(&mut connection, group);
    }
}

fn commit_group(connection: &mut Connection, group: Vec<Job>) {
    let mut tx = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(tx) => tx,
        // The callers' replies are dropped with their jobs: they see `Closed` and repeat.
        Err(error) => return tracing::error!(%error, "the database did not begin a transaction"),
    };
    let mut done = Vec::with_capacity(group.len());
    for job in group {
        match run_one(&mut tx, job) {
            Ok(one) => done.push(one),
            Err(error) => tracing::error!(%error, "the database did not take a savepoint"),
        }
    }
    let committed = tx.commit();
    for one in done {
        (one.tell)(match &committed {
            Ok(()) => Ok(()),
            Err(error) => Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR),
                Some(error.to_string()),
            )),
        });
    }
}

fn run_one(tx: &mut Transaction<'_>, job: Job) -> rusqlite::Result<Done> {
    tx.execute_batch("SAVEPOINT job")?;
    let done = job(tx);
    let undo = if done.keep { "" } else { "ROLLBACK TO job; " };
    tx.execute_batch(&format!("{undo}RELEASE job"))?;
    Ok(done)
}

/// The word of a variant whose JSON form is a string.
pub fn to_word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a variant without fields is a JSON string, not {other:?}"),
    }
}

/// The variant that a word stands for, if this version knows it.
pub fn from_word<T: DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: Schema = Schema {
        module: "t",
        steps: &["CREATE TABLE t (n BIGINT NOT NULL)"],
    };

    fn add(
        n: i64,
        result: Result<(), DbError>,
    ) -> impl FnOnce(&Transaction<'_>) -> Result<(), DbError> + Send {
        move |tx| {
            tx.execute("INSERT INTO t (n) VALUES ($1)", [n])?;
            result
        }
    }

    async fn numbers(db: &Db) -> Vec<i64> {
        db.read::<_, DbError, _>(|c| {
            let mut query = c.prepare("SELECT n FROM t ORDER BY n")?;
            let rows = query.query_map([], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
        .expect("readable")
    }

    #[tokio::test]
    async fn a_failed_write_rolls_back_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let db = Db::open(&path, &[SCHEMA]).expect("opens");
        let (one, two, three) = tokio::join!(
            db.write(add(1, Ok(()))),
            db.write(add(2, Err(DbError::Closed))),
            db.write(add(3, Ok(()))),
        );
        assert!(one.is_ok() && two.is_err() && three.is_ok());
        assert_eq!(numbers(&db).await, [1, 3]);
        drop(db);
        let again = Db::open(&path, &[SCHEMA]).expect("opens again");
        assert_eq!(numbers(&again).await, [1, 3]);
        let older = Schema {
            steps: &[],
            ..SCHEMA
        };
        assert!(matches!(
            Db::open(&path, &[older]),
            Err(DbError::Newer { .. })
        ));
    }

    /// An update that added a column failed: the release before goes on with the database, and so does the next one.
    #[tokio::test]
    async fn the_release_before_uses_a_newer_database_unless_a_step_breaks_it() {
        const ADDS: &str = "ALTER TABLE t ADD COLUMN word TEXT NOT NULL DEFAULT ''";
        const BREAKS: &str =
            "-- BREAKING: n is text from here on\nDROP TABLE t; CREATE TABLE t (n TEXT NOT NULL)";
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        const TWO: &[&str] = &[SCHEMA.steps[0], ADDS];
        const THREE: &[&str] = &[SCHEMA.steps[0], ADDS, BREAKS];
        let with = |steps| Schema { steps, ..SCHEMA };
        let first = Db::open(&path, &[SCHEMA]).expect("opens");
        first.write(add(1, Ok(()))).await.expect("written");
        drop(first);
        let newer = with(TWO);
        drop(Db::open(&path, &[newer]).expect("opens"));
        let back = Db::open(&path, &[SCHEMA]).expect("the release before opens it");
        back.write(add(2, Ok(()))).await.expect("written");
        assert_eq!(numbers(&back).await, [1, 2]);
        drop(back);
        // The column is not added twice.
        let again = Db::open(&path, &[newer]).expect("opens again");
        assert_eq!(numbers(&again).await, [1, 2]);
        drop(again);
        let breaking = with(THREE);
        drop(Db::open(&path, &[breaking]).expect("opens"));
        for older in [SCHEMA, newer] {
            let refused = Db::open(&path, &[older]);
            assert!(matches!(refused, Err(DbError::Newer { found: 3, .. })));
        }
    }
}
