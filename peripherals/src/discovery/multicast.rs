//! Asking and listening by multicast on every interface, IPv4 and IPv6: what SSDP and WS-Discovery share (F2).
//!
//! For each protocol one socket per family hears announcements, and one per interface and family asks and gets the
//! answers. A device's answer counts only when it is a neighbour on the interface.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::gate::{Gate, Known, Verdict};
use super::links::{Links, is_near};
use crate::registry::Input;
use crate::url::Speaker;

/// How often a search is repeated.
pub const SEARCH_EVERY: Duration = Duration::from_secs(30);
/// Largest datagram looked at, in bytes. Larger ones are dropped, not cut.
pub const MAX_DATAGRAM: usize = 16 * 1024;
/// Questions that a reader may have waiting.
const ASKS: usize = 16;
/// Pauses between the first searches: datagrams get lost (UPnP Device Architecture 2.0 §1.3.2).
const FIRST_PAUSES: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// Routers crossed at most (UPnP Device Architecture 2.0 §1.2 recommends 2).
const TTL: u32 = 2;

/// What a datagram turned out to be.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing of use.
    Nothing,
    /// Something for the registry.
    Input(Input),
    /// Something that leads to a question to all.
    Ask(String),
}

/// A protocol that asks and listens.
#[derive(Clone, Copy)]
pub(crate) struct Speech {
    /// Its name in the log.
    pub name: &'static str,
    /// Its IPv4 group and its port.
    pub v4: SocketAddrV4,
    /// Its IPv6 groups, on the same port.
    pub v6: &'static [Ipv6Addr],
    /// The questions of a search, for the group that they are sent to.
    pub questions: fn(SocketAddr) -> Vec<String>,
    /// Whether a datagram can be dropped unread: questions of others.
    pub is_question: fn(&[u8]) -> bool,
    /// Reads a datagram.
    pub read: fn(&[u8], Speaker) -> Heard,
}

/// What the readers of a protocol share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub inputs: mpsc::Sender<Input>,
    pub links: watch::Receiver<Arc<Links>>,
    pub known: Known,
    /// Changes when somebody wants a search now.
    pub search: watch::Receiver<u64>,
}

/// A socket being read.
struct Reader {
    socket: Arc<UdpSocket>,
    task: AbortHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// By which address of which interface is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    V4(u32, Ipv4Addr),
    V6(u32),
}

struct Party {
    speech: Speech,
    around: Surroundings,
    asks: mpsc::Sender<String>,
    searchers: BTreeMap<Via, Reader>,
    listener_v4: Option<Reader>,
    listener_v6: Option<Reader>,
    joined: BTreeSet<Via>,
    tasks: JoinSet<()>,
}

/// Asks and listens until cancelled.
pub(crate) async fn run(speech: Speech, around: Surroundings, cancel: CancellationToken) {
    let (asks, mut asked) = mpsc::channel(ASKS);
    let (mut links, mut search) = (around.links.clone(), around.search.clone());
    let mut party = Party {
        speech,
        around,
        asks,
        searchers: BTreeMap::new(),
        listener_v4: None,
        listener_v6: None,
        joined: BTreeSet::new(),
        tasks: JoinSet::new(),
    };
    party.listen();
    links.mark_changed();
    let mut pauses = FIRST_PAUSES.into_iter();
    let mut next_search = Instant::now();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Ok(()) = links.changed() => {
                let now = links.borrow_and_update().clone();
                if party.follow(&now) {
                    pauses = FIRST_PAUSES.into_iter();
                    next_search = Instant::now();
                }
            }
            Ok(()) = search.changed() => next_search = Instant::now(),
            () = sleep_until(next_search) => {
                party.say(speech.questions).await;
                next_search = Instant::now() + pauses.next().unwrap_or(SEARCH_EVERY);
            }
            Some(question) = asked.recv() => party.say(|_| vec![question.clone()]).await,
            Some(_) = party.tasks.join_next() => {}
        }
    }
    party.tasks.shutdown().await;
}

impl Party {
    fn listen(&mut self) {
        let (name, v4) = (self.speech.name, self.speech.v4);
        match listen_v4(v4) {
            Ok(socket) => self.listener_v4 = Some(self.read(socket)),
            Err(error) => {
                tracing::warn!(%error, name, group = %v4, "cannot listen for announcements; searching only");
            }
        }
        match listen_v6(v4.port()) {
            Ok(socket) => self.listener_v6 = Some(self.read(socket)),
            // Systems without IPv6 are usual.
            Err(error) => tracing::debug!(%error, name, "no announcements by IPv6"),
        }
    }

    /// Opens and closes sockets as interfaces come and go. Whether something came.
    fn follow(&mut self, links: &Links) -> bool {
        let v4 = links.iter().flat_map(|(index, link)| {
            let addresses = link.v4.iter();
            addresses.map(|(address, _)| Via::V4(*index, *address))
        });
        let v6 = links
            .iter()
            .filter(|(_, link)| !link.v6.is_empty())
            .map(|(index, _)| Via::V6(*index));
        let wanted: BTreeSet<Via> = v4.chain(v6).collect();
        self.searchers.retain(|via, _| wanted.contains(via));
        let mut came = false;
        for via in &wanted {
            if self.searchers.contains_key(via) {
                continue;
            }
            match searcher(*via) {
                Ok(socket) => {
                    let reader = self.read(socket);
                    self.searchers.insert(*via, reader);
                    came = true;
                }
                Err(error) => {
                    tracing::debug!(%error, ?via, name = self.speech.name, "no search there");
                }
            }
        }
        // The kernel forgets memberships with their interface: leaving only tidies up.
        for gone in self.joined.difference(&wanted) {
            let _ = self.membership(*gone, Membership::Leave);
        }
        for new in wanted.difference(&self.joined) {
            if let Err(error) = self.membership(*new, Membership::Join) {
                tracing::debug!(%error, via = ?new, name = self.speech.name, "announcements are not heard there");
            }
        }
        self.joined = wanted;
        came
    }

