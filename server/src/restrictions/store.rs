//! The SQL of restrictions. Each function runs inside its caller's transaction.

use crate::db::{all, json, ms, one, parsed, parsed_or_null, run, time, to_json};
use crate::error::Result;
use jiff::Timestamp;
use mantel_protocol::ids::{HomeId, RestrictionId};
use mantel_protocol::restriction::{Restriction, Rule};
use mantel_runtime::db::Schema;
use rusqlite::{Connection, Row};

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "restrictions",
    steps: &[include_str!("schema.sql")],
};

const COLUMNS: &str = "SELECT id, home, rule, note, created_ms FROM restrictions";

fn restriction(row: &Row<'_>) -> rusqlite::Result<Restriction> {
    let rule: Rule = json(row, "rule")?;
    Ok(Restriction {
        id: parsed(row, "id")?,
        home: parsed_or_null(row, "home")?,
        rule,
        note: row.get("note")?,
    })
}

/// All rules with when they were made, newest first.
pub fn all_with_time(c: &Connection) -> Result<Vec<(Restriction, Timestamp)>> {
    let sql = format!("{COLUMNS} ORDER BY created_ms DESC, id DESC");
    all(c, &sql, (), |row| {
        Ok((restriction(row)?, time(row, "created_ms")?))
    })
}

/// The rules for every home and those for any of these homes, oldest first.
pub fn for_homes(c: &Connection, homes: &[HomeId]) -> Result<Vec<Restriction>> {
    let all = all(
        c,
        &format!("{COLUMNS} ORDER BY created_ms, id"),
        (),
        restriction,
    )?;
    Ok(all
        .into_iter()
        .filter(|it| it.home.is_none_or(|home| homes.contains(&home)))
        .collect())
}

/// One rule.
pub fn find(c: &Connection, id: RestrictionId) -> Result<Option<Restriction>> {
    one(
        c,
        &format!("{COLUMNS} WHERE id = $1"),
        [id.to_string()],
        restriction,
    )
}

/// How many rules there are.
pub fn count(c: &Connection) -> Result<usize> {
    let found = one(c, "SELECT COUNT(*) AS n FROM restrictions", (), |row| {
        crate::db::count(row, "n")
    })?;
    Ok(found.unwrap_or(0) as usize)
}

/// Adds a rule.
pub fn add(c: &Connection, it: &Restriction, now: Timestamp) -> Result<()> {
    let sql =
        "INSERT INTO restrictions (id, home, rule, note, created_ms) VALUES ($1, $2, $3, $4, $5)";
    let home = it.home.map(|home| home.to_string());
    run(
        c,
        sql,
        (
            it.id.to_string(),
            home,
            to_json(&it.rule),
            &it.note,
            ms(now),
        ),
    )?;
    Ok(())
}

/// Removes a rule.
pub fn remove(c: &Connection, id: RestrictionId) -> Result<()> {
    run(
        c,
        "DELETE FROM restrictions WHERE id = $1",
        [id.to_string()],
    )?;
    Ok(())
}
