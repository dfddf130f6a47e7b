//! Letting a television in without typing on it: it shows a code, and a browser that is logged in approves (the roles of
//! RFC 8628, "device authorization grant").

use super::Site;
use super::fields::Fields;
use super::format;
use super::respond::{self, Done, Page, Posted, Refusal, dress_form};
use super::session::{self, cookie, random_token, set_cookie};
use super::shell::{Nav, Shell};
use super::store::SessionKind;
use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use rand::RngExt as _;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tracing::info;

/// The cookie by which a television that waits is known.
pub const COOKIE: &str = "mantel_pairing";
/// How long a code is good.
pub const CODE_LIFE: Duration = Duration::from_mins(10);
/// Televisions waiting at once; one more replaces the oldest.
const MAX_WAITING: usize = 32;
/// The letters of a code: no vowels, so no words; none that look alike (RFC 8628 §6.1).
const LETTERS: &[u8] = b"BCDFGHJKLMNPQRSTVWXZ";
/// The letters of one code; shown as two groups of four. 20^8 codes.
const CODE_CHARS: usize = 8;
/// The longest name of a television, characters.
const MAX_NAME_CHARS: usize = 40;

/// Televisions that wait to be let in. In memory: after a restart they show a new code.
#[derive(Default)]
pub struct Pairings {
    waiting: HashMap<String, Waiting>,
}

struct Waiting {
    code: String,
    until: Duration,
    /// The name under which it was let in; `None` while it waits.
    approved: Option<String>,
}

/// What a television that asks is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// No one has approved yet.
    Waiting,
    /// Let in, under this name.
    Approved(String),
    /// The code is not good any more.
    Over,
}

impl Pairings {
    /// The code of a television that waits already, if it is good for a while longer.
    pub fn code_of(&self, token: &str, now: Duration) -> Option<String> {
        let waiting = self.waiting.get(token)?;
        (now + CODE_LIFE / 4 < waiting.until && waiting.approved.is_none())
            .then(|| waiting.code.clone())
    }

    /// Takes in a television; `token` is its secret, `code` what it shows.
    pub fn begin(&mut self, token: String, code: String, now: Duration) {
        self.waiting.retain(|_, waiting| now < waiting.until);
        if self.waiting.len() >= MAX_WAITING {
            let oldest = self.waiting.iter().min_by_key(|(_, waiting)| waiting.until);
            if let Some(token) = oldest.map(|(token, _)| token.clone()) {
                self.waiting.remove(&token);
            }
        }
        self.waiting.insert(
            token,
            Waiting {
                code,
                until: now + CODE_LIFE,
                approved: None,
            },
        );
    }

    /// Lets in the television that shows `code`; `false` if there is none.
    pub fn approve(&mut self, code: &str, name: &str, now: Duration) -> bool {
        let found = self
            .waiting
            .values_mut()
            .find(|waiting| waiting.code == code && now < waiting.until);
        found
            .map(|waiting| waiting.approved = Some(name.to_owned()))
            .is_some()
    }

    /// What the television of `token` is told; an approval is told once.
    pub fn ask(&mut self, token: &str, now: Duration) -> Answer {
        match self.waiting.get(token) {
            Some(waiting) if now >= waiting.until => Answer::Over,
            Some(Waiting { approved: None, .. }) => Answer::Waiting,
            Some(Waiting {
                approved: Some(_), ..
            }) => match self.waiting.remove(token) {
                Some(Waiting {
                    approved: Some(name),
                    ..
                }) => Answer::Approved(name),
                _ => Answer::Over,
            },
            None => Answer::Over,
        }
    }
}

/// The letters of what a person typed or scanned.
fn code_letters(text: &str) -> String {
    text.chars()
        .filter(char::is_ascii_alphabetic)
        .map(|c| c.to_ascii_uppercase())
        .take(CODE_CHARS)
        .collect()
}

/// A code in two groups.
fn grouped(code: &str) -> String {
    let (left, right) = code.split_at(code.len() / 2);
    format!("{left}-{right}")
}

