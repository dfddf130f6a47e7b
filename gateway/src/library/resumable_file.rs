//! The sealed file of an upload that may be taken up again. Blocking; one owner at a time.
//!
//! It holds the header and whole records only, so its length says how many bytes of plaintext are here, and what a crash
//! tore off is less than one record. A torn record's nonce is used again when its bytes come again: they must seal to
//! what is left of it, else the upload is refused; so no nonce ever seals two different texts.

use super::blobs::{BlobError, StoreInner};
use super::sealing::{Sealed, Unfinished};
use mantel_protocol::blob::BlobHasher;
use mantel_protocol::seal::{
    Cipher, ContentKey, HEADER_BYTES, Last, Opener, RECORD_BYTES, SealError, Sealer, TAG_BYTES,
    sealed_len,
};
use mantel_runtime::files;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroize;

const SEALED_RECORD: u64 = (RECORD_BYTES + TAG_BYTES) as u64;
/// The most bytes sealed between two syncs.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;

/// Why bytes were not added. What was durable before stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// A record does not seal or open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The bytes differ from those that came before at the same place.
    #[error("the file was changed while it was being sent")]
    Changed,
}

/// An upload's file, open and verified.
pub(super) struct PartFile {
    store: Arc<StoreInner>,
    path: PathBuf,
    file: File,
    sealer: Sealer,
    hasher: BlobHasher,
    mark: blake3::Hasher,
    size: u64,
    /// Plaintext sealed and written.
    written: u64,
    /// Of it, synced.
    synced: u64,
    /// Plaintext that is not a whole record yet.
    record: Vec<u8>,
    /// What a crash left of the next record.
    torn: Vec<u8>,
}

/// How much plaintext is in a file of `len` bytes, of an upload of `size`.
pub(super) fn plain_in(len: u64, size: u64) -> u64 {
    if len >= sealed_len(size) {
        return size;
    }
    len.saturating_sub(HEADER_BYTES as u64) / SEALED_RECORD * RECORD_BYTES as u64
}

