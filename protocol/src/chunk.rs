//! The chunk protocol: how one gateway fetches chunks of a blob from another (F22), on any path. Both ends have
//! authenticated each other's device keys by TLS 1.3 with raw public keys (RFC 7250) before the first frame.
//!
//! ```text
//! receiver                              sender
//!    Hello { grant }            ─────▶   checks signature, keys, time, what was sent before
//!                               ◀─────   Accept { hashes } | Refuse { … }
//!    Want { ranges }            ─────▶   (may be sent ahead: a window of chunks is under way)
//!                               ◀─────   Chunk { index, len }, then len raw bytes
//!    Done                       ─────▶
//! ```
//! A frame is a u32 little-endian length and that many bytes of postcard (v1). Raw chunk bytes follow a `Chunk` frame
//! unframed. Either side may close; the receiver keeps whole chunks and asks for a grant for the rest.

use crate::blob::{CHUNK_BYTES, ChunkRange, MAX_BLOB_BYTES};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// This protocol's version.
pub const CHUNK_PROTOCOL: u16 = 1;
/// ALPN (RFC 7301) of the TLS connection between gateways.
pub const CHUNK_ALPN: &[u8] = b"mantel-chunk/1";
/// The longest frame from a receiver, bytes: a grant token, or a list of ranges.
pub const MAX_REQUEST_FRAME: usize = 64 * 1024;
/// The longest frame from a sender, bytes: the hash list of the largest blob.
pub const MAX_ANSWER_FRAME: usize = (MAX_BLOB_BYTES / CHUNK_BYTES) as usize * 32 + 64;

/// What a receiver says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens the exchange.
    Hello {
        /// [`CHUNK_PROTOCOL`].
        version: u16,
        /// The [`crate::grant::Grant`] token.
        grant: String,
    },
    /// Asks for chunks, in this order.
    Want {
        /// Which.
        ranges: Vec<ChunkRange>,
    },
    /// All that was wanted has come; the sender may close.
    Done,
}

/// What a sender says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The grant is good.
    Accept {
        /// The blob's chunk hashes, for [`crate::blob::HashList::verified`].
        hashes: Vec<[u8; 32]>,
    },
    /// Nothing (more) will be sent.
    Refuse(Refusal),
    /// A chunk; `len` raw bytes follow.
    Chunk {
        /// Which.
        index: u64,
        /// How many bytes follow.
        len: u32,
    },
}

/// Why a sender sends nothing; Display is for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The signature does not fit.
    #[error("the sending home did not accept the grant: it is forged or altered")]
    Forged,
    /// Its time is over (or has not come).
    #[error("the grant has expired")]
    Expired,
    /// It names another sender or receiver than those on this connection.
    #[error("the grant is for other homes")]
    NotYours,
    /// What it allows was sent already.
    #[error("the grant has been used")]
    Used,
    /// The server or the sending household ended it.
    #[error("the delivery was stopped")]
    Revoked,
    /// The sender has no such blob.
    #[error("the sending home no longer has this title")]
    NotHere,
    /// A restriction that the sender's gateway knows forbids it.
    #[error("a restriction set at the server forbids this delivery")]
    Restricted,
    /// The sender cannot read its copy.
    #[error("the sending home cannot read its copy")]
    Unreadable,
    /// A version or message that the sender does not know.
    #[error("the two gateways do not understand each other; update both")]
    Protocol,
    /// As many transfers as it serves are under way.
    #[error("the sending home is busy; the transfer will start by itself")]
    Busy,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side sent something that is no message of this protocol")]
pub struct FrameError;

/// A frame: length and message.
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    let body = postcard::to_stdvec(message).expect("messages are plain data");
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

/// The message in a frame's body (without its length).
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    postcard::from_bytes(body).map_err(|_| FrameError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip() {
        let wanted = Request::Want {
            ranges: vec![ChunkRange { start: 3, count: 9 }],
        };
        let frame = encode(&wanted);
        assert_eq!(
            frame.len(),
            4 + u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize
        );
        assert_eq!(decode::<Request>(&frame[4..]), Ok(wanted));
        let answer = Answer::Accept {
            hashes: vec![[7; 32]; 3],
        };
        assert_eq!(decode::<Answer>(&encode(&answer)[4..]), Ok(answer));
    }

    proptest::proptest! {
        #[test]
        fn hostile_frames_never_panic(body in proptest::collection::vec(0u8.., 0..300)) {
            let _ = decode::<Request>(&body);
            let _ = decode::<Answer>(&body);
        }
    }
}
