//! Which parts are one physical device (F5): by a shared UUID, hardware address, serial number or address, in this
//! order of strength; and the devices that parts are put into, kept or parted as more becomes known.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::part::{Origin, PartRow};
use super::{Noise, Now, Registry};
use crate::device::{Access, DeviceKey, DeviceState, MacAddress};

/// Most parts at one hardware address. A device has few; behind a Wi-Fi extender that hides them several devices show
/// its one address; beyond that somebody invents devices.
pub const MAX_PARTS_PER_MAC: usize = 48;
/// For so long an address that invents devices is not looked at.
pub const CROWD_KEPT: Duration = Duration::from_mins(2);

/// Serial numbers that makers leave in by default tell nothing: minidlna's `12345678`, and runs of one digit.
pub(crate) fn is_serial(text: &str) -> bool {
    let plain: Vec<u8> = text
        .bytes()
        .filter(u8::is_ascii_alphanumeric)
        .map(|b| b.to_ascii_lowercase())
        .collect();
    let words: [&[u8]; 6] = [
        b"none",
        b"unknown",
        b"serial",
        b"serialnumber",
        b"default",
        b"null",
    ];
    let counting = "0123456789012345".contains(&*String::from_utf8_lossy(&plain));
    plain.len() >= 4
        && plain.iter().any(|b| *b != plain[0])
        && !counting
        && !words.contains(&&plain[..])
}

/// The UUID in a key, as 32 lower-case hex digits; `None` where it holds none, or one of a program that shares it.
pub(super) fn uuid_of(key: &DeviceKey) -> Option<String> {
    let text = key.as_str();
    let last = text.rsplit(':').next()?;
    let hex: String = last
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let plain = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    (plain && hex.bytes().any(|b| b != b'0')).then_some(hex)
}

/// Both are functions of one device on a cable: their keys are `stem#function` with one stem (`discovery::cable`).
fn on_one_cable(a: &PartRow, b: &PartRow) -> bool {
    let stem = |part: &PartRow| {
        let (stem, _) = part.key.as_str().split_once('#')?;
        part.addresses.is_empty().then(|| stem.to_owned())
    };
    stem(a).is_some_and(|one| stem(b) == Some(one))
}

impl PartRow {
    /// Hardware addresses that it may have by its own word: told outright, or in its UUID's last twelve digits.
    fn hints(&self) -> impl Iterator<Item = MacAddress> {
        let tail = self
            .uuid
            .as_deref()
            .and_then(|uuid| MacAddress::from_hex(&uuid[20..]));
        self.told_mac.into_iter().chain(tail)
    }

    fn v4(&self) -> impl Iterator<Item = &IpAddr> {
        self.addresses.iter().filter(|ip| ip.is_ipv4())
    }

    /// Both answer, each at IPv4 addresses of its own.
    fn stands_beside(&self, other: &Self) -> bool {
        let online = self.state == DeviceState::Online && other.state == DeviceState::Online;
        online
            && self.v4().next().is_some()
            && other.v4().next().is_some()
            && !self.v4().any(|ip| other.addresses.contains(ip))
    }

    /// One of them has, or may have by its own word, the hardware address of the other.
    fn same_hardware(&self, other: &Self) -> bool {
        let equal = self.mac.is_some() && self.mac == other.mac;
        let told = self.told_mac.is_some() && self.told_mac == other.told_mac;
        let hinted = |one: &Self, mac: Option<MacAddress>| {
            mac.is_some_and(|mac| one.hints().any(|hint| hint == mac))
        };
        equal || told || hinted(self, other.mac) || hinted(other, self.mac)
    }

    /// Equal serial numbers of one maker and model. Two that answer at once and do the same thing are copies that left
    /// a default in, whatever they say.
    fn same_serial(&self, other: &Self) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| match (a, b) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            _ => false,
        };
        let told = self.serial.as_deref().is_some_and(is_serial);
        let copies = std::mem::discriminant(&self.access) == std::mem::discriminant(&other.access)
            && self.class == other.class
            && self.stands_beside(other);
        told && !copies
            && same(&self.serial, &other.serial)
            && same(&self.maker, &other.maker)
            && same(&self.model, &other.model)
    }
}

impl Registry {
    /// Puts a part that something is known about into the device it belongs to; devices that it shows to be one
    /// become one.
    pub(super) fn join_group(&mut self, key: &DeviceKey, now: Now) {
        let Some(part) = self.parts.get(key) else {
            return;
        };
        let mut addresses = part.addresses.iter();
        let table = addresses
            .find_map(|ip| self.neighbours.get(ip))
            .filter(|_| part.mac.is_none() || part.mac_is_old)
            .copied();
        let mac = table.or(part.mac);
        if self.is_crowded(key, mac) {
            let addresses = part.addresses.clone();
            self.refuse(addresses, now);
            self.remove(key);
            return;
        }
        let part = self.parts.get_mut(key).expect("looked up above");
        part.mac = mac;
        part.mac_is_old &= table.is_none();
        let part = &self.parts[key];
        let before = part.group;
        let kin = self.kin(part);
        let group = kin.first().copied().unwrap_or_else(|| {
            self.next_group += 1;
            self.next_group
        });
        self.touched.extend(before);
        self.touched.insert(group);
        self.touched.extend(kin.iter().copied());
        for (other, part) in &mut self.parts {
            if *other == *key
                || part
                    .group
                    .is_some_and(|its| its != group && kin.contains(&its))
            {
                part.group = Some(group);
            }
        }
    }

