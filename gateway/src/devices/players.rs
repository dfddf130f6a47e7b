//! Who asks this gateway for media, and whether the household let that player in (F2, F5, F63).
//!
//! A player is known by its hardware address where the kernel knows it, else by its network address. Where discovery
//! lists a device at that address, the household's word on that device counts. Everybody else (a player program on a
//! laptop announces nothing) is put on a short list of players that asked; the household's word on them is kept like
//! that on devices, under keys `player:<hardware or network address>`.

use super::store::{self, Decision, Decisions};
use super::{DeviceRow, DeviceStanding, Devices, DevicesError};
use jiff::Timestamp;
use mantel_peripherals::MacAddress;
use mantel_peripherals::neighbours::{ARP_TABLE, parse_arp};
use mantel_runtime::db::DbError;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Players on the list; past that, those that asked longest ago and were not decided on leave it.
pub const MAX_PLAYERS: usize = 48;
/// How long the kernel's neighbour table is believed.
const NEIGHBOURS_FRESH: Duration = Duration::from_secs(5);
/// Longest name kept of a player's program, characters.
const MAX_PROGRAM_CHARS: usize = 60;
/// A row's time is brought up to date when it is this much behind: the page need not move at each request.
const NOTED_AGAIN_S: i64 = 10;
/// Key prefix of players among the decisions.
const PREFIX: &str = "player:";

/// A player that asked for media and that discovery does not list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlayerRow {
    /// Its key.
    pub id: String,
    /// What its program calls itself.
    pub name: String,
    /// The address from which it asked last, in this run.
    pub address: Option<IpAddr>,
    /// Its hardware address, where known (F5).
    pub mac: Option<MacAddress>,
    /// What the household decided.
    pub standing: DeviceStanding,
    /// When it asked last, in this run.
    pub asked: Option<Timestamp>,
}

/// The list and what it is made from.
pub(super) struct Players {
    state: Mutex<State>,
    rows: watch::Sender<Arc<Vec<PlayerRow>>>,
}

#[derive(Default)]
struct State {
    players: Vec<PlayerRow>,
    neighbours: HashMap<IpAddr, MacAddress>,
    looked: Option<Duration>,
}

impl Players {
    pub(super) fn new(decisions: &Decisions) -> Self {
        let mut players: Vec<PlayerRow> = decisions
            .iter()
            .filter_map(|(key, decision)| {
                let place = key.strip_prefix(PREFIX)?;
                Some(PlayerRow {
                    id: key.clone(),
                    name: decision.name.clone().unwrap_or_else(|| "A player".into()),
                    address: place.parse().ok(),
                    mac: place.parse().ok(),
                    standing: decision.standing,
                    asked: None,
                })
            })
            .collect();
        players.sort_by(|a, b| a.id.cmp(&b.id));
        let rows = watch::Sender::new(Arc::new(players.clone()));
        let state = State {
            players,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            rows,
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let result = change(&mut state);
        self.rows.send_if_modified(|rows| {
            let changed = **rows != state.players;
            if changed {
                *rows = Arc::new(state.players.clone());
            }
            changed
        });
        result
    }

    /// The hardware address at a network address. `now`: monotonic.
    fn mac_of(&self, address: IpAddr, now: Duration) -> Option<MacAddress> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        if state
            .looked
            .is_none_or(|at| now.saturating_sub(at) > NEIGHBOURS_FRESH)
        {
            // Absent in some containers: players are then known by their network address.
            let table = std::fs::read(ARP_TABLE).unwrap_or_default();
            state.neighbours = parse_arp(&String::from_utf8_lossy(&table))
                .into_iter()
                .collect();
            state.looked = Some(now);
        }
        state.neighbours.get(&address).copied()
    }
}

impl State {
    fn note(&mut self, key: String, mac: Option<MacAddress>, asked: &Asked<'_>) -> DeviceStanding {
        if let Some(row) = self.players.iter_mut().find(|row| row.id == key) {
            let behind = row
                .asked
                .is_none_or(|at| asked.now.as_second() - at.as_second() >= NOTED_AGAIN_S);
            if behind || row.address != Some(asked.address) {
                row.asked = Some(asked.now);
                row.address = Some(asked.address);
                row.mac = mac.or(row.mac);
            }
            return row.standing;
        }
        self.players.push(PlayerRow {
            id: key,
            name: program(asked.program),
            address: Some(asked.address),
            mac,
            standing: DeviceStanding::New,
            asked: Some(asked.now),
        });
        while self.players.len() > MAX_PLAYERS {
            let undecided = self.players.iter().enumerate();
            let oldest = undecided
                .filter(|(_, row)| row.standing == DeviceStanding::New)
                .min_by_key(|(_, row)| row.asked)
                .map_or(0, |(index, _)| index);
            self.players.remove(oldest);
        }
        DeviceStanding::New
    }
}

