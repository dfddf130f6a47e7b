//! The catalog as this home sees it, kept in the database for use offline (F20), and what was shared with it (F64).
//!
//! Nothing in a listing is believed unverified: a manifest must be signed by the publisher's key and match the listing;
//! a private share must open with this gateway's key. A listing that fails either is left out, and logged.

use crate::library::{Library, TitleState};
use crate::link::store::damaged;
use crate::link::{ApiError, Link};
use data_encoding::BASE64;
use jiff::Timestamp;
use mantel_protocol::api::{MAX_POSTER_BYTES, Offered, TitleEntry, open_manifest};
use mantel_protocol::envelope;
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::{Manifest, MediaKind, PrivateShare, TitleKeys, share_context};
use mantel_protocol::money::Money;
use mantel_runtime::db::{Db, DbError, Schema};
use rusqlite::OptionalExtension;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;
use tracing::warn;

/// The module's tables.
pub const SCHEMA: Schema = Schema {
    module: "catalog",
    steps: &[include_str!("schema.sql")],
};

/// The most listings kept.
pub const MAX_LISTINGS: usize = 10_000;

/// Why the catalog could not be read or refreshed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The server was not reached or refused.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The database failed.
    #[error("the stored catalog could not be read or written")]
    Db(#[from] DbError),
}

/// Where a listed title is for this home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListingState {
    /// It can be ordered.
    Available,
    /// It is ordered.
    Ordered,
    /// Some of it is here.
    Arriving,
    /// It is here.
    Here,
}

/// A listed title, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Which.
    pub title: TitleId,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: MediaKind,
    /// When it was taken or recorded.
    pub recorded: Option<Timestamp>,
    /// The publisher's home.
    pub publisher: HomeId,
    /// The publisher's name.
    pub publisher_name: String,
    /// The price; `None`: a private share, free.
    pub price: Option<Money>,
    /// What the price buys; `None`: a private share.
    pub terms: Option<Terms>,
    /// Whether there is a picture: [`Catalog::poster`].
    pub has_poster: bool,
    /// Sealed size, bytes.
    pub bytes: u64,
    /// Running time, milliseconds.
    pub duration_ms: Option<u64>,
    /// Whether this home published it.
    pub mine: bool,
    /// Whether it is a private share.
    pub private: bool,
    /// Where it is.
    pub state: ListingState,
}

/// A listing opened for delivery: what [`Library::add_arriving`] needs.
pub struct Opened {
    /// Verified.
    pub manifest: Manifest,
    /// As the publisher signed it.
    pub manifest_token: String,
    /// The keys of a private share; a catalog title's come with its license.
    pub keys: Option<TitleKeys>,
    /// The publisher's home and name.
    pub from: (HomeId, String),
}

/// Why a listing is not shown or delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    /// The manifest is not the publisher's.
    #[error("the title's description is not signed by its publisher")]
    Manifest,
    /// The manifest is of another title, or lists other blobs.
    #[error("the title's description does not match what the server lists")]
    Mismatch,
    /// The share does not open.
    #[error("the share is sealed for another gateway")]
    Sealed,
}

/// The catalog; cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    db: Db,
    link: Link,
    library: Library,
    listings: Arc<watch::Sender<Arc<Vec<Listing>>>>,
    ordered: Arc<watch::Sender<HashSet<TitleId>>>,
}

impl Catalog {
    /// Loads the stored catalog.
    pub async fn open(db: Db, link: Link, library: Library) -> Result<Self, CatalogError> {
        let catalog = Self {
            db,
            link,
            library,
            listings: Arc::new(watch::Sender::new(Arc::default())),
            ordered: Arc::new(watch::Sender::new(HashSet::new())),
        };
        catalog.rebuild().await?;
        Ok(catalog)
    }

    /// The decoded listings, in the server's order, as they change.
    pub fn listings(&self) -> watch::Receiver<Arc<Vec<Listing>>> {
        self.listings.subscribe()
    }

