//! This machine's network interfaces, followed as they come, go and change their addresses: told by the kernel
//! (rtnetlink(7), `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`), and looked at now and then all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::UnixDatagram;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Loopback;
use crate::registry::Input;
use crate::url::Speaker;

/// How often interfaces are looked at, whatever the kernel told.
pub const INTERFACE_POLL: Duration = Duration::from_secs(5);
/// Most interfaces used.
pub const MAX_INTERFACES: usize = 32;
/// Most addresses used of one interface and family.
pub const MAX_ADDRESSES: usize = 16;
/// An interface changes in several steps; they are awaited.
const SETTLE: Duration = Duration::from_millis(100);
/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Which interfaces are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Only the one of this name.
    pub name: Option<String>,
    pub loopback: Loopback,
}

/// One interface with its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub name: String,
    pub v4: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    pub v6: BTreeSet<(Ipv6Addr, Ipv6Addr)>,
}

impl Link {
    /// Whether `ip` is on one of its networks: a neighbour, not somebody behind a router.
    pub(crate) fn holds(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self
                .v4
                .iter()
                .any(|(own, mask)| ip.to_bits() & mask.to_bits() == own.to_bits() & mask.to_bits()),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => !self.v6.is_empty(),
            IpAddr::V6(ip) => self
                .v6
                .iter()
                .any(|(own, mask)| ip.to_bits() & mask.to_bits() == own.to_bits() & mask.to_bits()),
        }
    }
}

/// Interfaces by index.
pub(crate) type Links = BTreeMap<u32, Link>;

/// Whether `speaker` is a neighbour on one of `links`.
pub(crate) fn is_near(links: &Links, speaker: Speaker) -> bool {
    if speaker.scope == 0 {
        let local = matches!(speaker.ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        return !local && links.values().any(|link| link.holds(speaker.ip));
    }
    links
        .get(&speaker.scope)
        .is_some_and(|link| link.holds(speaker.ip))
}

/// Keeps `links` true until cancelled, and tells the registry this machine's own addresses.
pub(crate) async fn run(
    wanted: Wanted,
    links: watch::Sender<Arc<Links>>,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
) {
    let changes = match changes() {
        Ok(changes) => Some(changes),
        Err(error) => {
            tracing::debug!(%error, "the kernel tells no changes of interfaces; they are polled");
            None
        }
    };
    let mut poll = interval(INTERFACE_POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut own = BTreeSet::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = poll.tick() => {}
            () = change(changes.as_ref()) => {
                sleep(SETTLE).await;
                if let Some(changes) = &changes {
                    drain(changes);
                }
            }
        }
        let all = match if_addrs::get_if_addrs() {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "interfaces cannot be listed; those known are kept");
                continue;
            }
        };
        let now: BTreeSet<IpAddr> = all.iter().map(if_addrs::Interface::ip).collect();
        if now != own {
            own.clone_from(&now);
            if inputs.send(Input::OwnAddresses(now)).await.is_err() {
                return;
            }
        }
        let found = Arc::new(select(all, &wanted));
        links.send_if_modified(|links| {
            let changed = *links != found;
            if changed {
                *links = found;
            }
            changed
        });
    }
}

fn select(all: Vec<if_addrs::Interface>, wanted: &Wanted) -> Links {
    let mut links = Links::new();
    for found in all {
        let named = wanted.name.as_ref().is_none_or(|name| *name == found.name);
        let usable = if found.is_loopback() {
            wanted.loopback == Loopback::Searched
        } else {
            found.is_oper_up() && named
        };
        let Some(index) = found.index.filter(|_| usable) else {
            continue;
        };
        if !links.contains_key(&index) && links.len() >= MAX_INTERFACES {
            continue;
        }
        let link = links.entry(index).or_default();
        link.name = found.name;
        match found.addr {
            if_addrs::IfAddr::V4(v4) if link.v4.len() < MAX_ADDRESSES => {
                link.v4.insert((v4.ip, v4.netmask));
            }
            if_addrs::IfAddr::V6(v6) if link.v6.len() < MAX_ADDRESSES => {
                link.v6.insert((v6.ip, v6.netmask));
            }
            if_addrs::IfAddr::V4(_) | if_addrs::IfAddr::V6(_) => {}
        }
    }
    links
}

/// A socket that the kernel writes to. tokio knows no netlink sockets; as a datagram socket without an address of its own
/// it is awaited and read like any other.
fn changes() -> io::Result<UnixDatagram> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        // NETLINK_ROUTE
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    UnixDatagram::from_std(socket.into())
}

/// Waits for a change; for ever where the kernel tells none. What exactly changed does not matter: all is looked at anew.
async fn change(changes: Option<&UnixDatagram>) {
    let Some(changes) = changes else {
        return std::future::pending().await;
    };
    let mut buffer = [0_u8; 8192];
    if let Err(error) = changes.recv(&mut buffer).await {
        // More changes than the kernel keeps: that is one, too. Never spin on a lasting error.
        tracing::debug!(%error, "changes of interfaces");
        sleep(INTERFACE_POLL).await;
    }
}

/// Drops what was told meanwhile.
fn drain(changes: &UnixDatagram) {
    let mut buffer = [0_u8; 8192];
    while changes.try_recv(&mut buffer).is_ok_and(|length| length > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_neighbours_on_the_same_network_are_near() {
        let link = Link {
            name: "eth0".to_owned(),
            v4: [([10, 78, 0, 1].into(), [255, 255, 255, 0].into())].into(),
            v6: [
                (
                    "fe80::1".parse().expect("valid"),
                    "ffff:ffff:ffff:ffff::".parse().expect("valid"),
                ),
                (
                    "fd00:78::1".parse().expect("valid"),
                    "ffff:ffff:ffff:ffff::".parse().expect("valid"),
                ),
            ]
            .into(),
        };
        let links = Links::from([(3, link)]);
        for (source, scope, near) in [
            ("10.78.0.10", 0, true),
            ("10.78.1.10", 0, false),
            ("127.0.0.1", 0, false),
            ("8.8.8.8", 0, false),
            ("::ffff:10.78.0.10", 0, false),
            ("fe80::7", 3, true),
            ("fe80::7", 4, false),
            ("fe80::7", 0, false),
            ("fd00:78::7", 0, true),
            ("2001:db8::7", 0, false),
            ("::1", 0, false),
        ] {
            let speaker = Speaker {
                ip: ip(source),
                scope,
            };
            assert_eq!(is_near(&links, speaker), near, "{source}%{scope}");
        }
    }

    #[test]
    fn interfaces_are_used_as_wanted() {
        let links = |loopback, name: Option<&str>| {
            let wanted = Wanted {
                name: name.map(str::to_owned),
                loopback,
            };
            select(if_addrs::get_if_addrs().expect("interfaces"), &wanted)
        };
        let has_loopback = |links: &Links| {
            let mut addresses = links.values().flat_map(|link| &link.v4);
            addresses.any(|(address, _)| address.is_loopback())
        };
        assert!(!has_loopback(&links(Loopback::Ignored, None)));
        assert!(has_loopback(&links(Loopback::Searched, None)));
        assert!(links(Loopback::Ignored, Some("no-such")).is_empty());
    }
}
