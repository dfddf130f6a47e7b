//! `/catalog`: what may be ordered, from the gateway's own copy when the server is away; and the page that says what an
//! order costs before it is placed (F12, F14, F20).

use super::Site;
use super::fields::Fields;
use super::format;
use super::library::{jpeg_answer, placeholder};
use super::live::Follow;
use super::respond::{Done, Page, Posted, Refusal, page};
use super::shell::{Nav, Shell};
use super::title::other_homes;
use super::view::{ListingCard, kind_word, terms_words};
use crate::catalog::{Listing, ListingState};
use crate::exchange::Ordered;
use crate::library::TitleState;
use crate::link::LinkStatus;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::money::Money;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Template)]
#[template(path = "catalog.html")]
struct CatalogPage {
    follow: Follow,
    shell: Shell,
    connected: bool,
    offline: bool,
    q: String,
    shared: Vec<ListingCard>,
    offered: Vec<ListingCard>,
    mine: Vec<ListingCard>,
}

/// What to show of the catalog.
#[derive(Deserialize)]
pub struct Wanted {
    q: Option<String>,
    done: Option<String>,
}

/// `GET /catalog`
pub async fn list(State(site): State<Arc<Site>>, Query(wanted): Query<Wanted>) -> Page {
    let follow = Follow::new(&site, "listings link");
    let q = wanted.q.unwrap_or_default();
    let needle = q.trim().to_lowercase();
    let cards: Vec<ListingCard> = site
        .state
        .exchange
        .listings()
        .borrow()
        .iter()
        .filter(|row| needle.is_empty() || row.name.to_lowercase().contains(&needle))
        .map(ListingCard::of)
        .collect();
    let (mine, others): (Vec<_>, Vec<_>) = cards.into_iter().partition(|card| card.mine);
    let (shared, offered) = others.into_iter().partition(|card| card.private);
    let offline = matches!(
        *site.state.link.status().borrow(),
        LinkStatus::Offline { .. }
    );
    Ok(page(&CatalogPage {
        follow,
        shell: Shell::plain(&site, Nav::Catalog).with_notice(wanted.done.as_deref()),
        connected: site.state.link.enrolment().is_some(),
        offline,
        q,
        shared,
        offered,
        mine,
    }))
}

fn listing(site: &Site, id: &str) -> Result<Listing, Refusal> {
    let missing = || {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "This title is not offered any more.",
            "Nothing was ordered and nothing is charged. The catalog shows what is offered now.",
        )
        .back("/catalog")
    };
    let id: TitleId = id.parse().map_err(|_| missing())?;
    let listings = site.state.exchange.listings();
    let listings = listings.borrow();
    listings
        .iter()
        .find(|row| row.title == id)
        .cloned()
        .ok_or_else(missing)
}

