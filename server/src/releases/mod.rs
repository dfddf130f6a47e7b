//! Releases: versions of the appliance that the operator puts here as signed bundles, and which home is offered which.
//!
//! - `rollout`: whom a release is for; pure. `file`: bundles on disk. `store`: the tables.
//!
//! The server does not look into a bundle: appliances check its signature. A release that was withdrawn is not offered
//! again and its bundle is deleted; the same content comes back under a higher version.

mod file;
pub mod rollout;
pub mod store;

use crate::customers::{self, Caller};
use crate::error::{Result, bad, broken, conflict, missing};
use crate::notice::{Notices, Outbox};
use file::Arriving;
use jiff::Timestamp;
use mantel_protocol::api::{UpdateAnswer, UpdateOffer, UpdateOutcome, UpdateQuestion};
use mantel_protocol::blob::{BlobId, HashList};
use mantel_protocol::bus::Command;
use mantel_protocol::ids::HomeId;
use mantel_protocol::update::{
    MAX_BUNDLE_BYTES, MAX_OUTCOME_CHARS, MAX_PIECE_BYTES, Outcome, Version,
};
use mantel_protocol::words::size;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use rollout::Rollout;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The most homes that a release names.
pub const MAX_NAMED: usize = 1_000;
/// Homes' words that a release's page shows.
const MAX_OUTCOMES: i64 = 200;

/// A release as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRow {
    /// Which.
    pub version: Version,
    /// The bundle's size.
    pub size_bytes: u64,
    /// The bundle's hash.
    pub bundle: BlobId,
    /// Of all homes so many in a hundred.
    pub percent: u8,
    /// Since when.
    pub created: Timestamp,
    /// When it was withdrawn.
    pub withdrawn: Option<Timestamp>,
    /// Homes that are named.
    pub named: u64,
    /// Homes that said they run it when they last asked.
    pub running: u64,
    /// Homes whose last word is that it was installed.
    pub installed: u64,
    /// Homes whose last word is that it failed.
    pub failed: u64,
    /// Homes that hold its bundle for others.
    pub seeds: u64,
    /// Bytes of its bundle that this server has sent since it started.
    pub sent_bytes: u64,
}

/// What a home told of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeRow {
    /// Which home.
    pub home: HomeId,
    /// Its name.
    pub home_name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, in the gateway's words; may be empty.
    pub words: String,
    /// When.
    pub at: Timestamp,
}

/// A release with all that its page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseView {
    /// The release.
    pub row: ReleaseRow,
    /// The homes that are named.
    pub named: BTreeSet<HomeId>,
    /// What homes told, newest first.
    pub outcomes: Vec<OutcomeRow>,
}

/// The releases; cheap to clone.
#[derive(Clone)]
pub struct Releases {
    db: Db,
    clock: Clock,
    notices: Notices,
    folder: PathBuf,
    /// Bytes sent of each version's bundle since the start.
    sent: Arc<Mutex<BTreeMap<Version, u64>>>,
}

impl Releases {
    /// Over an open database and `releases/` in the data directory.
    pub async fn open(data_dir: &Path, db: Db, clock: Clock, notices: Notices) -> Result<Self> {
        let folder = data_dir.join("releases");
        let rows = db.read(store::rows).await?;
        let needed = rows.iter().filter(|row| row.withdrawn.is_none());
        let needed = needed.map(|row| row.bundle).collect();
        file::clear(&folder, &needed).map_err(broken("the folder of releases cannot be used"))?;
        Ok(Self {
            db,
            clock,
            notices,
            folder,
            sent: Arc::default(),
        })
    }

    /// All of them, newest version first.
    pub async fn list(&self) -> Result<Vec<ReleaseRow>> {
        let mut rows = self.db.read(store::rows).await?;
        for row in &mut rows {
            row.sent_bytes = self.sent_of(row.version);
        }
        Ok(rows)
    }

    fn sent_of(&self, version: Version) -> u64 {
        let sent = self.sent.lock().expect("no holder of this lock panics");
        sent.get(&version).copied().unwrap_or(0)
    }

