//! The store of sealed blobs (F26, DESIGN §4). Files, below `blobs/`:
//!
//! ```text
//! ab/<id>.blob     complete: all chunks verified, durable. Served from here.
//! ab/<id>.hashes   the chunk hashes, 32 bytes each; belong to the blob or to the part
//! ab/<id>.part     arriving: sparse, of the blob's size (see partial.rs)
//! ab/<id>.map      which chunks of the part are durable
//! import-*.tmp     being sealed by an import; deleted at start
//! upload-*.part    an upload that may be taken up again (see resumable_file.rs)
//! ```
//!
//! A blob is complete when its row in `blobs` says so: the row is written last. After a crash between rename and row,
//! a blob of an arriving title is verified again and adopted; one that no title names is deleted at start.

use super::partial::PartialBlob;
use super::store;
use bytes::Bytes;
use mantel_protocol::blob::{self, BlobId, HashList, MAX_BLOB_BYTES, chunk_count};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError};
use mantel_runtime::files;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// The most bytes that one [`BlobReader::read_at`] gives.
pub const MAX_READ: usize = 8 * 1024 * 1024;

/// Why the store did not do what was asked. Variants say what a caller should do.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No room: free some, then go on; what is here is kept.
    #[error(
        "the gateway's disk is full: {} more are needed and {} may still be used. What is here was kept; \
         remove titles or attach a larger disk",
        bytes_in_words(*.needed), bytes_in_words(*.free)
    )]
    DiskFull {
        /// Bytes that are missing on disk.
        needed: u64,
        /// Bytes that may still be used.
        free: u64,
    },
    /// A chunk came before the list of chunk hashes.
    #[error("the chunk hashes of this blob are not known yet")]
    NoHashes,
    /// A peer sent a wrong list or a wrong chunk: nothing of it was kept.
    #[error("wrong bytes were refused")]
    WrongBytes(#[source] blob::BlobError),
    /// Another task is receiving this blob.
    #[error("blob {0} is being received already")]
    Busy(BlobId),
    /// Not all chunks are here.
    #[error("{missing} chunks of the blob are still missing")]
    Incomplete {
        /// How many.
        missing: u64,
    },
    /// A range past the end, or longer than [`MAX_READ`].
    #[error("the blob has no such range")]
    NoSuchRange,
    /// A complete blob's file is gone or was changed: fetch or import it again.
    #[error(
        "the stored file of blob {0} is missing or damaged; remove the title and fetch or import it again"
    )]
    Damaged(BlobId),
    /// The disk refused.
    #[error("the disk refused to {what}; nothing that was complete is lost, check the drive")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database refused.
    #[error("the library's database refused; try again")]
    Database(#[from] DbError),
    /// The process is ending.
    #[error("the gateway is stopping")]
    Stopping,
}

impl BlobError {
    pub(crate) fn disk(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { what, source }
    }
}

/// A size for people.
pub fn bytes_in_words(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} bytes")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Runs disk work off the async threads.
pub(crate) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<BlobError> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(BlobError::Stopping.into()))
}

/// The blob store; cheap to clone.
#[derive(Clone)]
pub struct BlobStore {
    pub(crate) inner: Arc<StoreInner>,
}

pub(crate) struct StoreInner {
    pub(crate) root: PathBuf,
    db: Db,
    clock: Clock,
    min_free_bytes: u64,
    receiving: Mutex<HashSet<BlobId>>,
}

/// The files of one blob.
pub(crate) struct Paths {
    pub(crate) folder: PathBuf,
    pub(crate) blob: PathBuf,
    pub(crate) hashes: PathBuf,
    pub(crate) part: PathBuf,
    pub(crate) map: PathBuf,
}

impl Paths {
    /// Makes the folder, durably.
    pub(crate) fn make_folder(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.folder)?;
        files::sync_folder(self.folder.parent().unwrap_or(&self.folder))
    }
}

impl StoreInner {
    pub(crate) fn paths(&self, id: BlobId) -> Paths {
        let name = id.to_string();
        let folder = self.root.join(&name[..2]);
        let file = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (blob, hashes, part, map) = (file("blob"), file("hashes"), file("part"), file("map"));
        Paths {
            folder,
            blob,
            hashes,
            part,
            map,
        }
    }

