//! What must survive a crash: the update under way, the bundle that is kept for other homes, what came of updates.

use super::decide::{Stage, UnderWay};
use jiff::Timestamp;
use mantel_protocol::api::UpdateOffer;
use mantel_protocol::update::{Outcome, Version};
use mantel_runtime::db::{Db, DbError, Schema, from_word, to_word};
use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

/// The tables.
pub const SCHEMA: Schema = Schema {
    module: "updates",
    steps: &[include_str!("schema.sql"), include_str!("kept.sql")],
};

/// The update under way, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUpdate {
    /// What is decided by.
    pub it: UnderWay,
    /// What the server offered.
    pub offer: UpdateOffer,
    /// Which `update.json` was there before the system was asked.
    pub heard: String,
}

/// What came of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOutcome {
    /// As the system tells it: mostly a version.
    pub version: String,
    /// Whether it runs.
    pub outcome: Outcome,
    /// Why not.
    pub words: String,
    /// Whether the server knows.
    pub reported: bool,
    /// Whether the household has read it.
    pub dismissed: bool,
}

/// All that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stored {
    /// The update under way.
    pub under_way: Option<StoredUpdate>,
    /// The bundle that is here whole, for other homes too.
    pub kept: Option<UpdateOffer>,
    /// What came of updates, newest first.
    pub outcomes: Vec<StoredOutcome>,
}

impl Stored {
    /// The versions that failed here.
    pub fn failed(&self) -> BTreeSet<Version> {
        let failed = self
            .outcomes
            .iter()
            .filter(|it| it.outcome == Outcome::Failed);
        failed.filter_map(|it| it.version.parse().ok()).collect()
    }
}

/// Reads all.
pub async fn load(db: &Db) -> Result<Stored, DbError> {
    db.read(|c| {
        Ok(Stored {
            under_way: under_way(c)?,
            kept: kept(c)?,
            outcomes: outcomes(c)?,
        })
    })
    .await
}

/// What a newer version wrote, from which the system went back, is passed over where this one cannot read it, and
/// written anew by what comes next.
fn passed_over<T>() -> Option<T> {
    tracing::warn!("a row about updates is not understood and passed over");
    None
}

fn read_offer(json: &str) -> Option<UpdateOffer> {
    serde_json::from_str(json).ok().or_else(passed_over)
}

fn read_word<T: DeserializeOwned>(word: &str) -> Option<T> {
    from_word(word).or_else(passed_over)
}

fn under_way(c: &Connection) -> rusqlite::Result<Option<StoredUpdate>> {
    let mut query = c.prepare_cached(
        "SELECT offer, stage, tries, heard, restart_wanted FROM update_under_way",
    )?;
    let row = query.query_row([], |row| {
        let offer = read_offer(row.get_ref("offer")?.as_str()?);
        let stage = read_word(row.get_ref("stage")?.as_str()?);
        let (Some(offer), Some(stage)) = (offer, stage) else {
            return Ok(None);
        };
        Ok(Some(StoredUpdate {
            it: UnderWay {
                version: offer.version,
                stage,
                tries: row.get("tries")?,
                restart_wanted: row.get::<_, i64>("restart_wanted")? != 0,
            },
            offer,
            heard: row.get("heard")?,
        }))
    });
    Ok(row.optional()?.flatten())
}

fn kept(c: &Connection) -> rusqlite::Result<Option<UpdateOffer>> {
    let mut query = c.prepare_cached("SELECT offer FROM update_kept")?;
    let offer = query.query_row([], |row| Ok(read_offer(row.get_ref("offer")?.as_str()?)));
    Ok(offer.optional()?.flatten())
}