/// A QR code as SVG; black on white, no border (the page gives it one).
fn qr_svg(text: &str) -> Result<String, qrcode::types::QrError> {
    use std::fmt::Write as _;
    let code = qrcode::QrCode::new(text.as_bytes())?;
    let width = code.width();
    let mut path = String::new();
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == qrcode::Color::Dark {
            let _ = write!(path, "M{} {}h1v1h-1z", at % width, at / width);
        }
    }
    Ok(format!(
        r##"<svg viewBox="0 0 {width} {width}" shape-rendering="crispEdges"><path fill="#000" d="{path}"/></svg>"##
    ))
}

fn qr_of(text: &str) -> Result<String, Refusal> {
    qr_svg(text).map_err(|_| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The code could not be drawn.",
            "Reload the page.",
        )
    })
}

/// Where a phone finds this gateway: as the television found it, unless the television is this machine's own screen.
fn host_for_phones(headers: &HeaderMap, own: impl FnOnce() -> Option<Ipv4Addr>) -> String {
    const NAME: &str = "mantel.local";
    let plain_host = |host: &&str| {
        host.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b))
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .filter(plain_host);
    let Some(host) = host else {
        return format!("{NAME}:8080");
    };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let here = bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if !here {
        return host.to_owned();
    }
    let name = own().map_or_else(|| NAME.to_owned(), |ip| ip.to_string());
    port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"))
}

/// This machine's address on the home's network.
fn lan_address() -> Option<Ipv4Addr> {
    let found = if_addrs::get_if_addrs().ok()?;
    found
        .into_iter()
        .filter(|one| one.is_oper_up() && !one.is_loopback())
        .find_map(|one| match one.ip() {
            IpAddr::V4(ip) if !ip.is_link_local() => Some(ip),
            _ => None,
        })
}

#[derive(Template)]
#[template(path = "tv_first_use.html")]
struct FirstUsePage {
    title: &'static str,
    qr: String,
    address: String,
}

/// The page of a television while the household has chosen no password: where to do that.
pub fn first_use_page(headers: &HeaderMap) -> Page {
    let address = host_for_phones(headers, lan_address);
    Ok(respond::page(&FirstUsePage {
        title: "Set this gateway up",
        qr: qr_of(&format!("http://{address}/"))?,
        address,
    }))
}

#[derive(Template)]
#[template(path = "tv_pair.html")]
struct CodePage {
    title: &'static str,
    code: String,
    qr: String,
    address: String,
}

/// The page of a television that is not let in: its code and QR.
pub fn code_page(site: &Site, headers: &HeaderMap) -> Page {
    let now = site.state.clock.monotonic();
    let known = cookie(headers, COOKIE).map(str::to_owned);
    let (code, set) = {
        let mut pairings = site.pairings.lock().expect("no holder of this lock panics");
        if let Some(code) = known.and_then(|token| pairings.code_of(&token, now)) {
            (code, None)
        } else {
            let mut rng = rand::rng();
            let letter = |_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]);
            let code: String = (0..CODE_CHARS).map(letter).collect();
            let token = random_token();
            pairings.begin(token.clone(), code.clone(), now);
            let line = set_cookie(COOKIE, &token, CODE_LIFE.as_secs() as i64);
            (code, Some(line))
        }
    };
    let host = host_for_phones(headers, lan_address);
    let qr = qr_of(&format!("http://{host}/pair?code={code}"))?;
    let address = format!("{host}/pair");
    let mut response = respond::page(&CodePage {
        title: "Let this television in",
        code: grouped(&code),
        qr,
        address,
    });
    if let Some(line) = set {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    Ok(response)
}

/// `POST /tv/pair/poll`
pub async fn poll(State(site): State<Arc<Site>>, headers: HeaderMap) -> Result<Response, Refusal> {
    let now = site.state.clock.monotonic();
    let answer = {
        let mut pairings = site.pairings.lock().expect("no holder of this lock panics");
        cookie(&headers, COOKIE).map_or(Answer::Over, |token| pairings.ask(token, now))
    };
    let told = |state: &str| axum::Json(serde_json::json!({ "state": state })).into_response();
    Ok(match answer {
        Answer::Waiting => told("waiting"),
        Answer::Over => told("over"),
        Answer::Approved(name) => {
            let line = session::begin(&site, SessionKind::Television, &name).await?;
            let mut response = told("paired");
            response.headers_mut().append(header::SET_COOKIE, line);
            response
                .headers_mut()
                .append(header::SET_COOKIE, set_cookie(COOKIE, "", 0));
            response
        }
    })
}

