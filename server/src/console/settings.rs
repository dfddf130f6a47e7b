//! Settings: who this server is, and the operator's password.

use super::access::same_password;
use super::form::Fields;
use super::guard;
use super::shell::{Failure, Noticed, Page, Shell, done};
use crate::customers::operator::MIN_PASSWORD_CHARS;
use crate::state::Core;
use askama::Template;
use axum::extract::{ConnectInfo, Query, State};
use axum::response::{IntoResponse, Response};
use mantel_protocol::api::ServerCard;
use mantel_protocol::money::Currency;
use mantel_runtime::http::Peer;

const SECTION: &str = "/console/settings";

#[derive(Template)]
#[template(path = "console/settings.html")]
struct SettingsPage {
    shell: Shell,
    card: ServerCard,
    pin: String,
    currency: Currency,
    fee: String,
    least: usize,
}

/// `GET /console/settings`.
pub(super) async fn page(
    State(core): State<Core>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let permille = core.server.fee_permille();
    Ok(Page(SettingsPage {
        shell: Shell::new(&core, "Settings", SECTION, noticed.notice.as_deref()),
        card: core.server.card(),
        pin: core.server.pin_text(),
        currency: core.server.currency(),
        fee: format!("{}.{} %", permille / 10, permille % 10),
        least: MIN_PASSWORD_CHARS,
    }))
}

/// `POST /console/settings/password`.
pub(super) async fn change_password(
    State(core): State<Core>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    fields: Fields,
) -> Result<Response, Failure> {
    let new = same_password(&fields, "new")?;
    core.operator
        .change_password(fields.raw("old"), new, peer.0.ip())
        .await?;
    // Every session ends with the old password; this browser gets a new one.
    let cookie = core.operator.log_in(new, peer.0.ip()).await?;
    Ok((guard::set_cookie(&cookie), done(SECTION, "password")).into_response())
}
