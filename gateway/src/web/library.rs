//! `GET /library`, and the pictures of titles.

use super::Site;
use super::live::Follow;
use super::respond::{Page, Refusal};
use super::shell::{Nav, Shell, escape_query};
use super::view::{self, ImportCard, Tile, kind_word};
use crate::library::{Matches, Wanted};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::MediaKind;
use serde::Deserialize;
use std::sync::Arc;

/// Titles on one page.
const PAGE: usize = 60;

#[derive(Template)]
#[template(path = "library.html")]
struct LibraryPage {
    follow: Follow,
    shell: Shell,
    chips: Vec<Chip>,
    q: String,
    kind: &'static str,
    tiles: Vec<Tile>,
    imports: Vec<ImportCard>,
    found: usize,
    all: usize,
    previous: Option<String>,
    next: Option<String>,
}

/// A filter.
struct Chip {
    href: String,
    word: &'static str,
    lit: bool,
}

/// What to show of the library.
#[derive(Deserialize)]
pub struct Asked {
    kind: Option<String>,
    q: Option<String>,
    page: Option<usize>,
    done: Option<String>,
}

/// `GET /library`
pub async fn page(State(site): State<Arc<Site>>, Query(asked): Query<Asked>) -> Page {
    let follow = Follow::new(&site, "library imports");
    let kind = asked.kind.as_deref().and_then(MediaKind::from_word);
    let q = asked.q.unwrap_or_default();
    let wanted = Wanted {
        kind,
        name: q.trim().to_owned(),
    };
    let library = &site.state.library;
    let failed = |e| Refusal::from_part(&e);
    let Matches { found, all } = library.matching(wanted).await.map_err(failed)?;
    let link = |kind: Option<MediaKind>, number: usize| {
        let kind = kind.map_or("", MediaKind::as_str);
        format!("/library?kind={kind}&q={}&page={number}", escape_query(&q))
    };
    let number = asked.page.unwrap_or(0).min(found.len() / PAGE);
    let shown: Vec<_> = found
        .iter()
        .skip(number * PAGE)
        .take(PAGE)
        .map(|title| title.id)
        .collect();
    let shown = library.titles(&shown).await.map_err(failed)?;
    let chip = |of: Option<MediaKind>| Chip {
        href: link(of, 0),
        word: of.map_or("All", plural),
        lit: of == kind,
    };
    Ok(super::respond::page(&LibraryPage {
        follow,
        shell: Shell::plain(&site, Nav::Library).with_notice(asked.done.as_deref()),
        chips: std::iter::once(None)
            .chain(MediaKind::ALL.map(Some))
            .map(chip)
            .collect(),
        kind: kind.map_or("", MediaKind::as_str),
        tiles: shown.iter().map(Tile::of_title).collect(),
        imports: view::imports(&site),
        found: found.len(),
        all,
        previous: number.checked_sub(1).map(|number| link(kind, number)),
        next: ((number + 1) * PAGE < found.len()).then(|| link(kind, number + 1)),
        q,
    }))
}

fn plural(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Video => "Films",
        MediaKind::Image => "Photos",
        MediaKind::Audio => "Music",
        MediaKind::Data => "Files",
    }
}

/// `GET /thumbs/{title}`: a picture of the title, or of its kind.
pub async fn thumbnail(
    State(site): State<Arc<Site>>,
    Path(title): Path<String>,
) -> Result<Response, Refusal> {
    let title: TitleId = title.parse().map_err(|_| Refusal::missing("title"))?;
    let library = &site.state.library;
    if let Some(jpeg) = library
        .thumbnail(title)
        .await
        .map_err(|e| Refusal::from_part(&e))?
    {
        return Ok(jpeg_answer(jpeg));
    }
    let known = library
        .title(title)
        .await
        .map_err(|e| Refusal::from_part(&e))?;
    Ok(placeholder(
        known.map_or(MediaKind::Data, |title| title.kind),
    ))
}

/// A JPEG for the browser that asked.
pub fn jpeg_answer(jpeg: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "image/jpeg"),
        (header::CACHE_CONTROL, "private, max-age=3600"),
    ];
    (headers, jpeg).into_response()
}

/// A quiet picture of a kind, for titles without one.
pub fn placeholder(kind: MediaKind) -> Response {
    let shape = match kind {
        MediaKind::Video => {
            r#"<rect x="-8.5" y="-6.5" width="17" height="13" rx="2"/><path d="M-2-2.5l5 2.5-5 2.5z"/>"#
        }
        MediaKind::Image => {
            r#"<rect x="-8.5" y="-7" width="17" height="14" rx="2"/><circle cx="-3" cy="-2" r="1.5"/><path d="M-7 5.5l5-4.5 3 2.5 2.5-2 3.5 3.5"/>"#
        }
        MediaKind::Audio => {
            r#"<path d="M-3 5.5V-6l10-2V3.5"/><circle cx="-5.5" cy="5.5" r="2.5"/><circle cx="4.5" cy="3.5" r="2.5"/>"#
        }
        MediaKind::Data => r#"<path d="M-5.5-8.5h7l4 4v13h-11z"/><path d="M1.5-8.5v4h4"/>"#,
    };
    let word = kind_word(kind);
    let svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="-40 -22.5 80 45"><title>{word}</title><g fill="none" stroke="#968a7e" stroke-width="1.3" stroke-linejoin="round" stroke-linecap="round">{shape}</g></svg>"##
    );
    (
        [
            (header::CONTENT_TYPE, "image/svg+xml"),
            (header::CACHE_CONTROL, "private, max-age=30"),
        ],
        svg,
    )
        .into_response()
}
