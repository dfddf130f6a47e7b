//! `/tv`: the ten-foot pages. Arrow keys, OK and Back are all that is needed (F26, F63).

use super::Site;
use super::pair;
use super::play::{self, Opened};
use super::respond::{self, Done, Page, Posted};
use super::session;
use super::shell::escape_query;
use super::store;
use super::updates::{self, Audience, SystemNote};
use super::view::Tile;
use crate::library::{Found, Wanted};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect};
use mantel_protocol::manifest::MediaKind;
use std::sync::Arc;

/// Tiles on one shelf.
const SHELF: usize = 40;
/// Tiles on the shelf of new titles.
const NEWEST: usize = 12;

#[derive(Template)]
#[template(path = "tv.html")]
struct ShelvesPage {
    title: String,
    clock: String,
    shelves: Vec<Shelf>,
    arriving: Vec<super::view::OrderCard>,
    notes: Vec<SystemNote>,
}

/// A row of tiles.
struct Shelf {
    id: &'static str,
    word: &'static str,
    tiles: Vec<Tile>,
}

/// `GET /tv`: the shelves, or the code of a television that is not let in; before that, where to choose the password.
pub async fn home(State(site): State<Arc<Site>>, headers: HeaderMap) -> Page {
    if session::of_request(&site, &headers).await?.is_none() {
        if store::password(&site.state.db).await?.is_none() {
            return pair::first_use_page(&headers);
        }
        return pair::code_page(&site, &headers);
    }
    // What is no media cannot be shown here.
    let mut found = ready(&site).await?;
    found.retain(|title| title.kind != MediaKind::Data);
    let mut shelves = Vec::new();
    for (id, word, most, kind) in [
        ("new", "New", NEWEST, None),
        ("films", "Films", SHELF, Some(MediaKind::Video)),
        ("photos", "Photos", SHELF, Some(MediaKind::Image)),
        ("music", "Music", SHELF, Some(MediaKind::Audio)),
    ] {
        let fits = found
            .iter()
            .filter(|title| kind.is_none_or(|kind| kind == title.kind));
        let shown: Vec<_> = fits.take(most).map(|title| title.id).collect();
        let titles = site.state.library.titles(&shown).await;
        let titles = titles.map_err(|e| respond::Refusal::from_part(&e).back("/tv"))?;
        let tiles = titles.iter().map(Tile::of_title).collect();
        shelves.push(Shelf { id, word, tiles });
    }
    let arriving = super::view::orders(&site)
        .into_iter()
        .filter(|o| o.moving && o.direction == "in");
    Ok(respond::page(&ShelvesPage {
        title: site
            .state
            .link
            .enrolment()
            .map_or_else(|| "Mantel".into(), |at| at.home_name.clone()),
        clock: site
            .state
            .clock
            .now()
            .to_zoned(crate::zone::here())
            .strftime("%H:%M")
            .to_string(),
        shelves: shelves
            .into_iter()
            .filter(|shelf| !shelf.tiles.is_empty())
            .collect(),
        arriving: arriving.collect(),
        notes: updates::notes(&site, Audience::Anybody),
    }))
}

async fn ready(site: &Site) -> Result<Vec<Found>, respond::Refusal> {
    let matches = site.state.library.matching(Wanted::default()).await;
    let mut matches = matches.map_err(|e| respond::Refusal::from_part(&e).back("/tv"))?;
    matches.found.retain(|title| title.ready);
    Ok(matches.found)
}

/// `POST /tv/play/{title}`
pub async fn play(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Posted {
    let title = play::find(&site, &id)
        .await
        .map_err(|refusal| refusal.back("/tv"))?;
    let media = play::open(&site, &title)
        .await
        .map_err(|refusal| refusal.back("/tv"))?;
    let page = format!("/tv/watch/{}?media={}", title.id, escape_query(&media));
    Ok(Done::to(page).fact("media", media))
}

#[derive(Template)]
#[template(path = "tv_watch.html")]
struct WatchPage {
    title: String,
    kind: &'static str,
    media: String,
    id: String,
    previous: Option<String>,
    next: Option<String>,
}

/// `GET /tv/watch/{title}`
pub async fn watch(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(opened): Query<Opened>,
) -> Page {
    let title = play::find(&site, &id)
        .await
        .map_err(|refusal| refusal.back("/tv"))?;
    let Some(media) = opened.own_media() else {
        return Ok(Redirect::to("/tv").into_response());
    };
    let (mut previous, mut next) = (None, None);
    if title.kind == MediaKind::Image {
        let mut photos = ready(&site).await?;
        photos.retain(|other| other.kind == MediaKind::Image);
        let at = photos.iter().position(|other| other.id == title.id);
        let beside = |at: Option<usize>| Some(photos.get(at?)?.id.to_string());
        previous = beside(at.and_then(|at| at.checked_sub(1)));
        next = beside(at.map(|at| at + 1));
    }
    Ok(respond::page(&WatchPage {
        kind: title.kind.as_str(),
        id: title.id.to_string(),
        title: title.name,
        media,
        previous,
        next,
    }))
}