    /// One of them.
    pub async fn find(&self, version: Version) -> Result<Option<ReleaseView>> {
        let sent_bytes = self.sent_of(version);
        self.db
            .read(move |c| {
                let rows = store::rows(c)?;
                let Some(row) = rows.into_iter().find(|row| row.version == version) else {
                    return Ok(None);
                };
                Ok(Some(ReleaseView {
                    row: ReleaseRow { sent_bytes, ..row },
                    named: store::named(c)?.remove(&version).unwrap_or_default(),
                    outcomes: store::outcomes(c, version, MAX_OUTCOMES)?,
                }))
            })
            .await
    }

    /// Begins to take the bundle of a new version.
    pub async fn begin(&self, version: Version) -> Result<Upload> {
        if self.db.read(move |c| store::exists(c, version)).await? {
            return Err(exists(version));
        }
        let folder = self.folder.clone();
        let arriving = blocking(move || Arriving::begin(&folder)).await?;
        Ok(Upload {
            version,
            arriving: Some(arriving),
        })
    }

    /// Keeps a bundle that has arrived whole; it is for no home yet.
    pub async fn keep(&self, mut upload: Upload) -> Result<Version> {
        let arriving = upload.arriving.take().ok_or_else(cut_off)?;
        let hashes: HashList = blocking(move || arriving.keep()).await?;
        let (version, now) = (upload.version, self.clock.now());
        let offer = UpdateOffer::new(version, &hashes);
        self.db
            .write(move |tx| {
                if store::exists(tx, version)? {
                    return Err(exists(version));
                }
                store::add(tx, &offer, now)
            })
            .await?;
        tracing::info!(%version, bytes = hashes.size(), bundle = %hashes.id(), "a release was put here");
        self.notices.changed();
        Ok(version)
    }

    /// Sets whom a release is for.
    pub async fn set_rollout(&self, rollout: Rollout) -> Result<()> {
        if rollout.percent > 100 {
            return Err(bad("a percentage is a whole number from 0 to 100"));
        }
        if rollout.homes.len() > MAX_NAMED {
            return Err(bad(format!("a release names at most {MAX_NAMED} homes")));
        }
        self.change(move |tx| {
            if store::offer(tx, rollout.version)?.is_none() {
                return Err(missing("release any more"));
            }
            for home in &rollout.homes {
                customers::store::by_id(tx, *home)?.ok_or_else(|| missing("home"))?;
            }
            store::set_rollout(tx, &rollout)
        })
        .await
    }

    /// Withdraws a release: no home is offered it any more, and its bundle is deleted. Homes that run it keep it; elsewhere it does not start.
    pub async fn withdraw(&self, version: Version) -> Result<()> {
        let now = self.clock.now();
        self.change(move |tx| {
            if store::withdraw(tx, version, now)? {
                Ok(())
            } else {
                Err(missing("release any more"))
            }
        })
        .await?;
        let (folder, rows) = (self.folder.clone(), self.list().await?);
        let Some(gone) = rows.iter().find(|row| row.version == version) else {
            return Ok(());
        };
        let bundle = gone.bundle;
        if rows
            .iter()
            .any(|row| row.bundle == bundle && row.withdrawn.is_none())
        {
            return Ok(());
        }
        match blocking(move || std::fs::remove_file(file::path_of(&folder, bundle))).await {
            Ok(()) => tracing::info!(%version, "a release was withdrawn and its bundle deleted"),
            Err(error) => tracing::warn!(%version, %error, "a withdrawn bundle was not deleted"),
        }
        Ok(())
    }

    /// Changes the rollout and tells all gateways to look again.
    async fn change(
        &self,
        job: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let outbox = self
            .db
            .write(move |tx| {
                job(tx)?;
                let mut outbox = Outbox::default();
                for device in customers::store::devices(tx)? {
                    outbox.tell(device, Command::Updates);
                }
                Ok::<_, crate::error::CoreError>(outbox)
            })
            .await?;
        self.notices.post(outbox);
        Ok(())
    }

