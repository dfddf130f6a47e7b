//! What UPnP sightings mean: announcements, goodbyes, and the answers to questions for a description.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::part::{Origin, Upnp, new_row};
use super::{
    Action, DESCRIPTION_AGE, FIRST_RETRY, GOODBYE_PAUSE, LAST_RETRY, MAX_NAMES_PER_PART, Now,
    Registry,
};
use crate::device::{Access, DeviceKey, DeviceState};
use crate::discovery::wire::Advert;
use crate::upnp::{DescribeError, Described, quirks};
use crate::url::{DeviceUrl, UrlRefused};

impl Registry {
    pub(super) fn advert(
        &mut self,
        advert: Advert,
        source: IpAddr,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        match advert {
            Advert::Bye { udn } => {
                let name = own_name(&udn, source);
                if let Some(part) = self
                    .parts
                    .values_mut()
                    .find(|part| part.is_named(&name) && part.addresses.contains(&source))
                {
                    part.state = DeviceState::Gone;
                    self.touched.extend(part.group);
                    if let Some(upnp) = part.upnp() {
                        let soon = now.monotonic + GOODBYE_PAUSE;
                        upnp.ask_again_at = upnp.ask_again_at.min(soon);
                    }
                }
            }
            Advert::Alive {
                udn,
                location: Ok(location),
                max_age,
            } => {
                let name = own_name(&udn, source);
                if !self.ignored.contains(&name) {
                    self.alive(&name, location, max_age, now, actions);
                }
            }
            Advert::Alive {
                udn,
                location: Err(why),
                ..
            } => {
                let name = own_name(&udn, source);
                if !self.ignored.contains(&name) {
                    self.misplaced(&name, &why, source, now);
                }
            }
        }
    }

    fn alive(
        &mut self,
        name: &DeviceKey,
        location: DeviceUrl,
        max_age: Duration,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let host = location.host();
        let key = match self.find(name, &location) {
            Some(key) => key,
            None if self.make_room(Some(&host), now) => {
                let row = new_row(name.clone(), Origin::Upnp(Upnp::new()), now);
                self.parts.insert(name.clone(), row);
                name.clone()
            }
            None => return,
        };
        let part = self.parts.get_mut(&key).expect("found or inserted above");
        if !part.addresses.is_empty() && !part.addresses.contains(&host) && !part.is_stale(now) {
            // It answers elsewhere: a second interface, a clone, or somebody who wants to take its place.
            return;
        }
        let moved = !part.is_at(&location);
        let gone = part.state == DeviceState::Gone;
        part.addresses = BTreeSet::from([host]);
        part.heard(now);
        let Some(upnp) = part.upnp() else { return };
        if upnp.names.len() < MAX_NAMES_PER_PART {
            upnp.names.insert(name.clone());
        }
        upnp.max_age = max_age;
        let due = now.monotonic >= upnp.ask_again_at;
        let old = upnp
            .described_at
            .is_none_or(|at| now.monotonic.saturating_sub(at) >= DESCRIPTION_AGE);
        // One question at a time, with a pause: a device that names another location each time gets no more of us.
        if !upnp.asking && due && (moved || old || gone) {
            upnp.location = Some(location);
            upnp.ask(now, actions);
        }
        self.touched.extend(part.group);
    }

    /// The part that a sighting is about: by name, or an embedded device by the shared location.
    fn find(&self, name: &DeviceKey, location: &DeviceUrl) -> Option<DeviceKey> {
        let named = self.parts.values().find(|part| part.is_named(name));
        let part = named.or_else(|| self.parts.values().find(|part| part.is_at(location)));
        part.map(|part| part.key.clone())
    }

    /// An announcement whose LOCATION may not be followed: shown, unless the part works otherwise.
    fn misplaced(&mut self, name: &DeviceKey, why: &UrlRefused, source: IpAddr, now: Now) {
        let known = self
            .parts
            .values()
            .find(|part| part.is_named(name))
            .map(|part| part.key.clone());
        let key = match known {
            Some(key) => key,
            None if self.make_room(Some(&source), now) => {
                let row = new_row(name.clone(), Origin::Upnp(Upnp::new()), now);
                self.parts.insert(name.clone(), row);
                name.clone()
            }
            None => return,
        };
        let part = self.parts.get_mut(&key).expect("found or inserted above");
        let elsewhere = !part.addresses.is_empty() && !part.addresses.contains(&source);
        if part.access != Access::None || elsewhere {
            return;
        }
        part.addresses = BTreeSet::from([source]);
        part.heard(now);
        part.state = DeviceState::Online;
        part.name = format!("Device at {source}");
        part.problem = Some(format!(
            "The device at {source} announces a description that is not followed: {why}. \
             It was ignored. Restart it or update it."
        ));
        self.join_group(&key);
    }

