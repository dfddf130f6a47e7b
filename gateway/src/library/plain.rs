//! Plaintext of a sealed blob, by range and in memory only (F26, DESIGN §4, §9): for playback, and for the sandbox
//! that looks at media.

use super::blobs::{BlobError, BlobReader, blocking};
use bytes::Bytes;
use mantel_protocol::seal::{ContentKey, HEADER_BYTES, Opener, RECORD_BYTES, SealError};
use rustix::fs::{MemfdFlags, SealFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The most plaintext bytes of one read.
pub const MAX_PLAIN_READ: usize = 4 * 1024 * 1024;
/// A file up to this size is shown whole to the sandbox.
pub(crate) const WHOLE_BYTES: u64 = 64 * 1024 * 1024;
/// Of a larger file, so much of its beginning and of its end, where containers keep their tables.
pub(crate) const EDGE_BYTES: u64 = 32 * 1024 * 1024;

/// Why plaintext could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PlainError {
    /// The store refused.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The key is wrong, or the stored bytes were changed.
    #[error("the stored copy does not open; remove the title and fetch or import it again")]
    Seal(#[from] SealError),
    /// The kernel refused memory for the sandbox.
    #[error("there is no memory to look into the file")]
    Memory(#[source] io::Error),
}

/// A blob with the means to open it; drops with its key. Cheap to clone.
#[derive(Clone)]
pub struct PlainReader {
    blob: BlobReader,
    opener: Arc<Opener>,
}

impl PlainReader {
    /// Reads the blob's header; the key is checked by the first record that is opened.
    pub async fn open(blob: BlobReader, key: &ContentKey) -> Result<Self, PlainError> {
        let header = blob
            .read_at(0, HEADER_BYTES.min(blob.size() as usize))
            .await?;
        let opener = Arc::new(Opener::new(key, &header, blob.size())?);
        Ok(Self { blob, opener })
    }

    /// How many bytes the plaintext has.
    pub fn plain_bytes(&self) -> u64 {
        self.opener.plain_len()
    }

    /// Exactly `len` bytes from `offset`, at most [`MAX_PLAIN_READ`]; only the records around them are read.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, PlainError> {
        let reader = self.clone();
        blocking(move || reader.read_at_blocking(offset, len).map(Bytes::from)).await
    }

    /// [`PlainReader::read_at`] for a thread that may block.
    pub(crate) fn read_at_blocking(&self, offset: u64, len: usize) -> Result<Vec<u8>, PlainError> {
        let end = offset
            .checked_add(len as u64)
            .filter(|end| *end <= self.plain_bytes());
        let end = end
            .filter(|_| len <= MAX_PLAIN_READ)
            .ok_or(BlobError::NoSuchRange)?;
        let mut plain = Vec::with_capacity(len);
        let mut at = offset;
        while at < end {
            let record = self.opener.record_at(at);
            let mut sealed = self
                .blob
                .read_at_blocking(record.sealed_offset, record.sealed_len)?;
            let opened = self.opener.open_record(record.record, &mut sealed)?;
            let start = record.record * RECORD_BYTES as u64;
            let stop = (start + opened.len() as u64).min(end);
            plain.extend_from_slice(&opened[(at - start) as usize..(stop - start) as usize]);
            at = stop;
        }
        Ok(plain)
    }

    /// The plaintext (of a large file its edges, the rest as holes) in memory that has no name and cannot be written:
    /// what the sandbox gets as standard input. Blocks.
    pub(crate) fn to_memory(&self) -> Result<InMemory, PlainError> {
        let size = self.plain_bytes();
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = |error: rustix::io::Errno| PlainError::Memory(error.into());
        let file = File::from(rustix::fs::memfd_create("media", flags).map_err(memory)?);
        file.set_len(size).map_err(PlainError::Memory)?;
        let runs = if size <= WHOLE_BYTES {
            [(0, size), (size, size)]
        } else {
            [(0, EDGE_BYTES), (size - EDGE_BYTES, size)]
        };
        for (start, end) in runs {
            let mut at = start;
            while at < end {
                let len = (end - at).min(MAX_PLAIN_READ as u64) as usize;
                let bytes = self.read_at_blocking(at, len)?;
                file.write_all_at(&bytes, at).map_err(PlainError::Memory)?;
                at += len as u64;
            }
        }
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(memory)?;
        Ok(InMemory {
            file: Arc::new(file),
            whole: size <= WHOLE_BYTES,
        })
    }
}

/// Plaintext in anonymous memory; gone when the last holder closes it.
#[derive(Clone)]
pub(crate) struct InMemory {
    pub(crate) file: Arc<File>,
    /// Whether all of it is there, not only its edges.
    pub(crate) whole: bool,
}
