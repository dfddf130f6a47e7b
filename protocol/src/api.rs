//! Requests and answers of the server's HTTPS API (`/v1/…`; OpenAPI at `/openapi.json`).
//!
//! A gateway authenticates with `Authorization: Bearer` and a [`crate::token::DeviceLogin`]. Requests that change
//! something carry an idempotency key or are idempotent by their own id: a gateway repeats them until answered. Errors
//! are [`Problem`]s.
//!
//! | method and path | request → answer | who |
//! |---|---|---|
//! | `POST /v1/enrol` | [`EnrolRequest`] → [`Enrolled`] | a new gateway, by claim code |
//! | `GET /v1/time?nonce=` | → [`TimeAnswer`] | gateway |
//! | `PUT /v1/presence` | [`PresenceReport`] → [`PresenceAnswer`] | gateway |
//! | `GET /v1/homes` | → [`HomeEntry`] list | gateway |
//! | `GET /v1/directory?address=` | → [`HomeEntry`] list (F5, F6) | gateway |
//! | `GET /v1/restrictions` | → [`RestrictionsAnswer`] | gateway |
//! | `GET /v1/account` | → [`AccountAnswer`] | gateway |
//! | `POST /v1/titles` | [`PublishRequest`] → [`TitleEntry`] | publisher |
//! | `DELETE /v1/titles/{title}` | withdraws | publisher |
//! | `GET /v1/titles` | → [`TitleEntry`] list: what this home may order, and its own | gateway |
//! | `POST /v1/orders` | [`OrderRequest`] → [`OrderEntry`] | initiator |
//! | `GET /v1/orders` | → [`OrderEntry`] list, newest first, at most 500 | receiver, payer, publisher |
//! | `GET /v1/orders/{order}` | → [`OrderEntry`] | receiver, payer, publisher |
//! | `DELETE /v1/orders/{order}` | cancels before delivery ends; releases the hold → [`OrderEntry`] | receiver, payer |
//! | `POST /v1/deliveries/{delivery}/grant` | [`GrantRequest`] → [`GrantAnswer`] | receiver |
//! | `POST /v1/deliveries/{delivery}/relay` | "no direct path: ask the sender to the relay" → 204 | receiver |
//! | `POST /v1/deliveries/{delivery}/problem` | [`ProblemReport`] → 204 | receiver |
//! | `GET /v1/deliveries` | → [`SendTask`] list | sender |
//! | `POST /v1/receipts` | [`ReceiptRequest`] → [`OrderEntry`] (settled, with pass) | receiver |
//! | `POST /v1/licenses` | [`LicenseRequest`] → [`LicenseAnswer`] | the pass's device, at the vault |
//! | `POST /v1/updates` | [`UpdateQuestion`] → [`UpdateAnswer`] | an appliance's gateway |
//! | `GET /v1/updates/{version}/bundle?start=&count=` | → so many bytes of the bundle | a home that the version is for |
//! | `POST /v1/updates/{version}/seeds` | → [`SeedOffer`] list | a home that the version is for |
//! | `POST /v1/updates/{version}/outcome` | [`UpdateOutcome`] → 204 | an appliance's gateway |

use crate::blob::{BlobError, BlobId, ChunkRange, HashList};
use crate::envelope::Envelope;
use crate::ids::{CustomerId, DeliveryId, HomeId, OrderId, TitleId};
use crate::key::{DeviceId, SealKey, ServerKey};
use crate::license::Terms;
use crate::manifest::{Manifest, MediaKind};
use crate::money::Money;
use crate::receipt::Path;
use crate::restriction::Initiative;
use crate::update::{MAX_BUNDLE_BYTES, Outcome, Version};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// The largest request body, bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The most addresses that a gateway reports.
pub const MAX_ADDRESSES: usize = 16;
/// The most homes that one private share names.
pub const MAX_AUDIENCE: usize = 64;
/// The largest poster, bytes of JPEG.
pub const MAX_POSTER_BYTES: usize = 64 * 1024;

/// An error (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// What kind, for programs.
    #[serde(rename = "type")]
    pub code: ProblemCode,
    /// HTTP status.
    pub status: u16,
    /// What happened, for a person.
    pub detail: String,
    /// What was kept and what to do next, for a person; may be empty.
    pub next: String,
}

/// The kinds of problem that programs tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The request is malformed.
    BadRequest,
    /// No, a forged or an expired log-in, grant, pass or claim code.
    BadToken,
    /// The caller may not see or do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// A restriction or a suspended account forbids the exchange (F17).
    Restricted,
    /// Not enough credit (F14).
    InsufficientFunds,
    /// The price is now above what the order allows.
    PriceChanged,
    /// The order or delivery is in a state in which this cannot be done.
    Conflict,
    /// The other home is offline or unknown.
    Unreachable,
    /// Too many requests.
    TooMany,
    /// The server failed; nothing was changed; repeat the request.
    Internal,
}

