//! First setup, log-in and log-out.

use super::form::{Fields, refused};
use super::guard;
use super::shell::{Failure, Page, Shell};
use crate::customers::operator::MIN_PASSWORD_CHARS;
use crate::state::Core;
use askama::Template;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use mantel_protocol::api::Problem;
use mantel_runtime::http::Peer;

#[derive(Template)]
#[template(path = "console/setup.html")]
struct SetupPage {
    shell: Shell,
    token: String,
    least: usize,
}

#[derive(Template)]
#[template(path = "console/login.html")]
struct LoginPage {
    shell: Shell,
    next: String,
}

/// `?token=` of the setup link, for browsers without scripts.
#[derive(serde::Deserialize)]
pub(super) struct SetupQuery {
    token: Option<String>,
}

/// `?next=`: the page that was asked for.
#[derive(serde::Deserialize)]
pub(super) struct LoginQuery {
    next: Option<String>,
}

/// `GET /console/setup`.
pub(super) async fn setup_page(
    State(core): State<Core>,
    Query(query): Query<SetupQuery>,
) -> Result<Response, Failure> {
    if !core.operator.needs_setup().await? {
        return Ok(Redirect::to("/console").into_response());
    }
    Ok(setup_form(&core, query.token.unwrap_or_default(), None))
}

/// `POST /console/setup`.
pub(super) async fn setup(
    State(core): State<Core>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    fields: Fields,
) -> Result<Response, Failure> {
    if !core.operator.needs_setup().await? {
        return Ok(Redirect::to("/console").into_response());
    }
    let token = fields.text("token");
    let result = match same_password(&fields, "password") {
        Ok(password) => core
            .operator
            .set_up(token, password, peer.0.ip())
            .await
            .map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match result {
        Ok(cookie) => Ok((guard::set_cookie(&cookie), Redirect::to("/console")).into_response()),
        Err(Failure(problem)) => Ok(setup_form(&core, token.to_owned(), Some(&problem))),
    }
}

/// `GET /console/login`.
pub(super) async fn login_page(
    State(core): State<Core>,
    Query(query): Query<LoginQuery>,
) -> Result<Response, Failure> {
    if core.operator.needs_setup().await? {
        return Ok(Redirect::to("/console/setup").into_response());
    }
    Ok(login_form(
        &core,
        query.next.as_deref().unwrap_or_default(),
        None,
    ))
}

/// `POST /console/login`.
pub(super) async fn login(
    State(core): State<Core>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    fields: Fields,
) -> Response {
    let next = own_path(fields.text("next"));
    match core
        .operator
        .log_in(fields.raw("password"), peer.0.ip())
        .await
    {
        Ok(cookie) => (guard::set_cookie(&cookie), Redirect::to(next)).into_response(),
        Err(error) => login_form(&core, next, Some(&error.problem())),
    }
}

/// `POST /console/logout`.
pub(super) async fn logout(
    State(core): State<Core>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if let Some(cookie) = guard::cookie(&headers) {
        core.operator.log_out(cookie).await?;
    }
    Ok((guard::drop_cookie(), Redirect::to("/console/login")).into_response())
}

/// A new password, typed twice.
pub(super) fn same_password<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, Failure> {
    let password = fields.raw(name);
    if password != fields.raw("again") {
        return Err(refused("the two passwords differ"));
    }
    Ok(password)
}

fn setup_form(core: &Core, token: String, problem: Option<&Problem>) -> Response {
    let shell = Shell::new(core, "Setup", "", None);
    let (status, shell) = with(shell, problem);
    (
        status,
        Page(SetupPage {
            shell,
            token,
            least: MIN_PASSWORD_CHARS,
        }),
    )
        .into_response()
}

fn login_form(core: &Core, next: &str, problem: Option<&Problem>) -> Response {
    let shell = Shell::new(core, "Log in", "", None);
    let (status, shell) = with(shell, problem);
    (
        status,
        Page(LoginPage {
            shell,
            next: own_path(next).to_owned(),
        }),
    )
        .into_response()
}

fn with(shell: Shell, problem: Option<&Problem>) -> (StatusCode, Shell) {
    match problem {
        None => (StatusCode::OK, shell),
        Some(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, shell.with_problem(problem))
        }
    }
}

/// A path of the console; anything else becomes its first page, so that a log-in leads nowhere else.
fn own_path(path: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte);
    let inside = path.starts_with("/console/") && !path.contains("//") && path.bytes().all(plain);
    if inside && !path.ends_with("/events") {
        path
    } else {
        "/console"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_leads_into_the_console_only() {
        assert_eq!(own_path("/console/homes/home_1"), "/console/homes/home_1");
        for path in [
            "",
            "//evil.example",
            "/console/../v1",
            "https://evil.example",
            "/console//x",
            "/console/a\r\nb",
        ] {
            assert_eq!(own_path(path), "/console", "{path}");
        }
    }
}
