//! Orders (F12, F13, F14, F61, F67): from the request with its payment to the receipt that captures it.
//!
//! [`decide`] is the pure life of an order; [`steps`] performs each decision in one transaction; [`place`] makes orders;
//! [`receipts`] verifies; [`grants`] is what the relay asks; [`progress`] is for show. [`Orders`] is the door to all.

pub mod decide;
pub mod grants;
pub mod place;
pub mod progress;
pub mod receipts;
mod rows;
pub mod steps;
pub mod store;

pub use rows::{DeliveryRow, DeliveryView, GrantRow, Named, OrderFilter, ReceiptRow};

use crate::customers::Caller;
use crate::directory::Directory;
use crate::error::{MAX_NOTE_CHARS, Result, bad, clean, clean_note, conflict, missing};
use crate::ledger;
use crate::notice::{Notices, Outbox};
use crate::passes;
use decide::Event;
use mantel_protocol::api::{
    GrantAnswer, GrantRequest, OrderEntry, OrderRequest, OrderState, ProblemReport, ReceiptRequest,
    SendTask,
};
use mantel_protocol::blob::{ChunkRange, chunk_count};
use mantel_protocol::grant::MAX_GRANT_RANGES;
use mantel_protocol::ids::{DeliveryId, HomeId, OrderId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::money::Money;
use mantel_protocol::receipt::Path;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use progress::Progress;
use rusqlite::Connection;
use steps::{Desk, Made, Question, Scene, Work};
use store::Order;
use tokio::sync::watch;

/// The most orders that a home is shown.
pub const MAX_LISTED: u32 = 500;
/// The most deliveries that a sender is told of at once.
pub const MAX_SEND_TASKS: u32 = 500;

/// The orders; cheap to clone.
#[derive(Clone)]
pub struct Orders {
    db: Db,
    clock: Clock,
    notices: Notices,
    desk: Desk,
    directory: Directory,
    progress: Progress,
}

impl Orders {
    /// Over an open database. `desk` has the keys and the money's rules.
    pub fn new(
        db: Db,
        clock: Clock,
        notices: Notices,
        desk: Desk,
        directory: Directory,
        progress: Progress,
    ) -> Self {
        Self {
            db,
            clock,
            notices,
            desk,
            directory,
            progress,
        }
    }

    /// Takes up the deliveries that were under way when the server stopped.
    pub async fn resume(&self) -> Result<()> {
        for order in self.db.read(store::active).await? {
            self.progress.watch(
                order.delivery,
                order.receiver_device,
                order.done_bytes,
                order.total_bytes,
            );
        }
        Ok(())
    }

    /// Runs one transaction over orders and posts what it has to tell. [`crate::state::Core`] uses it too.
    pub async fn transact<T, F>(&self, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Scene<'_>) -> Result<T> + Send + 'static,
    {
        let (desk, now) = (self.desk.clone(), self.clock.now());
        let (made, outbox) = self
            .db
            .write(move |tx| {
                let mut outbox = Outbox::default();
                let made = job(&mut Scene {
                    tx,
                    desk: &desk,
                    now,
                    outbox: &mut outbox,
                })?;
                Ok::<_, crate::error::CoreError>((made, outbox))
            })
            .await?;
        self.notices.post(outbox);
        Ok(made)
    }

    /// Places an order (F12, F13). Repeating the request returns the same order.
    pub async fn place(&self, caller: Caller, request: OrderRequest) -> Result<OrderEntry> {
        let entry = self
            .transact(move |scene| {
                let id = place::place(scene, &caller, &request)?;
                let order = store::find(scene.tx, id)?.ok_or_else(|| missing("order"))?;
                entry(scene.tx, order, caller.home, scene.desk)
            })
            .await?;
        Ok(self.shown(entry))
    }

    /// The orders in which a home sends, receives or pays, newest first.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<OrderEntry>> {
        let (home, desk) = (caller.home, self.desk.clone());
        let entries = self
            .db
            .read(move |c| {
                let orders = store::of_home(c, home, MAX_LISTED)?;
                orders
                    .into_iter()
                    .map(|order| entry(c, order, home, &desk))
                    .collect::<Result<Vec<_>>>()
            })
            .await?;
        Ok(entries.into_iter().map(|entry| self.shown(entry)).collect())
    }

    /// One order, for a home that has part in it.
    pub async fn find(&self, caller: &Caller, id: OrderId) -> Result<OrderEntry> {
        let (home, desk) = (caller.home, self.desk.clone());
        let entry = self
            .db
            .read(move |c| entry(c, concerned(store::find(c, id)?, home)?, home, &desk))
            .await?;
        Ok(self.shown(entry))
    }

    /// Cancels an order before it is settled; the hold goes back.
    pub async fn cancel(&self, caller: &Caller, id: OrderId) -> Result<OrderEntry> {
        let home = caller.home;
        let entry = self
            .transact(move |scene| {
                let order = concerned(store::find(scene.tx, id)?, home)?;
                if home != order.receiver && home != order.payer {
                    return Err(crate::error::forbidden(
                        "only the receiving or the paying home may cancel an order",
                    ));
                }
                let who = if home == order.receiver {
                    "receiving"
                } else {
                    "paying"
                };
                scene.apply(
                    &order,
                    &Event::Cancel(format!("cancelled by the {who} home")),
                    &Work::None,
                )?;
                entry(
                    scene.tx,
                    concerned(store::find(scene.tx, id)?, home)?,
                    home,
                    scene.desk,
                )
            })
            .await?;
        self.progress.forget(entry.delivery);
        Ok(entry)
    }

    /// Signs a grant for (the rest of) one blob (F61).
    pub async fn grant(
        &self,
        caller: &Caller,
        delivery: DeliveryId,
        request: GrantRequest,
    ) -> Result<GrantAnswer> {
        let home = caller.home;
        let (made, order) = self
            .transact(move |scene| {
                let order = received_by(store::of_delivery(scene.tx, delivery)?, home)?;
                let blob = order.blobs.iter().find(|blob| blob.blob == request.blob);
                let blob_bytes = blob
                    .ok_or_else(|| missing("blob in this order"))?
                    .sealed_bytes;
                let chunks = good_ranges(blob_bytes, request.chunks)?;
                let verdict = Question::of_order(&order).judge(scene.tx, scene.now)?;
                verdict.map_err(|denial| place::denied(&denial))?;
                let work = Work::Chunks {
                    blob: request.blob,
                    blob_bytes,
                    chunks,
                };
                let made: Made = scene.apply(&order, &Event::GrantAsked, &work)?;
                Ok((
                    made,
                    store::find(scene.tx, order.id)?.ok_or_else(|| missing("order"))?,
                ))
            })
            .await?;
        self.progress.watch(
            order.delivery,
            order.receiver_device,
            order.done_bytes,
            order.total_bytes,
        );
        let sender = self.directory.home(order.sender).await?;
        let by_relay_only = order.path_limit == Some(Path::Relay);
        Ok(GrantAnswer {
            grant: made
                .grant
                .ok_or_else(|| conflict("no grant was made", "ask again"))?,
            sender_addresses: match &sender {
                Some(sender) if !by_relay_only => sender.reachable_at(),
                _ => Vec::new(),
            },
            sender_online: sender.is_some_and(|sender| sender.online),
        })
    }

    /// The receiver found no direct path: the sender is asked to the relay (F8).
    pub async fn ask_relay(&self, caller: &Caller, delivery: DeliveryId) -> Result<()> {
        self.by_receiver(caller, delivery, Event::RelayAsked).await
    }

    /// The receiver reports trouble. Fatal trouble ends the order and gives the hold back.
    pub async fn report_problem(
        &self,
        caller: &Caller,
        delivery: DeliveryId,
        report: ProblemReport,
    ) -> Result<()> {
        let shown: String = report
            .detail
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_NOTE_CHARS)
            .collect();
        let detail = clean(&shown, MAX_NOTE_CHARS, "what is wrong")?;
        let fatal = report.fatal;
        self.by_receiver(
            caller,
            delivery,
            if fatal {
                Event::Fail(detail)
            } else {
                Event::Trouble(detail)
            },
        )
        .await?;
        if fatal {
            self.progress.forget(delivery);
        }
        Ok(())
    }

    async fn by_receiver(&self, caller: &Caller, delivery: DeliveryId, event: Event) -> Result<()> {
        let home = caller.home;
        self.transact(move |scene| {
            let order = received_by(store::of_delivery(scene.tx, delivery)?, home)?;
            scene.apply(&order, &event, &Work::None).map(drop)
        })
        .await
    }

    /// What a home is to send, oldest first.
    pub async fn to_send(&self, caller: &Caller) -> Result<Vec<SendTask>> {
        let (home, now) = (caller.home, self.clock.now());
        self.db
            .read(move |c| {
                let orders = store::to_send(c, home, MAX_SEND_TASKS)?;
                let task = |order: Order| {
                    Ok(SendTask {
                        delivery: order.delivery,
                        order: order.id,
                        title: order.title,
                        receiver: order.receiver,
                        relay_grant: store::relay_grant(c, order.id, now)?,
                    })
                };
                orders.into_iter().map(task).collect()
            })
            .await
    }

    /// Takes the receipts of an order: captures the payment and grants the pass, once (F14, F25, F67).
    pub async fn settle(&self, caller: &Caller, request: ReceiptRequest) -> Result<OrderEntry> {
        let id = receipts::claimed_order(&request.receipts)?;
        let home = caller.home;
        let entry = self
            .transact(move |scene| {
                let order = received_by(store::find(scene.tx, id)?, home)?;
                let verified = receipts::verify(scene.tx, &order, &request.receipts, scene.now)?;
                scene.apply(&order, &Event::Arrived, &Work::Receipts(verified))?;
                entry(
                    scene.tx,
                    received_by(store::find(scene.tx, id)?, home)?,
                    home,
                    scene.desk,
                )
            })
            .await?;
        self.progress.forget(entry.delivery);
        Ok(entry)
    }

    /// Orders as the operator sees them, newest first.
    pub async fn list_all(&self, filter: OrderFilter, limit: u32) -> Result<Vec<DeliveryRow>> {
        let shown = match filter {
            OrderFilter::Active => store::Shown::Active,
            OrderFilter::All => store::Shown::All,
        };
        let currency = self.desk.currency;
        let rows = self
            .db
            .read(move |c| store::rows(c, &shown, currency, limit.min(10_000)))
            .await?;
        Ok(rows
            .into_iter()
            .map(|row| self.with_progress(row))
            .collect())
    }

    /// An order with its grants, receipts and ledger lines.
    pub async fn view(&self, id: OrderId) -> Result<Option<DeliveryView>> {
        let currency = self.desk.currency;
        let view = self
            .db
            .read(move |c| {
                let Some(row) = store::rows(c, &store::Shown::Only(id), currency, 1)?.pop() else {
                    return Ok::<_, crate::error::CoreError>(None);
                };
                Ok(Some(DeliveryView {
                    row,
                    grants: store::grants(c, id)?,
                    receipts: store::receipts(c, id)?,
                    lines: ledger::store::lines_of_order(c, id, currency)?,
                }))
            })
            .await?;
        Ok(view.map(|view| DeliveryView {
            row: self.with_progress(view.row),
            ..view
        }))
    }

    /// The operator cancels an order; the hold goes back.
    pub async fn operator_cancel(&self, id: OrderId, why: &str) -> Result<()> {
        let why = clean_note(why, MAX_NOTE_CHARS, "the reason")?;
        let text = if why.is_empty() {
            "cancelled by the operator".to_owned()
        } else {
            format!("cancelled by the operator: {why}")
        };
        let delivery = self
            .transact(move |scene| {
                let order = store::find(scene.tx, id)?.ok_or_else(|| missing("order"))?;
                scene.apply(&order, &Event::Cancel(text), &Work::None)?;
                Ok(order.delivery)
            })
            .await?;
        self.progress.forget(delivery);
        Ok(())
    }

    /// A gateway's report of progress, from the broker.
    pub fn progress(&self, device: DeviceId, delivery: DeliveryId, bytes_done: u64) {
        if self.progress.report(device, delivery, bytes_done) {
            self.notices.changed();
        }
    }

    /// A number that grows with every committed change anywhere in the server, and with progress.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.notices.changes()
    }

    fn shown(&self, mut entry: OrderEntry) -> OrderEntry {
        if !entry.state.is_final()
            && let Some(shown) = self.progress.of(entry.delivery)
        {
            entry.bytes_done = entry
                .bytes_done
                .max(shown.bytes_done)
                .min(entry.total_bytes);
        }
        entry
    }

    fn with_progress(&self, mut row: DeliveryRow) -> DeliveryRow {
        if !row.state.is_final()
            && let Some(shown) = self.progress.of(row.delivery)
        {
            row.bytes_done = row.bytes_done.max(shown.bytes_done).min(row.total_bytes);
            row.rate = shown.rate;
            row.path = shown.path.or(row.path);
        }
        row
    }
}

