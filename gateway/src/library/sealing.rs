//! Sealing an import on its way to disk: plaintext in memory, 64 KiB records out, hashed as they are written (F26).
//! What is not kept is removed when it is dropped.

use super::Library;
use super::blobs::{BlobError, StoreInner, blocking, save_hashes};
use super::import::ImportError;
use super::progress::Ticket;
use mantel_protocol::blob::{BlobHasher, HashList};
use mantel_protocol::seal::{
    Cipher, ContentKey, Last, RECORD_BYTES, Sealer, TAG_BYTES, sealed_len,
};
use mantel_runtime::files;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Plaintext bytes sealed and written at a time.
const BATCH_BYTES: usize = 1024 * 1024;
/// How often the room on disk is looked at, plaintext bytes.
const ROOM_CHECK_BYTES: u64 = 64 * 1024 * 1024;

/// A sealed file being filled from async code, a batch at a time.
pub(super) struct Sealing<'a> {
    /// `None` only while a batch is being written.
    file: Option<SealedFile>,
    batch: Zeroizing<Vec<u8>>,
    pub(super) ticket: &'a Ticket,
    library: &'a Library,
    key: &'a ContentKey,
    pub(super) name: String,
    pub(super) limit: u64,
}

impl<'a> Sealing<'a> {
    pub(super) async fn begin(
        library: &'a Library,
        ticket: &'a Ticket,
        key: &'a ContentKey,
        name: String,
        limit: u64,
    ) -> Result<Self, ImportError> {
        let batch = Zeroizing::new(Vec::with_capacity(BATCH_BYTES));
        let mut sealing = Self {
            file: None,
            batch,
            ticket,
            library,
            key,
            name,
            limit,
        };
        sealing.file = Some(sealing.new_file().await?);
        Ok(sealing)
    }

    async fn new_file(&self) -> Result<SealedFile, ImportError> {
        let (store, mark) = (
            Arc::clone(&self.library.inner.blobs.inner),
            self.library.inner.store_key.mark_hasher(),
        );
        let key = self.key.clone();
        blocking(move || SealedFile::create(store, &key, mark))
            .await
            .map_err(|error| named(&self.name, error))
    }

    /// Plaintext bytes taken so far.
    pub(super) fn bytes(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.plain_bytes) + self.batch.len() as u64
    }

    /// The source starts again from its first byte. The new file gets a new nonce prefix under the same key; nothing
    /// of the old one leaves this process.
    pub(super) async fn restart(&mut self) -> Result<(), ImportError> {
        self.batch.zeroize();
        self.file = None;
        self.file = Some(self.new_file().await?);
        Ok(())
    }

    /// The source told its size.
    pub(super) async fn expect(&self, total: u64) -> Result<(), ImportError> {
        if total > self.limit {
            return Err(ImportError::TooLarge {
                name: self.name.clone(),
                limit: self.limit,
            });
        }
        self.ticket.update(|row| row.bytes_total = Some(total));
        let store = Arc::clone(&self.library.inner.blobs.inner);
        blocking(move || store.check_room(sealed_len(total)))
            .await
            .map_err(|error| named(&self.name, error))
    }

    pub(super) async fn push(&mut self, mut piece: &[u8]) -> Result<(), ImportError> {
        while !piece.is_empty() {
            let room = BATCH_BYTES - self.batch.len();
            let (now, later) = piece.split_at(piece.len().min(room));
            self.batch.extend_from_slice(now);
            piece = later;
            if self.batch.len() == BATCH_BYTES {
                self.write_batch().await?;
            }
        }
        if self.bytes() > self.limit {
            return Err(ImportError::TooLarge {
                name: self.name.clone(),
                limit: self.limit,
            });
        }
        Ok(())
    }

    async fn write_batch(&mut self) -> Result<(), ImportError> {
        let Some(mut file) = self.file.take() else {
            return Err(BlobError::Stopping.into());
        };
        let mut batch = std::mem::replace(&mut *self.batch, Vec::with_capacity(BATCH_BYTES));
        let written = blocking(move || {
            let result = file.push(&batch);
            batch.zeroize();
            result.map(|()| file)
        });
        let file = written.await.map_err(|error: ImportError| match error {
            ImportError::Store(error) => named(&self.name, error),
            other => other,
        })?;
        let done = file.plain_bytes;
        self.file = Some(file);
        self.ticket.update(|row| row.bytes_done = done);
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<Sealed, ImportError> {
        self.write_batch().await?;
        let Some(file) = self.file.take() else {
            return Err(BlobError::Stopping.into());
        };
        let name = self.name;
        blocking(move || file.finish())
            .await
            .map_err(|error: ImportError| match error {
                ImportError::Store(error) => named(&name, error),
                other => other,
            })
    }
}

