//! The one registry of devices: decides what sightings mean. Pure: no I/O, no clock; `now` is passed in (F2, F5).
//!
//! A *part* is one program that announces itself (a UPnP root device, a DNS-SD service). A *device* is the physical
//! thing: parts at one address with one hardware address are one device. [`Registry::apply`] takes an [`Input`] and
//! returns what to do ([`Action`]) and what changed ([`Event`]); [`Registry::snapshot`] is the list for others.
//!
//! Nothing is believed too easily: a part that answers at one address cannot be taken over, or said goodbye for, from
//! another: it is asked there first; a silent part is asked before it counts as gone; parts are counted per address
//! and per hardware address.

mod identity;
mod part;
mod upnp;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::device::{Access, Device, DeviceClass, DeviceKey, DeviceState, MacAddress};
use crate::discovery::wire::Advert;
use crate::upnp::{DescribeError, Described};
use crate::url::DeviceUrl;
use part::{Origin, PartRow, assemble, compare, new_row};

pub(crate) use identity::is_serial;

/// Most parts kept, those that went included.
pub const MAX_PARTS: usize = 512;
/// Most parts at one address: a TV announces about ten.
pub const MAX_PARTS_PER_ADDRESS: usize = 16;
/// Most names (UDNs) kept of one part: the root device and its embedded ones.
pub const MAX_NAMES_PER_PART: usize = 32;
/// Most addresses remembered that say too much.
pub const MAX_NOISY: usize = 4096;
/// An address that said too much is counted for so long.
pub const NOISE_KEPT: Duration = Duration::from_mins(1);
/// A part silent for so long, though it was searched for three times, is asked directly.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(100);
/// A device whose name is announced elsewhere too is asked so often whether it is still where it was.
pub const CHALLENGE_PAUSE: Duration = Duration::from_mins(2);
/// A working description is read again after so long, for a new name.
pub const DESCRIPTION_AGE: Duration = Duration::from_mins(15);
/// Pauses before a device that announces itself and does not listen yet is asked again: many announce first.
pub const QUICK_RETRIES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// A target of WS-Discovery that is silent for so long, though it was probed, may be elsewhere.
pub const PROBED_SILENCE: Duration = Duration::from_secs(40);
/// First pause after a description that could not be had; it doubles.
pub const FIRST_RETRY: Duration = Duration::from_secs(20);
/// A device that said goodbye and is heard again after so long is asked at once: it restarted.
pub const GOODBYE_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between tries.
pub const LAST_RETRY: Duration = Duration::from_mins(10);
/// A part that went is kept for so long, for the page.
pub const GONE_KEPT: Duration = Duration::from_hours(24);

/// The time of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, since any fixed moment: decides expiry, so that a clock that jumps loses no device.
    pub monotonic: Duration,
    /// For people.
    pub wall: Timestamp,
}

