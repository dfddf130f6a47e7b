//! `/library/{title}`: one title, and everything a household does with it.

use super::Site;
use super::fields::Fields;
use super::format;
use super::home::After;
use super::live::Follow;
use super::play::find;
use super::respond::{Done, Page, Posted, Refusal};
use super::shell::{Icon, Nav, Shell};
use super::view::{self, DeviceCard, OrderCard, PlayingCard, kind_icon, kind_word, state_word};
use crate::exchange::{OfferMode, Offered, Ordered, Poster};
use crate::library::{Origin, Title, TitleState};
use crate::rights::Standing;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use mantel_protocol::api::HomeEntry;
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::license::Terms;
use mantel_protocol::money::{Currency, Money};
use std::sync::Arc;

/// The longest time that an offer may grant, days.
const MAX_DAYS: u32 = 3_650;
/// The longest viewing window, hours.
const MAX_HOURS: u32 = 8_760;
/// The most plays that an offer may grant.
const MAX_PLAYS: u32 = 1_000;

#[derive(Template)]
#[template(path = "title.html")]
struct TitlePage {
    follow: Follow,
    shell: Shell,
    id: String,
    name: String,
    kind: &'static str,
    icon: Icon,
    state: &'static str,
    facts: Vec<(&'static str, String)>,
    note: Option<String>,
    own: bool,
    ready: bool,
    is_image: bool,
    /// Why it cannot be played; `None`: it can.
    no_play: Option<String>,
    playing: Vec<PlayingCard>,
    /// Devices on which something plays.
    busy: Vec<String>,
    players: Vec<DeviceCard>,
    players_to_admit: usize,
    order: Option<OrderCard>,
    offer: Option<Offer>,
    homes: Vec<Neighbour>,
    connected: bool,
    currency: String,
}

impl TitlePage {
    /// Whether something plays on a device, after which the title may play.
    fn is_busy(&self, device: &str) -> bool {
        self.busy.iter().any(|busy| busy == device)
    }
}

/// How the title is offered now.
struct Offer {
    words: String,
    waiting: bool,
    problem: Option<String>,
}

/// Another home that the title may go to.
struct Neighbour {
    id: String,
    name: String,
    online: bool,
    may_push: bool,
    shared: bool,
}

/// Other homes, without this one.
pub fn other_homes(site: &Site) -> Vec<HomeEntry> {
    let own = site.state.link.enrolment().map(|at| at.home);
    site.state
        .exchange
        .homes()
        .borrow()
        .iter()
        .filter(|row| Some(row.home) != own)
        .cloned()
        .collect()
}

fn facts_of(title: &Title) -> Vec<(&'static str, String)> {
    let mut facts = vec![("Kind", kind_word(title.kind).to_owned())];
    facts.push(match &title.origin {
        Origin::Own { device } => ("From", device.clone()),
        Origin::Home { name, .. } => ("From the home", name.clone()),
    });
    facts.extend(title.recorded.map(|at| ("Taken", format::date_time(at))));
    facts.extend(
        title
            .duration_ms()
            .map(|ms| ("Length", format::clock_time(ms / 1000))),
    );
    if let Some(asset) = title.main_asset() {
        if let (Some(width), Some(height)) = (asset.width, asset.height) {
            facts.push(("Picture", format!("{width} × {height}")));
        }
        let codecs = asset
            .codecs
            .as_deref()
            .map(|codecs| format!(" ({codecs})"))
            .unwrap_or_default();
        facts.push(("Format", format!("{}{codecs}", asset.mime)));
        facts.push(("Size", format::bytes(title.plain_bytes())));
    }
    facts.push(("Added", format::date_time(title.added)));
    facts
}

fn standing_words(standing: &Standing) -> (Option<String>, Option<String>) {
    match standing {
        Standing::Own | Standing::Shared => (None, None),
        Standing::Licensed {
            start_by,
            until,
            plays_left,
        } => {
            let mut words: Vec<String> = Vec::new();
            words.extend(until.map(|at| format!("until {}", format::date_time(at))));
            if until.is_none() {
                words.extend(start_by.map(|at| format!("start by {}", format::date_time(at))));
            }
            words.extend(plays_left.map(|n| format!("{n} plays left")));
            (
                Some(if words.is_empty() {
                    "bought, no end".into()
                } else {
                    words.join(", ")
                }),
                None,
            )
        }
        Standing::Ended(refusal) => (None, Some(super::respond::sentence(&refusal.to_string()))),
        Standing::Needs => (
            None,
            Some("Its key is not here yet. It comes by itself once the order is complete.".into()),
        ),
    }
}

/// `GET /library/{title}`
pub async fn page(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(after): Query<After>,
) -> Page {
    let follow = Follow::new(&site, "library playing orders listings devices homes");
    let title = find(&site, &id).await?;
    let now = site.state.clock.now();
    let standing = site
        .state
        .rights
        .standing(title.id)
        .await
        .map_err(|e| Refusal::from_part(&e).back("/library"))?;
    let (right, refused) = standing_words(&standing);
    let mut facts = facts_of(&title);
    facts.extend(right.map(|words| ("May be played", words)));
    let ready = title.state == TitleState::Ready;
    let no_play = match title.state {
        TitleState::Ready => refused,
        TitleState::Importing => {
            Some("It is being imported. It can be played when that is done.".into())
        }
        TitleState::Arriving => {
            Some("It is on its way. It can be played when it is complete.".into())
        }
    };
    let players: Vec<DeviceCard> = site
        .state
        .devices
        .snapshot()
        .borrow()
        .iter()
        .map(|row| DeviceCard::of(row, now))
        .filter(|card| card.renders && card.standing != "ignored")
        .collect();
    let players_to_admit = players.iter().filter(|card| card.standing == "new").count();
    let own = matches!(title.origin, Origin::Own { .. });
    let id = title.id.to_string();
    Ok(super::respond::page(&TitlePage {
        follow,
        shell: Shell::plain(&site, Nav::Library).with_notice(after.done.as_deref()),
        name: title.name.clone(),
        kind: title.kind.as_str(),
        icon: kind_icon(title.kind),
        state: state_word(title.state),
        facts,
        note: title.note.clone(),
        own,
        ready,
        is_image: title.kind == mantel_protocol::manifest::MediaKind::Image,
        no_play,
        busy: view::playing(&site)
            .into_iter()
            .map(|card| card.device)
            .collect(),
        playing: view::playing(&site)
            .into_iter()
            .filter(|card| card.title == id)
            .collect(),
        players: players
            .into_iter()
            .filter(|card| card.standing == "admitted")
            .collect(),
        players_to_admit,
        order: view::orders(&site)
            .into_iter()
            .find(|card| card.title == id && card.moving && card.direction == "in"),
        offer: offer_of(&site, title.id),
        homes: neighbours(&site, title.id),
        connected: site.state.link.enrolment().is_some(),
        currency: currency_shown(&site).to_string(),
        id,
    }))
}

fn offer_of(site: &Site, title: TitleId) -> Option<Offer> {
    let offers = site.state.exchange.offers();
    let offers = offers.borrow();
    let row = offers.iter().find(|row| row.title == title)?;
    let words = match &row.mode {
        OfferMode::Catalog { price } if price.is_zero() => "In the catalog, free".to_owned(),
        OfferMode::Catalog { price } => format!("In the catalog for {price}"),
        OfferMode::Private { homes } => {
            let known = site.state.exchange.homes();
            let known = known.borrow();
            let name = |id: &HomeId| {
                known
                    .iter()
                    .find(|row| row.home == *id)
                    .map(|row| row.name.clone())
            };
            let names: Vec<String> = homes.iter().filter_map(name).collect();
            if names.is_empty() {
                "Shared privately".to_owned()
            } else {
                format!("Shared privately with {}", names.join(", "))
            }
        }
    };
    Some(Offer {
        words,
        waiting: row.waiting,
        problem: row.problem.clone(),
    })
}

fn neighbours(site: &Site, title: TitleId) -> Vec<Neighbour> {
    let offers = site.state.exchange.offers();
    let offers = offers.borrow();
    let audience = offers
        .iter()
        .find(|row| row.title == title)
        .map(|row| &row.mode);
    let shared =
        |home| matches!(audience, Some(OfferMode::Private { homes }) if homes.contains(&home));
    other_homes(site)
        .into_iter()
        .map(|row| Neighbour {
            id: row.home.to_string(),
            online: row.online,
            may_push: row.may_push,
            shared: shared(row.home),
            name: row.name,
        })
        .collect()
}

/// The currency that prices are typed in, as far as it is known without asking the server.
fn currency_shown(site: &Site) -> Currency {
    let listings = site.state.exchange.listings();
    let listed = listings
        .borrow()
        .iter()
        .find_map(|row| row.price)
        .map(|price| price.currency);
    listed.unwrap_or(Currency::EUR)
}

fn part(id: &str) -> impl Fn(crate::exchange::ExchangeError) -> Refusal {
    let back = format!("/library/{id}");
    move |error| Refusal::from_part(&error).back(back.clone())
}

fn offered_to(id: &str, word: &str, offered: Offered) -> Done {
    match offered {
        Offered::Published => Done::to(format!("/library/{id}?done={word}")),
        Offered::Waiting => {
            Done::to(format!("/library/{id}?done=offer-waiting")).fact("waiting", true)
        }
    }
}

/// `POST /library/{title}/rename`
pub async fn rename(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    fields: Fields,
) -> Posted {
    let title = find(&site, &id).await?;
    let renamed = site
        .state
        .library
        .rename(title.id, fields.text("name"))
        .await;
    renamed.map_err(|e| Refusal::from_part(&e).back(format!("/library/{id}")))?;
    Ok(Done::to(format!("/library/{id}?done=renamed")))
}

/// `POST /library/{title}/offer`
pub async fn offer(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    fields: Fields,
) -> Posted {
    let title = find(&site, &id).await?;
    let back = |refusal: Refusal| refusal.back(format!("/library/{id}"));
    let currency = match site.state.exchange.account().await {
        Ok(account) => account.available.currency,
        Err(_) => currency_shown(&site), // the server is away: the offer waits, and the server checks it
    };
    let price = Money::parse(fields.text("price"), currency)
        .map_err(|_| back(Refusal::field("The price must look like 2.50.")))?;
    let days = fields
        .number("start_days", "The days to start", MAX_DAYS)
        .map_err(back)?;
    let hours = fields
        .number("viewing_hours", "The hours to watch", MAX_HOURS)
        .map_err(back)?;
    let terms = Terms {
        start_within_s: days.map(|days| days * 86_400),
        viewing_window_s: hours.map(|hours| hours * 3_600),
        plays: fields
            .number("plays", "The number of plays", MAX_PLAYS)
            .map_err(back)?,
    };
    let poster = if fields.text("poster").is_empty() {
        Poster::Hide
    } else {
        Poster::Show
    };
    let offered = site
        .state
        .exchange
        .offer_catalog(title.id, price, terms, poster)
        .await
        .map_err(part(&id))?;
    Ok(offered_to(&id, "offered", offered))
}

/// `POST /library/{title}/withdraw`
pub async fn withdraw(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Posted {
    let title = find(&site, &id).await?;
    let offered = site
        .state
        .exchange
        .withdraw(title.id)
        .await
        .map_err(part(&id))?;
    Ok(offered_to(&id, "withdrawn", offered))
}

/// `POST /library/{title}/share`
pub async fn share(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    fields: Fields,
) -> Posted {
    let title = find(&site, &id).await?;
    let homes: Result<Vec<HomeId>, _> = fields.all("home").map(str::parse).collect();
    let homes = homes.map_err(|_| Refusal::missing("home").back(format!("/library/{id}")))?;
    if homes.is_empty() {
        return Err(Refusal::field("Choose at least one home to share with.")
            .back(format!("/library/{id}")));
    }
    let offered = site
        .state
        .exchange
        .share(title.id, &homes)
        .await
        .map_err(part(&id))?;
    Ok(offered_to(&id, "shared", offered))
}

/// `POST /library/{title}/push`
pub async fn push(State(site): State<Arc<Site>>, Path(id): Path<String>, fields: Fields) -> Posted {
    let title = find(&site, &id).await?;
    let home: HomeId = fields
        .text("home")
        .parse()
        .map_err(|_| Refusal::missing("home").back(format!("/library/{id}")))?;
    Ok(
        match site
            .state
            .exchange
            .push(title.id, home)
            .await
            .map_err(part(&id))?
        {
            Ordered::Placed(order) => {
                Done::to(format!("/orders?done=pushed#{order}")).fact("order", order.to_string())
            }
            Ordered::Waiting => Done::to("/orders?done=order-waiting").fact("waiting", true),
        },
    )
}

#[derive(Template)]
#[template(path = "remove.html")]
struct RemovePage {
    shell: Shell,
    id: String,
    name: String,
    own: bool,
    size: String,
    offer: Option<Offer>,
}

/// `GET /library/{title}/remove`
pub async fn confirm_remove(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Page {
    let title = find(&site, &id).await?;
    Ok(super::respond::page(&RemovePage {
        shell: Shell::plain(&site, Nav::Library),
        id: title.id.to_string(),
        name: title.name.clone(),
        own: matches!(title.origin, Origin::Own { .. }),
        size: format::bytes(title.sealed_bytes()),
        offer: offer_of(&site, title.id),
    }))
}

/// `POST /library/{title}/remove`
pub async fn remove(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Posted {
    let title = find(&site, &id).await?;
    let offered = offer_of(&site, title.id).is_some();
    if offered {
        // Others would order what is no longer here.
        site.state
            .exchange
            .withdraw(title.id)
            .await
            .map_err(part(&id))?;
    }
    let playing = view::playing(&site)
        .into_iter()
        .any(|card| card.title == id && card.state != "stopped");
    if playing {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "It is playing on a device.",
            "Nothing was removed. Stop it first, then remove it.",
        )
        .back(format!("/library/{id}")));
    }
    site.state
        .library
        .remove(title.id)
        .await
        .map_err(|e| Refusal::from_part(&e).back(format!("/library/{id}")))?;
    Ok(Done::to("/library?done=removed"))
}
