//! The household's library (F1, F3, F26): titles, their sealed blobs, and imports.
//!
//! - `blobs`, `partial`: the store of sealed blobs, complete and arriving.
//! - `source`, `import`, `sealing`, `progress`: from a device or an upload to a sealed title.
//! - `resumable`, `resumable_file`: uploads that are taken up again.
//! - `sandbox`, `probe`: what a file is and looks like, found out by media tools in a sandbox.
//! - `capture`: pictures and clips that the gateway takes itself.
//! - `plain`: plaintext by range, in memory only.
//! - `matching`: titles by filter and by id.
//! - `shelf`: titles in the orders in which players list them.
//! - `keys`: content keys and thumbnails sealed under the store key. `store`: the tables.
//!
//! Deliberately absent: who may play what (`rights`), and keys of licensed titles (they stay in their license).

mod blobs;
mod capture;
mod import;
mod keys;
mod lists;
mod matching;
mod partial;
mod plain;
mod probe;
mod progress;
mod resumable;
mod resumable_file;
mod sandbox;
mod sealing;
pub mod shelf;
mod source;
mod store;
mod workers;

#[cfg(test)]
mod resumable_tests;
#[cfg(test)]
pub(crate) mod tests;

pub use blobs::{BlobError, BlobReader, BlobStore, MAX_READ, bytes_in_words};
pub use capture::CaptureError;
pub(crate) use capture::Reel;
pub use import::ImportError;
pub use matching::{Found, Matches, Wanted};
pub use partial::{BATCH_BYTES, PartialBlob};
pub use plain::{MAX_PLAIN_READ, PlainError, PlainReader};
pub use progress::{ImportPhase, ImportProgress};
pub use resumable::{KEEP_UPLOADS, UploadError, UploadId, UploadState};
pub(crate) use sandbox::{ClipPicture, ClipSound};
pub use sandbox::{DECODE_COMMAND, Enclosure, MediaTools};
pub use source::{ImportSource, SourceError, SourceStream};
pub use workers::{WORKER_COMMAND, serve as serve_as_worker};

use keys::StoreKey;
use mantel_peripherals::decode::Decoder;
use mantel_protocol::blob::BlobId;
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::manifest::{Asset, Manifest, MediaKind, TitleKeys};
use mantel_protocol::seal::{ContentKey, SealError};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::tasks::Tasks;
use progress::Progress;
use sandbox::Sandbox;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use jiff::Timestamp;

/// The library's tables.
pub const SCHEMA: Schema = Schema {
    module: "library",
    steps: &[
        include_str!("schema.sql"),
        include_str!("uploads.sql"),
        include_str!("shelf.sql"),
    ],
};

/// Imports that copy or examine at the same time; more wait.
const IMPORTS_AT_ONCE: usize = 2;

/// Where a title comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Imported in this home.
    Own {
        /// The name of the device that it came from.
        device: String,
    },
    /// From another home.
    Home {
        /// Which.
        home: HomeId,
        /// Its name.
        name: String,
    },
}

/// Whether a title is all here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TitleState {
    /// Being imported; not in the database yet.
    Importing,
    /// On its way from another home.
    Arriving,
    /// Here.
    Ready,
}

/// A work in the library.
#[derive(Debug, Clone, PartialEq)]
pub struct Title {
    /// Its id.
    pub id: TitleId,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: MediaKind,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether it is all here.
    pub state: TitleState,
    /// When it was taken or recorded, if known.
    pub recorded: Option<Timestamp>,
    /// When it came into the library.
    pub added: Timestamp,
    /// Its encodings, best first; none while it is being imported.
    pub assets: Vec<Asset>,
    /// The gateway that sealed it.
    pub publisher: DeviceId,
    /// The publisher's signed manifest, of titles from other homes.
    pub manifest: Option<String>,
    /// What a person should know about it, in plain words.
    pub note: Option<String>,
}

impl Title {
    /// The encoding that is played.
    pub fn main_asset(&self) -> Option<&Asset> {
        self.assets.first()
    }

    /// Running time, milliseconds.
    pub fn duration_ms(&self) -> Option<u64> {
        self.main_asset()?.duration_ms
    }

    /// The size of its files, bytes.
    pub fn plain_bytes(&self) -> u64 {
        self.assets
            .iter()
            .map(|asset| asset.plain_bytes)
            .fold(0, u64::saturating_add)
    }

    /// What it takes on disk and on the way to another home, bytes.
    pub fn sealed_bytes(&self) -> u64 {
        self.assets
            .iter()
            .map(|asset| asset.sealed_bytes)
            .fold(0, u64::saturating_add)
    }
}

