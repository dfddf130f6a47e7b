//! Keeps the orders. [`sync`] talks to the server: outboxes out, its list in. [`run`] only looks at the database: one
//! task for each order that is to arrive, and the pages' rows, which so never wait for the server.
//!
//! The database is the truth: every round reads it, so that a round after kill -9 is like any other.

use super::progress::{Meter, Progress};
use super::{Direction, Inner, OrderRow, Stage, deliver, store};
use crate::library::TitleState;
use crate::link::{ApiClient, ApiError, LinkStatus, RESYNC_EVERY, Wake};
use mantel_protocol::api::{OrderEntry, OrderState, ProblemCode};
use mantel_protocol::ids::{HomeId, OrderId, TitleId};
use mantel_runtime::db::DbError;
use mantel_runtime::logging::chain;
use mantel_runtime::tasks::Tasks;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use store::Mirrored;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

/// How often the rows of sending orders are refreshed.
const SENDING_EVERY: Duration = Duration::from_secs(1);
/// Progress reports waiting; a full queue drops, a newer report follows.
const PROGRESS_QUEUE: usize = 64;

struct Receiving {
    tasks: Tasks,
    progress: Progress,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

struct Driver {
    inner: Arc<Inner>,
    tasks: Tasks,
    receiving: HashMap<OrderId, Receiving>,
    progress: mpsc::Sender<(OrderId, Progress)>,
    nudge: watch::Sender<u64>,
    mirror: Vec<Mirrored>,
    names: HashMap<TitleId, String>,
}

/// Runs until the process ends.
pub(super) async fn run(inner: Arc<Inner>, tasks: Tasks) {
    let (progress, mut progressed) = mpsc::channel(PROGRESS_QUEUE);
    let mut wakes = inner.link.wakes();
    let mut status = inner.link.status();
    let mut library = inner.library.changes();
    let mut driver = Driver {
        inner: Arc::clone(&inner),
        tasks,
        receiving: HashMap::new(),
        progress,
        nudge: watch::Sender::new(0),
        mirror: Vec::new(),
        names: HashMap::new(),
    };
    driver.reload().await;
    let mut sending = tokio::time::interval(SENDING_EVERY);
    sending.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.changed.notified() => driver.reload().await,
            wake = wakes.recv() => match wake {
                Ok(Wake::Everything) | Err(RecvError::Lagged(_)) => {
                    driver.nudge.send_modify(|count| *count += 1);
                }
                Ok(_) => {}
                Err(RecvError::Closed) => return,
            },
            Ok(()) = status.changed() => {
                if *status.borrow_and_update() == LinkStatus::Online {
                    driver.nudge.send_modify(|count| *count += 1);
                }
            }
            Some((order, progress)) = progressed.recv() => driver.note(order, progress).await,
            Ok(()) = library.changed() => driver.library_changed().await,
            _ = sending.tick() => driver.show_sending(),
        }
    }
}

impl Driver {
    async fn reload(&mut self) {
        if let Err(error) = self.try_reload().await {
            warn!(error = %chain(&error), "orders could not be read");
        }
    }

    async fn try_reload(&mut self) -> Result<(), DbError> {
        self.mirror = store::orders(&self.inner.db).await?;
        self.follow().await;
        self.learn_names().await;
        self.show();
        self.inner.show_waiting().await?;
        let active = self
            .mirror
            .iter()
            .filter(|order| is_active(order) || is_owed(order));
        let home = self.inner.link.enrolment().map(|enrolment| enrolment.home);
        let ordered: HashSet<TitleId> = active
            .filter(|order| Some(order.entry.receiver) == home)
            .map(|order| order.entry.title)
            .collect();
        if let Err(error) = self.inner.catalog.set_ordered(ordered).await {
            debug!(%error, "the catalog was not marked");
        }
        Ok(())
    }

    /// Starts what is to arrive and stops what is over.
    async fn follow(&mut self) {
        let Some(home) = self.inner.link.enrolment().map(|enrolment| enrolment.home) else {
            return;
        };
        // Oldest first: the household's list in its order.
        let mirror: Vec<Mirrored> = self.mirror.iter().rev().cloned().collect();
        for order in mirror.iter().filter(|order| order.entry.receiver == home) {
            let id = order.entry.order;
            if is_active(order) || is_owed(order) {
                if !self.receiving.contains_key(&id) {
                    self.start(&order.entry);
                }
            } else if !order.ready && self.receiving.remove(&id).is_some() {
                self.clear_away(&order.entry).await;
            }
        }
    }