/// A new gateway introduces itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EnrolRequest {
    /// The claim code from the operator's console.
    pub claim_code: String,
    /// Its identity.
    pub device: DeviceId,
    /// Its public key for encryption (F12).
    pub seal_key: SealKey,
    /// A [`crate::token::DeviceLogin`] whose `server` is the pinned key from `GET /v1/server`: proves the device key.
    pub proof: String,
    /// What the household calls itself.
    pub home_name: String,
    /// Electronic serial number (F5).
    pub serial: Option<String>,
    /// MAC addresses, `aa:bb:cc:dd:ee:ff` (F5).
    pub macs: Vec<String>,
}

/// `GET /v1/server`, unauthenticated: who this server is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ServerCard {
    /// What the operator calls it.
    pub name: String,
    /// The key that signs grants, passes, licenses and time; also the relay's TLS raw public key.
    pub key: ServerKey,
    /// The vault's HPKE key.
    pub vault_key: SealKey,
    /// MQTT broker port on this host.
    pub mqtt_port: u16,
    /// Relay port on this host.
    pub relay_port: u16,
    /// The version of the program.
    pub version: String,
}

/// The answer to a claim.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    /// The gateway's home.
    pub home: HomeId,
    /// The customer who owns it.
    pub customer: CustomerId,
    /// The customer's name.
    pub customer_name: String,
    /// The server.
    pub server: ServerCard,
}

/// Signed time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TimeAnswer {
    /// A [`crate::token::ServerTime`] token.
    pub token: String,
}

/// Where a gateway is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PresenceReport {
    /// Where its chunk listener may be reached: LAN, IPv6, mapped.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<SocketAddr>,
    /// Free bytes in its store.
    pub free_bytes: u64,
    /// The program's version.
    pub version: String,
}

/// What the server saw.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PresenceAnswer {
    /// The address from which the report came.
    pub observed: String,
}

/// Another home (or this one) in the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HomeEntry {
    /// Which home.
    pub home: HomeId,
    /// Its name.
    pub name: String,
    /// Its gateway.
    pub device: DeviceId,
    /// The key to seal private shares to.
    pub seal_key: SealKey,
    /// Where it may be reached directly; empty unless an exchange with it is allowed.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<SocketAddr>,
    /// Whether it is connected now.
    pub online: bool,
    /// Whether this home's pushes to it would be allowed.
    pub may_push: bool,
    /// Whether this home's pulls from it would be allowed.
    pub may_pull: bool,
}

/// The restrictions that bind this home.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestrictionsAnswer {
    /// A [`crate::restriction::RestrictionSet`] token.
    pub token: String,
}

/// How a title is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Offer {
    /// In the catalog, for every home that the restrictions allow; keys in the vault.
    Catalog {
        /// [`Manifest`] signed by the publisher.
        manifest: String,
        /// [`crate::manifest::TitleKeys`] sealed to the vault, context [`crate::manifest::vault_context`].
        keys: Envelope,
        /// The price proposed; the operator may change it.
        price: Money,
        /// The terms proposed.
        terms: Terms,
        /// A small JPEG for the catalog, base64; the publisher chose to show it.
        poster: Option<String>,
    },
    /// Only for the homes named, free, end to end (F64).
    Private {
        /// For each home, [`crate::manifest::PrivateShare`] sealed to its device, context
        /// [`crate::manifest::share_context`].
        audience: Vec<(HomeId, Envelope)>,
        /// The kind, for restrictions.
        kind: MediaKind,
    },
}

/// Offers a title.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PublishRequest {
    /// The title; publishing it again replaces the offer.
    pub title: TitleId,
    /// Its assets' blobs and sealed sizes.
    pub blobs: Vec<BlobEntry>,
    /// How.
    pub offer: Offer,
}

/// A blob and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobEntry {
    /// Which.
    pub blob: crate::blob::BlobId,
    /// Sealed size.
    pub sealed_bytes: u64,
}

/// A title that a home may order, or has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TitleEntry {
    /// Which.
    pub title: TitleId,
    /// The publisher's home.
    pub publisher: HomeId,
    /// The publisher's gateway, whose key signed the manifest.
    pub publisher_device: DeviceId,
    /// The publisher's name.
    pub publisher_name: String,
    /// The kind.
    pub kind: MediaKind,
    /// Its blobs.
    pub blobs: Vec<BlobEntry>,
    /// How it is offered.
    pub offered: Offered,
}

