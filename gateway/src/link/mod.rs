//! The gateway's tie to its server: enrolment, API, broker, presence, signed time (F5, F12, F33; DESIGN §1, §3).
//!
//! - [`claim`]: the claim link that a person types. [`identity`]: this device's keys. [`store`]: what survives a restart.
//! - [`api`]: typed calls of the HTTPS API over pinned TLS. [`mqtt`]: the broker, which only says "look again".
//! - [`time`]: the server's signed time, by which licenses are judged. [`presence`]: where this gateway is.
//!
//! What must not be lost goes by the API and is repeated until answered; a [`Wake`] costs nothing when it is lost.

pub mod api;
pub mod claim;
mod enrol;
pub mod identity;
mod mqtt;
mod presence;
pub mod store;
pub mod time;

pub use api::{ApiClient, ApiError};
pub use enrol::EnrolError;
pub use identity::Identity;
pub use store::{Enrolment, SCHEMA};

use jiff::Timestamp;
use mantel_protocol::api::{PresenceReport, ServerCard};
use mantel_protocol::bus::{Command, Event};
use mantel_protocol::ids::DeliveryId;
use mantel_protocol::key::DeviceId;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError};
use mantel_runtime::tasks::Tasks;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use time::SignedClock;
use tokio::sync::{Notify, broadcast, watch};
use tracing::{debug, warn};

/// How often presence is reported and everything is looked at again, so that a lost message costs latency only.
pub const RESYNC_EVERY: Duration = Duration::from_secs(30);
/// How often the server's signed time is asked for.
const TIME_EVERY: Duration = Duration::from_mins(10);
/// Wakes that a slow listener may be behind; beyond that it looks at everything again.
const WAKE_QUEUE: usize = 256;

/// How this gateway stands with its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStatus {
    /// No claim link was typed yet.
    NotEnrolled,
    /// The first connection since start is being made.
    Connecting,
    /// The server answers.
    Online,
    /// The server does not answer; it is tried again by itself.
    Offline {
        /// Since when.
        since: Timestamp,
        /// Why, for a person.
        why: String,
    },
}

/// What to look at again, by the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Everything: a connection was made, or half a minute went by.
    Everything,
    /// Orders.
    Orders,
    /// What this home is to send.
    Deliveries,
    /// Stop sending this now.
    Revoked(DeliveryId),
    /// Restrictions and the account's status.
    Restrictions,
    /// The catalog.
    Catalog,
    /// Updates of the appliance.
    Updates,
}

impl From<Command> for Wake {
    fn from(command: Command) -> Self {
        match command {
            Command::Orders => Self::Orders,
            Command::Deliveries => Self::Deliveries,
            Command::Revoked { delivery } => Self::Revoked(delivery),
            Command::Restrictions => Self::Restrictions,
            Command::Catalog => Self::Catalog,
            Command::Updates => Self::Updates,
        }
    }
}

/// The tie to the server; cheap to clone.
#[derive(Clone)]
pub struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    clock: Clock,
    identity: Arc<Identity>,
    time: SignedClock,
    /// Only this interface's addresses are reported; `None`: all.
    interface: Option<String>,
    chunk_listen: Option<SocketAddr>,
    free_bytes: AtomicU64,
    enrolment: watch::Sender<Option<Arc<Enrolment>>>,
    api: Mutex<Option<ApiClient>>,
    status: watch::Sender<LinkStatus>,
    ties: Mutex<Ties>,
    wakes: broadcast::Sender<Wake>,
    reporter: Mutex<Option<mqtt::Reporter>>,
    /// Asks for a round of [`look_around`] now.
    look_now: Notify,
}

/// Which of the two connections work; either makes the gateway online.
#[derive(Default)]
struct Ties {
    broker: bool,
    api: bool,
    why: String,
}

