//! What UPnP sightings mean: announcements, goodbyes, and the answers to questions for a description.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::identity::uuid_of;
use super::part::{Origin, PartRow, Rival, Upnp, new_row};
use super::{
    Action, CHALLENGE_PAUSE, DESCRIPTION_AGE, FIRST_RETRY, GOODBYE_PAUSE, LAST_RETRY,
    MAX_NAMES_PER_PART, Now, QUICK_RETRIES, Registry, SILENCE_LIMIT,
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
            self.challenge(&key, location, max_age, now, actions);
            return;
        }
        let moved = !part.is_at(&location);
        let gone = part.state == DeviceState::Gone;
        part.settle_at(host);
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

    /// A name that answers elsewhere is announced at `location`: a second interface, a new address, a clone, or
    /// somebody who wants to take its place. The part is asked at its own address; only when it is not there any more,
    /// the other is looked at.
    fn challenge(
        &mut self,
        key: &DeviceKey,
        location: DeviceUrl,
        max_age: Duration,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let part = self.parts.get_mut(key).expect("its caller found it");
        let Some(upnp) = part.upnp() else { return };
        let known = upnp.rival.take();
        let same = known
            .as_ref()
            .is_some_and(|rival| rival.location.owner() == location.owner());
        let waits = known
            .as_ref()
            .is_some_and(|rival| now.monotonic < rival.challenge_at);
        let challenge_at = match known {
            // A rival at a time: many of them cost the device no more questions than one.
            Some(rival) if same || waits => rival.challenge_at,
            _ => now.monotonic,
        };
        let due = now.monotonic >= challenge_at && !upnp.asking && upnp.described_at.is_some();
        upnp.rival = Some(Box::new(Rival {
            location,
            max_age,
            heard_at: now.monotonic,
            challenge_at: if due {
                now.monotonic + CHALLENGE_PAUSE
            } else {
                challenge_at
            },
        }));
        if due {
            upnp.ask(now, actions);
        }
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
        part.settle_at(source);
        part.heard(now);
        part.state = DeviceState::Online;
        part.name = format!("Device at {source}");
        part.problem = Some(format!(
            "The device at {source} announces a description that is not followed: {why}. \
             It was ignored. Restart it or update it."
        ));
        self.join_group(&key, now);
    }

    pub(super) fn described(
        &mut self,
        location: &DeviceUrl,
        result: Result<Described, DescribeError>,
        now: Now,
        actions: &mut Vec<Action>,
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
            Err(error) => self.not_described(&key, location, &error, now, actions),
        }
    }

    fn not_described(
        &mut self,
        key: &DeviceKey,
        location: &DeviceUrl,
        error: &DescribeError,
        now: Now,
        actions: &mut Vec<Action>,
    ) {
        let part = self.parts.get_mut(key).expect("its caller found it");
        let stale = part.is_stale(now);
        let Some(upnp) = part.upnp() else { return };
        upnp.failures = upnp.failures.saturating_add(1);
        tracing::debug!(part = %key, %location, error = error as &dyn std::error::Error, "not described");
        let known = upnp.described_at.is_some();
        if known && is_silence(error) && upnp.move_to_rival(now, actions) {
            let host = upnp.location.as_ref().expect("the rival's").host();
            part.settle_at(host);
            part.heard(now);
            return;
        }
        let quick = usize::try_from(upnp.failures - 1)
            .ok()
            .and_then(|tries| QUICK_RETRIES.get(tries))
            .filter(|_| !known && refuses_connections(error));
        if let Some(pause) = quick {
            // It announced itself before it listens: nothing to tell anybody yet.
            upnp.retry_at = Some(now.monotonic + *pause);
            return;
        }
        let tried = if refuses_connections(error) && !known {
            QUICK_RETRIES.len() as u32
        } else {
            0
        };
        let slow = (upnp.failures - 1).saturating_sub(tried);
        let pause = FIRST_RETRY.saturating_mul(1 << slow.min(8)).min(LAST_RETRY);
        upnp.ask_again_at = now.monotonic + pause;
        if known && (stale || is_silence(error)) {
            part.state = DeviceState::Gone;
        } else {
            part.problem = Some(error.problem(location.host()));
            if !known {
                part.name = format!("Device at {}", location.host());
            }
            part.state = DeviceState::Online;
        }
        self.join_group(key, now);
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
                self.join_group(announced, now);
                return;
            }
            self.rename(announced, &root);
        }
        let part = self
            .parts
            .get_mut(&root)
            .expect("renamed above, or the same");
        part.heard(now);
        part.settle_at(host);
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
        self.join_group(&root, now);
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
            if known.addresses == row.addresses {
                row.mac = known.mac;
                row.mac_is_old = known.mac_is_old;
            }
        }
        row.key = to.clone();
        row.uuid = uuid_of(to);
        if let Some(upnp) = row.upnp() {
            upnp.names.insert(from.clone());
        }
        self.parts.insert(to.clone(), row);
    }
}

impl PartRow {
    /// It is at this address, and at no other.
    fn settle_at(&mut self, host: IpAddr) {
        if !self.addresses.contains(&host) {
            // On another interface it has another hardware address.
            self.mac_is_old = true;
        }
        self.addresses = BTreeSet::from([host]);
    }
}

impl Upnp {
    /// The part is not at its own address any more; asks the one from which its name was announced lately, if any.
    fn move_to_rival(&mut self, now: Now, actions: &mut Vec<Action>) -> bool {
        let Some(rival) = self.rival.take() else {
            return false;
        };
        if now.monotonic.saturating_sub(rival.heard_at) >= SILENCE_LIMIT {
            return false;
        }
        self.location = Some(rival.location);
        self.max_age = rival.max_age;
        self.failures = 0;
        self.ask(now, actions);
        true
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

/// Whether nothing listens there: not yet, perhaps.
fn refuses_connections(error: &DescribeError) -> bool {
    matches!(
        error,
        DescribeError::Fetch(crate::http::HttpError::Connect { .. })
    )
}

/// Whether a device that was known to work simply is not there any more.
fn is_silence(error: &DescribeError) -> bool {
    use crate::http::HttpError;
    matches!(
        error,
        DescribeError::Fetch(HttpError::Connect { .. } | HttpError::TimedOut(_))
    )
}
