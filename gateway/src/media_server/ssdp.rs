//! Announcing and answering by SSDP (UPnP Device Architecture 1.1 §1): on every usable interface, IPv4 and IPv6, alive
//! while the media server is on, byebye when it goes off or the gateway stops.
//!
//! LOCATION names the address of the interface that a player is on. Searches are answered to neighbours only, a bounded
//! number at a time.

use rand::RngExt;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// The link-local group (UPnP Device Architecture 1.1 Annex A.2).
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc);
const PORT: u16 = 1900;
/// How long an announcement holds, seconds.
const MAX_AGE_S: u32 = 1800;
/// How often it is repeated.
const REPEAT: Duration = Duration::from_mins(5);
/// How often interfaces are looked at.
const INTERFACE_POLL: Duration = Duration::from_secs(5);
/// Pauses between the first announcements: datagrams get lost.
const FIRST_PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(2)];
/// Interfaces used at most.
const MAX_INTERFACES: usize = 32;
/// Answers under way at most; further searches are dropped, players repeat theirs.
const MAX_ANSWERS: usize = 64;
/// The longest that an answer is held back, so that not all devices answer at once.
const MAX_DELAY_MS: u64 = 200;
/// Largest search looked at, bytes.
const MAX_SEARCH_BYTES: usize = 2048;
/// Routers crossed at most.
const TTL: u32 = 2;

/// What is announced.
#[derive(Debug, Clone)]
pub struct Announced {
    /// `uuid:…`
    pub udn: String,
    /// The types: the device's, then its services'.
    pub types: Vec<String>,
    /// Port of the description.
    pub port: u16,
    /// Path of the description.
    pub path: &'static str,
    /// The only address that is served; none: every one.
    pub only: Option<IpAddr>,
    /// Whether IPv6 is served.
    pub v6: bool,
    /// The only interface used; none: all.
    pub interface: Option<String>,
    /// Whether the loopback interface is used too.
    pub loopback: bool,
    /// Grows with each start.
    pub boot: u32,
}

/// An address of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    V4 { address: Ipv4Addr, mask: Ipv4Addr },
    V6 { address: Ipv6Addr, index: u32 },
}

impl Place {
    fn address(self) -> IpAddr {
        match self {
            Self::V4 { address, .. } => address.into(),
            Self::V6 { address, .. } => address.into(),
        }
    }

    fn group(self) -> SocketAddr {
        match self {
            Self::V4 { .. } => (GROUP_V4, PORT).into(),
            Self::V6 { index, .. } => SocketAddrV6::new(GROUP_V6, PORT, 0, index).into(),
        }
    }

    fn is_near(self, from: SocketAddr) -> bool {
        match (self, from) {
            (Self::V4 { address, mask }, SocketAddr::V4(from)) => {
                from.ip().to_bits() & mask.to_bits() == address.to_bits() & mask.to_bits()
            }
            (Self::V6 { index, .. }, SocketAddr::V6(from)) => from.scope_id() == index,
            _ => false,
        }
    }
}

/// One interface's socket.
struct Speaker {
    socket: Arc<UdpSocket>,
}

struct Ssdp {
    what: Arc<Announced>,
    speakers: BTreeMap<Place, Speaker>,
    shared: watch::Sender<Vec<(Place, Arc<UdpSocket>)>>,
    listeners: Vec<(Arc<UdpSocket>, AbortHandle)>,
    joined: BTreeSet<Place>,
    tasks: JoinSet<()>,
}

/// Announces until cancelled, while `on` says so.
pub async fn run(what: Announced, mut on: watch::Receiver<bool>, cancel: CancellationToken) {
    let mut ssdp = Ssdp {
        what: Arc::new(what),
        speakers: BTreeMap::new(),
        shared: watch::Sender::default(),
        listeners: Vec::new(),
        joined: BTreeSet::new(),
        tasks: JoinSet::new(),
    };
    let mut poll = interval(INTERFACE_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pauses = FIRST_PAUSES.into_iter();
    let mut next = Instant::now();
    loop {
        let is_on = *on.borrow_and_update();
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = on.changed() => {
                if changed.is_err() {
                    break;
                }
                if *on.borrow() {
                    pauses = FIRST_PAUSES.into_iter();
                    next = Instant::now();
                } else {
                    ssdp.say(false).await;
                    ssdp.fall_silent();
                }
            }
            _ = poll.tick(), if is_on => {
                if ssdp.follow_interfaces() {
                    pauses = FIRST_PAUSES.into_iter();
                    next = Instant::now();
                }
            }
            () = sleep_until(next), if is_on => {
                ssdp.say(true).await;
                next = Instant::now() + pauses.next().unwrap_or(REPEAT);
            }
            Some(_) = ssdp.tasks.join_next() => {}
        }
    }
    ssdp.say(false).await;
    ssdp.tasks.shutdown().await;
}

