//! What goes into the machine of [`super::fetch`] and what comes out.

use mantel_protocol::blob::ChunkRange;
use mantel_protocol::receipt::Path;
use std::time::Duration;

/// A source: an index that the driver gives a meaning.
pub type SourceId = usize;
/// A connection: a number never used again.
pub type ConnectionId = u64;

/// Which paths may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// Direct first, else the relay.
    Any,
    /// Direct only.
    Direct,
    /// The relay only.
    Relay,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A source's grant came.
    Granted {
        /// Whose.
        source: SourceId,
        /// What it covers.
        chunks: Vec<ChunkRange>,
        /// Whether there is an address to try.
        reachable: bool,
        /// When it ends, by the machine's clock.
        expires: Duration,
    },
    /// A source's grant did not come; it may later.
    NotGranted {
        /// Whose.
        source: SourceId,
        /// Why, for a person.
        why: String,
    },
    /// A source's grant will never come: the order is over.
    NeverGranted {
        /// Whose.
        source: SourceId,
    },
    /// A dialled connection is open, greeted and has shown the blob's hash list.
    Opened {
        /// Which.
        connection: ConnectionId,
    },
    /// A dialled connection did not open.
    NotOpened {
        /// Which.
        connection: ConnectionId,
        /// Why, for a person.
        why: String,
    },
    /// A chunk is verified and written.
    Arrived {
        /// On which connection.
        connection: ConnectionId,
        /// Which.
        index: u64,
    },
    /// Bytes or a hash list were wrong.
    Wrong {
        /// On which connection.
        connection: ConnectionId,
    },
    /// An open connection ended, or the sender refused.
    Lost {
        /// Which.
        connection: ConnectionId,
        /// Why, for a person.
        why: String,
    },
    /// There is no room for the rest.
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// There is room again.
    Room,
    /// The server is reached again, or something else makes a try worthwhile at once.
    Nudge,
    /// Time went by.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the server for a grant.
    AskGrant {
        /// From which source.
        source: SourceId,
        /// For what.
        chunks: Vec<ChunkRange>,
    },
    /// Open a connection with the source's newest grant.
    Dial {
        /// What to call it.
        connection: ConnectionId,
        /// To which source.
        source: SourceId,
        /// Which way.
        path: Path,
    },
    /// Ask for chunks.
    Want {
        /// On which connection.
        connection: ConnectionId,
        /// Which.
        range: ChunkRange,
    },
    /// Say that all has come, and close.
    Done {
        /// Which connection.
        connection: ConnectionId,
    },
    /// Close at once.
    Drop {
        /// Which connection.
        connection: ConnectionId,
    },
    /// See whether there is room now; answer with [`Event::Room`] or [`Event::NoRoom`].
    CheckRoom,
    /// Tell people what is wrong, or that nothing is any more.
    Tell(Option<Trouble>),
    /// Every chunk is here.
    Finish,
    /// No source will ever grant the rest.
    GiveUp,
}

/// What is wrong, for a person; all of it passes by itself once its cause is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// No connection or no grant.
    #[error("{0}. What arrived is kept; it is tried again by itself")]
    NoWay(String),
    /// Wrong bytes, again and again.
    #[error(
        "the sending home sent wrong bytes {0} times; they were thrown away and nothing is charged for them. It is \
             tried again every few minutes; cancel the order to stop"
    )]
    WrongBytes(u32),
    /// The disk is full.
    #[error("the disk is full: {} MB are needed, {} MB are free. What arrived is kept; the transfer goes on by itself \
             when there is room", .needed.div_ceil(1_000_000), .free / 1_000_000)]
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
}
