//! The table of targets.

use std::net::{IpAddr, Ipv4Addr};

use mantel_peripherals::upnp::{didl, wire as upnp};
use mantel_peripherals::{discovery, neighbours, url::DeviceUrl};
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
    ("chunk", |data| {
        let _ = chunk::decode::<chunk::Request>(data);
    }),
];

fn location() -> DeviceUrl {
    DeviceUrl::parse("http://10.0.0.7:8200/d/rootDesc.xml", OWNER).expect("its own address")
}
