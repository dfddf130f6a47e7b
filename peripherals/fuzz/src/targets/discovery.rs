//! What devices announce, and what the kernel tells of neighbours and cables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use mantel_peripherals::discovery::cable::{MAX_THINGS, Setting, Thing, Usb, interpret};
use mantel_peripherals::discovery::mdns::{self, MAX_SERVICE_ADDRESSES, SERVICE_TYPES};
use mantel_peripherals::discovery::wire::{Advert, MAX_MAX_AGE, MIN_MAX_AGE, parse};
use mantel_peripherals::discovery::ws_discovery::wire as ws;
use mantel_peripherals::neighbours::{MAX_NEIGHBOURS, parse_arp, parse_neighbours};
use mantel_peripherals::ptp::PtpAccess;
use mantel_peripherals::registry::Sighting;
use mantel_peripherals::storage::MAX_VOLUMES;
use mantel_peripherals::storage::wire::{is_name, parse_mounts};
use mantel_peripherals::url::Speaker;
use mantel_peripherals::{Access, DeviceClass};
use mdns_sd::ServiceInfo;

use super::{OWNER, check_label, check_url, lines, number};
use mantel_peripherals::device::{MAX_KEY_BYTES, MAX_LABEL_CHARS};

pub fn ssdp(data: &[u8]) {
    let near = Speaker {
        ip: IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 7]),
        scope: 3,
    };
    for speaker in [Speaker::from(OWNER), near] {
        match parse(data, speaker) {
            Ok(Advert::Alive {
                udn,
                location,
                max_age,
            }) => {
                assert!(udn.as_str().len() <= MAX_KEY_BYTES);
                assert!((MIN_MAX_AGE..=MAX_MAX_AGE).contains(&max_age));
                if let Ok(url) = location {
                    check_url(&url, speaker.ip);
                    assert_eq!(url.owner(), speaker);
                }
            }
            Ok(Advert::Bye { udn }) => assert!(udn.as_str().len() <= MAX_KEY_BYTES),
            Err(_) => {}
        }
    }
}

pub fn ws_discovery(data: &[u8]) {
    let _ = ws::is_question(data);
    match ws::parse(data) {
        Ok(ws::Message::Here(target, version)) => {
            assert!(target.endpoint.len() <= ws::MAX_ENDPOINT_BYTES);
            assert!(target.types.len() <= ws::MAX_LIST && target.addresses.len() <= ws::MAX_LIST);
            for url in target.urls(OWNER.into()).into_iter().flatten() {
                check_url(&url, OWNER);
            }
            let scopes = &target.scopes;
            for label in [
                &scopes.name,
                &scopes.hardware,
                &scopes.location,
                &scopes.maker,
                &scopes.serial,
            ] {
                label.iter().for_each(|l| check_label(l, MAX_LABEL_CHARS));
            }
            let _ = (target.uuid(), target.is_camera(), target.is_computer());
            let _ = target.is_media();
            let asked = ws::resolve(version, &target.endpoint, "uuid:1");
            assert!(ws::is_question(asked.as_bytes()));
            assert_eq!(ws::parse(asked.as_bytes()), Err(ws::NotForUs::Other));
        }
        Ok(ws::Message::Bye(endpoint)) => assert!(endpoint.len() <= ws::MAX_ENDPOINT_BYTES),
        Err(_) => {}
    }
}

/// First byte: the service type. Then lines: instance, host, addresses, port, and the TXT record.
pub fn mdns(mut data: &[u8]) {
    let [which] = number(&mut data);
    let (service, class) = SERVICE_TYPES[usize::from(which) % SERVICE_TYPES.len()];
    let text = String::from_utf8_lossy(data);
    let [instance, addresses, port, record] = lines(&text);
    let pairs: Vec<(&str, &str)> = record
        .lines()
        .take(64)
        .filter_map(|line| line.split_once('='))
        .collect();
    let told: Vec<IpAddr> = addresses
        .split(' ')
        .take(40)
        .filter_map(|text| text.parse().ok())
        .collect();
    let found = ServiceInfo::new(
        &format!("{service}.local."),
        instance,
        "host.local.",
        &told[..],
        port.parse().unwrap_or(80),
        &pairs[..],
    );
    let Ok(found) = found else { return };
    if let Some(seen) = mdns::sighting(&found.as_resolved_service(), service, class) {
        check_sighting(&seen);
        assert!(seen.addresses.len() <= MAX_SERVICE_ADDRESSES);
        check_label(&seen.name, MAX_LABEL_CHARS);
        match &seen.access {
            Access::Mpd(access) => check_reach(access.address, &seen.addresses),
            Access::Cast(access) => check_reach(access.address, &seen.addresses),
            Access::Ptp(PtpAccess::Ip(access)) => check_reach(access.address, &seen.addresses),
            Access::Rtsp(access) => {
                let at = SocketAddr::new(access.url.host(), access.url.port());
                check_reach(at, &seen.addresses);
            }
            _ => {}
        }
    }
}

