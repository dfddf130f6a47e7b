//! What a handler answers: a page, [`Done`] (a form did its work) or a [`Refusal`]. The last two become a page or JSON
//! in [`dress`], by what the client accepts.

use super::Site;
use super::shell::{Nav, Shell};
use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use mantel_runtime::db::DbError;
use mantel_runtime::logging::chain;
use std::sync::Arc;
use tracing::{error, info};

/// What a page handler returns.
pub type Page = Result<Response, Refusal>;
/// What a form handler returns.
pub type Posted = Result<Done, Refusal>;

/// A form did its work: go on to `location`.
#[derive(Clone)]
pub struct Done {
    location: String,
    facts: serde_json::Map<String, serde_json::Value>,
    cookies: Vec<HeaderValue>,
}

impl Done {
    /// Goes on to a path of ours.
    pub fn to(location: impl Into<String>) -> Self {
        Self {
            location: location.into(),
            facts: serde_json::Map::new(),
            cookies: Vec::new(),
        }
    }

    /// Adds a fact to the JSON answer.
    pub fn fact(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// Sets a cookie.
    pub fn cookie(mut self, cookie: HeaderValue) -> Self {
        self.cookies.push(cookie);
        self
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        let mut response = StatusCode::OK.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Why a request was not done, for a person: what happened, what was kept, what to do next.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// What happened.
    pub what: String,
    /// What was kept and what to do next.
    pub next: String,
    /// Where the button leads.
    pub back: String,
}

impl Refusal {
    /// A refusal with its words.
    pub fn new(status: StatusCode, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            status,
            what: what.into(),
            next: next.into(),
            back: "/".into(),
        }
    }

    /// Something asked for does not exist.
    pub fn missing(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("There is no such {what} here."),
            "It may have been removed since the page was made. Nothing was changed.",
        )
    }

    /// A field of a form is not as it should be.
    pub fn field(what: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            what,
            "Nothing was changed. Go back and correct it.",
        )
    }

    /// A part of the gateway could not do it; `refused` says why in its own words.
    pub fn from_part(refused: &dyn std::error::Error) -> Self {
        info!(error = %chain(refused), "a request from a page was refused");
        Self::new(StatusCode::CONFLICT, sentence(&refused.to_string()), "")
    }

    /// Where the button leads.
    pub fn back(mut self, back: impl Into<String>) -> Self {
        self.back = back.into();
        self
    }
}

/// Text as a sentence: first letter large, a full stop at the end.
pub fn sentence(text: &str) -> String {
    let mut chars = text.trim().chars();
    let mut out: String = chars
        .next()
        .map(char::to_uppercase)
        .into_iter()
        .flatten()
        .collect();
    out.push_str(chars.as_str());
    if !out.ends_with(['.', '!', '?', '…']) {
        out.push('.');
    }
    out
}

impl From<DbError> for Refusal {
    fn from(refused: DbError) -> Self {
        error!(error = %chain(&refused), "a page could not use the database");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The gateway could not read or write its database.",
            "Nothing was changed. Try again; if it stays so, look at the status page for a full disk.",
        )
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Renders a template.
pub fn page(template: &impl Template) -> Response {
    page_with(StatusCode::OK, template)
}

/// Renders a template with a status.
pub fn page_with(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(refused) => {
            error!(error = %chain(&refused), "a page could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    shell: Shell,
    refusal: Refusal,
}

/// Whether the client asks for JSON rather than a page.
pub fn wants_json(headers: &HeaderMap) -> bool {
    let accepts = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accepts.is_some_and(|accepts| accepts.contains("application/json"))
}

/// A location without the word that makes the page say what was done: programs have the answer itself.
fn without_notice(location: &str) -> String {
    let (path, mark) = location
        .split_once('#')
        .map_or((location, None), |(path, mark)| (path, Some(mark)));
    let path = path.split_once("?done=").map_or(path, |(path, _)| path);
    mark.map_or_else(|| path.to_owned(), |mark| format!("{path}#{mark}"))
}

/// Answers a form that is shown again, with the refusal on it, to a browser.
pub fn dress_form(
    posted: Posted,
    headers: &HeaderMap,
    show_again: impl FnOnce(Refusal) -> Response,
) -> Response {
    match posted {
        Ok(done) => done.into_response(),
        Err(refusal) if wants_json(headers) => refusal.into_response(),
        Err(refusal) => {
            let status = refusal.status;
            let mut response = show_again(refusal);
            *response.status_mut() = status;
            response
        }
    }
}

/// Turns [`Done`] and [`Refusal`] into what the client accepts.
pub async fn dress(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let json = wants_json(request.headers());
    let mut response = next.run(request).await;
    if let Some(done) = response.extensions_mut().remove::<Done>() {
        let mut dressed = if json {
            let mut facts = done.facts;
            facts.insert("ok".into(), true.into());
            facts.insert("location".into(), without_notice(&done.location).into());
            axum::Json(facts).into_response()
        } else {
            Redirect::to(&done.location).into_response()
        };
        for cookie in done.cookies {
            dressed.headers_mut().append(header::SET_COOKIE, cookie);
        }
        return dressed;
    }
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        return if json {
            let facts =
                serde_json::json!({ "ok": false, "what": refusal.what, "next": refusal.next });
            (refusal.status, axum::Json(facts)).into_response()
        } else {
            let status = refusal.status;
            page_with(
                status,
                &ProblemPage {
                    shell: Shell::plain(&site, Nav::None),
                    refusal,
                },
            )
        };
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_plain_locations() {
        assert_eq!(
            without_notice("/orders?done=ordered#ord_1"),
            "/orders#ord_1"
        );
        assert_eq!(
            without_notice("/library/ttl_1?done=imported"),
            "/library/ttl_1"
        );
        assert_eq!(
            without_notice("/library/x/watch?media=y"),
            "/library/x/watch?media=y"
        );
    }

    #[test]
    fn errors_become_sentences() {
        assert_eq!(sentence("the disk is full"), "The disk is full.");
        assert_eq!(sentence("Éteint !"), "Éteint !");
        assert_eq!(sentence(""), ".");
    }
}