impl Ssdp {
    fn fall_silent(&mut self) {
        for (_, task) in self.listeners.drain(..) {
            task.abort();
        }
        self.speakers.clear();
        self.joined.clear();
        self.shared.send_replace(Vec::new());
    }

    /// Opens and closes sockets as interfaces come and go; whether one came.
    fn follow_interfaces(&mut self) -> bool {
        let found = match places(&self.what) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "interfaces cannot be listed; those known are kept");
                return false;
            }
        };
        self.speakers.retain(|place, _| found.contains(place));
        self.joined.retain(|place| found.contains(place));
        let mut came = false;
        for place in &found {
            if self.speakers.contains_key(place) {
                continue;
            }
            match speaker(*place) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    self.speakers.insert(*place, Speaker { socket });
                    came = true;
                }
                Err(error) => {
                    tracing::debug!(%error, address = %place.address(), "not announced there");
                }
            }
        }
        self.shared.send_replace(
            self.speakers
                .iter()
                .map(|(place, speaker)| (*place, Arc::clone(&speaker.socket)))
                .collect(),
        );
        self.listen();
        came
    }

    fn listen(&mut self) {
        if self.listeners.is_empty() {
            for v6 in [false, true] {
                match listener(v6) {
                    Ok(socket) => {
                        let socket = Arc::new(socket);
                        let task = self.tasks.spawn(answer_all(
                            Arc::clone(&socket),
                            Arc::clone(&self.what),
                            self.shared.subscribe(),
                        ));
                        self.listeners.push((socket, task));
                    }
                    Err(error) => tracing::debug!(%error, v6, "searches are not heard"),
                }
            }
        }
        for place in self.speakers.keys() {
            if !self.joined.insert(*place) {
                continue;
            }
            for (socket, _) in &self.listeners {
                // Each family's socket takes its own memberships and refuses the other's.
                let _ = match place {
                    Place::V4 { address, .. } => socket.join_multicast_v4(GROUP_V4, *address),
                    Place::V6 { index, .. } => socket.join_multicast_v6(&GROUP_V6, *index),
                };
            }
        }
    }

    async fn say(&self, alive: bool) {
        for (place, speaker) in &self.speakers {
            for target in targets(&self.what) {
                let message = notify(&self.what, *place, &target, alive);
                if let Err(error) = speaker
                    .socket
                    .send_to(message.as_bytes(), place.group())
                    .await
                {
                    tracing::debug!(%error, address = %place.address(), "not announced");
                }
            }
        }
    }
}

/// Everything that is announced and can be searched: the root device, its UDN, its type, its services.
fn targets(what: &Announced) -> Vec<String> {
    let mut all = vec!["upnp:rootdevice".to_owned(), what.udn.clone()];
    all.extend(what.types.iter().cloned());
    all
}

fn usn(what: &Announced, target: &str) -> String {
    if target == what.udn {
        target.to_owned()
    } else {
        format!("{}::{target}", what.udn)
    }
}

fn location(what: &Announced, place: Place) -> String {
    let at = SocketAddr::new(place.address(), what.port);
    format!("http://{at}{}", what.path)
}

fn server() -> &'static str {
    concat!("Linux/1 UPnP/1.1 Mantel/", env!("CARGO_PKG_VERSION"))
}

