//! DNS-SD over multicast DNS (RFC 6762, RFC 6763): browses a fixed list of service types with mdns-sd, which does the
//! caching and expiry. What is found is shown; adapters that drive it come with their own folders.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::device::{Access, DeviceClass, DeviceKey, MAX_LABEL_CHARS, clean_label};
use crate::registry::{Input, Sighting};

/// Service types that are browsed, and what a device that offers one is.
pub const SERVICE_TYPES: &[(&str, DeviceClass)] = &[
    ("_mantel._tcp", DeviceClass::Gateway),
    ("_mpd._tcp", DeviceClass::Jukebox),
    ("_daap._tcp", DeviceClass::Jukebox),
    ("_googlecast._tcp", DeviceClass::Television),
    ("_airplay._tcp", DeviceClass::Speaker),
    ("_raop._tcp", DeviceClass::Speaker),
    ("_androidtvremote2._tcp", DeviceClass::Television),
    ("_amzn-wplay._tcp", DeviceClass::Television),
    ("_sonos._tcp", DeviceClass::Speaker),
    ("_rtsp._tcp", DeviceClass::Camera),
    ("_axis-video._tcp", DeviceClass::Camera),
    ("_ptp._tcp", DeviceClass::Camera),
    ("_smb._tcp", DeviceClass::Computer),
];

/// Most addresses kept of one service.
pub const MAX_SERVICE_ADDRESSES: usize = 16;
/// The domain that multicast DNS uses.
const DOMAIN: &str = ".local.";

/// Browses until cancelled. Returns early, with a warning, when the system allows no multicast socket.
pub(crate) async fn run(inputs: mpsc::Sender<Input>, cancel: CancellationToken) {
    let daemon = match ServiceDaemon::new() {
        Ok(daemon) => daemon,
        Err(error) => {
            tracing::warn!(%error, "no DNS-SD discovery; devices are still found by SSDP");
            return;
        }
    };
    let mut readers = JoinSet::new();
    for (service, class) in SERVICE_TYPES {
        match daemon.browse(&format!("{service}{DOMAIN}")) {
            Ok(events) => {
                let inputs = inputs.clone();
                readers.spawn(async move {
                    while let Ok(event) = events.recv_async().await {
                        let Some(input) = interpret(event, service, *class) else {
                            continue;
                        };
                        if inputs.send(input).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Err(error) => tracing::warn!(%error, service, "service type not browsed"),
        }
    }
    cancel.cancelled().await;
    readers.shutdown().await;
    // Ends the crate's own thread; it answers once it stopped.
    if let Ok(stopped) = daemon.shutdown() {
        let _ = stopped.recv_async().await;
    }
}

fn interpret(event: ServiceEvent, service: &str, class: DeviceClass) -> Option<Input> {
    match event {
        ServiceEvent::ServiceResolved(found) => {
            sighting(&found, service, class).map(|seen| Input::Seen(Box::new(seen)))
        }
        ServiceEvent::ServiceRemoved(_, fullname) => Some(Input::Lost { origin: fullname }),
        _ => None,
    }
}

fn sighting(found: &ResolvedService, service: &str, class: DeviceClass) -> Option<Sighting> {
    let text = |key: &str| {
        found
            .get_property_val_str(key)
            .and_then(|value| clean_label(value, MAX_LABEL_CHARS))
    };
    let addresses: BTreeSet<IpAddr> = found
        .get_addresses()
        .iter()
        .map(mdns_sd::ScopedIp::to_ip_addr)
        .take(MAX_SERVICE_ADDRESSES)
        .collect();
    let instance = instance_name(found.get_fullname(), service);
    if addresses.is_empty() {
        return None;
    }
    Some(Sighting {
        key: key(
            service,
            instance,
            text("id").or_else(|| text("deviceid")).as_deref(),
        )?,
        origin: found.get_fullname().to_owned(),
        name: text("fn")
            .or_else(|| clean_label(instance, MAX_LABEL_CHARS))
            .unwrap_or_else(|| service.to_owned()),
        class: refine(
            service,
            class,
            text("ca").as_deref(),
            text("model").as_deref(),
        ),
        maker: text("manufacturer"),
        model: text("md").or_else(|| text("model")).or_else(|| text("am")),
        serial: text("serialNumber"),
        mac: None,
        addresses,
        access: access(service, found.get_port()),
    })
}

/// How a service is reached: adapters name theirs here, the rest is shown and not used.
fn access(service: &str, port: u16) -> Access {
    Access::DnsSd {
        service: service.to_owned(),
        port,
    }
}

/// `Kitchen._mpd._tcp.local.` → `Kitchen`; AirPlay's `0123456789ab@Kitchen` → `Kitchen`.
fn instance_name<'a>(fullname: &'a str, service: &str) -> &'a str {
    let name = fullname.strip_suffix(DOMAIN).unwrap_or(fullname);
    let name = name
        .strip_suffix(service)
        .unwrap_or(name)
        .trim_end_matches('.');
    match name.split_once('@') {
        Some((mac, name)) if service == "_raop._tcp" && mac.len() == 12 => name,
        _ => name,
    }
}

/// The device's own id where it tells one, which survives a new name, else its instance name.
fn key(service: &str, instance: &str, id: Option<&str>) -> Option<DeviceKey> {
    DeviceKey::new(&format!("mdns:{service}:{}", id.unwrap_or(instance)))
}

/// What the TXT record adds: Cast's capability bit 0 means a screen; AirPlay's model names the box.
fn refine(service: &str, class: DeviceClass, ca: Option<&str>, model: Option<&str>) -> DeviceClass {
    let screen = ca
        .and_then(|ca| ca.parse::<u32>().ok())
        .is_none_or(|bits| bits & 1 != 0);
    match service {
        "_googlecast._tcp" if !screen => DeviceClass::Speaker,
        "_airplay._tcp" if model.is_some_and(|m| m.starts_with("AppleTV")) => {
            DeviceClass::Television
        }
        _ => class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn instance_names_are_for_people() {
        assert_eq!(
            instance_name("Jukebox MPD._mpd._tcp.local.", "_mpd._tcp"),
            "Jukebox MPD"
        );
        assert_eq!(
            instance_name("0278000000aa@Kitchen._raop._tcp.local.", "_raop._tcp"),
            "Kitchen"
        );
        assert_eq!(instance_name("odd", "_mpd._tcp"), "odd");
    }

    #[test]
    fn a_cast_device_without_a_screen_is_a_speaker() {
        let cast = |ca| refine("_googlecast._tcp", DeviceClass::Television, ca, None);
        assert_eq!(cast(Some("4101")), DeviceClass::Television);
        assert_eq!(cast(Some("2052")), DeviceClass::Speaker);
        assert_eq!(cast(None), DeviceClass::Television);
    }

    #[test]
    fn service_types_are_each_listed_once_and_well_formed() {
        let names: BTreeSet<_> = SERVICE_TYPES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), SERVICE_TYPES.len());
        assert!(
            names
                .iter()
                .all(|name| name.starts_with('_') && name.ends_with("._tcp"))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_names_never_panic(name in any::<String>()) {
            let _ = instance_name(&name, "_raop._tcp");
            let _ = key("_mpd._tcp", &name, None);
        }
    }
}
