//! `GET /`: what plays, what is on its way, what arrived, what is new; and the next step for a newcomer (F24).

use super::Site;
use super::live::Follow;
use super::respond::Page;
use super::shell::{Nav, Shell};
use super::view::{self, ImportCard, OrderCard, PlayingCard, Tile};
use crate::catalog::ListingState;
use crate::devices::DeviceStanding;
use crate::library::Wanted;
use crate::link::LinkStatus;
use askama::Template;
use axum::extract::{Query, State};
use mantel_peripherals::Capability;
use serde::Deserialize;
use std::sync::Arc;

/// Titles shown as new.
const NEWEST: usize = 12;
/// Orders shown as just arrived.
const ARRIVED: usize = 3;

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    follow: Follow,
    shell: Shell,
    playing: Vec<PlayingCard>,
    under_way: Vec<OrderCard>,
    arrived: Vec<OrderCard>,
    imports: Vec<ImportCard>,
    newest: Vec<Tile>,
    more: bool,
    steps: Option<Steps>,
    new_devices: usize,
    offered: usize,
    update: Option<String>,
}

/// What a newcomer has done and what comes next.
struct Steps {
    connected: bool,
    has_source: bool,
    has_titles: bool,
    has_player: bool,
}

impl Steps {
    fn all_done(&self) -> bool {
        self.connected && self.has_source && self.has_titles && self.has_player
    }
}

/// What the form that led here did.
#[derive(Deserialize)]
pub struct After {
    /// The word of [`Shell::with_notice`].
    pub done: Option<String>,
}

/// `GET /`
pub async fn page(State(site): State<Arc<Site>>, Query(after): Query<After>) -> Page {
    let follow = Follow::new(
        &site,
        "orders playing imports library listings devices link updates",
    );
    let library = &site.state.library;
    let failed = |e| super::respond::Refusal::from_part(&e);
    let titles = library.matching(Wanted::default()).await.map_err(failed)?;
    let ready = titles.found.iter().filter(|title| title.ready);
    let newest: Vec<_> = ready.take(NEWEST).map(|title| title.id).collect();
    let newest = library.titles(&newest).await.map_err(failed)?;
    let any = titles.all > 0;
    let orders = view::orders(&site);
    let devices = site.state.devices.snapshot();
    let devices = Arc::clone(&devices.borrow());
    let admitted_with = |capability| {
        devices.iter().any(|row| {
            row.standing == DeviceStanding::Admitted && row.capabilities.contains(&capability)
        })
    };
    let steps = Steps {
        connected: *site.state.link.status().borrow() != LinkStatus::NotEnrolled,
        has_source: admitted_with(Capability::ListMedia) || any,
        has_titles: any,
        has_player: admitted_with(Capability::Render),
    };
    let offered = site.state.exchange.listings();
    let offered = offered
        .borrow()
        .iter()
        .filter(|row| !row.mine && row.state == ListingState::Available)
        .count();
    let (under_way, over): (Vec<_>, Vec<_>) = orders.into_iter().partition(|order| order.moving);
    Ok(super::respond::page(&HomePage {
        follow,
        shell: Shell::plain(&site, Nav::Home).with_notice(after.done.as_deref()),
        playing: view::playing(&site),
        under_way,
        arrived: over
            .into_iter()
            .filter(|order| order.ready)
            .take(ARRIVED)
            .collect(),
        imports: view::imports(&site),
        newest: newest.iter().map(Tile::of_title).collect(),
        more: titles.all > NEWEST,
        steps: Some(steps).filter(|steps| !steps.all_done()),
        new_devices: devices
            .iter()
            .filter(|row| row.standing == DeviceStanding::New && row.gateway.is_none())
            .count(),
        offered,
        update: super::updates::home_line(&site),
    }))
}
