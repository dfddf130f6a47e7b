//! The table of targets.

use std::net::{IpAddr, Ipv4Addr};

use bytes::BytesMut;
use mantel_peripherals::onvif::{digest, wire as onvif};
use mantel_peripherals::upnp::{didl, wire as upnp};
use mantel_peripherals::v4l2::wire as v4l2;
use mantel_peripherals::{Login, discovery, neighbours, picture, rtsp, url::DeviceUrl};
use mantel_protocol::chunk;

/// Where the hostile device stands.
const OWNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

/// Name and function of each target; its corpus is `corpus/NAME`.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("ssdp", |data| {
        let _ = discovery::wire::parse(data, OWNER);
    }),
    ("upnp_description", |data| upnp::parse_any(data, &location())),
    ("upnp_soap", |data| {
        let _ = upnp::parse_soap_answer(data, "Browse");
        let _ = upnp::parse_volume_max(data);
    }),
    ("didl", |data| {
        let _ = didl::parse_listing(&String::from_utf8_lossy(data), OWNER);
    }),
    ("url", |data| {
        let text = String::from_utf8_lossy(data);
        let _ = DeviceUrl::parse(&text, OWNER);
        let _ = location().join(&text);
    }),
    ("arp", |data| {
        let _ = neighbours::parse_arp(&String::from_utf8_lossy(data));
    }),
    ("onvif", onvif::parse_any),
    ("digest", |data| {
        if let Some(login) = Login::new("user", "password") {
            let _ = digest::authorization(&String::from_utf8_lossy(data), &login, "GET", "/");
        }
    }),
    ("rtsp", rtsp_any),
    ("pictures", |data| {
        let _ = picture::h264_parameter_sets(data);
        let _ = picture::h265_parameter_sets(data);
        let _ = v4l2::h264_config(data);
        let _ = v4l2::h264_picture(data);
    }),
    ("chunk", |data| {
        let _ = chunk::decode::<chunk::Request>(data);
    }),
];

fn rtsp_any(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = rtsp::RtspUrl::parse(&text, OWNER);
    let _ = rtsp::RtspUrl::typed(&text);
    let mut bytes = BytesMut::from(data);
    while let Ok(Some(message)) = rtsp::udp::take_message(&mut bytes) {
        let _ = rtsp::udp::ask_for_udp(&message.head, 50_000);
        let _ = rtsp::udp::as_interleaved(&message.head, 0);
    }
}

fn location() -> DeviceUrl {
    DeviceUrl::parse("http://10.0.0.7:8200/d/rootDesc.xml", OWNER).expect("its own address")
}