impl Link {
    /// Loads the enrolment, if there is one, and keeps the connection to the server from now on. `chunk_listen` is where
    /// the chunk listener listens; `None`: no direct connections.
    pub async fn start(
        db: Db,
        clock: Clock,
        identity: Arc<Identity>,
        interface: Option<String>,
        chunk_listen: Option<SocketAddr>,
        tasks: &Tasks,
    ) -> Result<Self, DbError> {
        let enrolment = store::enrolment(&db).await?.map(Arc::new);
        let time = SignedClock::open(db.clone(), clock.clone()).await?;
        let status = match enrolment {
            Some(_) => LinkStatus::Connecting,
            None => LinkStatus::NotEnrolled,
        };
        let inner = Inner {
            db,
            clock,
            identity,
            time,
            interface,
            chunk_listen,
            free_bytes: AtomicU64::new(0),
            enrolment: watch::Sender::new(enrolment),
            api: Mutex::new(None),
            status: watch::Sender::new(status),
            ties: Mutex::default(),
            wakes: broadcast::Sender::new(WAKE_QUEUE),
            reporter: Mutex::new(None),
            look_now: Notify::new(),
        };
        let link = Self {
            inner: Arc::new(inner),
        };
        if let Some(enrolment) = link.enrolment() {
            link.make_api(&enrolment);
        }
        tasks.spawn("link-mqtt", mqtt::run(link.clone()));
        tasks.spawn("link-presence", look_around(link.clone()));
        tasks.spawn("link-time", keep_time(link.clone()));
        Ok(link)
    }

    /// How this gateway stands with its server.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.inner.status.subscribe()
    }

    /// Which home this is, of which server; `None` before enrolment.
    pub fn enrolment(&self) -> Option<Arc<Enrolment>> {
        self.inner.enrolment.borrow().clone()
    }

    /// The enrolment as it changes.
    pub fn enrolments(&self) -> watch::Receiver<Option<Arc<Enrolment>>> {
        self.inner.enrolment.subscribe()
    }

    /// This gateway's name.
    pub fn device(&self) -> DeviceId {
        self.inner.identity.device.device_id()
    }

    /// This gateway's keys.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.inner.identity
    }

    /// The server's API.
    pub fn api(&self) -> Result<ApiClient, ApiError> {
        let api = self
            .inner
            .api
            .lock()
            .expect("no holder of this lock panics");
        api.clone().ok_or(ApiError::NotEnrolled)
    }

    /// The time by which licenses are judged: the server's word and a monotonic clock; never goes back (DESIGN §3).
    pub fn now_signed(&self) -> Timestamp {
        self.inner.time.now()
    }

    /// The signed clock itself, for those who must write its mark together with something else.
    pub fn signed_clock(&self) -> &SignedClock {
        &self.inner.time
    }

    /// What the server says should be looked at again.
    pub fn wakes(&self) -> broadcast::Receiver<Wake> {
        self.inner.wakes.subscribe()
    }

    /// Tells the server how much room there is, with the next report.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.inner.free_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Where the chunk listener may be reached.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let listen = self.inner.chunk_listen;
        listen.map_or_else(Vec::new, |listen| {
            presence::addresses(self.inner.interface.as_deref(), listen)
        })
    }

    /// Reports progress; best effort, a newer report replaces it.
    pub fn report(&self, event: Event) {
        let reporter = self
            .inner
            .reporter
            .lock()
            .expect("no holder of this lock panics");
        if let Some(reporter) = reporter.as_ref() {
            reporter.report(event);
        }
    }

    /// Enrols this gateway with the server that a claim link names. The link is used up when this succeeds.
    pub async fn enrol(&self, claim_link: &str, home_name: &str) -> Result<(), EnrolError> {
        let enrolment = Arc::new(enrol::enrol(self, claim_link, home_name).await?);
        self.make_api(&enrolment);
        self.inner.status.send_replace(LinkStatus::Connecting);
        self.inner.enrolment.send_replace(Some(enrolment));
        self.inner.look_now.notify_one();
        Ok(())
    }

    fn make_api(&self, enrolment: &Enrolment) {
        let inner = &self.inner;
        match ApiClient::new(enrolment, Arc::clone(&inner.identity), inner.clock.clone()) {
            Ok(api) => {
                *inner.api.lock().expect("no holder of this lock panics") = Some(api);
            }
            Err(error) => warn!(%error, "the server's API cannot be used"),
        }
    }

    async fn report_presence(&self) {
        let Ok(api) = self.api() else { return };
        let report = PresenceReport {
            addresses: self.addresses(),
            free_bytes: self.inner.free_bytes.load(Ordering::Relaxed),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match api.put_presence(&report).await {
            Ok(_) => self.set_tie(|ties| ties.api = true),
            Err(error) => {
                debug!(%error, "presence was not reported");
                self.set_tie(|ties| {
                    ties.api = false;
                    ties.why = error.to_string();
                });
            }
        }
    }

    fn wake(&self, wake: Wake) {
        // No listener yet: nothing to wake.
        let _ = self.inner.wakes.send(wake);
    }

    /// Notes which connection works.
    fn set_tie(&self, change: impl FnOnce(&mut Ties)) {
        let mut ties = self
            .inner
            .ties
            .lock()
            .expect("no holder of this lock panics");
        change(&mut ties);
        let online = ties.api || ties.broker;
        let why = ties.why.clone();
        let now = self.inner.clock.now();
        self.inner.status.send_if_modified(|status| {
            let next = match (online, &*status) {
                (true, LinkStatus::Online) | (false, LinkStatus::NotEnrolled) => return false,
                (true, _) => LinkStatus::Online,
                (false, LinkStatus::Offline { why: old, .. }) if *old == why => return false,
                (false, LinkStatus::Offline { since, .. }) => {
                    LinkStatus::Offline { since: *since, why }
                }
                (false, _) => LinkStatus::Offline { since: now, why },
            };
            *status = next;
            true
        });
    }

    fn set_server(&self, card: ServerCard) {
        let Some(old) = self.enrolment() else { return };
        if old.server.mqtt_port == card.mqtt_port && old.server.relay_port == card.relay_port {
            return;
        }
        // The signing keys stay pinned; only the ports and names may follow the operator's configuration.
        let server = ServerCard {
            key: old.server.key,
            vault_key: old.server.vault_key,
            ..card
        };
        let fresh = Arc::new(Enrolment {
            server,
            ..(*old).clone()
        });
        self.inner.enrolment.send_replace(Some(fresh));
    }
}

