//! Sealed media at rest and under way (F26, DESIGN §4): AEAD in 64 KiB records, openable by range.
//!
//! Layout: a 32-byte header, then records. Each record seals up to [`RECORD_BYTES`] of plaintext and adds a 16-byte
//! tag. The nonce is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015): 7 random bytes from the
//! header | 32-bit big-endian counter | 1 byte that is 1 on the last record only. So records cannot be reordered,
//! dropped or cut off at the end unnoticed. The header is every record's associated data. One random key per blob.
//!
//! ```text
//! 0        8     9          10            17                32
//! | MANTEL01 | alg | log2(rec) | nonce prefix | zero ........ | record 0 | record 1 | …
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Plaintext bytes per record.
pub const RECORD_BYTES: usize = 64 * 1024;
/// Authentication tag per record, bytes.
pub const TAG_BYTES: usize = 16;
/// The header, bytes.
pub const HEADER_BYTES: usize = 32;
/// The most records that the 32-bit counter numbers.
const MAX_RECORDS: u64 = 1 << 32;

const MAGIC: &[u8; 8] = b"MANTEL01";
const RECORD_LOG2: u8 = 16;
const SEALED_RECORD_BYTES: u64 = (RECORD_BYTES + TAG_BYTES) as u64;

/// Which AEAD seals a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cipher {
    /// RFC 8439; the default: fast without AES instructions.
    #[default]
    ChaCha20Poly1305,
    /// NIST SP 800-38D; faster where the processor has AES instructions.
    Aes256Gcm,
}

/// A blob's content key: 32 secret bytes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut key = [0u8; 32];
        aws_lc_rs::rand::fill(&mut key).expect("the operating system gives random bytes");
        Self(key)
    }

    /// The key of stored or unsealed bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        <[u8; 32]>::try_from(bytes)
            .map(Self)
            .map_err(|_| SealError::Key)
    }

    /// The bytes, to be sealed again by another key.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why sealing or opening failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a sealed blob, or of a version that this program does not know.
    #[error("this is not a sealed blob that this version can open")]
    Header,
    /// The key has the wrong length.
    #[error("the content key is damaged")]
    Key,
    /// The key is wrong, or the bytes were altered.
    #[error("record {0} does not open: wrong key, or the bytes were altered")]
    Record(u64),
    /// More than 256 TiB in one blob.
    #[error("a sealed blob holds at most 256 TiB")]
    TooLong,
}

/// The sealed size of `plain` bytes. Nothing seals to a header and one empty record.
pub fn sealed_len(plain: u64) -> u64 {
    let records = plain.div_ceil(RECORD_BYTES as u64).max(1);
    HEADER_BYTES as u64 + plain + records * TAG_BYTES as u64
}

/// The plaintext size of a blob of `sealed` bytes; `None` if no plaintext seals to that size.
pub fn plain_len(sealed: u64) -> Option<u64> {
    let body = sealed.checked_sub(HEADER_BYTES as u64)?;
    let records = body.div_ceil(SEALED_RECORD_BYTES);
    let plain = body.checked_sub(records * TAG_BYTES as u64)?;
    (records > 0 && sealed_len(plain) == sealed).then_some(plain)
}

struct RecordCipher {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
}

impl RecordCipher {
    fn new(key: &ContentKey, header: [u8; HEADER_BYTES]) -> Result<Self, SealError> {
        let algorithm = match header[8] {
            1 => &CHACHA20_POLY1305,
            2 => &AES_256_GCM,
            _ => return Err(SealError::Header),
        };
        let key = UnboundKey::new(algorithm, &key.0).map_err(|_| SealError::Key)?;
        Ok(Self {
            key: LessSafeKey::new(key),
            header,
        })
    }

