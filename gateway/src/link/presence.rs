//! Where this gateway is, and by what names people know the box (F5): addresses, MAC addresses, serial number.

use mantel_protocol::api::MAX_ADDRESSES;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The longest serial number or MAC address read from the system, bytes.
const MAX_SYSTEM_TEXT: usize = 128;

/// Where a listener on `listen` may be reached from other homes: its own address, or, where it listens on all, every
/// address of every interface (or of the one named) that is of use to others.
pub fn addresses(interface: Option<&str>, listen: SocketAddr) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let found = match if_addrs::get_if_addrs() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "the network interfaces cannot be listed");
            return Vec::new();
        }
    };
    let mut addresses: Vec<SocketAddr> = found
        .iter()
        .filter(|found| interface.is_none_or(|wanted| found.name == wanted))
        .map(if_addrs::Interface::ip)
        .filter(|ip| of_use(*ip) && (listen.is_ipv6() || ip.is_ipv4()))
        .map(|ip| SocketAddr::new(ip, listen.port()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

fn of_use(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        // fe80::/10 means nothing without an interface.
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

/// The MAC addresses of this box's interfaces, `aa:bb:cc:dd:ee:ff`, sorted.
pub fn macs() -> Vec<String> {
    let Ok(folder) = std::fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let mut macs: Vec<String> = folder
        .filter_map(Result::ok)
        .filter_map(|entry| short_text(&entry.path().join("address")))
        .filter(|mac| mac.len() == 17 && mac != "00:00:00:00:00:00")
        .map(|mac| mac.to_ascii_lowercase())
        .collect();
    macs.sort_unstable();
    macs.dedup();
    macs.truncate(MAX_ADDRESSES);
    macs
}

/// The box's electronic serial number, or, where it has none, a name derived from the system's machine ID.
pub fn serial() -> Option<String> {
    let said = ["product_serial", "board_serial"]
        .iter()
        .filter_map(|name| short_text(&Path::new("/sys/class/dmi/id").join(name)))
        .chain(short_text(Path::new(
            "/sys/firmware/devicetree/base/serial-number",
        )))
        .find(|text| text.len() >= 4 && !text.contains(' ') && !text.eq_ignore_ascii_case("none"));
    said.or_else(|| {
        let id = short_text(Path::new("/etc/machine-id"))?;
        // machine-id(5): never shown as it is; a keyed hash of it may be.
        let hash = blake3::derive_key("mantel 2026 electronic serial number", id.as_bytes());
        Some(format!(
            "mid-{}",
            data_encoding::HEXLOWER.encode(&hash[..8])
        ))
    })
}

fn short_text(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(MAX_SYSTEM_TEXT as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' '))
        .then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_one_address_reports_that_one() {
        let listen: SocketAddr = "127.0.0.5:8445".parse().expect("an address");
        assert_eq!(addresses(None, listen), [listen]);
        let all: SocketAddr = "0.0.0.0:8445".parse().expect("an address");
        assert!(
            addresses(None, all)
                .iter()
                .all(|a| a.port() == 8445 && !a.ip().is_loopback())
        );
        assert!(addresses(Some("no-such-interface"), all).is_empty());
    }
}
