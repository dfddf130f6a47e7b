//! One part as the registry keeps it, and how parts become the device that others see.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

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
    pub(super) mac: Option<MacAddress>,
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
        }
    }

    pub(super) fn ask(&mut self, now: Now, actions: &mut Vec<Action>) {
        if let Some(location) = &self.location {
            self.asking = true;
            self.ask_again_at = now.monotonic + FIRST_RETRY;
            actions.push(Action::Describe(location.clone()));
        }
    }
}

pub(super) fn new_row(key: DeviceKey, origin: Origin, now: Now) -> PartRow {
    PartRow {
        name: key.to_string(),
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
        mac: face.mac.or_else(|| parts.iter().find_map(|part| part.mac)),
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
