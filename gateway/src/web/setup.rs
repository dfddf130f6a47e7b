//! First use: `/setup` chooses the password, `/setup/server` connects the home to its server (F33).

use super::Site;
use super::fields::Fields;
use super::respond::{Done, Page, Posted, Refusal, dress_form, page};
use super::session::{self, Caller};
use super::shell::Shell;
use super::store::{self, SessionKind};
use crate::zone;
use askama::Template;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use std::net::IpAddr;
use std::sync::Arc;
use tracing::{info, warn};

#[derive(Template)]
#[template(path = "setup.html")]
struct PasswordPage {
    shell: Shell,
    min_chars: usize,
    refused: Option<Refusal>,
}

#[derive(Template)]
#[template(path = "setup_server.html")]
struct ServerPage {
    shell: Shell,
    connected: bool,
    server: String,
    link: String,
    home_name: String,
    refused: Option<Refusal>,
}

/// `GET /setup`
pub async fn password_page(State(site): State<Arc<Site>>) -> Page {
    if store::password(&site.state.db).await?.is_some() {
        return Ok(Redirect::to("/").into_response());
    }
    Ok(render_password(&site, None))
}

fn render_password(site: &Site, refused: Option<Refusal>) -> Response {
    page(&PasswordPage {
        shell: Shell::bare(site),
        min_chars: session::MIN_PASSWORD_CHARS,
        refused,
    })
}

/// Whether a `Host` header names this box as a home names it, and not by a name in the public DNS that someone else may
/// have pointed here (DNS rebinding): only then may the first password be chosen.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => {
            name
        }
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let local = [
        ".local",
        ".localhost",
        ".lan",
        ".home",
        ".internal",
        ".home.arpa",
        ".box",
    ];
    bare.parse::<IpAddr>().is_ok()
        || (!name.is_empty() && !name.contains('.'))
        || local
            .iter()
            .any(|end| name.to_ascii_lowercase().ends_with(end))
}

/// `POST /setup`
pub async fn choose_password(
    State(site): State<Arc<Site>>,
    Caller(peer): Caller,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    let chosen: Posted = async {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        if !is_own_name(host) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "For the first password, open this page by the gateway's address at home.",
                "That is its IP address or mantel.local. Nothing was changed.",
            ));
        }
        let again = Some(fields.raw("again")).filter(|again| !again.is_empty());
        session::check_new_password(fields.raw("password"), again)?;
        let phc = session::password_hash(&site, fields.raw("password")).await?;
        if !store::set_first_password(&site.state.db, phc, site.now_s()).await? {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "A password has been chosen already.",
                "Log in with it.",
            )
            .back("/login"));
        }
        info!(%peer, "the household's password was chosen");
        // The browser's; whatever is wrong with it can be put right in /admin.
        if let Err(error) = zone::set(&site.state.db, fields.text("zone")).await {
            info!(%error, "the browser told no time zone");
        }
        let label = session::browser_label(&headers);
        let cookie = session::begin(&site, SessionKind::Household, &label).await?;
        Ok(Done::to("/setup/server").cookie(cookie))
    }
    .await;
    dress_form(chosen, &headers, |refused| {
        render_password(&site, Some(refused))
    })
}

fn render_server(site: &Site, link: &str, home_name: &str, refused: Option<Refusal>) -> Response {
    let enrolment = site.state.link.enrolment();
    page(&ServerPage {
        shell: Shell::bare(site),
        connected: enrolment.is_some(),
        server: enrolment
            .map(|at| format!("{} ({})", at.server.name, at.host))
            .unwrap_or_default(),
        link: link.to_owned(),
        home_name: home_name.to_owned(),
        refused,
    })
}

/// `GET /setup/server`
pub async fn server_page(State(site): State<Arc<Site>>) -> Response {
    render_server(&site, "", "", None)
}

/// `POST /setup/server`
pub async fn connect(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    let (link, name) = (fields.text("link"), fields.text("home_name"));
    let name = if name.is_empty() { "Our home" } else { name };
    let connected: Posted = match site.state.link.enrol(link, name).await {
        Ok(()) => {
            info!(home = name, "connected to a server from the page");
            Ok(Done::to("/?done=enrolled"))
        }
        Err(refused) => {
            warn!(error = %mantel_runtime::logging::chain(&refused), "enrolment refused");
            Err(Refusal::from_part(&refused).back("/setup/server"))
        }
    };
    dress_form(connected, &headers, |refused| {
        render_server(&site, link, name, Some(refused))
    })
}

#[cfg(test)]
mod tests {
    use super::is_own_name;

    #[test]
    fn knows_the_names_of_a_box_at_home() {
        for own in [
            "192.168.1.4:8080",
            "192.168.1.4",
            "[fe80::1]:8080",
            "[::1]",
            "mantel.local:8080",
            "mantel",
            "localhost:80",
            "x.home.arpa",
        ] {
            assert!(is_own_name(own), "{own}");
        }
        for foreign in [
            "evil.example:8080",
            "evil.example",
            "192.168.1.4.evil.example",
            "",
            ".:80",
        ] {
            assert!(!is_own_name(foreign), "{foreign}");
        }
    }
}
