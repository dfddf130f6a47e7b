//! The catalog: titles offered to all at a price (F20), and private shares, which the server can list but not read
//! (F64).

pub mod store;

use crate::customers::{self, Caller};
use crate::error::{Result, bad, conflict, forbidden, missing};
use crate::notice::{Notices, Outbox};
use jiff::Timestamp;
use mantel_protocol::api::{
    BlobEntry, MAX_AUDIENCE, MAX_POSTER_BYTES, Offer, Offered, PublishRequest, TitleEntry,
    open_manifest,
};
use mantel_protocol::blob::MAX_BLOB_BYTES;
use mantel_protocol::bus::Command;
use mantel_protocol::envelope::{self, Envelope, MAX_ENVELOPE_CHARS, OpeningKey};
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::{MAX_ASSETS, MediaKind, TitleKeys, vault_context};
use mantel_protocol::money::{Currency, Money};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use rusqlite::Connection;
use serde::{Deserialize, Serialize};

/// The most titles that a list shows.
pub const MAX_LISTED: u32 = 1_000;
/// The highest price, minor units: a typing error costs no more.
pub const MAX_PRICE_MINOR: i64 = 10_000_000;
/// Poster characters in one list; later posters are left out of it.
pub const MAX_LISTED_POSTERS: usize = 16 * 1024 * 1024;

/// How a title is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TitleMode {
    /// To every home that the restrictions allow; keys in the vault.
    Catalog,
    /// To its audience, end to end.
    Private,
}

/// Whether a title may be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TitleState {
    /// It may.
    Offered,
    /// No longer; passes that were paid for stay good.
    Withdrawn,
}

/// Who withdraws or offers a title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The home that published it.
    Publisher,
    /// The operator.
    Operator,
}

/// A title as the operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TitleRow {
    /// Which.
    pub id: TitleId,
    /// Its name; `None`: private, the server cannot read it.
    pub name: Option<String>,
    /// Its kind.
    pub kind: MediaKind,
    /// How it is offered.
    pub mode: TitleMode,
    /// Whether it may be ordered.
    pub state: TitleState,
    /// The publisher's home.
    pub publisher: HomeId,
    /// The publisher's name.
    pub publisher_name: String,
    /// The price; `None`: private.
    pub price: Option<Money>,
    /// What the price buys; `None`: private.
    pub terms: Option<Terms>,
    /// Sealed size.
    pub bytes: u64,
    /// A small JPEG, base64.
    pub poster: Option<String>,
    /// How many homes a private title is for.
    pub audience: u32,
    /// How many orders were settled.
    pub orders: u32,
    /// When it was first offered.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// A title with what an order needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title {
    /// Which.
    pub id: TitleId,
    /// The publisher's home.
    pub publisher: HomeId,
    /// The gateway whose key signed the manifest.
    pub publisher_device: DeviceId,
    /// The publisher's name.
    pub publisher_name: String,
    /// How it is offered.
    pub mode: TitleMode,
    /// Whether it may be ordered.
    pub state: TitleState,
    /// Its kind.
    pub kind: MediaKind,
    /// Its name, from the manifest.
    pub name: Option<String>,
    /// The signed manifest of a catalog title.
    pub manifest: Option<String>,
    /// The price, minor units; 0 for a private title.
    pub price_minor: i64,
    /// What the price buys.
    pub terms: Terms,
    /// A small JPEG, base64.
    pub poster: Option<String>,
    /// Sealed size of all blobs.
    pub total_bytes: u64,
    /// Its blobs.
    pub blobs: Vec<BlobEntry>,
}

/// An offer whose parts were checked.
pub struct Offering {
    /// Which title.
    pub title: TitleId,
    /// The publisher's home.
    pub publisher: HomeId,
    /// The publisher's gateway.
    pub device: DeviceId,
    /// How.
    pub mode: TitleMode,
    /// Its kind.
    pub kind: MediaKind,
    /// Its name, from the manifest.
    pub name: Option<String>,
    /// The signed manifest.
    pub manifest: Option<String>,
    /// Content keys sealed to the vault.
    pub vault_keys: Option<Envelope>,
    /// The price proposed, minor units.
    pub price_minor: i64,
    /// The terms proposed.
    pub terms: Terms,
    /// A small JPEG, base64.
    pub poster: Option<String>,
    /// Its blobs.
    pub blobs: Vec<BlobEntry>,
    /// For whom, if private.
    pub audience: Vec<(HomeId, Envelope)>,
}

