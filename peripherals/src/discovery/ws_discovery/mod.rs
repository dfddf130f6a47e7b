//! WS-Discovery (OASIS WS-DD 1.1, and the draft of April 2005 that ONVIF uses: ONVIF Core Specification §7.3):
//! asks for network cameras and for everything else, and listens for Hello and Bye (F2, F5).
//!
//! - `wire`: envelopes to types and back; pure.
//!
//! Who answers is judged by the address that it speaks from: service addresses anywhere else are refused.

pub mod wire;

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use super::multicast::{Heard, Speech};
use crate::device::{Access, DeviceClass, DeviceKey};
use crate::onvif::OnvifAccess;
use crate::registry::{Input, Sighting};
use crate::url::{Speaker, UrlRefused};
use wire::{Message, Target, Version};

/// The group and port of WS-Discovery (§2.4).
pub const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 3702);
/// Its IPv6 group.
pub const GROUPS_V6: [Ipv6Addr; 1] = [Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc)];

pub(crate) fn speech() -> Speech {
    Speech {
        name: "WS-Discovery",
        v4: GROUP,
        v6: &GROUPS_V6,
        questions,
        is_question: wire::is_question,
        read: |bytes, speaker| match wire::parse(bytes) {
            Ok(message) => interpret(message, speaker),
            Err(error) => {
                tracing::trace!(?speaker, %error, "datagram dropped");
                Heard::Nothing
            }
        },
    }
}

/// Cameras by the draft that they speak, then anything by either version.
fn questions(_: SocketAddr) -> Vec<String> {
    [
        (Version::Draft2005, Some(wire::CAMERA)),
        (Version::Draft2005, None),
        (Version::Oasis11, None),
    ]
    .into_iter()
    .map(|(version, kind)| wire::probe(version, kind, &message_id()))
    .collect()
}

