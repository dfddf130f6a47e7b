//! Hardware addresses from the kernel's neighbour table (F5: a device is known by its MAC address too).

use std::net::{IpAddr, Ipv4Addr};

use crate::device::MacAddress;

/// Where Linux shows its IPv4 neighbour table.
pub const ARP_TABLE: &str = "/proc/net/arp";

/// Most lines read: far beyond a home, short of a flooded table.
pub const MAX_NEIGHBOURS: usize = 4096;

/// Set in the flags column when the entry holds a resolved address (`ATF_COM`, linux/if_arp.h).
const COMPLETE: u32 = 0x02;

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

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            let _ = parse_arp(&text);
        }
    }
}
