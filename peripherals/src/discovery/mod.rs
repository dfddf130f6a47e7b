//! Finding devices (F2): one task owns the registry; `mdns` and `ssdp` feed it sightings, it fetches descriptions, and
//! everybody else holds a snapshot.
//!
//! The gateway starts one [`Discovery`]; a crash loses nothing, since the network is asked again.

pub mod mdns;
pub mod ssdp;
pub mod wire;

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alsa::{SoundCards, cards};
use crate::device::{Device, DeviceKey};
use crate::neighbours::{ARP_TABLE, parse_arp};
use crate::registry::{Action, Event, Input, Now, Registry};
use crate::upnp::{DescribeError, Described, describe};
use crate::url::DeviceUrl;

pub use ssdp::{Loopback, SsdpConfig};

/// Sightings waiting for the registry.
pub const INPUT_QUEUE: usize = 512;
/// Descriptions fetched at the same time, at most one per address.
pub const DESCRIBING_AT_ONCE: usize = 8;
/// Events that a slow listener may lag behind.
pub const EVENT_QUEUE: usize = 256;
/// How often silence is judged and the neighbour table read.
pub const TICK: Duration = Duration::from_secs(5);
/// Snapshots with nothing new but `last_seen` are published so often.
const REFRESH_EVERY: Duration = Duration::from_secs(15);

/// Whether DNS-SD is browsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mdns {
    /// By multicast DNS on all interfaces.
    Browsed,
    /// Not at all: tests that count what is on the network.
    Off,
}

/// What discovery does.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// SSDP.
    pub ssdp: SsdpConfig,
    /// DNS-SD.
    pub mdns: Mdns,
    /// Loudspeakers and line-ins of this machine.
    pub sound: SoundCards,
    /// Keys that are never listed: this gateway's own announcements.
    pub ignored: BTreeSet<DeviceKey>,
    /// Where wall-clock time comes from, for people only; expiry uses a monotonic clock.
    pub wall_clock: fn() -> Timestamp,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            ssdp: SsdpConfig::default(),
            mdns: Mdns::Browsed,
            sound: SoundCards::default(),
            ignored: BTreeSet::new(),
            wall_clock: Timestamp::now,
        }
    }
}

/// The list of devices, replaced as a whole on each change.
pub type Snapshot = Arc<Vec<Device>>;

/// A running discovery. Dropping it does not end it: the cancel token does.
#[derive(Clone, Debug)]
pub struct Discovery {
    inputs: mpsc::Sender<Input>,
    search: Arc<Notify>,
    events: broadcast::Sender<Event>,
    tasks: TaskTracker,
}

impl Discovery {
    /// Starts listening and searching until `cancel`. Where the system allows no multicast, a warning says so and
    /// the rest works. Must be called within a tokio runtime.
    pub fn start(
        config: DiscoveryConfig,
        cancel: CancellationToken,
    ) -> (watch::Receiver<Snapshot>, Self) {
        let (inputs, incoming) = mpsc::channel(INPUT_QUEUE);
        let (publish, snapshot) = watch::channel(Snapshot::default());
        let discovery = Self {
            inputs: inputs.clone(),
            search: Arc::new(Notify::new()),
            events: broadcast::Sender::new(EVENT_QUEUE),
            tasks: TaskTracker::new(),
        };
        let search = Arc::clone(&discovery.search);
        discovery.tasks.spawn(ssdp::run(
            config.ssdp,
            inputs.clone(),
            search,
            cancel.clone(),
        ));
        discovery
            .tasks
            .spawn(cards::run(config.sound, inputs.clone(), cancel.clone()));
        if config.mdns == Mdns::Browsed {
            discovery.tasks.spawn(mdns::run(inputs, cancel.clone()));
        }
        let owner = Owner {
            registry: Registry::new(config.ignored),
            wall_clock: config.wall_clock,
            started: Instant::now(),
            waiting: VecDeque::new(),
            asking: JoinSet::new(),
            busy: BTreeSet::new(),
            publish,
            published: Instant::now(),
            events: discovery.events.clone(),
        };
        discovery.tasks.spawn(owner.run(incoming, cancel));
        discovery.tasks.close();
        (snapshot, discovery)
    }

