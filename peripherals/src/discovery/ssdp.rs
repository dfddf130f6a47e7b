//! SSDP (UPnP Device Architecture 2.0 §1): searches by multicast on every usable IPv4 interface and listens for
//! announcements.
//!
//! Why this is our own: `ssdp-client` and `rupnp` on top of it only search, on one interface, and hide the datagram's
//! source, without which a LOCATION cannot be judged; `ssdp` (hyper 0.10) and `upnp-rs` are no longer maintained.
//! IPv6 is deliberately absent: every UPnP AV device speaks IPv4.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::wire;
use crate::registry::Input;

/// The group and port of SSDP.
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// How often interfaces are looked at again.
pub const INTERFACE_POLL: Duration = Duration::from_secs(5);
/// Most interfaces used.
pub const MAX_INTERFACES: usize = 32;
/// How often a search is repeated.
pub const SEARCH_EVERY: Duration = Duration::from_secs(30);
/// Pauses between the first searches: datagrams get lost (§1.3.2).
const FIRST_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// What is searched: all root devices, and by type for devices that answer only to their type.
const TARGETS: [&str; 3] = [
    "upnp:rootdevice",
    "urn:schemas-upnp-org:device:MediaServer:1",
    "urn:schemas-upnp-org:device:MediaRenderer:1",
];
/// Seconds within which devices shall answer.
const MX: u8 = 2;
/// Routers crossed at most (§1.2 recommends 2).
const TTL: u32 = 2;

/// Whether programs on this machine are looked for by the loopback interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// Only real interfaces; the usual choice.
    Ignored,
    /// The loopback interface too: demonstrations and tests without network namespaces.
    Searched,
}

/// What SSDP does.
#[derive(Clone, Copy, Debug)]
pub struct SsdpConfig {
    /// Group and port; another than [`GROUP`] only in tests.
    pub group: SocketAddrV4,
    /// See [`Loopback`].
    pub loopback: Loopback,
}

impl Default for SsdpConfig {
    fn default() -> Self {
        Self {
            group: GROUP,
            loopback: Loopback::Ignored,
        }
    }
}

/// An address of this machine with its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Network {
    address: Ipv4Addr,
    mask: Ipv4Addr,
}

impl Network {
    fn holds(self, other: IpAddr) -> bool {
        let IpAddr::V4(other) = other else {
            return false;
        };
        other.to_bits() & self.mask.to_bits() == self.address.to_bits() & self.mask.to_bits()
    }
}

/// Sockets on one interface, or the listener.
struct Reader {
    socket: Arc<UdpSocket>,
    task: AbortHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Ssdp {
    config: SsdpConfig,
    inputs: mpsc::Sender<Input>,
    networks: watch::Sender<BTreeSet<Network>>,
    searchers: BTreeMap<Network, Reader>,
    listener: Option<Reader>,
    joined: BTreeSet<Ipv4Addr>,
    tasks: JoinSet<()>,
}

/// Searches and listens until cancelled; `search` asks for a search now.
pub(crate) async fn run(
    config: SsdpConfig,
    inputs: mpsc::Sender<Input>,
    search: Arc<Notify>,
    cancel: CancellationToken,
) {
    let mut ssdp = Ssdp {
        config,
        inputs,
        networks: watch::Sender::new(BTreeSet::new()),
        searchers: BTreeMap::new(),
        listener: None,
        joined: BTreeSet::new(),
        tasks: JoinSet::new(),
    };
    let mut poll = interval(INTERFACE_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pauses = FIRST_PAUSES.into_iter();
    let mut next_search = Instant::now();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = poll.tick() => {
                if ssdp.follow_interfaces().await {
                    pauses = FIRST_PAUSES.into_iter();
                    next_search = Instant::now();
                }
            }
            () = search.notified() => next_search = Instant::now(),
            () = sleep_until(next_search) => {
                ssdp.search().await;
                next_search = Instant::now() + pauses.next().unwrap_or(SEARCH_EVERY);
            }
            Some(_) = ssdp.tasks.join_next() => {}
        }
    }
    ssdp.tasks.shutdown().await;
}

