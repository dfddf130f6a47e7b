//! DNS-SD over multicast DNS (RFC 6762, RFC 6763): browses a fixed list of service types with mdns-sd, which does the
//! caching and expiry. What is found is shown; adapters that drive it come with their own folders.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mdns_sd::{IfKind, ResolvedService, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::gate::{Gate, Known, Verdict};
use crate::cast::{CastAccess, Screen};
use crate::device::{Access, DeviceClass, DeviceKey, MAX_LABEL_CHARS, MacAddress, clean_label};
use crate::mpd::MpdAccess;
use crate::registry::{Input, Sighting};
use crate::rtsp::{RtspAccess, RtspUrl, Transport};

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
/// Sightings of all readers that wait.
const READERS_QUEUE: usize = 64;
/// The crate's daemon is asked and must answer within so long.
const MEASURE_TIME: Duration = Duration::from_secs(5);
/// The domain that multicast DNS uses.
const DOMAIN: &str = ".local.";

/// Records that the crate's cache may hold; beyond it somebody floods, and the cache is thrown away.
pub const MAX_RECORDS: i64 = 4096;
/// How often the cache is measured.
const MEASURE_EVERY: Duration = Duration::from_millis(500);
/// Pauses after a cache was thrown away, and how long a calm makes them short again.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(30),
    Duration::from_mins(1),
];
/// What was found before the cache was thrown away, and is not found again within so long, is gone.
const FIND_AGAIN: Duration = Duration::from_mins(1);
/// Services remembered, to tell which of them are not found again.
const MAX_FOUND: usize = 1024;

/// What this gateway says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Service type, such as `_mantel._tcp`.
    pub service: String,
    /// The name of the instance, for people.
    pub instance: String,
    /// Host name without `.local`.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The TXT record.
    pub text: Vec<(String, String)>,
}

/// What the task below works with.
pub(crate) struct Talk {
    pub interface: Option<String>,
    pub announced: Option<watch::Receiver<Option<Announcement>>>,
    pub known: Known,
    pub inputs: mpsc::Sender<Input>,
}

/// Why one life of the daemon ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Cancelled,
    Flooded,
    /// A reader fell behind and was dropped by the crate.
    FellBehind,
}