#[derive(Template)]
#[template(path = "order.html")]
struct ConfirmPage {
    shell: Shell,
    id: String,
    name: String,
    facts: Vec<(&'static str, String)>,
    free: bool,
    price: String,
    plain_price: String,
    terms: String,
    publisher: String,
    account: Option<Account>,
    account_problem: Option<String>,
    homes: Vec<(String, String)>,
    /// Why it cannot be ordered here now; a gift may still be possible.
    not_for_us: Option<&'static str>,
    offline: bool,
}

/// The account against the price.
struct Account {
    available: String,
    after: String,
    short: bool,
    active: bool,
}

/// `GET /catalog/{title}`
pub async fn confirm(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Page {
    let row = listing(&site, &id)?;
    let price = row.price.filter(|price| !price.is_zero());
    let (account, account_problem) = match site.state.exchange.account().await {
        Ok(account) => {
            let cost = price.map_or(0, |price| price.minor);
            let after = Money::new(
                account.available.minor.saturating_sub(cost),
                account.available.currency,
            );
            let words = Account {
                available: account.available.to_string(),
                after: after.to_string(),
                short: after.minor < 0,
                active: account.active,
            };
            (Some(words), None)
        }
        Err(refused) => (None, Some(Refusal::from_part(&refused).what)),
    };
    let mut facts = vec![
        ("Kind", kind_word(row.kind).to_owned()),
        ("Offered by", row.publisher_name.clone()),
    ];
    facts.extend(row.recorded.map(|at| ("Taken", format::date(at))));
    facts.extend(
        row.duration_ms
            .map(|ms| ("Length", format::clock_time(ms / 1000))),
    );
    facts.push(("To be transferred", format::bytes(row.bytes)));
    let not_for_us = match row.state {
        _ if row.mine => Some("This home offers the title itself."),
        ListingState::Available => None,
        ListingState::Ordered | ListingState::Arriving => {
            Some("This home has ordered it already; it is on its way.")
        }
        ListingState::Here => Some("This home has it already."),
    };
    Ok(page(&ConfirmPage {
        shell: Shell::plain(&site, Nav::Catalog),
        id: row.title.to_string(),
        facts,
        free: price.is_none(),
        price: price.map_or("free".to_owned(), |price| price.to_string()),
        plain_price: price.map(plain_price).unwrap_or_default(),
        terms: row.terms.map(terms_words).unwrap_or_default(),
        publisher: row.publisher_name,
        account,
        account_problem,
        homes: if row.private {
            Vec::new()
        } else {
            gift_homes(&site, row.publisher)
        },
        not_for_us,
        offline: matches!(
            *site.state.link.status().borrow(),
            LinkStatus::Offline { .. }
        ),
        name: row.name,
    }))
}

fn gift_homes(site: &Site, publisher: HomeId) -> Vec<(String, String)> {
    let homes = other_homes(site)
        .into_iter()
        .filter(|row| row.home != publisher);
    homes.map(|row| (row.home.to_string(), row.name)).collect()
}

/// A price without its currency, as [`Money::parse`] reads it.
fn plain_price(price: Money) -> String {
    price
        .to_string()
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// `POST /catalog/{title}/order`
pub async fn order(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    fields: Fields,
) -> Posted {
    let row = listing(&site, &id)?;
    let back = format!("/catalog/{}", row.title);
    let price = row.price.filter(|_| !fields.text("max_price").is_empty());
    let most = price
        .map(|price| Money::parse(fields.text("max_price"), price.currency))
        .transpose();
    let most =
        most.map_err(|_| Refusal::field("The price must look like 2.50.").back(back.clone()))?;
    if let (Some(price), Some(most)) = (price, most)
        && most.minor < price.minor
    {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!("The price changed to {price} since the page was made."),
            "Nothing was ordered and nothing is charged. Look at the price now and decide again.",
        )
        .back(back));
    }
    let receiver: Option<HomeId> = match fields.text("receiver") {
        "" => None,
        home => Some(
            home.parse()
                .map_err(|_| Refusal::missing("home").back(back.clone()))?,
        ),
    };
    let ordered = site.state.exchange.order(row.title, receiver, most).await;
    Ok(
        match ordered.map_err(|e| Refusal::from_part(&e).back(back))? {
            Ordered::Placed(order) => {
                Done::to(format!("/orders?done=ordered#{order}")).fact("order", order.to_string())
            }
            Ordered::Waiting => Done::to("/orders?done=order-waiting").fact("waiting", true),
        },
    )
}

/// `GET /catalog/{title}/poster`
pub async fn poster(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let row = listing(&site, &id)?;
    let here = site
        .state
        .library
        .title(row.title)
        .await
        .map_err(|e| Refusal::from_part(&e))?;
    if here.is_some_and(|title| title.state == TitleState::Ready)
        && let Some(jpeg) = site
            .state
            .library
            .thumbnail(row.title)
            .await
            .map_err(|e| Refusal::from_part(&e))?
    {
        return Ok(jpeg_answer(jpeg));
    }
    let poster = if row.has_poster {
        site.state
            .catalog
            .poster(row.title)
            .await
            .map_err(|e| Refusal::from_part(&e))?
    } else {
        None
    };
    Ok(poster.map_or_else(|| placeholder(row.kind), jpeg_answer))
}