    /// The devices that `part` belongs to: that which it is in, unless its hardware address speaks against it, and
    /// those that it shows to be the same.
    fn kin(&self, part: &PartRow) -> BTreeSet<u64> {
        let others = || {
            self.parts
                .values()
                .filter(|other| other.key != part.key)
                .filter_map(|other| Some((other.group?, other)))
        };
        let mut kin: BTreeSet<u64> = others()
            .filter(|(_, other)| self.is_surely(part, other))
            .map(|(group, _)| group)
            .collect();
        if let Some(own) = part.group {
            let (mut alone, mut fits) = (true, false);
            for (_, other) in others().filter(|(group, _)| *group == own) {
                alone = false;
                fits |= part.mac.is_none() || other.mac.is_none() || part.mac == other.mac;
            }
            if alone || fits {
                kin.insert(own);
            }
        }
        let known = |groups: &BTreeSet<u64>| -> BTreeSet<MacAddress> {
            let within = others().filter(|(group, _)| groups.contains(group));
            within
                .filter_map(|(_, other)| other.mac)
                .chain(part.mac)
                .collect()
        };
        let weak: BTreeSet<u64> = others()
            .filter(|(group, other)| !kin.contains(group) && self.shares_address(part, other))
            .map(|(group, _)| group)
            .collect();
        for group in weak {
            let (ours, theirs) = (known(&kin), known(&BTreeSet::from([group])));
            let apart = !ours.is_empty() && !theirs.is_empty() && ours.is_disjoint(&theirs);
            if !apart {
                kin.insert(group);
            }
        }
        kin
    }

    /// Programs on this machine share its addresses: they are told apart by their names alone.
    fn is_own(&self, part: &PartRow) -> bool {
        let own = |ip: &IpAddr| ip.is_loopback() || self.own.contains(ip);
        part.addresses.iter().any(own)
    }

    fn is_surely(&self, a: &PartRow, b: &PartRow) -> bool {
        let named = a.uuid.is_some() && a.uuid == b.uuid;
        let one_box = || a.same_hardware(b) && !self.behind_one(a, b) || a.same_serial(b);
        named || on_one_cable(a, b) || !self.is_own(a) && !self.is_own(b) && one_box()
    }

    /// Both are neighbours now, at IPv4 addresses of their own with one hardware address: that is an extender's, which
    /// hides theirs. (Else one of the addresses is out of date.)
    fn behind_one(&self, a: &PartRow, b: &PartRow) -> bool {
        let is_neighbour = |part: &PartRow| {
            let mut v4 = part.v4();
            v4.any(|ip| part.mac.is_some() && self.neighbours.get(ip) == part.mac.as_ref())
        };
        a.stands_beside(b) && is_neighbour(a) && is_neighbour(b)
    }

    /// At one address, and no two hardware addresses. An address is handed on: without a hardware address only a
    /// device that is there counts.
    fn shares_address(&self, part: &PartRow, other: &PartRow) -> bool {
        let contradicts =
            matches!((part.mac, other.mac), (Some(one), Some(another)) if one != another);
        !contradicts
            && other.state == DeviceState::Online
            && !self.is_own(part)
            && part
                .addresses
                .intersection(&other.addresses)
                .next()
                .is_some()
    }

    /// Whether a part would be one too many at its hardware address.
    fn is_crowded(&self, key: &DeviceKey, mac: Option<MacAddress>) -> bool {
        let Some(mac) = mac else { return false };
        let part = &self.parts[key];
        let counted = part.group.is_some() && part.mac == Some(mac);
        !counted
            && part.access_is_new()
            && self
                .parts
                .values()
                .filter(|other| other.mac == Some(mac) && other.key != *key)
                .count()
                >= MAX_PARTS_PER_MAC
    }

    /// Whoever is at these addresses invents devices.
    pub(super) fn refuse(&mut self, addresses: BTreeSet<IpAddr>, now: Now) {
        for address in addresses {
            self.note_noise(
                address,
                Noise {
                    until: now.monotonic + CROWD_KEPT,
                    refused: true,
                },
            );
        }
    }
}

impl PartRow {
    /// Whether nothing that others rely on hangs on it yet.
    fn access_is_new(&self) -> bool {
        self.group.is_none()
            || self.access == Access::None
            || matches!(self.origin, Origin::Told { .. })
    }
}
