//! Orders, outboxes, grants used and offers in the database. Everything that must survive kill -9 is written here
//! before it is sent.

use super::{OfferMode, OfferRow, WaitingOrder};
use crate::link::store::damaged;
use mantel_protocol::api::{HomeEntry, OrderEntry, OrderRequest, PublishRequest};
use mantel_protocol::blob::BlobId;
use mantel_protocol::ids::{GrantId, OrderId, TitleId};
use mantel_runtime::db::{Db, DbError, Schema};
use rusqlite::{OptionalExtension, Transaction};
use serde::de::DeserializeOwned;

/// The module's tables.
pub const SCHEMA: Schema = Schema {
    module: "exchange",
    steps: &[include_str!("schema.sql")],
};

/// The most orders kept in the mirror: what the server lists.
pub const MAX_ORDERS: usize = 500;
/// The most grants that a receipt names.
const MAX_RECEIPT_GRANTS: usize = 16;

/// An order and whether anything is left to do for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirrored {
    /// As the server last said.
    pub entry: OrderEntry,
    /// Arrived, licensed, playable.
    pub ready: bool,
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("what is stored is plain data")
}

fn from_json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, DbError> {
    serde_json::from_str(text).map_err(|_| damaged(what).into())
}

fn put_order(tx: &Transaction<'_>, entry: &OrderEntry) -> Result<(), DbError> {
    let id = entry.order.to_string();
    let stored: Option<String> = tx
        .query_row(
            "SELECT entry FROM order_mirror WHERE id = $1",
            [&id],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(stored) = stored
        && let Ok(known) = serde_json::from_str::<OrderEntry>(&stored)
    {
        // An answer that was overtaken by a newer one.
        let older = known.updated > entry.updated || (known.pass.is_some() && entry.pass.is_none());
        if older || known == *entry {
            return Ok(());
        }
    }
    tx.execute(
        "INSERT INTO order_mirror (id, created, entry, ready) VALUES ($1, $2, $3, 0)
         ON CONFLICT (id) DO UPDATE SET entry = excluded.entry",
        (&id, entry.created.to_string(), json(entry)),
    )?;
    Ok(())
}

/// Takes what the server said of orders.
pub async fn put_orders(db: &Db, entries: Vec<OrderEntry>) -> Result<(), DbError> {
    db.write(move |tx| {
        entries
            .iter()
            .take(MAX_ORDERS)
            .try_for_each(|entry| put_order(tx, entry))
    })
    .await
}

/// Takes the server's answer to a receipt: the order as it is now, and the receipts need not be sent again.
pub async fn settle(db: &Db, entry: OrderEntry) -> Result<(), DbError> {
    db.write(move |tx| {
        put_order(tx, &entry)?;
        tx.execute(
            "DELETE FROM receipt_outbox WHERE order_id = $1",
            [entry.order.to_string()],
        )?;
        Ok(())
    })
    .await
}

/// Notes that nothing is left to do for an order.
pub async fn set_ready(db: &Db, order: OrderId) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "UPDATE order_mirror SET ready = 1 WHERE id = $1",
            [order.to_string()],
        )?;
        tx.execute(
            "DELETE FROM grant_used WHERE order_id = $1",
            [order.to_string()],
        )?;
        Ok(())
    })
    .await
}

/// All orders, newest first.
pub async fn orders(db: &Db) -> Result<Vec<Mirrored>, DbError> {
    let rows = db
        .read::<_, DbError, _>(|connection| {
            let mut query = connection.prepare(
                "SELECT entry, ready FROM order_mirror ORDER BY created DESC, id DESC LIMIT $1",
            )?;
            let rows = query.query_map([MAX_ORDERS as i64], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? != 0))
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
        .await?;
    rows.into_iter()
        .map(|(entry, ready)| {
            Ok(Mirrored {
                entry: from_json(&entry, "order")?,
                ready,
            })
        })
        .collect()
}

/// One order.
pub async fn order(db: &Db, id: OrderId) -> Result<Option<Mirrored>, DbError> {
    let row = db
        .read::<_, DbError, _>(move |connection| {
            let query = "SELECT entry, ready FROM order_mirror WHERE id = $1";
            let row = connection
                .query_row(query, [id.to_string()], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? != 0))
                })
                .optional()?;
            Ok(row)
        })
        .await?;
    row.map(|(entry, ready)| {
        Ok(Mirrored {
            entry: from_json(&entry, "order")?,
            ready,
        })
    })
    .transpose()
}

