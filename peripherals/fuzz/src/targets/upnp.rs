//! UPnP, and the XML and URLs below it.

use std::time::Duration;

use mantel_peripherals::capture::{Redactor, Titles, replay};
use mantel_peripherals::changes::{MAX_CONTAINERS, MediaChange};
use mantel_peripherals::device::{MAX_KEY_BYTES, MAX_LABEL_CHARS};
use mantel_peripherals::media::{
    Entry, Location, MAX_OBJECT_ID_BYTES, MAX_PAGE, MediaKind, PlayRequest,
};
use mantel_peripherals::upnp::didl::{self, MAX_RESOURCES, MAX_TITLE_CHARS};
use mantel_peripherals::upnp::gena::wire as gena_wire;
use mantel_peripherals::upnp::wire as upnp;
use mantel_peripherals::url::DeviceUrl;
use mantel_peripherals::xml as limits;

use super::{OWNER, check_label, check_url, lines, location};

pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for url in [DeviceUrl::parse(&text, OWNER), location().join(&text)]
        .into_iter()
        .flatten()
    {
        check_url(&url, OWNER);
        if let Ok(below) = url.join("below?x=y") {
            check_url(&below, OWNER);
        }
    }
}

pub fn xml(data: &[u8]) {
    let text = limits::decode(data);
    if let Ok(document) = limits::parse(&text) {
        let root = document.root_element();
        assert!(document.descendants().count() <= limits::MAX_NODES as usize);
        for node in root.descendants() {
            assert!(node.attributes().count() <= limits::MAX_ATTRIBUTES);
            assert!(node.ancestors().count() <= limits::MAX_DEPTH + 2);
        }
    }
    // A carriage return is a line feed to whoever reads XML.
    let plain: String = text
        .chars()
        .filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        .collect();
    let wrapped = format!(
        "<a b=\"{0}\">{0}</a>",
        limits::escape(&text).replace('\r', "\n")
    );
    let document = limits::parse(&wrapped).expect("escaped text is well-formed");
    let told = document.root_element().text().unwrap_or_default();
    let told: String = told.chars().filter(|c| !c.is_control()).collect();
    assert_eq!(told, plain);
}

pub fn description(data: &[u8]) {
    upnp::parse_any(data, &location());
    let Ok(found) = upnp::parse_description(data, &location()) else {
        return;
    };
    assert!(found.services.len() <= upnp::MAX_SERVICES);
    assert!(found.embedded.len() <= upnp::MAX_EMBEDDED);
    assert!(found.device_types.len() <= upnp::MAX_EMBEDDED + 1);
    assert!(found.udn.as_str().len() <= MAX_KEY_BYTES);
    for label in [&found.maker, &found.serial] {
        label.iter().for_each(|l| check_label(l, MAX_LABEL_CHARS));
    }
    for service in &found.services {
        assert!(service.service_type.len() <= upnp::MAX_TYPE_BYTES);
        let more = service.scpd.iter().chain(&service.events);
        for url in more.chain([&service.control]) {
            check_url(url, OWNER);
        }
    }
}

pub fn soap(data: &[u8]) {
    match upnp::parse_soap_answer(data, "Browse") {
        Ok(upnp::SoapAnswer::Done(arguments)) => {
            assert!(arguments.len() <= upnp::MAX_ARGUMENTS);
            for (_, value) in arguments {
                let _ = didl::parse_listing(&value, OWNER);
            }
        }
        Ok(upnp::SoapAnswer::Fault(fault)) => {
            assert!(fault.text.chars().count() <= MAX_LABEL_CHARS);
        }
        Err(_) => {}
    }
    assert_ne!(upnp::parse_volume_max(data), Some(0));
}

pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(time) = upnp::parse_time(&text) {
        let whole = Duration::from_secs(time.as_secs());
        assert_eq!(upnp::parse_time(&upnp::format_time(whole)), Some(whole));
    }
    let formats = upnp::parse_formats(&text);
    assert!(formats.len() <= upnp::MAX_FORMATS && formats.is_sorted());
    assert!(formats.iter().all(|mime| (1..=100).contains(&mime.len())));
}

pub fn didl(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(listing) = didl::parse_listing(&text, OWNER) {
        assert!(listing.entries.len() <= MAX_PAGE as usize);
        listing.entries.iter().for_each(check_entry);
    }
    let [title, mime, url] = lines(&text);
    let what = PlayRequest {
        url: url.to_owned(),
        title: title.to_owned(),
        kind: MediaKind::of_mime(mime),
        mime: mime.to_owned(),
        size_bytes: Some(data.len() as u64),
        duration: Some(Duration::from_secs(data.len() as u64)),
    };
    let written = didl::describe_for_renderer(&what);
    let read = didl::parse_listing(&written, OWNER).expect("our own is well-formed");
    assert_eq!(read.entries.len(), 1);
}

fn check_entry(entry: &Entry) {
    match entry {
        Entry::Container(container) => {
            assert!(container.id.as_str().len() <= MAX_OBJECT_ID_BYTES);
            check_label(&container.title, MAX_TITLE_CHARS);
        }
        Entry::Item(item) => {
            assert!(item.id.as_str().len() <= MAX_OBJECT_ID_BYTES);
            assert!(item.resources.len() <= MAX_RESOURCES);
            check_label(&item.title, MAX_TITLE_CHARS);
            let _ = item.original();
            for resource in &item.resources {
                let Location::Url(url) = &resource.location else {
                    panic!("UPnP gives URLs");
                };
                check_url(url, OWNER);
                assert!(resource.protocol_info.len() <= didl::MAX_PROTOCOL_INFO_BYTES);
            }
        }
    }
}

pub fn gena(data: &[u8]) {
    gena_wire::parse_any(data);
    if let Ok(properties) = gena_wire::parse_properties(data) {
        assert!(properties.len() <= gena_wire::MAX_PROPERTIES);
    }
    let text = String::from_utf8_lossy(data);
    if let Some(MediaChange::Inside(ids)) = gena_wire::parse_container_updates(&text) {
        assert!(ids.len() <= MAX_CONTAINERS);
    }
    if let Ok(changes) = gena_wire::parse_last_change(&text) {
        assert!(changes.len() <= gena_wire::MAX_PROPERTIES);
    }
    let [sid, life] = lines(&text);
    if let Some(granted) = gena_wire::parse_granted(Some(sid), Some(life)) {
        let (least, most) = gena_wire::LIFE_SECONDS;
        assert!((least..=most).contains(&granted.life.as_secs()));
        assert!(granted.sid.len() <= gena_wire::MAX_SID_BYTES);
        assert!(granted.sid.bytes().all(|b| b.is_ascii_graphic()));
    }
    let mut sequence = gena_wire::Sequence::default();
    for number in data.as_chunks::<4>().0 {
        let _ = sequence.hear(u32::from_le_bytes(*number));
    }
}

/// A secret that no input holds by chance.
const SECRET: &str = "203.0.113.77";

pub fn capture(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = replay(&text);
    let titles = if data.len() % 2 == 0 {
        Titles::Removed
    } else {
        Titles::Kept
    };
    let mut redactor = Redactor::new(titles);
    redactor.study(&text);
    let mixed = format!("{text}\n{SECRET}\n");
    let clean = redactor.clean(&mixed);
    assert!(clean.len() <= 64 * mixed.len(), "a capture stays small");
    if !text.contains(SECRET) {
        assert!(!clean.contains(SECRET), "an address stays in a capture");
    }
}