/// Why the library did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The database refused.
    #[error("the library could not be read or changed; nothing was lost, try again")]
    Database(#[from] DbError),
    /// The blob store refused.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A stored secret does not open: the store key is another one, or the row was changed.
    #[error(
        "a stored key does not open: the database and the gateway's key file do not belong together; restore both from one backup"
    )]
    Key(#[from] SealError),
    /// A sealed title does not open.
    #[error(transparent)]
    Plain(#[from] PlainError),
    /// No such title.
    #[error("this title is no longer in the library")]
    NoSuchTitle,
    /// Bytes are missing.
    #[error("this title is still arriving: {missing} of its files are not complete")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// A manifest over a limit, or for a title that another gateway published.
    #[error(
        "the sender describes this title in a way that cannot be; nothing was stored. Ask its owner to publish it again"
    )]
    BadManifest,
}

/// What the library is told at start.
#[derive(Debug, Clone)]
pub struct LibraryOptions {
    /// This gateway's key: the publisher of own titles.
    pub publisher: DeviceId,
    /// Disk space that is never filled, bytes.
    pub min_free_bytes: u64,
    /// Largest file that is imported, bytes.
    pub max_import_bytes: u64,
    /// The sandbox of media tools.
    pub enclosure: Enclosure,
    /// The program that decodes sound in bubblewrap when called with [`DECODE_COMMAND`]; `None`: the running one.
    pub decoder: Option<PathBuf>,
}

impl LibraryOptions {
    /// The defaults: 256 MiB stay free, files up to 256 GiB are taken.
    pub fn new(publisher: DeviceId) -> Self {
        Self {
            publisher,
            min_free_bytes: 256 << 20,
            max_import_bytes: 256 << 30,
            enclosure: Enclosure::Bubblewrap("bwrap".into()),
            decoder: None,
        }
    }
}

/// The library; cheap to clone.
#[derive(Clone)]
pub struct Library {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    blobs: BlobStore,
    store_key: StoreKey,
    clock: Clock,
    options: LibraryOptions,
    sandbox: Sandbox,
    progress: Arc<Progress>,
    import_places: Semaphore,
    uploads: resumable::Uploads,
    changes: watch::Sender<u64>,
}

/// The place of a content key, see `keys.rs`.
fn key_place(title: TitleId, blob: BlobId) -> String {
    format!("key {title} {blob}")
}

/// The place of a thumbnail, see `keys.rs`.
fn thumbnail_place(title: TitleId) -> String {
    format!("thumbnail {title}")
}

impl Library {
    /// Opens the library below `data_dir` and clears away what a crash left unusable.
    pub async fn open(
        data_dir: &Path,
        db: Db,
        store_key: ContentKey,
        clock: Clock,
        tasks: &Tasks,
        options: LibraryOptions,
    ) -> Result<Self, LibraryError> {
        let root = data_dir.join("blobs");
        let blobs =
            BlobStore::open(root, db.clone(), clock.clone(), options.min_free_bytes).await?;
        let inner = Inner {
            db,
            blobs,
            store_key: StoreKey::new(store_key),
            clock,
            sandbox: Sandbox::new(options.enclosure.clone()),
            options,
            progress: Progress::new(),
            import_places: Semaphore::new(IMPORTS_AT_ONCE),
            uploads: resumable::Uploads::default(),
            changes: watch::Sender::new(0),
        };
        let library = Self {
            inner: Arc::new(inner),
        };
        library.clear_stray_uploads().await?;
        let checked = library.clone();
        // Tried at start, so that the page can say early what is missing.
        tasks.spawn("media-tools", async move {
            checked.media_tools().await;
        });
        let open = library.clone();
        tasks.spawn("idle-uploads", async move {
            loop {
                tokio::time::sleep(resumable::KEEP_OPEN).await;
                open.close_idle_uploads();
            }
        });
        Ok(library)
    }

