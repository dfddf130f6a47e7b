//! What the other modules' rows look like to a person.

use super::Site;
use super::format;
use super::shell::{Icon, escape_query};
use crate::catalog::{Listing, ListingState};
use crate::devices::{DeviceRow, DeviceStanding};
use crate::exchange::{Direction, OrderRow, Stage};
use crate::library::{ImportPhase, ImportProgress, Origin, Title, TitleState};
use crate::playback::PlayingOn;
use mantel_peripherals::media::{Mute, TransportState, Volume};
use mantel_peripherals::{Capability, DeviceClass, DeviceState};
use mantel_protocol::api::{HomeEntry, OrderState};
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::MediaKind;

/// A kind's icon.
pub fn kind_icon(kind: MediaKind) -> Icon {
    Icon(match kind {
        MediaKind::Video => "film",
        MediaKind::Image => "image",
        MediaKind::Audio => "music",
        MediaKind::Data => "file",
    })
}

/// A kind's word.
pub fn kind_word(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Video => "Film",
        MediaKind::Image => "Photo",
        MediaKind::Audio => "Music",
        MediaKind::Data => "File",
    }
}

/// A title's state as a word for scripts.
pub fn state_word(state: TitleState) -> &'static str {
    match state {
        TitleState::Importing => "importing",
        TitleState::Arriving => "arriving",
        TitleState::Ready => "ready",
    }
}

/// A title or listing as a tile with a picture.
pub struct Tile {
    /// The title's id.
    pub id: String,
    /// Where it leads.
    pub href: String,
    /// Its picture.
    pub picture: String,
    /// Its name.
    pub name: String,
    /// On the picture's corner: running time.
    pub over: String,
    /// Below the name.
    pub sub: String,
    /// Its state, for scripts.
    pub state: &'static str,
}

impl Tile {
    /// A title of the library.
    pub fn of_title(title: &Title) -> Self {
        let id = title.id.to_string();
        let from = match &title.origin {
            Origin::Own { device } => device.clone(),
            Origin::Home { name, .. } => format!("from {name}"),
        };
        let sub = match title.state {
            TitleState::Ready => format!("{} · {from}", kind_word(title.kind)),
            TitleState::Importing => "being imported…".to_owned(),
            TitleState::Arriving => format!("on its way · {from}"),
        };
        Self {
            href: format!("/library/{id}"),
            picture: format!("/thumbs/{id}"),
            name: title.name.clone(),
            over: title
                .duration_ms()
                .map(|ms| format::clock_time(ms / 1000))
                .unwrap_or_default(),
            sub,
            state: state_word(title.state),
            id,
        }
    }
}

/// A device.
pub struct DeviceCard {
    /// Its key.
    pub id: String,
    /// Its key for an address.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Its class in words, with maker and model.
    pub what: String,
    /// Its icon.
    pub icon: Icon,
    /// Whether it answers.
    pub online: bool,
    /// `new`, `admitted` or `ignored`.
    pub standing: &'static str,
    /// Whether its media can be listed.
    pub lists: bool,
    /// Whether its media can be imported.
    pub gives: bool,
    /// Whether it plays.
    pub renders: bool,
    /// Whether it can be recorded from.
    pub captures: bool,
    /// Whether it has an address, and is not on a cable.
    pub on_network: bool,
    /// Whether it is a camera that can be used.
    pub films: bool,
    /// What is wrong, in plain words.
    pub problem: Option<String>,
    /// Addresses, hardware address, serial.
    pub addresses: String,
    /// When it was last heard of.
    pub seen: String,
    /// Whether it must be let go before it is unplugged.
    pub ejects: bool,
    /// Its class's word in forms; empty where the household did not correct it.
    pub corrected: String,
    /// Whether it is another home's gateway.
    pub gateway: Option<GatewayCard>,
}

/// Another home's gateway on this home's network.
pub struct GatewayCard {
    /// Its device id.
    pub device: String,
    /// The home that it is of, where this home's server names it: id and name.
    pub home: Option<(String, String)>,
}

/// A class's icon.
pub fn class_icon(class: DeviceClass) -> Icon {
    Icon(match class {
        DeviceClass::Gateway => "gateway",
        DeviceClass::Camcorder => "camcorder",
        DeviceClass::Camera => "camera",
        DeviceClass::Television => "tv",
        DeviceClass::Jukebox | DeviceClass::LineIn | DeviceClass::MusicPlayer => "music",
        DeviceClass::MediaServer => "server",
        DeviceClass::Speaker => "speaker",
        DeviceClass::Computer => "computer",
        DeviceClass::Phone => "phone",
        DeviceClass::MemoryCard | DeviceClass::Storage => "folder",
        DeviceClass::Disc => "disc",
        DeviceClass::Other => "other",
    })
}

