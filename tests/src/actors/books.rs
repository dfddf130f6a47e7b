//! The server's books as an auditor reads them: straight from `server.db`, read only, while the server runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};

/// How long a reader waits for a writer's lock.
const BUSY: Duration = Duration::from_secs(10);

/// Where the books are.
#[derive(Debug, Clone)]
pub struct Books {
    file: PathBuf,
}

/// All that the server wrote down about one order.
#[derive(Debug, Clone)]
pub struct OrderBooks {
    /// `held`, `delivering`, `settled`, `cancelled` or `failed`.
    pub state: String,
    /// The price, minor units.
    pub price_minor: i64,
    /// The currency of the account that pays.
    pub currency: String,
    /// What is wrong.
    pub problem: Option<String>,
    /// Which way the last bytes came.
    pub path: Option<String>,
    /// Bytes through the relay.
    pub relayed_bytes: u64,
    /// Its entries in the ledger, oldest first.
    pub entries: Vec<Entry>,
    /// Its grants, oldest first.
    pub grants: Vec<GrantRow>,
    /// The BLAKE3 hashes of its receipts.
    pub receipts: Vec<String>,
    /// The pass.
    pub pass: Option<String>,
    /// The pass as the server signed it.
    pub pass_token: Option<String>,
    /// The license.
    pub license: Option<String>,
}

/// An entry of the ledger.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// `credit`, `hold`, `capture` or `release`.
    pub kind: String,
    /// JSON list of grants (F67).
    pub grants: String,
    /// JSON list of receipts (F67).
    pub receipts: String,
    /// Account, amount in minor units and words of each line.
    pub lines: Vec<(String, i64, String)>,
}

/// A grant that the server signed.
#[derive(Debug, Clone)]
pub struct GrantRow {
    /// Its id.
    pub id: String,
    /// The blob.
    pub blob: String,
    /// The token.
    pub token: String,
    /// Media bytes that it allows.
    pub max_bytes: u64,
    /// Bytes through the relay under it.
    pub relayed_bytes: u64,
}

/// The sums that must be right whatever happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// Of all lines of all entries.
    pub lines: i64,
    /// Of all balances.
    pub balances: i64,
    /// Held on all accounts.
    pub held: i64,
    /// Entries whose lines do not add up to nothing.
    pub crooked: i64,
    /// Bytes relayed under all grants.
    pub relayed: i64,
    /// Orders.
    pub orders: i64,
    /// Entries of the kind `capture`.
    pub captures: i64,
}

impl OrderBooks {
    /// What was held, for a person.
    pub fn held_text(&self) -> String {
        let (whole, rest) = (self.price_minor / 100, self.price_minor % 100);
        format!("{whole}.{rest:02} {}", self.currency)
    }

    /// The id of the one entry of a kind.
    pub fn entry(&self, kind: &str) -> Result<String> {
        Ok(self.one(kind)?.id.clone())
    }

    /// The one entry of a kind.
    pub fn one(&self, kind: &str) -> Result<&Entry> {
        let found: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.kind == kind)
            .collect();
        ensure!(
            found.len() == 1,
            "the order has {} entries of kind {kind}: {self:?}",
            found.len()
        );
        Ok(found[0])
    }

    /// How many entries of a kind it has.
    pub fn count(&self, kind: &str) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.kind == kind)
            .count()
    }
}

impl Books {
    /// The books in a server's data directory.
    pub fn of(server_data: &Path) -> Self {
        Self {
            file: server_data.join("server.db"),
        }
    }

