//! Blobs: immutable sealed bytes named by BLAKE3, and their chunks, each verified against the hash tree (F45).
//!
//! A blob is cut into chunks of [`CHUNK_BYTES`]. A chunk is a complete subtree of the BLAKE3 tree (BLAKE3 §2.1), so its
//! chaining value can be computed alone; the list of chaining values merges to the blob's ID. A receiver first gets the
//! list, checks that it merges to the ID that the server's grant names, and then checks each chunk against its entry.
//! This is what crate `bao-tree` does with a 1 MiB block, less its interleaved wire encoding: a flat list (32 bytes per
//! MiB) leaves the sealed bytes of a chunk contiguous on disk and on the wire, so that they are hashed in one SIMD pass.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A chunk's size, bytes (the last chunk of a blob may be shorter). A power of two, as the tree demands.
pub const CHUNK_BYTES: u64 = 1024 * 1024;

/// The largest blob: 1 TiB, which bounds a hash list to 32 MiB.
pub const MAX_BLOB_BYTES: u64 = 1 << 40;

/// A blob's name: the BLAKE3 hash of its sealed bytes, 64 hex digits.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")]
pub struct BlobId(pub [u8; 32]);

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobId {
    type Err = BlobError;
    fn from_str(text: &str) -> Result<Self, BlobError> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| BlobError::NotAnId)
    }
}

impl TryFrom<String> for BlobId {
    type Error = BlobError;
    fn try_from(text: String) -> Result<Self, BlobError> {
        text.parse()
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> String {
        id.to_string()
    }
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// Text that is no blob ID.
    #[error("this is not a blob id: 64 hex digits were expected")]
    NotAnId,
    /// The list of chunk hashes does not merge to the blob's ID, or has the wrong length.
    #[error("the list of chunk hashes does not belong to this blob")]
    WrongHashList,
    /// No such chunk in this blob.
    #[error("chunk {0} is past the end of the blob")]
    NoSuchChunk(u64),
    /// A chunk of the wrong length or content.
    #[error("chunk {0} holds wrong bytes")]
    WrongBytes(u64),
    /// Larger than [`MAX_BLOB_BYTES`], or empty.
    #[error("a blob has between 1 byte and 1 TiB")]
    Size,
}

/// A run of chunks: `count` chunks from `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChunkRange {
    /// First chunk.
    pub start: u64,
    /// How many.
    pub count: u64,
}

impl ChunkRange {
    /// The chunk past the last, saturating (the numbers come from a peer).
    pub fn end(self) -> u64 {
        self.start.saturating_add(self.count)
    }
}

/// How many chunks a blob of `size` bytes has.
pub fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES)
}

/// How long chunk `index` of a blob of `size` bytes is; `None` past the end.
pub fn chunk_len(size: u64, index: u64) -> Option<u64> {
    let start = index.checked_mul(CHUNK_BYTES)?;
    (start < size).then(|| (size - start).min(CHUNK_BYTES))
}

/// How many bytes the chunks of `ranges` hold in a blob of `size` bytes. Ranges past the end count nothing.
pub fn ranges_len(size: u64, ranges: &[ChunkRange]) -> u64 {
    let at = |chunk: u64| chunk.saturating_mul(CHUNK_BYTES).min(size);
    ranges
        .iter()
        .map(|range| at(range.end()) - at(range.start))
        .fold(0, u64::saturating_add)
}

/// A blob's chunk hashes: the chaining value of each chunk, or, of a one-chunk blob, its root hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashList {
    id: BlobId,
    size: u64,
    hashes: Vec<ChainingValue>,
}

impl HashList {
    /// Accepts a peer's or the disk's list only if it merges to `id`.
    pub fn verified(id: BlobId, size: u64, hashes: Vec<[u8; 32]>) -> Result<Self, BlobError> {
        if size == 0 || size > MAX_BLOB_BYTES {
            return Err(BlobError::Size);
        }
        if hashes.len() as u64 != chunk_count(size) || merge_root(&hashes) != id.0 {
            return Err(BlobError::WrongHashList);
        }
        Ok(Self { id, size, hashes })
    }

    /// The blob.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// The blob's size, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The chunk hashes, in order.
    pub fn hashes(&self) -> &[[u8; 32]] {
        &self.hashes
    }

    /// Checks one chunk's length and bytes.
    pub fn verify_chunk(&self, index: u64, bytes: &[u8]) -> Result<(), BlobError> {
        let want = usize::try_from(index).ok().and_then(|i| self.hashes.get(i));
        let want = want.ok_or(BlobError::NoSuchChunk(index))?;
        if chunk_len(self.size, index) != Some(bytes.len() as u64) {
            return Err(BlobError::WrongBytes(index));
        }
        let got = if self.hashes.len() == 1 {
            *blake3::hash(bytes).as_bytes()
        } else {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(index * CHUNK_BYTES).update(bytes);
            hasher.finalize_non_root()
        };
        if got == *want {
            Ok(())
        } else {
            Err(BlobError::WrongBytes(index))
        }
    }
}

