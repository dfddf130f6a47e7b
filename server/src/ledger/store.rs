//! The SQL of the ledger. [`post`] is the one way in which a balance changes.

use super::{Account, AccountRow, EntryKind, LineRow, Posting};
use crate::db::{all, json, ms, one, parsed, parsed_or_null, run, time, to_json, to_word, word};
use crate::error::{CoreError, Result, conflict};
use jiff::Timestamp;
use mantel_protocol::api::BillLine;
use mantel_protocol::ids::{CustomerId, EntryId, OrderId};
use mantel_protocol::money::{Currency, Money};
use mantel_runtime::db::Schema;
use rusqlite::{Connection, Row};

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "ledger",
    steps: &[include_str!("schema.sql")],
};

/// What an account holds; 0 where nothing was booked yet.
pub fn balance(c: &Connection, account: Account) -> Result<i64> {
    let sql = "SELECT balance_minor FROM ledger_accounts WHERE id = $1";
    Ok(one(c, sql, [account.id()], |row| row.get(0))?.unwrap_or(0))
}

/// The entry of an idempotency key.
pub fn entry_of_key(c: &Connection, key: &str) -> Result<Option<EntryId>> {
    one(
        c,
        "SELECT id FROM ledger_entries WHERE idempotency_key = $1",
        [key],
        |row| parsed(row, "id"),
    )
}

/// Books a balanced entry. The key of an entry that was booked before is refused: its caller should have asked.
pub fn post(
    tx: &Connection,
    posting: &Posting<'_>,
    currency: Currency,
    now: Timestamp,
) -> Result<EntryId> {
    let sum = posting
        .lines
        .iter()
        .try_fold(0_i64, |sum, line| sum.checked_add(line.amount));
    if sum != Some(0) {
        return Err(CoreError::Broken {
            what: "a ledger entry does not add up to nothing",
            source: None,
        });
    }
    if entry_of_key(tx, &posting.key)?.is_some() {
        return Err(conflict(
            "this was booked before",
            "look at the account; nothing was booked twice",
        ));
    }
    let id = EntryId::generate();
    run(
        tx,
        "INSERT INTO ledger_entries (id, idempotency_key, kind, order_id, grants, receipts, at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        (
            id.to_string(),
            &posting.key,
            to_word(&posting.kind),
            posting.order.map(|order| order.to_string()),
            to_json(&posting.grants),
            to_json(&posting.receipts),
            ms(now),
        ),
    )?;
    for (position, line) in posting.lines.iter().enumerate() {
        open_account(tx, line.account, currency)?;
        let add = "UPDATE ledger_accounts SET balance_minor = balance_minor + $2 WHERE id = $1";
        run(tx, add, (line.account.id(), line.amount))?;
        let sql = "INSERT INTO ledger_lines (entry, position, account, amount_minor, text) VALUES ($1, $2, $3, $4, $5)";
        run(
            tx,
            sql,
            (
                id.to_string(),
                position as i64,
                line.account.id(),
                line.amount,
                &line.text,
            ),
        )?;
    }
    Ok(id)
}

fn open_account(tx: &Connection, account: Account, currency: Currency) -> Result<()> {
    let sql = "INSERT INTO ledger_accounts (id, customer, role, currency, balance_minor) VALUES ($1, $2, $3, $4, 0)
         ON CONFLICT (id) DO NOTHING";
    let customer = account.customer().map(|customer| customer.to_string());
    run(
        tx,
        sql,
        (account.id(), customer, account.role(), currency.as_str()),
    )?;
    Ok(())
}

/// The currency in which anything was booked that is not `currency`.
pub fn other_currency(c: &Connection, currency: Currency) -> Result<Option<String>> {
    let sql = "SELECT currency FROM ledger_accounts WHERE currency <> $1 LIMIT 1";
    one(c, sql, [currency.as_str()], |row| row.get(0))
}

