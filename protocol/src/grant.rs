//! A grant: the server's signed leave for (a part of) one delivery (F61). Without one no gateway sends a byte and no
//! relay joins two connections.

use crate::blob::{BlobId, ChunkRange, ranges_len};
use crate::ids::{DeliveryId, GrantId, OrderId, TitleId};
use crate::key::DeviceId;
use crate::token::{Claims, Validity};
use serde::{Deserialize, Serialize};

/// The most chunk ranges in one grant: what a receiver still lacks, coalesced.
pub const MAX_GRANT_RANGES: usize = 256;

/// What the server signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Grant {
    /// Unique; a sender's gateway and the relay count bytes by it.
    pub id: GrantId,
    /// The order that paid for it.
    pub order: OrderId,
    /// The delivery that it is part of.
    pub delivery: DeliveryId,
    /// The title.
    pub title: TitleId,
    /// The blob to be sent.
    pub blob: BlobId,
    /// The blob's size, bytes.
    pub blob_bytes: u64,
    /// Who may send.
    pub sender: DeviceId,
    /// Who may receive.
    pub receiver: DeviceId,
    /// The chunks that may be sent, each once.
    pub chunks: Vec<ChunkRange>,
    /// When.
    pub validity: Validity,
}

impl Claims for Grant {
    const KIND: &'static str = "mantel/grant/1";
    fn validity(&self) -> Option<Validity> {
        Some(self.validity)
    }
}

impl Grant {
    /// How many media bytes may be sent under it.
    pub fn max_bytes(&self) -> u64 {
        ranges_len(self.blob_bytes, &self.chunks)
    }

    /// Whether it covers a chunk.
    pub fn covers(&self, chunk: u64) -> bool {
        self.chunks
            .iter()
            .any(|range| (range.start..range.end()).contains(&chunk))
    }
}
