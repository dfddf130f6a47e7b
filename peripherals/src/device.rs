//! What a device is: the row that pages, rules and the library see (F2, F5).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::alsa::{LineIn, SoundPort};
use crate::cast::{CastAccess, CastPlayer};
use crate::disc::{Disc, DiscAccess, Medium};
use crate::live::{Camera, Login};
use crate::mpd::{Jukebox, MpdAccess};
use crate::onvif::{OnvifAccess, OnvifCamera};
use crate::ptp::{PtpAccess, PtpSource};
use crate::rtsp::{RtspAccess, RtspCamera};
use crate::storage::{Storage, StorageAccess};
use crate::upnp::{MediaServer, RendererAccess, ServerAccess};
use crate::v4l2::{V4l2Access, V4l2Camera};
use crate::{MediaSource, Recorder, Renderer};

/// Longest name, maker or model kept from a device, in characters. The rest is cut off.
pub const MAX_LABEL_CHARS: usize = 120;

/// Longest device key kept, in bytes. A device that announces a longer one is ignored.
pub const MAX_KEY_BYTES: usize = 200;

/// The stable name of a device: `uuid:…` for UPnP (its UDN), `mdns:…` for DNS-SD (service type and instance),
/// `alsa:…` for a sound card.
///
/// It survives a restart of the device and of the gateway, and a new address. A physical device with several
/// programs has several keys: see [`Device::aliases`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceKey(String);

impl DeviceKey {
    /// A key from its text; control characters are dropped. `None` when empty or longer than [`MAX_KEY_BYTES`].
    pub fn new(text: &str) -> Option<Self> {
        let clean: String = text.trim().chars().filter(|c| !c.is_control()).collect();
        (!clean.is_empty() && clean.len() <= MAX_KEY_BYTES).then_some(Self(clean))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A 48-bit hardware address, written `02:78:00:00:00:0a` (F5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Twelve hex digits without separators; `None` for anything else and for addresses that are no device's own
    /// (all zeros, groups).
    pub fn from_hex(digits: &str) -> Option<Self> {
        let mut octets = [0_u8; 6];
        if digits.len() != 12 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (octet, at) in octets.iter_mut().zip((0..12).step_by(2)) {
            *octet = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
        }
        (octets != [0; 6] && octets[0] & 1 == 0).then_some(Self(octets))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { ":" };
            write!(f, "{gap}{octet:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddress({self})")
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is no hardware address: six pairs of hex digits with `:` or `-` between them.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address: expected six pairs of hex digits, such as 02:78:00:00:00:0a")]
pub struct NotAMacAddress;

impl FromStr for MacAddress {
    type Err = NotAMacAddress;

    fn from_str(text: &str) -> Result<Self, NotAMacAddress> {
        let mut octets = [0_u8; 6];
        let mut parts = text.trim().split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().ok_or(NotAMacAddress)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(NotAMacAddress);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| NotAMacAddress)?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(NotAMacAddress),
        }
    }
}

/// What kind of thing a device is, as a household names it.
///
/// The order is the order of preference when one physical device shows several faces: what it is *for* comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceClass {
    /// Another gateway of this kind (`_mantel._tcp`).
    Gateway,
    /// Records films and offers them.
    Camcorder,
    /// Takes photos, or is a network camera.
    Camera,
    /// Shows pictures: a TV, or a program that behaves like one.
    Television,
    /// Plays its own music collection.
    Jukebox,
    /// Holds media for others: NAS, PC share, set-top recorder.
    MediaServer,
    /// Plays sound only.
    Speaker,
    /// A socket of this gateway for a tape deck, a record player or a microphone.
    LineIn,
    /// A general-purpose computer.
    Computer,
    /// A phone or tablet.
    Phone,
    /// A music player that shows its memory.
    MusicPlayer,
    /// A camera's card.
    MemoryCard,
    /// A memory stick or a disk.
    Storage,
    /// A drive for discs.
    Disc,
    /// Something that answered, but did not say what it is in words we know.
    Other,
}

impl DeviceClass {
    /// The word for a page.
    pub fn label(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::Camcorder => "Camcorder",
            Self::Camera => "Camera",
            Self::Television => "Television",
            Self::Jukebox => "Jukebox",
            Self::MediaServer => "Media server",
            Self::Speaker => "Speaker",
            Self::LineIn => "Line-in",
            Self::Computer => "Computer",
            Self::Phone => "Phone",
            Self::MusicPlayer => "MP3 player",
            Self::MemoryCard => "Memory card",
            Self::Storage => "Memory stick or disk",
            Self::Disc => "CD drive",
            Self::Other => "Other device",
        }
    }
}

