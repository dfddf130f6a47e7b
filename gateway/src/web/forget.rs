//! "Forget everything" on `/admin`: the appliance erases the household's data and starts anew.

use super::Site;
use super::fields::Fields;
use super::respond::{self, Done, Page, Refusal};
use super::session::{self, Caller};
use super::shell::Shell;
use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;
use tracing::warn;

#[derive(Template)]
#[template(path = "forgotten.html")]
struct ForgottenPage {
    shell: Shell,
}

/// `POST /admin/forget`
pub async fn everything(
    State(site): State<Arc<Site>>,
    Caller(peer): Caller,
    headers: HeaderMap,
    fields: Fields,
) -> Page {
    if let Err(refusal) = session::check_password(&site, peer, fields.raw("password")).await {
        warn!(%peer, why = refusal.what, "to forget everything was refused");
        return Err(nothing_erased(refusal));
    }
    let asked = site.state.updates.forget_everything().await;
    asked.map_err(|error| nothing_erased(Refusal::from_part(&error)))?;
    warn!(%peer, "everything is forgotten, as the household wished");
    Ok(answer(&site, &headers))
}

/// The page itself, not the way to it: the gateway may have ended before a browser asks again.
fn answer(site: &Site, headers: &HeaderMap) -> Response {
    if respond::wants_json(headers) {
        return Done::to("/").into_response();
    }
    respond::page(&ForgottenPage {
        shell: Shell::bare(site),
    })
}

fn nothing_erased(mut refusal: Refusal) -> Refusal {
    if refusal.next.is_empty() {
        refusal.next = "Nothing was erased.".into();
    }
    refusal.back("/admin")
}