/// A request from the network.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Where it came from.
    pub address: IpAddr,
    /// What the program calls itself (User-Agent).
    pub program: Option<&'a str>,
    /// Wall-clock time.
    pub now: Timestamp,
    /// Monotonic time.
    pub monotonic: Duration,
}

impl Devices {
    /// What the household decided about who asks; who is not known is put on the list of players that asked.
    pub fn standing_of(&self, asked: Asked<'_>) -> DeviceStanding {
        let asked = Asked {
            address: asked.address.to_canonical(),
            ..asked
        };
        let players = &self.inner.players;
        let mac = players.mac_of(asked.address, asked.monotonic);
        let devices = self.inner.rows.borrow();
        let mut found = None;
        for row in devices.iter().filter(|row| is_at(row, asked.address, mac)) {
            match (row.standing, found) {
                (DeviceStanding::Ignored, _) => return DeviceStanding::Ignored,
                (DeviceStanding::New, Some(_)) => {}
                (standing, _) => found = Some(standing),
            }
        }
        drop(devices);
        if found == Some(DeviceStanding::Admitted) {
            return DeviceStanding::Admitted;
        }
        let key = match mac {
            Some(mac) => format!("{PREFIX}{mac}"),
            None => format!("{PREFIX}{}", asked.address),
        };
        if found.is_some() {
            // A device that is listed is let in there; the list of players keeps an older word on it.
            let state = players.state.lock().expect("no holder of this lock panics");
            let known = state.players.iter().find(|row| row.id == key);
            return known.map_or(DeviceStanding::New, |row| row.standing);
        }
        players.change(|state| state.note(key, mac, &asked))
    }

    /// Players that asked and that discovery does not list.
    pub fn players(&self) -> watch::Receiver<Arc<Vec<PlayerRow>>> {
        self.inner.players.rows.subscribe()
    }

    /// Lets a player in.
    pub async fn admit_player(&self, id: &str) -> Result<(), DevicesError> {
        self.decide_player(id, DeviceStanding::Admitted).await
    }

    /// Keeps a player out.
    pub async fn ignore_player(&self, id: &str) -> Result<(), DevicesError> {
        self.decide_player(id, DeviceStanding::Ignored).await
    }

    async fn decide_player(&self, id: &str, standing: DeviceStanding) -> Result<(), DevicesError> {
        let players = &self.inner.players;
        let known = players
            .rows
            .borrow()
            .iter()
            .find(|row| row.id == id)
            .cloned();
        let row = known.ok_or(DevicesError::NoSuchDevice)?;
        let decision = Decision {
            standing,
            name: Some(row.name),
            class: None,
            decided_at_ms: self.inner.clock.now().as_millisecond(),
        };
        let keys = [row.id.clone()];
        let write = move |tx: &rusqlite::Transaction<'_>| {
            Ok::<_, DbError>(store::put(tx, &keys, &decision)?)
        };
        self.inner.db.write(write).await?;
        players.change(|state| {
            for known in state.players.iter_mut().filter(|known| known.id == row.id) {
                known.standing = standing;
            }
        });
        Ok(())
    }
}

/// Whether a listed device is the one that asks: by hardware address where both are known, else by network address.
fn is_at(row: &DeviceRow, address: IpAddr, mac: Option<MacAddress>) -> bool {
    match (row.mac, mac) {
        (Some(theirs), Some(mac)) => theirs == mac,
        _ => row
            .addresses
            .iter()
            .any(|one| one.to_canonical() == address),
    }
}

/// A program's name from its User-Agent, one line.
fn program(agent: Option<&str>) -> String {
    let words: Vec<&str> = agent
        .unwrap_or_default()
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    let name: String = words.join(" ").chars().take(MAX_PROGRAM_CHARS).collect();
    if name.is_empty() {
        "A player".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(address: &str, second: i64) -> Asked<'_> {
        Asked {
            address: address.parse().expect("an address"),
            program: Some("VLC/3.0 \u{7} LibVLC"),
            now: Timestamp::from_second(second).expect("in range"),
            monotonic: Duration::ZERO,
        }
    }

    #[test]
    fn the_list_is_bounded_and_keeps_what_was_decided() {
        let mut state = State::default();
        state.note("player:kept".into(), None, &asked("10.0.0.1", 0));
        state.players[0].standing = DeviceStanding::Ignored;
        for n in 0..500 {
            state.note(format!("player:{n}"), None, &asked("10.0.0.2", n));
        }
        assert_eq!(state.players.len(), MAX_PLAYERS);
        assert_eq!(state.players[0].id, "player:kept");
        assert_eq!(state.players[1].id, format!("player:{}", 501 - MAX_PLAYERS));
        assert_eq!(state.players[1].name, "VLC/3.0 LibVLC");
        let again = state.note("player:kept".into(), None, &asked("10.0.0.9", 900));
        assert_eq!(again, DeviceStanding::Ignored);
    }
}
