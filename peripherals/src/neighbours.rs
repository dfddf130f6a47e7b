//! Hardware addresses from the kernel's neighbour tables (F5: a device is known by its MAC address too): IPv4's ARP
//! and IPv6's neighbour discovery, by rtnetlink (rtnetlink(7), `RTM_GETNEIGH`); where that is refused,
//! `/proc/net/arp`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

use crate::device::MacAddress;

/// Where Linux shows its IPv4 neighbour table.
pub const ARP_TABLE: &str = "/proc/net/arp";

/// Most entries read: far beyond a home, short of a flooded table.
pub const MAX_NEIGHBOURS: usize = 4096;

/// Set in the flags column when the entry holds a resolved address (`ATF_COM`, linux/if_arp.h).
const COMPLETE: u32 = 0x02;

/// The kernel answers at once; so long at most is waited.
const KERNEL_TIME: Duration = Duration::from_secs(1);
/// One answer holds at most so many bytes: the kernel fills pages.
const ANSWER_BYTES: usize = 32 * 1024;
/// Most answers to one question.
const MAX_ANSWERS: usize = 256;

/// `nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;
/// `ndmsg` (linux/neighbour.h).
const NEIGHBOUR: usize = 12;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
/// `NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT`: the hardware address is known.
const KNOWN: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

/// Both tables as they are now; empty where the system tells neither.
pub fn table() -> Vec<(IpAddr, MacAddress)> {
    ask_kernel().unwrap_or_else(|error| {
        tracing::debug!(%error, "no rtnetlink; IPv4 neighbours only");
        std::fs::read(ARP_TABLE)
            .map(|text| parse_arp(&String::from_utf8_lossy(&text)))
            .unwrap_or_default()
    })
}

fn ask_kernel() -> io::Result<Vec<(IpAddr, MacAddress)>> {
    let socket = rustix::net::socket(
        AddressFamily::NETLINK,
        SocketType::RAW,
        // NETLINK_ROUTE
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(KERNEL_TIME))?;
    rustix::net::send(&socket, &question(), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut answer = vec![0_u8; ANSWER_BYTES];
    for _ in 0..MAX_ANSWERS {
        let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        if length == 0 || parse_neighbours(&answer[..length], &mut found) == Dump::Ended {
            break;
        }
    }
    Ok(found)
}

/// All entries of all families.
fn question() -> [u8; HEADER + NEIGHBOUR] {
    let mut bytes = [0; HEADER + NEIGHBOUR];
    let length = u32::try_from(bytes.len()).expect("28");
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_GETNEIGH.to_ne_bytes());
    bytes[6..8].copy_from_slice(&DUMP.to_ne_bytes());
    bytes
}

/// Whether more of the table follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// Another datagram follows.
    GoesOn,
    /// This was the last one, or an error.
    Ended,
}