/// A standing's word for scripts.
pub fn standing_word(standing: DeviceStanding) -> &'static str {
    match standing {
        DeviceStanding::New => "new",
        DeviceStanding::Admitted => "admitted",
        DeviceStanding::Ignored => "ignored",
    }
}

impl DeviceCard {
    /// A row of the devices.
    pub fn of(row: &DeviceRow, now: jiff::Timestamp) -> Self {
        let mut what = row.class.label().to_owned();
        for word in [&row.maker, &row.model].into_iter().flatten() {
            what.push_str(" · ");
            what.push_str(word);
        }
        let mut addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
        addresses.extend(row.mac.as_ref().map(ToString::to_string));
        addresses.extend(row.serial.as_ref().map(|serial| format!("serial {serial}")));
        Self {
            id: row.id.clone(),
            path: escape_query(&row.id),
            name: row.name.clone(),
            what,
            icon: class_icon(row.class),
            online: row.state == DeviceState::Online,
            standing: standing_word(row.standing),
            lists: row.capabilities.contains(&Capability::ListMedia),
            gives: row.capabilities.contains(&Capability::FetchAsset),
            renders: row.capabilities.contains(&Capability::Render),
            captures: row.capabilities.contains(&Capability::Capture),
            on_network: !row.addresses.is_empty(),
            films: row.capabilities.contains(&Capability::LiveStream),
            problem: row.problem.clone(),
            addresses: addresses.join(" · "),
            seen: format::ago(row.last_seen, now),
            ejects: row.ejects,
            corrected: if row.class_corrected {
                class_word(row.class)
            } else {
                String::new()
            },
            gateway: row.gateway.map(|device| GatewayCard {
                device: device.to_string(),
                home: None,
            }),
        }
    }

    /// Names the home whose gateway it is, where one of `homes` has it.
    pub fn among(mut self, homes: &[HomeEntry]) -> Self {
        if let Some(gateway) = &mut self.gateway {
            let known = homes
                .iter()
                .find(|home| home.device.to_string() == gateway.device);
            gateway.home = known.map(|home| (home.home.to_string(), home.name.clone()));
        }
        self
    }
}

/// A class's word in forms.
pub fn class_word(class: DeviceClass) -> String {
    match serde_json::to_value(class) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// What plays on a device.
pub struct PlayingCard {
    /// The device's key.
    pub device: String,
    /// The device's key for an address.
    pub device_path: String,
    /// Its name.
    pub device_name: String,
    /// The title's id.
    pub title: String,
    /// The title's name.
    pub title_name: String,
    /// `playing`, `paused`, `starting`, `stopped`.
    pub state: &'static str,
    /// Position and length in words.
    pub words: String,
    /// Position, seconds.
    pub at_s: u64,
    /// Length, seconds; 0: unknown.
    pub length_s: u64,
    /// Hundredths played.
    pub percent: u64,
    /// What is wrong.
    pub problem: Option<String>,
    /// Loudness, percent; `None`: the device does not tell.
    pub volume: Option<u8>,
    /// `on`, `off`, or empty: the device does not tell.
    pub mute: &'static str,
    /// What plays after it.
    pub queue: Vec<QueueEntry>,
}

/// A title that waits for a device.
pub struct QueueEntry {
    /// Its place's name.
    pub entry: u64,
    /// The title's id.
    pub title: String,
    /// The title's name.
    pub name: String,
}

/// A transport state's word.
pub fn transport_word(state: TransportState) -> &'static str {
    match state {
        TransportState::Playing => "playing",
        TransportState::Paused => "paused",
        TransportState::Transitioning => "starting",
        TransportState::Stopped | TransportState::NoMedia => "stopped",
        TransportState::Recording | TransportState::Other => "busy",
    }
}

impl PlayingCard {
    /// A session of the playback.
    pub fn of(playing: &PlayingOn) -> Self {
        let at_s = playing.position.unwrap_or_default().as_secs();
        let length_s = playing.duration.unwrap_or_default().as_secs();
        let state = transport_word(playing.state);
        let place = match length_s {
            0 => format::clock_time(at_s),
            _ => format!(
                "{} of {}",
                format::clock_time(at_s),
                format::clock_time(length_s)
            ),
        };
        Self {
            device: playing.device.clone(),
            device_path: escape_query(&playing.device),
            device_name: playing.device_name.clone(),
            title: playing.title.to_string(),
            title_name: playing.title_name.clone(),
            state,
            words: format!("{state} · {place}"),
            at_s,
            length_s,
            percent: if length_s == 0 {
                0
            } else {
                format::percent(at_s, length_s)
            },
            problem: playing.problem.clone(),
            volume: playing.volume.map(Volume::as_percent),
            mute: match playing.mute {
                Some(Mute::On) => "on",
                Some(Mute::Off) => "off",
                None => "",
            },
            queue: playing
                .queue
                .iter()
                .map(|waiting| QueueEntry {
                    entry: waiting.entry,
                    title: waiting.title.to_string(),
                    name: waiting.name.clone(),
                })
                .collect(),
        }
    }

