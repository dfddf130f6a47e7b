//! The SQL of releases. Each function runs inside its caller's transaction.

use super::rollout::Rollout;
use super::{OutcomeRow, ReleaseRow};
use crate::db::{
    all, count, json, ms, one, parsed, run, time, time_or_null, to_json, to_word, word,
};
use crate::error::Result;
use jiff::Timestamp;
use mantel_protocol::api::{UpdateOffer, UpdateQuestion};
use mantel_protocol::ids::HomeId;
use mantel_protocol::update::{Outcome, Version};
use mantel_runtime::db::Schema;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};

/// The tables of this module.
pub const SCHEMA: Schema = Schema {
    module: "releases",
    steps: &[include_str!("schema.sql"), include_str!("holds.sql")],
};

/// All releases with what came of them, newest version first.
pub fn rows(c: &Connection) -> Result<Vec<ReleaseRow>> {
    let sql = "SELECT r.version, r.offer, r.percent, r.created_ms, r.withdrawn_ms,
            (SELECT COUNT(*) FROM release_homes h WHERE h.version = r.version) AS named,
            (SELECT COUNT(*) FROM appliances a JOIN homes h ON h.id = a.home
                WHERE a.running = r.version AND h.removed_ms IS NULL) AS running,
            (SELECT COUNT(*) FROM appliances a JOIN homes h ON h.id = a.home
                WHERE a.holds = r.version AND h.removed_ms IS NULL) AS seeds,
            (SELECT COUNT(*) FROM release_outcomes o WHERE o.version = r.version AND o.outcome = 'installed')
                AS installed,
            (SELECT COUNT(*) FROM release_outcomes o WHERE o.version = r.version AND o.outcome = 'failed') AS failed
         FROM releases r";
    let mut rows = all(c, sql, (), |row| {
        let offer: UpdateOffer = json(row, "offer")?;
        Ok(ReleaseRow {
            version: parsed(row, "version")?,
            size_bytes: offer.size_bytes,
            bundle: offer.bundle,
            percent: count(row, "percent")?.min(100) as u8,
            created: time(row, "created_ms")?,
            withdrawn: time_or_null(row, "withdrawn_ms")?,
            named: count(row, "named")?,
            running: count(row, "running")?,
            installed: count(row, "installed")?,
            failed: count(row, "failed")?,
            seeds: count(row, "seeds")?,
            sent_bytes: 0,
        })
    })?;
    rows.sort_by_key(|row| std::cmp::Reverse(row.version));
    Ok(rows)
}

/// The homes that each release names.
pub fn named(c: &Connection) -> Result<BTreeMap<Version, BTreeSet<HomeId>>> {
    let pairs: Vec<(Version, HomeId)> =
        all(c, "SELECT version, home FROM release_homes", (), |row| {
            Ok((parsed(row, "version")?, parsed(row, "home")?))
        })?;
    let mut named: BTreeMap<Version, BTreeSet<HomeId>> = BTreeMap::new();
    for (version, home) in pairs {
        named.entry(version).or_default().insert(home);
    }
    Ok(named)
}

/// Whom each release that is not withdrawn is for.
pub fn rollouts(c: &Connection) -> Result<Vec<Rollout>> {
    let mut named = named(c)?;
    let sql = "SELECT version, percent FROM releases WHERE withdrawn_ms IS NULL";
    all(c, sql, (), |row| {
        let version = parsed(row, "version")?;
        Ok(Rollout {
            version,
            percent: count(row, "percent")?.min(100) as u8,
            homes: named.remove(&version).unwrap_or_default(),
        })
    })
}

/// What gateways are told of a release that is not withdrawn.
pub fn offer(c: &Connection, version: Version) -> Result<Option<UpdateOffer>> {
    let sql = "SELECT offer FROM releases WHERE version = $1 AND withdrawn_ms IS NULL";
    one(c, sql, [version.to_string()], |row| json(row, "offer"))
}

/// Whether there is or was such a release.
pub fn exists(c: &Connection, version: Version) -> Result<bool> {
    let sql = "SELECT 1 AS n FROM releases WHERE version = $1";
    Ok(one(c, sql, [version.to_string()], |row| count(row, "n"))?.is_some())
}

