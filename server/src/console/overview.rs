//! The first page: counts, money, deliveries under way, recent problems.

use super::shell::{Failure, Noticed, Page, Shell};
use super::view;
use crate::catalog::TitleState;
use crate::orders::{DeliveryRow, OrderFilter};
use crate::state::Core;
use askama::Template;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use mantel_protocol::api::OrderState;
use mantel_protocol::money::Money;

/// Deliveries under way on this page.
const MAX_ROWS: u32 = 50;
/// Orders among which problems are looked for.
const LOOK_BACK: u32 = 200;
/// Problems shown.
const MAX_PROBLEMS: usize = 8;

#[derive(Template)]
#[template(path = "console/overview.html")]
struct OverviewPage {
    shell: Shell,
    customers: usize,
    suspended: usize,
    homes: usize,
    online: usize,
    titles: usize,
    available: Money,
    held: Money,
    rows: Vec<DeliveryRow>,
    problems: Vec<DeliveryRow>,
}

/// `GET /console`.
pub(super) async fn page(
    State(core): State<Core>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let customers = core.customers.list().await?;
    let homes = core.directory.homes(None).await?;
    let titles = core.titles.list().await?;
    let rows = core.orders.list_all(OrderFilter::Active, MAX_ROWS).await?;
    let mut problems = core.orders.list_all(OrderFilter::All, LOOK_BACK).await?;
    problems.retain(|row| {
        row.state == OrderState::Failed || (row.problem.is_some() && !row.state.is_final())
    });
    problems.truncate(MAX_PROBLEMS);
    let currency = core.server.currency();
    let total = |amount: fn(&crate::customers::CustomerRow) -> Money| {
        Money::new(
            customers.iter().map(|row| amount(row).minor).sum(),
            currency,
        )
    };
    Ok(Page(OverviewPage {
        shell: Shell::new(&core, "Overview", "/console", noticed.notice.as_deref()),
        suspended: customers
            .iter()
            .filter(|row| !view::is_active(&row.standing))
            .count(),
        available: total(|row| row.available),
        held: total(|row| row.held),
        customers: customers.len(),
        online: homes.iter().filter(|home| home.online).count(),
        homes: homes.len(),
        titles: titles
            .iter()
            .filter(|title| matches!(title.state, TitleState::Offered))
            .count(),
        rows,
        problems,
    }))
}