    fn open(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&self.file, flags)
            .with_context(|| format!("opening {}", self.file.display()))?;
        db.busy_timeout(BUSY)?;
        Ok(db)
    }

    /// What is written about one order.
    pub fn order(&self, order: &str) -> Result<OrderBooks> {
        let db = self.open()?;
        let currency = "SELECT currency FROM ledger_accounts LIMIT 1";
        let currency: Option<String> = db.query_row(currency, [], |row| row.get(0)).optional()?;
        let head =
            "SELECT state, price_minor, problem, path, relayed_bytes FROM orders WHERE id = ?1";
        let mut books = db
            .query_row(head, [order], |row| {
                Ok(OrderBooks {
                    state: row.get(0)?,
                    price_minor: row.get(1)?,
                    currency: currency.unwrap_or_default(),
                    problem: row.get(2)?,
                    path: row.get(3)?,
                    relayed_bytes: row.get::<_, i64>(4)?.unsigned_abs(),
                    entries: Vec::new(),
                    grants: Vec::new(),
                    receipts: Vec::new(),
                    pass: None,
                    pass_token: None,
                    license: None,
                })
            })
            .with_context(|| format!("the server knows no order {order}"))?;
        let grants = "SELECT id, blob, token, max_bytes, relayed_bytes FROM grants \
                      WHERE order_id = ?1 ORDER BY issued_ms, id";
        books.grants = all(&db, grants, order, |row| {
            Ok(GrantRow {
                id: row.get(0)?,
                blob: row.get(1)?,
                token: row.get(2)?,
                max_bytes: row.get::<_, i64>(3)?.unsigned_abs(),
                relayed_bytes: row.get::<_, i64>(4)?.unsigned_abs(),
            })
        })?;
        let receipts = "SELECT hash FROM receipts WHERE order_id = ?1 ORDER BY at_ms";
        books.receipts = all(&db, receipts, order, |row| row.get(0))?;
        let entries = "SELECT id, kind, grants, receipts FROM ledger_entries \
                       WHERE order_id = ?1 ORDER BY at_ms, id";
        books.entries = all(&db, entries, order, |row| {
            let (id, kind) = (row.get(0)?, row.get(1)?);
            Ok(Entry {
                id,
                kind,
                grants: row.get(2)?,
                receipts: row.get(3)?,
                lines: Vec::new(),
            })
        })?;
        for entry in &mut books.entries {
            let lines = "SELECT account, amount_minor, text FROM ledger_lines WHERE entry = ?1";
            entry.lines = all(&db, lines, &entry.id, |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        }
        let pass = "SELECT id, token FROM passes WHERE order_id = ?1";
        let pass: Option<(String, String)> = db
            .query_row(pass, [order], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((id, token)) = pass {
            let license = "SELECT id FROM licenses WHERE pass = ?1";
            books.license = db.query_row(license, [&id], |row| row.get(0)).optional()?;
            books.pass = Some(id);
            books.pass_token = Some(token);
        }
        Ok(books)
    }

    /// The sums over everything.
    pub fn sums(&self) -> Result<Sums> {
        let db = self.open()?;
        let sum = |query: &str| -> Result<i64> {
            db.query_row(query, [], |row| row.get(0))
                .with_context(|| query.to_owned())
        };
        let crooked = "SELECT count(*) FROM (SELECT entry FROM ledger_lines \
                       GROUP BY entry HAVING sum(amount_minor) <> 0)";
        Ok(Sums {
            lines: sum("SELECT coalesce(sum(amount_minor), 0) FROM ledger_lines")?,
            balances: sum("SELECT coalesce(sum(balance_minor), 0) FROM ledger_accounts")?,
            held: sum(
                "SELECT coalesce(sum(balance_minor), 0) FROM ledger_accounts WHERE role = 'held'",
            )?,
            crooked: sum(crooked)?,
            relayed: sum("SELECT coalesce(sum(relayed_bytes), 0) FROM grants")?,
            orders: sum("SELECT count(*) FROM orders")?,
            captures: sum("SELECT count(*) FROM ledger_entries WHERE kind = 'capture'")?,
        })
    }

    /// What a customer may spend, minor units.
    pub fn available(&self, customer: &str) -> Result<i64> {
        let query = "SELECT coalesce(sum(balance_minor), 0) FROM ledger_accounts \
                     WHERE customer = ?1 AND role = 'available'";
        Ok(self
            .open()?
            .query_row(query, [customer], |row| row.get(0))?)
    }

    /// Fails unless every sum is nothing and nothing is held.
    pub fn balanced(&self) -> Result<Sums> {
        let sums = self.sums()?;
        ensure!(
            (sums.lines, sums.balances, sums.held, sums.crooked) == (0, 0, 0, 0),
            "the ledger does not balance, or something is still held: {sums:?}"
        );
        Ok(sums)
    }
}

fn all<T>(
    db: &Connection,
    query: &str,
    argument: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = db.prepare(query).with_context(|| query.to_owned())?;
    let rows = statement.query_map([argument], read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
