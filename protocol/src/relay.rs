//! Admission to the relay (F8): how two gateways that cannot reach each other meet at the server.
//!
//! Each gateway opens TCP to the relay and TLS 1.3 with raw public keys (RFC 7250): the relay shows the server's
//! signing key, the gateway its device key. Inside TLS the gateway sends one [`Admission`] frame (framing as in
//! [`crate::chunk`]); the relay checks the grant and that the device is its sender or receiver, and answers
//! [`Welcome`]. When both sides are there, each gets `Joined`, sends the raw byte [`GO`] *outside* TLS, and from then on the
//! relay only splices: the two gateways speak the chunk protocol in their own TLS, which the relay cannot read.
//! (TLS around the admission hides grants from the network and makes a sniffed one useless. The relay sends no session
//! tickets, and nothing at all between `Joined` and `GO`, so no TLS byte is left over when the raw stream begins.)

use serde::{Deserialize, Serialize};

/// This protocol's version.
pub const RELAY_PROTOCOL: u16 = 1;
/// ALPN (RFC 7301) of the admission.
pub const RELAY_ALPN: &[u8] = b"mantel-relay/1";
/// The longest admission frame, bytes.
pub const MAX_ADMISSION_FRAME: usize = 64 * 1024;
/// The raw byte that ends the admission.
pub const GO: u8 = 0x47;
/// How long one side waits for the other before the relay lets go, seconds.
pub const JOIN_WAIT_S: u64 = 30;

/// What a gateway shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// [`RELAY_PROTOCOL`].
    pub version: u16,
    /// The [`crate::grant::Grant`] token. The device's key tells which side it is on.
    pub grant: String,
}

/// What the relay answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Both sides are there; send [`GO`].
    Joined,
    /// No.
    Refused(RelayRefusal),
}

/// Why the relay refuses; Display is for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RelayRefusal {
    /// Forged, altered, or for another server.
    #[error("the relay did not accept the grant: it is forged or altered")]
    Forged,
    /// Its time is over.
    #[error("the grant has expired")]
    Expired,
    /// The device is neither sender nor receiver.
    #[error("the grant is for other homes")]
    NotYours,
    /// The bytes that it allows were relayed already.
    #[error("the grant has been used")]
    Used,
    /// The server ended it: order cancelled, account suspended, a newer grant issued.
    #[error("the delivery was stopped by the server")]
    Revoked,
    /// The other home did not come in time.
    #[error("the other home did not answer; it may be switched off")]
    NoPeer,
    /// Not an admission.
    #[error("the relay did not understand this gateway; update it")]
    Protocol,
    /// The relay is full.
    #[error("the relay is busy; the transfer will start by itself")]
    Busy,
}