/// A file that is removed unless it is kept.
pub(super) struct Unfinished {
    pub(super) paths: Vec<PathBuf>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for path in &self.paths {
            // What cannot be removed now is cleared at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Seals what it is given, hashes it and writes it.
struct SealedFile {
    store: Arc<StoreInner>,
    file: File,
    unfinished: Unfinished,
    sealer: Sealer,
    hasher: BlobHasher,
    mark: blake3::Hasher,
    /// Plaintext that is not a whole record yet, or may be the last one.
    record: Vec<u8>,
    plain_bytes: u64,
    checked_at: u64,
}

/// A sealed file, durable, not yet under its final name.
pub(super) struct Sealed {
    pub(super) list: HashList,
    pub(super) plain_bytes: u64,
    pub(super) content_mark: String,
    pub(super) unfinished: Unfinished,
}

impl SealedFile {
    fn create(
        store: Arc<StoreInner>,
        key: &ContentKey,
        mark: blake3::Hasher,
    ) -> Result<Self, BlobError> {
        let path = store.temporary();
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&path);
        let file = opened.map_err(|error| store.write_error(RECORD_BYTES as u64, error))?;
        let unfinished = Unfinished { paths: vec![path] };
        let sealer = Sealer::new(key, Cipher::default());
        let header = *sealer.header();
        let (hasher, record) = (
            BlobHasher::new(),
            Vec::with_capacity(RECORD_BYTES + TAG_BYTES),
        );
        let mut made = Self {
            store,
            file,
            unfinished,
            sealer,
            hasher,
            mark,
            record,
            plain_bytes: 0,
            checked_at: 0,
        };
        made.write(&header)?;
        Ok(made)
    }

    fn write(&mut self, sealed: &[u8]) -> Result<(), BlobError> {
        self.hasher.update(sealed);
        self.file
            .write_all(sealed)
            .map_err(|error| self.store.write_error(BATCH_BYTES as u64, error))
    }

    fn push(&mut self, mut plain: &[u8]) -> Result<(), ImportError> {
        self.mark.update(plain);
        self.plain_bytes += plain.len() as u64;
        if self.plain_bytes - self.checked_at >= ROOM_CHECK_BYTES {
            self.checked_at = self.plain_bytes;
            self.store.check_room(ROOM_CHECK_BYTES)?;
        }
        while !plain.is_empty() {
            if self.record.len() == RECORD_BYTES {
                self.seal_record(Last::No)?;
            }
            let room = RECORD_BYTES - self.record.len();
            let (now, later) = plain.split_at(plain.len().min(room));
            self.record.extend_from_slice(now);
            plain = later;
        }
        Ok(())
    }

    fn seal_record(&mut self, last: Last) -> Result<(), ImportError> {
        let mut record = std::mem::take(&mut self.record);
        self.sealer.seal_record(&mut record, last)?;
        self.write(&record)?;
        record.clear();
        self.record = record;
        Ok(())
    }

    fn finish(mut self) -> Result<Sealed, ImportError> {
        self.seal_record(Last::Yes)?;
        self.file
            .sync_all()
            .map_err(|error| self.store.write_error(0, error))?;
        let list = std::mem::take(&mut self.hasher)
            .finish()
            .map_err(BlobError::WrongBytes)?;
        Ok(Sealed {
            list,
            plain_bytes: self.plain_bytes,
            content_mark: self.mark.finalize().to_hex().to_string(),
            unfinished: std::mem::replace(&mut self.unfinished, Unfinished { paths: Vec::new() }),
        })
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        self.record.zeroize();
    }
}

/// Gives the sealed file its final name, durably. Its row comes later: until then it is unfinished.
pub(super) fn place(store: &StoreInner, mut sealed: Sealed) -> Result<Sealed, BlobError> {
    let paths = store.paths(sealed.list.id());
    paths
        .make_folder()
        .map_err(BlobError::disk("make a blob folder"))?;
    sealed
        .unfinished
        .paths
        .extend([paths.blob.clone(), paths.hashes.clone()]);
    save_hashes(&paths.hashes, &sealed.list)
        .map_err(|error| store.write_error(sealed.list.size() / 32, error))?;
    std::fs::rename(&sealed.unfinished.paths[0], &paths.blob)
        .map_err(BlobError::disk("name a blob"))?;
    files::sync_folder(&paths.folder).map_err(BlobError::disk("make a blob durable"))?;
    Ok(sealed)
}

pub(super) fn named(name: &str, error: BlobError) -> ImportError {
    match error {
        BlobError::DiskFull { needed, free } => ImportError::DiskFull {
            name: name.to_owned(),
            needed,
            free,
        },
        other => other.into(),
    }
}
