//! Deliveries: those under way, live; all; one with its grants, receipts and money; cancelling (F61, F67).

use super::form::Fields;
use super::shell::{Failure, Noticed, Page, Shell, done, missing};
use super::{Console, view};
use crate::ledger::LineRow;
use crate::orders::{DeliveryRow, DeliveryView, GrantRow, OrderFilter, ReceiptRow};
use crate::state::Core;
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Redirect};
use futures_util::Stream;
use mantel_protocol::ids::OrderId;
use std::convert::Infallible;
use std::time::Duration;

const SECTION: &str = "/console/deliveries";
/// Rows shown.
const LIMIT: u32 = 200;
/// The least time between two live updates: one page's traffic is bounded by it.
const CALM: Duration = Duration::from_millis(500);
/// How long one stream lasts. The browser asks anew, and passes the door again: a log-out ends live pages too.
const STREAM_LIFE: Duration = Duration::from_mins(5);

#[derive(Template)]
#[template(path = "console/deliveries.html")]
struct DeliveriesPage {
    shell: Shell,
    rows: Vec<DeliveryRow>,
    all: bool,
    limit: u32,
}

#[derive(Template)]
#[template(path = "console/fragment.html")]
struct Fragment {
    rows: Vec<DeliveryRow>,
}

#[derive(Template)]
#[template(path = "console/delivery.html")]
struct DeliveryPage {
    shell: Shell,
    row: DeliveryRow,
    grants: Vec<GrantRow>,
    receipts: Vec<ReceiptRow>,
    lines: Vec<LineRow>,
}

/// `?show=all`: those that are over, too.
#[derive(serde::Deserialize)]
pub(super) struct Show {
    show: Option<String>,
    notice: Option<String>,
}

/// `GET /console/deliveries`.
pub(super) async fn list(
    State(core): State<Core>,
    Query(query): Query<Show>,
) -> Result<impl IntoResponse, Failure> {
    let all = query.show.as_deref() == Some("all");
    let filter = if all {
        OrderFilter::All
    } else {
        OrderFilter::Active
    };
    let rows = core.orders.list_all(filter, LIMIT).await?;
    let shell = Shell::new(&core, "Deliveries", SECTION, query.notice.as_deref());
    Ok(Page(DeliveriesPage {
        shell,
        rows,
        all,
        limit: LIMIT,
    }))
}

/// `GET /console/deliveries/events`: the table of those under way, again at every change.
pub(super) async fn events(
    State(console): State<Console>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let Console { core, stopping } = console;
    let end =
        Box::pin(
            async move { tokio::time::timeout(STREAM_LIFE, stopping.cancelled_owned()).await },
        );
    let mut changes = core.orders.changes();
    // At once: something may have changed since the page was made.
    changes.mark_changed();
    let events = futures_util::stream::unfold((changes, core), async |(mut changes, core)| {
        changes.changed().await.ok()?;
        tokio::time::sleep(CALM).await;
        changes.mark_unchanged();
        let rows = core
            .orders
            .list_all(OrderFilter::Active, LIMIT)
            .await
            .ok()?;
        let html = Fragment { rows }.render().ok()?;
        Some((
            Ok(Event::default().event("deliveries").data(html)),
            (changes, core),
        ))
    });
    Sse::new(futures_util::StreamExt::take_until(events, end)).keep_alive(KeepAlive::default())
}

/// `GET /console/deliveries/{order}`.
pub(super) async fn page(
    State(core): State<Core>,
    Path(order): Path<String>,
    Query(noticed): Query<Noticed>,
) -> Result<impl IntoResponse, Failure> {
    let found = core
        .orders
        .view(parse(&order)?)
        .await?
        .ok_or_else(|| missing("order"))?;
    let DeliveryView {
        row,
        grants,
        receipts,
        lines,
    } = found;
    let name = row.title_name.as_deref().unwrap_or("Private title");
    let shell = Shell::new(&core, name, SECTION, noticed.notice.as_deref());
    Ok(Page(DeliveryPage {
        shell,
        row,
        grants,
        receipts,
        lines,
    }))
}

/// `POST /console/deliveries/{order}/cancel`.
pub(super) async fn cancel(
    State(core): State<Core>,
    Path(order): Path<String>,
    fields: Fields,
) -> Result<Redirect, Failure> {
    let order = parse(&order)?;
    core.orders
        .operator_cancel(order, fields.text("why"))
        .await?;
    Ok(done(&format!("{SECTION}/{order}"), "cancelled"))
}

fn parse(order: &str) -> Result<OrderId, Failure> {
    order.parse().map_err(|_| missing("order"))
}