impl Offering {
    /// Checks an offer: the publisher's signature, sizes and counts, and that the vault can open every key, so that
    /// nobody pays for what cannot be played.
    pub fn read(
        caller: &Caller,
        request: PublishRequest,
        vault: &OpeningKey,
        currency: Currency,
    ) -> Result<Self> {
        let blobs = good_blobs(request.blobs)?;
        let base = Self {
            title: request.title,
            publisher: caller.home,
            device: caller.device,
            mode: TitleMode::Private,
            kind: MediaKind::Data,
            name: None,
            manifest: None,
            vault_keys: None,
            price_minor: 0,
            terms: Terms::default(),
            poster: None,
            blobs,
            audience: Vec::new(),
        };
        match request.offer {
            Offer::Private { audience, kind } => base.private(audience, kind),
            Offer::Catalog {
                manifest,
                keys,
                price,
                terms,
                poster,
            } => {
                let open = open_manifest(&manifest, &caller.device)
                    .map_err(|error| bad(format!("the manifest cannot be used: {error}")))?;
                if open.title != base.title {
                    return Err(bad("the manifest is of another title"));
                }
                let assets = open
                    .assets
                    .iter()
                    .map(|asset| (asset.blob, asset.sealed_bytes));
                if !assets.eq(base.blobs.iter().map(|blob| (blob.blob, blob.sealed_bytes))) {
                    return Err(bad("the manifest names other blobs than the request"));
                }
                check_keys(base.title, &base.blobs, &keys, vault)?;
                Ok(Self {
                    mode: TitleMode::Catalog,
                    kind: open.kind,
                    name: Some(
                        open.name
                            .chars()
                            .map(|c| if c.is_control() { ' ' } else { c })
                            .collect(),
                    ),
                    manifest: Some(manifest),
                    vault_keys: Some(keys),
                    price_minor: good_price(price, currency)?,
                    terms,
                    poster: poster.map(good_poster).transpose()?,
                    ..base
                })
            }
        }
    }

    fn private(self, audience: Vec<(HomeId, Envelope)>, kind: MediaKind) -> Result<Self> {
        if audience.is_empty() || audience.len() > MAX_AUDIENCE {
            return Err(bad(format!(
                "a private share is for 1 to {MAX_AUDIENCE} homes"
            )));
        }
        if audience
            .iter()
            .any(|(_, envelope)| envelope.as_str().len() > MAX_ENVELOPE_CHARS)
        {
            return Err(bad("an envelope is too long"));
        }
        let mut homes: Vec<HomeId> = audience.iter().map(|(home, _)| *home).collect();
        homes.sort();
        homes.dedup();
        if homes.len() != audience.len() || homes.contains(&self.publisher) {
            return Err(bad("the audience names a home twice, or the publisher"));
        }
        Ok(Self {
            kind,
            audience,
            ..self
        })
    }
}

fn good_blobs(blobs: Vec<BlobEntry>) -> Result<Vec<BlobEntry>> {
    if blobs.is_empty() || blobs.len() > MAX_ASSETS {
        return Err(bad(format!("a title has 1 to {MAX_ASSETS} blobs")));
    }
    if blobs
        .iter()
        .any(|blob| blob.sealed_bytes == 0 || blob.sealed_bytes > MAX_BLOB_BYTES)
    {
        return Err(bad("a blob has between 1 byte and 1 TiB"));
    }
    let mut ids: Vec<_> = blobs.iter().map(|blob| blob.blob).collect();
    ids.sort();
    ids.dedup();
    if ids.len() != blobs.len() {
        return Err(bad("a blob is named twice"));
    }
    Ok(blobs)
}

fn check_keys(
    title: TitleId,
    blobs: &[BlobEntry],
    keys: &Envelope,
    vault: &OpeningKey,
) -> Result<()> {
    let opened = envelope::open(vault, &vault_context(title), keys).map_err(|_| {
        bad("the vault cannot open the keys; were they sealed to this server's vault key?")
    })?;
    let keys = TitleKeys::from_bytes(&opened)
        .ok_or_else(|| bad("the envelope for the vault holds no keys"))?;
    let complete = blobs
        .iter()
        .all(|blob| keys.key_of(blob.blob).is_some_and(|key| key.is_ok()));
    if complete {
        Ok(())
    } else {
        Err(bad("a key is missing from the envelope for the vault"))
    }
}

fn good_price(price: Money, currency: Currency) -> Result<i64> {
    if price.currency != currency {
        return Err(bad(format!("prices at this server are in {currency}")));
    }
    if !(0..=MAX_PRICE_MINOR).contains(&price.minor) {
        let most = Money::new(MAX_PRICE_MINOR, currency);
        return Err(bad(format!("a price is between nothing and {most}")));
    }
    Ok(price.minor)
}

fn good_poster(poster: String) -> Result<String> {
    let limit = MAX_POSTER_BYTES.div_ceil(3) * 4;
    if poster.len() > limit {
        return Err(bad(format!(
            "a poster has at most {MAX_POSTER_BYTES} bytes"
        )));
    }
    let bytes = data_encoding::BASE64
        .decode(poster.as_bytes())
        .map_err(|_| bad("the poster is not base64"))?;
    if bytes.len() > MAX_POSTER_BYTES || !bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        return Err(bad("the poster is not a JPEG of the allowed size"));
    }
    Ok(poster)
}