fn outcomes(c: &Connection) -> rusqlite::Result<Vec<StoredOutcome>> {
    let mut query = c.prepare_cached(
        "SELECT version, outcome, words, reported, dismissed FROM update_outcomes ORDER BY at_ms DESC, version DESC",
    )?;
    let rows = query.query_map([], |row| {
        let Some(outcome) = read_word(row.get_ref("outcome")?.as_str()?) else {
            return Ok(None);
        };
        Ok(Some(StoredOutcome {
            version: row.get("version")?,
            outcome,
            words: row.get("words")?,
            reported: row.get::<_, i64>("reported")? != 0,
            dismissed: row.get::<_, i64>("dismissed")? != 0,
        }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

async fn write(
    db: &Db,
    job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<usize> + Send + 'static,
) -> Result<bool, DbError> {
    db.write(move |tx| Ok(job(tx)? > 0)).await
}

/// Begins with an offer, in place of what was under way.
pub async fn take(db: &Db, offer: &UpdateOffer) -> Result<(), DbError> {
    let (offer, stage) = (
        serde_json::to_string(offer).expect("an offer is plain data"),
        to_word(&Stage::Fetching),
    );
    write(db, move |tx| {
        tx.execute("DELETE FROM update_kept", [])?;
        tx.execute(
            "INSERT INTO update_under_way (one, offer, stage, tries, heard, restart_wanted) VALUES (1, $1, $2, 0, '', 0)
             ON CONFLICT (one) DO UPDATE SET offer = excluded.offer, stage = excluded.stage, tries = 0, heard = '',
                 restart_wanted = 0",
            (offer, stage),
        )
    })
    .await
    .map(drop)
}

/// Notes how far it is.
pub async fn set_stage(db: &Db, stage: Stage) -> Result<(), DbError> {
    let stage = to_word(&stage);
    write(db, move |tx| {
        tx.execute("UPDATE update_under_way SET stage = $1", [stage])
    })
    .await
    .map(drop)
}

/// Notes that the bundle is here, whole and right; `keep`: for other homes too.
pub async fn note_whole(db: &Db, keep: bool) -> Result<(), DbError> {
    let stage = to_word(&Stage::Ready);
    write(db, move |tx| {
        if keep {
            tx.execute(
                // SQLite takes ON CONFLICT after a SELECT only where that has a WHERE.
                "INSERT INTO update_kept (one, offer) SELECT 1, offer FROM update_under_way WHERE TRUE
                 ON CONFLICT (one) DO UPDATE SET offer = excluded.offer",
                [],
            )?;
        }
        tx.execute("UPDATE update_under_way SET stage = $1", [stage])
    })
    .await
    .map(drop)
}

/// The bundle is no longer for other homes.
pub async fn unkeep(db: &Db) -> Result<(), DbError> {
    write(db, |tx| tx.execute("DELETE FROM update_kept", []))
        .await
        .map(drop)
}

/// Notes that the system is asked to install it; `heard` is the mark of what it said before.
pub async fn begin_install(db: &Db, heard: String) -> Result<(), DbError> {
    let stage = to_word(&Stage::Installing);
    write(db, move |tx| {
        tx.execute(
            "UPDATE update_under_way SET stage = $1, heard = $2, tries = tries + 1",
            (stage, heard),
        )
    })
    .await
    .map(drop)
}

/// Notes that the bundle is not what came: it is not for other homes, and has to be fetched again. That counts as a try,
/// since a machine that spoils what it stores must not fetch for ever.
pub async fn note_spoilt(db: &Db) -> Result<(), DbError> {
    let stage = to_word(&Stage::Fetching);
    write(db, move |tx| {
        tx.execute("DELETE FROM update_kept", [])?;
        tx.execute(
            "UPDATE update_under_way SET stage = $1, tries = tries + 1",
            [stage],
        )
    })
    .await
    .map(drop)
}

/// Notes that "Restart now" was pressed; whether there was something to restart for.
pub async fn want_restart(db: &Db) -> Result<bool, DbError> {
    let stages = (to_word(&Stage::Installed), to_word(&Stage::Restarting));
    write(db, move |tx| {
        tx.execute(
            "UPDATE update_under_way SET restart_wanted = 1 WHERE stage IN ($1, $2)",
            stages,
        )
    })
    .await
}

/// Forgets the update under way, and the bundle.
pub async fn forget(db: &Db) -> Result<(), DbError> {
    write(db, |tx| {
        tx.execute("DELETE FROM update_kept", [])?;
        tx.execute("DELETE FROM update_under_way", [])
    })
    .await
    .map(drop)
}

/// Notes what came of a version, and that it is not under way any more. What failed is not given to others. A version
/// that the server cannot know need not be reported.
pub async fn note_outcome(
    db: &Db,
    version: String,
    outcome: Outcome,
    words: String,
    now: Timestamp,
) -> Result<(), DbError> {
    let reported = i64::from(version.parse::<Version>().is_err());
    db.write(move |tx| {
        let ended = under_way(tx)?.filter(|stored| stored.it.version.to_string() == version);
        if ended.is_some() {
            tx.execute("DELETE FROM update_under_way", [])?;
        }
        let failed = outcome == Outcome::Failed;
        if failed && kept(tx)?.is_some_and(|offer| offer.version.to_string() == version) {
            tx.execute("DELETE FROM update_kept", [])?;
        }
        tx.execute(
            "INSERT INTO update_outcomes (version, outcome, words, at_ms, reported, dismissed)
             VALUES ($1, $2, $3, $4, $5, 0)
             ON CONFLICT (version) DO UPDATE SET outcome = excluded.outcome, words = excluded.words,
                 at_ms = excluded.at_ms, reported = excluded.reported, dismissed = 0",
            (
                version,
                to_word(&outcome),
                words,
                now.as_millisecond(),
                reported,
            ),
        )?;
        Ok(())
    })
    .await
}

/// Notes that the server knows this outcome of a version; a newer one it does not know yet.
pub async fn set_reported(db: &Db, version: String, outcome: Outcome) -> Result<(), DbError> {
    write(db, move |tx| {
        tx.execute(
            "UPDATE update_outcomes SET reported = 1 WHERE version = $1 AND outcome = $2",
            (version, to_word(&outcome)),
        )
    })
    .await
    .map(drop)
}

/// Notes that the household has read what failed.
pub async fn dismiss(db: &Db) -> Result<(), DbError> {
    write(db, |tx| {
        tx.execute("UPDATE update_outcomes SET dismissed = 1", [])
    })
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::blob::BlobHasher;

    fn offer(version: &str) -> UpdateOffer {
        let mut hasher = BlobHasher::new();
        hasher.update(b"bundle");
        let version = version.parse().expect("a version");
        UpdateOffer::new(version, &hasher.finish().expect("not empty"))
    }

    #[tokio::test]
    async fn each_step_is_there_after_the_next_opening() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let open = || Db::open(&path, &[SCHEMA]).expect("opens");
        let db = open();
        assert_eq!(load(&db).await.expect("read"), Stored::default());
        assert!(
            !want_restart(&db).await.expect("written"),
            "nothing to restart for"
        );
        take(&db, &offer("1.1.0")).await.expect("written");
        begin_install(&db, "7:8.9".into()).await.expect("written");
        set_stage(&db, Stage::Installed).await.expect("written");
        assert!(want_restart(&db).await.expect("written"));
        drop(db);
        let db = open();
        let stored = load(&db).await.expect("read").under_way.expect("under way");
        let version = "1.1.0".parse().expect("a version");
        let it = UnderWay {
            version,
            stage: Stage::Installed,
            tries: 1,
            restart_wanted: true,
        };
        assert_eq!((stored.it, stored.heard.as_str()), (it, "7:8.9"));
        assert_eq!(stored.offer, offer("1.1.0"));

        let now = Timestamp::UNIX_EPOCH;
        note_outcome(&db, "1.1.0".into(), Outcome::Failed, "why".into(), now)
            .await
            .expect("written");
        note_outcome(&db, "unknown".into(), Outcome::Failed, String::new(), now)
            .await
            .expect("written");
        let stored = load(&db).await.expect("read");
        assert_eq!(stored.under_way, None);
        assert_eq!(stored.failed(), BTreeSet::from([version]));
        let reported: Vec<bool> = stored.outcomes.iter().map(|it| it.reported).collect();
        assert_eq!(
            reported,
            [true, false],
            "nobody can be told of an unknown version"
        );
        set_reported(&db, "1.1.0".into(), Outcome::Installed)
            .await
            .expect("written");
        assert!(
            !load(&db).await.expect("read").outcomes[1].reported,
            "another outcome"
        );
        set_reported(&db, "1.1.0".into(), Outcome::Failed)
            .await
            .expect("written");
        dismiss(&db).await.expect("written");
        let outcomes = load(&db).await.expect("read").outcomes;
        assert!(outcomes.iter().all(|it| it.reported && it.dismissed));
    }

    #[tokio::test]
    async fn a_bundle_is_kept_for_others_until_it_fails_or_something_newer_comes() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("t.db"), &[SCHEMA]).expect("opens");
        let kept = async || {
            let stored = load(&db).await.expect("read");
            stored.kept.map(|offer| offer.version.to_string())
        };
        let came = async |version: &str, outcome| {
            let now = Timestamp::UNIX_EPOCH;
            let noted = note_outcome(&db, version.to_owned(), outcome, String::new(), now);
            noted.await.expect("written");
        };
        take(&db, &offer("1.1.0")).await.expect("written");
        assert_eq!(kept().await, None);
        note_whole(&db, true).await.expect("written");
        note_whole(&db, true).await.expect("written");
        assert_eq!(kept().await.as_deref(), Some("1.1.0"));
        came("1.1.0", Outcome::Installed).await;
        came("1.0.5", Outcome::Failed).await;
        assert_eq!(kept().await.as_deref(), Some("1.1.0"));
        take(&db, &offer("1.2.0")).await.expect("written");
        assert_eq!(kept().await, None, "its file gives way");
        note_whole(&db, true).await.expect("written");
        came("1.2.0", Outcome::Failed).await;
        assert_eq!(kept().await, None);
        take(&db, &offer("1.3.0")).await.expect("written");
        note_whole(&db, false).await.expect("written");
        assert_eq!(kept().await, None, "other homes cannot come here");
        note_whole(&db, true).await.expect("written");
        unkeep(&db).await.expect("written");
        let stored = load(&db).await.expect("read");
        assert_eq!(
            stored.under_way.map(|stored| stored.it.stage),
            Some(Stage::Ready)
        );
        assert_eq!(stored.kept, None);
        note_whole(&db, true).await.expect("written");
        note_spoilt(&db).await.expect("written");
        let stored = load(&db).await.expect("read");
        assert_eq!(
            stored
                .under_way
                .map(|stored| (stored.it.stage, stored.it.tries)),
            Some((Stage::Fetching, 1))
        );
        assert_eq!(stored.kept, None, "nobody gets what is spoilt");
    }

    #[tokio::test]
    async fn what_a_newer_version_wrote_is_passed_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("t.db"), &[SCHEMA]).expect("opens");
        take(&db, &offer("1.1.0")).await.expect("written");
        note_whole(&db, true).await.expect("written");
        let now = Timestamp::UNIX_EPOCH;
        for version in ["1.0.1", "1.0.2"] {
            note_outcome(&db, version.into(), Outcome::Failed, String::new(), now)
                .await
                .expect("written");
        }
        db.write(|tx| {
            tx.execute("UPDATE update_under_way SET stage = 'pondering'", [])?;
            tx.execute("UPDATE update_kept SET offer = '{}'", [])?;
            let spoil = "UPDATE update_outcomes SET outcome = 'mixed' WHERE version = '1.0.1'";
            tx.execute(spoil, [])?;
            Ok::<_, DbError>(())
        })
        .await
        .expect("written");
        let stored = load(&db).await.expect("read");
        assert_eq!((stored.under_way, stored.kept), (None, None));
        let versions: Vec<&str> = stored
            .outcomes
            .iter()
            .map(|it| it.version.as_str())
            .collect();
        assert_eq!(versions, ["1.0.2"]);
        // Written anew by what comes next.
        take(&db, &offer("1.2.0")).await.expect("written");
        note_outcome(&db, "1.0.1".into(), Outcome::Installed, String::new(), now)
            .await
            .expect("written");
        let stored = load(&db).await.expect("read");
        assert!(stored.under_way.is_some());
        assert_eq!(stored.outcomes.len(), 2);
    }

    #[tokio::test]
    async fn a_newer_offer_takes_the_place_of_an_older_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("t.db"), &[SCHEMA]).expect("opens");
        take(&db, &offer("1.1.0")).await.expect("written");
        set_stage(&db, Stage::Ready).await.expect("written");
        take(&db, &offer("1.2.0")).await.expect("written");
        // What came of another version does not end the one under way.
        let now = Timestamp::UNIX_EPOCH;
        note_outcome(&db, "1.0.5".into(), Outcome::Failed, String::new(), now)
            .await
            .expect("written");
        let stored = load(&db).await.expect("read").under_way.expect("under way");
        assert_eq!(
            (stored.it.version.to_string().as_str(), stored.it.stage),
            ("1.2.0", Stage::Fetching)
        );
        forget(&db).await.expect("written");
        assert_eq!(load(&db).await.expect("read").under_way, None);
    }
}