/// How a title reaches the home that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Offered {
    /// From the catalog.
    Catalog {
        /// [`Manifest`] as the publisher signed it.
        manifest: String,
        /// The price now.
        price: Money,
        /// What the price buys.
        terms: Terms,
        /// A small JPEG, base64.
        poster: Option<String>,
    },
    /// A private share.
    Private {
        /// The envelope for the home that asks; `None` for the publisher itself.
        envelope: Option<Envelope>,
    },
}

/// The information securing payment and access that comes with each request (F12, F13).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PaymentInfo {
    /// The device that will receive and redeem.
    pub device: DeviceId,
    /// Its public key for encryption.
    pub seal_key: SealKey,
    /// Who pays: the receiving home, or another (a gift, or a push).
    pub payer: HomeId,
    /// The highest price agreed to.
    pub max_price: Money,
    /// Further limits that the requester sets on this order.
    pub limits: OrderLimits,
}

/// Limits that the requester sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct OrderLimits {
    /// Deliver on a direct path only; `None`: any path.
    pub path: Option<Path>,
    /// Refuse a title larger than this, sealed bytes.
    pub max_bytes: Option<u64>,
}

/// Orders a title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderRequest {
    /// Chosen by the gateway, at most 64 characters; repeating it returns the same order.
    pub idempotency_key: String,
    /// What.
    pub title: TitleId,
    /// For which home.
    pub receiver: HomeId,
    /// Who starts it: the publisher (push) or the receiver, or a payer for it (pull).
    pub initiative: Initiative,
    /// Payment.
    pub payment: PaymentInfo,
}

/// Where an order is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrderState {
    /// Funds held (or nothing to pay); waiting for the transfer to begin.
    Held,
    /// A grant was issued; bytes may be moving.
    Delivering,
    /// The receipt is in, the payment captured, the pass granted.
    Settled,
    /// Cancelled; the hold was released.
    Cancelled,
    /// It cannot be delivered; the hold was released.
    Failed,
}

impl OrderState {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Delivering => "delivering",
            Self::Settled => "settled",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether it is over.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Settled | Self::Cancelled | Self::Failed)
    }
}

/// An order as a home sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderEntry {
    /// Which.
    pub order: OrderId,
    /// Its delivery.
    pub delivery: DeliveryId,
    /// What.
    pub title: TitleId,
    /// Its blobs.
    pub blobs: Vec<BlobEntry>,
    /// Sealed size of all blobs.
    pub total_bytes: u64,
    /// Reported by the receiver, for show.
    pub bytes_done: u64,
    /// Who sends.
    pub sender: HomeId,
    /// Who receives.
    pub receiver: HomeId,
    /// Who pays.
    pub payer: HomeId,
    /// Who started it.
    pub initiative: Initiative,
    /// The price held or captured.
    pub price: Money,
    /// Where it is.
    pub state: OrderState,
    /// What is wrong, for a person; a problem that passes by itself says so.
    pub problem: Option<String>,
    /// The pass; only for the receiver, once settled, of a catalog title.
    pub pass: Option<String>,
    /// When it was made.
    #[schema(value_type = String)]
    pub created: Timestamp,
    /// When it last changed.
    #[schema(value_type = String)]
    pub updated: Timestamp,
}

/// Asks for leave to receive (the rest of) one blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantRequest {
    /// Which blob of the order.
    pub blob: crate::blob::BlobId,
    /// The chunks still lacking.
    pub chunks: Vec<ChunkRange>,
}

/// Leave to receive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GrantAnswer {
    /// A [`crate::grant::Grant`] token. A newer grant for the same blob ends the older.
    pub grant: String,
    /// Where the sender may be reached directly.
    #[schema(value_type = Vec<String>)]
    pub sender_addresses: Vec<SocketAddr>,
    /// Whether the sender is connected to the server now.
    pub sender_online: bool,
}

/// What the receiver reports of a delivery in trouble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemReport {
    /// For a person.
    pub detail: String,
    /// `true`: give up, release the hold. `false`: it will be tried again.
    pub fatal: bool,
}

/// A delivery that this home is to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SendTask {
    /// Which.
    pub delivery: DeliveryId,
    /// Its order.
    pub order: OrderId,
    /// What.
    pub title: TitleId,
    /// To whom.
    pub receiver: HomeId,
    /// The newest grant, if the receiver waits at the relay.
    pub relay_grant: Option<String>,
}

/// Hands in a receipt.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReceiptRequest {
    /// One [`crate::receipt::Receipt`] token per blob of the order.
    pub receipts: Vec<String>,
}

/// Redeems a pass at the vault.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LicenseRequest {
    /// A [`crate::license::Pass`] token.
    pub pass: String,
    /// The key to seal the content keys to; must be the enrolled one of the pass's device.
    pub seal_key: SealKey,
}