/// A name for a message that nobody used before: 122 random bits from the hasher's own keys.
fn message_id() -> String {
    let random = |n: u8| RandomState::new().hash_one(n);
    let bits = u128::from(random(0)) << 64 | u128::from(random(1));
    let hex = format!("{bits:032x}");
    format!(
        "urn:uuid:{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

fn interpret(message: Message, speaker: Speaker) -> Heard {
    match message {
        Message::Here(target, version) => {
            if target.addresses.is_empty() && target.is_media() {
                // §4.1: a Hello need not say where; a Resolve asks.
                return Heard::Ask(wire::resolve(version, &target.endpoint, &message_id()));
            }
            sighting(target, speaker).map_or(Heard::Nothing, Heard::Input)
        }
        Message::Bye(endpoint) => Heard::Input(Input::Lost {
            origin: origin(&endpoint, speaker.ip),
        }),
    }
}

/// A goodbye counts only from the device's own address.
fn origin(endpoint: &str, source: IpAddr) -> String {
    format!("ws-discovery {endpoint} {source}")
}

fn sighting(target: Target, speaker: Speaker) -> Option<Input> {
    let camera = target.is_camera();
    let class = if camera {
        DeviceClass::Camera
    } else if target.is_computer() {
        DeviceClass::Computer
    } else if target.is_media() {
        DeviceClass::Other
    } else {
        // Printers, scanners: no part of what a household plays.
        return None;
    };
    let onvif = class != DeviceClass::Computer;
    let prefix = if onvif { "onvif" } else { "wsd" };
    let key = DeviceKey::new(&format!("{prefix}:{}", target.uuid()))?;
    let urls = target.urls(speaker);
    let service = urls.iter().find_map(|url| url.as_ref().ok()).cloned();
    let refused = urls.iter().find_map(|url| url.as_ref().err()).cloned();
    let v4_only = matches!(refused, Some(UrlRefused::OtherHost(IpAddr::V4(_))));
    if service.is_none() && speaker.ip.is_ipv6() && v4_only {
        // It says by IPv6 where it is in IPv4; it answers there as well.
        return None;
    }
    let scopes = target.scopes;
    let mut sighting = Sighting {
        key,
        origin: origin(&target.endpoint, speaker.ip),
        name: scopes
            .name
            .or(scopes.location)
            .or_else(|| scopes.hardware.clone())
            .unwrap_or_else(|| format!("{} at {}", class.label(), speaker.ip)),
        class,
        maker: scopes.maker,
        model: scopes.hardware,
        serial: scopes.serial,
        mac: scopes.mac,
        addresses: BTreeSet::from([speaker.ip]),
        access: Access::None,
    };
    match (service, refused) {
        (Some(service), _) if onvif => {
            sighting.access = Access::Onvif(OnvifAccess { service });
        }
        (None, Some(why)) if onvif => {
            return Some(Input::Unusable {
                problem: format!(
                    "\"{}\" at {} announces a service that is not asked: {why}. Give it a fixed \
                     address on this network, or restart it.",
                    sighting.name, speaker.ip
                ),
                sighting: Box::new(sighting),
            });
        }
        _ => {}
    }
    Some(Input::Seen(Box::new(sighting)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn hello(address: &str) -> Vec<u8> {
        let text =
            String::from_utf8_lossy(include_bytes!("../../../testdata/onvif-probe-match.xml"))
                .into_owned();
        if address.is_empty() {
            let (head, rest) = text.split_once("<d:XAddrs>").expect("has addresses");
            let (_, tail) = rest.split_once("</d:XAddrs>").expect("has addresses");
            return format!("{head}{tail}").into_bytes();
        }
        text.replace("http://10.78.0.40:8080", address).into_bytes()
    }

    fn heard(bytes: &[u8], from: &str) -> Heard {
        let from: SocketAddr = from.parse().expect("an address");
        (speech().read)(bytes, from.into())
    }

    #[test]
    fn a_camera_is_seen_at_its_own_address_only() {
        let own = heard(&hello("http://10.78.0.40:8080"), "10.78.0.40:3702");
        let Heard::Input(Input::Seen(sighting)) = own else {
            panic!("{own:?}");
        };
        assert_eq!(sighting.class, DeviceClass::Camera);
        assert_eq!(sighting.name, "Front door");
        assert_eq!(sighting.mac, "00:11:22:33:44:55".parse().ok());
        let Access::Onvif(access) = &sighting.access else {
            panic!("{sighting:?}");
        };
        assert_eq!(access.service.host(), IpAddr::from([10, 78, 0, 40]));
        let elsewhere = heard(&hello("http://10.78.0.1:80"), "10.78.0.40:3702");
        let Heard::Input(Input::Unusable { sighting, problem }) = elsewhere else {
            panic!("{elsewhere:?}");
        };
        assert_eq!(sighting.access, Access::None);
        assert!(problem.contains("another device (10.78.0.1)"), "{problem}");
        let v6 = heard(&hello("http://10.78.0.40:8080"), "[fe80::7%2]:3702");
        assert!(matches!(v6, Heard::Nothing), "{v6:?}");
        let link_local = heard(&hello("http://[fe80::7]:8080"), "[fe80::7%2]:3702");
        assert!(
            matches!(link_local, Heard::Input(Input::Seen(_))),
            "{link_local:?}"
        );
    }

    #[test]
    fn a_hello_without_an_address_is_asked() {
        let silent = heard(&hello(""), "10.78.0.40:3702");
        let Heard::Ask(question) = silent else {
            panic!("{silent:?}");
        };
        assert!(question.contains("Resolve") && wire::is_question(question.as_bytes()));
    }

    #[test]
    fn messages_have_names_of_their_own() {
        let names: HashSet<String> = (0..100).map(|_| message_id()).collect();
        assert_eq!(names.len(), 100);
        assert!(names.iter().all(|name| name.len() == 9 + 36));
    }
}
