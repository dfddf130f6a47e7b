//! What surrounds every page: its frame, its alerts, its failures.

use crate::error::CoreError;
use crate::state::Core;
use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use mantel_protocol::api::Problem;
use tracing::error;

/// The sections, in the order of the navigation: path and name.
pub(super) const SECTIONS: [(&str, &str); 9] = [
    ("/console", "Overview"),
    ("/console/customers", "Customers"),
    ("/console/homes", "Homes"),
    ("/console/titles", "Titles and prices"),
    ("/console/deliveries", "Deliveries"),
    ("/console/ledger", "Ledger"),
    ("/console/restrictions", "Restrictions"),
    ("/console/updates", "Updates"),
    ("/console/settings", "Settings"),
];

/// What a page's frame shows.
pub(super) struct Shell {
    /// The page's name.
    pub(super) title: String,
    /// What the operator calls this server.
    pub(super) server: String,
    /// The section to mark.
    pub(super) section: &'static str,
    /// What just happened.
    pub(super) alert: Option<Alert>,
}

/// A message above the page.
pub(super) struct Alert {
    /// `good` or `bad`.
    pub(super) tone: &'static str,
    /// What happened.
    pub(super) text: String,
    /// What was kept, what to do next; may be empty.
    pub(super) next: String,
}

impl Shell {
    /// The frame of a page; `notice` is what the request before left in the address.
    pub(super) fn new(
        core: &Core,
        title: impl Into<String>,
        section: &'static str,
        notice: Option<&str>,
    ) -> Self {
        let alert = notice.and_then(said).map(|text| Alert {
            tone: "good",
            text: text.to_owned(),
            next: String::new(),
        });
        Self {
            title: title.into(),
            server: core.server.card().name,
            section,
            alert,
        }
    }

    /// With a problem instead.
    pub(super) fn with_problem(mut self, problem: &Problem) -> Self {
        self.alert = Some(Alert {
            tone: "bad",
            text: sentence(&problem.detail),
            next: sentence(&problem.next),
        });
        self
    }
}

/// `?notice=`: a word of ours, never a text to be shown.
#[derive(serde::Deserialize)]
pub(super) struct Noticed {
    pub(super) notice: Option<String>,
}

fn said(notice: &str) -> Option<&'static str> {
    Some(match notice {
        "created" => "The customer was created. Make a claim code to connect its gateway.",
        "saved" => "Saved.",
        "credited" => "The money was credited.",
        "suspended" => "The account is suspended; its deliveries were ended.",
        "reopened" => "The account is open again.",
        "revoked" => "The claim code no longer works.",
        "removed" => "The home was removed.",
        "price" => "The price holds for orders from now on.",
        "terms" => "The terms hold for orders from now on.",
        "withdrawn" => "The title was withdrawn.",
        "reoffered" => "The title is on offer again.",
        "restricted" => "The restriction holds from now on.",
        "unrestricted" => "The restriction was removed.",
        "cancelled" => "The delivery was cancelled; nothing was charged.",
        "bundle" => "The version is here. It is for no home yet: choose below who is offered it.",
        "rollout" => "Saved. The gateways are told to look.",
        "release-withdrawn" => "The version was withdrawn. Homes that have it keep it.",
        "password" => "The password was changed.",
        _ => return None,
    })
}

/// Back to a page after a form, with a word on what was done.
pub(super) fn done(path: &str, notice: &str) -> Redirect {
    Redirect::to(&format!("{path}?notice={notice}"))
}

/// A finished page.
pub(super) struct Page<T>(pub(super) T);

impl<T: Template> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        match self.0.render() {
            Ok(html) => Html(html).into_response(),
            Err(error) => {
                error!(%error, "a page could not be made");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

/// A refused or failed request; [`explain`] makes a page of it.
#[derive(Debug, Clone)]
pub(super) struct Failure(pub(super) Problem);

impl From<CoreError> for Failure {
    fn from(error: CoreError) -> Self {
        Self(error.problem())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// There is no such thing.
pub(super) fn missing(what: &str) -> Failure {
    crate::error::missing(what).into()
}

#[derive(Template)]
#[template(path = "console/failure.html")]
struct FailurePage {
    shell: Shell,
    status: u16,
    detail: String,
    next: String,
    back: String,
}

/// Gives failures a page, in the section where they happened, with a way back.
pub(super) async fn explain(State(core): State<Core>, request: Request, next: Next) -> Response {
    let section = section_of(request.uri().path());
    let back = referrer(request.headers()).unwrap_or_else(|| section.to_owned());
    let response = next.run(request).await;
    let Some(Failure(problem)) = response.extensions().get::<Failure>().cloned() else {
        return response;
    };
    let page = FailurePage {
        shell: Shell::new(&core, "Not done", section, None),
        status: problem.status,
        detail: sentence(&problem.detail),
        next: sentence(&problem.next),
        back,
    };
    (response.status(), Page(page)).into_response()
}

fn section_of(path: &str) -> &'static str {
    let inside = |section: &str| {
        path.strip_prefix(section)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    SECTIONS
        .iter()
        .rev()
        .find(|(section, _)| inside(section))
        .map_or("/console", |(section, _)| *section)
}

/// The console's page that the request came from; anything else is left alone.
fn referrer(headers: &HeaderMap) -> Option<String> {
    let uri: axum::http::Uri = headers.get(header::REFERER)?.to_str().ok()?.parse().ok()?;
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let same = host.is_none() || uri.authority().map(axum::http::uri::Authority::as_str) == host;
    (same && uri.path().starts_with("/console")).then(|| uri.path().to_owned())
}

/// A problem's text as a sentence.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let Some(first) = letters.next() else {
        return String::new();
    };
    let end = if text.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    format!("{}{}{end}", first.to_uppercase(), letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_by_whole_words() {
        assert_eq!(section_of("/console"), "/console");
        assert_eq!(section_of("/console/homes/home_1"), "/console/homes");
        assert_eq!(section_of("/console/homesick"), "/console");
        assert_eq!(section_of("/claim/x"), "/console");
    }

    #[test]
    fn sentences_begin_and_end_as_such() {
        assert_eq!(
            sentence("an amount looks like 12.50"),
            "An amount looks like 12.50."
        );
        assert_eq!(sentence("Done!"), "Done!");
        assert_eq!(sentence(""), "");
        assert_eq!(sentence("ß"), "SS.");
    }

    #[test]
    fn the_way_back_stays_in_the_console() {
        let from = |referer: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, header::HeaderValue::from_static("box:8443"));
            headers.insert(header::REFERER, header::HeaderValue::from_static(referer));
            referrer(&headers)
        };
        assert_eq!(
            from("https://box:8443/console/homes?q=x").as_deref(),
            Some("/console/homes")
        );
        assert_eq!(from("https://evil.example/console/homes"), None);
        assert_eq!(from("https://box:8443/v1/time"), None);
    }
}