    /// One decoded listing.
    pub fn listing(&self, title: TitleId) -> Option<Listing> {
        self.listings
            .borrow()
            .iter()
            .find(|listing| listing.title == title)
            .cloned()
    }

    /// Fetches the list from the server and stores it.
    pub async fn refresh(&self) -> Result<(), CatalogError> {
        let mut entries = self.link.api()?.titles().await?;
        entries.truncate(MAX_LISTINGS);
        self.db
            .write::<_, DbError, _>(move |tx| {
                tx.execute("DELETE FROM listing", [])?;
                let mut insert = tx.prepare(
                    "INSERT INTO listing (title, place, entry) VALUES ($1, $2, $3) ON CONFLICT (title) DO NOTHING",
                )?;
                for (place, entry) in entries.iter().enumerate() {
                    let json = serde_json::to_string(entry).expect("entries are plain data");
                    insert.execute((entry.title.to_string(), place as i64, json))?;
                }
                Ok(())
            })
            .await?;
        self.rebuild().await
    }

    /// Tells which titles are ordered now.
    pub async fn set_ordered(&self, titles: HashSet<TitleId>) -> Result<(), CatalogError> {
        let changed = self.ordered.send_if_modified(|now| {
            let changed = *now != titles;
            *now = titles;
            changed
        });
        if changed {
            self.rebuild().await
        } else {
            Ok(())
        }
    }

    /// Decodes the stored list again: the library or the orders changed.
    pub async fn rebuild(&self) -> Result<(), CatalogError> {
        let entries = self.entries().await?;
        let offered: Vec<_> = entries.iter().map(|entry| entry.title).collect();
        let here: HashMap<TitleId, TitleState> = match self.library.titles(&offered).await {
            Ok(titles) => titles
                .into_iter()
                .map(|title| (title.id, title.state))
                .collect(),
            Err(error) => {
                warn!(%error, "the library cannot be read");
                HashMap::new()
            }
        };
        let ordered = self.ordered.borrow().clone();
        let mut listings = Vec::with_capacity(entries.len());
        for entry in &entries {
            let state = match here.get(&entry.title) {
                Some(TitleState::Ready) => ListingState::Here,
                Some(TitleState::Arriving) if ordered.contains(&entry.title) => {
                    ListingState::Arriving
                }
                _ if ordered.contains(&entry.title) => ListingState::Ordered,
                _ => ListingState::Available,
            };
            match self.decode(entry, state) {
                Ok(Some(listing)) => listings.push(listing),
                Ok(None) => {}
                Err(error) => warn!(title = %entry.title, %error, "a listing was left out"),
            }
        }
        self.listings.send_if_modified(|now| {
            let changed = **now != listings;
            if changed {
                *now = Arc::new(listings);
            }
            changed
        });
        Ok(())
    }

    /// A title's picture, JPEG.
    pub async fn poster(&self, title: TitleId) -> Result<Option<Vec<u8>>, CatalogError> {
        let Some(entry) = self.entry(title).await? else {
            return Ok(None);
        };
        Ok(match &entry.offered {
            Offered::Catalog {
                poster: Some(text), ..
            } => decode_poster(text),
            _ => None,
        })
    }

    /// A listing as the server sent it.
    pub async fn entry(&self, title: TitleId) -> Result<Option<TitleEntry>, CatalogError> {
        let entry = self
            .db
            .read::<_, DbError, _>(move |connection| {
                let json: Option<String> = connection
                    .query_row(
                        "SELECT entry FROM listing WHERE title = $1",
                        [title.to_string()],
                        |row| row.get(0),
                    )
                    .optional()?;
                json.map(|json| serde_json::from_str(&json).map_err(|_| damaged("listing").into()))
                    .transpose()
            })
            .await?;
        Ok(entry)
    }