/// What this gateway can do with a device today.
///
/// Only what an adapter here really serves is listed: a Cast TV without a Cast adapter has no capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Its media can be listed: [`MediaSource::list`], [`MediaSource::walk`].
    ListMedia,
    /// An asset can be fetched from it: [`MediaSource::fetch`].
    FetchAsset,
    /// It gives a live picture or sound.
    LiveStream,
    /// It plays what it is given: [`Renderer`].
    Render,
    /// It can be recorded from (line-in, tape, capture card).
    Capture,
}

/// Whether the device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// It announced itself or answered lately.
    Online,
    /// It said goodbye, or stopped answering.
    Gone,
}

/// One program on a device, with the way to reach it.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The part's own stable name.
    pub key: DeviceKey,
    /// The name that it gives itself.
    pub name: String,
    /// What this part alone would be.
    pub class: DeviceClass,
    /// Whether this part answers.
    pub state: DeviceState,
    /// How to reach it.
    pub access: Access,
}

/// How a part of a device is reached: one variant per adapter.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// UPnP ContentDirectory: a source of media.
    UpnpServer(ServerAccess),
    /// UPnP AVTransport: plays what it is given.
    UpnpRenderer(RendererAccess),
    /// A UPnP root device with both a ContentDirectory and an AVTransport.
    UpnpBoth(ServerAccess, RendererAccess),
    /// An ONVIF device service: a network camera or recorder.
    Onvif(OnvifAccess),
    /// RTSP alone: a camera announced by DNS-SD or added by its address.
    Rtsp(RtspAccess),
    /// Video4Linux: a camera on a cable.
    V4l2(V4l2Access),
    /// The output of a sound card of this machine: loudspeakers.
    AlsaOut(SoundPort),
    /// The input of a sound card of this machine: a line-in or microphone.
    AlsaIn(SoundPort),
    /// Memory on a cable, mounted or not.
    Storage(StorageAccess),
    /// A drive for discs.
    Disc(DiscAccess),
    /// A camera, phone or player that speaks PTP or MTP.
    Ptp(PtpAccess),
    /// MPD: a jukebox with its own library, which also plays what it is given.
    Mpd(MpdAccess),
    /// Google Cast: plays what it is given.
    Cast(CastAccess),
    /// A DNS-SD service that no adapter drives yet: shown, not used.
    DnsSd {
        /// The service type without domain, such as `_mpd._tcp`.
        service: String,
        /// TCP or UDP port.
        port: u16,
    },
    /// Nothing that can be driven: no known service, or its description was refused.
    None,
}

impl Access {
    /// What this gateway can do by this access.
    pub fn capabilities(&self) -> BTreeSet<Capability> {
        let (list, render) = match self {
            Self::UpnpServer(_) | Self::Ptp(_) => (true, false),
            Self::UpnpRenderer(_) | Self::AlsaOut(_) | Self::Mpd(_) | Self::Cast(_) => {
                (false, true)
            }
            Self::UpnpBoth(..) => (true, true),
            Self::Storage(access) => (!access.volumes.is_empty(), false),
            Self::Disc(access) => (access.medium == Medium::Audio, false),
            Self::Onvif(_)
            | Self::Rtsp(_)
            | Self::V4l2(_)
            | Self::AlsaIn(_)
            | Self::DnsSd { .. }
            | Self::None => (false, false),
        };
        let mut set = BTreeSet::new();
        if list {
            set.extend([Capability::ListMedia, Capability::FetchAsset]);
        }
        if matches!(self, Self::Mpd(_)) {
            // It lists what it has and gives no files.
            set.insert(Capability::ListMedia);
        }
        if render {
            set.insert(Capability::Render);
        }
        if matches!(self, Self::AlsaIn(_)) {
            set.insert(Capability::Capture);
        }
        if matches!(self, Self::Onvif(_) | Self::Rtsp(_) | Self::V4l2(_)) {
            set.insert(Capability::LiveStream);
        }
        set
    }

    /// Why it cannot be used now, in plain words; `None`: nothing is known to be wrong.
    pub fn problem(&self) -> Option<String> {
        let words = match self {
            Self::Storage(access) if access.volumes.is_empty() => {
                "It is not in use and may be unplugged. To use it, unplug it and plug it in again."
            }
            Self::Disc(access) => match access.medium {
                Medium::Audio => return None,
                Medium::Empty => "There is no disc in it. Put in an audio CD to copy its music.",
                Medium::Data => {
                    "The disc in it holds files or a film, which are not copied. Put in an audio CD."
                }
            },
            _ => return None,
        };
        Some(words.to_owned())
    }
}

