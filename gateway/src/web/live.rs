//! What an open page needs to know to stay true: per area a version, which changes when the page must be fetched again,
//! and the figures that move in between.

use super::Site;
use super::view;
use serde::Serialize;
use std::fmt::Write as _;

/// The areas, as the event stream names them.
pub const AREAS: [&str; 10] = [
    "orders",
    "playing",
    "imports",
    "library",
    "listings",
    "devices",
    "homes",
    "link",
    "recordings",
    "updates",
];

/// What is told of one area.
#[derive(Serialize, Debug, PartialEq)]
pub struct News {
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    items: Vec<Item>,
}

/// Figures of one row that move.
#[derive(Serialize, Debug, PartialEq)]
struct Item {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u64>,
    /// Position of what plays, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_s: Option<u64>,
    text: String,
}

fn version(parts: impl IntoIterator<Item = String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    hasher.finalize().to_hex()[..10].to_owned()
}

/// The state of one area now.
pub fn news(site: &Site, area: &str) -> News {
    let mut items = Vec::new();
    let state = &site.state;
    let version = match area {
        "orders" => {
            let waiting = state.exchange.waiting();
            let waiting: Vec<_> = waiting
                .borrow()
                .iter()
                .map(|row| format!("{} {:?}", row.key, row.problem))
                .collect();
            let orders = view::orders(site);
            let parts = orders.into_iter().map(|row| {
                let part = format!("{} {} {:?} {}", row.id, row.pill, row.problem, row.ready);
                if row.moving {
                    items.push(Item {
                        id: row.id,
                        percent: Some(row.percent),
                        at_s: None,
                        text: row.words,
                    });
                }
                part
            });
            version(parts.chain(waiting).collect::<Vec<_>>())
        }
        "playing" => {
            let parts = view::playing(site).into_iter().map(|row| {
                let queue: Vec<u64> = row.queue.iter().map(|one| one.entry).collect();
                let part = format!(
                    "{} {} {} {:?} {:?} {} {queue:?}",
                    row.device, row.title, row.state, row.problem, row.volume, row.mute
                );
                items.push(Item {
                    id: row.device,
                    percent: Some(row.percent),
                    at_s: Some(row.at_s),
                    text: row.words,
                });
                part
            });
            version(parts.collect::<Vec<_>>())
        }
        "imports" => {
            let parts = view::imports(site).into_iter().map(|row| {
                let part = format!("{} {:?}", row.title, row.failed);
                items.push(Item {
                    id: row.title,
                    percent: row.percent,
                    at_s: None,
                    text: row.words,
                });
                part
            });
            let parts: Vec<_> = parts.collect();
            let walks = state.devices.imports();
            let walks: Vec<_> = walks
                .borrow()
                .iter()
                .map(|walk| {
                    items.push(Item {
                        id: walk.device.clone(),
                        percent: None,
                        at_s: None,
                        text: super::devices::walk_words(walk),
                    });
                    format!("{} {:?}", walk.device, walk.state)
                })
                .collect();
            version(parts.into_iter().chain(walks))
        }
        "library" => version([
            state.started.to_string(),
            state.library.changes().borrow().to_string(),
        ]),
        "listings" => {
            let listings = state.exchange.listings();
            let offers = state.exchange.offers();
            let listed = listings.borrow();
            let listed = listed
                .iter()
                .map(|row| {
                    format!(
                        "{} {} {:?} {:?} {}",
                        row.title,
                        row.name,
                        row.price,
                        row.terms,
                        view::listing_word(row.state)
                    )
                })
                .collect::<Vec<_>>();
            let offered = offers.borrow();
            let offered = offered
                .iter()
                .map(|row| format!("{} {:?} {:?}", row.title, row.waiting, row.problem))
                .collect::<Vec<_>>();
            version(listed.into_iter().chain(offered))
        }
        "devices" => {
            let devices = state.devices.snapshot();
            let devices = devices.borrow();
            let news = state.devices.news();
            let news = news.borrow();
            let senders = state.uploads.senders();
            let senders = senders.borrow();
            let sender = |row: &crate::uploads::Sender| {
                format!("{} {} {:?} {:?}", row.id.0, row.name, row.used, row.problem)
            };
            let device = |row: &crate::devices::DeviceRow| {
                let times = news.get(&row.id).map_or(0, |news| news.times);
                let standing = view::standing_word(row.standing);
                format!(
                    "{} {} {:?} {standing} {times} {:?} {:?} {:?}",
                    row.id, row.name, row.class, row.state, row.problem, row.capabilities
                )
            };
            version(devices.iter().map(device).chain(senders.iter().map(sender)))
        }
        "recordings" => {
            let parts = super::record::cards(site).into_iter().map(|card| {
                let part = card.version();
                items.push(Item {
                    id: card.device,
                    percent: Some(card.level),
                    at_s: None,
                    text: card.words,
                });
                part
            });
            version(parts.collect::<Vec<_>>())
        }
        "updates" => {
            if let Some(card) = super::updates::card(site)
                && card.percent.is_some()
            {
                items.push(Item {
                    id: "update".to_owned(),
                    percent: card.percent,
                    at_s: None,
                    text: card.words,
                });
            }
            version([super::updates::version_of(site)])
        }
        "homes" => {
            let homes = state.exchange.homes();
            let homes = homes.borrow();
            version(homes.iter().map(|row| {
                format!(
                    "{} {} {} {} {}",
                    row.home, row.name, row.online, row.may_push, row.may_pull
                )
            }))
        }
        _ => {
            let (word, _) =
                super::shell::link_words(&state.link.status().borrow(), state.clock.now());
            version([word.to_owned()])
        }
    };
    News { version, items }
}

/// The attributes that make an element follow `areas` (words with a space between).
pub struct Follow(String);

impl Follow {
    /// Follows `areas` from their state now. Make it before the rest of the page, so that nothing is missed.
    pub fn new(site: &Site, areas: &str) -> Self {
        let mut attributes = format!(r#"data-live="{areas}""#);
        for area in areas.split(' ') {
            let _ = write!(
                attributes,
                r#" data-version-{area}="{}""#,
                news(site, area).version
            );
        }
        Self(attributes)
    }
}

impl std::fmt::Display for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0) // names and hex digits only
    }
}

impl askama::filters::HtmlSafe for Follow {}
