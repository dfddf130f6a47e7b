//! Homes: list with search (F5), page with addresses and forms; and the public page of a claim link (F33).

use super::form::Fields;
use super::shell::{Failure, Noticed, Page, Shell, done, missing};
use super::{guard, qr, view};
use crate::directory::HomeRow;
use crate::state::Core;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Redirect};
use mantel_protocol::ids::HomeId;

const SECTION: &str = "/console/homes";
/// The longest claim code that the public page repeats; a code has 8 characters.
const MAX_CODE: usize = 16;

#[derive(Template)]
#[template(path = "console/homes.html")]
struct HomesPage {
    shell: Shell,
    rows: Vec<HomeRow>,
    query: String,
}

#[derive(Template)]
#[template(path = "console/home.html")]
struct HomePage {
    shell: Shell,
    row: HomeRow,
}

#[derive(Template)]
#[template(path = "console/claim.html")]
struct ClaimPage {
    shell: Shell,
    link: String,
    qr: String,
}

/// `?q=`: what is looked for.
#[derive(serde::Deserialize)]
pub(super) struct Search {
    q: Option<String>,
    notice: Option<String>,
}

/// `GET /console/homes`.
pub(super) async fn list(
    State(core): State<Core>,
    Query(search): Query<Search>,
) -> Result<impl IntoResponse, Failure> {
    let query = search.q.as_deref().unwrap_or_default().trim().to_owned();
    let rows = match query.as_str() {
        "" => core.directory.homes(None).await?,
        query => core.directory.look_up(query).await?,
    };
    let shell = Shell::new(&core, "Homes", SECTION, search.notice.as_deref());
    Ok(Page(HomesPage { shell, rows, query }))
}

/// `GET /console/homes/{id}`.
pub(super) async fn page(
    State(core): State<Core>,
    Path(id): Path<String>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let row = core
        .directory
        .home(parse(&id)?)
        .await?
        .ok_or_else(|| missing("home"))?;
    let shell = Shell::new(&core, &row.name, SECTION, noticed.notice.as_deref());
    Ok(Page(HomePage { shell, row }))
}

/// `POST /console/homes/{id}/rename`.
pub(super) async fn rename(
    State(core): State<Core>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    core.homes.rename(id, fields.text("name")).await?;
    Ok(done(&format!("{SECTION}/{id}"), "saved"))
}

/// `POST /console/homes/{id}/remove`.
pub(super) async fn remove(
    State(core): State<Core>,
    Path(id): Path<String>,
) -> Result<Redirect, Failure> {
    core.remove_home(parse(&id)?).await?;
    Ok(done(SECTION, "removed"))
}

/// `GET /claim/{code}`, public: what to do with the link. It does not say whether the code exists, so that nobody can
/// try codes here.
pub(super) async fn claim_page(
    State(core): State<Core>,
    Path(code): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<impl IntoResponse, Failure> {
    if code.is_empty()
        || code.len() > MAX_CODE
        || !code.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        return Err(missing("claim link"));
    }
    let link = core.server.claim_link(guard::host(&headers, &uri), &code);
    let shell = Shell::new(&core, "Connect your gateway", "", None);
    Ok(Page(ClaimPage {
        shell,
        qr: qr::svg(&link),
        link,
    }))
}

fn parse(id: &str) -> Result<HomeId, Failure> {
    id.parse().map_err(|_| missing("home"))
}