    fn membership(&self, via: Via, change: Membership) -> io::Result<()> {
        match (via, &self.listener_v4, &self.listener_v6) {
            (Via::V4(_, address), Some(listener), _) => {
                let group = *self.speech.v4.ip();
                match change {
                    Membership::Join => listener.socket.join_multicast_v4(group, address),
                    Membership::Leave => listener.socket.leave_multicast_v4(group, address),
                }
            }
            (Via::V6(index), _, Some(listener)) => {
                self.speech.v6.iter().try_for_each(|group| match change {
                    Membership::Join => listener.socket.join_multicast_v6(group, index),
                    Membership::Leave => listener.socket.leave_multicast_v6(group, index),
                })
            }
            _ => Ok(()),
        }
    }

    async fn say(&self, questions: impl Fn(SocketAddr) -> Vec<String>) {
        for (via, reader) in &self.searchers {
            let groups: Vec<SocketAddr> = match via {
                Via::V4(..) => vec![self.speech.v4.into()],
                Via::V6(index) => {
                    let port = self.speech.v4.port();
                    let to = |group: &Ipv6Addr| SocketAddrV6::new(*group, port, 0, *index).into();
                    self.speech.v6.iter().map(to).collect()
                }
            };
            for group in groups {
                for question in questions(group) {
                    if let Err(error) = reader.socket.send_to(question.as_bytes(), group).await {
                        tracing::debug!(%error, ?via, name = self.speech.name, "not asked");
                    }
                }
            }
        }
    }

    fn read(&mut self, socket: UdpSocket) -> Reader {
        let socket = Arc::new(socket);
        let task = self.tasks.spawn(read_all(
            Arc::clone(&socket),
            self.speech,
            self.around.clone(),
            self.asks.clone(),
        ));
        Reader { socket, task }
    }
}

#[derive(Clone, Copy)]
enum Membership {
    Join,
    Leave,
}

async fn read_all(
    socket: Arc<UdpSocket>,
    speech: Speech,
    around: Surroundings,
    asks: mpsc::Sender<String>,
) {
    let mut buffer = vec![0; MAX_DATAGRAM + 1];
    let mut gate = Gate::new();
    let started = Instant::now();
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // ICMP errors of earlier sends come back here; the socket goes on. Never spin on a lasting one.
                tracing::debug!(%error, name = speech.name, "receive");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (bytes, speaker) = (&buffer[..length], Speaker::from(from));
        if length > MAX_DATAGRAM
            || (speech.is_question)(bytes)
            || !is_near(&around.links.borrow(), speaker)
        {
            continue;
        }
        let known = around.known.borrow().contains(&speaker.ip);
        let input = match gate.judge(speaker.ip, known, started.elapsed()) {
            Verdict::Heard => match (speech.read)(bytes, speaker) {
                Heard::Input(input) => input,
                Heard::Ask(question) => {
                    // As many as fit: who announces without saying where it is will do so again.
                    let _ = asks.try_send(question);
                    continue;
                }
                Heard::Nothing => continue,
            },
            Verdict::Told => Input::TooMuch { source: speaker.ip },
            Verdict::Dropped => continue,
        };
        // A full queue means a flood: what is lost is said again.
        if around.inputs.try_send(input).is_err() && around.inputs.is_closed() {
            return;
        }
    }
}

fn udp(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket that asks on one interface and gets the answers.
fn searcher(via: Via) -> io::Result<UdpSocket> {
    let socket = match via {
        Via::V4(_, address) => {
            let socket = udp(Domain::IPV4)?;
            socket.bind(&SocketAddr::from((address, 0)).into())?;
            socket.set_multicast_if_v4(&address)?;
            socket.set_multicast_ttl_v4(TTL)?;
            socket.set_multicast_loop_v4(true)?;
            socket
        }
        Via::V6(index) => {
            let socket = udp(Domain::IPV6)?;
            socket.set_only_v6(true)?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
            socket.set_multicast_if_v6(index)?;
            socket.set_multicast_hops_v6(TTL)?;
            socket.set_multicast_loop_v6(true)?;
            socket
        }
    };
    UdpSocket::from_std(socket.into())
}

/// The socket that hears announcements; shares its port with other programs on this machine.
fn listen_v4(group: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = udp(Domain::IPV4)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Only groups joined on this socket, not those of other programs.
    socket.set_multicast_all_v4(false)?;
    socket.bind(&SocketAddr::V4(group).into())?;
    UdpSocket::from_std(socket.into())
}

/// The same by IPv6.
fn listen_v6(port: u16) -> io::Result<UdpSocket> {
    let socket = udp(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_multicast_all_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
}