/// Reads one datagram of the kernel's answer into `found`, of which at most [`MAX_NEIGHBOURS`] are kept.
pub fn parse_neighbours(mut bytes: &[u8], found: &mut Vec<(IpAddr, MacAddress)>) -> Dump {
    while let Some(length) = number_32(bytes, 0) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(HEADER..length) else {
            return Dump::Ended;
        };
        match number_16(bytes, 4) {
            Some(NLMSG_DONE | NLMSG_ERROR) | None => return Dump::Ended,
            Some(RTM_NEWNEIGH) if found.len() < MAX_NEIGHBOURS => found.extend(entry(message)),
            Some(_) => {}
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Dump::GoesOn
}

fn entry(message: &[u8]) -> Option<(IpAddr, MacAddress)> {
    let state = number_16(message, 8)?;
    let (mut ip, mut mac) = (None, None);
    let mut rest = message.get(NEIGHBOUR..)?;
    while let (Some(length), Some(kind)) = (number_16(rest, 0), number_16(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        match kind {
            NDA_DST => ip = address(value),
            NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok().map(MacAddress),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    let mac = mac.filter(|mac| mac.0 != [0; 6])?;
    (state & KNOWN != 0).then_some((ip?, mac))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(|v4| IpAddr::V4(Ipv4Addr::from(v4)));
    let v6 = <[u8; 16]>::try_from(value).map(|v6| IpAddr::V6(Ipv6Addr::from(v6)));
    v4.or(v6)
        .ok()
        .filter(|ip| !ip.is_multicast() && !ip.is_loopback())
}

fn number_32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(four.try_into().expect("four bytes")))
}

fn number_16(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(two.try_into().expect("two bytes")))
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// Reads the text of `/proc/net/arp`: resolved entries only, others and broken lines are left out.
pub fn parse_arp(text: &str) -> Vec<(IpAddr, MacAddress)> {
    text.lines()
        .skip(1)
        .take(MAX_NEIGHBOURS)
        .filter_map(parse_line)
        .collect()
}

/// `10.0.0.7  0x1  0x2  02:00:00:00:00:07  *  eth0`
fn parse_line(line: &str) -> Option<(IpAddr, MacAddress)> {
    let mut columns = line.split_ascii_whitespace();
    let ip: Ipv4Addr = columns.next()?.parse().ok()?;
    let flags = u32::from_str_radix(columns.nth(1)?.strip_prefix("0x")?, 16).ok()?;
    let mac: MacAddress = columns.next()?.parse().ok()?;
    (flags & COMPLETE != 0 && mac.0 != [0; 6]).then_some((IpAddr::V4(ip), mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
10.78.0.10       0x1         0x2         02:78:00:00:00:0a     *        eth0
10.78.0.99       0x1         0x0         00:00:00:00:00:00     *        eth0
10.78.0.20       0x1         0x6         02:78:00:00:00:14     *        eth0
broken line
";

    #[test]
    fn resolved_entries_are_read_and_the_rest_left_out() {
        let expected: Vec<(IpAddr, MacAddress)> = [
            ("10.78.0.10", "02:78:00:00:00:0a"),
            ("10.78.0.20", "02:78:00:00:00:14"),
        ]
        .map(|(ip, mac)| (ip.parse().expect("valid"), mac.parse().expect("valid")))
        .to_vec();
        assert_eq!(parse_arp(TABLE), expected);
        assert!(parse_arp("").is_empty());
    }

    /// One `RTM_NEWNEIGH` message.
    fn message(state: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0_u8; NEIGHBOUR];
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len()).expect("short");
            body.extend(length.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(aligned(body.len()), 0);
        }
        let mut bytes = Vec::new();
        let length = u32::try_from(HEADER + body.len()).expect("short");
        bytes.extend(length.to_ne_bytes());
        bytes.extend(RTM_NEWNEIGH.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn both_families_are_read_from_the_kernels_answer() {
        let mac = [2, 0x78, 0, 0, 0, 0x0a];
        let v6: Ipv6Addr = "fe80::78:ff:fe00:a".parse().expect("valid");
        let mut bytes = message(0x02, &[(NDA_DST, &[10, 78, 0, 10]), (NDA_LLADDR, &mac)]);
        bytes.extend(message(
            0x04,
            &[(NDA_DST, &v6.octets()), (NDA_LLADDR, &mac)],
        ));
        bytes.extend(message(0x20, &[(NDA_DST, &[10, 78, 0, 99])]));
        let mut found = Vec::new();
        assert_eq!(parse_neighbours(&bytes, &mut found), Dump::GoesOn);
        assert_eq!(
            found,
            [
                (IpAddr::V4([10, 78, 0, 10].into()), MacAddress(mac)),
                (IpAddr::V6(v6), MacAddress(mac))
            ]
        );
    }

    #[test]
    fn the_kernel_answers() {
        // A sandbox may refuse the socket; then the table is empty and the fallback is used.
        if let Ok(found) = ask_kernel() {
            assert!(found.len() <= MAX_NEIGHBOURS);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = parse_arp(&text);
        }

        #[test]
        fn arbitrary_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse_neighbours(&bytes, &mut Vec::new());
        }
    }
}
