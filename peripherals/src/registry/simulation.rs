//! A house, simulated: devices with one hardware address each speak by several protocols, change their addresses, sleep
//! and come back. Whatever the order, each is one row, under one id for as long as it is known (F5).

use super::tests::{alive, at, described, ip, key, service};
use super::*;
use crate::http::HttpError;
use proptest::prelude::*;

/// What a device of the house does next.
#[derive(Clone, Debug)]
enum Act {
    /// Announces itself by UPnP and answers when asked.
    Upnp(usize),
    /// Announces itself by DNS-SD, by IPv4 and IPv6.
    DnsSd(usize),
    /// Gets another IPv4 address.
    Moves(usize),
    /// Is not there for longer than anybody waits.
    Sleeps(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let device = 0..HOUSE;
    prop_oneof![
        6 => device.clone().prop_map(Act::Upnp),
        6 => device.clone().prop_map(Act::DnsSd),
        1 => device.clone().prop_map(Act::Moves),
        1 => device.prop_map(Act::Sleeps),
    ]
}

/// Devices in the house.
const HOUSE: usize = 4;

struct House {
    registry: Registry,
    /// The last octet of each device's address; no address is used twice.
    hosts: Vec<u8>,
    next_host: u8,
    seconds: u64,
}

impl House {
    fn new() -> Self {
        Self {
            registry: Registry::default(),
            hosts: (1..=4).collect(),
            next_host: 5,
            seconds: 0,
        }
    }

    fn host(&self, device: usize) -> String {
        format!("10.0.0.{}", self.hosts[device])
    }

    fn mac(device: usize) -> MacAddress {
        MacAddress([2, 0, 0, 0, 0, u8::try_from(device).expect("few")])
    }

    /// Feeds an input, and answers every question as the network would: who is there answers.
    fn feed(&mut self, input: Input) {
        let mut actions = self.registry.apply(input, at(self.seconds)).actions;
        while let Some(Action::Describe(location)) = actions.pop() {
            self.seconds += 1;
            let there = (0..HOUSE).find(|device| ip(&self.host(*device)) == location.host());
            let answer = match there {
                Some(device) => described(&format!("uuid:{device}"), "x", &self.host(device)),
                None => Input::Described {
                    location,
                    result: Box::new(Err(HttpError::TimedOut(Duration::from_secs(10)).into())),
                },
            };
            actions.extend(self.registry.apply(answer, at(self.seconds)).actions);
        }
    }

    fn neighbours(&mut self) {
        let table = (0..HOUSE).flat_map(|device| {
            let v6 = format!("fe80::{device}");
            [
                (ip(&self.host(device)), Self::mac(device)),
                (ip(&v6), Self::mac(device)),
            ]
        });
        let table = table.collect();
        self.feed(Input::Neighbours(table));
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Upnp(device) => {
                let host = self.host(*device);
                self.feed(alive(&format!("uuid:{device}"), &host));
            }
            Act::DnsSd(device) => {
                let host = self.host(*device);
                let name = format!("d{device}");
                let Input::Seen(mut sighting) =
                    service("_mpd._tcp", &name, DeviceClass::Jukebox, &host)
                else {
                    unreachable!("made so");
                };
                sighting.addresses.insert(ip(&format!("fe80::{device}")));
                self.feed(Input::Seen(sighting));
            }
            Act::Moves(device) => {
                self.hosts[*device] = self.next_host;
                self.next_host += 1;
            }
            Act::Sleeps(device) => {
                let origin = format!("d{device}._mpd._tcp.local.");
                self.feed(Input::Lost { origin });
                self.seconds += 2 * SILENCE_LIMIT.as_secs();
            }
        }
        self.seconds += 3;
        self.neighbours();
        self.feed(Input::Tick);
    }

    /// The row that holds the keys of `device`, of which there may be one at most.
    fn row(&self, device: usize) -> Vec<Device> {
        let keys = [
            key(&format!("uuid:{device}")),
            key(&format!("mdns:_mpd._tcp:d{device}")),
        ];
        let mut rows = self.registry.snapshot();
        rows.retain(|row| keys.iter().any(|key| row.is(key)));
        rows
    }
}

proptest! {
    #[test]
    fn each_device_of_a_house_is_one_row_whatever_happens(
        history in proptest::collection::vec(act(), 1..60)
    ) {
        let mut house = House::new();
        let mut ids: Vec<Option<DeviceKey>> = vec![None; HOUSE];
        for act in &history {
            house.act(act);
            for (device, id) in ids.iter_mut().enumerate() {
                let rows = house.row(device);
                prop_assert!(rows.len() <= 1, "device {device} is listed twice after {act:?}: {rows:#?}");
                let Some(row) = rows.first() else { continue };
                for other in (0..HOUSE).filter(|other| *other != device) {
                    prop_assert!(!row.is(&key(&format!("uuid:{other}"))), "{device} and {other} are one row");
                }
                match id {
                    Some(id) => prop_assert!(row.is(id), "the row lost its key {id}"),
                    None => *id = Some(row.id.clone()),
                }
            }
        }
    }
}
