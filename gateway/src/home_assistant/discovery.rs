//! What is told to Home Assistant, as topics and payloads; pure. The keys are those of its MQTT integration's device
//! discovery (<https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload>, Home Assistant 2024.11 and
//! later): one message per device with `device`, `origin` and `components`.
//!
//! Home Assistant's MQTT integration has no media player platform. A player is therefore a sensor (what it does, with
//! the title as attributes), three buttons and a number for the volume.
//!
//! ```text
//! <prefix>/device/mantel_<home>/config            the gateway           retained
//! <prefix>/device/mantel_<home>_<player>/config   each player           retained; empty: it is gone
//! mantel/<home>/availability                      online, offline       retained; offline is the last will
//! mantel/<home>/{server,storage,transfers}        states                retained
//! mantel/<home>/arrived                           an event per title
//! mantel/<home>/player/<player>/{availability,state}                    retained
//! mantel/<home>/player/<player>/{do,volume}       commands: PLAY, PAUSE, STOP; 0 to 100
//! ```

use serde_json::{Value, json};

/// Longest command that is looked at, bytes.
const MAX_COMMAND_BYTES: usize = 16;

/// What a player is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Go on.
    Play,
    /// Pause.
    Pause,
    /// Stop.
    Stop,
    /// How loud, 0 to 100.
    Volume(u8),
}

/// The names of this gateway's topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
    home: String,
}

/// A player as Home Assistant knows it: letters and digits made from its key, which may hold anything.
pub fn player_id(device: &str) -> String {
    blake3::hash(device.as_bytes()).to_hex()[..16].to_owned()
}

impl Topics {
    /// Of the gateway with this key (its device ID in text), under a discovery prefix.
    pub fn new(prefix: &str, gateway: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            home: gateway.chars().take(12).collect::<String>().to_lowercase(),
        }
    }

    /// A topic of the gateway's own.
    pub fn own(&self, name: &str) -> String {
        format!("mantel/{}/{name}", self.home)
    }

    /// A topic of a player.
    pub fn player(&self, player: &str, name: &str) -> String {
        format!("mantel/{}/player/{player}/{name}", self.home)
    }

    /// Where the gateway is announced.
    pub fn config(&self) -> String {
        format!("{}/device/mantel_{}/config", self.prefix, self.home)
    }

    /// Where a player is announced.
    pub fn player_config(&self, player: &str) -> String {
        format!(
            "{}/device/mantel_{}_{player}/config",
            self.prefix, self.home
        )
    }

    /// The commands of all players.
    pub fn commands(&self) -> [String; 2] {
        [self.player("+", "do"), self.player("+", "volume")]
    }

    /// What a message commands, and whom. `None`: nothing that may be commanded.
    pub fn command(&self, topic: &str, payload: &[u8]) -> Option<(String, Command)> {
        let rest = topic.strip_prefix(&self.own("player/"))?;
        let (player, what) = rest.split_once('/')?;
        let known = player.len() == 16 && player.bytes().all(|b| b.is_ascii_hexdigit());
        if !known || payload.len() > MAX_COMMAND_BYTES {
            return None;
        }
        let command = match (what, payload) {
            ("do", b"PLAY") => Command::Play,
            ("do", b"PAUSE") => Command::Pause,
            ("do", b"STOP") => Command::Stop,
            ("volume", number) => {
                let percent: f64 = std::str::from_utf8(number).ok()?.trim().parse().ok()?;
                if !(0.0..=100.0).contains(&percent) {
                    return None;
                }
                Command::Volume(percent.round() as u8)
            }
            _ => return None,
        };
        Some((player.to_owned(), command))
    }

    fn id(&self, what: &str) -> String {
        format!("mantel_{}_{what}", self.home)
    }

    /// The gateway's announcement.
    pub fn gateway(&self, name: &str, page: Option<&str>) -> Value {
        let sensor = |what: &str, named: &str, topic: &str, value: &str, more: Value| {
            let mut it = json!({
                "platform": "sensor", "unique_id": self.id(what), "name": named,
                "state_topic": self.own(topic), "value_template": format!("{{{{ value_json.{value} }}}}"),
            });
            join(&mut it, more);
            it
        };
        let bytes = json!({
            "device_class": "data_size", "unit_of_measurement": "B", "state_class": "measurement",
            "suggested_unit_of_measurement": "GB", "entity_category": "diagnostic",
        });
        let mut device = json!({
            "identifiers": [self.id("gateway")], "name": name, "manufacturer": "Mantel",
            "model": "Gateway", "sw_version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(page) = page {
            join(&mut device, json!({ "configuration_url": page }));
        }
        json!({
            "device": device,
            "origin": origin(),
            "availability_topic": self.own("availability"),
            "components": {
                "server": {
                    "platform": "binary_sensor", "unique_id": self.id("server"), "name": "Server connection",
                    "device_class": "connectivity", "entity_category": "diagnostic", "state_topic": self.own("server"),
                },
                "storage_free": sensor("storage_free", "Storage free", "storage", "free", bytes.clone()),
                "storage_used": sensor("storage_used", "Storage used", "storage", "used", bytes),
                "transfers": sensor("transfers", "Transfers under way", "transfers", "count",
                    json!({ "state_class": "measurement", "icon": "mdi:swap-vertical" })),
                "transfer_progress": sensor("transfer_progress", "Transfer progress", "transfers", "percent",
                    json!({ "unit_of_measurement": "%", "icon": "mdi:progress-download" })),
                "arrived": {
                    "platform": "event", "unique_id": self.id("arrived"), "name": "Title arrived",
                    "event_types": ["arrived", "imported"], "state_topic": self.own("arrived"),
                    "icon": "mdi:movie-open-plus",
                },
            },
        })
    }

    /// A player's announcement.
    pub fn player_device(
        &self,
        player: &str,
        name: &str,
        more: (Option<&str>, Option<&str>),
    ) -> Value {
        let id = |what: &str| self.id(&format!("{player}_{what}"));
        let button = |what: &str, named: &str, word: &str, icon: &str| {
            json!({
                "platform": "button", "unique_id": id(what), "name": named, "icon": icon,
                "command_topic": self.player(player, "do"), "payload_press": word,
            })
        };
        let mut device = json!({
            "identifiers": [self.id(player)], "name": name, "via_device": self.id("gateway"),
        });
        if let Some(maker) = more.0 {
            join(&mut device, json!({ "manufacturer": maker }));
        }
        if let Some(model) = more.1 {
            join(&mut device, json!({ "model": model }));
        }
        json!({
            "device": device,
            "origin": origin(),
            "availability": [
                { "topic": self.own("availability") },
                { "topic": self.player(player, "availability") },
            ],
            "availability_mode": "all",
            "components": {
                "state": {
                    "platform": "sensor", "unique_id": id("state"), "name": "Playing", "device_class": "enum",
                    "options": STATES, "state_topic": self.player(player, "state"),
                    "value_template": "{{ value_json.state }}",
                    "json_attributes_topic": self.player(player, "state"), "icon": "mdi:television-play",
                },
                "play": button("play", "Play", "PLAY", "mdi:play"),
                "pause": button("pause", "Pause", "PAUSE", "mdi:pause"),
                "stop": button("stop", "Stop", "STOP", "mdi:stop"),
                "volume": {
                    "platform": "number", "unique_id": id("volume"), "name": "Volume", "icon": "mdi:volume-high",
                    "command_topic": self.player(player, "volume"), "min": 0, "max": 100, "step": 1,
                    "unit_of_measurement": "%", "mode": "slider",
                },
            },
        })
    }
}

