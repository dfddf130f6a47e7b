//! The ledger: accounts, entries, and whether they sum to zero (F14, F67).

use super::shell::{Failure, Page, Shell};
use super::view;
use crate::ledger::{AccountRow, LineRow};
use crate::state::Core;
use askama::Template;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use mantel_protocol::ids::CustomerId;

/// Lines shown.
const LIMIT: u32 = 500;

#[derive(Template)]
#[template(path = "console/ledger.html")]
struct LedgerPage {
    shell: Shell,
    accounts: Vec<AccountRow>,
    lines: Vec<LineRow>,
    limit: usize,
    balanced: bool,
    chosen: Option<CustomerId>,
    only: Option<String>,
}

/// `?customer=`: whose lines.
#[derive(serde::Deserialize)]
pub(super) struct Chosen {
    customer: Option<String>,
}

/// `GET /console/ledger`.
pub(super) async fn page(
    State(core): State<Core>,
    Query(query): Query<Chosen>,
) -> Result<impl IntoResponse, Failure> {
    let chosen: Option<CustomerId> = query.customer.as_deref().and_then(|id| id.parse().ok());
    let accounts = core.ledger.accounts().await?;
    let lines = core.ledger.lines(chosen, LIMIT).await?;
    let balanced = core.ledger.balanced().await?;
    let only = accounts
        .iter()
        .find(|account| chosen.is_some() && account.customer == chosen)
        .map(|account| account.name.clone());
    let shell = Shell::new(&core, "Ledger", "/console/ledger", None);
    Ok(Page(LedgerPage {
        shell,
        accounts,
        lines,
        limit: LIMIT as usize,
        balanced,
        chosen,
        only,
    }))
}