    fn nonce(&self, record: u64, last: bool) -> Nonce {
        let mut nonce = [0u8; 12];
        nonce[..7].copy_from_slice(&self.header[10..17]);
        nonce[7..11].copy_from_slice(&(record as u32).to_be_bytes());
        nonce[11] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals a stream: give it [`RECORD_BYTES`] at a time, the rest as the last record.
pub struct Sealer {
    cipher: RecordCipher,
    next: u64,
}

impl Sealer {
    /// A sealer with a fresh nonce prefix. `key` must be new: one key per blob.
    pub fn new(key: &ContentKey, cipher: Cipher) -> Self {
        let mut header = [0u8; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8] = match cipher {
            Cipher::ChaCha20Poly1305 => 1,
            Cipher::Aes256Gcm => 2,
        };
        header[9] = RECORD_LOG2;
        aws_lc_rs::rand::fill(&mut header[10..17])
            .expect("the operating system gives random bytes");
        let cipher = RecordCipher::new(key, header).expect("the header names a known cipher");
        Self { cipher, next: 0 }
    }

    /// Goes on with a blob that was begun by an earlier run: `header` are its first 32 bytes, `next` is the number of its
    /// records. The caller must not have shown a record `next` or later to anybody: its nonce is used again.
    pub fn resume(
        key: &ContentKey,
        header: [u8; HEADER_BYTES],
        next: u64,
    ) -> Result<Self, SealError> {
        check_header(&header)?;
        let cipher = RecordCipher::new(key, header)?;
        Ok(Self { cipher, next })
    }

    /// The blob's first 32 bytes.
    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        &self.cipher.header
    }

    /// Seals the next record in place: `record` holds plaintext and gets its tag appended. Every record but the last
    /// must hold exactly [`RECORD_BYTES`].
    pub fn seal_record(&mut self, record: &mut Vec<u8>, last: Last) -> Result<(), SealError> {
        debug_assert!(
            last == Last::Yes || record.len() == RECORD_BYTES,
            "short record inside a blob"
        );
        if self.next >= MAX_RECORDS {
            return Err(SealError::TooLong);
        }
        let nonce = self.cipher.nonce(self.next, last == Last::Yes);
        self.cipher
            .key
            .seal_in_place_append_tag(nonce, Aad::from(self.cipher.header), record)
            .map_err(|_| SealError::Record(self.next))?;
        self.next += 1;
        Ok(())
    }
}

fn check_header(header: &[u8; HEADER_BYTES]) -> Result<(), SealError> {
    let known = header[..8] == MAGIC[..] && header[9] == RECORD_LOG2 && header[17..] == [0; 15];
    known.then_some(()).ok_or(SealError::Header)
}

/// Whether a record is the blob's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It ends the blob.
    Yes,
    /// More follow.
    No,
}

/// Opens records of a sealed blob, in any order.
pub struct Opener {
    cipher: RecordCipher,
    plain_len: u64,
}

/// Where a record lies: what to read from the blob, to open with [`Opener::open_record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordAt {
    /// Its number.
    pub record: u64,
    /// Its first byte in the sealed blob.
    pub sealed_offset: u64,
    /// Its sealed length.
    pub sealed_len: usize,
}

impl Opener {
    /// An opener for a blob of `sealed_len` bytes that begins with `header`.
    pub fn new(key: &ContentKey, header: &[u8], sealed_len: u64) -> Result<Self, SealError> {
        let header = <[u8; HEADER_BYTES]>::try_from(header).map_err(|_| SealError::Header)?;
        check_header(&header)?;
        let plain_len = plain_len(sealed_len).ok_or(SealError::Header)?;
        Ok(Self {
            cipher: RecordCipher::new(key, header)?,
            plain_len,
        })
    }

    /// How many bytes the plaintext has.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// The record that holds plaintext byte `offset`.
    pub fn record_at(&self, offset: u64) -> RecordAt {
        let record = offset / RECORD_BYTES as u64;
        let plain_start = record * RECORD_BYTES as u64;
        let plain = self
            .plain_len
            .saturating_sub(plain_start)
            .min(RECORD_BYTES as u64);
        RecordAt {
            record,
            sealed_offset: HEADER_BYTES as u64 + record * SEALED_RECORD_BYTES,
            sealed_len: plain as usize + TAG_BYTES,
        }
    }