/// A program or a thing on a cable that told, in one message, all there is to know: a DNS-SD service that was
/// resolved, a WS-Discovery target, a USB device.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Stable key.
    pub key: DeviceKey,
    /// The name by which it is taken away again ([`Input::Lost`]): a DNS-SD full name, a kernel device path.
    pub origin: String,
    /// Name for people.
    pub name: String,
    /// What it is by this protocol alone.
    pub class: DeviceClass,
    /// Maker, where told.
    pub maker: Option<String>,
    /// Model, where told.
    pub model: Option<String>,
    /// Serial number, where told.
    pub serial: Option<String>,
    /// Hardware address, where it tells one itself.
    pub mac: Option<MacAddress>,
    /// Addresses; none for a thing on a cable.
    pub addresses: BTreeSet<IpAddr>,
    /// How it is reached.
    pub access: Access,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// SSDP was heard.
    Advert {
        /// What.
        advert: Advert,
        /// Where the datagram came from.
        source: IpAddr,
    },
    /// A description that was asked for came, or not.
    Described {
        /// Where it was asked.
        location: DeviceUrl,
        /// The answer.
        result: Box<Result<Described, DescribeError>>,
    },
    /// Something was seen whole.
    Seen(Box<Sighting>),
    /// Something was seen that is not used, for a reason that a person should know.
    Unusable {
        /// What.
        sighting: Box<Sighting>,
        /// Why, in plain words.
        problem: String,
    },
    /// Somebody announces more than is listened to.
    TooMuch {
        /// The last of them.
        source: IpAddr,
    },
    /// Something seen before is gone.
    Lost {
        /// The sighting's `origin`.
        origin: String,
    },
    /// What the household itself had named is not to be listed any more.
    TakenBack(DeviceKey),
    /// The neighbour table as it is now.
    Neighbours(Vec<(IpAddr, MacAddress)>),
    /// This machine's own addresses: programs there are not merged into one device.
    OwnAddresses(BTreeSet<IpAddr>),
    /// Somebody failed to reach this device: ask it.
    Recheck(DeviceKey),
    /// Time passed.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fetch the description there and feed [`Input::Described`], exactly once.
    Describe(DeviceUrl),
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device came, or came back.
    Appeared(DeviceKey),
    /// Its name, class, address, problem … changed.
    Changed(DeviceKey),
    /// It went.
    Gone(DeviceKey),
}

/// What [`Registry::apply`] decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To do.
    pub actions: Vec<Action>,
    /// To tell.
    pub events: Vec<Event>,
}

/// What is held against an address.
#[derive(Clone, Copy, Debug)]
struct Noise {
    until: Duration,
    /// No new part is taken from it.
    refused: bool,
}

/// The registry.
#[derive(Debug, Default)]
pub struct Registry {
    parts: BTreeMap<DeviceKey, PartRow>,
    groups: BTreeMap<u64, Device>,
    next_group: u64,
    noisy: BTreeMap<IpAddr, Noise>,
    neighbours: BTreeMap<IpAddr, MacAddress>,
    own: BTreeSet<IpAddr>,
    ignored: BTreeSet<DeviceKey>,
    touched: BTreeSet<u64>,
}

impl Registry {
    /// An empty registry that never lists `ignored` (this gateway's own announcements).
    pub fn new(ignored: BTreeSet<DeviceKey>) -> Self {
        Self {
            ignored,
            ..Self::default()
        }
    }

    /// All devices, those that went lately included, in the order in which they were first seen.
    pub fn snapshot(&self) -> Vec<Device> {
        self.groups.values().cloned().collect()
    }

    /// Takes in what happened at `now`.
    pub fn apply(&mut self, input: Input, now: Now) -> Decision {
        let mut actions = Vec::new();
        match input {
            Input::Advert { advert, source } => self.advert(advert, source, now, &mut actions),
            Input::Described { location, result } => {
                self.described(&location, *result, now, &mut actions);
            }
            Input::Seen(sighting) => self.seen(*sighting, None, now),
            Input::Unusable { sighting, problem } => self.seen(*sighting, Some(problem), now),
            Input::TooMuch { source } => {
                let until = now.monotonic + NOISE_KEPT;
                self.note_noise(
                    source,
                    Noise {
                        until,
                        refused: false,
                    },
                );
            }
            Input::Lost { origin } => self.lost(&origin),
            Input::TakenBack(key) => self.remove(&key),
            Input::Neighbours(table) => self.neighbours(table, now),
            Input::OwnAddresses(own) => self.own = own,
            Input::Recheck(key) => self.recheck(&key, now, &mut actions),
            Input::Tick => self.tick(now, &mut actions),
        }
        Decision {
            actions,
            events: self.settle(),
        }
    }

    /// How many addresses announced too much lately, or invented devices; [`MAX_NOISY`] stands for "or more".
    pub fn noisy(&self) -> usize {
        self.noisy.len()
    }

    /// When something is to be done though nothing happens, by the monotonic clock: feed [`Input::Tick`] then.
    pub fn next_wake(&self) -> Option<Duration> {
        self.parts.values().filter_map(PartRow::retry_at).min()
    }

