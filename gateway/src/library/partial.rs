//! A blob that is arriving (F45): chunks in any order, verified before they are written, resumed after a crash.
//!
//! The bitmap file never claims what is not on disk: chunks are written, the file is synced, then the bitmap is. What
//! was written but not claimed when the power or the process went is looked for on resume by its hash, so that
//! kill -9 costs no chunk and a power loss at most [`BATCH_BYTES`].
//!
//! `.map` file: `MANTELP1`, the blob's size (8 bytes, big-endian), then one bit per chunk, lowest bit first.

use super::blobs::{BlobError, BlobReader, Place, blocking, load_hashes, save_hashes};
use mantel_protocol::blob::{BlobId, CHUNK_BYTES, ChunkRange, HashList, chunk_count, chunk_len};
use mantel_runtime::files;
use rustix::fs::SeekFrom;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// The most bytes written between two syncs.
pub const BATCH_BYTES: u64 = 16 * 1024 * 1024;
/// The most unclaimed chunks that a resume looks for by hash: twice a batch, since a batch may be cut in the middle.
const MAX_RECHECK: usize = 2 * (BATCH_BYTES / CHUNK_BYTES) as usize;

const MAP_MAGIC: &[u8; 8] = b"MANTELP1";
const MAP_HEADER: u64 = 16;

/// A blob on its way. Dropping it keeps what is durable.
pub struct PartialBlob {
    id: BlobId,
    size: u64,
    files: Option<Files>,
    hashes: Option<Arc<HashList>>,
    /// One bit per chunk: written and verified, durable or not.
    have: Vec<u8>,
    bytes_done: u64,
    /// Written since the last sync.
    unclaimed: Vec<u64>,
    unclaimed_bytes: u64,
    place: Place,
}

/// The open files; `None` in a blob that was found complete.
#[derive(Clone)]
struct Files {
    part: Arc<File>,
    map: Arc<File>,
}

fn bit(map: &[u8], index: u64) -> bool {
    map.get((index / 8) as usize)
        .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
}

fn set_bit(map: &mut [u8], index: u64) {
    map[(index / 8) as usize] |= 1 << (index % 8);
}

impl PartialBlob {
    /// Makes or resumes; blocks.
    pub(crate) fn open(place: Place, id: BlobId, size: u64) -> Result<Self, BlobError> {
        let paths = place.store.paths(id);
        paths
            .make_folder()
            .map_err(BlobError::disk("make a blob folder"))?;
        let hashes = load_hashes(&paths.hashes, id, size).map(Arc::new);
        let have = vec![0u8; chunk_count(size).div_ceil(8) as usize];
        let mut blob = Self {
            id,
            size,
            files: None,
            hashes,
            have,
            bytes_done: 0,
            unclaimed: Vec::new(),
            unclaimed_bytes: 0,
            place,
        };
        if paths.blob.exists() {
            // A crash came between rename and row, or the database was restored from an older copy.
            if blob.adopt(&paths.blob) {
                return Ok(blob);
            }
            std::fs::remove_file(&paths.blob).map_err(BlobError::disk("delete a damaged blob"))?;
        }
        let found = resume_files(&paths.part, &paths.map, size)
            .map_err(BlobError::disk("read an arriving blob"))?;
        if let Some((files, map)) = found {
            blob.have = map;
            blob.files = Some(files);
            blob.recheck()
                .map_err(BlobError::disk("resume an arriving blob"))?;
            blob.bytes_done = blob.count_bytes();
            blob.place.store.check_room(size - blob.bytes_done)?;
        } else {
            blob.place.store.check_room(size)?;
            let store = Arc::clone(&blob.place.store);
            let made = make_files(&paths.part, &paths.map, size, blob.have.len());
            blob.files = Some(made.map_err(|error| store.write_error(size, error))?);
        }
        Ok(blob)
    }

    /// Which blob it is.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// Its size, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its chunk hashes, once known.
    pub fn hashes(&self) -> Option<&HashList> {
        self.hashes.as_deref()
    }

    /// Whether a chunk is here.
    pub fn has(&self, index: u64) -> bool {
        index < chunk_count(self.size) && bit(&self.have, index)
    }

    /// The chunks that are not here, as runs in order.
    pub fn missing(&self) -> Vec<ChunkRange> {
        let mut runs: Vec<ChunkRange> = Vec::new();
        for index in (0..chunk_count(self.size)).filter(|index| !bit(&self.have, *index)) {
            match runs.last_mut() {
                Some(run) if run.end() == index => run.count += 1,
                _ => runs.push(ChunkRange {
                    start: index,
                    count: 1,
                }),
            }
        }
        runs
    }