/// What a player's sensor may say.
pub const STATES: [&str; 5] = ["idle", "playing", "paused", "starting", "busy"];

fn origin() -> Value {
    json!({ "name": "Mantel", "sw_version": env!("CARGO_PKG_VERSION") })
}

fn join(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn topics() -> Topics {
        Topics::new("homeassistant", "ABCDEFGHIJKLMNOPQ")
    }

    #[test]
    fn only_playback_can_be_commanded() {
        let at = topics();
        let player = player_id("uuid:tv/+#\u{0}");
        let say = |what: &str, payload: &str| {
            at.command(&at.player(&player, what), payload.as_bytes())
                .map(|(_, command)| command)
        };
        assert_eq!(say("do", "PLAY"), Some(Command::Play));
        assert_eq!(say("do", "PAUSE"), Some(Command::Pause));
        assert_eq!(say("do", "STOP"), Some(Command::Stop));
        assert_eq!(say("volume", "37.0"), Some(Command::Volume(37)));
        for (what, payload) in [
            ("do", "play"),
            ("do", "DELETE"),
            ("do", ""),
            ("volume", "101"),
            ("volume", "-1"),
            ("volume", "NaN"),
            ("volume", "inf"),
            ("state", "PLAY"),
            ("do/x", "PLAY"),
            ("volume", "1111111111111111111"),
        ] {
            assert_eq!(say(what, payload), None, "{what} {payload}");
        }
        for topic in [
            "mantel/other/player/0123456789abcdef/do",
            "mantel/abcdefghijkl/player/+/do",
            "",
            "mantel",
        ] {
            assert_eq!(at.command(topic, b"PLAY"), None, "{topic}");
        }
    }

    #[test]
    fn announcements_have_what_home_assistant_demands() {
        let at = topics();
        let player = player_id("uuid:1");
        let mut ids = HashSet::new();
        for payload in [
            at.gateway("Our home", Some("http://192.0.2.1:8080/")),
            at.player_device(&player, "TV", (Some("Maker"), None)),
        ] {
            assert!(
                payload["device"]["identifiers"].is_array()
                    && payload["origin"]["name"].is_string()
            );
            for (name, part) in payload["components"].as_object().expect("components") {
                let platform = part["platform"].as_str().expect("a platform");
                let needs: &[&str] = match platform {
                    "sensor" | "binary_sensor" => &["state_topic"],
                    "event" => &["state_topic", "event_types"],
                    "button" | "number" => &["command_topic"],
                    other => panic!("{name}: {other} is no platform that is used here"),
                };
                assert!(
                    needs.iter().all(|key| !part[*key].is_null()),
                    "{name}: {part}"
                );
                assert!(
                    ids.insert(part["unique_id"].to_string()),
                    "{name} has an id of its own"
                );
            }
        }
    }
}
