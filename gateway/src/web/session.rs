//! Who is asking: cookies, passwords, the gates before each area, and the check against forged requests.

use super::Site;
use super::respond::{Done, Refusal, wants_json};
use super::store::{self, SESSION_IDLE_S, SessionKind, SessionRow};
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use mantel_runtime::http::Peer;
use rand::RngExt as _;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The cookie of a session.
pub const COOKIE: &str = "mantel_session";
/// The shortest password.
pub const MIN_PASSWORD_CHARS: usize = 8;
/// The longest password, bytes.
const MAX_PASSWORD_BYTES: usize = 1_024;
/// How long the admin area stays open, seconds.
pub const ADMIN_S: i64 = 12 * 3_600;
/// The longest label of a session, characters.
const MAX_LABEL_CHARS: usize = 60;

/// The session of the request, set by the gates.
#[derive(Debug, Clone)]
pub struct Session(pub SessionRow);

impl Session {
    /// Whether the admin area is open to it.
    pub fn is_admin(&self, now_s: i64) -> bool {
        self.0.kind == SessionKind::Household && now_s < self.0.admin_until_s
    }
}

/// A fresh random token, 256 bits, for a cookie.
pub fn random_token() -> String {
    BASE64URL_NOPAD.encode(&rand::rng().random::<[u8; 32]>())
}

/// The value of a cookie of the request.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// A `Set-Cookie` line. `token` is base64url or empty, which ends the cookie.
pub fn set_cookie(name: &str, token: &str, max_age_s: i64) -> HeaderValue {
    let line = format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_s}");
    HeaderValue::from_str(&line).expect("name and token are plain ASCII")
}

fn hash(token: &str) -> String {
    blake3::hash(token.as_bytes()).to_hex().to_string()
}

/// Begins a session; the caller hands the cookie's line to the browser.
pub async fn begin(site: &Site, kind: SessionKind, label: &str) -> Result<HeaderValue, Refusal> {
    let token = random_token();
    let now_s = site.now_s();
    let row = SessionRow {
        id: BASE32_NOPAD
            .encode(&rand::rng().random::<[u8; 10]>())
            .to_lowercase(),
        kind,
        label: label
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_LABEL_CHARS)
            .collect(),
        created_s: now_s,
        seen_s: now_s,
        admin_until_s: 0,
    };
    store::add_session(&site.state.db, row, hash(&token)).await?;
    Ok(set_cookie(COOKIE, &token, SESSION_IDLE_S))
}

/// The session that the request's cookie opens.
pub async fn of_request(site: &Site, headers: &HeaderMap) -> Result<Option<Session>, Refusal> {
    let Some(token) = cookie(headers, COOKIE).filter(|token| token.len() == 43) else {
        return Ok(None);
    };
    let row = store::session_of(&site.state.db, hash(token), site.now_s()).await?;
    Ok(row.map(Session))
}

/// A browser's name from its `User-Agent`, roughly, so that a person recognises it in the list of sessions.
pub fn browser_label(headers: &HeaderMap) -> String {
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let first = |words: &[(&str, &'static str)]| {
        words
            .iter()
            .find(|(word, _)| agent.contains(word))
            .map(|(_, name)| *name)
    };
    let browser = first(&[
        ("Edg", "Edge"),
        ("Firefox", "Firefox"),
        ("Chrome", "Chrome"),
        ("Safari", "Safari"),
    ]);
    let system = first(&[
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Android", "Android"),
        ("Windows", "Windows"),
        ("Mac OS", "Mac"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) if agent.is_empty() => "Program".to_owned(),
        (None, None) => agent.chars().take(MAX_LABEL_CHARS).collect(),
    }
}

/// Refuses a password that is too short or too long.
pub fn check_new_password(password: &str, again: Option<&str>) -> Result<(), Refusal> {
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err(Refusal::field(format!(
            "The password needs at least {MIN_PASSWORD_CHARS} characters."
        )));
    }
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(Refusal::field("The password is too long."));
    }
    if again.is_some_and(|again| again != password) {
        return Err(Refusal::field("The two passwords differ."));
    }
    Ok(())
}

/// The PHC string of a password. One at a time: each takes 19 MiB and a good part of a second on a small box.
pub async fn password_hash(site: &Site, password: &str) -> Result<String, Refusal> {
    let password = Zeroizing::new(password.as_bytes().to_vec());
    let _place = site.hashing.acquire().await.map_err(|_| out_of_order())?;
    tokio::task::spawn_blocking(move || {
        Argon2::default()
            .hash_password(&password)
            .map(|hash| hash.to_string())
    })
    .await
    .map_err(|_| out_of_order())?
    .map_err(|_| out_of_order())
}

fn out_of_order() -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "The password could not be worked on.",
        "Nothing was changed. Try again in a moment.",
    )
}

/// Whether `password` is the household's; counts and limits the attempts of `peer`.
pub async fn check_password(site: &Site, peer: IpAddr, password: &str) -> Result<(), Refusal> {
    let Some(phc) = store::password(&site.state.db).await? else {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "No password has been chosen yet.",
            "Choose one first.",
        )
        .back("/setup"));
    };
    let begun = {
        let mut attempts = site.attempts.lock().expect("no holder of this lock panics");
        attempts.begin(peer, site.state.clock.monotonic())
    };
    if let Err(wait) = begun {
        let wait = super::format::span(wait.as_secs() + 1);
        return Err(Refusal::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("Too many wrong passwords from this device. Wait {wait}, then try again."),
            "",
        ));
    }
    let typed = Zeroizing::new(password.as_bytes().to_vec());
    let _place = site.hashing.acquire().await.map_err(|_| out_of_order())?;
    let right = tokio::task::spawn_blocking(move || {
        typed.len() <= MAX_PASSWORD_BYTES
            && Argon2::default()
                .verify_password(&typed, phc.as_str())
                .is_ok()
    })
    .await
    .map_err(|_| out_of_order())?;
    if !right {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "That is not the password.",
            "",
        ));
    }
    site.attempts
        .lock()
        .expect("no holder of this lock panics")
        .passed(peer);
    Ok(())
}