/// Writes down an order before it is asked for.
pub async fn queue_order(
    db: &Db,
    waiting: WaitingOrder,
    request: &OrderRequest,
) -> Result<(), DbError> {
    let request = json(request);
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO order_outbox (key, title, since, request, problem) VALUES ($1, $2, $3, $4, NULL)",
            (&waiting.key, &waiting.title_name, waiting.since.to_string(), request),
        )?;
        Ok(())
    })
    .await
}

/// Orders not answered yet, oldest first, with their requests.
pub async fn queued_orders(db: &Db) -> Result<Vec<(WaitingOrder, OrderRequest)>, DbError> {
    type Row = (String, String, String, String, Option<String>);
    let rows: Vec<Row> = db
        .read::<_, DbError, _>(|connection| {
            let query =
                "SELECT key, title, since, request, problem FROM order_outbox ORDER BY since";
            let mut query = connection.prepare(query)?;
            let rows = query.query_map([], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
        .await?;
    rows.into_iter()
        .map(|(key, title_name, since, request, problem)| {
            let request: OrderRequest = from_json(&request, "order request")?;
            let since = since
                .parse()
                .map_err(|_| damaged("time of an order request"))?;
            let (title, receiver) = (request.title, request.receiver);
            Ok((
                WaitingOrder {
                    key,
                    title,
                    title_name,
                    receiver,
                    since,
                    problem,
                },
                request,
            ))
        })
        .collect()
}

/// The server answered: the order is in the mirror and leaves the outbox together.
pub async fn order_placed(db: &Db, key: String, entry: OrderEntry) -> Result<(), DbError> {
    db.write(move |tx| {
        put_order(tx, &entry)?;
        tx.execute("DELETE FROM order_outbox WHERE key = $1", [key])?;
        Ok(())
    })
    .await
}

/// The server refused, or the order was given up.
pub async fn unqueue_order(db: &Db, key: String) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute("DELETE FROM order_outbox WHERE key = $1", [key])?;
        Ok(())
    })
    .await
}

/// Notes what stands in the way of a queued order.
pub async fn order_problem(db: &Db, key: String, problem: String) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "UPDATE order_outbox SET problem = $1 WHERE key = $2",
            (problem, key),
        )?;
        Ok(())
    })
    .await
}

/// Writes down a cancellation before it is asked for.
pub async fn queue_cancel(db: &Db, order: OrderId) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO cancel_outbox (id) VALUES ($1) ON CONFLICT (id) DO NOTHING",
            [order.to_string()],
        )?;
        Ok(())
    })
    .await
}

/// Cancellations not answered yet.
pub async fn queued_cancels(db: &Db) -> Result<Vec<OrderId>, DbError> {
    db.read(|connection| {
        let mut query = connection.prepare("SELECT id FROM cancel_outbox")?;
        let rows = query.query_map([], |row| row.get::<_, String>(0))?;
        let ids = rows.map(|id| id?.parse().map_err(|_| damaged("order id")));
        Ok(ids.collect::<Result<Vec<OrderId>, rusqlite::Error>>()?)
    })
    .await
}

/// A cancellation was answered, by yes (`entry`) or no.
pub async fn cancel_answered(
    db: &Db,
    order: OrderId,
    entry: Option<OrderEntry>,
) -> Result<(), DbError> {
    db.write(move |tx| {
        if let Some(entry) = &entry {
            put_order(tx, entry)?;
        }
        tx.execute(
            "DELETE FROM cancel_outbox WHERE id = $1",
            [order.to_string()],
        )?;
        Ok(())
    })
    .await
}

