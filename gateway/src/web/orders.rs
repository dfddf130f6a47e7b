//! `/orders`: what is on its way, what was paid, and the account (F14, F24, F67).

use super::Site;
use super::format;
use super::home::After;
use super::live::Follow;
use super::respond::{Done, Page, Posted, Refusal};
use super::shell::{Nav, Shell};
use super::view::{self, OrderCard};
use askama::Template;
use axum::extract::{Path, Query, State};
use mantel_protocol::api::{AccountAnswer, BillLine};
use mantel_protocol::ids::OrderId;
use std::sync::Arc;

/// Finished orders shown.
const OVER: usize = 100;

#[derive(Template)]
#[template(path = "orders.html")]
struct OrdersPage {
    follow: Follow,
    shell: Shell,
    connected: bool,
    waiting: Vec<Waiting>,
    under_way: Vec<OrderCard>,
    over: Vec<OrderCard>,
    account: Option<AccountView>,
    account_problem: Option<String>,
}

/// An order that the server has not answered yet.
struct Waiting {
    name: String,
    since: String,
    problem: Option<String>,
}

/// The account.
struct AccountView {
    name: String,
    active: bool,
    available: String,
    held: Option<String>,
    lines: Vec<Line>,
}

/// A line of the bill.
struct Line {
    when: String,
    text: String,
    amount: String,
    order: Option<String>,
    grants: Vec<String>,
    receipts: Vec<String>,
}

impl Line {
    fn of(line: BillLine) -> Self {
        Self {
            when: format::date_time(line.at),
            text: line.text,
            amount: line.amount.to_string(),
            order: line.order.map(|id| id.to_string()),
            grants: line.grants.iter().map(ToString::to_string).collect(),
            receipts: line.receipts,
        }
    }
}

impl AccountView {
    fn of(account: AccountAnswer) -> Self {
        Self {
            name: account.customer_name,
            active: account.active,
            available: account.available.to_string(),
            held: (!account.held.is_zero()).then(|| account.held.to_string()),
            lines: account.lines.into_iter().map(Line::of).collect(),
        }
    }
}

/// `GET /orders`
pub async fn page(State(site): State<Arc<Site>>, Query(after): Query<After>) -> Page {
    let follow = Follow::new(&site, "orders link");
    let now = site.state.clock.now();
    let connected = site.state.link.enrolment().is_some();
    let (mut account, mut account_problem) = (None, None);
    if connected {
        match site.state.exchange.account().await {
            Ok(answer) => account = Some(AccountView::of(answer)),
            Err(refused) => account_problem = Some(Refusal::from_part(&refused).what),
        }
    }
    let waiting = site.state.exchange.waiting();
    let waiting = waiting
        .borrow()
        .iter()
        .map(|row| Waiting {
            name: row.title_name.clone(),
            since: format::ago(row.since, now),
            problem: row.problem.clone(),
        })
        .collect();
    let (under_way, over): (Vec<_>, Vec<_>) = view::orders(&site)
        .into_iter()
        .partition(|card| card.moving);
    Ok(super::respond::page(&OrdersPage {
        follow,
        shell: Shell::plain(&site, Nav::Orders).with_notice(after.done.as_deref()),
        connected,
        waiting,
        under_way,
        over: over.into_iter().take(OVER).collect(),
        account,
        account_problem,
    }))
}

/// `POST /orders/{order}/cancel`
pub async fn cancel(State(site): State<Arc<Site>>, Path(id): Path<String>) -> Posted {
    let order: OrderId = id
        .parse()
        .map_err(|_| Refusal::missing("order").back("/orders"))?;
    site.state
        .exchange
        .cancel(order)
        .await
        .map_err(|e| Refusal::from_part(&e).back("/orders"))?;
    Ok(Done::to("/orders?done=cancelled"))
}