    /// A title's thumbnail: JPEG, at most 320 pixels wide and high, opened in memory.
    pub async fn thumbnail(&self, id: TitleId) -> Result<Option<Vec<u8>>, LibraryError> {
        let sealed = self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::thumbnail(db, id)?))
            .await?;
        let Some(sealed) = sealed else {
            return Ok(None);
        };
        Ok(Some(
            self.inner
                .store_key
                .unwrap(&thumbnail_place(id), &sealed)?
                .to_vec(),
        ))
    }

    /// Removes a title, its keys, and the files that no other title needs. Rows first: a crash leaves files that the
    /// next start clears away.
    pub async fn remove(&self, id: TitleId) -> Result<(), LibraryError> {
        let blobs = self
            .inner
            .db
            .write(move |tx| Ok::<_, DbError>(store::remove(tx, id)?))
            .await?;
        self.changed();
        Ok(self.inner.blobs.delete_files(blobs).await?)
    }

    /// Gives a title another name.
    pub async fn rename(&self, id: TitleId, name: &str) -> Result<(), LibraryError> {
        let name = source::clean_name(name);
        let found = self
            .inner
            .db
            .write(move |tx| Ok::<_, DbError>(store::rename(tx, id, &name)?))
            .await?;
        if !found {
            return Err(LibraryError::NoSuchTitle);
        }
        self.changed();
        Ok(())
    }

    /// Names a title after its file's new path, unless a person gave it another name meanwhile. `was` is the file's old
    /// name, `now` its new path.
    pub async fn follow_file(&self, id: TitleId, was: &str, now: &str) -> Result<(), LibraryError> {
        let named = |file: &str| source::clean_name(source::file_stem(file));
        match self.title(id).await? {
            Some(title) if title.name == named(was) && title.name != named(now) => {
                self.rename(id, &named(now)).await
            }
            _ => Ok(()),
        }
    }

    /// Imports under way and those that ended lately.
    pub fn imports(&self) -> watch::Receiver<Arc<Vec<ImportProgress>>> {
        self.inner.progress.subscribe()
    }

    /// A number that grows with every committed change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn changed(&self) {
        self.inner.changes.send_modify(|n| *n += 1);
    }

    /// The device's objects (by the device's names for them) that are in the library.
    pub async fn imported_from(&self, device_key: &str) -> Result<BTreeSet<String>, LibraryError> {
        let key = device_key.to_owned();
        Ok(self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::imported_from(db, &key)?))
            .await?)
    }

    /// Notes a title that is on its way from another home. Idempotent. The caller has verified the manifest's
    /// signature; its limits, and that it does not speak for another publisher's title, are judged here.
    pub async fn add_arriving(
        &self,
        manifest: &Manifest,
        manifest_token: String,
        from: (HomeId, String),
    ) -> Result<(), LibraryError> {
        if !manifest.is_well_formed() {
            return Err(LibraryError::BadManifest);
        }
        let (home, name) = from;
        let title = Title {
            id: manifest.title,
            name: source::clean_name(&manifest.name),
            kind: manifest.kind,
            origin: Origin::Home { home, name },
            state: TitleState::Arriving,
            recorded: manifest.recorded,
            added: self.inner.clock.now(),
            assets: manifest
                .assets
                .iter()
                .cloned()
                .map(with_clean_mime)
                .collect(),
            publisher: manifest.publisher,
            manifest: Some(manifest_token),
            note: None,
        };
        let (keys, origin_key) = (Vec::new(), home.to_string());
        let new = store::NewTitle {
            title,
            origin_key,
            content_mark: None,
            keys,
            thumbnail: None,
            imported: None,
            tags: shelf::Tags::default(),
        };
        let write = move |tx: &rusqlite::Transaction<'_>| {
            if let Some(there) = store::title(tx, new.title.id)? {
                return Ok::<_, DbError>((there.publisher == new.title.publisher, false));
            }
            store::insert(tx, &new)?;
            Ok((true, true))
        };
        let (same_publisher, added) = self.inner.db.write(write).await?;
        if !same_publisher {
            return Err(LibraryError::BadManifest);
        }
        if added {
            self.changed();
        }
        Ok(())
    }

    /// Marks a title as ready: all of its blobs must be complete.
    pub async fn set_ready(&self, id: TitleId) -> Result<(), LibraryError> {
        let write = move |tx: &rusqlite::Transaction<'_>| {
            let missing = store::missing_blobs(tx, id)?;
            let changed = if missing == 0 {
                store::set_ready(tx, id)?
            } else {
                false
            };
            Ok::<_, DbError>((missing, changed))
        };
        let (missing, changed) = self.inner.db.write(write).await?;
        if missing > 0 {
            return Err(LibraryError::Incomplete { missing });
        }
        if changed {
            self.changed();
        }
        Ok(())
    }

    /// Makes a thumbnail of a title that came from another home; `key` opens its first asset. Where the media shows
    /// nothing, or the sandbox is missing, there is none afterwards.
    pub async fn make_thumbnail(&self, id: TitleId, key: ContentKey) -> Result<(), LibraryError> {
        let title = self.title(id).await?.ok_or(LibraryError::NoSuchTitle)?;
        let Some(asset) = title.main_asset() else {
            return Ok(());
        };
        let Some(plain) = self.plaintext(asset.blob, key).await? else {
            return Err(LibraryError::Incomplete { missing: 1 });
        };
        let sandbox = &self.inner.sandbox;
        let Some(jpeg) = probe::thumbnail_of(sandbox, &plain, title.kind, asset.duration_ms).await
        else {
            return Ok(());
        };
        let sealed = self.inner.store_key.wrap(&thumbnail_place(id), &jpeg);
        let write = move |tx: &rusqlite::Transaction<'_>| {
            // It may have been removed meanwhile.
            if store::title(tx, id)?.is_some() {
                store::put_thumbnail(tx, id, &sealed)?;
            }
            Ok::<_, DbError>(())
        };
        self.inner.db.write(write).await?;
        self.changed();
        Ok(())
    }

    /// Stores the content keys of an own title or a private share, sealed under the store key. Keys of licensed titles
    /// are not kept here: they stay in their license, with its terms.
    pub async fn store_keys(&self, id: TitleId, keys: &TitleKeys) -> Result<(), LibraryError> {
        let title = self.title(id).await?.ok_or(LibraryError::NoSuchTitle)?;
        let mut sealed = Vec::new();
        for asset in &title.assets {
            if let Some(key) = keys.key_of(asset.blob) {
                let place = key_place(id, asset.blob);
                sealed.push((asset.blob, self.inner.store_key.wrap(&place, key?.expose())));
            }
        }
        let write = move |tx: &rusqlite::Transaction<'_>| {
            for (blob, sealed) in &sealed {
                store::put_key(tx, id, *blob, sealed)?;
            }
            Ok::<_, DbError>(())
        };
        Ok(self.inner.db.write(write).await?)
    }

    /// The content key of an own title or a private share.
    pub async fn own_key(
        &self,
        id: TitleId,
        blob: BlobId,
    ) -> Result<Option<ContentKey>, LibraryError> {
        let sealed = self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::key(db, id, blob)?))
            .await?;
        let Some(sealed) = sealed else {
            return Ok(None);
        };
        let secret = self.inner.store_key.unwrap(&key_place(id, blob), &sealed)?;
        Ok(Some(ContentKey::from_bytes(&secret)?))
    }

    /// A complete blob's plaintext, to be read by range in memory; `None`: the blob is not complete.
    pub async fn plaintext(
        &self,
        blob: BlobId,
        key: ContentKey,
    ) -> Result<Option<PlainReader>, LibraryError> {
        let Some(reader) = self.inner.blobs.read(blob).await? else {
            return Ok(None);
        };
        Ok(Some(PlainReader::open(reader, &key).await?))
    }

    /// Decodes sound, in the sandbox.
    pub fn decoder(&self) -> Decoder {
        let options = &self.inner.options;
        sandbox::decoder(&options.enclosure, options.decoder.clone())
    }

    /// A secret of this gateway for one purpose, derived from the store key.
    pub(crate) fn derived_secret(&self, purpose: &'static str) -> [u8; 32] {
        self.inner.store_key.derive(purpose)
    }

    /// Seals a secret of another module for a place of its own in the database, such as a password.
    pub fn seal_secret(&self, place: &str, secret: &[u8]) -> Vec<u8> {
        self.inner.store_key.wrap(place, secret)
    }

    /// Opens what [`Library::seal_secret`] sealed for the same place.
    pub fn open_secret(
        &self,
        place: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, LibraryError> {
        Ok(self.inner.store_key.unwrap(place, sealed)?)
    }

    /// What the sealed titles take on disk, bytes.
    pub async fn used_bytes(&self) -> Result<u64, LibraryError> {
        let used = self
            .inner
            .db
            .read(|db| Ok::<_, DbError>(store::used_bytes(db)?));
        Ok(used.await?)
    }

    /// The blob store.
    pub fn blobs(&self) -> &BlobStore {
        &self.inner.blobs
    }

    /// Bytes that may still be stored.
    pub async fn free_bytes(&self) -> u64 {
        self.inner.blobs.free_bytes().await
    }

    /// Whether media is looked into, or what is missing for it.
    pub async fn media_tools(&self) -> MediaTools {
        self.inner.sandbox.tools().await
    }
}

fn with_clean_mime(asset: Asset) -> Asset {
    Asset {
        mime: source::clean_mime(&asset.mime),
        ..asset
    }
}