/// Notes a grant before it is used.
pub async fn note_grant(
    db: &Db,
    order: OrderId,
    blob: BlobId,
    grant: GrantId,
) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO grant_used (order_id, blob, place, grant_id)
             VALUES ($1, $2, (SELECT COALESCE(MAX(place), 0) + 1 FROM grant_used WHERE order_id = $1 AND blob = $2), $3)",
            (order.to_string(), blob.to_string(), grant.to_string()),
        )?;
        Ok(())
    })
    .await
}

/// The grants under which a blob came, oldest first, the last 16.
pub async fn grants_used(db: &Db, order: OrderId, blob: BlobId) -> Result<Vec<GrantId>, DbError> {
    db.read(move |connection| {
        let mut query = connection.prepare(
            "SELECT grant_id FROM grant_used WHERE order_id = $1 AND blob = $2 ORDER BY place DESC LIMIT $3",
        )?;
        let limits = (order.to_string(), blob.to_string(), MAX_RECEIPT_GRANTS as i64);
        let rows = query.query_map(limits, |row| row.get::<_, String>(0))?;
        let ids = rows.map(|id| id?.parse().map_err(|_| damaged("grant id")));
        let mut grants = ids.collect::<Result<Vec<GrantId>, rusqlite::Error>>()?;
        grants.reverse();
        Ok(grants)
    })
    .await
}

/// Writes down a receipt before it is sent; the first one written stays.
pub async fn put_receipt(
    db: &Db,
    order: OrderId,
    blob: BlobId,
    token: String,
) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO receipt_outbox (order_id, blob, token) VALUES ($1, $2, $3)
             ON CONFLICT (order_id, blob) DO NOTHING",
            (order.to_string(), blob.to_string(), token),
        )?;
        Ok(())
    })
    .await
}

/// The receipts of an order that were not answered yet.
pub async fn receipts(db: &Db, order: OrderId) -> Result<Vec<(BlobId, String)>, DbError> {
    db.read(move |connection| {
        let mut query =
            connection.prepare("SELECT blob, token FROM receipt_outbox WHERE order_id = $1")?;
        let rows = query.query_map([order.to_string()], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let parsed = rows.map(|row| {
            let (blob, token) = row?;
            Ok((blob.parse().map_err(|_| damaged("blob id"))?, token))
        });
        Ok(parsed.collect::<Result<Vec<_>, rusqlite::Error>>()?)
    })
    .await
}

/// Writes down an offer (or, without a request, its withdrawal) before it is sent.
pub async fn put_offer(
    db: &Db,
    title: TitleId,
    mode: &OfferMode,
    request: Option<&PublishRequest>,
) -> Result<(), DbError> {
    let (mode, request) = (json(mode), request.map(json));
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO offer (title, mode, request, waiting, problem) VALUES ($1, $2, $3, 1, NULL)
             ON CONFLICT (title) DO UPDATE SET mode = excluded.mode, request = excluded.request, waiting = 1,
                 problem = NULL",
            (title.to_string(), mode, request),
        )?;
        Ok(())
    })
    .await
}

/// An offer as stored, with the request to send (`None`: withdraw).
pub struct StoredOffer {
    /// For the page.
    pub row: OfferRow,
    /// What to send.
    pub request: Option<PublishRequest>,
}

/// All offers.
pub async fn offers(db: &Db) -> Result<Vec<StoredOffer>, DbError> {
    type Row = (String, String, Option<String>, i64, Option<String>);
    let rows: Vec<Row> = db
        .read::<_, DbError, _>(|connection| {
            let query =
                "SELECT title, mode, request, waiting, problem FROM offer ORDER BY title DESC";
            let mut query = connection.prepare(query)?;
            let rows = query.query_map([], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            })?;
            Ok(rows.collect::<Result<Vec<_>, _>>()?)
        })
        .await?;
    rows.into_iter()
        .map(|(title, mode, request, waiting, problem)| {
            let title = title.parse().map_err(|_| damaged("title id"))?;
            let request = request
                .map(|request| from_json(&request, "offer"))
                .transpose()?;
            let row = OfferRow {
                title,
                mode: from_json(&mode, "offer")?,
                waiting: waiting != 0,
                problem,
            };
            Ok(StoredOffer { row, request })
        })
        .collect()
}

