//! `/uploads`: letting a camera, scanner or phone send by itself, and ending that again (F2).

use super::Site;
use super::fields::Fields;
use super::format;
use super::home::After;
use super::respond::{Done, Page, Posted, Refusal, page, wants_json};
use super::shell::{Nav, Shell, escape_query};
use crate::library::bytes_in_words;
use crate::uploads::{DAY_LIMIT_GB, MAX_NAME_CHARS, Sender, SenderId};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// The most that a device may be allowed to send in one day, GB.
const MAX_DAY_LIMIT_GB: u32 = 10_000;
const GB: u64 = 1_000_000_000;

#[derive(Template)]
#[template(path = "uploads.html")]
struct UploadsPage {
    shell: Shell,
    senders: Vec<SenderCard>,
    new: Option<NewCard>,
    max_chars: usize,
    day_limit_gb: u32,
}

/// One that may send.
pub struct SenderCard {
    /// Its key.
    pub id: String,
    /// Its key for an address.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Its user name.
    pub user: String,
    /// When it last sent, in words.
    pub used: String,
    /// What it does, as a device.
    pub what: String,
    /// What it sent, in words.
    pub sent: String,
    /// What is wrong.
    pub problem: Option<String>,
}

impl SenderCard {
    fn of(row: &Sender, now: jiff::Timestamp) -> Self {
        let by = row.used_by.as_deref().unwrap_or("FTP or WebDAV");
        Self {
            id: row.id.0.clone(),
            path: escape_query(&row.id.0),
            name: row.name.clone(),
            user: row.user.clone(),
            used: row
                .used
                .map_or_else(|| "never".to_owned(), |used| format::ago(used, now)),
            what: format!("Camera · sends by {by}"),
            sent: format!(
                "{} files, {} · at most {} a day",
                row.sent_files,
                bytes_in_words(row.sent_bytes),
                bytes_in_words(row.day_limit_bytes)
            ),
            problem: row.problem.clone(),
        }
    }
}

/// What to type into the camera; shown once.
struct NewCard {
    user: String,
    password: String,
    host: String,
    port: Option<u16>,
    dav: String,
}

/// All that may send, for this page and the devices'.
pub fn cards(site: &Site) -> Vec<SenderCard> {
    let now = site.state.clock.now();
    let senders = site.state.uploads.senders();
    let senders = senders.borrow();
    senders.iter().map(|row| SenderCard::of(row, now)).collect()
}

fn show(site: &Site, done: Option<&str>, new: Option<NewCard>) -> Response {
    page(&UploadsPage {
        shell: Shell::plain(site, Nav::Devices).with_notice(done),
        senders: cards(site),
        new,
        max_chars: MAX_NAME_CHARS,
        day_limit_gb: DAY_LIMIT_GB,
    })
}

/// `GET /uploads`
pub async fn list(State(site): State<Arc<Site>>, Query(after): Query<After>) -> Page {
    Ok(show(&site, after.done.as_deref(), None))
}

/// The host of a `Host` header, without its port.
fn host_of(headers: &HeaderMap) -> (&str, &str) {
    let told = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let told = told.unwrap_or("mantel.local");
    let bare = match told.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => told,
    };
    (bare, told)
}

/// `POST /uploads`: the answer shows the password, once.
pub async fn let_send(State(site): State<Arc<Site>>, headers: HeaderMap, fields: Fields) -> Page {
    let back = |refusal: Refusal| refusal.back("/uploads");
    let limit = fields
        .number("limit_gb", "The limit", MAX_DAY_LIMIT_GB)
        .map_err(back)?
        .unwrap_or(DAY_LIMIT_GB)
        .max(1);
    let made = site
        .state
        .uploads
        .let_send(fields.text("name"), u64::from(limit) * GB)
        .await
        .map_err(|error| Refusal::from_part(&error).back("/uploads"))?;
    let (host, origin) = host_of(&headers);
    let port = site.state.uploads.ftp_address().map(|at| at.port());
    let dav = format!("http://{origin}/dav/");
    let mut answer = if wants_json(&headers) {
        axum::Json(serde_json::json!({
            "ok": true, "location": "/uploads", "id": made.id.0, "user": made.user,
            "password": *made.password, "host": host, "ftp_port": port, "webdav": dav,
        }))
        .into_response()
    } else {
        let new = NewCard {
            user: made.user,
            password: (*made.password).clone(),
            host: host.to_owned(),
            port,
            dav,
        };
        show(&site, None, Some(new))
    };
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// `POST /uploads/{sender}/revoke`
pub async fn revoke(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Posted {
    let revoked = site.state.uploads.revoke(&SenderId(id)).await;
    revoked.map_err(|error| Refusal::from_part(&error).back("/uploads"))?;
    Ok(Done::to("/uploads?done=sender-revoked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_camera_is_told_the_host_of_the_page() {
        for (told, bare) in [
            ("192.168.1.4:8080", "192.168.1.4"),
            ("mantel.local", "mantel.local"),
            ("[fe80::1]:8080", "[fe80::1]"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(told));
            assert_eq!(host_of(&headers), (bare, told));
        }
    }
}
