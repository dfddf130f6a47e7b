//! `/login` and `/logout`.

use super::Site;
use super::fields::Fields;
use super::respond::{self, Done, Page, Posted, Refusal, dress_form};
use super::session::{self, Caller, Session};
use super::shell::Shell;
use super::store::{self, SessionKind};
use askama::Template;
use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use std::sync::Arc;
use tracing::{info, warn};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    shell: Shell,
    next: String,
    refused: Option<Refusal>,
}

/// Where to go after log-in.
#[derive(Deserialize)]
pub struct Wanted {
    next: Option<String>,
}

/// `GET /login`
pub async fn page(
    State(site): State<Arc<Site>>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Page {
    if store::password(&site.state.db).await?.is_none() {
        return Ok(Redirect::to("/setup").into_response());
    }
    let next = session::own_path(wanted.next.as_deref().unwrap_or("/")).to_owned();
    let there = session::of_request(&site, &headers).await?;
    if there.is_some_and(|session| session.0.kind == SessionKind::Household) {
        return Ok(Redirect::to(&next).into_response());
    }
    Ok(render(&site, next, None))
}

fn render(site: &Site, next: String, refused: Option<Refusal>) -> Response {
    respond::page(&LoginPage {
        shell: Shell::bare(site),
        next,
        refused,
    })
}

/// `POST /login`
pub async fn log_in(
    State(site): State<Arc<Site>>,
    Caller(peer): Caller,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    let next = session::own_path(fields.text("next")).to_owned();
    let entered: Posted = async {
        session::check_password(&site, peer, fields.raw("password")).await?;
        let label = session::browser_label(&headers);
        let cookie = session::begin(&site, SessionKind::Household, &label).await?;
        info!(%peer, browser = label, "logged in");
        Ok(Done::to(next.clone()).cookie(cookie))
    }
    .await;
    if let Err(refusal) = &entered {
        warn!(%peer, why = refusal.what, "log-in refused");
    }
    dress_form(entered, &headers, |refused| {
        render(&site, next, Some(refused))
    })
}

/// `POST /logout`
pub async fn log_out(
    State(site): State<Arc<Site>>,
    Extension(session): Extension<Session>,
) -> Posted {
    session::end(&site, &session).await
}