/// The order, if this home has part in it.
fn concerned(order: Option<Order>, home: HomeId) -> Result<Order> {
    order
        .filter(|order| [order.sender, order.receiver, order.payer].contains(&home))
        .ok_or_else(|| missing("order"))
}

/// The order, if this home receives it.
fn received_by(order: Option<Order>, home: HomeId) -> Result<Order> {
    order
        .filter(|order| order.receiver == home)
        .ok_or_else(|| missing("delivery to this home"))
}

/// Chunk ranges from a gateway: within the blob, sorted, merged.
fn good_ranges(blob_bytes: u64, mut ranges: Vec<ChunkRange>) -> Result<Vec<ChunkRange>> {
    if ranges.is_empty() || ranges.len() > MAX_GRANT_RANGES {
        return Err(bad(format!(
            "a grant is for 1 to {MAX_GRANT_RANGES} chunk ranges"
        )));
    }
    let chunks = chunk_count(blob_bytes);
    if ranges
        .iter()
        .any(|range| range.count == 0 || range.start >= chunks || range.end() > chunks)
    {
        return Err(bad(format!(
            "the blob has {chunks} chunks; a range lies outside of it or is empty"
        )));
    }
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<ChunkRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end() => {
                last.count = last.end().max(range.end()) - last.start;
            }
            _ => merged.push(range),
        }
    }
    Ok(merged)
}