/// An address that is going to be connected to: one that was announced, and never this machine.
fn check_reach(at: SocketAddr, announced: &BTreeSet<IpAddr>) {
    assert!(announced.contains(&at.ip()));
    let ip = at.ip().to_canonical();
    assert!(
        !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
        "{ip}"
    );
}

fn check_sighting(seen: &Sighting) {
    assert!(seen.key.as_str().len() <= MAX_KEY_BYTES);
    for label in [&seen.maker, &seen.model, &seen.serial] {
        label.iter().for_each(|l| check_label(l, MAX_LABEL_CHARS));
    }
}

pub fn neighbours(data: &[u8]) {
    for (_, mac) in parse_arp(&String::from_utf8_lossy(data)) {
        assert_ne!(mac.0, [0; 6]);
    }
    let mut found = Vec::new();
    for _ in 0..2 {
        let _ = parse_neighbours(data, &mut found);
    }
    assert!(found.len() <= MAX_NEIGHBOURS);
    for (ip, mac) in found {
        assert!(!ip.is_multicast() && !ip.is_loopback() && mac.0 != [0; 6]);
    }
}

/// Lines: `subsystem name kind path` begins a thing; `node`, `number`, `usb`, `P name value` and `A name value` add to it;
/// `M …` is a line of the table of mounts.
pub fn cables(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut things: Vec<Thing> = Vec::new();
    let mut table = String::new();
    for line in text.lines().take(400) {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let room = things.len() < MAX_THINGS;
        match (words.as_slice(), things.last_mut()) {
            (["M", _, ..], _) => {
                table.push_str(&line[2..]);
                table.push('\n');
            }
            (["node", node, ..], Some(thing)) => thing.node = Some(node.into()),
            (["number", number, ..], Some(thing)) => thing.number = Some((*number).to_owned()),
            (["usb", vendor, product, more], Some(thing)) => {
                thing.usb = Some(usb(vendor, product, more))
            }
            (["P", name, value @ ..], Some(thing)) => keep(&mut thing.properties, name, value),
            (["A", name, value @ ..], Some(thing)) => keep(&mut thing.attributes, name, value),
            ([subsystem, name, kind, path], _) if room => things.push(Thing {
                subsystem: (*subsystem).to_owned(),
                name: (*name).to_owned(),
                kind: (*kind).to_owned(),
                path: (*path).to_owned(),
                removable: path.len() % 2 == 0,
                ..Thing::default()
            }),
            _ => {}
        }
    }
    let mounts = parse_mounts(&table);
    let media_root = Path::new("/run/mantel/media");
    let setting = Setting {
        media_root,
        mounts: &mounts,
        disc_images: &[],
        class_of: &|volume| {
            assert!(is_name(&volume.id));
            assert_eq!(volume.point.parent(), Some(media_root));
            Some(DeviceClass::MemoryCard)
        },
    };
    for seen in interpret(&things, &setting) {
        check_sighting(&seen);
        if let Access::Storage(access) = &seen.access {
            assert!(access.volumes.len() <= MAX_VOLUMES);
        }
    }
}

fn usb(vendor: &str, product: &str, more: &str) -> Usb {
    let mut more = more.split('|').map(str::to_owned);
    Usb {
        port: more.next().unwrap_or_default(),
        vendor: vendor.to_owned(),
        product: product.to_owned(),
        serial: more.next(),
        maker: more.next(),
        model: more.next(),
    }
}

fn keep(into: &mut BTreeMap<String, String>, name: &str, value: &[&str]) {
    into.insert(name.to_owned(), value.join(" "));
}