/// The server took an offer.
pub async fn offer_sent(db: &Db, title: TitleId) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "UPDATE offer SET waiting = 0, problem = NULL WHERE title = $1",
            [title.to_string()],
        )?;
        Ok(())
    })
    .await
}

/// An offer is not sent again by itself: refused.
pub async fn offer_refused(db: &Db, title: TitleId, problem: String) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute(
            "UPDATE offer SET waiting = 0, problem = $1 WHERE title = $2",
            (problem, title.to_string()),
        )?;
        Ok(())
    })
    .await
}

/// An offer was withdrawn at the server.
pub async fn remove_offer(db: &Db, title: TitleId) -> Result<(), DbError> {
    db.write(move |tx| {
        tx.execute("DELETE FROM offer WHERE title = $1", [title.to_string()])?;
        Ok(())
    })
    .await
}

/// The homes last heard of.
pub async fn homes(db: &Db) -> Result<Vec<HomeEntry>, DbError> {
    let text = db
        .read::<_, DbError, _>(|connection| {
            let row = connection.query_row("SELECT homes FROM home_cache", [], |row| {
                row.get::<_, String>(0)
            });
            Ok(row.optional()?)
        })
        .await?;
    Ok(text
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default())
}

/// Replaces the homes last heard of.
pub async fn put_homes(db: &Db, homes: &[HomeEntry]) -> Result<(), DbError> {
    let text = json(&homes);
    db.write(move |tx| {
        tx.execute(
            "INSERT INTO home_cache (one, homes) VALUES (1, $1)
             ON CONFLICT (one) DO UPDATE SET homes = excluded.homes",
            [text],
        )?;
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use mantel_protocol::api::OrderState;
    use mantel_protocol::ids::{DeliveryId, HomeId};
    use mantel_protocol::money::{Currency, Money};
    use mantel_protocol::restriction::Initiative;

    fn entry(state: OrderState, updated: i64) -> OrderEntry {
        let home = HomeId::generate();
        OrderEntry {
            order: OrderId::generate(),
            delivery: DeliveryId::generate(),
            title: TitleId::generate(),
            blobs: vec![],
            total_bytes: 1,
            bytes_done: 0,
            sender: home,
            receiver: home,
            payer: home,
            initiative: Initiative::Pull,
            price: Money::new(1, Currency::EUR),
            state,
            problem: None,
            pass: None,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::from_second(updated).expect("in range"),
        }
    }

    #[tokio::test]
    async fn an_overtaken_answer_changes_nothing_and_receipts_stay_until_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open(&folder.path().join("t.db"), &[SCHEMA]).expect("opens");
        let first = entry(OrderState::Delivering, 5);
        put_orders(&db, vec![first.clone()]).await.expect("stored");
        let (blob, grants) = (BlobId([3; 32]), [GrantId::generate(), GrantId::generate()]);
        for grant in grants {
            note_grant(&db, first.order, blob, grant)
                .await
                .expect("noted");
        }
        assert_eq!(
            grants_used(&db, first.order, blob).await.expect("read"),
            grants
        );
        put_receipt(&db, first.order, blob, "one".into())
            .await
            .expect("stored");
        put_receipt(&db, first.order, blob, "two".into())
            .await
            .expect("the first stays");
        assert_eq!(
            receipts(&db, first.order).await.expect("read"),
            [(blob, "one".to_owned())]
        );
        let settled = OrderEntry {
            state: OrderState::Settled,
            pass: Some("p".into()),
            updated: Timestamp::MAX,
            ..first.clone()
        };
        settle(&db, settled.clone()).await.expect("settled");
        assert_eq!(receipts(&db, first.order).await.expect("read"), []);
        put_orders(&db, vec![first.clone()])
            .await
            .expect("an answer that was on its way");
        let now = order(&db, first.order).await.expect("read").expect("there");
        assert_eq!(
            now,
            Mirrored {
                entry: settled,
                ready: false
            }
        );
    }
}
