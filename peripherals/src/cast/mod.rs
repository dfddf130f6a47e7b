//! Google Cast: televisions and loudspeakers as players (F63; Cast V2: TLS, protobuf frames, JSON inside).
//!
//! - `wire`: JSON of the channels into types and back; pure.
//! - `session`: the connection, on a thread of its own since crate rust_cast blocks; frames, time and counts bounded.
//! - `player`: the adapter, over the default media receiver (application `CC1AD845`), which fetches a URL itself.
//!
//! # What is trusted, and what is told
//!
//! A Cast device shows a certificate that it signed itself, for no name, made anew every few days: there is nothing to
//! check it against without Google's own device authority, which simulators and many licensed devices fail as well. So
//! any certificate is accepted (its key is proven by the handshake), and TLS here hides from bystanders, not from
//! somebody who plays the device. Nothing secret is sent therefore: the title's name and a media URL, which opens one
//! title, for the device's own address only, for as long as it plays.
//!
//! # Limits
//!
//! Crate rust_cast reads a length and allocates it, up to 4 GiB, and keeps every message that nobody waits for. Only
//! its framing is used, on a stream that ends at [`session::MAX_MESSAGE_BYTES`] a message and
//! [`session::MAX_MESSAGES`] a request, with one deadline for a whole request however slowly it trickles.

mod player;
pub mod session;
#[cfg(test)]
mod tests;
pub mod wire;

use std::net::SocketAddr;

pub use player::CastPlayer;

/// Whether a Cast device shows pictures (its announcement's `ca`, bit 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// A television or a display.
    Yes,
    /// A loudspeaker.
    No,
}

/// How to reach a Cast device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CastAccess {
    /// Where it listens; 8009 but for groups of loudspeakers.
    pub address: SocketAddr,
    /// Whether it shows pictures.
    pub screen: Screen,
}
