//! Receipts (F67): the receiving gateway's signed word that each blob arrived whole.

use super::ReceiptRow;
use super::store::{self, Order};
use crate::error::{CoreError, Result, bad, refused};
use jiff::Timestamp;
use mantel_protocol::api::ProblemCode;
use mantel_protocol::ids::OrderId;
use mantel_protocol::manifest::MAX_ASSETS;
use mantel_protocol::receipt::Receipt;
use mantel_protocol::token::{peek_unverified, verify_device};
use rusqlite::Connection;

/// The longest receipt, bytes: 16 grants and some keys.
pub const MAX_RECEIPT_BYTES: usize = 8 * 1024;
/// The most grants that a receipt names.
pub const MAX_RECEIPT_GRANTS: usize = 16;

/// A receipt that was verified, as it will be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The row.
    pub row: ReceiptRow,
}

/// Which order receipts claim to be for; nothing is verified yet.
pub fn claimed_order(tokens: &[String]) -> Result<OrderId> {
    if tokens.is_empty()
        || tokens.len() > MAX_ASSETS
        || tokens.iter().any(|token| token.len() > MAX_RECEIPT_BYTES)
    {
        return Err(bad(format!(
            "1 to {MAX_ASSETS} receipts of at most {MAX_RECEIPT_BYTES} bytes were expected"
        )));
    }
    peek_unverified::<Receipt>(&tokens[0])
        .map(|receipt| receipt.order)
        .map_err(|error| forged(&error.to_string()))
}

fn forged(why: &str) -> CoreError {
    let next = "nothing was charged; a receipt must be signed by the gateway that received";
    refused(
        ProblemCode::BadToken,
        format!("a receipt was not accepted: {why}"),
        next,
    )
}

/// Verifies the receipts of an order: signed by its receiving device, one for each blob, whole, under its own grants.
pub fn verify(
    c: &Connection,
    order: &Order,
    tokens: &[String],
    now: Timestamp,
) -> Result<Vec<Verified>> {
    let mut verified: Vec<Verified> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let receipt: Receipt = verify_device(&order.receiver_device, token, now)
            .map_err(|error| forged(&error.to_string()))?;
        check(c, order, &receipt)?;
        if verified.iter().any(|other| other.row.blob == receipt.blob) {
            return Err(bad("two receipts are for the same blob"));
        }
        let hash = blake3::hash(token.as_bytes()).to_hex().to_string();
        let row = ReceiptRow {
            hash,
            blob: receipt.blob,
            bytes: receipt.bytes,
            path: receipt.path,
            at: now,
            token: token.clone(),
        };
        verified.push(Verified { row });
    }
    if verified.len() != order.blobs.len() {
        return Err(bad(format!(
            "the order has {} blobs; a receipt is needed for each",
            order.blobs.len()
        )));
    }
    Ok(verified)
}

fn check(c: &Connection, order: &Order, receipt: &Receipt) -> Result<()> {
    let fits = receipt.order == order.id
        && receipt.delivery == order.delivery
        && receipt.title == order.title
        && receipt.receiver == order.receiver_device;
    if !fits {
        return Err(forged("it is for another delivery or device"));
    }
    let blob = order.blobs.iter().find(|blob| blob.blob == receipt.blob);
    if blob.is_none_or(|blob| blob.sealed_bytes != receipt.bytes) {
        return Err(bad(
            "a receipt is for a blob or size that the order does not have",
        ));
    }
    if receipt.grants.len() > MAX_RECEIPT_GRANTS {
        return Err(bad(format!(
            "a receipt names at most {MAX_RECEIPT_GRANTS} grants"
        )));
    }
    for grant in &receipt.grants {
        if !store::is_grant_of(c, *grant, order.id, receipt.blob)? {
            return Err(forged("it names a grant that was not issued for this blob"));
        }
    }
    Ok(())
}
