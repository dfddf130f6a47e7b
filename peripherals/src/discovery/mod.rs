//! Finding devices (F2): one task (`owner`) owns the registry; `mdns`, `ssdp`, `ws_discovery` and things on cables feed
//! it sightings, it fetches descriptions, and everybody else holds a snapshot.
//!
//! - `links`: the interfaces, as they come and go. `multicast`: asking and listening on each. `gate`: who may be heard.
//!
//! The gateway starts one [`Discovery`]; a crash loses nothing, since the network is asked again.

pub mod cable;
pub mod gate;
pub mod hotplug;
mod links;
pub mod mdns;
pub mod multicast;
mod owner;
pub mod ssdp;
pub mod wire;
pub mod ws_discovery;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alsa::{SoundCards, cards};
use crate::device::{Device, DeviceKey};
use crate::registry::{Event, Input, Registry, Sighting};
use links::{Links, Wanted};
use multicast::Surroundings;
use owner::Owner;

pub use hotplug::HotplugConfig;
pub use mdns::Announcement;
pub use ssdp::{Loopback, SsdpConfig};

/// Sightings waiting for the registry.
pub const INPUT_QUEUE: usize = 512;
/// Descriptions of devices in use fetched at the same time, at most one per address.
pub const DESCRIBING_AT_ONCE: usize = 8;
/// Descriptions of strangers fetched at the same time, at most one per address.
pub const DESCRIBING_STRANGERS_AT_ONCE: usize = 32;
/// Time for the first description of a stranger: one who invents many must not hold up the others.
pub const STRANGER_TIME: Duration = Duration::from_secs(4);
/// Events that a slow listener may lag behind.
pub const EVENT_QUEUE: usize = 256;
/// How often silence is judged and the neighbour table read.
pub const TICK: Duration = Duration::from_secs(5);
/// Snapshots with nothing new but `last_seen` are published so often.
const REFRESH_EVERY: Duration = Duration::from_secs(15);
/// Snapshots follow each other at least so far apart: a hundred changes at once are one.
const PUBLISH_PAUSE: Duration = Duration::from_millis(50);

/// Whether DNS-SD is browsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mdns {
    /// By multicast DNS on all interfaces.
    Browsed,
    /// Not at all: tests that count what is on the network.
    Off,
}

/// Whether cameras and computers are probed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WsDiscovery {
    /// By multicast on the interfaces used.
    Probed,
    /// Not at all: tests that count what is on the network.
    Off,
}

/// What discovery does.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Only this network interface is used, by every protocol; none: all.
    pub interface: Option<String>,
    /// SSDP.
    pub ssdp: SsdpConfig,
    /// DNS-SD.
    pub mdns: Mdns,
    /// WS-Discovery.
    pub ws_discovery: WsDiscovery,
    /// What is said by DNS-SD about this gateway itself, followed as it changes.
    pub announced: Option<watch::Receiver<Option<Announcement>>>,
    /// Loudspeakers and line-ins of this machine.
    pub sound: SoundCards,
    /// Things on cables; `None`: they are not looked for.
    pub hotplug: Option<HotplugConfig>,
    /// Keys that are never listed: this gateway's own announcements.
    pub ignored: BTreeSet<DeviceKey>,
    /// Where wall-clock time comes from, for people only; expiry uses a monotonic clock.
    pub wall_clock: fn() -> Timestamp,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            interface: None,
            ssdp: SsdpConfig::default(),
            mdns: Mdns::Browsed,
            ws_discovery: WsDiscovery::Probed,
            announced: None,
            sound: SoundCards::default(),
            hotplug: Some(HotplugConfig::default()),
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
    search: watch::Sender<u64>,
    events: broadcast::Sender<Event>,
    noisy: watch::Receiver<usize>,
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
        let (noise, noisy) = watch::channel(0);
        let (know, known) = watch::channel(Arc::new(HashSet::new()));
        let links = watch::Sender::new(Arc::new(Links::new()));
        let discovery = Self {
            inputs: inputs.clone(),
            search: watch::Sender::new(0),
            events: broadcast::Sender::new(EVENT_QUEUE),
            noisy,
            tasks: TaskTracker::new(),
        };
        let around = Surroundings {
            inputs: inputs.clone(),
            links: links.subscribe(),
            known: known.clone(),
            search: discovery.search.subscribe(),
        };
        let ssdp = ssdp::speech(config.ssdp);
        let tasks = &discovery.tasks;
        tasks.spawn(multicast::run(ssdp, around.clone(), cancel.clone()));
        if config.ws_discovery == WsDiscovery::Probed {
            let speech = ws_discovery::speech();
            tasks.spawn(multicast::run(speech, around, cancel.clone()));
        }
        let wanted = Wanted {
            name: config.interface.clone(),
            loopback: config.ssdp.loopback,
        };
        tasks.spawn(links::run(wanted, links, inputs.clone(), cancel.clone()));
        tasks.spawn(cards::run(config.sound, inputs.clone(), cancel.clone()));
        if let Some(hotplug) = config.hotplug {
            tasks.spawn(hotplug::run(hotplug, inputs.clone(), cancel.clone()));
        }
        if config.mdns == Mdns::Browsed {
            let talk = mdns::Talk {
                interface: config.interface,
                announced: config.announced,
                known,
                inputs,
            };
            tasks.spawn(mdns::run(talk, cancel.clone()));
        }
        let registry = Registry::new(config.ignored);
        let owner = Owner::new(
            registry,
            config.wall_clock,
            owner::Told {
                snapshot: publish,
                events: discovery.events.clone(),
                known: know,
                noisy: noise,
            },
        );
        tasks.spawn(owner.run(incoming, cancel));
        tasks.close();
        (snapshot, discovery)
    }

    /// Searches now, for a button on a page.
    pub fn search_now(&self) {
        self.search
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Lists something that the household named itself: a camera added by its address.
    pub async fn tell(&self, sighting: Sighting) {
        // Fails only when discovery has ended, and then nothing is listed.
        let _ = self.inputs.send(Input::Seen(Box::new(sighting))).await;
    }

    /// Takes back what [`Discovery::tell`] listed: it is not shown as gone, but not at all.
    pub async fn take_back(&self, key: DeviceKey) {
        let _ = self.inputs.send(Input::TakenBack(key)).await;
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

    /// How many addresses announced too much lately, or invented devices; what they say beyond the limits is not heard.
    pub fn noisy(&self) -> watch::Receiver<usize> {
        self.noisy.clone()
    }

    /// Waits until all of its tasks have ended after cancellation.
    pub async fn finished(&self) {
        self.tasks.wait().await;
    }
}