    fn start(&mut self, entry: &OrderEntry) {
        let inner = Arc::clone(&self.inner);
        let tasks = self.tasks.child();
        let meter = Meter::new(
            inner.clock.clone(),
            entry.order,
            entry.delivery,
            self.progress.clone(),
        );
        let task = deliver::run(
            inner,
            entry.order,
            meter,
            self.nudge.subscribe(),
            tasks.clone(),
        );
        tasks.spawn("order", task);
        self.receiving.insert(
            entry.order,
            Receiving {
                tasks,
                progress: Progress::default(),
            },
        );
    }

    /// A cancelled title that never became whole leaves the library; what a failed order brought is kept, so that
    /// ordering again goes on where it stopped.
    async fn clear_away(&self, entry: &OrderEntry) {
        let again = self
            .mirror
            .iter()
            .any(|other| other.entry.title == entry.title && is_active(other));
        if entry.state != OrderState::Cancelled || again {
            return;
        }
        let arriving = match self.inner.library.title(entry.title).await {
            Ok(title) => title.is_some_and(|title| title.state == TitleState::Arriving),
            Err(_) => false,
        };
        if arriving && let Err(error) = self.inner.library.remove(entry.title).await {
            warn!(error = %chain(&error), "a cancelled title was not removed");
        }
    }

    async fn note(&mut self, order: OrderId, progress: Progress) {
        let over = matches!(progress.stage, Stage::Ready | Stage::Over);
        let advanced = match self.receiving.get_mut(&order) {
            Some(receiving) => {
                let advanced = receiving.progress.stage != progress.stage;
                receiving.progress = progress;
                advanced
            }
            None => false,
        };
        if over {
            self.receiving.remove(&order);
        }
        if over || advanced {
            self.reload().await;
        } else {
            self.show();
        }
    }

    async fn library_changed(&mut self) {
        if let Err(error) = self.inner.catalog.rebuild().await {
            debug!(%error, "the catalog was not marked");
        }
        self.learn_names().await;
        self.show();
    }

    async fn learn_names(&mut self) {
        let listings = self.inner.catalog.listings().borrow().clone();
        self.names.extend(
            listings
                .iter()
                .map(|listing| (listing.title, listing.name.clone())),
        );
        let ordered: Vec<_> = self.mirror.iter().map(|order| order.entry.title).collect();
        if let Ok(titles) = self.inner.library.titles(&ordered).await {
            self.names
                .extend(titles.into_iter().map(|title| (title.id, title.name)));
        }
    }

    fn show_sending(&mut self) {
        let home = self.inner.link.enrolment().map(|enrolment| enrolment.home);
        if self
            .mirror
            .iter()
            .any(|order| is_active(order) && Some(order.entry.sender) == home)
        {
            self.show();
        }
    }

    /// Shows the rows, if they changed.
    fn show(&self) {
        let Some(enrolment) = self.inner.link.enrolment() else {
            return;
        };
        let homes = self.inner.homes.borrow().clone();
        let name_of = |home: HomeId| {
            let found = homes.iter().find(|entry| entry.home == home);
            found.map_or_else(|| "another home".to_owned(), |entry| entry.name.clone())
        };
        let sending = self.inner.server.sending();
        let rows: Vec<OrderRow> = self
            .mirror
            .iter()
            .map(|order| {
                let entry = order.entry.clone();
                let title_name = self.names.get(&entry.title).cloned();
                let incoming = entry.receiver == enrolment.home;
                let peer = if incoming {
                    entry.sender
                } else {
                    entry.receiver
                };
                let progress = self
                    .receiving
                    .get(&entry.order)
                    .map(|receiving| receiving.progress.clone());
                let mut progress = progress.unwrap_or_else(|| at_rest(order, incoming));
                progress.bytes_done = progress
                    .bytes_done
                    .max(entry.bytes_done)
                    .min(entry.total_bytes);
                let stream = sending.iter().find(|stream| stream.order == entry.order);
                if let Some(stream) = stream.filter(|_| !incoming) {
                    progress.path = Some(stream.path);
                    progress.stage = Stage::Receiving;
                }
                OrderRow {
                    title_name,
                    peer_name: name_of(peer),
                    direction: if incoming {
                        Direction::In
                    } else {
                        Direction::Out
                    },
                    bytes_done: progress.bytes_done,
                    rate: progress.rate,
                    path: progress.path,
                    ready: order.ready,
                    stage: progress.stage,
                    problem: progress.problem.or_else(|| shown_problem(&entry, incoming)),
                    entry,
                }
            })
            .collect();
        self.inner.orders.send_if_modified(|now| {
            let changed = **now != rows;
            if changed {
                *now = Arc::new(rows);
            }
            changed
        });
    }
}

