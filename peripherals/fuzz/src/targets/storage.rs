//! Cameras and phones by PTP and MTP, and what lies on a stranger's memory card.

use std::cmp::Ordering;

use mantel_peripherals::ptp::wire as ptp_wire;
use mantel_peripherals::ptp_ip::wire as packets;
use mantel_peripherals::storage::wire as card;

use super::{lines, number};

pub fn ptp(data: &[u8]) {
    let _ = ptp_wire::DeviceInfo::parse(data);
    let _ = ptp_wire::storage_name(data);
    if let Ok(info) = ptp_wire::ObjectInfo::parse(data) {
        // At most 255 units of UTF-16.
        assert!(info.name.chars().count() <= 255);
        let _ = (info.is_folder(), ptp_wire::mime(info.format, &info.name));
    }
    let mut from = ptp_wire::Reader::new(data);
    if let Ok(handles) = from.u32_array() {
        assert!(handles.len() <= ptp_wire::MAX_ARRAY && 4 * handles.len() <= data.len());
    }
    let mut from = ptp_wire::Reader::new(data);
    while from.string().is_ok() {}
    if let Some(date) = ptp_wire::parse_date(&String::from_utf8_lossy(data)) {
        let written = date.strftime("%Y%m%dT%H%M%S").to_string();
        assert_eq!(ptp_wire::parse_date(&written), Some(date));
    }
}

pub fn ptp_ip(mut data: &[u8]) {
    let whole = data;
    let head: [u8; packets::HEAD_BYTES] = number(&mut data);
    if let Ok((kind, body)) = packets::parse_head(head) {
        let data = matches!(kind, packets::Kind::Data | packets::Kind::EndData);
        assert!(data || body <= packets::MAX_CONTROL_BYTES);
    }
    let _ = (packets::parse_command_ack(data), packets::parse_fail(data));
    let _ = (packets::parse_response(data), packets::parse_start(data));
    let parameters: Vec<u32> = whole
        .as_chunks()
        .0
        .iter()
        .map(|four| u32::from_le_bytes(*four))
        .collect();
    let name = String::from_utf8_lossy(whole);
    for (packet, wanted) in [
        (
            packets::request(0x1002, 7, &parameters),
            packets::Kind::Request,
        ),
        (
            packets::init_command([7; 16], &name),
            packets::Kind::InitCommandRequest,
        ),
        (packets::init_event(7), packets::Kind::InitEventRequest),
    ] {
        let (head, body) = packet.split_at(packets::HEAD_BYTES);
        let head = head.try_into().expect("eight bytes");
        assert_eq!(packets::parse_head(head), Ok((wanted, body.len() as u32)));
    }
}

/// A name, two more, and the first bytes of a file.
pub fn folders(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let [a, b, c, rest] = lines(&text);
    let _ = card::sniff(&data[data.len() - rest.len().min(data.len())..], a);
    for name in [a, b, c] {
        let (stem, ending) = (card::stem(name), card::ending(name));
        assert!(name.starts_with(stem));
        assert!(ending.is_none_or(|ending| stem.len() + 1 + ending.len() == name.len()));
        let _ = (card::may_be_media(name), card::is_for_people(name));
    }
    assert_eq!(card::natural(a, b), card::natural(b, a).reverse());
    assert_eq!(card::natural(a, b) == Ordering::Equal, a == b);
    if card::natural(a, b).is_le() && card::natural(b, c).is_le() {
        assert!(card::natural(a, c).is_le(), "an order");
    }
    if let Some(place) = card::Place::parse(&text) {
        let relative = place.relative();
        assert!(!relative.starts_with('/') && relative.split('/').all(|part| part != ".."));
        assert!(place.path.len() <= card::MAX_DEPTH);
        let id = place.id().expect("not longer than it was");
        assert_eq!(card::Place::parse(id.as_str()), Some(place));
    }
    assert!(card::parse_mounts(&text).len() <= card::MAX_MOUNTS);
}