fn notify(what: &Announced, place: Place, target: &str, alive: bool) -> String {
    let host = match place {
        Place::V4 { .. } => format!("{GROUP_V4}:{PORT}"),
        Place::V6 { .. } => format!("[{GROUP_V6}]:{PORT}"),
    };
    let usn = usn(what, target);
    let more = if alive {
        format!(
            "NTS: ssdp:alive\r\nCACHE-CONTROL: max-age={MAX_AGE_S}\r\nLOCATION: {}\r\nSERVER: {}\r\n",
            location(what, place),
            server()
        )
    } else {
        "NTS: ssdp:byebye\r\n".to_owned()
    };
    format!(
        "NOTIFY * HTTP/1.1\r\nHOST: {host}\r\nNT: {target}\r\nUSN: {usn}\r\n{more}BOOTID.UPNP.ORG: {}\r\n\
         CONFIGID.UPNP.ORG: 1\r\n\r\n",
        what.boot
    )
}

fn answer(what: &Announced, place: Place, target: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age={MAX_AGE_S}\r\nEXT:\r\nLOCATION: {}\r\nSERVER: {}\r\nST: {target}\r\n\
         USN: {}\r\nBOOTID.UPNP.ORG: {}\r\nCONFIGID.UPNP.ORG: 1\r\nCONTENT-LENGTH: 0\r\n\r\n",
        location(what, place),
        server(),
        usn(what, target),
        what.boot
    )
}

/// What a search looks for, and within how many seconds it is to be answered; `None`: it is no search.
fn parse_search(bytes: &[u8]) -> Option<(String, u64)> {
    let text = std::str::from_utf8(bytes.get(..MAX_SEARCH_BYTES.min(bytes.len()))?).ok()?;
    let mut lines = text.split('\n').map(str::trim_end);
    if !lines.next()?.starts_with("M-SEARCH * HTTP/1.") {
        return None;
    }
    let (mut man, mut target, mut wait) = (false, None, 1);
    for (name, value) in lines.take(32).filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "man" => man = value.trim_matches('"') == "ssdp:discover",
            "st" => target = Some(value.to_owned()),
            "mx" => wait = value.parse().unwrap_or(1),
            _ => {}
        }
    }
    target.filter(|_| man).map(|target| (target, wait))
}

/// Which targets answer a search.
fn wanted(what: &Announced, search: &str) -> Vec<String> {
    targets(what)
        .into_iter()
        .filter(|target| search == "ssdp:all" || search == target)
        .collect()
}

async fn answer_all(
    socket: Arc<UdpSocket>,
    what: Arc<Announced>,
    speakers: watch::Receiver<Vec<(Place, Arc<UdpSocket>)>>,
) {
    let mut buffer = vec![0; MAX_SEARCH_BYTES + 1];
    let mut answers = JoinSet::new();
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(_) = answers.join_next() => continue,
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "SSDP receive");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some((search, wait)) = parse_search(&buffer[..length]) else {
            continue;
        };
        let found = speakers
            .borrow()
            .iter()
            .find(|(place, _)| place.is_near(from))
            .cloned();
        let (Some((place, speaker)), targets) = (found, wanted(&what, &search)) else {
            continue;
        };
        if targets.is_empty() || answers.len() >= MAX_ANSWERS {
            continue;
        }
        let what = Arc::clone(&what);
        let delay = rand::rng().random_range(0..=MAX_DELAY_MS.min(wait.saturating_mul(1000)));
        answers.spawn(async move {
            sleep(Duration::from_millis(delay)).await;
            for target in targets {
                let message = answer(&what, place, &target);
                // Who asked may be gone.
                let _ = speaker.send_to(message.as_bytes(), from).await;
            }
        });
    }
}

/// This machine's addresses that are announced: of IPv6 each interface's link-local one.
fn places(what: &Announced) -> io::Result<BTreeSet<Place>> {
    let usable = |found: &if_addrs::Interface| {
        (found.is_oper_up() || found.is_loopback())
            && (what.loopback || !found.is_loopback())
            && what
                .interface
                .as_ref()
                .is_none_or(|only| *only == found.name)
            && what.only.is_none_or(|only| only == found.ip())
    };
    let place = |found: if_addrs::Interface| match found.addr {
        if_addrs::IfAddr::V4(v4) => Some(Place::V4 {
            address: v4.ip,
            mask: v4.netmask,
        }),
        if_addrs::IfAddr::V6(v6) => (what.v6 && v6.ip.is_unicast_link_local())
            .then_some(found.index)
            .flatten()
            .map(|index| Place::V6 {
                address: v6.ip,
                index,
            }),
    };
    Ok(if_addrs::get_if_addrs()?
        .into_iter()
        .filter(usable)
        .filter_map(place)
        .take(MAX_INTERFACES)
        .collect())
}