#[derive(Template)]
#[template(path = "pair.html")]
struct PairPage {
    shell: Shell,
    code: String,
    name: String,
    minutes: String,
    refused: Option<Refusal>,
}

/// The code that a QR brings.
#[derive(Deserialize)]
pub struct Scanned {
    code: Option<String>,
}

fn render(site: &Site, code: &str, name: &str, refused: Option<Refusal>) -> Response {
    let code = code_letters(code);
    respond::page(&PairPage {
        shell: Shell::plain(site, Nav::None),
        code: if code.len() == CODE_CHARS {
            grouped(&code)
        } else {
            code
        },
        name: name.to_owned(),
        minutes: format::span(CODE_LIFE.as_secs()),
        refused,
    })
}

/// `GET /pair`
pub async fn page(State(site): State<Arc<Site>>, Query(scanned): Query<Scanned>) -> Response {
    render(&site, scanned.code.as_deref().unwrap_or_default(), "", None)
}

/// `POST /pair`
pub async fn approve(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    fields: Fields,
) -> Response {
    let code = code_letters(fields.text("code"));
    let name: String = match fields.text("name") {
        "" => "Television".to_owned(),
        name => name
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_NAME_CHARS)
            .collect(),
    };
    let now = site.state.clock.monotonic();
    let found = site
        .pairings
        .lock()
        .expect("no holder of this lock panics")
        .approve(&code, &name, now);
    let posted: Posted = if found {
        info!(television = name, "a television was let in");
        Ok(Done::to("/?done=paired"))
    } else {
        Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "No television shows this code.",
            "Codes change after a while: look at the television again and type what it shows now.",
        ))
    };
    dress_form(posted, &headers, |refused| {
        render(&site, &code, &name, Some(refused))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1);

    #[test]
    fn an_approved_television_is_let_in_once() {
        let mut pairings = Pairings::default();
        pairings.begin("secret".into(), "BCDFGHJK".into(), START);
        assert_eq!(
            pairings.code_of("secret", START).as_deref(),
            Some("BCDFGHJK")
        );
        assert_eq!(pairings.ask("secret", START), Answer::Waiting);
        assert!(!pairings.approve("XXXXXXXX", "TV", START));
        assert!(pairings.approve("BCDFGHJK", "TV", START));
        assert_eq!(pairings.ask("secret", START), Answer::Approved("TV".into()));
        assert_eq!(pairings.ask("secret", START), Answer::Over);
    }

    #[test]
    fn a_code_ends_and_the_number_of_codes_is_bounded() {
        let mut pairings = Pairings::default();
        pairings.begin("old".into(), "OLD".into(), START);
        let late = START + CODE_LIFE;
        assert!(!pairings.approve("OLD", "TV", late));
        assert_eq!(pairings.ask("old", late), Answer::Over);
        for n in 0..MAX_WAITING as u64 + 5 {
            pairings.begin(
                format!("t{n}"),
                format!("C{n}"),
                late + Duration::from_secs(n),
            );
        }
        assert_eq!(pairings.waiting.len(), MAX_WAITING);
        assert_eq!(
            pairings.ask("t0", late),
            Answer::Over,
            "the oldest made room"
        );
    }

    #[test]
    fn phones_are_not_sent_to_themselves() {
        let at = Some(Ipv4Addr::new(192, 168, 1, 4));
        for (asked, own, told) in [
            ("127.0.0.1:8080", at, "192.168.1.4:8080"),
            ("localhost", at, "192.168.1.4"),
            ("[::1]:8080", None, "mantel.local:8080"),
            ("192.168.1.9:8080", at, "192.168.1.9:8080"),
            ("[fe80::1]:8080", at, "[fe80::1]:8080"),
            ("mantel.local", at, "mantel.local"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, header::HeaderValue::from_static(asked));
            assert_eq!(host_for_phones(&headers, || own), told, "{asked}");
        }
    }

    #[test]
    fn codes_are_read_as_people_type_them() {
        assert_eq!(code_letters(" bcdf-ghjk "), "BCDFGHJK");
        assert_eq!(grouped("BCDFGHJK"), "BCDF-GHJK");
    }
}