/// Browses and announces until cancelled. Returns early, with a warning, when the system allows no multicast socket.
///
/// mdns-sd keeps every record of the browsed types for as long as its sender wants. So the cache is measured, and
/// thrown away with its daemon when somebody fills it.
pub(crate) async fn run(mut talk: Talk, cancel: CancellationToken) {
    let (mut found, mut failures) = (Found::default(), 0);
    loop {
        let daemon = match start(&talk) {
            Ok(daemon) => daemon,
            Err(error) => {
                tracing::warn!(%error, "no DNS-SD discovery; devices are still found by SSDP");
                return;
            }
        };
        let began = Instant::now();
        let end = live(&daemon, &mut talk, &mut found, &cancel).await;
        // Ends the crate's own thread, after its goodbyes; it answers once it stopped.
        if let Ok(stopped) = daemon.shutdown() {
            let _ = stopped.recv_async().await;
        }
        if end == End::Cancelled {
            return;
        }
        if began.elapsed() > FIND_AGAIN {
            failures = 0;
        }
        let pause = PAUSES[failures.min(PAUSES.len() - 1)];
        failures += 1;
        let flooded = end == End::Flooded;
        tracing::warn!(
            flooded,
            ?pause,
            "DNS-SD starts anew: more was announced than is kept"
        );
        found.forget_unless_found_again();
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

fn start(talk: &Talk) -> mdns_sd::Result<ServiceDaemon> {
    let daemon = ServiceDaemon::new()?;
    // A new interface is found soon; the crate looks by itself.
    daemon.set_ip_check_interval(2)?;
    if let Some(interface) = &talk.interface {
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(IfKind::Name(interface.clone()))?;
    }
    Ok(daemon)
}

/// One life of the daemon.
async fn live(
    daemon: &ServiceDaemon,
    talk: &mut Talk,
    found: &mut Found,
    cancel: &CancellationToken,
) -> End {
    let (seen, mut sightings) = mpsc::channel::<Input>(READERS_QUEUE);
    let mut readers = JoinSet::new();
    for (service, class) in SERVICE_TYPES {
        match daemon.browse(&format!("{service}{DOMAIN}")) {
            Ok(events) => {
                readers.spawn(read(
                    events,
                    service,
                    *class,
                    talk.known.clone(),
                    seen.clone(),
                ));
            }
            Err(error) => tracing::warn!(%error, service, "service type not browsed"),
        }
    }
    drop(seen);
    let mut measure = interval(MEASURE_EVERY);
    let mut said: Option<String> = None;
    announce(daemon, talk, &mut said);
    let end = loop {
        tokio::select! {
            () = cancel.cancelled() => break End::Cancelled,
            Some(input) = sightings.recv() => {
                found.note(&input);
                if talk.inputs.send(input).await.is_err() {
                    break End::Cancelled;
                }
            }
            Some(_) = readers.join_next() => break End::FellBehind,
            true = changed(&mut talk.announced) => announce(daemon, talk, &mut said),
            _ = measure.tick() => {
                for origin in found.lost() {
                    let _ = talk.inputs.send(Input::Lost { origin }).await;
                }
                if records(daemon).await > MAX_RECORDS {
                    break End::Flooded;
                }
            }
        }
    };
    readers.shutdown().await;
    end
}

/// Reads what is found of one service type, until the crate drops us for being slow.
async fn read(
    events: mdns_sd::Receiver<ServiceEvent>,
    service: &'static str,
    class: DeviceClass,
    known: Known,
    seen: mpsc::Sender<Input>,
) {
    let (mut gate, started) = (Gate::new(), Instant::now());
    while let Ok(event) = events.recv_async().await {
        let Some(mut input) = interpret(event, service, class) else {
            continue;
        };
        if let Input::Seen(sighting) = &input
            && let Some(address) = sighting.addresses.first().copied()
        {
            let known = known.borrow().contains(&address);
            match gate.judge(address, known, started.elapsed()) {
                Verdict::Heard => {}
                Verdict::Told => input = Input::TooMuch { source: address },
                Verdict::Dropped => continue,
            }
        }
        if seen.send(input).await.is_err() {
            return;
        }
    }
}

/// How many records the crate holds.
async fn records(daemon: &ServiceDaemon) -> i64 {
    // A daemon too busy to answer is being flooded.
    let Ok(answer) = daemon.get_metrics() else {
        return i64::MAX;
    };
    match timeout(MEASURE_TIME, answer.recv_async()).await {
        Ok(Ok(metrics)) => metrics
            .iter()
            .filter(|(name, _)| name.starts_with("cached-"))
            .map(|(_, count)| *count)
            .sum(),
        Ok(Err(_)) | Err(_) => i64::MAX,
    }
}

async fn changed(announced: &mut Option<watch::Receiver<Option<Announcement>>>) -> bool {
    if let Some(announced) = announced
        && announced.changed().await.is_ok()
    {
        return true;
    }
    std::future::pending().await
}

/// Says what is to be said now, and goodbye for what was said before.
fn announce(daemon: &ServiceDaemon, talk: &mut Talk, said: &mut Option<String>) {
    if let Some(before) = said.take() {
        let _ = daemon.unregister(&before);
    }
    let wanted = talk
        .announced
        .as_mut()
        .and_then(|announced| announced.borrow_and_update().clone());
    let Some(wanted) = wanted else { return };
    let text: Vec<(&str, &str)> = wanted
        .text
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let service = format!("{}{DOMAIN}", wanted.service);
    let host = format!("{}{DOMAIN}", wanted.host);
    let info = ServiceInfo::new(
        &service,
        &wanted.instance,
        &host,
        "",
        wanted.port,
        &text[..],
    )
    .map(ServiceInfo::enable_addr_auto)
    .and_then(|info| {
        let name = info.get_fullname().to_owned();
        daemon.register(info).map(|()| name)
    });
    match info {
        Ok(name) => *said = Some(name),
        Err(error) => tracing::warn!(%error, "this gateway is not announced by DNS-SD"),
    }
}

/// What was found, so that what is not found again after a new start counts as gone.
#[derive(Debug, Default)]
struct Found {
    now: HashSet<String>,
    before: HashSet<String>,
    since: Option<Instant>,
}

impl Found {
    fn note(&mut self, input: &Input) {
        match input {
            Input::Seen(sighting) => {
                self.before.remove(&sighting.origin);
                if self.now.len() < MAX_FOUND {
                    self.now.insert(sighting.origin.clone());
                }
            }
            Input::Lost { origin } => {
                self.before.remove(origin);
                self.now.remove(origin);
            }
            _ => {}
        }
    }

    fn forget_unless_found_again(&mut self) {
        self.before.extend(std::mem::take(&mut self.now));
        self.since = Some(Instant::now());
    }

    fn lost(&mut self) -> HashSet<String> {
        match self.since {
            Some(since) if since.elapsed() >= FIND_AGAIN => {
                self.since = None;
                std::mem::take(&mut self.before)
            }
            _ => HashSet::new(),
        }
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

/// What a resolved service tells, as a sighting; pure. `service` is one of [`SERVICE_TYPES`], with its class.
pub fn sighting(found: &ResolvedService, service: &str, class: DeviceClass) -> Option<Sighting> {
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
    let class = refine(
        service,
        class,
        text("ca").as_deref(),
        text("model").as_deref(),
    );
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
        class,
        maker: text("manufacturer"),
        model: text("md").or_else(|| text("model")).or_else(|| text("am")),
        serial: text("serialNumber"),
        mac: hardware_address(
            found.get_fullname(),
            service,
            [text("deviceid"), text("macaddress"), text("mac")],
        ),
        access: crate::ptp_ip::access(service, found.get_port(), &addresses)
            .or_else(|| {
                let path = text("path");
                camera(service, found.get_port(), &addresses, path.as_deref())
            })
            .unwrap_or_else(|| access(service, class, found.get_port(), &addresses)),
        addresses,
    })
}

/// How a service is reached: adapters name theirs here, the rest is shown and not used.
fn access(service: &str, class: DeviceClass, port: u16, addresses: &BTreeSet<IpAddr>) -> Access {
    let address = reachable(addresses).map(|address| SocketAddr::new(address, port));
    match (service, address) {
        ("_mpd._tcp", Some(address)) => Access::Mpd(MpdAccess { address }),
        ("_googlecast._tcp", Some(address)) => Access::Cast(CastAccess {
            address,
            screen: if class == DeviceClass::Speaker {
                Screen::No
            } else {
                Screen::Yes
            },
        }),
        _ => Access::DnsSd {
            service: service.to_owned(),
            port,
        },
    }
}

/// In the TXT record, or before the `@` of an AirPlay sound service.
fn hardware_address(
    fullname: &str,
    service: &str,
    told: [Option<String>; 3],
) -> Option<MacAddress> {
    let plain = |text: &str| {
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
        MacAddress::from_hex(&digits)
    };
    let before = fullname
        .split_once('@')
        .filter(|_| service == "_raop._tcp")
        .map(|(mac, _)| mac.to_owned());
    told.into_iter()
        .chain([before])
        .flatten()
        .find_map(|text| plain(&text))
}

/// The address to connect to: IPv4 first, since every such device has it. Never this machine's own loopback: a stranger
/// may announce any address. A link-local IPv6 address is of no use without its interface.
pub(crate) fn reachable(addresses: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let mut usable = addresses.iter().filter(|address| match address {
        IpAddr::V4(v4) => {
            !v4.is_loopback() && !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            !v6.is_loopback()
                && !v6.is_unspecified()
                && !v6.is_multicast()
                && !v6.is_unicast_link_local()
                && v6.to_ipv4_mapped().is_none()
        }
    });
    // A BTreeSet has IPv4 before IPv6.
    usable.next().copied()
}

/// An RTSP camera at the first of its addresses, which is its IPv4 address where it has one. Many announce no path;
/// their stream at `/` may then be none, and the household adds the camera by its full address.
fn camera(
    service: &str,
    port: u16,
    addresses: &BTreeSet<IpAddr>,
    path: Option<&str>,
) -> Option<Access> {
    let address = reachable(addresses)?;
    if service != "_rtsp._tcp" {
        return None;
    }
    let url = RtspUrl::at(address, port, path.unwrap_or("/")).ok()?;
    Some(Access::Rtsp(RtspAccess {
        url,
        transport: Transport::Interleaved,
    }))
}

/// `Kitchen._mpd._tcp.local.` → `Kitchen`; AirPlay's `0123456789ab@Kitchen` → `Kitchen`; MPD's `Kitchen[4711]`, which has
/// its process ID and so changes with each start, → `Kitchen`.
fn instance_name<'a>(fullname: &'a str, service: &str) -> &'a str {
    let name = fullname.strip_suffix(DOMAIN).unwrap_or(fullname);
    let name = name
        .strip_suffix(service)
        .unwrap_or(name)
        .trim_end_matches('.');
    match name.split_once('@') {
        Some((mac, name)) if service == "_raop._tcp" && mac.len() == 12 => name,
        _ if service == "_mpd._tcp" => without_process_id(name),
        _ => name,
    }
}

