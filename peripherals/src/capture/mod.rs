//! `mantel-gateway capture`: what a device says about itself, without secrets, for a report about a device that does not
//! work.
//!
//! # Format
//!
//! One JSON document:
//!
//! - `format`: [`FORMAT`];
//! - `made_by`: the program and its version;
//! - `device`: the row as this gateway saw it: `class`, `capabilities`, `state`, `problem`, `parts` (key, class);
//! - `records`, in the order in which they were made, each with `kind`, `what` and `answer`:
//!   - `ssdp`: a datagram of SSDP, the search's answer or an announcement, as text;
//!   - `ws-discovery`: an answer to a Probe, as text;
//!   - `get`: `what` is the URL, `answer` the body;
//!   - `call`: `what` is `<service type>#<action>` with the arguments, `answer` the body;
//!   - `failed`: `what` was tried, `answer` says why it failed.
//!
//! A text longer than [`MAX_TEXT_BYTES`] is cut. DNS-SD services are in `device.parts`.

mod redact;

pub use redact::{Redactor, Titles};

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::Device;
use crate::discovery::ssdp::GROUP;
use crate::discovery::wire as ssdp;
use crate::http;
use crate::upnp::capture_calls;
use crate::upnp::wire::{Description, ServiceKind, parse_description};
use crate::url::DeviceUrl;
use crate::xml;

/// What a capture says it is.
pub const FORMAT: &str = "mantel-capture 1";
/// Longest text of one record, in bytes.
pub const MAX_TEXT_BYTES: usize = 256 * 1024;
/// Most records.
pub const MAX_RECORDS: usize = 200;
/// How long announcements are listened to.
const LISTEN: Duration = Duration::from_secs(4);
/// Time for one request.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The group of WS-Discovery (§3.1.1).
const WS_DISCOVERY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 3702);
/// A Probe for everything (WS-Discovery §5.2).
const PROBE: &str = concat!(
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
    "<e:Envelope xmlns:e=\"http://www.w3.org/2003/05/soap-envelope\" ",
    "xmlns:w=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" ",
    "xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\"><e:Header>",
    "<w:MessageID>uuid:6d616e74-656c-4000-8000-636170747572</w:MessageID>",
    "<w:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</w:To>",
    "<w:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</w:Action>",
    "</e:Header><e:Body><d:Probe/></e:Body></e:Envelope>"
);

/// A capture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// [`FORMAT`].
    pub format: String,
    /// The program and its version.
    pub made_by: String,
    /// The device as this gateway saw it.
    pub device: serde_json::Value,
    /// What it said.
    pub records: Vec<Record>,
}

/// One thing that a device said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `ssdp`, `ws-discovery`, `get`, `call` or `failed`.
    pub kind: String,
    /// What was asked.
    pub what: String,
    /// What came.
    pub answer: String,
}

impl Record {
    pub(crate) fn new(kind: &str, what: String, answer: &str) -> Self {
        let end = answer.floor_char_boundary(MAX_TEXT_BYTES);
        Self {
            kind: kind.to_owned(),
            what,
            answer: answer[..end].to_owned(),
        }
    }
}