    /// Searches now, for a button on a page.
    pub fn search_now(&self) {
        self.search.notify_one();
    }

    /// Asks a device whether it is still there: call it when a device could not be reached.
    pub async fn recheck(&self, device: DeviceKey) {
        // Fails only when discovery has ended, and then nothing is to be checked.
        let _ = self.inputs.send(Input::Recheck(device)).await;
    }

    /// What changes from now on; a listener that lags loses the oldest and looks at the snapshot.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Waits until all of its tasks have ended after cancellation.
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }
}

type Answer = (DeviceUrl, Result<Described, DescribeError>);

/// The task that owns the registry.
struct Owner {
    registry: Registry,
    wall_clock: fn() -> Timestamp,
    started: Instant,
    /// Descriptions to fetch; the registry asks once per part, so it is bounded by its parts.
    waiting: VecDeque<DeviceUrl>,
    asking: JoinSet<Answer>,
    busy: BTreeSet<IpAddr>,
    publish: watch::Sender<Snapshot>,
    published: Instant,
    events: broadcast::Sender<Event>,
}

impl Owner {
    async fn run(mut self, mut incoming: mpsc::Receiver<Input>, cancel: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(input) = incoming.recv() => self.apply(input),
                Some(answer) = self.asking.join_next() => self.answered(answer).await,
                _ = tick.tick() => {
                    self.look_at_neighbours().await;
                    self.apply(Input::Tick);
                    if self.published.elapsed() >= REFRESH_EVERY {
                        self.publish();
                    }
                }
            }
        }
        self.asking.shutdown().await;
    }

    async fn answered(&mut self, answer: Result<Answer, tokio::task::JoinError>) {
        let Ok((location, result)) = answer else {
            // A panic in a description would be a defect of ours; the part stays unasked, all else goes on.
            tracing::error!("a description task failed");
            return;
        };
        self.busy.remove(&location.host());
        if result.is_ok() {
            // The exchange has just resolved the hardware address.
            self.look_at_neighbours().await;
        }
        self.apply(Input::Described {
            location,
            result: Box::new(result),
        });
        self.ask_next();
    }

    async fn look_at_neighbours(&mut self) {
        // Absent on other systems and in some containers: devices then have no hardware address.
        if let Ok(table) = tokio::fs::read(ARP_TABLE).await {
            self.apply(Input::Neighbours(parse_arp(&String::from_utf8_lossy(
                &table,
            ))));
        }
    }

    fn apply(&mut self, input: Input) {
        let now = Now {
            monotonic: self.started.elapsed(),
            wall: (self.wall_clock)(),
        };
        let decision = self.registry.apply(input, now);
        for Action::Describe(location) in decision.actions {
            self.waiting.push_back(location);
        }
        self.ask_next();
        if decision.events.is_empty() {
            return;
        }
        self.publish();
        for event in decision.events {
            tracing::info!(?event, "device");
            // Nobody may listen; the snapshot is the truth.
            let _ = self.events.send(event);
        }
    }

    /// Starts as many descriptions as may run: one per address, so that one slow device holds up only itself.
    fn ask_next(&mut self) {
        while self.asking.len() < DESCRIBING_AT_ONCE {
            let free = self
                .waiting
                .iter()
                .position(|url| !self.busy.contains(&url.host()));
            let Some(location) = free.and_then(|index| self.waiting.remove(index)) else {
                return;
            };
            self.busy.insert(location.host());
            self.asking.spawn(async move {
                let result = describe(&location).await;
                (location, result)
            });
        }
    }

    fn publish(&mut self) {
        self.published = Instant::now();
        self.publish
            .send_replace(Arc::new(self.registry.snapshot()));
    }
}