/// Reports presence and makes everybody look again, every [`RESYNC_EVERY`].
async fn look_around(link: Link) {
    let mut enrolled = link.enrolments();
    if enrolled.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let mut every = tokio::time::interval(RESYNC_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = link.inner.look_now.notified() => {}
        }
        link.report_presence().await;
        if let Ok(api) = link.api()
            && let Ok(card) = api.server_card().await
        {
            link.set_server(card);
        }
        link.wake(Wake::Everything);
    }
}

/// Keeps the signed clock set, and its mark in the database.
async fn keep_time(link: Link) {
    let mut status = link.status();
    let mut asked: Option<Duration> = None;
    loop {
        let now = link.inner.clock.monotonic();
        let due = asked.is_none_or(|at| now.saturating_sub(at) >= TIME_EVERY);
        if due && *status.borrow_and_update() == LinkStatus::Online {
            match ask_time(&link).await {
                Ok(()) => asked = Some(now),
                Err(error) => debug!(%error, "the server's time was not taken"),
            }
        }
        if let Err(error) = link.inner.time.keep().await {
            warn!(%error, "the clock's mark was not stored");
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(time::KEEP_EVERY) => {}
        }
    }
}

async fn ask_time(link: &Link) -> Result<(), ApiError> {
    let nonce = api::random_hex();
    let before = link.inner.clock.monotonic();
    let answer = link.api()?.time(&nonce).await?;
    let server = link.enrolment().ok_or(ApiError::NotEnrolled)?.server.key;
    link.inner
        .time
        .set(&server, &answer.token, &nonce, before)
        .map_err(ApiError::Token)
}
