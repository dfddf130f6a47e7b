//! Titles and prices: list, page with price and terms, withdrawal (F12, F25).

use super::form::{Fields, refused};
use super::shell::{Failure, Noticed, Page, Shell, done, missing};
use super::view;
use crate::catalog::TitleRow;
use crate::state::Core;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Redirect};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mantel_protocol::ids::TitleId;
use mantel_protocol::license::Terms;
use mantel_protocol::money::{Currency, Money};

const SECTION: &str = "/console/titles";

#[derive(Template)]
#[template(path = "console/titles.html")]
struct TitlesPage {
    shell: Shell,
    rows: Vec<TitleRow>,
}

#[derive(Template)]
#[template(path = "console/title.html")]
struct TitlePage {
    shell: Shell,
    row: TitleRow,
    currency: Currency,
    amount: String,
    start_days: String,
    window_hours: String,
    plays: String,
}

/// `GET /console/titles`.
pub(super) async fn list(
    State(core): State<Core>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let rows = core.titles.list().await?;
    let shell = Shell::new(
        &core,
        "Titles and prices",
        SECTION,
        noticed.notice.as_deref(),
    );
    Ok(Page(TitlesPage { shell, rows }))
}

/// `GET /console/titles/{id}`.
pub(super) async fn page(
    State(core): State<Core>,
    Path(id): Path<String>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let row = find(&core, &id).await?;
    let terms = row.terms.unwrap_or_default();
    let number = |value: Option<u32>, unit: u32| {
        // Rounded up: a form sent back unchanged never takes time away.
        value.map_or_else(String::new, |value| value.div_ceil(unit).to_string())
    };
    Ok(Page(TitlePage {
        shell: Shell::new(
            &core,
            row.name.as_deref().unwrap_or("Private title"),
            SECTION,
            noticed.notice.as_deref(),
        ),
        currency: core.server.currency(),
        amount: row.price.map_or_else(String::new, amount),
        start_days: number(terms.start_within_s, DAY_S),
        window_hours: number(terms.viewing_window_s, HOUR_S),
        plays: number(terms.plays, 1),
        row,
    }))
}

const DAY_S: u32 = 86_400;
const HOUR_S: u32 = 3_600;

/// An amount as it is typed: without its currency.
fn amount(price: Money) -> String {
    price
        .to_string()
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// `GET /console/titles/{id}/poster`.
pub(super) async fn poster(
    State(core): State<Core>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    let row = find(&core, &id).await?;
    let jpeg = row
        .poster
        .and_then(|text| STANDARD.decode(text).ok())
        .filter(|bytes| bytes.starts_with(&[0xff, 0xd8]))
        .ok_or_else(|| missing("poster"))?;
    Ok((
        [
            (header::CONTENT_TYPE, "image/jpeg"),
            (header::CACHE_CONTROL, "private, max-age=300"),
        ],
        jpeg,
    ))
}

/// `POST /console/titles/{id}/price`.
pub(super) async fn price(
    State(core): State<Core>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    let price = Money::parse(fields.text("amount"), core.server.currency())
        .map_err(|error| refused(error.to_string()))?;
    core.titles.set_price(id, price).await?;
    Ok(done(&format!("{SECTION}/{id}"), "price"))
}

/// `POST /console/titles/{id}/terms`.
pub(super) async fn terms(
    State(core): State<Core>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    let limit = |name: &str, what: &str, unit: u32| -> Result<Option<u32>, Failure> {
        let Some(value) = fields.maybe::<u32>(name, what)? else {
            return Ok(None);
        };
        if value == 0 {
            return Err(refused(format!(
                "{what} cannot be 0; leave it empty for no limit"
            )));
        }
        value
            .checked_mul(unit)
            .map(Some)
            .ok_or_else(|| refused(format!("{what} is too large")))
    };
    let terms = Terms {
        start_within_s: limit("start_days", "the number of days", DAY_S)?,
        viewing_window_s: limit("window_hours", "the number of hours", HOUR_S)?,
        plays: limit("plays", "the number of plays", 1)?,
    };
    core.titles.set_terms(id, terms).await?;
    Ok(done(&format!("{SECTION}/{id}"), "terms"))
}

/// `POST /console/titles/{id}/withdraw`.
pub(super) async fn withdraw(
    State(core): State<Core>,
    Path(id): Path<String>,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    core.withdraw_title(id).await?;
    Ok(done(&format!("{SECTION}/{id}"), "withdrawn"))
}

/// `POST /console/titles/{id}/reoffer`.
pub(super) async fn reoffer(
    State(core): State<Core>,
    Path(id): Path<String>,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    core.titles.reoffer(id).await?;
    Ok(done(&format!("{SECTION}/{id}"), "reoffered"))
}

fn parse(id: &str) -> Result<TitleId, Failure> {
    id.parse().map_err(|_| missing("title"))
}

async fn find(core: &Core, id: &str) -> Result<TitleRow, Failure> {
    core.titles
        .find(parse(id)?)
        .await?
        .ok_or_else(|| missing("title"))
}