fn without_process_id(name: &str) -> &str {
    let bare = name
        .strip_suffix(']')
        .and_then(|name| name.rsplit_once('['));
    match bare {
        Some((bare, id)) if !bare.is_empty() && id.parse::<u32>().is_ok() => bare,
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
        for (told, shown) in [
            ("odd", "odd"),
            ("Kitchen[4711]._mpd._tcp.local.", "Kitchen"),
            ("Kitchen [old]._mpd._tcp.local.", "Kitchen [old]"),
            ("[7]._mpd._tcp.local.", "[7]"),
        ] {
            assert_eq!(instance_name(told, "_mpd._tcp"), shown, "{told}");
        }
    }

    #[test]
    fn a_cast_device_without_a_screen_is_a_speaker() {
        let cast = |ca| refine("_googlecast._tcp", DeviceClass::Television, ca, None);
        assert_eq!(cast(Some("4101")), DeviceClass::Television);
        assert_eq!(cast(Some("2052")), DeviceClass::Speaker);
        assert_eq!(cast(None), DeviceClass::Television);
    }

    #[test]
    fn a_service_at_a_strange_address_is_shown_and_not_connected_to() {
        let at = |text: &str| {
            let addresses = BTreeSet::from([text.parse().expect("an address")]);
            access("_mpd._tcp", DeviceClass::Jukebox, 6600, &addresses)
        };
        for strange in [
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.251",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(matches!(at(strange), Access::DnsSd { .. }), "{strange}");
        }
        for sound in ["192.168.1.9", "fd00::9"] {
            assert!(matches!(at(sound), Access::Mpd(_)), "{sound}");
        }
    }

    #[test]
    fn a_camera_that_says_it_is_this_machine_is_not_connected_to() {
        for strange in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "255.255.255.255",
            "fe80::1",
        ] {
            let addresses = BTreeSet::from([strange.parse().expect("an address")]);
            assert_eq!(
                crate::ptp_ip::access("_ptp._tcp", 15740, &addresses),
                None,
                "{strange}"
            );
            assert_eq!(
                camera("_rtsp._tcp", 554, &addresses, None),
                None,
                "{strange}"
            );
        }
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
