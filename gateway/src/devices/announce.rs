//! This gateway on its own network: what it says about itself by DNS-SD, and which announcements are its own and are
//! never listed (F2, F5).

use super::DevicesConfig;
use crate::link::{Enrolment, Link};
use mantel_peripherals::discovery::Announcement;
use mantel_peripherals::{DeviceClass, DeviceKey};
use mantel_protocol::key::DeviceId;
use mantel_runtime::tasks::Tasks;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// The service type of gateways.
pub const SERVICE: &str = "_mantel._tcp";
/// Version of what is announced.
const VERSION: &str = "1";
/// Longest host or instance name: one DNS label (RFC 1035 §2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// Who this gateway is to its own network.
#[derive(Debug, Clone)]
pub struct OwnVoice {
    /// Its device id.
    pub device: DeviceId,
    /// Port of its pages.
    pub web_port: u16,
    /// Keys of all that it announces itself, such as its own media server: never listed as devices.
    pub keys: BTreeSet<DeviceKey>,
}

impl OwnVoice {
    /// A gateway that announces nothing but itself.
    pub fn new(device: DeviceId, web_port: u16) -> Self {
        Self {
            device,
            web_port,
            keys: key_of(device).into_iter().collect(),
        }
    }

    /// Adds what else it announces.
    #[must_use]
    pub fn with(mut self, key: DeviceKey) -> Self {
        self.keys.insert(key);
        self
    }
}

/// The key under which discovery lists the gateway with this id.
pub fn key_of(device: DeviceId) -> Option<DeviceKey> {
    DeviceKey::new(&format!("mdns:{SERVICE}:{device}"))
}

/// The device id of a gateway found by discovery, from its key.
pub fn gateway_of(key: &str, class: DeviceClass) -> Option<DeviceId> {
    let id = key.strip_prefix("mdns:")?.strip_prefix(SERVICE)?;
    (class == DeviceClass::Gateway)
        .then(|| id.strip_prefix(':')?.parse().ok())
        .flatten()
}

/// What is announced, followed as the home's name changes.
pub(super) fn follow(
    config: &DevicesConfig,
    own: &OwnVoice,
    link: &Link,
    tasks: &Tasks,
) -> watch::Receiver<Option<Announcement>> {
    let mut enrolments = link.enrolments();
    let (own, host_name) = (own.clone(), config.host_name.clone());
    let of = move |home: Option<String>| announcement(&own, home.as_deref(), host_name.as_deref());
    let name = |enrolments: &mut watch::Receiver<Option<Arc<Enrolment>>>| {
        let at = enrolments.borrow_and_update();
        at.as_ref().map(|at| at.home_name.clone())
    };
    let first = of(name(&mut enrolments));
    let (publish, announced) = watch::channel(config.announce.then_some(first));
    if config.announce {
        tasks.spawn("devices-announce", async move {
            while enrolments.changed().await.is_ok() {
                let now = Some(of(name(&mut enrolments)));
                publish.send_if_modified(|before| {
                    let changed = *before != now;
                    *before = now;
                    changed
                });
            }
        });
    }
    announced
}

fn announcement(own: &OwnVoice, home: Option<&str>, host_name: Option<&str>) -> Announcement {
    let id = own.device.to_string();
    let short: String = id
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(8)
        .collect();
    let short = short.to_ascii_lowercase();
    let mut text = vec![("id".to_owned(), id), ("v".to_owned(), VERSION.to_owned())];
    text.extend(home.map(|home| ("fn".to_owned(), cut(home, 200))));
    Announcement {
        service: SERVICE.to_owned(),
        instance: match home {
            // Two homes on one network may bear one name.
            Some(home) => format!("{} {short}", cut(home, MAX_LABEL_BYTES - 9)),
            None => format!("Mantel {short}"),
        },
        host: match host_name {
            Some(name) => cut(name.trim_end_matches(".local"), MAX_LABEL_BYTES),
            None => format!("mantel-{short}"),
        },
        port: own.web_port,
        text,
    }
}

/// At most so many bytes, in whole characters.
fn cut(text: &str, max_bytes: usize) -> String {
    text.get(..text.floor_char_boundary(max_bytes))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::key::SigningKey;

    #[test]
    fn a_gateway_says_its_id_and_its_homes_name_only_if_it_has_one() {
        let device = SigningKey::generate().device_id();
        let own = OwnVoice::new(device, 8080);
        let plain = announcement(&own, None, None);
        assert!(plain.instance.starts_with("Mantel ") && plain.host.starts_with("mantel-"));
        assert!(plain.text.iter().all(|(key, _)| key != "fn"));
        let named = announcement(&own, Some(&"Ä".repeat(60)), Some("mantel.local"));
        assert!(named.instance.len() <= MAX_LABEL_BYTES && named.host == "mantel");
        let key = key_of(device).expect("a key");
        assert!(own.keys.contains(&key));
        assert_eq!(gateway_of(key.as_str(), DeviceClass::Gateway), Some(device));
        assert_eq!(gateway_of(key.as_str(), DeviceClass::Other), None);
        assert_eq!(
            gateway_of("mdns:_mantel._tcp:x", DeviceClass::Gateway),
            None
        );
    }
}