/// The server's word on what is wrong; of a delivery that goes on here, this gateway knows better.
fn shown_problem(entry: &OrderEntry, incoming: bool) -> Option<String> {
    let stale = incoming && matches!(entry.state, OrderState::Delivering | OrderState::Settled);
    entry.problem.clone().filter(|_| !stale)
}

/// Progress of an order for which nothing runs here.
fn at_rest(order: &Mirrored, incoming: bool) -> Progress {
    let entry = &order.entry;
    let stage = match entry.state {
        OrderState::Settled if order.ready => Stage::Ready,
        OrderState::Settled if incoming => Stage::License,
        OrderState::Held => Stage::Waiting,
        OrderState::Delivering => Stage::Receiving,
        OrderState::Settled | OrderState::Cancelled | OrderState::Failed => Stage::Over,
    };
    let bytes_done = if entry.state == OrderState::Settled {
        entry.total_bytes
    } else {
        entry.bytes_done
    };
    Progress {
        stage,
        bytes_done,
        ..Progress::default()
    }
}

/// Bytes may still be on their way.
fn is_active(order: &Mirrored) -> bool {
    !order.entry.state.is_final()
}

/// Paid and not yet playable here.
fn is_owed(order: &Mirrored) -> bool {
    order.entry.state == OrderState::Settled && !order.ready
}

/// Talks to the server about orders until the process ends: when it says so, when somebody here did something, and
/// every half minute. What is not answered waits for the next round.
pub(super) async fn sync(inner: Arc<Inner>) {
    let mut wakes = inner.link.wakes();
    let mut every = tokio::time::interval(RESYNC_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if let Ok(api) = inner.link.api() {
            inner.link.set_free_bytes(inner.library.free_bytes().await);
            if let Err(error) = sync_once(&inner, &api).await {
                warn!(error = %chain(&error), "orders could not be read or written");
            }
            inner.changed.notify_one();
        }
        loop {
            tokio::select! {
                _ = every.tick() => break,
                () = inner.look.notified() => break,
                wake = wakes.recv() => match wake {
                    Ok(Wake::Orders | Wake::Restrictions | Wake::Everything) | Err(RecvError::Lagged(_)) => break,
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

async fn sync_once(inner: &Inner, api: &ApiClient) -> Result<(), DbError> {
    flush_cancels(inner, api).await?;
    flush_orders(inner, api).await?;
    match api.orders().await {
        Ok(entries) => store::put_orders(&inner.db, entries).await?,
        Err(error) => debug!(%error, "the orders were not listed"),
    }
    Ok(())
}

async fn flush_cancels(inner: &Inner, api: &ApiClient) -> Result<(), DbError> {
    for order in store::queued_cancels(&inner.db).await? {
        match api.cancel(order).await {
            Ok(entry) => store::cancel_answered(&inner.db, order, Some(entry)).await?,
            Err(error) if error.passes() => return Ok(()),
            Err(error) => {
                warn!(%order, %error, "a cancellation was refused");
                store::cancel_answered(&inner.db, order, None).await?;
            }
        }
    }
    Ok(())
}

/// Repeats what was asked for and not answered; a refusal stays on the page until the next start of the order.
async fn flush_orders(inner: &Inner, api: &ApiClient) -> Result<(), DbError> {
    for (waiting, request) in store::queued_orders(&inner.db).await? {
        if waiting.problem.is_some() {
            continue;
        }
        match api.order(&request).await {
            Ok(entry) => store::order_placed(&inner.db, waiting.key, entry).await?,
            Err(error) if error.passes() => return Ok(()),
            Err(error) => store::order_problem(&inner.db, waiting.key, error.to_string()).await?,
        }
    }
    Ok(())
}

/// Whether a cancellation came too late or twice: then the order's own state tells.
pub(super) fn is_settled_already(error: &ApiError) -> bool {
    matches!(
        error.code(),
        Some(ProblemCode::Conflict | ProblemCode::NotFound)
    )
}