    /// Opens a listing for delivery.
    pub fn open_entry(&self, entry: &TitleEntry) -> Result<Opened, ListingError> {
        let (manifest_token, keys) = match &entry.offered {
            Offered::Catalog { manifest, .. } => (manifest.clone(), None),
            Offered::Private {
                envelope: Some(sealed),
            } => {
                let context = share_context(entry.title, self.link.device());
                let plain = envelope::open(&self.link.identity().seal, &context, sealed)
                    .map_err(|_| ListingError::Sealed)?;
                let share: PrivateShare =
                    serde_json::from_slice(&plain).map_err(|_| ListingError::Sealed)?;
                (share.manifest.clone(), Some(share.keys))
            }
            Offered::Private { envelope: None } => return Err(ListingError::Sealed),
        };
        let manifest = open_manifest(&manifest_token, &entry.publisher_device)
            .map_err(|_| ListingError::Manifest)?;
        let same = manifest.title == entry.title
            && manifest.assets.len() == entry.blobs.len()
            && manifest.assets.iter().all(|asset| {
                entry
                    .blobs
                    .iter()
                    .any(|b| b.blob == asset.blob && b.sealed_bytes == asset.sealed_bytes)
            });
        if !same {
            return Err(ListingError::Mismatch);
        }
        Ok(Opened {
            manifest,
            manifest_token,
            keys,
            from: (entry.publisher, entry.publisher_name.clone()),
        })
    }

    fn decode(
        &self,
        entry: &TitleEntry,
        state: ListingState,
    ) -> Result<Option<Listing>, ListingError> {
        let mine = entry.publisher_device == self.link.device();
        let bytes = entry
            .blobs
            .iter()
            .map(|blob| blob.sealed_bytes)
            .fold(0, u64::saturating_add);
        let (price, terms, has_poster) = match &entry.offered {
            // The publisher's own share: its name is in the library.
            Offered::Private { envelope: None } if mine => return Ok(None),
            Offered::Private { .. } => (None, None, false),
            Offered::Catalog {
                price,
                terms,
                poster,
                ..
            } => (Some(*price), Some(*terms), poster.is_some()),
        };
        let manifest = self.open_entry(entry)?.manifest;
        Ok(Some(Listing {
            title: entry.title,
            duration_ms: manifest.assets.iter().find_map(|asset| asset.duration_ms),
            name: manifest.name,
            kind: manifest.kind,
            recorded: manifest.recorded,
            publisher: entry.publisher,
            publisher_name: entry.publisher_name.clone(),
            price,
            terms,
            has_poster,
            bytes,
            mine,
            private: price.is_none(),
            state,
        }))
    }

    async fn entries(&self) -> Result<Vec<TitleEntry>, CatalogError> {
        let rows = self
            .db
            .read::<_, DbError, _>(|connection| {
                let mut query = connection.prepare("SELECT entry FROM listing ORDER BY place")?;
                let rows = query.query_map([], |row| row.get::<_, String>(0))?;
                Ok(rows.collect::<Result<Vec<_>, _>>()?)
            })
            .await?;
        // An entry of an older version that no longer reads comes again with the next refresh.
        Ok(rows
            .iter()
            .filter_map(|json| serde_json::from_str(json).ok())
            .collect())
    }
}

fn decode_poster(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_POSTER_BYTES * 2 {
        return None;
    }
    let bytes = BASE64.decode(text.as_bytes()).ok()?;
    bytes.starts_with(&[0xff, 0xd8, 0xff]).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poster_is_a_small_jpeg_or_nothing() {
        let jpeg = [0xff, 0xd8, 0xff, 0xe0, 1, 2];
        assert_eq!(decode_poster(&BASE64.encode(&jpeg)), Some(jpeg.to_vec()));
        assert_eq!(decode_poster(&BASE64.encode(b"<svg onload=...>")), None);
        assert_eq!(decode_poster("not base64"), None);
        assert_eq!(decode_poster(&"A".repeat(MAX_POSTER_BYTES * 2 + 4)), None);
    }
}