    fn note_noise(&mut self, source: IpAddr, noise: Noise) {
        if self.noisy.len() < MAX_NOISY || self.noisy.contains_key(&source) {
            let known = self.noisy.entry(source).or_insert(noise);
            known.until = known.until.max(noise.until);
            known.refused |= noise.refused;
        }
    }

    fn remove(&mut self, key: &DeviceKey) {
        if let Some(part) = self.parts.remove(key) {
            self.touched.extend(part.group);
        }
    }

    fn seen(&mut self, sighting: Sighting, problem: Option<String>, now: Now) {
        let known = self.parts.get(&sighting.key);
        if self.ignored.contains(&sighting.key)
            || known.is_some_and(|known| self.is_taken_over(known, &sighting, now))
            || (known.is_none() && !self.make_room(sighting.addresses.first(), now))
        {
            return;
        }
        let key = sighting.key.clone();
        let part = self.parts.entry(key.clone()).or_insert_with(|| {
            let origin = String::new();
            new_row(key.clone(), Origin::Told { origin }, now)
        });
        if part.addresses != sighting.addresses {
            // On another interface it has another hardware address.
            part.mac_is_old = true;
        }
        part.origin = Origin::Told {
            origin: sighting.origin,
        };
        part.heard(now);
        part.state = DeviceState::Online;
        part.addresses = sighting.addresses;
        part.told_mac = sighting.mac.or(part.told_mac);
        part.name = sighting.name;
        part.class = sighting.class;
        part.maker = sighting.maker;
        part.model = sighting.model;
        part.serial = sighting.serial;
        part.problem = problem.or_else(|| sighting.access.problem());
        part.access = sighting.access;
        self.join_group(&key, now);
    }

    /// Whether somebody at another address says the name of a target that still answers probes: a second interface, a
    /// clone, or somebody who wants to take its place. The same hardware may move.
    fn is_taken_over(&self, known: &PartRow, sighting: &Sighting, now: Now) -> bool {
        let mac = sighting
            .addresses
            .iter()
            .find_map(|ip| self.neighbours.get(ip));
        known.is_probed()
            && known.state == DeviceState::Online
            && known.silent_for(now) < PROBED_SILENCE
            && known.addresses.is_disjoint(&sighting.addresses)
            && (mac.is_none() || mac != known.mac.as_ref())
    }

    fn lost(&mut self, gone: &str) {
        for part in self.parts.values_mut() {
            if matches!(&part.origin, Origin::Told { origin } if origin == gone) {
                part.state = DeviceState::Gone;
                self.touched.extend(part.group);
            }
        }
    }

    fn neighbours(&mut self, table: Vec<(IpAddr, MacAddress)>, now: Now) {
        self.neighbours = table.into_iter().collect();
        let learned: Vec<DeviceKey> = self
            .parts
            .values()
            .filter(|part| part.state == DeviceState::Online)
            .filter(|part| part.mac.is_none() || part.mac_is_old)
            .filter(|part| part.group.is_some())
            .filter(|part| {
                part.addresses
                    .iter()
                    .any(|ip| self.neighbours.contains_key(ip))
            })
            .map(|part| part.key.clone())
            .collect();
        for key in learned {
            self.join_group(&key, now);
        }
    }

    fn recheck(&mut self, key: &DeviceKey, now: Now, actions: &mut Vec<Action>) {
        let group = self
            .groups
            .iter()
            .find(|(_, device)| device.is(key))
            .map(|(id, _)| *id);
        for part in self
            .parts
            .values_mut()
            .filter(|part| group.is_some() && part.group == group)
        {
            if let Some(upnp) = part.upnp()
                && !upnp.asking
            {
                upnp.ask(now, actions);
            }
        }
    }

    fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        for part in self.parts.values_mut() {
            let silent = part.silent_for(now);
            let online = part.state == DeviceState::Online;
            let group = part.group;
            if part.is_probed() && online && silent >= SILENCE_LIMIT {
                part.state = DeviceState::Gone;
                self.touched.extend(group);
            }
            let retry = part.retry_at().is_some_and(|at| now.monotonic >= at);
            let Some(upnp) = part.upnp() else { continue };
            if retry {
                upnp.ask(now, actions);
                continue;
            }
            if !online || upnp.asking || silent < upnp.max_age.min(SILENCE_LIMIT) {
                continue;
            }
            if upnp.described_at.is_none() || upnp.location.is_none() {
                part.state = DeviceState::Gone;
                self.touched.extend(group);
            } else if now.monotonic >= upnp.ask_again_at {
                upnp.ask(now, actions);
            }
        }
        let too_old =
            |part: &PartRow| part.state == DeviceState::Gone && part.silent_for(now) >= GONE_KEPT;
        let old: Vec<_> = self
            .parts
            .values()
            .filter(|p| too_old(p))
            .map(|p| p.key.clone())
            .collect();
        for key in old {
            self.remove(&key);
        }
        self.noisy.retain(|_, noise| noise.until > now.monotonic);
    }

    /// Whether a new part at `address` (none: on a cable) may be kept; drops the least useful one if need be.
    fn make_room(&mut self, address: Option<&IpAddr>, now: Now) -> bool {
        let noise = address.and_then(|address| self.noisy.get(address));
        if noise.is_some_and(|noise| noise.refused && noise.until > now.monotonic) {
            return false;
        }
        let here = self
            .parts
            .values()
            .filter(|part| address.is_some_and(|address| part.addresses.contains(address)))
            .count();
        if here >= MAX_PARTS_PER_ADDRESS {
            return false;
        }
        if self.parts.len() < MAX_PARTS {
            return true;
        }
        // Gone first, then those that never worked; of these, one of those at the address that has most of them, so that
        // who invents many makes room for who comes with one; the longest silent of them.
        let worth = |part: &PartRow| match (part.state, &part.access) {
            (DeviceState::Gone, _) => 0,
            (DeviceState::Online, Access::None) => 1,
            (DeviceState::Online, _) => 2,
        };
        // Addresses of IPv6 can be invented without end: they count as one.
        let place = |address: &IpAddr| match address {
            IpAddr::V4(_) => *address,
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        let mut at_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for address in self.parts.values().flat_map(|part| &part.addresses) {
            *at_address.entry(place(address)).or_default() += 1;
        }
        let company = |part: &PartRow| {
            let counts = part.addresses.iter().map(place);
            counts
                .filter_map(|place| at_address.get(&place))
                .copied()
                .max()
                .unwrap_or(0)
        };
        let least = self
            .parts
            .values()
            .filter(|part| worth(part) < 2)
            .min_by_key(|part| {
                let company = std::cmp::Reverse(company(part));
                (
                    worth(part),
                    company,
                    std::cmp::Reverse(part.silent_for(now)),
                )
            })
            .map(|part| part.key.clone());
        match least {
            Some(key) => {
                self.remove(&key);
                true
            }
            None => false,
        }
    }

    /// Builds the touched devices anew and tells what changed.
    fn settle(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for group in std::mem::take(&mut self.touched) {
            let before = self.groups.get(&group);
            let parts: Vec<&PartRow> = self
                .parts
                .values()
                .filter(|part| part.group == Some(group))
                .collect();
            let Some(device) = assemble(&parts, before.map(|device| &device.id)) else {
                let lost = self.groups.remove(&group);
                events.extend(
                    lost.filter(|d| d.state == DeviceState::Online)
                        .map(|d| Event::Gone(d.id)),
                );
                continue;
            };
            events.extend(compare(before, &device));
            self.groups.insert(group, device);
        }
        // Where two devices turn out to be one, its key goes before it comes.
        events.sort_by_key(|event| !matches!(event, Event::Gone(_)));
        events
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
