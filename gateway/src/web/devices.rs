//! `/devices`: what is on the home's network; admitting, ignoring, renaming; browsing a source and importing from it
//! (F2, F5).

use super::Site;
use super::cameras::CameraCard;
use super::fields::Fields;
use super::format;
use super::home::After;
use super::jukebox::JukeboxCard;
use super::live::Follow;
use super::players::PlayersPart;
use super::respond::{Done, Page, Posted, Refusal, page};
use super::shell::{Icon, Nav, Shell, escape_query};
use super::view::{DeviceCard, PlayingCard, class_word};
use crate::devices::{DeviceImport, DeviceImportState, Looked};
use askama::Template;
use axum::extract::{Path, Query, State};
use mantel_peripherals::DeviceClass;
use mantel_peripherals::media::{Entry, Item, MediaKind};
use serde::Deserialize;
use std::fmt::Write as _;
use std::sync::Arc;

#[derive(Template)]
#[template(path = "devices.html")]
struct DevicesPage {
    follow: Follow,
    shell: Shell,
    new: Vec<DeviceCard>,
    admitted: Vec<DeviceCard>,
    ignored: Vec<DeviceCard>,
    gateways: Vec<DeviceCard>,
    players: PlayersPart,
    imports: Vec<Walk>,
    senders: Vec<super::senders::SenderCard>,
    undo: Option<String>,
}

/// What a household may say a device is.
const CLASSES: [DeviceClass; 9] = [
    DeviceClass::Camcorder,
    DeviceClass::Camera,
    DeviceClass::Television,
    DeviceClass::Jukebox,
    DeviceClass::MediaServer,
    DeviceClass::Speaker,
    DeviceClass::Computer,
    DeviceClass::Phone,
    DeviceClass::Other,
];

/// The latest decision in words, for the button that takes it back.
fn undo_words(site: &Site) -> Option<String> {
    let last = site.state.devices.last_decision()?;
    let ago = format::ago(last.at, site.state.clock.now());
    Some(match last.what.as_str() {
        "admitted" => format!("“{}” was let in {ago}.", last.name),
        "ignored" => format!("“{}” is ignored since {ago}.", last.name),
        "renamed" => format!("“{}” was given another name {ago}.", last.name),
        _ => format!("“{}” was said to be something else {ago}.", last.name),
    })
}

/// An import of a whole device.
struct Walk {
    device: String,
    device_path: String,
    name: String,
    running: bool,
    words: String,
    problem: Option<String>,
}

impl Walk {
    fn of(row: &DeviceImport) -> Self {
        let failed = match &row.state {
            DeviceImportState::Failed(why) => Some(why.clone()),
            _ => None,
        };
        Self {
            device: row.device.clone(),
            device_path: escape_query(&row.device),
            name: row.name.clone(),
            running: matches!(row.state, DeviceImportState::Running),
            words: walk_words(row),
            problem: failed.or_else(|| row.problem.clone()),
        }
    }
}

/// How far an import of a whole device is.
pub fn walk_words(row: &DeviceImport) -> String {
    let state = match row.state {
        DeviceImportState::Running => "importing",
        DeviceImportState::Done => "finished",
        DeviceImportState::Stopped => "stopped",
        DeviceImportState::Failed(_) => "failed",
    };
    let mut words = format!("{state} · {} found · {} imported", row.found, row.imported);
    for (count, what) in [(row.already_here, "already here"), (row.failed, "failed")] {
        if count > 0 {
            let _ = write!(words, " · {count} {what}");
        }
    }
    words
}

fn walks(site: &Site) -> Vec<Walk> {
    site.state
        .devices
        .imports()
        .borrow()
        .iter()
        .map(Walk::of)
        .collect()
}

/// `GET /devices`
pub async fn list(State(site): State<Arc<Site>>, Query(after): Query<After>) -> Page {
    let follow = Follow::new(&site, "devices imports");
    let now = site.state.clock.now();
    let homes = site.state.exchange.homes().borrow().clone();
    let cards: Vec<DeviceCard> = site
        .state
        .devices
        .snapshot()
        .borrow()
        .iter()
        .map(|row| DeviceCard::of(row, now).among(&homes))
        .collect();
    let (gateways, cards): (Vec<_>, Vec<_>) = cards
        .into_iter()
        .partition(|card| card.gateway.is_some() && card.standing != "ignored");
    let (ignored, rest): (Vec<_>, Vec<_>) = cards
        .into_iter()
        .partition(|card| card.standing == "ignored");
    let (new, admitted) = rest.into_iter().partition(|card| card.standing == "new");
    Ok(page(&DevicesPage {
        follow,
        shell: Shell::plain(&site, Nav::Devices).with_notice(after.done.as_deref()),
        new,
        admitted,
        ignored,
        gateways,
        players: PlayersPart::of(&site, now),
        imports: walks(&site),
        undo: undo_words(&site),
        senders: super::senders::cards(&site),
    }))
}

