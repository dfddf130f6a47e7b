//! Performs what `decide` says: reads the stored state, gathers the facts, takes one step, looks again.

use super::decide::{
    Action, Answered, Due, Facts, MAX_TRIES, Said, Stage, UnderWay, Why, answered, decide,
};
use super::fetch::{self, Fetch};
use super::homes::{self, Homes};
use super::pieces::{FETCH_AGAIN, no_room};
use super::store::{self, Stored, StoredUpdate};
use super::system::Request;
use super::{Inner, Shown, ShownFailure, ShownUpdate, quiet};
use crate::link::{LinkStatus, Wake};
use jiff::Timestamp;
use mantel_protocol::api::{ProblemCode, UpdateOffer, UpdateOutcome, UpdateQuestion};
use mantel_protocol::blob::BlobId;
use mantel_protocol::update::{Outcome, Version};
use mantel_runtime::db::DbError;
use mantel_runtime::files::blocking;
use mantel_runtime::logging::chain;
use mantel_runtime::tasks::Tasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, info, warn};

/// How often the server is asked for something newer.
const ASK_EVERY: Duration = Duration::from_hours(6);
/// The pause after the server did not answer a question or a report.
const ASK_AGAIN: Duration = Duration::from_mins(5);
/// How long the system may take to take a request.
const TAKEN_WITHIN: Duration = Duration::from_mins(1);
/// The pause before the system is asked again for what it refused, or for a restart that did not come.
const REQUEST_AGAIN: Duration = Duration::from_mins(10);
/// The pause before a bundle that the disk spoilt is fetched again.
const SPOILT_AGAIN: Duration = Duration::from_hours(1);
/// How long an installation may take.
const INSTALLED_WITHIN: Duration = Duration::from_hours(1);
/// How often is looked while something waits for the system or for quiet.
const LOOK_SOON: Duration = Duration::from_secs(2);
/// How often is looked while nothing does.
const LOOK_LATER: Duration = Duration::from_mins(1);
/// A bundle that is kept for other homes alone is deleted when the store has less room than this.
const KEPT_MIN_FREE: u64 = 1024 * 1024 * 1024;

/// From when on each thing may be done, by the monotonic clock.
#[derive(Default)]
pub(super) struct Next {
    pub(super) ask: Duration,
    pub(super) fetch: Duration,
    request: Duration,
    give_up: Duration,
    report: Duration,
}

pub(super) struct Driver {
    pub(super) inner: Arc<Inner>,
    pub(super) next: Next,
    pub(super) fetch: Option<(BlobId, Fetch)>,
    pub(super) homes: Homes,
    pub(super) percent: u64,
    pub(super) problem: Option<String>,
    asked: Option<Timestamp>,
    /// The bundle that other homes are given.
    gives: Option<(BlobId, Version)>,
}

/// Notes what the system says of its start, and goes on from there.
pub(super) async fn start(inner: &Arc<Inner>, tasks: &Tasks) -> Result<(), DbError> {
    let db = &inner.parts.db;
    let stored = store::load(db).await?;
    if let Some(failed) = &inner.system.failed_update {
        let known =
            |it: &store::StoredOutcome| it.version == *failed && it.outcome == Outcome::Failed;
        if !stored.outcomes.iter().any(known) {
            warn!(version = failed, running = %inner.system.version, "an update failed; the version before it runs");
            let (words, now) = (in_words(&Why::WentBack), inner.parts.clock.now());
            store::note_outcome(db, failed.clone(), Outcome::Failed, words, now).await?;
        }
    }
    if !inner.parts.exchange.is_direct() {
        store::unkeep(db).await?;
    }
    let stored = store::load(db).await?;
    let mut next = Next {
        ask: inner.parts.clock.monotonic() + at_random(inner.spread),
        ..Next::default()
    };
    match stored.under_way.as_ref().map(|stored| stored.it.stage) {
        None if stored.kept.is_none() => clear(inner).await,
        // The gateway ended in the middle: the system may be about to answer.
        Some(Stage::Installing | Stage::Restarting) => {
            let now = inner.parts.clock.monotonic();
            next.request = now + TAKEN_WITHIN;
            next.give_up = now + INSTALLED_WITHIN;
        }
        None | Some(_) => {}
    }
    let driver = Driver {
        inner: Arc::clone(inner),
        next,
        fetch: None,
        homes: Homes::default(),
        percent: 0,
        problem: None,
        asked: None,
        gives: None,
    };
    driver.show(&stored);
    tasks.spawn("updates", driver.run());
    Ok(())
}

