//! The table of targets.

mod cameras;
mod discovery;
mod gateway;
mod protocol;
mod sound;
mod storage;
mod upnp;

use std::net::{IpAddr, Ipv4Addr};

use http::uri::PathAndQuery;
use mantel_peripherals::url::{DeviceUrl, MAX_URL_BYTES};

/// One thing that reads hostile bytes.
pub struct Target {
    /// Its name; its seeds are in `corpus/NAME`.
    pub name: &'static str,
    /// The longest input, bytes.
    pub longest: usize,
    /// Executions of the long form, millions. The fast ones get more.
    pub millions: u32,
    /// Reads the bytes and asserts what is promised of them.
    pub run: fn(&[u8]),
}

const fn row(name: &'static str, longest: usize, millions: u32, run: fn(&[u8])) -> Target {
    Target {
        name,
        longest,
        millions,
        run,
    }
}

/// All of them. The long form runs more than 100 million in all, at least a million of each.
pub const TARGETS: &[Target] = &[
    row("ssdp", 1024, 5, discovery::ssdp),
    row("ws_discovery", 2048, 1, discovery::ws_discovery),
    row("mdns", 1024, 2, discovery::mdns),
    row("neighbours", 2048, 5, discovery::neighbours),
    row("cables", 2048, 1, discovery::cables),
    row("url", 1024, 4, upnp::url),
    row("xml", 1024, 1, upnp::xml),
    row("upnp_description", 2560, 1, upnp::description),
    row("upnp_soap", 2560, 1, upnp::soap),
    row("upnp_words", 512, 4, upnp::words),
    row("didl", 2048, 1, upnp::didl),
    row("gena", 1024, 1, upnp::gena),
    row("capture", 3072, 1, upnp::capture),
    row("onvif", 1536, 1, cameras::onvif),
    row("digest", 1024, 1, cameras::digest),
    row("rtsp_url", 512, 4, cameras::rtsp_url),
    row("rtsp_message", 2048, 4, cameras::rtsp_message),
    row("pictures", 2048, 5, cameras::pictures),
    row("v4l2", 2048, 5, cameras::v4l2),
    row("ptp", 2048, 5, storage::ptp),
    row("ptp_ip", 512, 5, storage::ptp_ip),
    row("storage", 1024, 4, storage::folders),
    row("mpd", 2048, 2, sound::mpd),
    row("cast", 2048, 4, sound::cast),
    row("decode", 2048, 5, sound::decode),
    row("disc", 2048, 1, sound::disc),
    row("flac", 512, 1, sound::flac),
    row("split", 1024, 1, sound::split),
    row("alsa", 512, 1, sound::alsa),
    row("chunk", 2048, 5, protocol::chunk),
    row("bus", 512, 2, protocol::bus),
    row("api", 2048, 1, protocol::api),
    row("token", 1024, 1, protocol::token),
    row("claims", 2048, 1, protocol::claims),
    row("sealed", 256, 1, protocol::sealed),
    row("blob", 2048, 4, protocol::blob),
    row("ids", 256, 3, protocol::ids),
    row("frames", 1024, 2, gateway::frames),
    row("soap_call", 1024, 1, gateway::soap_call),
    row("search", 1024, 4, gateway::search),
    row("object", 128, 3, gateway::object),
    row("range", 256, 3, gateway::range),
    row("home_assistant", 256, 3, gateway::home_assistant),
];

/// Where the hostile device stands.
const OWNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

fn location() -> DeviceUrl {
    DeviceUrl::parse("http://10.0.0.7:8200/d/rootDesc.xml", OWNER).expect("its own address")
}

/// A URL that was accepted: on its owner, good for a request line, and the same when read again.
fn check_url(url: &DeviceUrl, owner: IpAddr) {
    assert_eq!(url.host(), owner, "no request leaves the device");
    assert_ne!(url.port(), 0);
    let target = url.target();
    assert!(target.starts_with('/') && target.bytes().all(|b| b.is_ascii_graphic()));
    assert!(target.parse::<PathAndQuery>().is_ok(), "{target}");
    let text = url.to_string();
    if text.len() <= MAX_URL_BYTES {
        assert_eq!(DeviceUrl::parse_on(&text, url.owner()).as_ref(), Ok(url));
    }
}

/// A label for people: one line, not longer than promised.
fn check_label(label: &str, most: usize) {
    assert!(label.chars().count() <= most);
    assert!(!label.is_empty() && !label.chars().any(char::is_control));
}

/// The first `N` lines; the last of them is all the rest.
fn lines<const N: usize>(text: &str) -> [&str; N] {
    let mut parts = text.splitn(N, '\n');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Takes a number from the front; zeros where the bytes end.
fn number<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let take = data.len().min(N);
    out[..take].copy_from_slice(&data[..take]);
    *data = &data[take..];
    out
}
