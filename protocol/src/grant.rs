//! A grant: the server's signed leave for (a part of) one delivery (F61). Without one no gateway sends a byte and no
//! relay joins two connections. [`SeedGrant`] is its kin for updates of the appliance (F65).

use crate::blob::{BlobId, ChunkRange, chunk_count, ranges_len};
use crate::ids::{DeliveryId, GrantId, OrderId, TitleId};
use crate::key::{DeviceId, ServerKey};
use crate::token::{Claims, TokenError, Validity, verify};
use crate::update::Version;
use jiff::Timestamp;
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

/// Leave to fetch the bundle of an update from a home that has it whole. No order stands behind it, nobody pays for it,
/// and no relay takes it: through the relay the server would send the same bytes that it sends as well by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeedGrant {
    /// Unique; the sender's gateway counts bytes by it.
    pub id: GrantId,
    /// Whose bundle.
    pub version: Version,
    /// The bundle.
    pub bundle: BlobId,
    /// Its size, bytes; each of its chunks may be sent once.
    pub bundle_bytes: u64,
    /// Who may send.
    pub sender: DeviceId,
    /// Who may receive.
    pub receiver: DeviceId,
    /// When.
    pub validity: Validity,
}

impl Claims for SeedGrant {
    const KIND: &'static str = "mantel/seed/1";
    fn validity(&self) -> Option<Validity> {
        Some(self.validity)
    }
}

/// What a receiver may show to a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyGrant {
    /// For a delivery.
    Delivery(Grant),
    /// For a bundle.
    Bundle(SeedGrant),
}

impl From<Grant> for AnyGrant {
    fn from(grant: Grant) -> Self {
        Self::Delivery(grant)
    }
}

impl From<SeedGrant> for AnyGrant {
    fn from(grant: SeedGrant) -> Self {
        Self::Bundle(grant)
    }
}

impl AnyGrant {
    /// Verifies a token of either kind. The signature tells them apart: it is bound to the kind.
    pub fn verify(server: &ServerKey, token: &str, now: Timestamp) -> Result<Self, TokenError> {
        match verify::<Grant>(server, token, now) {
            Err(TokenError::Signature) => verify(server, token, now).map(Self::Bundle),
            other => other.map(Self::Delivery),
        }
    }

    /// Which.
    pub fn id(&self) -> GrantId {
        match self {
            Self::Delivery(grant) => grant.id,
            Self::Bundle(grant) => grant.id,
        }
    }

    /// What may be sent.
    pub fn blob(&self) -> BlobId {
        match self {
            Self::Delivery(grant) => grant.blob,
            Self::Bundle(grant) => grant.bundle,
        }
    }

    /// Its size, bytes.
    pub fn blob_bytes(&self) -> u64 {
        match self {
            Self::Delivery(grant) => grant.blob_bytes,
            Self::Bundle(grant) => grant.bundle_bytes,
        }
    }

    /// Who may send.
    pub fn sender(&self) -> DeviceId {
        match self {
            Self::Delivery(grant) => grant.sender,
            Self::Bundle(grant) => grant.sender,
        }
    }

    /// Who may receive.
    pub fn receiver(&self) -> DeviceId {
        match self {
            Self::Delivery(grant) => grant.receiver,
            Self::Bundle(grant) => grant.receiver,
        }
    }

    /// When.
    pub fn validity(&self) -> Validity {
        match self {
            Self::Delivery(grant) => grant.validity,
            Self::Bundle(grant) => grant.validity,
        }
    }

    /// The delivery that it is part of; a bundle is part of none.
    pub fn delivery(&self) -> Option<DeliveryId> {
        match self {
            Self::Delivery(grant) => Some(grant.delivery),
            Self::Bundle(_) => None,
        }
    }

    /// How many bytes of the blob may be sent under it.
    pub fn max_bytes(&self) -> u64 {
        match self {
            Self::Delivery(grant) => grant.max_bytes(),
            Self::Bundle(grant) => grant.bundle_bytes,
        }
    }

    /// Whether it covers a chunk.
    pub fn covers(&self, chunk: u64) -> bool {
        match self {
            Self::Delivery(grant) => grant.covers(chunk),
            Self::Bundle(grant) => chunk < chunk_count(grant.bundle_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SigningKey;
    use crate::token::sign;

    #[test]
    fn a_token_is_taken_for_its_own_kind_only() {
        let (server, now) = (SigningKey::generate(), Timestamp::UNIX_EPOCH);
        let validity = Validity::from_now(now, 600);
        let seed = SeedGrant {
            id: GrantId::generate(),
            version: "1.2.3".parse().expect("a version"),
            bundle: BlobId([7; 32]),
            bundle_bytes: 3 * crate::blob::CHUNK_BYTES + 1,
            sender: DeviceId([1; 32]),
            receiver: DeviceId([2; 32]),
            validity,
        };
        let grant = Grant {
            id: GrantId::generate(),
            order: OrderId::generate(),
            delivery: DeliveryId::generate(),
            title: TitleId::generate(),
            blob: seed.bundle,
            blob_bytes: seed.bundle_bytes,
            sender: seed.sender,
            receiver: seed.receiver,
            chunks: vec![ChunkRange { start: 1, count: 1 }],
            validity,
        };
        let key = server.server_key();
        let (for_bundle, for_delivery) = (sign(&server, &seed), sign(&server, &grant));
        assert_eq!(
            verify::<Grant>(&key, &for_bundle, now),
            Err(TokenError::Signature),
            "so no relay takes it"
        );
        let read = |token| AnyGrant::verify(&key, token, now);
        assert_eq!(read(&for_delivery), Ok(grant.into()));
        let bundle = read(&for_bundle).expect("good");
        assert_eq!(bundle, seed.into());
        assert!(bundle.covers(3) && !bundle.covers(4) && bundle.delivery().is_none());
        assert_eq!(bundle.max_bytes(), bundle.blob_bytes());
        let late = AnyGrant::verify(&key, &for_bundle, validity.expires);
        assert_eq!(late, Err(TokenError::Expired));
        let forged = sign(&SigningKey::generate(), &grant_of(&bundle));
        assert_eq!(read(&forged), Err(TokenError::Signature));
    }

    fn grant_of(grant: &AnyGrant) -> SeedGrant {
        match grant {
            AnyGrant::Bundle(seed) => seed.clone(),
            AnyGrant::Delivery(_) => unreachable!("a bundle's"),
        }
    }
}