/// Asks a device for everything that a report needs. Takes about ten seconds, and longer where it does not answer.
pub async fn capture(device: &Device, titles: Titles) -> Capture {
    let addresses: BTreeSet<IpAddr> = device.addresses.iter().copied().collect();
    let mut records = Vec::new();
    let (searches, probes) = (searches(), [PROBE.to_owned()]);
    let heard = tokio::join!(
        listen("ssdp", &addresses, GROUP, &searches),
        listen("ws-discovery", &addresses, WS_DISCOVERY, &probes),
    );
    let locations = locations(&heard.0);
    records.extend(heard.0);
    records.extend(heard.1);
    for location in locations {
        records.extend(described(&location).await);
    }
    records.truncate(MAX_RECORDS);
    let mut redactor = Redactor::new(titles);
    if let Some(mac) = device.mac {
        redactor.learn_mac(mac);
    }
    if let Some(serial) = &device.serial {
        redactor.learn(serial, "serial");
    }
    if titles == Titles::Removed {
        redactor.learn(&device.name, "Device");
        for part in &device.parts {
            redactor.learn(&part.name, "Device");
        }
    }
    for record in &records {
        redactor.study(&record.answer);
    }
    let parts: Vec<_> = device
        .parts
        .iter()
        .map(|part| {
            let access = format!("{:?}", part.access);
            serde_json::json!({
                "key": redactor.clean(part.key.as_str()), "class": part.class, "access": redactor.clean(&access),
            })
        })
        .collect();
    let mut clean = |text: &Option<String>| text.as_ref().map(|text| redactor.clean(text));
    let row = serde_json::json!({
        "class": device.class, "maker": clean(&device.maker), "model": clean(&device.model),
        "capabilities": device.capabilities, "state": device.state, "problem": clean(&device.problem),
        "parts": parts,
    });
    for record in &mut records {
        record.what = redactor.clean(&record.what);
        record.answer = redactor.clean(&record.answer);
    }
    Capture {
        format: FORMAT.to_owned(),
        made_by: format!("mantel {}", env!("CARGO_PKG_VERSION")),
        device: row,
        records,
    }
}

fn searches() -> Vec<String> {
    ["ssdp:all", "upnp:rootdevice"]
        .map(|target| ssdp::search(GROUP.into(), target, 1))
        .to_vec()
}

/// Sends `messages` to a group by every interface and records what comes from `addresses`.
async fn listen(
    kind: &str,
    addresses: &BTreeSet<IpAddr>,
    group: SocketAddrV4,
    messages: &[String],
) -> Vec<Record> {
    let mut records = Vec::new();
    let mut sockets = Vec::new();
    for interface in if_addrs::get_if_addrs().unwrap_or_default() {
        let IpAddr::V4(own) = interface.ip() else {
            continue;
        };
        match open(own).await {
            Ok(socket) => sockets.push(socket),
            Err(error) => tracing::debug!(%own, %error, "no search there"),
        }
    }
    for socket in &sockets {
        for message in messages {
            if let Err(error) = socket.send_to(message.as_bytes(), group).await {
                tracing::debug!(%error, "search not sent");
            }
        }
    }
    let end = Instant::now() + LISTEN;
    let heard = futures_util::future::join_all(sockets.iter().map(|socket| async {
        let mut texts = Vec::new();
        let mut buffer = vec![0; ssdp::MAX_DATAGRAM];
        while let Ok(Ok((length, from))) = timeout_at(end, socket.recv_from(&mut buffer)).await {
            if addresses.contains(&from.ip()) && texts.len() < MAX_RECORDS / 4 {
                texts.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        }
        texts
    }))
    .await;
    let mut known = BTreeSet::new();
    for text in heard.into_iter().flatten() {
        if known.insert(text.clone()) {
            records.push(Record::new(kind, format!("search to {group}"), &text));
        }
    }
    records
}

async fn open(own: Ipv4Addr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((own, 0)).await?;
    let reference = socket2::SockRef::from(&socket);
    reference.set_multicast_if_v4(&own)?;
    reference.set_multicast_loop_v4(true)?;
    Ok(socket)
}

/// Where a device says that its descriptions are.
fn locations(heard: &[Record]) -> BTreeSet<DeviceUrl> {
    let mut found = BTreeSet::new();
    for record in heard {
        let location = record.answer.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("location")
                .then(|| value.trim().to_owned())
        });
        let Some(location) = location else { continue };
        let host = location
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split([':', '/']).next()?.parse().ok());
        found.extend(host.and_then(|host| DeviceUrl::parse(&location, host).ok()));
    }
    found
}

async fn get(url: &DeviceUrl) -> (Record, Option<Vec<u8>>) {
    match http::get(url, MAX_TEXT_BYTES as u64, REQUEST_TIME).await {
        Ok(bytes) => (
            Record::new("get", url.to_string(), &xml::decode(&bytes)),
            Some(bytes.to_vec()),
        ),
        Err(error) => (Record::new("failed", url.to_string(), &told(&error)), None),
    }
}

