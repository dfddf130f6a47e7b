//! One part as the registry keeps it, and how parts become the device that others see.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::identity::uuid_of;
use super::{Action, Event, FIRST_RETRY, Now, SILENCE_LIMIT};
use crate::device::{Access, Device, DeviceClass, DeviceKey, DeviceState, MacAddress, Part};
use crate::url::DeviceUrl;

/// How a UPnP part is followed.
#[derive(Debug)]
pub(super) struct Upnp {
    pub(super) location: Option<DeviceUrl>,
    pub(super) names: BTreeSet<DeviceKey>,
    pub(super) max_age: Duration,
    pub(super) asking: bool,
    pub(super) failures: u32,
    pub(super) ask_again_at: Duration,
    pub(super) described_at: Option<Duration>,
    /// When it is asked again though it says nothing.
    pub(super) retry_at: Option<Duration>,
    /// Somebody who says the same name from another address.
    pub(super) rival: Option<Box<Rival>>,
}

/// Another address from which a part's name is announced while the part answers at its own: a second interface, a new
/// address, or a clone.
#[derive(Clone, Debug)]
pub(super) struct Rival {
    pub(super) location: DeviceUrl,
    pub(super) max_age: Duration,
    pub(super) heard_at: Duration,
    /// When the part is asked next whether it is still at its own address.
    pub(super) challenge_at: Duration,
}

#[derive(Debug)]
pub(super) enum Origin {
    Upnp(Upnp),
    /// Told whole in one message.
    Told {
        origin: String,
    },
}

#[derive(Debug)]
pub(super) struct PartRow {
    pub(super) key: DeviceKey,
    pub(super) origin: Origin,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) heard_at: Duration,
    pub(super) heard_wall: Timestamp,
    pub(super) first_wall: Timestamp,
    pub(super) state: DeviceState,
    pub(super) name: String,
    pub(super) class: DeviceClass,
    pub(super) maker: Option<String>,
    pub(super) model: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) access: Access,
    pub(super) problem: Option<String>,
    /// By the neighbour table.
    pub(super) mac: Option<MacAddress>,
    /// Whether `mac` is that of an address that it had before, to be looked up anew.
    pub(super) mac_is_old: bool,
    /// By its own word: often that of another of its interfaces.
    pub(super) told_mac: Option<MacAddress>,
    /// In its key; see `identity`.
    pub(super) uuid: Option<String>,
    /// The device that it belongs to; `None` until something is known about it.
    pub(super) group: Option<u64>,
}

impl PartRow {
    pub(super) fn upnp(&mut self) -> Option<&mut Upnp> {
        match &mut self.origin {
            Origin::Upnp(upnp) => Some(upnp),
            Origin::Told { .. } => None,
        }
    }

    /// Whether it answers the probes of WS-Discovery, so that its silence means something.
    pub(super) fn is_probed(&self) -> bool {
        ["onvif:", "wsd:"]
            .iter()
            .any(|prefix| self.key.as_str().starts_with(prefix))
    }

    /// See [`Upnp::retry_at`]; `None` while it is being asked.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        match &self.origin {
            Origin::Upnp(upnp) if !upnp.asking => upnp.retry_at,
            Origin::Upnp(_) | Origin::Told { .. } => None,
        }
    }

    pub(super) fn is_at(&self, location: &DeviceUrl) -> bool {
        matches!(&self.origin, Origin::Upnp(upnp) if upnp.location.as_ref() == Some(location))
    }

    pub(super) fn is_named(&self, name: &DeviceKey) -> bool {
        self.key == *name || matches!(&self.origin, Origin::Upnp(upnp) if upnp.names.contains(name))
    }

    pub(super) fn silent_for(&self, now: Now) -> Duration {
        now.monotonic.saturating_sub(self.heard_at)
    }

    /// Whether it may be believed to be elsewhere now.
    pub(super) fn is_stale(&self, now: Now) -> bool {
        self.state == DeviceState::Gone || self.silent_for(now) >= SILENCE_LIMIT
    }

    pub(super) fn heard(&mut self, now: Now) {
        self.heard_at = now.monotonic;
        self.heard_wall = now.wall;
    }
}