impl Title {
    /// What the home that asks may see of it.
    pub fn entry(self, c: &Connection, home: HomeId, currency: Currency) -> Result<TitleEntry> {
        let offered = match (self.mode, self.manifest) {
            (TitleMode::Catalog, Some(manifest)) => Offered::Catalog {
                manifest,
                price: Money::new(self.price_minor, currency),
                terms: self.terms,
                poster: self.poster,
            },
            _ => Offered::Private {
                envelope: store::envelope(c, self.id, home)?,
            },
        };
        Ok(TitleEntry {
            title: self.id,
            publisher: self.publisher,
            publisher_device: self.publisher_device,
            publisher_name: self.publisher_name,
            kind: self.kind,
            blobs: self.blobs,
            offered,
        })
    }
}

/// Writes an offer, new or again, and tells the gateways that it concerns.
pub fn publish(tx: &Connection, it: &Offering, now: Timestamp, outbox: &mut Outbox) -> Result<()> {
    if let Some(known) = store::find(tx, it.title)? {
        if known.publisher != it.publisher {
            return Err(forbidden("another home published a title with this id"));
        }
        if store::is_operator_withdrawn(tx, it.title)? {
            return Err(forbidden(
                "the operator withdrew this title; only the operator can offer it again",
            ));
        }
        if known.blobs != it.blobs && store::was_ordered(tx, it.title)? {
            let next = "nothing was changed; offer the new files as a new title";
            return Err(conflict(
                "homes have ordered this title with other files",
                next,
            ));
        }
    }
    for (home, _) in &it.audience {
        if customers::store::by_id(tx, *home)?.is_none() {
            return Err(missing("home in the audience"));
        }
    }
    let before = store::audience(tx, it.title)?;
    store::publish(tx, it, now)?;
    tell(tx, it.mode, &before, &it.audience, outbox)
}

fn tell(
    tx: &Connection,
    mode: TitleMode,
    before: &[HomeId],
    after: &[(HomeId, Envelope)],
    outbox: &mut Outbox,
) -> Result<()> {
    for home in customers::store::homes(tx)? {
        let named =
            before.contains(&home.home) || after.iter().any(|(named, _)| *named == home.home);
        if mode == TitleMode::Catalog || named {
            outbox.tell(home.device, Command::Catalog);
        }
    }
    Ok(())
}

/// Tells every gateway that the catalog changed.
pub fn tell_all(tx: &Connection, outbox: &mut Outbox) -> Result<()> {
    tell(tx, TitleMode::Catalog, &[], &[], outbox)
}

/// The titles; cheap to clone.
#[derive(Clone)]
pub struct Titles {
    db: Db,
    clock: Clock,
    notices: Notices,
    currency: Currency,
}

impl Titles {
    /// Over an open database.
    pub fn new(db: Db, clock: Clock, notices: Notices, currency: Currency) -> Self {
        Self {
            db,
            clock,
            notices,
            currency,
        }
    }

    /// All titles, newest first, at most [`MAX_LISTED`].
    pub async fn list(&self) -> Result<Vec<TitleRow>> {
        let currency = self.currency;
        self.db
            .read(move |c| store::rows(c, None, currency, MAX_LISTED))
            .await
    }

    /// One title.
    pub async fn find(&self, id: TitleId) -> Result<Option<TitleRow>> {
        let currency = self.currency;
        self.db
            .read(move |c| Ok(store::rows(c, Some(id), currency, 1)?.pop()))
            .await
    }

    /// Sets the price of a catalog title. Orders made before keep theirs.
    pub async fn set_price(&self, id: TitleId, price: Money) -> Result<()> {
        let minor = good_price(price, self.currency)?;
        self.change(move |tx, now| store::set_price(tx, id, minor, now))
            .await
    }

    /// Sets what the price buys. Orders made before keep theirs.
    pub async fn set_terms(&self, id: TitleId, terms: Terms) -> Result<()> {
        self.change(move |tx, now| store::set_terms(tx, id, terms, now))
            .await
    }

    /// Offers a withdrawn title again.
    pub async fn reoffer(&self, id: TitleId) -> Result<()> {
        self.change(move |tx, now| store::set_state(tx, id, TitleState::Offered, By::Operator, now))
            .await
    }

    async fn change<F>(&self, change: F) -> Result<()>
    where
        F: FnOnce(&Connection, Timestamp) -> Result<bool> + Send + 'static,
    {
        let now = self.clock.now();
        let outbox = self
            .db
            .write(move |tx| {
                if !change(tx, now)? {
                    return Err(missing("catalog title"));
                }
                let mut outbox = Outbox::default();
                tell_all(tx, &mut outbox)?;
                Ok(outbox)
            })
            .await?;
        self.notices.post(outbox);
        Ok(())
    }
}