/// An error with its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A description with everything that it leads to.
async fn described(location: &DeviceUrl) -> Vec<Record> {
    let (record, bytes) = get(location).await;
    let mut records = vec![record];
    let description = bytes.and_then(|bytes| parse_description(&bytes, location).ok());
    let Some(description) = description else {
        return records;
    };
    let scpds: BTreeSet<_> = description
        .services
        .iter()
        .filter_map(|service| service.scpd.clone())
        .collect();
    for scpd in scpds {
        records.push(get(&scpd).await.0);
    }
    records.extend(asked(&description).await);
    records
}

/// Answers to the usual questions.
async fn asked(description: &Description) -> Vec<Record> {
    let mut records = Vec::new();
    for kind in [
        ServiceKind::ConnectionManager,
        ServiceKind::ContentDirectory,
        ServiceKind::AvTransport,
        ServiceKind::RenderingControl,
    ] {
        if let Some(service) = description.service(kind) {
            records.extend(capture_calls(service).await);
        }
    }
    records
}

/// Why a capture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not a capture.
    #[error("this is no capture: it is not JSON of the form \"{FORMAT}\"")]
    NotACapture(#[from] serde_json::Error),
    /// A capture of another version.
    #[error("this capture says it is \"{0}\"; \"{FORMAT}\" is wanted")]
    OtherFormat(String),
}

/// What a capture leads this program to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Descriptions read.
    pub descriptions: u32,
    /// Entries of listings read.
    pub entries: u32,
    /// Records that this program cannot read.
    pub unreadable: Vec<String>,
}

/// Has a capture read as a device's answers are.
pub fn replay(text: &str) -> Result<Replay, ReplayError> {
    let capture: Capture = serde_json::from_str(text)?;
    if capture.format != FORMAT {
        return Err(ReplayError::OtherFormat(capture.format));
    }
    let mut replay = Replay::default();
    let mut owner = None;
    for record in &capture.records {
        match record.kind.as_str() {
            "get" => {
                let host = record.what.split("://").nth(1);
                let host = host.and_then(|rest| rest.split([':', '/']).next()?.parse().ok());
                let location = host.and_then(|host| DeviceUrl::parse(&record.what, host).ok());
                owner = owner.or(host);
                let is_device = record.answer.contains("<device>");
                match location.map(|at| parse_description(record.answer.as_bytes(), &at)) {
                    Some(Ok(_)) => replay.descriptions += 1,
                    Some(Err(_)) if !is_device && xml::parse(&record.answer).is_ok() => {}
                    _ => replay.unreadable.push(record.what.clone()),
                }
            }
            "call" if record.what.contains("#Browse(") => {
                let listing = crate::upnp::replay_browse(&record.answer, owner);
                match listing {
                    Some(entries) => replay.entries += entries,
                    None => replay.unreadable.push(record.what.clone()),
                }
            }
            _ => {}
        }
    }
    Ok(replay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_of_four_makers_are_read_as_the_devices_were() {
        for (text, descriptions, entries) in [
            (include_str!("../../testdata/capture-minidlna.json"), 1, 4),
            (include_str!("../../testdata/capture-gerbera.json"), 1, 2),
            (include_str!("../../testdata/capture-rygel.json"), 2, 4),
            (
                include_str!("../../testdata/capture-gmediarender.json"),
                1,
                0,
            ),
        ] {
            let replay = replay(text).expect("a capture");
            assert_eq!(replay.unreadable, Vec::<String>::new());
            assert_eq!(replay.descriptions, descriptions, "{replay:?}");
            assert!(replay.entries >= entries, "{replay:?}");
        }
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        assert!(matches!(replay("{}"), Err(ReplayError::NotACapture(_))));
        let other = r#"{"format":"mantel-capture 9","made_by":"x","device":{},"records":[]}"#;
        assert!(matches!(replay(other), Err(ReplayError::OtherFormat(_))));
    }
}
