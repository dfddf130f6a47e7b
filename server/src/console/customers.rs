//! Customers: list, page with homes, bill and forms, claim codes (F33, F14, F67).

use super::form::Fields;
use super::shell::{Failure, Noticed, Page, Shell, done, missing};
use super::{guard, qr, view};
use crate::customers::{ClaimCode, CustomerRow};
use crate::directory::HomeRow;
use crate::state::Core;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::{IntoResponse, Redirect};
use mantel_protocol::api::BillLine;
use mantel_protocol::ids::CustomerId;
use mantel_protocol::money::{Currency, Money};

const SECTION: &str = "/console/customers";

#[derive(Template)]
#[template(path = "console/customers.html")]
struct CustomersPage {
    shell: Shell,
    rows: Vec<CustomerRow>,
}

#[derive(Template)]
#[template(path = "console/customer.html")]
struct CustomerPage {
    shell: Shell,
    row: CustomerRow,
    homes: Vec<HomeRow>,
    codes: Vec<ClaimCode>,
    bill: Vec<BillLine>,
    currency: Currency,
    key: String,
}

#[derive(Template)]
#[template(path = "console/code.html")]
struct CodePage {
    shell: Shell,
    customer: CustomerRow,
    code: ClaimCode,
    link: String,
    qr: String,
}

/// `GET /console/customers`.
pub(super) async fn list(
    State(core): State<Core>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let rows = core.customers.list().await?;
    let shell = Shell::new(&core, "Customers", SECTION, noticed.notice.as_deref());
    Ok(Page(CustomersPage { shell, rows }))
}

/// `POST /console/customers`.
pub(super) async fn create(State(core): State<Core>, fields: Fields) -> Result<Redirect, Failure> {
    let id = core
        .customers
        .create(fields.text("name"), fields.text("contact"))
        .await?;
    Ok(done(&format!("{SECTION}/{id}"), "created"))
}

/// `GET /console/customers/{id}`.
pub(super) async fn page(
    State(core): State<Core>,
    Path(id): Path<String>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let row = find(&core, &id).await?;
    let homes = core.directory.homes(Some(row.id)).await?;
    let codes = core.homes.open_codes(row.id).await?;
    let bill = core.ledger.bill(row.id).await?;
    Ok(Page(CustomerPage {
        shell: Shell::new(&core, &row.name, SECTION, noticed.notice.as_deref()),
        row,
        homes,
        codes,
        bill,
        currency: core.server.currency(),
        // Sent twice, the form credits once.
        key: uuid::Uuid::now_v7().to_string(),
    }))
}

/// `POST /console/customers/{id}/edit`.
pub(super) async fn edit(
    State(core): State<Core>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    core.customers
        .edit(id, fields.text("name"), fields.text("contact"))
        .await?;
    Ok(done(&format!("{SECTION}/{id}"), "saved"))
}

/// `POST /console/customers/{id}/credit`.
pub(super) async fn credit(
    State(core): State<Core>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    let amount = Money::parse(fields.text("amount"), core.server.currency())
        .map_err(|error| super::form::refused(error.to_string()))?;
    core.ledger
        .credit(id, amount, fields.text("note"), fields.text("key"))
        .await?;
    Ok(done(&format!("{SECTION}/{id}"), "credited"))
}

/// `POST /console/customers/{id}/suspend`.
pub(super) async fn suspend(
    State(core): State<Core>,
    Path(id): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    core.suspend(id, fields.text("note")).await?;
    Ok(done(&format!("{SECTION}/{id}"), "suspended"))
}

/// `POST /console/customers/{id}/reopen`.
pub(super) async fn reopen(
    State(core): State<Core>,
    Path(id): Path<String>,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    core.reopen(id).await?;
    Ok(done(&format!("{SECTION}/{id}"), "reopened"))
}

/// `POST /console/customers/{id}/codes`.
pub(super) async fn make_code(
    State(core): State<Core>,
    Path(id): Path<String>,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    let code = core.homes.claim_code(id).await?;
    Ok(Redirect::to(&format!("{SECTION}/{id}/codes/{}", code.code)))
}

/// `GET /console/customers/{id}/codes/{code}`: link and QR code of an open claim code.
pub(super) async fn code(
    State(core): State<Core>,
    Path((id, code)): Path<(String, String)>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<impl IntoResponse, Failure> {
    let customer = find(&core, &id).await?;
    let open = core.homes.open_codes(customer.id).await?;
    let code = open
        .into_iter()
        .find(|one| one.code == code)
        .ok_or_else(|| missing("claim code any more: it was used, has ended or was revoked"))?;
    let link = core
        .server
        .claim_link(guard::host(&headers, &uri), &code.code);
    let shell = Shell::new(&core, "Claim code", SECTION, None);
    Ok(Page(CodePage {
        shell,
        customer,
        qr: qr::svg(&link),
        link,
        code,
    }))
}

/// `POST /console/customers/{id}/codes/{code}/revoke`.
pub(super) async fn revoke_code(
    State(core): State<Core>,
    Path((id, code)): Path<(String, String)>,
) -> Result<Redirect, Failure> {
    let id = parse(&id)?;
    core.homes.revoke_code(&code).await?;
    Ok(done(&format!("{SECTION}/{id}"), "revoked"))
}

fn parse(id: &str) -> Result<CustomerId, Failure> {
    id.parse().map_err(|_| missing("customer"))
}

async fn find(core: &Core, id: &str) -> Result<CustomerRow, Failure> {
    core.customers
        .find(parse(id)?)
        .await?
        .ok_or_else(|| missing("customer"))
}
