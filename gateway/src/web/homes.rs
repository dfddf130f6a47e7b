//! `/homes`: the other homes, the look-up by address, and what a home offers (F5, F6, F10).

use super::Site;
use super::live::Follow;
use super::respond::{Page, Refusal, page};
use super::shell::{Nav, Shell};
use super::title::other_homes;
use super::view::ListingCard;
use askama::Template;
use axum::extract::{Path, Query, State};
use mantel_protocol::api::HomeEntry;
use mantel_protocol::ids::HomeId;
use serde::Deserialize;
use std::sync::Arc;

#[derive(Template)]
#[template(path = "homes.html")]
struct HomesPage {
    follow: Follow,
    shell: Shell,
    connected: bool,
    own: Option<String>,
    homes: Vec<HomeRow>,
    find: String,
    found: Option<Vec<HomeRow>>,
    problem: Option<Refusal>,
}

/// Another home.
struct HomeRow {
    id: String,
    name: String,
    online: bool,
    may_push: bool,
    may_pull: bool,
    offers: usize,
    own: bool,
}

fn row(site: &Site, entry: HomeEntry) -> HomeRow {
    let listings = site.state.exchange.listings();
    let offers = listings
        .borrow()
        .iter()
        .filter(|listing| listing.publisher == entry.home)
        .count();
    HomeRow {
        id: entry.home.to_string(),
        online: entry.online,
        may_push: entry.may_push,
        may_pull: entry.may_pull,
        offers,
        own: site
            .state
            .link
            .enrolment()
            .is_some_and(|at| at.home == entry.home),
        name: entry.name,
    }
}

/// What to look up.
#[derive(Deserialize)]
pub struct Wanted {
    find: Option<String>,
}

/// `GET /homes`
pub async fn list(State(site): State<Arc<Site>>, Query(wanted): Query<Wanted>) -> Page {
    let follow = Follow::new(&site, "homes listings link");
    let find = wanted
        .find
        .map(|text| text.trim().chars().take(100).collect::<String>())
        .unwrap_or_default();
    let (mut found, mut problem) = (None, None);
    if !find.is_empty() {
        match site.state.exchange.look_up(&find).await {
            Ok(entries) => {
                found = Some(entries.into_iter().map(|entry| row(&site, entry)).collect());
            }
            Err(refused) => problem = Some(Refusal::from_part(&refused)),
        }
    }
    let enrolment = site.state.link.enrolment();
    Ok(page(&HomesPage {
        follow,
        shell: Shell::plain(&site, Nav::Homes),
        connected: enrolment.is_some(),
        own: enrolment.map(|at| at.home_name.clone()),
        homes: other_homes(&site)
            .into_iter()
            .map(|entry| row(&site, entry))
            .collect(),
        find,
        found,
        problem,
    }))
}

#[derive(Template)]
#[template(path = "neighbour.html")]
struct NeighbourPage {
    follow: Follow,
    shell: Shell,
    home: HomeRow,
    listings: Vec<ListingCard>,
}

/// `GET /homes/{home}`
pub async fn one(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Page {
    let follow = Follow::new(&site, "homes listings");
    let missing = || Refusal::missing("home").back("/homes");
    let id: HomeId = id.parse().map_err(|_| missing())?;
    let entry = other_homes(&site)
        .into_iter()
        .find(|row| row.home == id)
        .ok_or_else(missing)?;
    let listings = site.state.exchange.listings();
    let listings = listings
        .borrow()
        .iter()
        .filter(|row| row.publisher == id)
        .map(ListingCard::of)
        .collect();
    Ok(page(&NeighbourPage {
        follow,
        shell: Shell::plain(&site, Nav::Homes),
        home: row(&site, entry),
        listings,
    }))
}