/// The vault's answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LicenseAnswer {
    /// A [`crate::license::License`] token.
    pub license: String,
}

/// The customer's account, as its homes see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountAnswer {
    /// The customer's name.
    pub customer_name: String,
    /// Whether the account is in good standing.
    pub active: bool,
    /// What may be spent.
    pub available: Money,
    /// What is held for orders under way.
    pub held: Money,
    /// The bill, newest first, at most 200 lines.
    pub lines: Vec<BillLine>,
}

/// One line of the bill, traced to grant and receipt (F67).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BillLine {
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// What, for a person.
    pub text: String,
    /// Signed: negative is paid, positive is credited.
    pub amount: Money,
    /// The order.
    pub order: Option<OrderId>,
    /// The grants under which it was delivered.
    pub grants: Vec<crate::ids::GrantId>,
    /// The receipts' BLAKE3 hashes, hex.
    pub receipts: Vec<String>,
}

/// Is there something newer?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpdateQuestion {
    /// What the appliance runs.
    pub running: Version,
    /// The version whose bundle is here, whole, for other homes too.
    #[serde(default)]
    pub holds: Option<Version>,
}

/// What there is for a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpdateAnswer {
    /// `None`: nothing newer.
    pub offer: Option<UpdateOffer>,
    /// Whether the bundle that the gateway holds is worth keeping for other homes.
    #[serde(default)]
    pub keep: bool,
}

/// A newer version for a home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpdateOffer {
    /// Which.
    pub version: Version,
    /// The bundle's size.
    pub size_bytes: u64,
    /// The BLAKE3 hash of the bundle.
    pub bundle: BlobId,
    /// The hash of each of its chunks ([`HashList`]), 64 hex digits each, one after the other.
    pub chunks: String,
}

impl UpdateOffer {
    /// An offer of the bundle with these hashes.
    pub fn new(version: Version, hashes: &HashList) -> Self {
        Self {
            version,
            size_bytes: hashes.size(),
            bundle: hashes.id(),
            chunks: data_encoding::HEXLOWER.encode(hashes.hashes().as_flattened()),
        }
    }

    /// The bundle's chunk hashes, if they are those of the bundle and it is no larger than a bundle may be.
    pub fn hashes(&self) -> Result<HashList, BlobError> {
        if self.size_bytes > MAX_BUNDLE_BYTES {
            return Err(BlobError::Size);
        }
        let bytes = data_encoding::HEXLOWER
            .decode(self.chunks.as_bytes())
            .map_err(|_| BlobError::WrongHashList)?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(BlobError::WrongHashList);
        }
        HashList::verified(self.bundle, self.size_bytes, hashes.to_vec())
    }
}

/// The most homes that are named as seeds at once.
pub const MAX_SEEDS: usize = 4;

/// A home that has a version's bundle whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeedOffer {
    /// The [`SeedGrant`](crate::grant::SeedGrant) token.
    pub grant: String,
    /// Where the home may be reached.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<SocketAddr>,
}

/// What came of an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpdateOutcome {
    /// Whether it runs.
    pub outcome: Outcome,
    /// Why not, for a person; may be empty.
    pub words: String,
}

/// Reads a manifest out of a [`TitleEntry`], checking its signature and its limits.
pub fn open_manifest(
    token: &str,
    publisher: &DeviceId,
) -> Result<Manifest, crate::token::TokenError> {
    let manifest: Manifest = crate::token::verify_device(publisher, token, Timestamp::UNIX_EPOCH)?;
    if manifest.publisher != *publisher || !manifest.is_well_formed() {
        return Err(crate::token::TokenError::Claims);
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{BlobHasher, CHUNK_BYTES};

    #[test]
    fn an_offer_carries_its_hashes_and_no_others() {
        let mut hasher = BlobHasher::new();
        hasher.update(&vec![7; CHUNK_BYTES as usize + 5]);
        let hashes = hasher.finish().expect("not empty");
        let version: Version = "1.2.3".parse().expect("a version");
        let offer = UpdateOffer::new(version, &hashes);
        assert_eq!(offer.hashes(), Ok(hashes));
        for chunks in [
            "",
            "xx",
            &offer.chunks[2..],
            &offer.chunks.replace('a', "b"),
        ] {
            let other = UpdateOffer {
                chunks: chunks.to_owned(),
                ..offer.clone()
            };
            assert_eq!(other.hashes(), Err(BlobError::WrongHashList), "{chunks}");
        }
        let large = UpdateOffer {
            size_bytes: MAX_BUNDLE_BYTES + 1,
            ..offer
        };
        assert_eq!(large.hashes(), Err(BlobError::Size));
    }
}