    /// How many bytes are here.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done
    }

    /// Stores the list of chunk hashes; it must be this blob's.
    pub async fn set_hashes(&mut self, list: HashList) -> Result<(), BlobError> {
        if list.id() != self.id || list.size() != self.size {
            return Err(BlobError::WrongBytes(
                mantel_protocol::blob::BlobError::WrongHashList,
            ));
        }
        if self.hashes.is_some() {
            return Ok(());
        }
        let list = Arc::new(list);
        let (stored, store, path) = (
            Arc::clone(&list),
            Arc::clone(&self.place.store),
            self.place.store.paths(self.id).hashes,
        );
        blocking(move || {
            save_hashes(&path, &stored)
                .map_err(|error| store.write_error(stored.size() / 32, error))
        })
        .await?;
        self.hashes = Some(list);
        Ok(())
    }

    /// Verifies and writes one chunk. A chunk that is here already is left alone. Not cancel-safe for the chunk given:
    /// a dropped write may or may not have happened, which a resume finds out.
    pub async fn write(&mut self, index: u64, bytes: Vec<u8>) -> Result<(), BlobError> {
        let hashes = Arc::clone(self.hashes.as_ref().ok_or(BlobError::NoHashes)?);
        if self.has(index) {
            return Ok(());
        }
        let Some(files) = self.files.clone() else {
            return Ok(());
        };
        let store = Arc::clone(&self.place.store);
        let len = bytes.len() as u64;
        blocking(move || {
            hashes
                .verify_chunk(index, &bytes)
                .map_err(BlobError::WrongBytes)?;
            files
                .part
                .write_all_at(&bytes, index * CHUNK_BYTES)
                .map_err(|error| store.write_error(bytes.len() as u64, error))
        })
        .await?;
        set_bit(&mut self.have, index);
        self.bytes_done += len;
        self.unclaimed.push(index);
        self.unclaimed_bytes += len;
        if self.unclaimed_bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Makes what was written durable, then claims it in the bitmap.
    pub async fn flush(&mut self) -> Result<(), BlobError> {
        let Some(files) = self.files.clone().filter(|_| !self.unclaimed.is_empty()) else {
            return Ok(());
        };
        let bits = self.bits_to_store();
        blocking(move || {
            claim(&files, &bits).map_err(BlobError::disk("make received bytes durable"))
        })
        .await?;
        self.unclaimed.clear();
        self.unclaimed_bytes = 0;
        Ok(())
    }

    /// The bitmap's bytes that hold unclaimed chunks, each with its place.
    fn bits_to_store(&self) -> Vec<(u64, u8)> {
        let mut places: Vec<u64> = self.unclaimed.iter().map(|index| index / 8).collect();
        places.sort_unstable();
        places.dedup();
        places
            .into_iter()
            .map(|place| (place, self.have[place as usize]))
            .collect()
    }

    /// Completes the blob: everything durable, the file under its final name, the row in the database last. On an
    /// error everything is kept and it may be tried again.
    pub async fn finish(mut self) -> Result<BlobReader, BlobError> {
        let missing: u64 = self.missing().iter().map(|run| run.count).sum();
        if missing > 0 {
            return Err(BlobError::Incomplete { missing });
        }
        let hashes = self.hashes.clone().ok_or(BlobError::NoHashes)?;
        self.flush().await?;
        let (id, size, files) = (self.id, self.size, self.files.take());
        let store = Arc::clone(&self.place.store);
        let reader = blocking(move || {
            let paths = store.paths(id);
            if let Some(files) = files {
                files
                    .part
                    .sync_all()
                    .map_err(BlobError::disk("make a blob durable"))?;
                if load_hashes(&paths.hashes, id, size).is_none() {
                    save_hashes(&paths.hashes, &hashes)
                        .map_err(BlobError::disk("store chunk hashes"))?;
                }
                std::fs::rename(&paths.part, &paths.blob)
                    .map_err(BlobError::disk("name a blob"))?;
                let _ = std::fs::remove_file(&paths.map);
            }
            files::sync_folder(&paths.folder).map_err(BlobError::disk("make a blob durable"))?;
            BlobReader::open(&paths, id, size)
        })
        .await?;
        super::blobs::BlobStore {
            inner: Arc::clone(&self.place.store),
        }
        .note_complete(id, size)
        .await?;
        Ok(reader)
    }

    fn count_bytes(&self) -> u64 {
        let lengths = (0..chunk_count(self.size)).filter(|index| bit(&self.have, *index));
        lengths
            .filter_map(|index| chunk_len(self.size, index))
            .sum()
    }

    /// Takes a complete file if every chunk of it is right.
    fn adopt(&mut self, path: &Path) -> bool {
        let Some(hashes) = self.hashes.clone() else {
            return false;
        };
        let Ok(file) = File::open(path) else {
            return false;
        };
        if file.metadata().map_or(0, |meta| meta.len()) != self.size {
            return false;
        }
        for index in 0..chunk_count(self.size) {
            if !chunk_is_right(&file, &hashes, index) {
                return false;
            }
            set_bit(&mut self.have, index);
        }
        self.bytes_done = self.size;
        true
    }

    /// Looks for chunks that were written but not claimed, and claims those that are right.
    fn recheck(&mut self) -> io::Result<()> {
        let (Some(files), Some(hashes)) = (self.files.clone(), self.hashes.clone()) else {
            return Ok(());
        };
        let mut looked = 0;
        let mut index = 0;
        while looked < MAX_RECHECK {
            // Only where the file has bytes at all: the rest was never written.
            let from = index * CHUNK_BYTES;
            let Ok(data) = rustix::fs::seek(&files.part, SeekFrom::Data(from)) else {
                break;
            };
            index = data / CHUNK_BYTES;
            if index >= chunk_count(self.size) {
                break;
            }
            if !bit(&self.have, index) {
                looked += 1;
                if chunk_is_right(&files.part, &hashes, index) {
                    set_bit(&mut self.have, index);
                    self.unclaimed.push(index);
                }
            }
            index += 1;
        }
        if !self.unclaimed.is_empty() {
            claim(&files, &self.bits_to_store())?;
            self.unclaimed.clear();
        }
        Ok(())
    }
}