/// How much of an upload is durable: its file is synced first. 0: there is no file yet.
pub(super) fn durable(path: &Path, size: u64) -> Result<u64, BlobError> {
    match File::open(path) {
        Ok(file) => {
            file.sync_all().map_err(BlobError::disk("sync an upload"))?;
            let len = file.metadata().map_err(BlobError::disk("read an upload"))?;
            Ok(plain_in(len.len(), size))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(BlobError::disk("read an upload")(error)),
    }
}

impl PartFile {
    /// Makes the file, or opens it and verifies what an earlier run wrote: reads and hashes all of it.
    pub(super) fn open(
        store: Arc<StoreInner>,
        path: &Path,
        key: &ContentKey,
        mut mark: blake3::Hasher,
        size: u64,
    ) -> Result<Self, PartError> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path);
        let file = opened.map_err(|error| store.write_error(RECORD_BYTES as u64, error))?;
        let len = file
            .metadata()
            .map_err(BlobError::disk("read an upload"))?
            .len();
        let mut hasher = BlobHasher::new();
        let (sealer, written, torn) = if len < HEADER_BYTES as u64 {
            let sealer = Sealer::new(key, Cipher::default());
            file.set_len(0)
                .map_err(BlobError::disk("begin an upload"))?;
            file.write_all_at(sealer.header(), 0)
                .map_err(|error| store.write_error(RECORD_BYTES as u64, error))?;
            file.sync_all().map_err(BlobError::disk("sync an upload"))?;
            if let Some(folder) = path.parent() {
                files::sync_folder(folder).map_err(BlobError::disk("sync an upload"))?;
            }
            hasher.update(sealer.header());
            (sealer, 0, Vec::new())
        } else {
            verify(&file, key, size, &mut hasher, &mut mark)?
        };
        let keep = if written == size {
            sealed_len(size)
        } else {
            HEADER_BYTES as u64 + written / RECORD_BYTES as u64 * SEALED_RECORD
        };
        file.set_len(keep)
            .map_err(BlobError::disk("mend an upload"))?;
        let mut made = Self {
            store,
            path: path.to_owned(),
            file,
            sealer,
            hasher,
            mark,
            size,
            written,
            synced: 0,
            record: Vec::with_capacity(RECORD_BYTES + TAG_BYTES),
            torn,
        };
        made.sync()?;
        io::Seek::seek(&mut made.file, io::SeekFrom::Start(keep))
            .map_err(BlobError::disk("read an upload"))?;
        Ok(made)
    }

    /// Plaintext bytes that are durable.
    pub(super) fn durable(&self) -> u64 {
        self.synced
    }

    /// Seals and writes. `plain` must not reach past the upload's size. Syncs every 16 MiB.
    pub(super) fn push(&mut self, mut plain: &[u8]) -> Result<(), PartError> {
        while !plain.is_empty() {
            let room = RECORD_BYTES - self.record.len();
            let (now, later) = plain.split_at(plain.len().min(room));
            self.record.extend_from_slice(now);
            plain = later;
            let at = self.written + self.record.len() as u64;
            if at == self.size {
                self.seal(Last::Yes)?;
            } else if self.record.len() == RECORD_BYTES {
                self.seal(Last::No)?;
            }
        }
        if self.written - self.synced >= SYNC_BYTES {
            self.store.check_room(SYNC_BYTES)?;
            self.sync()?;
        }
        Ok(())
    }

    fn seal(&mut self, last: Last) -> Result<(), PartError> {
        self.mark.update(&self.record);
        self.written += self.record.len() as u64;
        let mut record = std::mem::take(&mut self.record);
        self.sealer.seal_record(&mut record, last)?;
        let torn = std::mem::take(&mut self.torn);
        if last == Last::No && !record.starts_with(&torn) {
            return Err(PartError::Changed);
        }
        self.hasher.update(&record);
        self.file
            .write_all(&record)
            .map_err(|error| self.store.write_error(RECORD_BYTES as u64, error))?;
        record.clear();
        self.record = record;
        Ok(())
    }

    /// Makes what is written durable and forgets a record that is not whole: it is sent again.
    pub(super) fn settle(&mut self) -> Result<u64, PartError> {
        self.record.zeroize();
        self.sync()?;
        Ok(self.synced)
    }

    fn sync(&mut self) -> Result<(), BlobError> {
        self.file
            .sync_data()
            .map_err(|error| self.store.write_error(0, error))?;
        self.synced = self.written;
        Ok(())
    }

    /// The whole file under a second name, for the library to keep; the first stays until the row is written, so that
    /// a crash in between loses nothing.
    pub(super) fn finish(mut self) -> Result<Sealed, PartError> {
        self.sync()?;
        let path = self.store.temporary();
        std::fs::hard_link(&self.path, &path).map_err(BlobError::disk("keep an upload"))?;
        let unfinished = Unfinished { paths: vec![path] };
        let hasher = std::mem::take(&mut self.hasher);
        Ok(Sealed {
            list: hasher.finish().map_err(BlobError::WrongBytes)?,
            plain_bytes: self.written,
            content_mark: self.mark.finalize().to_hex().to_string(),
            unfinished,
        })
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        self.record.zeroize();
    }
}

/// Reads the records that are here up to the first that does not open. Gives the sealer for the next, the plaintext
/// bytes that are good, and what is left of the next record.
fn verify(
    file: &File,
    key: &ContentKey,
    size: u64,
    hasher: &mut BlobHasher,
    mark: &mut blake3::Hasher,
) -> Result<(Sealer, u64, Vec<u8>), PartError> {
    let read = BlobError::disk("read an upload");
    let mut header = [0u8; HEADER_BYTES];
    if let Err(error) = file.read_exact_at(&mut header, 0) {
        return Err(read(error).into());
    }
    hasher.update(&header);
    let opener = Opener::new(key, &header, sealed_len(size))?;
    let (mut good, mut torn) = (0u64, Vec::new());
    while good < size {
        let at = opener.record_at(good);
        let mut sealed = vec![0u8; at.sealed_len];
        let got = read_some(file, &mut sealed, at.sealed_offset)
            .map_err(BlobError::disk("read an upload"))?;
        sealed.truncate(got);
        let raw = sealed.clone();
        match opener.open_record(at.record, &mut sealed) {
            Ok(plain) if got == at.sealed_len => {
                hasher.update(&raw);
                mark.update(plain);
                good += plain.len() as u64;
                sealed.zeroize();
            }
            _ => {
                torn = raw;
                break;
            }
        }
    }
    // A length that became durable before its bytes reads as zeros: they were never sealed.
    let end = torn.iter().rposition(|byte| *byte != 0);
    torn.truncate(end.map_or(0, |end| end + 1));
    let next = good.div_ceil(RECORD_BYTES as u64);
    Ok((Sealer::resume(key, header, next)?, good, torn))
}

fn read_some(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match file.read_at(&mut into[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
