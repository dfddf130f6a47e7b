//! The household's time zone. An appliance comes without one: the browser that chooses the first password tells it, and
//! `/admin` can change it. Until then the machine's own holds, which is UTC on an appliance.
//!
//! One value for the whole process, as the machine's would be: whoever shows or reads local time asks [`here`].

use jiff::tz::TimeZone;
use mantel_runtime::db::{Db, DbError, Schema};
use rusqlite::OptionalExtension as _;
use std::sync::RwLock;

/// The tables.
pub const SCHEMA: Schema = Schema {
    module: "zone",
    steps: &[include_str!("zone.sql")],
};

/// The longest name of a time zone, characters.
const MAX_NAME_CHARS: usize = 64;

static HERE: RwLock<Option<TimeZone>> = RwLock::new(None);

/// Why a time zone was not taken; Display is for a person.
#[derive(Debug, thiserror::Error)]
pub enum ZoneError {
    /// No such zone.
    #[error("there is no such time zone; write it like Europe/Berlin")]
    Unknown,
    /// The database failed.
    #[error("the time zone could not be kept; nothing was changed")]
    Db(#[from] DbError),
}

/// The household's time zone.
pub fn here() -> TimeZone {
    let chosen = HERE.read().expect("no holder of this lock panics").clone();
    chosen.unwrap_or_else(TimeZone::system)
}

/// Its name, as `Europe/Berlin`; `None`: none was chosen.
pub fn name() -> Option<String> {
    let chosen = HERE.read().expect("no holder of this lock panics");
    chosen.as_ref()?.iana_name().map(str::to_owned)
}

/// Takes what was stored.
pub async fn load(db: &Db) -> Result<(), DbError> {
    let name: Option<String> = db
        .read(|c| {
            let sql = "SELECT name FROM household_zone WHERE one = 1";
            Ok::<_, DbError>(c.query_row(sql, [], |row| row.get(0)).optional()?)
        })
        .await?;
    let Some(name) = name else {
        return Ok(());
    };
    let zone = find(&name).inspect_err(|error| {
        tracing::warn!(name, %error, "the stored time zone is not known any more");
    });
    *HERE.write().expect("no holder of this lock panics") = zone.ok();
    Ok(())
}

/// Chooses one, by its IANA name.
pub async fn set(db: &Db, name: &str) -> Result<(), ZoneError> {
    let zone = find(name)?;
    let name = zone.iana_name().unwrap_or(name).to_owned();
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO household_zone (one, name) VALUES (1, $1)
             ON CONFLICT (one) DO UPDATE SET name = excluded.name",
            [name],
        )?;
        Ok::<_, DbError>(())
    })
    .await?;
    *HERE.write().expect("no holder of this lock panics") = Some(zone);
    Ok(())
}

fn find(name: &str) -> Result<TimeZone, ZoneError> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err(ZoneError::Unknown);
    }
    TimeZone::get(name).map_err(|_| ZoneError::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_zone_is_kept_and_nonsense_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("t.db"), &[SCHEMA]).expect("opens");
        load(&db).await.expect("read");
        assert_eq!(name(), None);
        let long = "x".repeat(200);
        for nonsense in [
            "",
            "Mars/Olympus",
            "../../etc/passwd",
            "Europe/Berlin\0",
            &long,
        ] {
            let refused = set(&db, nonsense).await;
            assert!(matches!(refused, Err(ZoneError::Unknown)), "{nonsense}");
        }
        set(&db, "europe/berlin").await.expect("kept");
        assert_eq!(name().as_deref(), Some("Europe/Berlin"));
        *HERE.write().expect("unpoisoned") = None;
        load(&db).await.expect("read");
        let winter: jiff::Timestamp = "2026-01-15T02:10:00Z".parse().expect("a time");
        assert_eq!(winter.to_zoned(here()).hour(), 3);
        let summer: jiff::Timestamp = "2026-07-15T02:10:00Z".parse().expect("a time");
        assert_eq!(summer.to_zoned(here()).hour(), 4);
    }
}
