//! `/tv`: the ten-foot pages. Arrow keys, OK and Back are all that is needed (F26, F63).

use super::Site;
use super::pair;
use super::play::{self, Opened};
use super::respond::{self, Done, Page, Posted};
use super::session;
use super::shell::escape_query;
use super::view::Tile;
use crate::library::{Title, TitleState};
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
}

/// A row of tiles.
struct Shelf {
    id: &'static str,
    word: &'static str,
    tiles: Vec<Tile>,
}

/// `GET /tv`: the shelves, or the code of a television that is not let in.
pub async fn home(State(site): State<Arc<Site>>, headers: HeaderMap) -> Page {
    if session::of_request(&site, &headers).await?.is_none() {
        return pair::code_page(&site, &headers);
    }
    let titles = ready(&site).await?;
    let shelf = |id, word, most, of: &dyn Fn(&Title) -> bool| Shelf {
        id,
        word,
        tiles: titles
            .iter()
            .filter(|title| of(title))
            .take(most)
            .map(Tile::of_title)
            .collect(),
    };
    let kind = |kind| move |title: &Title| title.kind == kind;
    let shelves = vec![
        shelf("new", "New", NEWEST, &|title| title.kind != MediaKind::Data),
        shelf("films", "Films", SHELF, &kind(MediaKind::Video)),
        shelf("photos", "Photos", SHELF, &kind(MediaKind::Image)),
        shelf("music", "Music", SHELF, &kind(MediaKind::Audio)),
    ];
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
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%H:%M")
            .to_string(),
        shelves: shelves
            .into_iter()
            .filter(|shelf| !shelf.tiles.is_empty())
            .collect(),
        arriving: arriving.collect(),
    }))
}

async fn ready(site: &Site) -> Result<Vec<Title>, respond::Refusal> {
    let titles = site
        .state
        .library
        .list()
        .await
        .map_err(|e| respond::Refusal::from_part(&e).back("/tv"))?;
    Ok(titles
        .into_iter()
        .filter(|title| title.state == TitleState::Ready)
        .collect())
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
        let photos: Vec<String> = ready(&site)
            .await?
            .into_iter()
            .filter(|other| other.kind == MediaKind::Image)
            .map(|other| other.id.to_string())
            .collect();
        let at = photos
            .iter()
            .position(|other| *other == title.id.to_string());
        previous = at.and_then(|at| photos.get(at.checked_sub(1)?).cloned());
        next = at.and_then(|at| photos.get(at + 1).cloned());
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