/// Whether every entry and all balances add up to 0, and each balance is the sum of its lines.
pub fn balanced(c: &Connection) -> Result<bool> {
    let sql = "SELECT
        (SELECT COALESCE(CAST(SUM(balance_minor) AS BIGINT), 0) FROM ledger_accounts) AS balances,
        (SELECT COUNT(*) FROM (SELECT entry FROM ledger_lines GROUP BY entry HAVING SUM(amount_minor) <> 0) e) AS crooked,
        (SELECT COUNT(*) FROM ledger_accounts a WHERE a.balance_minor <>
            (SELECT COALESCE(SUM(l.amount_minor), 0) FROM ledger_lines l WHERE l.account = a.id)) AS drifted";
    let sums = one(c, sql, (), |row| {
        Ok((
            row.get::<_, i64>("balances")?,
            row.get::<_, i64>("crooked")?,
            row.get::<_, i64>("drifted")?,
        ))
    })?;
    Ok(sums == Some((0, 0, 0)))
}

/// All customers' accounts by name, then the operator's.
pub fn accounts(c: &Connection, currency: Currency) -> Result<Vec<AccountRow>> {
    let mut rows: Vec<AccountRow> = crate::customers::store::customers(c, None, currency)?
        .into_iter()
        .map(|row| AccountRow {
            customer: Some(row.id),
            name: row.name,
            available: row.available,
            held: row.held,
        })
        .collect();
    for (account, name) in [
        (Account::Cash, "Paid in by customers"),
        (Account::Fees, "Operator's share of sales"),
    ] {
        let available = Money::new(balance(c, account)?, currency);
        rows.push(AccountRow {
            customer: None,
            name: name.into(),
            available,
            held: Money::new(0, currency),
        });
    }
    Ok(rows)
}

const LINES: &str = "SELECT e.id, e.kind, e.order_id, e.grants, e.receipts, e.at_ms, l.text, l.amount_minor, a.role,
        COALESCE(u.name, 'Operator') AS owner
     FROM ledger_lines l JOIN ledger_entries e ON e.id = l.entry JOIN ledger_accounts a ON a.id = l.account
     LEFT JOIN customers u ON u.id = a.customer";

fn line(currency: Currency) -> impl Fn(&Row<'_>) -> rusqlite::Result<LineRow> {
    move |row| {
        let (owner, role): (String, String) = (row.get("owner")?, row.get("role")?);
        Ok(LineRow {
            entry: parsed(row, "id")?,
            at: time(row, "at_ms")?,
            kind: word(row, "kind")?,
            text: row.get("text")?,
            account: format!("{owner}: {role}"),
            amount: Money::new(row.get("amount_minor")?, currency),
            order: parsed_or_null(row, "order_id")?,
            grants: json(row, "grants")?,
            receipts: json(row, "receipts")?,
        })
    }
}

/// Lines, newest first; those of one customer where one is named.
pub fn lines(
    c: &Connection,
    customer: Option<CustomerId>,
    currency: Currency,
    limit: u32,
) -> Result<Vec<LineRow>> {
    let sql = format!(
        "{LINES} WHERE $1 = '' OR a.customer = $1 ORDER BY e.at_ms DESC, e.id DESC, l.position LIMIT $2"
    );
    let customer = customer.map(|id| id.to_string()).unwrap_or_default();
    all(c, &sql, (customer, limit), line(currency))
}

/// The lines of one order, oldest first.
pub fn lines_of_order(c: &Connection, order: OrderId, currency: Currency) -> Result<Vec<LineRow>> {
    let sql = format!("{LINES} WHERE e.order_id = $1 ORDER BY e.at_ms, e.id, l.position");
    all(c, &sql, [order.to_string()], line(currency))
}

/// A customer's bill: what was credited, paid and earned, newest first. Holds that were released are no bill line.
pub fn bill(
    c: &Connection,
    customer: CustomerId,
    currency: Currency,
    limit: u32,
) -> Result<Vec<BillLine>> {
    let kinds = [EntryKind::Credit, EntryKind::Capture].map(|kind| to_word(&kind));
    let sql = format!(
        "{LINES} WHERE a.customer = $1 AND e.kind IN ($2, $3) ORDER BY e.at_ms DESC, e.id DESC LIMIT $4"
    );
    let rows = all(
        c,
        &sql,
        (customer.to_string(), &kinds[0], &kinds[1], limit),
        line(currency),
    )?;
    Ok(rows
        .into_iter()
        .map(|row| BillLine {
            at: row.at,
            text: row.text,
            amount: row.amount,
            order: row.order,
            grants: row.grants,
            receipts: row.receipts,
        })
        .collect())
}
