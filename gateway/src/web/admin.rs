//! `/admin`: status, storage, transfers, the recent log and the sessions, for whoever looks after the box. It asks for
//! the password again and needs no script.

use super::Site;
use super::fields::Fields;
use super::format;
use super::home::After;
use super::live::Follow;
use super::respond::{self, Done, Page, Posted, Refusal, dress_form};
use super::session::{self, ADMIN_S, Caller, Session};
use super::shell::{Nav, Shell, link_words};
use super::store::{self, SessionKind};
use super::updates::{self, UpdateCard};
use super::view::{self, DeviceCard, OrderCard, kind_word, state_word};
use crate::library::MediaTools;
use crate::link::LinkStatus;
use crate::zone;
use askama::Template;
use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use mantel_peripherals::registry::MAX_NOISY;
use serde::Deserialize;
use std::sync::Arc;
use tracing::{info, warn};

/// Lines of the log on one page.
const LOG_LINES: usize = 300;

#[derive(Template)]
#[template(path = "admin_login.html")]
struct LogInPage {
    shell: Shell,
    next: String,
    refused: Option<Refusal>,
}

/// Where to go after log-in.
#[derive(Deserialize)]
pub struct Wanted {
    next: Option<String>,
}

fn render_log_in(site: &Site, next: &str, refused: Option<Refusal>) -> Response {
    let next = session::own_path(next);
    let next = if next.starts_with("/admin") {
        next
    } else {
        "/admin"
    };
    respond::page(&LogInPage {
        shell: Shell::plain(site, Nav::Admin),
        next: next.to_owned(),
        refused,
    })
}

/// `GET /admin/login`
pub async fn log_in_page(State(site): State<Arc<Site>>, Query(wanted): Query<Wanted>) -> Response {
    render_log_in(&site, wanted.next.as_deref().unwrap_or("/admin"), None)
}

/// `POST /admin/login`
pub async fn log_in(
    State(site): State<Arc<Site>>,
    Extension(session): Extension<Session>,
    Caller(peer): Caller,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    let next = session::own_path(fields.text("next"));
    let opened: Posted = async {
        session::check_password(&site, peer, fields.raw("password")).await?;
        store::open_admin(&site.state.db, session.0.id.clone(), site.now_s() + ADMIN_S).await?;
        info!(%peer, browser = session.0.label, "the admin area was opened");
        Ok(Done::to(if next.starts_with("/admin") {
            next
        } else {
            "/admin"
        }))
    }
    .await;
    if opened.is_err() {
        warn!(%peer, "log-in to the admin area refused");
    }
    dress_form(opened, &headers, |refused| {
        render_log_in(&site, next, Some(refused))
    })
}

/// Which tab of the admin area is shown.
type Tab = &'static str;