    /// An appliance asks for something newer; what it runs is noted. A suspended account is answered too: updates mend
    /// faults.
    pub async fn ask(&self, caller: &Caller, question: UpdateQuestion) -> Result<UpdateAnswer> {
        let (home, now) = (caller.home, self.clock.now());
        let answer = self
            .db
            .write(move |tx| {
                let (failed, all) = (store::failed_in(tx, home)?, store::rollouts(tx)?);
                // Only what it was offered can be there; others would be sent to it for nothing.
                let may_hold = |version: &Version| {
                    let reached = |it: &Rollout| it.version == *version && it.reaches(home);
                    !failed.contains(version) && all.iter().any(reached)
                };
                let question = UpdateQuestion {
                    holds: question.holds.filter(may_hold),
                    ..question
                };
                store::note_asked(tx, home, &question, now)?;
                let offer = match rollout::newest_for(home, question.running, &failed, &all) {
                    Some(version) => store::offer(tx, version)?,
                    None => None,
                };
                let keep = question.holds.is_some();
                Ok::<_, crate::error::CoreError>(UpdateAnswer { offer, keep })
            })
            .await?;
        self.notices.changed();
        Ok(answer)
    }

    /// What is on offer under this version, if it is for the caller's home.
    pub async fn offer_for(&self, caller: &Caller, version: Version) -> Result<UpdateOffer> {
        let home = caller.home;
        let offer = self
            .db
            .read(move |c| {
                let all = store::rollouts(c)?;
                let reaches = |it: &Rollout| it.version == version && it.reaches(home);
                if all.iter().any(reaches) {
                    store::offer(c, version)
                } else {
                    Ok(None)
                }
            })
            .await?;
        offer.ok_or_else(|| missing("update for this home"))
    }

    /// Homes other than the caller's that hold a version's bundle, in any order, at most `limit`.
    pub async fn holders(
        &self,
        caller: &Caller,
        version: Version,
        limit: i64,
    ) -> Result<Vec<HomeId>> {
        let home = caller.home;
        self.db
            .read(move |c| store::holders(c, version, home, limit))
            .await
    }

    /// Bytes of a bundle, for a home that it is for.
    pub async fn read(
        &self,
        caller: &Caller,
        version: Version,
        start: u64,
        count: u64,
    ) -> Result<Vec<u8>> {
        let offer = self.offer_for(caller, version).await?;
        let inside = start
            .checked_add(count)
            .is_some_and(|end| end <= offer.size_bytes);
        if count == 0 || count > MAX_PIECE_BYTES || !inside {
            return Err(bad(format!(
                "a piece has 1 to {MAX_PIECE_BYTES} bytes of the {} that there are",
                offer.size_bytes
            )));
        }
        let (folder, bundle) = (self.folder.clone(), offer.bundle);
        let bytes = blocking(move || file::read(&folder, bundle, start, count as usize)).await?;
        let mut sent = self.sent.lock().expect("no holder of this lock panics");
        *sent.entry(version).or_default() += count;
        Ok(bytes)
    }

    /// A home tells what came of a version.
    pub async fn report(
        &self,
        caller: &Caller,
        version: Version,
        report: UpdateOutcome,
    ) -> Result<()> {
        let (home, now) = (caller.home, self.clock.now());
        let words: String = report
            .words
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_OUTCOME_CHARS)
            .collect();
        self.db
            .write(move |tx| {
                if !store::exists(tx, version)? {
                    return Err(missing("release"));
                }
                store::note_outcome(tx, home, version, (report.outcome, &words), now)
            })
            .await?;
        self.notices.changed();
        Ok(())
    }
}

/// A bundle on its way here; dropped, nothing is kept of it.
pub struct Upload {
    version: Version,
    arriving: Option<Arriving>,
}

impl Upload {
    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: bytes::Bytes) -> Result<()> {
        let mut arriving = self.arriving.take().ok_or_else(cut_off)?;
        let taken = blocking(move || arriving.write(&bytes).map(|()| arriving)).await;
        self.arriving = Some(taken?);
        Ok(())
    }
}

fn exists(version: Version) -> crate::error::CoreError {
    conflict(
        format!("there is a release {version} already"),
        "nothing was changed; build the bundle with a higher version",
    )
}

fn cut_off() -> crate::error::CoreError {
    bad("the bundle did not arrive whole")
}

/// Disk work with a bundle, and what is wrong with the bundle or the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = mantel_runtime::files::blocking(work).await;
    done.map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => bad(format!(
            "the bundle is larger than {}",
            size(MAX_BUNDLE_BYTES)
        )),
        io::ErrorKind::InvalidData => bad("the bundle is empty"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => conflict(
            "the server's disk is full",
            "nothing was kept of the bundle; free some space and put it here again",
        ),
        _ => broken("the disk refused")(error),
    })
}