    /// Opens one record in place and returns its plaintext.
    pub fn open_record<'a>(
        &self,
        record: u64,
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], SealError> {
        let last = (record + 1) * RECORD_BYTES as u64 >= self.plain_len;
        self.cipher
            .key
            .open_in_place(
                self.cipher.nonce(record, last),
                Aad::from(self.cipher.header),
                sealed,
            )
            .map(|plain| &*plain)
            .map_err(|_| SealError::Record(record))
    }
}

/// Seals bytes that are in memory whole (a thumbnail, a small file).
pub fn seal(key: &ContentKey, cipher: Cipher, plain: &[u8]) -> Vec<u8> {
    let mut sealer = Sealer::new(key, cipher);
    let mut out = sealer.header().to_vec();
    let records = plain.len().div_ceil(RECORD_BYTES).max(1);
    for index in 0..records {
        let end = plain.len().min((index + 1) * RECORD_BYTES);
        let mut record = plain[index * RECORD_BYTES..end].to_vec();
        let last = if index + 1 == records {
            Last::Yes
        } else {
            Last::No
        };
        sealer
            .seal_record(&mut record, last)
            .expect("what fits in memory has fewer than 2^32 records");
        out.extend_from_slice(&record);
    }
    out
}

/// Opens what [`seal`] made.
pub fn open(key: &ContentKey, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let header = sealed.get(..HEADER_BYTES).ok_or(SealError::Header)?;
    let opener = Opener::new(key, header, sealed.len() as u64)?;
    let mut plain = Vec::with_capacity(opener.plain_len() as usize);
    let mut offset = 0;
    loop {
        let at = opener.record_at(offset);
        let start = at.sealed_offset as usize;
        let mut record = sealed
            .get(start..start + at.sealed_len)
            .ok_or(SealError::Header)?
            .to_vec();
        plain.extend_from_slice(opener.open_record(at.record, &mut record)?);
        offset += RECORD_BYTES as u64;
        if offset >= opener.plain_len() {
            return Ok(plain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_and_opens_every_boundary_size_with_both_ciphers() {
        let data: Vec<u8> = (0..3 * RECORD_BYTES + 9).map(|i| (i % 253) as u8).collect();
        for cipher in [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm] {
            for len in [
                0,
                1,
                RECORD_BYTES - 1,
                RECORD_BYTES,
                RECORD_BYTES + 1,
                2 * RECORD_BYTES,
                data.len(),
            ] {
                let key = ContentKey::generate();
                let sealed = seal(&key, cipher, &data[..len]);
                assert_eq!(sealed.len() as u64, sealed_len(len as u64));
                assert_eq!(plain_len(sealed.len() as u64), Some(len as u64));
                assert_eq!(open(&key, &sealed).as_deref(), Ok(&data[..len]), "{len}");
                assert!(open(&ContentKey::generate(), &sealed).is_err());
            }
        }
    }

    #[test]
    fn notices_truncation_reordering_and_flipped_bits() {
        let key = ContentKey::generate();
        let sealed = seal(&key, Cipher::default(), &vec![5u8; 2 * RECORD_BYTES]);
        let record = RECORD_BYTES + TAG_BYTES;
        assert!(
            open(&key, &sealed[..HEADER_BYTES + record]).is_err(),
            "cut after a whole record"
        );
        let mut swapped = sealed[..HEADER_BYTES].to_vec();
        swapped.extend_from_slice(&sealed[HEADER_BYTES + record..]);
        swapped.extend_from_slice(&sealed[HEADER_BYTES..HEADER_BYTES + record]);
        assert!(open(&key, &swapped).is_err());
        for position in [8, 9, 12, 20, 40, sealed.len() - 1] {
            let mut flipped = sealed.clone();
            flipped[position] ^= 1;
            assert!(open(&key, &flipped).is_err(), "byte {position}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_blobs_never_panic(bytes in proptest::collection::vec(0u8.., 0..200), sealed in 0u64..) {
            let key = ContentKey::generate();
            assert!(open(&key, &bytes).is_err());
            let mut header = bytes.clone();
            header.resize(HEADER_BYTES, 0);
            let _ = Opener::new(&key, &header, sealed).map(|opener| opener.record_at(sealed));
        }
    }
}