/// One physical device of the home.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Stable key, for links and stored settings. It is one of [`Device::aliases`].
    pub id: DeviceKey,
    /// Keys of all its parts, `id` included. After a restart another of them may be `id`: look up by any.
    pub aliases: BTreeSet<DeviceKey>,
    /// The name its owner gave it.
    pub name: String,
    /// What it is.
    pub class: DeviceClass,
    /// Maker, as the device says.
    pub maker: Option<String>,
    /// Model name and number, as the device says.
    pub model: Option<String>,
    /// Addresses that it was seen at, lowest first.
    pub addresses: Vec<IpAddr>,
    /// Hardware address, where the neighbour table knows it.
    pub mac: Option<MacAddress>,
    /// Electronic serial number, where the device tells one.
    pub serial: Option<String>,
    /// What can be done with it, now or when it is back.
    pub capabilities: BTreeSet<Capability>,
    /// Whether it answers.
    pub state: DeviceState,
    /// When it was first seen in this run.
    pub first_seen: Timestamp,
    /// When it last announced itself or answered.
    pub last_seen: Timestamp,
    /// What is wrong with it, in plain words for a page.
    pub problem: Option<String>,
    /// Its programs.
    pub parts: Vec<Part>,
}

impl Device {
    /// Whether `key` names this device.
    pub fn is(&self, key: &DeviceKey) -> bool {
        self.aliases.contains(key)
    }

    /// Further keys, by which a stored decision finds a device that changed all its names: its serial number with maker
    /// and model, and its hardware address with its class (an extender may lend one address to several devices). They
    /// are weaker than [`Device::aliases`]: two devices may have one.
    pub fn marks(&self) -> BTreeSet<DeviceKey> {
        let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_lowercase();
        let serial = self
            .serial
            .as_deref()
            .filter(|serial| crate::registry::is_serial(serial))
            .map(|serial| {
                let (maker, model) = (lower(&self.maker), lower(&self.model));
                format!("serial:{maker}|{model}|{}", serial.to_lowercase())
            });
        let mac = self
            .mac
            .map(|mac| format!("mac:{mac} {}", self.class.label()));
        [serial, mac]
            .into_iter()
            .flatten()
            .filter_map(|text| DeviceKey::new(&text))
            .collect()
    }

    /// The device as a source of media, if it is one: parts that answer first.
    pub fn media_source(&self) -> Option<MediaSource> {
        self.parts_online_first()
            .find_map(|part| match &part.access {
                Access::UpnpServer(access) | Access::UpnpBoth(access, _) => Some(
                    MediaSource::Upnp(MediaServer::new(part.name.clone(), access.clone())),
                ),
                Access::Storage(access) if !access.volumes.is_empty() => Some(
                    MediaSource::Storage(Storage::new(part.name.clone(), access.clone())),
                ),
                Access::Disc(access) if access.medium == Medium::Audio => Some(MediaSource::Disc(
                    Disc::new(part.name.clone(), access.clone()),
                )),
                Access::Ptp(access) => Some(MediaSource::Ptp(PtpSource::new(
                    part.name.clone(),
                    access.clone(),
                ))),
                Access::Mpd(access) => Some(MediaSource::Mpd(Jukebox::new(
                    part.name.clone(),
                    access.clone(),
                ))),
                Access::UpnpRenderer(_)
                | Access::Cast(_)
                | Access::Storage(_)
                | Access::Disc(_)
                | Access::Onvif(_)
                | Access::Rtsp(_)
                | Access::V4l2(_)
                | Access::AlsaOut(_)
                | Access::AlsaIn(_)
                | Access::DnsSd { .. }
                | Access::None => None,
            })
    }

    /// The device as a player on the network, if it is one: parts that answer first. This machine's own loudspeakers:
    /// [`Device::loudspeaker`].
    pub fn renderer(&self) -> Option<Renderer> {
        self.parts_online_first()
            .find_map(|part| match &part.access {
                Access::UpnpRenderer(access) | Access::UpnpBoth(_, access) => {
                    Some(Renderer::Upnp(Box::new(crate::upnp::MediaRenderer::new(
                        part.name.clone(),
                        access.clone(),
                    ))))
                }
                Access::Mpd(access) => Some(Renderer::Mpd(Jukebox::new(
                    part.name.clone(),
                    access.clone(),
                ))),
                Access::Cast(access) => Some(Renderer::Cast(CastPlayer::new(
                    part.name.clone(),
                    access.clone(),
                ))),
                Access::UpnpServer(_)
                | Access::Storage(_)
                | Access::Disc(_)
                | Access::Ptp(_)
                | Access::Onvif(_)
                | Access::Rtsp(_)
                | Access::V4l2(_)
                | Access::AlsaOut(_)
                | Access::AlsaIn(_)
                | Access::DnsSd { .. }
                | Access::None => None,
            })
    }