fn claim(files: &Files, bits: &[(u64, u8)]) -> io::Result<()> {
    files.part.sync_data()?;
    for (place, byte) in bits {
        files.map.write_all_at(&[*byte], MAP_HEADER + place)?;
    }
    files.map.sync_data()
}

fn chunk_is_right(file: &File, hashes: &HashList, index: u64) -> bool {
    let Some(len) = chunk_len(hashes.size(), index) else {
        return false;
    };
    let mut bytes = vec![0u8; len as usize];
    file.read_exact_at(&mut bytes, index * CHUNK_BYTES).is_ok()
        && hashes.verify_chunk(index, &bytes).is_ok()
}

fn open_rw(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// The files of an earlier run with its bitmap; `None`: there are none that fit together.
fn resume_files(part: &Path, map: &Path, size: u64) -> io::Result<Option<(Files, Vec<u8>)>> {
    let (part, map) = match (open_rw(part), open_rw(map)) {
        (Ok(part), Ok(map)) => (part, map),
        (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let chunks = chunk_count(size);
    let mut stored = vec![0u8; MAP_HEADER as usize + chunks.div_ceil(8) as usize];
    let fits = map.metadata()?.len() == stored.len() as u64 && part.metadata()?.len() == size;
    if !fits || map.read_exact_at(&mut stored, 0).is_err() {
        return Ok(None);
    }
    let bits = stored.split_off(MAP_HEADER as usize);
    let stray_bits = (chunks..bits.len() as u64 * 8).any(|index| bit(&bits, index));
    if stored[..8] != MAP_MAGIC[..] || stored[8..] != size.to_be_bytes()[..] || stray_bits {
        return Ok(None);
    }
    Ok(Some((
        Files {
            part: Arc::new(part),
            map: Arc::new(map),
        },
        bits,
    )))
}

fn make_files(part: &Path, map: &Path, size: u64, map_bytes: usize) -> io::Result<Files> {
    // The old bitmap goes first, durably: it must not speak for the new part.
    match std::fs::remove_file(map) {
        Ok(()) => files::sync_folder(map.parent().unwrap_or(map))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(part)?;
    file.set_len(size)?;
    let mut bytes = MAP_MAGIC.to_vec();
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.resize(MAP_HEADER as usize + map_bytes, 0);
    files::write_atomic(map, &bytes, files::Mode::Ordinary)?;
    Ok(Files {
        part: Arc::new(file),
        map: Arc::new(open_rw(map)?),
    })
}

#[cfg(test)]
#[path = "partial_tests.rs"]
mod tests;