#[derive(Template)]
#[template(path = "admin.html")]
struct StatusPage {
    shell: Shell,
    tab: Tab,
    facts: Vec<(&'static str, String)>,
    warnings: Vec<String>,
    devices: Vec<DeviceCard>,
    zone: String,
    update_follow: Follow,
    update: Option<UpdateCard>,
}

/// `GET /admin`
pub async fn status(State(site): State<Arc<Site>>, Query(after): Query<After>) -> Page {
    let update_follow = Follow::new(&site, "updates");
    let now = site.state.clock.now();
    let status = site.state.link.status().borrow().clone();
    let (_, link) = link_words(&status, now);
    let mut warnings = Vec::new();
    if let LinkStatus::Offline { why, .. } = &status {
        warnings.push(format!(
            "{} It is tried again by itself; what is here keeps working.",
            respond::sentence(why)
        ));
    }
    warnings.extend(noise_words(site.state.devices.noisy()));
    let tools = match site.state.library.media_tools().await {
        MediaTools::Ready => "ready".to_owned(),
        MediaTools::Missing(what) => {
            warnings.push(format!(
                "{} Titles are imported without looking inside.",
                respond::sentence(&what)
            ));
            "missing".to_owned()
        }
    };
    let totals = site.state.library.totals().await;
    let (titles, stored) = totals.map_err(|e| Refusal::from_part(&e).back("/admin"))?;
    let free = site.state.library.blobs().free_bytes().await;
    let signed = site.state.link.now_signed();
    let apart = now.duration_since(signed).as_secs().unsigned_abs();
    let clock = match apart {
        0..=5 => format!("{}, agrees with the server", format::log_time(now)),
        _ => format!(
            "{}, {} apart from the server's",
            format::log_time(now),
            format::span(apart)
        ),
    };
    let mut facts = vec![
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        (
            "Running since",
            format!(
                "{} ({})",
                format::date_time(site.state.started),
                format::ago(site.state.started, now)
            ),
        ),
        ("Link", link),
        ("Clock", clock),
        (
            "Store",
            format!(
                "{} in {} titles, {} free",
                format::bytes(stored),
                titles,
                format::bytes(free)
            ),
        ),
        ("Media tools", tools),
        ("Device ID", site.state.link.device().to_string()),
    ];
    if let Some(at) = site.state.link.enrolment() {
        facts.push(("Home", format!("{} ({})", at.home_name, at.home)));
        facts.push(("Account", at.customer_name.clone()));
        facts.push((
            "Server",
            format!("{}, https://{}:{}", at.server.name, at.host, at.api_port),
        ));
    }
    let devices = site.state.devices.snapshot();
    let devices = devices
        .borrow()
        .iter()
        .map(|row| DeviceCard::of(row, now))
        .collect();
    let shell = Shell::plain(&site, Nav::Admin).with_notice(after.done.as_deref());
    Ok(respond::page(&StatusPage {
        shell,
        tab: "status",
        facts,
        warnings,
        devices,
        zone: zone::name().unwrap_or_default(),
        update_follow,
        update: updates::card(&site),
    }))
}

/// `POST /admin/zone`
pub async fn set_zone(State(site): State<Arc<Site>>, fields: Fields) -> Posted {
    match zone::set(&site.state.db, fields.text("zone")).await {
        Ok(()) => Ok(Done::to("/admin?done=zone")),
        Err(error @ zone::ZoneError::Unknown) => Err(Refusal::new(
            axum::http::StatusCode::BAD_REQUEST,
            respond::sentence(&error.to_string()),
            "Nothing was changed.",
        )
        .back("/admin")),
        Err(zone::ZoneError::Db(error)) => Err(error.into()),
    }
}

/// What is wrong when devices announce more than is listened to.
fn noise_words(noisy: usize) -> Option<String> {
    let who = match noisy {
        0 => return None,
        1 => "1 device announces".to_owned(),
        MAX_NOISY.. => format!("More than {MAX_NOISY} devices announce"),
        more => format!("{more} devices announce"),
    };
    Some(format!(
        "{who} too much; what is beyond the limit is ignored. Your devices keep working. If this stays so, look for a \
         faulty or strange device on your network."
    ))
}

#[derive(Template)]
#[template(path = "admin_storage.html")]
struct StoragePage {
    shell: Shell,
    tab: Tab,
    free: String,
    stored: String,
    percent: u64,
    rows: Vec<StoredTitle>,
}

/// A title by its size.
struct StoredTitle {
    id: String,
    name: String,
    kind: &'static str,
    state: &'static str,
    size: String,
    blobs: usize,
}

/// `GET /admin/storage`
pub async fn storage(State(site): State<Arc<Site>>) -> Page {
    let mut titles = site
        .state
        .library
        .list()
        .await
        .map_err(|e| Refusal::from_part(&e).back("/admin"))?;
    titles.sort_by_key(|title| std::cmp::Reverse(title.sealed_bytes()));
    let free = site.state.library.blobs().free_bytes().await;
    let stored: u64 = titles.iter().map(crate::library::Title::sealed_bytes).sum();
    let rows = titles
        .iter()
        .take(500)
        .map(|title| StoredTitle {
            id: title.id.to_string(),
            name: title.name.clone(),
            kind: kind_word(title.kind),
            state: state_word(title.state),
            size: format::bytes(title.sealed_bytes()),
            blobs: title.assets.len(),
        })
        .collect();
    Ok(respond::page(&StoragePage {
        shell: Shell::plain(&site, Nav::Admin),
        tab: "storage",
        free: format::bytes(free),
        stored: format::bytes(stored),
        percent: format::percent(stored, stored.saturating_add(free)),
        rows,
    }))
}

#[derive(Template)]
#[template(path = "admin_transfers.html")]
struct TransfersPage {
    shell: Shell,
    tab: Tab,
    orders: Vec<OrderCard>,
    imports: Vec<view::ImportCard>,
}

/// `GET /admin/transfers`
pub async fn transfers(State(site): State<Arc<Site>>) -> Page {
    Ok(respond::page(&TransfersPage {
        shell: Shell::plain(&site, Nav::Admin),
        tab: "transfers",
        orders: view::orders(&site),
        imports: view::imports(&site),
    }))
}

#[derive(Template)]
#[template(path = "admin_log.html")]
struct LogPage {
    shell: Shell,
    tab: Tab,
    lines: Vec<LogLine>,
}

/// A line of the log.
struct LogLine {
    at: String,
    level: &'static str,
    text: String,
}

/// `GET /admin/log`
pub async fn log(State(site): State<Arc<Site>>) -> Page {
    let lines = site.state.log.lines().into_iter().take(LOG_LINES);
    let lines = lines.map(|line| LogLine {
        at: format::log_time(line.at),
        level: line.level.as_str(),
        text: line.text,
    });
    Ok(respond::page(&LogPage {
        shell: Shell::plain(&site, Nav::Admin),
        tab: "log",
        lines: lines.collect(),
    }))
}

#[derive(Template)]
#[template(path = "admin_sessions.html")]
struct SessionsPage {
    shell: Shell,
    tab: Tab,
    sessions: Vec<SessionLine>,
    min_chars: usize,
}

/// A browser or television that is let in.
struct SessionLine {
    id: String,
    label: String,
    kind: &'static str,
    television: bool,
    begun: String,
    seen: String,
    own: bool,
}

/// `GET /admin/sessions`
pub async fn sessions(
    State(site): State<Arc<Site>>,
    Extension(own): Extension<Session>,
    Query(after): Query<After>,
) -> Page {
    let now = site.state.clock.now();
    let rows = store::sessions(&site.state.db).await?;
    let sessions = rows
        .into_iter()
        .map(|row| SessionLine {
            kind: match row.kind {
                SessionKind::Household if row.admin_until_s > site.now_s() => {
                    "browser, admin area open"
                }
                SessionKind::Household => "browser",
                SessionKind::Television => "television",
            },
            television: row.kind == SessionKind::Television,
            begun: format::date_time(format::from_unix(row.created_s)),
            seen: format::ago(format::from_unix(row.seen_s), now),
            own: row.id == own.0.id,
            id: row.id,
            label: row.label,
        })
        .collect();
    let shell = Shell::plain(&site, Nav::Admin).with_notice(after.done.as_deref());
    Ok(respond::page(&SessionsPage {
        shell,
        tab: "sessions",
        sessions,
        min_chars: session::MIN_PASSWORD_CHARS,
    }))
}

/// `POST /admin/sessions/{session}/revoke`
pub async fn revoke(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Posted {
    if !store::end_session(&site.state.db, id).await? {
        return Err(Refusal::missing("session").back("/admin/sessions"));
    }
    info!("a session was ended from the admin area");
    Ok(Done::to("/admin/sessions?done=revoked"))
}

/// `POST /admin/password`
pub async fn change_password(
    State(site): State<Arc<Site>>,
    Extension(own): Extension<Session>,
    Caller(peer): Caller,
    fields: Fields,
) -> Posted {
    let back = |refusal: Refusal| refusal.back("/admin/sessions");
    session::check_password(&site, peer, fields.raw("current"))
        .await
        .map_err(back)?;
    let again = Some(fields.raw("again")).filter(|again| !again.is_empty());
    session::check_new_password(fields.raw("password"), again).map_err(back)?;
    let phc = session::password_hash(&site, fields.raw("password"))
        .await
        .map_err(back)?;
    store::change_password(&site.state.db, phc, own.0.id.clone(), site.now_s()).await?;
    info!("the household's password was changed");
    Ok(Done::to("/admin/sessions?done=password"))
}
