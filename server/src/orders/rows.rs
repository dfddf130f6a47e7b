//! Orders as the operator sees them.

use crate::ledger::LineRow;
use jiff::Timestamp;
use mantel_protocol::api::OrderState;
use mantel_protocol::blob::BlobId;
use mantel_protocol::ids::{DeliveryId, GrantId, HomeId, OrderId, TitleId};
use mantel_protocol::money::Money;
use mantel_protocol::receipt::Path;
use mantel_protocol::restriction::Initiative;

/// A home with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub id: HomeId,
    /// What it is called.
    pub name: String,
}

/// An order with its delivery, as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// The order.
    pub order: OrderId,
    /// Its delivery.
    pub delivery: DeliveryId,
    /// The title.
    pub title: TitleId,
    /// Its name; `None`: private.
    pub title_name: Option<String>,
    /// Who sends.
    pub sender: Named,
    /// Who receives.
    pub receiver: Named,
    /// Who pays.
    pub payer: Named,
    /// Who started it.
    pub initiative: Initiative,
    /// Held or captured.
    pub price: Money,
    /// Where it is.
    pub state: OrderState,
    /// What is wrong.
    pub problem: Option<String>,
    /// Sealed size.
    pub total_bytes: u64,
    /// At the receiver.
    pub bytes_done: u64,
    /// Through the relay, overhead included.
    pub relayed_bytes: u64,
    /// Bytes per second; 0: idle.
    pub rate: u64,
    /// Which way the bytes come or came.
    pub path: Option<Path>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// Which orders the operator lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderFilter {
    /// Those under way.
    Active,
    /// All.
    All,
}

/// A grant as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRow {
    /// Which.
    pub id: GrantId,
    /// For which blob.
    pub blob: BlobId,
    /// Media bytes that it allows.
    pub max_bytes: u64,
    /// Bytes that went through the relay.
    pub relayed_bytes: u64,
    /// From when.
    pub issued: Timestamp,
    /// Until when.
    pub expires: Timestamp,
    /// When it was ended before.
    pub ended: Option<Timestamp>,
    /// Why.
    pub ended_why: Option<String>,
}

/// A receipt as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptRow {
    /// BLAKE3 of the token, hex.
    pub hash: String,
    /// Which blob arrived.
    pub blob: BlobId,
    /// Its size.
    pub bytes: u64,
    /// Which way the last bytes came.
    pub path: Path,
    /// When the server took it.
    pub at: Timestamp,
    /// As the receiving gateway signed it.
    pub token: String,
}

/// An order with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryView {
    /// The order.
    pub row: DeliveryRow,
    /// Its grants, oldest first.
    pub grants: Vec<GrantRow>,
    /// Its receipts.
    pub receipts: Vec<ReceiptRow>,
    /// Its ledger lines.
    pub lines: Vec<LineRow>,
}