fn entry(c: &Connection, order: Order, viewer: HomeId, desk: &Desk) -> Result<OrderEntry> {
    let settled = order.state == OrderState::Settled;
    let pass = if settled && viewer == order.receiver {
        passes::of_order(c, order.id)?
    } else {
        None
    };
    Ok(OrderEntry {
        order: order.id,
        delivery: order.delivery,
        title: order.title,
        blobs: order.blobs,
        total_bytes: order.total_bytes,
        bytes_done: order.done_bytes,
        sender: order.sender,
        receiver: order.receiver,
        payer: order.payer,
        initiative: order.initiative,
        price: Money::new(order.price_minor, desk.currency),
        state: order.state,
        problem: order.problem,
        pass,
        created: order.created,
        updated: order.updated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, count: u64) -> ChunkRange {
        ChunkRange { start, count }
    }

    #[test]
    fn merges_ranges_and_refuses_what_lies_outside() {
        let bytes = 10 * mantel_protocol::blob::CHUNK_BYTES;
        let merged = good_ranges(
            bytes,
            vec![range(5, 2), range(0, 3), range(2, 3), range(9, 1)],
        )
        .expect("inside");
        assert_eq!(merged, [range(0, 7), range(9, 1)]);
        for ranges in [
            vec![],
            vec![range(0, 0)],
            vec![range(10, 1)],
            vec![range(9, 2)],
            vec![range(1, u64::MAX)],
        ] {
            assert!(good_ranges(bytes, ranges).is_err());
        }
        assert!(good_ranges(bytes, vec![range(0, 1); MAX_GRANT_RANGES + 1]).is_err());
    }
}
