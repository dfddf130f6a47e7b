//! SSDP (UPnP Device Architecture 2.0 §1 and Annex A): searches by multicast on every usable interface, IPv4 and IPv6,
//! and listens for announcements.
//!
//! Why this is our own: `ssdp-client` and `rupnp` on top of it only search, on one interface, and hide the datagram's
//! source, without which a LOCATION cannot be judged; `ssdp` (hyper 0.10) and `upnp-rs` are no longer maintained.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use super::multicast::{Heard, Speech};
use super::wire::{self, Advert};
use crate::registry::Input;
use crate::url::{Speaker, UrlRefused};

/// The group and port of SSDP.
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// Its IPv6 groups: on the link, and on the site (Annex A.3).
pub const GROUPS_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc),
    Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0xc),
];
/// What is searched: all root devices, and by type for devices that answer only to their type.
const TARGETS: [&str; 3] = [
    "upnp:rootdevice",
    "urn:schemas-upnp-org:device:MediaServer:1",
    "urn:schemas-upnp-org:device:MediaRenderer:1",
];
/// Seconds within which devices shall answer: the shortest, so that a device is on the page soon.
const MX: u8 = 1;

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

pub(crate) fn speech(config: SsdpConfig) -> Speech {
    Speech {
        name: "SSDP",
        v4: config.group,
        v6: &GROUPS_V6,
        questions,
        is_question: |bytes| bytes.starts_with(b"M-SEARCH "),
        read,
    }
}

fn questions(group: SocketAddr) -> Vec<String> {
    // Without the scope that Rust shows: it means nothing to the device.
    let group = SocketAddr::new(group.ip(), group.port());
    TARGETS
        .iter()
        .map(|target| wire::search(group, target, MX))
        .collect()
}

fn read(bytes: &[u8], speaker: Speaker) -> Heard {
    match wire::parse(bytes, speaker) {
        // What speaks both families says by IPv6, too, where it is in IPv4; it says that by IPv4 as well.
        Ok(Advert::Alive {
            location: Err(UrlRefused::OtherHost(IpAddr::V4(_))),
            ..
        }) if speaker.ip.is_ipv6() => Heard::Nothing,
        Ok(advert) => Heard::Input(Input::Advert {
            advert,
            source: speaker.ip,
        }),
        Err(error) => {
            tracing::trace!(?speaker, %error, "datagram dropped");
            Heard::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(location: &str) -> String {
        format!(
            "NOTIFY * HTTP/1.1\r\nHost: [FF02::C]:1900\r\nNTS: ssdp:alive\r\nNT: upnp:rootdevice\r\n\
             USN: uuid:1::upnp:rootdevice\r\nLOCATION: {location}\r\n\r\n"
        )
    }

    #[test]
    fn a_link_local_location_keeps_the_interface() {
        let from: SocketAddr = "[fe80::7%3]:1900".parse().expect("an address");
        let heard = read(alive("http://[fe80::7]:80/d").as_bytes(), from.into());
        let Heard::Input(Input::Advert {
            advert: Advert::Alive {
                location: Ok(url), ..
            },
            ..
        }) = heard
        else {
            panic!("{heard:?}");
        };
        assert_eq!(url.owner().scope, 3);
        let heard = read(alive("http://10.0.0.7:80/d").as_bytes(), from.into());
        assert!(matches!(heard, Heard::Nothing), "{heard:?}");
        let heard = read(alive("http://[fe80::8]:80/d").as_bytes(), from.into());
        assert!(matches!(heard, Heard::Input(_)), "shown as misplaced");
    }

    #[test]
    fn questions_name_the_group_without_our_interface() {
        let group: SocketAddr = "[ff02::c%3]:1900".parse().expect("an address");
        assert!(questions(group)[0].contains("HOST: [ff02::c]:1900\r\n"));
    }
}