impl Upnp {
    pub(super) fn new() -> Self {
        Self {
            location: None,
            names: BTreeSet::new(),
            max_age: SILENCE_LIMIT,
            asking: false,
            failures: 0,
            ask_again_at: Duration::ZERO,
            described_at: None,
            retry_at: None,
            rival: None,
        }
    }

    pub(super) fn ask(&mut self, now: Now, actions: &mut Vec<Action>) {
        if let Some(location) = &self.location {
            self.asking = true;
            self.retry_at = None;
            self.ask_again_at = now.monotonic + FIRST_RETRY;
            actions.push(Action::Describe(location.clone()));
        }
    }
}

pub(super) fn new_row(key: DeviceKey, origin: Origin, now: Now) -> PartRow {
    PartRow {
        name: key.to_string(),
        uuid: uuid_of(&key),
        key,
        origin,
        addresses: BTreeSet::new(),
        heard_at: now.monotonic,
        heard_wall: now.wall,
        first_wall: now.wall,
        state: DeviceState::Online,
        class: DeviceClass::Other,
        maker: None,
        model: None,
        serial: None,
        access: Access::None,
        problem: None,
        mac: None,
        mac_is_old: false,
        told_mac: None,
        group: None,
    }
}

/// One device from its parts; `None` when none is left. `id` is kept while one of the parts has it.
pub(super) fn assemble(parts: &[&PartRow], id: Option<&DeviceKey>) -> Option<Device> {
    let online = parts.iter().any(|part| part.state == DeviceState::Online);
    let state = if online {
        DeviceState::Online
    } else {
        DeviceState::Gone
    };
    let counts = |part: &&&PartRow| part.state == state;
    let face = parts
        .iter()
        .filter(counts)
        .min_by_key(|part| (part.class, &part.key))?;
    let aliases: BTreeSet<DeviceKey> = parts.iter().map(|part| part.key.clone()).collect();
    let told = |value: fn(&PartRow) -> Option<String>| {
        value(face).or_else(|| parts.iter().filter(counts).find_map(|part| value(part)))
    };
    let addresses: BTreeSet<IpAddr> = parts
        .iter()
        .filter(counts)
        .flat_map(|part| part.addresses.iter().copied())
        .collect();
    let mut capabilities = BTreeSet::new();
    for part in parts.iter().filter(counts) {
        capabilities.extend(part.access.capabilities());
    }
    Some(Device {
        id: id
            .filter(|id| aliases.contains(*id))
            .unwrap_or(&face.key)
            .clone(),
        aliases,
        name: face.name.clone(),
        class: face.class,
        maker: told(|part| part.maker.clone()),
        model: told(|part| part.model.clone()),
        addresses: addresses.into_iter().collect(),
        mac: face
            .mac
            .or_else(|| parts.iter().find_map(|part| part.mac))
            .or_else(|| parts.iter().find_map(|part| part.told_mac)),
        serial: told(|part| part.serial.clone()),
        capabilities,
        state,
        first_seen: parts.iter().map(|part| part.first_wall).min()?,
        last_seen: parts.iter().map(|part| part.heard_wall).max()?,
        problem: told(|part| part.problem.clone()),
        parts: parts
            .iter()
            .map(|part| Part {
                key: part.key.clone(),
                name: part.name.clone(),
                class: part.class,
                state: part.state,
                access: part.access.clone(),
            })
            .collect(),
    })
}

pub(super) fn compare(before: Option<&Device>, after: &Device) -> Vec<Event> {
    let id = after.id.clone();
    let came = || (after.state == DeviceState::Online).then(|| Event::Appeared(id.clone()));
    let Some(before) = before else {
        return came().into_iter().collect();
    };
    if before.id != id {
        let went = (before.state == DeviceState::Online).then(|| Event::Gone(before.id.clone()));
        return went.into_iter().chain(came()).collect();
    }
    match (before.state, after.state) {
        (DeviceState::Online, DeviceState::Gone) => vec![Event::Gone(id)],
        (DeviceState::Gone, DeviceState::Online) => vec![Event::Appeared(id)],
        _ => {
            let same = Device {
                last_seen: after.last_seen,
                ..before.clone()
            } == *after;
            if same {
                Vec::new()
            } else {
                vec![Event::Changed(id)]
            }
        }
    }
}