    /// The device as a loudspeaker of this machine, if it is one: its player belongs to
    /// [`Speakers`](crate::alsa::Speakers), which makes a [`Renderer`] of it.
    pub fn loudspeaker(&self) -> Option<&SoundPort> {
        self.parts_online_first()
            .find_map(|part| match &part.access {
                Access::AlsaOut(port) => Some(port),
                _ => None,
            })
    }

    /// The device as something to record from, if it is that: parts that answer first.
    pub fn recorder(&self) -> Option<Recorder> {
        self.parts_online_first()
            .find_map(|part| match &part.access {
                Access::AlsaIn(port) => {
                    Some(Recorder::Alsa(LineIn::new(self.name.clone(), port.clone())))
                }
                _ => None,
            })
    }

    /// The device as a jukebox with a library and a queue of its own, if it is one.
    pub fn jukebox(&self) -> Option<Jukebox> {
        self.parts_online_first()
            .find_map(|part| match &part.access {
                Access::Mpd(access) => Some(Jukebox::new(part.name.clone(), access.clone())),
                _ => None,
            })
    }

    /// The device as a camera, if it is one: parts that answer first, and of those the one that tells most. `login` is
    /// what the household entered for this device.
    pub fn camera(&self, login: Option<Login>) -> Option<Camera> {
        let name = || self.name.clone();
        let (_, access) = self
            .parts_online_first()
            .filter_map(|part| {
                let rank = match &part.access {
                    Access::Onvif(_) => 0,
                    Access::V4l2(_) => 1,
                    Access::Rtsp(_) => 2,
                    _ => return None,
                };
                Some(((part.state != DeviceState::Online, rank), &part.access))
            })
            .min_by_key(|(rank, _)| *rank)?;
        match access {
            Access::Onvif(access) => {
                let camera = OnvifCamera::new(name(), access.clone(), login);
                Some(Camera::Onvif(camera))
            }
            Access::Rtsp(access) => {
                let camera = RtspCamera::new(name(), access.clone(), login);
                Some(Camera::Rtsp(camera))
            }
            Access::V4l2(access) => Some(Camera::V4l2(V4l2Camera::new(name(), access.clone()))),
            _ => None,
        }
    }

    fn parts_online_first(&self) -> impl Iterator<Item = &Part> {
        let of = |state| self.parts.iter().filter(move |part| part.state == state);
        of(DeviceState::Online).chain(of(DeviceState::Gone))
    }
}

/// Text from a device made fit for a page: one line, no control characters, at most `max_chars` characters.
/// `None` when nothing is left.
pub(crate) fn clean_label(text: &str, max_chars: usize) -> Option<String> {
    let visible: String = text.chars().filter(|c| !is_invisible(*c)).collect();
    let words: Vec<&str> = visible
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    let line: String = words.join(" ").chars().take(max_chars).collect();
    let line = line.trim_end();
    (!line.is_empty()).then(|| line.to_owned())
}

/// Characters that reorder or hide text on a page: bidirectional controls, zero-width, byte-order mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hardware_addresses_are_read_and_written() {
        let mac: MacAddress = "02:78:00:00:0A:ff".parse().expect("valid");
        assert_eq!(mac.to_string(), "02:78:00:00:0a:ff");
        for bad in [
            "",
            "02:78:00:00:00",
            "02:78:00:00:00:0a:01",
            "2:78:0:0:0:a",
            "+2:78:00:00:00:0a",
        ] {
            assert_eq!(bad.parse::<MacAddress>(), Err(NotAMacAddress), "{bad}");
        }
    }

    #[test]
    fn labels_lose_what_could_deceive_on_a_page() {
        assert_eq!(
            clean_label("  Living\r\nRoom\u{202e}VT \u{0}", 40).as_deref(),
            Some("Living RoomVT")
        );
        assert_eq!(clean_label("\u{feff} \n", 40), None);
        assert_eq!(clean_label("abcdef", 3).as_deref(), Some("abc"));
    }

    proptest! {
        #[test]
        fn labels_are_never_longer_than_asked(text in any::<String>(), max in 1_usize..50) {
            if let Some(label) = clean_label(&text, max) {
                prop_assert!(label.chars().count() <= max);
                prop_assert!(!label.chars().any(char::is_control));
            }
        }
    }
}