fn merge_root(hashes: &[ChainingValue]) -> [u8; 32] {
    match hashes {
        [] => [0; 32],
        [only] => *only,
        many => {
            let (left, right) = many.split_at(left_len(many.len()));
            *merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).as_bytes()
        }
    }
}

/// Merges below the root. Depth is log2 of the number of chunks: 20 at most.
fn merge(hashes: &[ChainingValue]) -> ChainingValue {
    match hashes {
        [only] => *only,
        many => {
            let (left, right) = many.split_at(left_len(many.len()));
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

/// The largest power of two below `count` (BLAKE3 §2.1: left subtrees are full). `count` is at least 2.
fn left_len(count: usize) -> usize {
    count.next_power_of_two() / 2
}

/// Computes a blob's [`HashList`] from its bytes as they are written.
#[derive(Default)]
pub struct BlobHasher {
    size: u64,
    current: blake3::Hasher,
    hashes: Vec<ChainingValue>,
}

impl BlobHasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.size > 0 && self.size.is_multiple_of(CHUNK_BYTES) {
                self.hashes.push(self.current.finalize_non_root());
                self.current = blake3::Hasher::new();
                self.current.set_input_offset(self.size);
            }
            let room = CHUNK_BYTES - self.size % CHUNK_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.current.update(now);
            self.size += now.len() as u64;
            bytes = later;
        }
    }

    /// The list, with the blob's ID.
    pub fn finish(mut self) -> Result<HashList, BlobError> {
        if self.size == 0 || self.size > MAX_BLOB_BYTES {
            return Err(BlobError::Size);
        }
        if self.hashes.is_empty() {
            self.hashes.push(*self.current.finalize().as_bytes());
        } else {
            self.hashes.push(self.current.finalize_non_root());
        }
        Ok(HashList {
            id: BlobId(merge_root(&self.hashes)),
            size: self.size,
            hashes: self.hashes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn merges_to_the_plain_blake3_hash() {
        let mib = CHUNK_BYTES as usize;
        for len in [
            1,
            1024,
            mib - 1,
            mib,
            mib + 1,
            2 * mib,
            3 * mib + 7,
            5 * mib,
            8 * mib + 1,
        ] {
            let data = bytes(len);
            let mut hasher = BlobHasher::new();
            for piece in data.chunks(70_001) {
                hasher.update(piece);
            }
            let list = hasher.finish().expect("not empty");
            assert_eq!(list.id().0, *blake3::hash(&data).as_bytes(), "{len}");
            let again = HashList::verified(list.id(), list.size(), list.hashes().to_vec());
            assert_eq!(again.as_ref(), Ok(&list));
            for (index, chunk) in data.chunks(mib).enumerate() {
                assert_eq!(list.verify_chunk(index as u64, chunk), Ok(()));
            }
        }
    }

    #[test]
    fn refuses_wrong_bytes_lists_and_places() {
        let data = bytes(3 * CHUNK_BYTES as usize + 9);
        let mut hasher = BlobHasher::new();
        hasher.update(&data);
        let list = hasher.finish().expect("not empty");
        let first = &data[..CHUNK_BYTES as usize];
        assert_eq!(list.verify_chunk(1, first), Err(BlobError::WrongBytes(1)));
        assert_eq!(
            list.verify_chunk(0, &first[1..]),
            Err(BlobError::WrongBytes(0))
        );
        assert_eq!(list.verify_chunk(4, first), Err(BlobError::NoSuchChunk(4)));
        let mut hashes = list.hashes().to_vec();
        hashes.swap(0, 1);
        assert_eq!(
            HashList::verified(list.id(), list.size(), hashes),
            Err(BlobError::WrongHashList)
        );
        assert_eq!(
            HashList::verified(list.id(), 0, vec![]),
            Err(BlobError::Size)
        );
        assert_eq!(BlobHasher::new().finish(), Err(BlobError::Size));
    }

    #[test]
    fn counts_bytes_of_ranges_from_peers() {
        let size = 2 * CHUNK_BYTES + 5;
        assert_eq!(
            ranges_len(
                size,
                &[ChunkRange {
                    start: 1,
                    count: u64::MAX
                }]
            ),
            CHUNK_BYTES + 5
        );
        assert_eq!(
            ranges_len(
                size,
                &[ChunkRange {
                    start: u64::MAX,
                    count: 9
                }]
            ),
            0
        );
        assert_eq!(chunk_len(size, 2), Some(5));
        assert_eq!(chunk_len(size, 3), None);
    }
}