    /// Bytes that may still be written, the reserve left out.
    pub(crate) fn usable_bytes(&self) -> Result<u64, BlobError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| BlobError::Disk {
            what: "tell its free space",
            source: error.into(),
        })?;
        Ok(stat
            .f_bavail
            .saturating_mul(stat.f_frsize)
            .saturating_sub(self.min_free_bytes))
    }

    /// Refuses when `needed` more bytes do not fit.
    pub(crate) fn check_room(&self, needed: u64) -> Result<(), BlobError> {
        let free = self.usable_bytes()?;
        if needed > free {
            Err(BlobError::DiskFull { needed, free })
        } else {
            Ok(())
        }
    }

    /// A write's error: a full disk is told apart.
    pub(crate) fn write_error(&self, needed: u64, error: io::Error) -> BlobError {
        if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            BlobError::DiskFull {
                needed,
                free: self.usable_bytes().unwrap_or(0),
            }
        } else {
            BlobError::Disk {
                what: "write",
                source: error,
            }
        }
    }

    /// Where an import seals to.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root
            .join(format!("import-{}.tmp", uuid::Uuid::now_v7().simple()))
    }

    /// Where the bytes of an upload are.
    pub(crate) fn upload(&self, id: &str) -> PathBuf {
        self.root.join(format!("upload-{id}.part"))
    }

    pub(crate) fn release(&self, id: BlobId) {
        self.receiving
            .lock()
            .expect("no holder of this lock panics")
            .remove(&id);
    }
}

/// Reads and checks a stored hash list; `None`: there is none that belongs to the blob.
pub(crate) fn load_hashes(path: &Path, id: BlobId, size: u64) -> Option<HashList> {
    let bytes = std::fs::read(path).ok()?;
    if bytes.len() as u64 != chunk_count(size).checked_mul(32)? {
        return None;
    }
    let hashes = bytes
        .chunks_exact(32)
        .map(|hash| hash.try_into().expect("32 bytes"))
        .collect();
    HashList::verified(id, size, hashes).ok()
}

/// Stores a hash list durably.
pub(crate) fn save_hashes(path: &Path, list: &HashList) -> io::Result<()> {
    files::write_atomic(path, list.hashes().as_flattened(), files::Mode::Ordinary)
}

impl BlobStore {
    /// Opens the store in `root` and clears away what a crash left unusable.
    pub(crate) async fn open(
        root: PathBuf,
        db: Db,
        clock: Clock,
        min_free_bytes: u64,
    ) -> Result<Self, BlobError> {
        let known = db
            .read(|db| Ok::<_, DbError>(store::known_blobs(db)?))
            .await?;
        let folder = root.clone();
        blocking(move || {
            std::fs::create_dir_all(&folder).map_err(BlobError::disk("make the blob folder"))?;
            clear_leftovers(&folder, &known).map_err(BlobError::disk("read the blob folder"))
        })
        .await?;
        let receiving = Mutex::new(HashSet::new());
        Ok(Self {
            inner: Arc::new(StoreInner {
                root,
                db,
                clock,
                min_free_bytes,
                receiving,
            }),
        })
    }