#[derive(Template)]
#[template(path = "device.html")]
struct DevicePage {
    follow: Follow,
    shell: Shell,
    device: DeviceCard,
    classes: Vec<(String, &'static str)>,
    jukebox: Option<JukeboxCard>,
    camera: Option<CameraCard>,
    walk: Option<Walk>,
    entries: Vec<EntryRow>,
    /// What was searched for.
    find: String,
    /// Query of what is shown, without the page; ends with `&`.
    query: String,
    inside: bool,
    previous: Option<u32>,
    next: Option<u32>,
    problem: Option<String>,
    left_out: u32,
    playing: Option<PlayingCard>,
    news: bool,
    recording: Option<super::record::Card>,
}

/// A line of a source's listing.
struct EntryRow {
    id: String,
    path: String,
    name: String,
    sub: String,
    icon: Icon,
    folder: bool,
    imported: bool,
}

impl EntryRow {
    fn of(entry: &Entry, imported: impl Fn(&Item) -> bool) -> Self {
        match entry {
            Entry::Container(folder) => Self {
                id: folder.id.as_str().to_owned(),
                path: escape_query(folder.id.as_str()),
                name: folder.title.clone(),
                sub: folder
                    .child_count
                    .map(|count| format!("{count} inside"))
                    .unwrap_or_default(),
                icon: Icon("folder"),
                folder: true,
                imported: false,
            },
            Entry::Item(item) => Self {
                id: item.id.as_str().to_owned(),
                path: escape_query(item.id.as_str()),
                name: item.title.clone(),
                sub: item_words(item),
                icon: Icon(match item.kind {
                    MediaKind::Video => "film",
                    MediaKind::Image => "image",
                    MediaKind::Audio => "music",
                    MediaKind::Data => "file",
                }),
                folder: false,
                imported: imported(item),
            },
        }
    }
}

fn item_words(item: &Item) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(item.artist.clone());
    parts.extend(item.date.map(|date| date.strftime("%-d %b %Y").to_string()));
    if let Some(original) = item.original() {
        parts.extend(original.duration.map(|d| format::clock_time(d.as_secs())));
        parts.extend(
            original
                .resolution
                .map(|(width, height)| format!("{width}×{height}")),
        );
        parts.extend(original.size_bytes.map(format::bytes));
    }
    parts.join(" · ")
}

/// The longest text that is searched for on a device, bytes.
const MAX_SEARCH_BYTES: usize = 128;

/// What to list of a device.
#[derive(Deserialize)]
pub struct Browse {
    object: Option<String>,
    find: Option<String>,
    page: Option<u32>,
    done: Option<String>,
}

/// `GET /devices/{device}`
pub async fn browse(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    Query(wanted): Query<Browse>,
) -> Page {
    let follow = Follow::new(&site, "devices imports library playing recordings");
    let now = site.state.clock.now();
    let homes = site.state.exchange.homes().borrow().clone();
    let card = {
        let devices = site.state.devices.snapshot();
        let devices = devices.borrow();
        devices
            .iter()
            .find(|row| row.id == device)
            .map(|row| DeviceCard::of(row, now).among(&homes))
    };
    let card = card.ok_or_else(|| Refusal::missing("device").back("/devices"))?;
    let number = wanted.page.unwrap_or(0);
    let find = wanted.find.as_deref().map(str::trim);
    let find = find.filter(|text| !text.is_empty() && text.len() <= MAX_SEARCH_BYTES);
    let looked = match (find, wanted.object.as_deref()) {
        (Some(text), _) => Looked::Named(text),
        (None, Some(id)) => Looked::In(id),
        (None, None) => Looked::Top,
    };
    let (mut entries, mut next, mut problem, mut left_out) = (Vec::new(), None, None, 0);
    if card.lists && card.standing == "admitted" {
        match site.state.devices.browse(&device, looked, number).await {
            Ok(listing) => {
                left_out = listing.page.refused;
                next = listing.page.next.map(|_| number.saturating_add(1));
                let here = |item: &Item| {
                    let ids = [Some(&item.id), item.original_id.as_ref()];
                    ids.into_iter()
                        .flatten()
                        .any(|id| listing.imported.contains(id.as_str()))
                };
                entries = listing
                    .page
                    .entries
                    .iter()
                    .map(|entry| EntryRow::of(entry, here))
                    .collect();
            }
            Err(refused) => problem = Some(Refusal::from_part(&refused).what),
        }
    }
    let mut jukebox = None;
    let known = site.state.devices.jukebox(&device);
    if let Some(found) = known.filter(|_| card.standing == "admitted" && problem.is_none()) {
        match JukeboxCard::of(&found).await {
            Ok(card) => jukebox = Some(card),
            Err(refused) => problem = Some(Refusal::from_part(&refused).what),
        }
    }
    let camera = if card.films && card.standing == "admitted" {
        let on_network = card.on_network;
        Some(CameraCard::of(&site, &device, on_network).await)
    } else {
        None
    };
    Ok(page(&DevicePage {
        camera,
        jukebox,
        follow,
        shell: Shell::plain(&site, Nav::Devices).with_notice(wanted.done.as_deref()),
        walk: walks(&site).into_iter().find(|walk| walk.device == device),
        recording: super::record::cards(&site)
            .into_iter()
            .find(|card| card.device == device),
        device: card,
        classes: CLASSES
            .iter()
            .map(|class| (class_word(*class), class.label()))
            .collect(),
        entries,
        find: find.unwrap_or_default().to_owned(),
        query: match looked {
            Looked::Named(text) => format!("find={}&", escape_query(text)),
            Looked::In(id) => format!("object={}&", escape_query(id)),
            Looked::Top => String::new(),
        },
        inside: matches!(looked, Looked::In(_)),
        previous: number.checked_sub(1),
        next,
        problem,
        left_out,
        news: site.state.devices.news().borrow().contains_key(&device),
        playing: super::view::playing(&site)
            .into_iter()
            .find(|card| card.device == device),
    }))
}