    pub(super) fn described(
        &mut self,
        location: &DeviceUrl,
        result: Result<Described, DescribeError>,
        now: Now,
    ) {
        let found = self.parts.values_mut().find(|part| {
            matches!(&part.origin, Origin::Upnp(upnp) if upnp.asking && upnp.location.as_ref() == Some(location))
        });
        let Some(part) = found else { return };
        let key = part.key.clone();
        let Some(upnp) = part.upnp() else { return };
        upnp.asking = false;
        match result {
            Ok(described) => {
                upnp.failures = 0;
                self.introduce(&key, described, location, now);
            }
            Err(error) => {
                upnp.failures = upnp.failures.saturating_add(1);
                let pause = FIRST_RETRY
                    .saturating_mul(1 << (upnp.failures - 1).min(8))
                    .min(LAST_RETRY);
                upnp.ask_again_at = now.monotonic + pause;
                let known = upnp.described_at.is_some();
                tracing::debug!(part = %key, %location, error = &error as &dyn std::error::Error, "not described");
                if known && (part.is_stale(now) || is_silence(&error)) {
                    part.state = DeviceState::Gone;
                } else {
                    part.problem = Some(error.problem(location.host()));
                    if !known {
                        part.name = format!("Device at {}", location.host());
                    }
                    part.state = DeviceState::Online;
                }
                self.join_group(&key);
            }
        }
    }

    /// A description was read: the part has a name now.
    fn introduce(
        &mut self,
        announced: &DeviceKey,
        described: Described,
        location: &DeviceUrl,
        now: Now,
    ) {
        let host = location.host();
        let root = own_name(&described.description.udn, host);
        if self.ignored.contains(&root) {
            self.remove(announced);
            return;
        }
        if root != *announced {
            let other = self.parts.get(&root);
            if other.is_some_and(|other| !other.addresses.contains(&host) && !other.is_stale(now)) {
                let part = self
                    .parts
                    .get_mut(announced)
                    .expect("its answer came just now");
                part.state = DeviceState::Online;
                part.name = format!("Device at {host}");
                part.problem = Some(format!(
                    "The device at {host} claims to be another device that is still there; it was \
                     ignored. Restart it or update it."
                ));
                self.join_group(announced);
                return;
            }
            self.rename(announced, &root);
        }
        let part = self
            .parts
            .get_mut(&root)
            .expect("renamed above, or the same");
        part.heard(now);
        part.addresses = BTreeSet::from([host]);
        part.state = DeviceState::Online;
        part.access = described.access();
        part.class = described.class();
        let description = described.description;
        part.problem = (description.refused_services > 0).then(|| {
            format!(
                "The device at {host} offers services at addresses that are not its own; those were \
                 ignored. Restart it or update it."
            )
        });
        part.name = description.name;
        part.maker = description.maker;
        part.model = description.model;
        part.serial = description.serial;
        if let Some(upnp) = part.upnp() {
            upnp.described_at = Some(now.monotonic);
            upnp.location = Some(location.clone());
            let names = description.embedded.iter().map(|udn| own_name(udn, host));
            upnp.names.extend(names.take(MAX_NAMES_PER_PART));
        }
        self.join_group(&root);
    }

    /// Gives a part the name of its root device; what was known under either name is kept.
    fn rename(&mut self, from: &DeviceKey, to: &DeviceKey) {
        let Some(mut row) = self.parts.remove(from) else {
            return;
        };
        self.touched.extend(row.group);
        if let Some(known) = self.parts.remove(to) {
            self.touched.extend(known.group);
            row.group = known.group;
            row.first_wall = known.first_wall;
            row.mac = known.mac;
        }
        row.key = to.clone();
        if let Some(upnp) = row.upnp() {
            upnp.names.insert(from.clone());
        }
        self.parts.insert(to.clone(), row);
    }
}

/// The key under which a UDN announced from `source` is known.
fn own_name(udn: &DeviceKey, source: IpAddr) -> DeviceKey {
    if quirks::shares_udn(udn.as_str()) {
        DeviceKey::new(&format!("{udn}@{source}")).unwrap_or_else(|| udn.clone())
    } else {
        udn.clone()
    }
}

/// Whether a device that was known to work simply is not there any more.
fn is_silence(error: &DescribeError) -> bool {
    use crate::http::HttpError;
    matches!(
        error,
        DescribeError::Fetch(HttpError::Connect { .. } | HttpError::TimedOut(_))
    )
}