/// The address from which the request came. A request that came over no socket (a test's) counts as loopback.
pub struct Caller(pub IpAddr);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let peer = parts.extensions.get::<ConnectInfo<Peer>>();
        Ok(Self(peer.map_or(
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            |ConnectInfo(Peer(at))| at.ip().to_canonical(),
        )))
    }
}

fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let site_ok = text("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    let host = text("host");
    let origin_ok = text("origin").is_none_or(|origin| {
        origin
            .split_once("://")
            .map(|(_, authority)| authority)
            .is_some_and(|from| Some(from) == host)
    });
    site_ok && origin_ok
}

/// Refuses a request that changes something and was made by a page of another site. Cookies are `SameSite=Lax`
/// besides; programs that send neither header are no browsers and hold no one's cookie.
pub async fn same_origin(request: Request, next: Next) -> Response {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    if reads || is_same_origin(request.headers()) {
        return next.run(request).await;
    }
    Refusal::new(
        StatusCode::FORBIDDEN,
        "This request was made by another web page, so it was not done.",
        "Nothing was changed. If you meant it, open the page on this gateway and do it there.",
    )
    .into_response()
}

async fn gate(
    site: &Site,
    mut request: Request,
    next: Next,
    admits: fn(&Session) -> bool,
) -> Response {
    let found = of_request(site, &request.headers().clone()).await;
    match found {
        Err(refusal) => refusal.into_response(),
        Ok(Some(session)) if admits(&session) => {
            request.extensions_mut().insert(session);
            next.run(request).await
        }
        Ok(Some(_)) => Redirect::to("/tv").into_response(), // a television strayed from its pages
        Ok(None) => {
            let (parts, _) = request.into_parts();
            send_away(site, &parts).await
        }
    }
}

async fn send_away(site: &Site, request: &Parts) -> Response {
    let uri = &request.uri;
    let is_page = request.method == Method::GET
        && !wants_json(&request.headers)
        && !["/status.json", "/events"].contains(&uri.path());
    if !is_page {
        return Refusal::new(
            StatusCode::UNAUTHORIZED,
            "Log in first.",
            "Nothing was changed.",
        )
        .back("/login")
        .into_response();
    }
    let chosen = match store::password(&site.state.db).await {
        Ok(password) => password.is_some(),
        Err(refused) => return Refusal::from(refused).into_response(),
    };
    if !chosen {
        return Redirect::to("/setup").into_response();
    }
    let wanted = uri.path_and_query().map_or("/", |path| path.as_str());
    match wanted {
        "/" => Redirect::to("/login").into_response(),
        _ => Redirect::to(&format!(
            "/login?next={}",
            super::shell::escape_query(wanted)
        ))
        .into_response(),
    }
}

/// Lets in browsers that logged in.
pub async fn household_only(
    State(site): State<Arc<Site>>,
    request: Request,
    next: Next,
) -> Response {
    gate(&site, request, next, |session| {
        session.0.kind == SessionKind::Household
    })
    .await
}

/// Lets in browsers that logged in, and televisions.
pub async fn household_or_television(
    State(site): State<Arc<Site>>,
    request: Request,
    next: Next,
) -> Response {
    gate(&site, request, next, |_| true).await
}

/// Lets in sessions that gave the password again. Runs inside [`household_only`].
pub async fn admin_only(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let session = request.extensions().get::<Session>().cloned();
    if session.is_some_and(|session| session.is_admin(site.now_s())) {
        return next.run(request).await;
    }
    if request.method() != Method::GET {
        return Refusal::new(
            StatusCode::FORBIDDEN,
            "The admin area is closed.",
            "Nothing was changed.",
        )
        .back("/admin/login")
        .into_response();
    }
    let wanted = super::shell::escape_query(request.uri().path());
    Redirect::to(&format!("/admin/login?next={wanted}")).into_response()
}

/// A path of ours to go on to; anything else becomes `/`.
pub fn own_path(next: &str) -> &str {
    let plain = next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if next.starts_with('/') && !next.starts_with("//") && plain {
        next
    } else {
        "/"
    }
}

/// Ends the session of the request.
pub async fn end(site: &Site, session: &Session) -> Result<Done, Refusal> {
    store::end_session(&site.state.db, session.0.id.clone()).await?;
    Ok(Done::to("/login").cookie(set_cookie(COOKIE, "", 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_only_to_own_paths() {
        for (next, to) in [
            ("/orders?x=1", "/orders?x=1"),
            ("//evil.example/", "/"),
            ("https://evil.example/", "/"),
            ("/\\evil.example", "/"),
            ("/a\r\nSet-Cookie: x", "/"),
            ("", "/"),
        ] {
            assert_eq!(own_path(next), to);
        }
    }

    #[test]
    fn reads_one_cookie_among_many() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("a=1; mantel_session=tok; mantel_session2=no"),
        );
        assert_eq!(cookie(&headers, COOKIE), Some("tok"));
        assert_eq!(cookie(&headers, "mantel"), None);
    }
}