    /// A complete blob; `None`: it is not here, or not all of it.
    pub async fn read(&self, blob: BlobId) -> Result<Option<BlobReader>, BlobError> {
        let size = self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::blob_size(db, blob)?))
            .await?;
        let Some(size) = size else { return Ok(None) };
        let paths = self.inner.paths(blob);
        blocking(move || BlobReader::open(&paths, blob, size).map(Some)).await
    }

    /// A blob that is to arrive: made, or resumed with what an earlier run made durable. Refuses when the rest of it
    /// does not fit on the disk, and when another task is receiving it.
    pub async fn partial(&self, blob: BlobId, size: u64) -> Result<PartialBlob, BlobError> {
        if size == 0 || size > MAX_BLOB_BYTES {
            return Err(BlobError::WrongBytes(blob::BlobError::Size));
        }
        let place = Place::take(Arc::clone(&self.inner), blob)?;
        blocking(move || PartialBlob::open(place, blob, size)).await
    }

    /// Free bytes on the store's disk that may be used.
    pub async fn free_bytes(&self) -> u64 {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.usable_bytes()).await.unwrap_or(0)
    }

    /// Notes a complete blob; its file must be durable.
    pub(crate) async fn note_complete(&self, blob: BlobId, size: u64) -> Result<(), BlobError> {
        let now = self.inner.clock.now();
        Ok(self
            .inner
            .db
            .write(move |tx| Ok::<_, DbError>(store::put_blob(tx, blob, size, now)?))
            .await?)
    }

    /// Deletes files of blobs that no title names any more. Readers that are open keep reading.
    pub(crate) async fn delete_files(&self, blobs: Vec<BlobId>) -> Result<(), BlobError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            for blob in blobs {
                let paths = inner.paths(blob);
                for path in [paths.blob, paths.part, paths.map, paths.hashes] {
                    match std::fs::remove_file(&path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(BlobError::Disk {
                                what: "delete a blob",
                                source: error,
                            });
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

/// Deletes unfinished imports, and complete blobs that no title names: their keys were never stored.
fn clear_leftovers(root: &Path, known: &std::collections::BTreeSet<BlobId>) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_import = entry
            .path()
            .extension()
            .is_some_and(|ending| ending == "tmp");
        if is_import && name.starts_with("import-") {
            std::fs::remove_file(entry.path())?;
        } else if name.len() == 2 && entry.file_type()?.is_dir() {
            clear_folder(&entry.path(), known)?;
        }
    }
    Ok(())
}

fn clear_folder(folder: &Path, known: &std::collections::BTreeSet<BlobId>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<BlobId>().ok());
        let ending = path.extension().and_then(|ending| ending.to_str());
        if let (Some(id), Some("blob")) = (stem, ending)
            && !known.contains(&id)
        {
            tracing::info!(blob = %id, "a blob that no title names was deleted");
            std::fs::remove_file(&path)?;
            let _ = std::fs::remove_file(path.with_extension("hashes"));
        }
    }
    Ok(())
}

/// The right to receive one blob: one task at a time.
pub(crate) struct Place {
    pub(crate) store: Arc<StoreInner>,
    id: BlobId,
}

impl Place {
    fn take(store: Arc<StoreInner>, id: BlobId) -> Result<Self, BlobError> {
        if !store
            .receiving
            .lock()
            .expect("no holder of this lock panics")
            .insert(id)
        {
            return Err(BlobError::Busy(id));
        }
        Ok(Self { store, id })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.store.release(self.id);
    }
}

/// A complete blob, open for reading. Cheap to clone.
#[derive(Clone)]
pub struct BlobReader {
    file: Arc<File>,
    hashes: Arc<HashList>,
}

impl BlobReader {
    pub(crate) fn open(paths: &Paths, id: BlobId, size: u64) -> Result<Self, BlobError> {
        let file = File::open(&paths.blob).map_err(|_| BlobError::Damaged(id))?;
        let length = file.metadata().map_err(|_| BlobError::Damaged(id))?.len();
        let hashes = load_hashes(&paths.hashes, id, size).ok_or(BlobError::Damaged(id))?;
        if length != size {
            return Err(BlobError::Damaged(id));
        }
        Ok(Self {
            file: Arc::new(file),
            hashes: Arc::new(hashes),
        })
    }

    /// Which blob it is.
    pub fn id(&self) -> BlobId {
        self.hashes.id()
    }

    /// Its size, bytes.
    pub fn size(&self) -> u64 {
        self.hashes.size()
    }

    /// Its chunk hashes.
    pub fn hashes(&self) -> &HashList {
        &self.hashes
    }

    /// Exactly `len` sealed bytes from `offset`; at most [`MAX_READ`].
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlobError> {
        let reader = self.clone();
        blocking(move || reader.read_at_blocking(offset, len).map(Bytes::from)).await
    }

    /// [`BlobReader::read_at`] for a thread that may block.
    pub(crate) fn read_at_blocking(&self, offset: u64, len: usize) -> Result<Vec<u8>, BlobError> {
        let end = offset
            .checked_add(len as u64)
            .ok_or(BlobError::NoSuchRange)?;
        if end > self.size() || len > MAX_READ {
            return Err(BlobError::NoSuchRange);
        }
        let mut bytes = vec![0u8; len];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => BlobError::Damaged(self.id()),
                _ => BlobError::Disk {
                    what: "read",
                    source: error,
                },
            })?;
        Ok(bytes)
    }
}