/// A moment within `spread`, another one in each home and each time.
fn at_random(spread: Duration) -> Duration {
    spread.mul_f64(rand::random())
}

/// Deletes a bundle that is not needed any more.
async fn clear(inner: &Inner) {
    let folder = inner.update_dir.clone();
    if let Err(error) = blocking(move || fetch::clear(&folder)).await {
        warn!(%error, "an old bundle was not deleted");
    }
}

/// Why an update failed, for a person and for the operator.
fn in_words(why: &Why) -> String {
    match why {
        Why::WentBack => {
            "It started and did not prove good; the version before it runs again.".to_owned()
        }
        Why::Refused(words) => format!("The system did not take it: {words}"),
        Why::NoAnswer => "The system did not answer.".to_owned(),
        Why::NotStarted => "It was put in place and did not start.".to_owned(),
    }
}

impl Driver {
    async fn run(mut self) {
        let inner = Arc::clone(&self.inner);
        let (mut wakes, mut status) = (inner.parts.link.wakes(), inner.parts.link.status());
        loop {
            let rest = match self.step().await {
                Ok(rest) => rest,
                Err(error) => {
                    warn!(error = %chain(&error), "the state of updates was not read or written");
                    LOOK_LATER
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = inner.look.notified() => {}
                changed = status.changed() => if changed.is_err() { return },
                wake = wakes.recv() => match wake {
                    Ok(Wake::Updates) | Err(RecvError::Lagged(_)) => self.look_soon(),
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// One step; how long to rest after it.
    async fn step(&mut self) -> Result<Duration, DbError> {
        let stored = store::load(&self.inner.parts.db).await?;
        self.give(&stored).await?;
        self.show(&stored);
        let facts = self.facts(&stored);
        let under_way = stored.under_way.as_ref();
        let action = decide(under_way.map(|stored| &stored.it), &facts);
        let Some(update) = under_way else {
            return match action {
                Action::Report => self.report(&stored).await,
                Action::Ask => self.ask(&stored).await,
                _ => self.make_room(&stored).await,
            };
        };
        let (db, version) = (&self.inner.parts.db, update.it.version);
        match action {
            Action::Wait if update.it.stage == Stage::Fetching => return Ok(FETCH_AGAIN),
            Action::Wait => return Ok(LOOK_SOON),
            Action::Report => return self.report(&stored).await,
            Action::Ask => return self.ask(&stored).await,
            Action::Fetch => return self.fetch(update).await,
            Action::FetchAgain => {
                store::unkeep(db).await?;
                store::set_stage(db, Stage::Fetching).await?;
            }
            Action::Install => self.install(update).await?,
            Action::NoteInPlace => {
                info!(%version, "an update is in place; it starts with the next restart");
                store::set_stage(db, Stage::Installed).await?;
                self.next.request = Duration::ZERO;
            }
            Action::TryAgain => {
                let why = in_words(&match (&facts.said, update.it.stage) {
                    (Some(Said::Refused(words)), _) => Why::Refused(words.clone()),
                    (_, Stage::Installing) => Why::NoAnswer,
                    _ => Why::NotStarted,
                });
                warn!(%version, why, tries = update.it.tries, "an update is tried again");
                store::set_stage(db, Stage::Ready).await?;
                self.problem = Some(format!("{why} It is tried again in 10 minutes."));
                self.next.request = self.after(REQUEST_AGAIN);
            }
            Action::Restart => {
                info!(%version, "the system is asked to restart into an update");
                store::set_stage(db, Stage::Restarting).await?;
                self.request(&Request::Restart, REQUEST_AGAIN);
            }
            Action::NoteInstalled => {
                info!(%version, "an update runs and has proved good");
                self.end(update, Outcome::Installed, String::new()).await?;
            }
            Action::NoteFailed(why) => {
                let words = in_words(&why);
                warn!(%version, words, "an update failed");
                self.end(update, Outcome::Failed, words).await?;
            }
            Action::Forget => self.forget().await?,
        }
        Ok(Duration::ZERO)
    }

    /// The server speaks of updates: everybody is told at once, and each looks at its own moment.
    fn look_soon(&mut self) {
        let at = self.after(at_random(self.inner.spread));
        self.next.ask = self.next.ask.min(at);
        self.next.fetch = self.next.fetch.min(at);
    }

    /// Gives the bundle that is kept to other homes, or no longer.
    async fn give(&mut self, stored: &Stored) -> Result<(), DbError> {
        let kept = stored.kept.as_ref().map(|offer| offer.bundle);
        if kept == self.gives.map(|(bundle, _)| bundle) {
            return Ok(());
        }
        self.gives = None;
        let exchange = self.inner.parts.exchange.clone();
        let Some(offer) = &stored.kept else {
            exchange.give_bundle(None);
            return Ok(());
        };
        match homes::seed(&self.inner, offer).await {
            Ok(seed) => {
                info!(version = %offer.version, "other homes may fetch an update from here");
                exchange.give_bundle(Some(seed));
                self.gives = Some((offer.bundle, offer.version));
                Ok(())
            }
            Err(error) => {
                debug!(version = %offer.version, %error, "the bundle is not here to be given");
                exchange.give_bundle(None);
                store::unkeep(&self.inner.parts.db).await
            }
        }
    }

    /// Nothing is under way. The bundle that is kept for others alone makes room for the household's own things.
    async fn make_room(&mut self, stored: &Stored) -> Result<Duration, DbError> {
        if stored.kept.is_some() && self.inner.parts.library.free_bytes().await < KEPT_MIN_FREE {
            info!(
                "the disk gets full: an update's bundle that was kept for other homes is deleted"
            );
            self.forget().await?;
            self.next.ask = Duration::ZERO;
            return Ok(Duration::ZERO);
        }
        Ok(LOOK_LATER)
    }

    pub(super) fn after(&self, pause: Duration) -> Duration {
        self.inner.parts.clock.monotonic() + pause
    }

    fn facts(&self, stored: &Stored) -> Facts {
        let Inner {
            parts,
            folder,
            system,
            update_dir,
            ..
        } = &*self.inner;
        let now = parts.clock.monotonic();
        let online = *parts.link.status().borrow() == LinkStatus::Online;
        let unreported = stored.outcomes.iter().any(|it| !it.reported);
        // The server's time: a box may have no clock of its own that lasts, and no time server that answers.
        let time = parts.link.now_signed().to_zoned(crate::zone::here()).time();
        let minute =
            u32::from(time.hour().unsigned_abs()) * 60 + u32::from(time.minute().unsigned_abs());
        let heard = stored.under_way.as_ref().map(|it| it.heard.as_str());
        Facts {
            running: system.version,
            failed: system
                .failed_update
                .as_deref()
                .and_then(|it| it.parse().ok()),
            good: folder.is_good(),
            safe: system.safe,
            whole: fetch::bundle_in(update_dir).exists(),
            said: heard.and_then(|heard| folder.said_since(heard)),
            asked: folder.is_asked(),
            quiet: quiet::busy(parts).is_none(),
            night: quiet::is_night(minute, parts.link.device()),
            due: Due {
                ask: online && now >= self.next.ask,
                fetch: online && now >= self.next.fetch,
                request: now >= self.next.request,
                give_up: now >= self.next.give_up,
                report: online && unreported && now >= self.next.report,
            },
        }
    }

    async fn report(&mut self, stored: &Stored) -> Result<Duration, DbError> {
        let db = &self.inner.parts.db;
        let Some(outcome) = stored.outcomes.iter().find(|it| !it.reported) else {
            return Ok(LOOK_LATER);
        };
        let told = match (self.inner.parts.link.api(), outcome.version.parse()) {
            (Ok(api), Ok(version)) => {
                let report = UpdateOutcome {
                    outcome: outcome.outcome,
                    words: outcome.words.clone(),
                };
                api.update_outcome(version, &report).await
            }
            (Err(error), _) => Err(error),
            (_, Err(_)) => Ok(()),
        };
        match told {
            Err(error) if error.passes() => {
                debug!(error = %chain(&error), "an update's outcome was not reported");
                self.next.report = self.after(ASK_AGAIN);
            }
            // What the server refuses it does not want to know: it was not the one who offered it.
            told => {
                debug!(
                    version = outcome.version,
                    ?told,
                    "an update's outcome was reported"
                );
                store::set_reported(db, outcome.version.clone(), outcome.outcome).await?;
            }
        }
        Ok(Duration::ZERO)
    }

    async fn ask(&mut self, stored: &Stored) -> Result<Duration, DbError> {
        let inner = Arc::clone(&self.inner);
        let running = inner.system.version;
        let answer = match inner.parts.link.api() {
            Ok(api) => {
                let holds = self.gives.map(|(_, version)| version);
                api.ask_update(UpdateQuestion { running, holds }).await
            }
            Err(error) => Err(error),
        };
        let (offer, keep) = match answer {
            Ok(answer) => (answer.offer, answer.keep),
            Err(error) => {
                // A server that does not know the question will not know it in five minutes.
                let unknown = error.code() == Some(ProblemCode::NotFound);
                debug!(error = %chain(&error), "the server was not asked for updates");
                self.next.ask = self.after(if unknown { ASK_EVERY } else { ASK_AGAIN });
                return Ok(Duration::ZERO);
            }
        };
        self.next.ask = self.after(ASK_EVERY + at_random(self.inner.spread));
        self.asked = Some(inner.parts.clock.now());
        let offer = offer.filter(|offer| match offer.hashes() {
            Ok(_) => true,
            Err(error) => {
                warn!(version = %offer.version, %error, "an offer of the server makes no sense");
                false
            }
        });
        let under_way = stored.under_way.as_ref().map(|stored| &stored.it);
        let offered = offer.as_ref().map(|offer| offer.version);
        match (
            answered(under_way, running, &stored.failed(), offered),
            offer,
        ) {
            (Answered::Take, Some(offer)) => {
                self.cancel(under_way);
                self.take(&offer).await?;
            }
            (Answered::Drop, _) => {
                info!("an update is not offered any more");
                self.cancel(under_way);
                self.forget().await?;
            }
            _ if !keep && self.gives.is_some() => {
                store::unkeep(&inner.parts.db).await?;
                if under_way.is_none() {
                    info!("an update's bundle is not wanted by other homes any more");
                    clear(&inner).await;
                }
            }
            _ => {}
        }
        Ok(Duration::ZERO)
    }

    /// What is in place already, and is given up, shall not start.
    fn cancel(&mut self, under_way: Option<&UnderWay>) {
        if under_way.is_some_and(|it| it.stage == Stage::Installed) {
            self.request(&Request::Cancel, Duration::ZERO);
        }
    }

    async fn take(&mut self, offer: &UpdateOffer) -> Result<(), DbError> {
        info!(version = %offer.version, bytes = offer.size_bytes, "an update is offered");
        // Another version's, which other homes may be reading: its file is not written over.
        clear(&self.inner).await;
        store::take(&self.inner.parts.db, offer).await?;
        self.begin_anew();
        Ok(())
    }

    async fn forget(&mut self) -> Result<(), DbError> {
        store::forget(&self.inner.parts.db).await?;
        self.begin_anew();
        clear(&self.inner).await;
        Ok(())
    }

    async fn end(
        &mut self,
        update: &StoredUpdate,
        outcome: Outcome,
        words: String,
    ) -> Result<(), DbError> {
        let (db, now) = (&self.inner.parts.db, self.inner.parts.clock.now());
        store::note_outcome(db, update.it.version.to_string(), outcome, words, now).await?;
        self.begin_anew();
        if store::load(&self.inner.parts.db).await?.kept.is_none() {
            clear(&self.inner).await;
        }
        Ok(())
    }

    fn begin_anew(&mut self) {
        self.fetch = None;
        self.homes = Homes::default();
        self.percent = 0;
        self.problem = None;
        self.next.fetch = Duration::ZERO;
        self.next.request = Duration::ZERO;
        self.next.report = Duration::ZERO;
    }

    /// Asks the system to install, unless the disk changed the bundle since it came.
    async fn install(&mut self, update: &StoredUpdate) -> Result<(), DbError> {
        let (db, folder) = (&self.inner.parts.db, self.inner.update_dir.clone());
        let offer = update.offer.clone();
        // The system makes a copy of its own before it reads it.
        let (needed, free) = (
            offer.size_bytes,
            self.inner.parts.library.free_bytes().await,
        );
        if needed > free {
            self.problem = Some(no_room(offer.version, needed, free));
            self.next.request = self.after(REQUEST_AGAIN);
            return Ok(());
        }
        let sum = blocking(move || match offer.hashes() {
            Ok(hashes) => fetch::sum(&folder, &hashes),
            Err(_) => Ok(None),
        });
        match sum.await {
            Ok(Some(sum)) => {
                store::begin_install(db, self.inner.folder.mark()).await?;
                self.problem = None;
                self.next.give_up = self.after(INSTALLED_WITHIN);
                let version = update.it.version;
                self.request(&Request::Install { sum, version }, TAKEN_WITHIN);
            }
            Ok(None) if update.it.tries >= MAX_TRIES => {
                let words = "The disk or the memory of this machine changes what is stored on it."
                    .to_owned();
                self.end(update, Outcome::Failed, words).await?;
            }
            Ok(None) => {
                warn!(version = %update.it.version, "an update's bundle is not what came; it is fetched again in an hour");
                store::note_spoilt(db).await?;
                self.next.fetch = self.after(SPOILT_AGAIN);
                self.problem = Some(
                    "The update was damaged on the disk. It is fetched again in an hour.".into(),
                );
            }
            Err(error) => {
                warn!(%error, "an update's bundle cannot be read");
                self.problem = Some(
                    "The update cannot be read from the disk. It is tried again by itself.".into(),
                );
                self.next.request = self.after(REQUEST_AGAIN);
            }
        }
        Ok(())
    }

    /// Asks the system; `pause`: when it may be asked again.
    fn request(&mut self, request: &Request, pause: Duration) {
        self.next.request = self.after(pause);
        if let Err(error) = self.inner.folder.ask(request) {
            warn!(%error, ?request, "the system was not asked");
            self.problem = Some("The system cannot be asked. It is tried again by itself.".into());
        }
    }

    /// Tells the pages.
    fn show(&self, stored: &Stored) {
        let Inner { parts, system, .. } = &*self.inner;
        let running = system.version;
        let under_way = stored.under_way.as_ref().map(|stored| {
            let it = &stored.it;
            let waits = matches!(
                it.stage,
                Stage::Ready | Stage::Installed | Stage::Restarting
            );
            ShownUpdate {
                version: it.version,
                stage: it.stage,
                proving: running == it.version,
                percent: if it.stage == Stage::Fetching {
                    self.percent
                } else {
                    100
                },
                from_homes: self.homes.bytes(),
                restart_wanted: it.restart_wanted,
                busy: waits.then(|| quiet::busy(parts)).flatten(),
                problem: self.problem.clone(),
            }
        });
        let failures = stored
            .outcomes
            .iter()
            .filter(|it| it.outcome == Outcome::Failed);
        let failures = failures.map(|it| ShownFailure {
            version: it.version.parse().ok(),
            words: it.words.clone(),
            dismissed: it.dismissed,
        });
        let mut still = failures.filter(|it| match it.version {
            Some(version) => version > running,
            None => system.failed_update.is_some(),
        });
        let shown = Shown {
            running,
            safe: system.safe,
            under_way,
            failed: still.next(),
            asked: self.asked,
            gives: self.gives.map(|(_, version)| version),
        };
        self.inner.shown.send_if_modified(|before| {
            let changed = **before != shown;
            if changed {
                *before = Arc::new(shown);
            }
            changed
        });
    }
}