impl Ssdp {
    /// Opens and closes sockets as interfaces come and go. Whether something came.
    async fn follow_interfaces(&mut self) -> bool {
        let found = match networks(self.config.loopback) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "interfaces cannot be listed; those known are kept");
                return false;
            }
        };
        if self.listener.is_none() {
            match listen(self.config.group) {
                Ok(socket) => self.listener = Some(self.read(socket, None)),
                Err(error) => {
                    tracing::warn!(%error, group = %self.config.group, "cannot listen for announcements; searching only");
                }
            }
        }
        let changed = *self.networks.borrow() != found;
        if changed {
            self.networks.send_replace(found.clone());
            let own = found
                .iter()
                .map(|network| IpAddr::V4(network.address))
                .collect();
            let _ = self.inputs.send(Input::OwnAddresses(own)).await;
        }
        self.searchers.retain(|network, _| found.contains(network));
        let mut came = false;
        for network in &found {
            if self.searchers.contains_key(network) {
                continue;
            }
            match searcher(network.address) {
                Ok(socket) => {
                    let reader = self.read(socket, Some(*network));
                    self.searchers.insert(*network, reader);
                    came = true;
                }
                Err(error) => {
                    tracing::debug!(%error, address = %network.address, "no search there");
                }
            }
        }
        self.join_groups(&found);
        came
    }

    fn join_groups(&mut self, found: &BTreeSet<Network>) {
        let Some(listener) = &self.listener else {
            return;
        };
        let group = *self.config.group.ip();
        let addresses: BTreeSet<Ipv4Addr> = found.iter().map(|network| network.address).collect();
        for gone in self.joined.difference(&addresses) {
            // The kernel forgets memberships with their interface; an error only says so.
            let _ = listener.socket.leave_multicast_v4(group, *gone);
        }
        for new in addresses.difference(&self.joined) {
            if let Err(error) = listener.socket.join_multicast_v4(group, *new) {
                tracing::debug!(%error, address = %new, "announcements are not heard there");
            }
        }
        self.joined = addresses;
    }

    async fn search(&self) {
        for (network, reader) in &self.searchers {
            for target in TARGETS {
                let message = wire::search(self.config.group, target, MX);
                let to = SocketAddr::V4(self.config.group);
                if let Err(error) = reader.socket.send_to(message.as_bytes(), to).await {
                    tracing::debug!(%error, address = %network.address, "search not sent");
                }
            }
        }
    }

    /// Starts reading a socket; only datagrams from a network that this machine is on are looked at.
    fn read(&mut self, socket: UdpSocket, only: Option<Network>) -> Reader {
        let socket = Arc::new(socket);
        let task = self.tasks.spawn(read_all(
            Arc::clone(&socket),
            only,
            self.networks.subscribe(),
            self.inputs.clone(),
        ));
        Reader { socket, task }
    }
}

async fn read_all(
    socket: Arc<UdpSocket>,
    only: Option<Network>,
    networks: watch::Receiver<BTreeSet<Network>>,
    inputs: mpsc::Sender<Input>,
) {
    let mut buffer = vec![0; wire::MAX_DATAGRAM + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // ICMP errors of earlier sends come back here; the socket goes on. Never spin on a lasting one.
                tracing::debug!(%error, "SSDP receive");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let source = from.ip();
        let near = match only {
            Some(network) => network.holds(source),
            None => networks
                .borrow()
                .iter()
                .any(|network| network.holds(source)),
        };
        if !near {
            continue;
        }
        match wire::parse(&buffer[..length], source) {
            Ok(advert) => {
                // A full queue means a flood: what is lost is said again.
                if inputs.try_send(Input::Advert { advert, source }).is_err() && inputs.is_closed()
                {
                    return;
                }
            }
            Err(wire::NotAnAdvert::Search) => {}
            Err(error) => tracing::trace!(%source, %error, "datagram dropped"),
        }
    }
}

/// This machine's IPv4 networks.
fn networks(loopback: Loopback) -> io::Result<BTreeSet<Network>> {
    let usable = |interface: &if_addrs::Interface| {
        interface.is_oper_up() && (loopback == Loopback::Searched || !interface.is_loopback())
            || loopback == Loopback::Searched && interface.is_loopback()
    };
    Ok(if_addrs::get_if_addrs()?
        .into_iter()
        .filter(usable)
        .filter_map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(v4) => Some(Network {
                address: v4.ip,
                mask: v4.netmask,
            }),
            if_addrs::IfAddr::V6(_) => None,
        })
        .take(MAX_INTERFACES)
        .collect())
}

fn udp() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket that searches on the interface with `address` and gets the answers.
fn searcher(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = udp()?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.set_multicast_if_v4(&address)?;
    socket.set_multicast_ttl_v4(TTL)?;
    socket.set_multicast_loop_v4(true)?;
    UdpSocket::from_std(socket.into())
}

/// The socket that hears announcements; shares its port with other programs on this machine.
fn listen(group: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = udp()?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Only groups joined on this socket, not those of other programs.
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddr::V4(group).into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_neighbours_on_the_same_network_are_heard() {
        let network = Network {
            address: Ipv4Addr::new(10, 78, 0, 1),
            mask: Ipv4Addr::new(255, 255, 255, 0),
        };
        for (source, heard) in [
            ("10.78.0.10", true),
            ("10.78.1.10", false),
            ("127.0.0.1", false),
            ("8.8.8.8", false),
            ("::ffff:10.78.0.10", false),
        ] {
            assert_eq!(
                network.holds(source.parse().expect("an address")),
                heard,
                "{source}"
            );
        }
    }

    #[test]
    fn loopback_is_searched_only_when_asked_for() {
        let has_loopback = |loopback| {
            networks(loopback)
                .expect("interfaces")
                .iter()
                .any(|n| n.address.is_loopback())
        };
        assert!(!has_loopback(Loopback::Ignored));
        assert!(has_loopback(Loopback::Searched));
    }
}