    /// Whether the session is alive: stopped ones without a problem or a queue need no card.
    pub fn is_alive(&self) -> bool {
        self.state != "stopped" || self.problem.is_some() || !self.queue.is_empty()
    }
}

/// An order.
pub struct OrderCard {
    /// The order's id.
    pub id: String,
    /// The title's id.
    pub title: String,
    /// The title's name.
    pub name: String,
    /// The state's word for scripts.
    pub state: &'static str,
    /// `in` or `out`.
    pub direction: &'static str,
    /// The state for a person.
    pub pill: &'static str,
    /// The pill's colour.
    pub tone: &'static str,
    /// From or to whom, and the price.
    pub sub: String,
    /// What moves: bytes, rate, path, time left.
    pub words: String,
    /// Hundredths done.
    pub percent: u64,
    /// Whether a progress bar belongs on it.
    pub moving: bool,
    /// What is wrong, what was kept, what happens next.
    pub problem: Option<String>,
    /// Whether it may be cancelled.
    pub can_cancel: bool,
    /// Arrived and playable.
    pub ready: bool,
    /// When it was made.
    pub when: String,
}

impl OrderCard {
    /// A row of the exchange.
    pub fn of(row: &OrderRow, now: jiff::Timestamp) -> Self {
        let entry = &row.entry;
        let incoming = matches!(row.direction, Direction::In);
        let (pill, tone) = order_pill(row, incoming);
        let price = if entry.price.is_zero() {
            "free".to_owned()
        } else {
            entry.price.to_string()
        };
        let peer = &row.peer_name;
        let moving = !entry.state.is_final();
        Self {
            id: entry.order.to_string(),
            title: entry.title.to_string(),
            name: row
                .title_name
                .clone()
                .unwrap_or_else(|| "A private title".to_owned()),
            state: entry.state.as_str(),
            direction: if incoming { "in" } else { "out" },
            pill,
            tone,
            sub: if incoming {
                format!("from {peer} · {price}")
            } else {
                format!("to {peer} · {price}")
            },
            words: order_words(row, incoming),
            percent: format::percent(row.bytes_done, entry.total_bytes),
            moving,
            problem: row.problem.clone().or_else(|| entry.problem.clone()),
            can_cancel: moving && incoming,
            ready: row.ready,
            when: format::ago(entry.created, now),
        }
    }
}

fn order_pill(row: &OrderRow, incoming: bool) -> (&'static str, &'static str) {
    match row.entry.state {
        OrderState::Held if incoming => ("waiting to start", "warn"),
        OrderState::Held => ("to be sent", "warn"),
        OrderState::Delivering if incoming => match row.stage {
            Stage::Receipt => ("confirming", "accent"),
            Stage::Connecting => ("connecting", "accent"),
            Stage::Paused => ("paused", "warn"),
            _ => ("arriving", "accent"),
        },
        OrderState::Delivering => ("sending", "accent"),
        OrderState::Settled if incoming && row.ready => ("ready to play", "good"),
        OrderState::Settled if incoming => ("getting the key", "accent"),
        OrderState::Settled => ("delivered", "good"),
        OrderState::Cancelled => ("cancelled", ""),
        OrderState::Failed => ("not delivered", "bad"),
    }
}

/// Bytes, rate, path and time left, or what the end was.
pub fn order_words(row: &OrderRow, incoming: bool) -> String {
    let entry = &row.entry;
    let total = format::bytes(entry.total_bytes);
    match entry.state {
        OrderState::Settled if entry.price.is_zero() => format!("{total}, complete and checked"),
        OrderState::Settled if incoming => {
            format!("{total}, complete and checked; {} paid", entry.price)
        }
        OrderState::Settled => format!("{total}, complete and checked; {} received", entry.price),
        OrderState::Cancelled | OrderState::Failed => "Nothing was charged.".to_owned(),
        OrderState::Held | OrderState::Delivering => {
            let mut parts = vec![format!("{} of {total}", format::bytes(row.bytes_done))];
            if row.rate > 0 {
                parts.push(format!("{}/s", format::bytes(row.rate)));
            }
            if let Some(path) = row.path {
                parts.push(match path {
                    mantel_protocol::receipt::Path::Direct => "direct".into(),
                    mantel_protocol::receipt::Path::Relay => "through the server's relay".into(),
                });
            }
            let left = format::left(entry.total_bytes.saturating_sub(row.bytes_done), row.rate);
            parts.extend((!left.is_empty()).then_some(left));
            parts.join(" · ")
        }
    }
}

