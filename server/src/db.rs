//! Small readers of database rows: ids, times and JSON are TEXT and BIGINT in SQL, and types here.

use crate::error::Result;
use jiff::Timestamp;
pub use mantel_runtime::db::to_word;
use rusqlite::types::Type;
use rusqlite::{Connection, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
}

/// A column that holds an id, a key or another type with a text form.
pub fn parsed<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get::<_, String>(column)?.parse().map_err(unreadable)
}

/// Like [`parsed`], for a column that may be NULL.
pub fn parsed_or_null<T>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(unreadable))
        .transpose()
}

/// A column that holds JSON.
pub fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(unreadable)
}

/// Like [`json`], for a column that may be NULL.
pub fn json_or_null<T: DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(unreadable))
        .transpose()
}

/// The JSON of plain data.
pub fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}

/// A word that stands for a variant; serde knows the words.
pub fn word<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_value(serde_json::Value::String(text)).map_err(unreadable)
}

/// Like [`word`], for a column that may be NULL.
pub fn word_or_null<T: DeserializeOwned>(
    row: &Row<'_>,
    column: &str,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_value(serde_json::Value::String(text)).map_err(unreadable))
        .transpose()
}

/// A time column, milliseconds since 1970.
pub fn time(row: &Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?).map_err(unreadable)
}

/// Like [`time`], for a column that may be NULL.
pub fn time_or_null(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    let ms: Option<i64> = row.get(column)?;
    ms.map(|ms| Timestamp::from_millisecond(ms).map_err(unreadable))
        .transpose()
}

/// A time as it is stored.
pub fn ms(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A count or size column, never negative.
pub fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.max(0) as u64)
}

/// A count or size as it is stored; what does not fit was refused at the edge.
pub fn big(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// SQLite takes `$2` for a name and counts names by first appearance; `?2` is its second parameter, as `$2` is
/// PostgreSQL's.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

/// All rows of a query.
pub fn all<T, P: Params>(
    connection: &Connection,
    sql: &str,
    params: P,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut query = connection.prepare_cached(&numbered(sql))?;
    let rows = query.query_map(params, read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The first row of a query.
pub fn one<T, P: Params>(
    connection: &Connection,
    sql: &str,
    params: P,
    read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>> {
    let mut query = connection.prepare_cached(&numbered(sql))?;
    let mut rows = query.query(params)?;
    Ok(rows.next()?.map(read).transpose()?)
}

/// Runs a statement and tells how many rows it changed.
pub fn run<P: Params>(connection: &Connection, sql: &str, params: P) -> Result<usize> {
    Ok(connection.prepare_cached(&numbered(sql))?.execute(params)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_go_by_their_number_not_by_their_place_in_the_text() {
        let c = Connection::open_in_memory().expect("opens");
        run(&c, "CREATE TABLE t (a TEXT, b TEXT)", ()).expect("made");
        run(&c, "INSERT INTO t (b, a) VALUES ($2, $1)", ("one", "two")).expect("inserted");
        let changed =
            run(&c, "UPDATE t SET b = $2 WHERE a = $1", ("one", "three")).expect("updated");
        assert_eq!(changed, 1);
        let row = one(
            &c,
            "SELECT a, b FROM t WHERE b = $2 AND a = $1",
            ("one", "three"),
            |row| Ok((row.get::<_, String>("a")?, row.get::<_, String>("b")?)),
        );
        assert_eq!(row.expect("read"), Some(("one".into(), "three".into())));
    }
}