/// Adds a release for no home yet.
pub fn add(c: &Connection, offer: &UpdateOffer, now: Timestamp) -> Result<()> {
    let sql = "INSERT INTO releases (version, offer, percent, created_ms) VALUES ($1, $2, 0, $3)";
    run(c, sql, (offer.version.to_string(), to_json(offer), ms(now)))?;
    Ok(())
}

/// Sets whom a release is for.
pub fn set_rollout(c: &Connection, it: &Rollout) -> Result<()> {
    let version = it.version.to_string();
    run(
        c,
        "UPDATE releases SET percent = $2 WHERE version = $1",
        (&version, i64::from(it.percent)),
    )?;
    run(
        c,
        "DELETE FROM release_homes WHERE version = $1",
        [&version],
    )?;
    for home in &it.homes {
        let sql = "INSERT INTO release_homes (version, home) VALUES ($1, $2)";
        run(c, sql, (&version, home.to_string()))?;
    }
    Ok(())
}

/// Withdraws a release; whether it was on offer.
pub fn withdraw(c: &Connection, version: Version, now: Timestamp) -> Result<bool> {
    let sql = "UPDATE releases SET withdrawn_ms = $2 WHERE version = $1 AND withdrawn_ms IS NULL";
    Ok(run(c, sql, (version.to_string(), ms(now)))? > 0)
}

/// Notes what a home runs and holds.
pub fn note_asked(
    c: &Connection,
    home: HomeId,
    question: &UpdateQuestion,
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO appliances (home, running, holds, asked_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT (home) DO UPDATE SET running = excluded.running, holds = excluded.holds,
            asked_ms = excluded.asked_ms";
    let holds = question.holds.map(|version| version.to_string());
    let running = question.running.to_string();
    run(c, sql, (home.to_string(), running, holds, ms(now)))?;
    Ok(())
}

/// Homes other than `asker` that hold the bundle of a version, in any order, at most `limit`.
pub fn holders(c: &Connection, version: Version, asker: HomeId, limit: i64) -> Result<Vec<HomeId>> {
    let sql = "SELECT a.home FROM appliances a JOIN homes h ON h.id = a.home
         WHERE a.holds = $1 AND a.home <> $2 AND h.removed_ms IS NULL ORDER BY RANDOM() LIMIT $3";
    let (version, asker) = (version.to_string(), asker.to_string());
    all(c, sql, (version, asker, limit), |row| parsed(row, "home"))
}

/// Notes a home's last word on a version.
pub fn note_outcome(
    c: &Connection,
    home: HomeId,
    version: Version,
    (outcome, words): (Outcome, &str),
    now: Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO release_outcomes (version, home, outcome, words, at_ms) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (version, home) DO UPDATE SET outcome = excluded.outcome, words = excluded.words,
            at_ms = excluded.at_ms";
    let (version, home) = (version.to_string(), home.to_string());
    run(c, sql, (version, home, to_word(&outcome), words, ms(now)))?;
    Ok(())
}

/// The versions that failed in a home.
pub fn failed_in(c: &Connection, home: HomeId) -> Result<BTreeSet<Version>> {
    let sql = "SELECT version FROM release_outcomes WHERE home = $1 AND outcome = 'failed'";
    let failed = all(c, sql, [home.to_string()], |row| parsed(row, "version"))?;
    Ok(failed.into_iter().collect())
}

/// What came of a release, newest word first, at most `limit`.
pub fn outcomes(c: &Connection, version: Version, limit: i64) -> Result<Vec<OutcomeRow>> {
    let sql = "SELECT o.home, h.name, o.outcome, o.words, o.at_ms FROM release_outcomes o
         JOIN homes h ON h.id = o.home WHERE o.version = $1 ORDER BY o.at_ms DESC, o.home LIMIT $2";
    all(c, sql, (version.to_string(), limit), |row| {
        Ok(OutcomeRow {
            home: parsed(row, "home")?,
            home_name: row.get("name")?,
            outcome: word(row, "outcome")?,
            words: row.get("words")?,
            at: time(row, "at_ms")?,
        })
    })
}
