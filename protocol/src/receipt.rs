//! A receipt: the receiving gateway's signed word that a blob arrived whole (F67). It captures the payment.

use crate::blob::BlobId;
use crate::ids::{DeliveryId, GrantId, OrderId, TitleId};
use crate::key::DeviceId;
use crate::token::{Claims, Validity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which way the bytes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Straight from gateway to gateway.
    Direct,
    /// Through the server's relay (F8).
    Relay,
}

impl Path {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
        }
    }
}

/// What the receiving device signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// For which order.
    pub order: OrderId,
    /// For which delivery.
    pub delivery: DeliveryId,
    /// The title.
    pub title: TitleId,
    /// Under which grants, in the order in which they were used; the last 16.
    pub grants: Vec<GrantId>,
    /// The blob, hashed and found whole.
    pub blob: BlobId,
    /// Its size, bytes.
    pub bytes: u64,
    /// Which way the last bytes came.
    pub path: Path,
    /// Who received it; the signature is this device's.
    pub receiver: DeviceId,
    /// When, by the receiver's clock.
    pub received: Timestamp,
}

impl Claims for Receipt {
    const KIND: &'static str = "mantel/receipt/1";
    fn validity(&self) -> Option<Validity> {
        None
    }
}