/// One file on its way into the library.
pub struct ImportCard {
    /// The title's id.
    pub title: String,
    /// Its name.
    pub name: String,
    /// What happens to it, from where.
    pub words: String,
    /// Hundredths done, if the size is known.
    pub percent: Option<u64>,
    /// Why it failed.
    pub failed: Option<String>,
}

impl ImportCard {
    /// A row of the library's imports; `None` when it is over and well.
    pub fn of(import: &ImportProgress) -> Option<Self> {
        let from = &import.device;
        let (phase, failed) = match &import.phase {
            ImportPhase::Waiting => ("waiting", None),
            ImportPhase::Copying => ("copying and sealing", None),
            ImportPhase::Examining => ("looking inside", None),
            ImportPhase::Done => return None,
            ImportPhase::Failed(why) => ("failed", Some(why.clone())),
        };
        let size = match import.bytes_total {
            Some(total) => format!(
                "{} of {}",
                format::bytes(import.bytes_done),
                format::bytes(total)
            ),
            None => format::bytes(import.bytes_done),
        };
        Some(Self {
            title: import.title.to_string(),
            name: import.name.clone(),
            words: format!("{phase} · {size} · {from}"),
            percent: import
                .bytes_total
                .map(|total| format::percent(import.bytes_done, total)),
            failed,
        })
    }
}

/// An entry of the catalog, or a private share.
pub struct ListingCard {
    /// As a tile.
    pub tile: Tile,
    /// Who offers it.
    pub publisher: String,
    /// The price, or `free`.
    pub price: String,
    /// What the price buys.
    pub terms: String,
    /// `available`, `ordered`, `arriving` or `here`.
    pub state: &'static str,
    /// Shared with this home alone.
    pub private: bool,
    /// Offered by this home.
    pub mine: bool,
}

/// A listing's state as a word for scripts.
pub fn listing_word(state: ListingState) -> &'static str {
    match state {
        ListingState::Available => "available",
        ListingState::Ordered => "ordered",
        ListingState::Arriving => "arriving",
        ListingState::Here => "here",
    }
}

impl ListingCard {
    /// A row of the catalog.
    pub fn of(row: &Listing) -> Self {
        let id = row.title.to_string();
        let state = listing_word(row.state);
        let price = match row.price {
            Some(price) if !price.is_zero() => price.to_string(),
            _ => "free".to_owned(),
        };
        let href = match row.state {
            ListingState::Here => format!("/library/{id}"),
            ListingState::Ordered | ListingState::Arriving => "/orders".to_owned(),
            ListingState::Available if row.mine => format!("/library/{id}"),
            ListingState::Available => format!("/catalog/{id}"),
        };
        let tile = Tile {
            href,
            picture: format!("/catalog/{id}/poster"),
            name: row.name.clone(),
            over: row
                .duration_ms
                .map(|ms| format::clock_time(ms / 1000))
                .unwrap_or_default(),
            sub: String::new(),
            state,
            id,
        };
        Self {
            tile,
            publisher: row.publisher_name.clone(),
            price,
            terms: row.terms.map(terms_words).unwrap_or_default(),
            state,
            private: row.private,
            mine: row.mine,
        }
    }
}

/// Terms as a person reads them; empty when there is no limit.
pub fn terms_words(terms: Terms) -> String {
    let mut parts = Vec::new();
    if let Some(seconds) = terms.start_within_s {
        parts.push(format!("start within {}", format::span(seconds.into())));
    }
    if let Some(seconds) = terms.viewing_window_s {
        parts.push(format!("then {} to watch", format::span(seconds.into())));
    }
    match terms.plays {
        Some(1) => parts.push("play once".to_owned()),
        Some(plays) => parts.push(format!("play {plays} times")),
        None => {}
    }
    parts.join(", ")
}

/// The live sessions.
pub fn playing(site: &Site) -> Vec<PlayingCard> {
    let sessions = site.state.playback.sessions();
    let sessions = sessions.borrow();
    sessions
        .iter()
        .map(PlayingCard::of)
        .filter(PlayingCard::is_alive)
        .collect()
}

/// All orders, newest first.
pub fn orders(site: &Site) -> Vec<OrderCard> {
    let now = site.state.clock.now();
    site.state
        .exchange
        .orders()
        .borrow()
        .iter()
        .map(|row| OrderCard::of(row, now))
        .collect()
}

/// Imports under way or failed.
pub fn imports(site: &Site) -> Vec<ImportCard> {
    site.state
        .library
        .imports()
        .borrow()
        .iter()
        .filter_map(ImportCard::of)
        .collect()
}