fn udp(v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if v6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A socket that announces and answers on one interface.
fn speaker(place: Place) -> io::Result<UdpSocket> {
    let socket = udp(matches!(place, Place::V6 { .. }))?;
    match place {
        Place::V4 { address, .. } => {
            socket.bind(&SocketAddr::from((address, 0)).into())?;
            socket.set_multicast_if_v4(&address)?;
            socket.set_multicast_ttl_v4(TTL)?;
            socket.set_multicast_loop_v4(true)?;
        }
        Place::V6 { address, index } => {
            socket.bind(&SocketAddr::from(SocketAddrV6::new(address, 0, 0, index)).into())?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_hops_v6(TTL)?;
            socket.set_multicast_loop_v6(true)?;
        }
    }
    UdpSocket::from_std(socket.into())
}

/// The socket that hears searches; shares its port with other programs and with discovery.
fn listener(v6: bool) -> io::Result<UdpSocket> {
    let socket = udp(v6)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    let at: SocketAddr = if v6 {
        (GROUP_V6, PORT).into()
    } else {
        socket.set_multicast_all_v4(false)?;
        (GROUP_V4, PORT).into()
    };
    socket.bind(&at.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_peripherals::discovery::wire::{Advert, parse};
    use proptest::prelude::*;

    fn what() -> Announced {
        Announced {
            udn: "uuid:00000000-0000-8000-8000-000000000001".into(),
            types: vec!["urn:schemas-upnp-org:device:MediaServer:1".into()],
            port: 8080,
            path: "/upnp/device.xml",
            only: None,
            v6: true,
            interface: None,
            loopback: false,
            boot: 1,
        }
    }

    #[test]
    fn our_own_discovery_reads_what_is_announced() {
        let address = Ipv4Addr::new(10, 0, 0, 2);
        let place = Place::V4 {
            address,
            mask: Ipv4Addr::new(255, 255, 255, 0),
        };
        for target in targets(&what()) {
            for message in [
                notify(&what(), place, &target, true),
                answer(&what(), place, &target),
            ] {
                let read = parse(message.as_bytes(), IpAddr::V4(address)).expect("an advert");
                let Advert::Alive { udn, location, .. } = read else {
                    panic!("alive")
                };
                assert_eq!(udn.as_str(), what().udn);
                assert_eq!(location.expect("a URL").target(), "/upnp/device.xml");
            }
            let bye = notify(&what(), place, &target, false);
            assert!(matches!(
                parse(bye.as_bytes(), IpAddr::V4(address)),
                Ok(Advert::Bye { .. })
            ));
        }
        assert!(place.is_near("10.0.0.9:5".parse().expect("an address")));
        assert!(!place.is_near("10.0.1.9:5".parse().expect("an address")));
    }

    #[test]
    fn searches_are_answered_by_what_they_ask_for() {
        let search = |target: &str, man: &str| {
            parse_search(
                format!(
                    "M-SEARCH * HTTP/1.1\r\nHOST: x\r\nMAN: {man}\r\nMX: 3\r\nST: {target}\r\n\r\n"
                )
                .as_bytes(),
            )
        };
        let (target, wait) = search("ssdp:all", "\"ssdp:discover\"").expect("a search");
        assert_eq!((wanted(&what(), &target).len(), wait), (3, 3));
        assert_eq!(wanted(&what(), "upnp:rootdevice"), ["upnp:rootdevice"]);
        assert!(wanted(&what(), "urn:schemas-upnp-org:device:MediaRenderer:1").is_empty());
        assert_eq!(search("ssdp:all", "\"other\""), None);
        assert_eq!(parse_search(b"NOTIFY * HTTP/1.1\r\n\r\n"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_datagrams_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse_search(&bytes);
        }
    }
}
