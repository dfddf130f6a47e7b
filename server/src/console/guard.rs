//! The console's door: who may enter, from which page a form may come, what a browser may load.

use super::shell::Failure;
use crate::state::Core;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use mantel_protocol::api::{Problem, ProblemCode};

/// The log-in's cookie. `__Host-`: only over TLS, only for this host, for all of it (RFC 6265bis §4.1.3.2).
pub(super) const COOKIE: &str = "__Host-mantel-console";
/// How long a browser keeps the cookie, seconds; the server's session ends by its own rule.
const COOKIE_AGE_S: u32 = 12 * 3600;

/// Everything from here, nothing inline, nothing foreign.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Lets logged-in operators through; others go to the log-in, or, on a new server, to the setup.
pub(super) async fn require_login(
    State(core): State<Core>,
    request: Request,
    next: Next,
) -> Response {
    let session = match cookie(request.headers()) {
        Some(cookie) => core.operator.session(cookie).await,
        None => Ok(None),
    };
    match session {
        Ok(Some(_)) => next.run(request).await,
        Ok(None) => {
            let page = (request.method() == Method::GET).then(|| request.uri().path().to_owned());
            turn_away(&core, page.as_deref()).await
        }
        Err(error) => Failure::from(error).into_response(),
    }
}

/// `page` is what to come back to.
async fn turn_away(core: &Core, page: Option<&str>) -> Response {
    match (core.operator.needs_setup().await, page) {
        (Ok(true), _) => Redirect::to("/console/setup").into_response(),
        (Ok(false), Some(page)) => {
            Redirect::to(&format!("/console/login?next={page}")).into_response()
        }
        (Ok(false), None) => Redirect::to("/console/login").into_response(),
        (Err(error), _) => Failure::from(error).into_response(),
    }
}

/// Refuses what another site's page sends here. The cookie is `SameSite=Strict` besides.
pub(super) async fn require_own_page(request: Request, next: Next) -> Response {
    let reads_only = matches!(*request.method(), Method::GET | Method::HEAD);
    if reads_only || is_from_own_page(request.headers(), request.uri()) {
        return next.run(request).await;
    }
    Failure(Problem {
        code: ProblemCode::Forbidden,
        status: 403,
        detail: "this form was not sent from this server's own page".into(),
        next: "Nothing was changed. Open the console's page and send the form from there.".into(),
    })
    .into_response()
}

/// Whether a browser says that a request comes from our own pages. A request that says neither is refused: every
/// browser of the last years sends `Origin` with a form.
fn is_from_own_page(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let origin = text(header::ORIGIN);
    let own = host(headers, uri).map(|host| format!("https://{host}"));
    match (site, origin) {
        (Some(site), _) if site != "same-origin" => false,
        (_, Some(origin)) => own.as_deref() == Some(origin),
        (Some(_), None) => true,
        (None, None) => false,
    }
}

/// The host and port that the browser used.
pub(super) fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    uri.authority()
        .map(axum::http::uri::Authority::as_str)
        .or_else(|| {
            headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
        })
}

/// The log-in's cookie of a request.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

/// Sets the log-in's cookie.
pub(super) fn set_cookie(value: &str) -> [(HeaderName, String); 1] {
    let text = format!(
        "{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={COOKIE_AGE_S}"
    );
    [(header::SET_COOKIE, text)]
}

/// Removes the log-in's cookie.
pub(super) fn drop_cookie() -> [(HeaderName, String); 1] {
    [(
        header::SET_COOKIE,
        format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"),
    )]
}

/// What a browser may do with our pages.
pub(super) async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // Not `no-referrer`: with it, browsers send `Origin: null` from our own forms (Fetch §3.1).
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(
        "cross-origin-opener-policy",
        HeaderValue::from_static("same-origin"),
    );
    headers.insert(
        "cross-origin-resource-policy",
        HeaderValue::from_static("same-origin"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(pairs: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        is_from_own_page(&headers, &Uri::from_static("/console/customers"))
    }

    #[test]
    fn only_our_own_pages_may_send_forms() {
        assert!(judge(&[
            ("host", "box:8443"),
            ("origin", "https://box:8443")
        ]));
        assert!(judge(&[
            ("host", "box:8443"),
            ("origin", "https://box:8443"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(judge(&[
            ("host", "box:8443"),
            ("sec-fetch-site", "same-origin")
        ]));
        for refused in [
            &[("host", "box:8443")][..],
            &[("host", "box:8443"), ("origin", "null")],
            &[("host", "box:8443"), ("origin", "http://box:8443")],
            &[("host", "box:8443"), ("origin", "https://box:8444")],
            &[
                ("host", "box:8443"),
                ("origin", "https://box:8443.evil.example"),
            ],
            &[
                ("host", "box:8443"),
                ("origin", "https://box:8443"),
                ("sec-fetch-site", "cross-site"),
            ],
            &[("host", "box:8443"), ("sec-fetch-site", "same-site")],
            &[("host", "box:8443"), ("sec-fetch-site", "none")],
            &[("origin", "https://box:8443")],
        ] {
            assert!(!judge(refused), "{refused:?}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("a=b; x__Host-mantel-console=no"),
        );
        assert_eq!(cookie(&headers), None);
        headers.append(
            header::COOKIE,
            HeaderValue::from_static("c=d;  __Host-mantel-console=yes"),
        );
        assert_eq!(cookie(&headers), Some("yes"));
    }
}