fn refused(device: &str) -> impl Fn(crate::devices::DevicesError) -> Refusal {
    let back = format!("/devices/{}", escape_query(device));
    move |error| Refusal::from_part(&error).back(back.clone())
}

/// `POST /devices/search`
pub async fn search(State(site): State<Arc<Site>>) -> Done {
    site.state.devices.search_now();
    Done::to("/devices")
}

/// `POST /devices/{device}/admit`
pub async fn admit(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Posted {
    site.state
        .devices
        .admit(&device)
        .await
        .map_err(refused(&device))?;
    Ok(Done::to("/devices?done=admitted"))
}

/// `POST /devices/{device}/ignore`
pub async fn ignore(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Posted {
    site.state
        .devices
        .ignore(&device)
        .await
        .map_err(refused(&device))?;
    Ok(Done::to("/devices?done=ignored"))
}

/// `POST /devices/{device}/eject`
pub async fn eject(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Posted {
    site.state
        .devices
        .eject(&device)
        .await
        .map_err(refused(&device))?;
    Ok(Done::to("/devices?done=ejected"))
}

/// `POST /devices/{device}/rename`
pub async fn rename(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    site.state
        .devices
        .rename(&device, fields.text("name"))
        .await
        .map_err(refused(&device))?;
    Ok(Done::to(format!(
        "/devices/{}?done=renamed",
        escape_query(&device)
    )))
}

/// `POST /devices/{device}/class`
pub async fn set_class(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    let wanted = fields.text("class");
    let class = CLASSES
        .into_iter()
        .find(|class| class_word(*class) == wanted);
    if class.is_none() && !wanted.is_empty() {
        let path = format!("/devices/{}", escape_query(&device));
        return Err(
            Refusal::field("This is not a kind of device that the gateway knows.").back(path),
        );
    }
    site.state
        .devices
        .set_class(&device, class)
        .await
        .map_err(refused(&device))?;
    Ok(Done::to(format!(
        "/devices/{}?done=class",
        escape_query(&device)
    )))
}

/// `POST /devices/undo`
pub async fn undo(State(site): State<Arc<Site>>) -> Posted {
    let undone = site.state.devices.undo().await;
    let name = undone.map_err(|error| Refusal::from_part(&error).back("/devices"))?;
    Ok(Done::to("/devices?done=undone").fact("name", name))
}

/// `POST /devices/{device}/import`
pub async fn import(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    let path = format!("/devices/{}", escape_query(&device));
    match fields.raw("object") {
        "" => {
            site.state
                .devices
                .import_all(&device)
                .await
                .map_err(refused(&device))?;
            Ok(Done::to(format!("{path}?done=importing")))
        }
        object => {
            let title = site
                .state
                .devices
                .import_one(&device, object)
                .await
                .map_err(refused(&device))?;
            Ok(
                Done::to(format!("/library/{title}?done=imported"))
                    .fact("title", title.to_string()),
            )
        }
    }
}

/// `POST /devices/{device}/import/cancel`
pub async fn cancel_import(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Done {
    site.state.devices.cancel_import(&device);
    Done::to(format!(
        "/devices/{}?done=import-cancelled",
        escape_query(&device)
    ))
}
