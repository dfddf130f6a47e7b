//! MPD, the Music Player Daemon: a jukebox with a library, a queue and outputs (F2, F63; MPD protocol 0.21 and later).
//!
//! - `wire`: answers into types; pure.
//! - `session`: one connection per exchange, with a limit on everything.
//! - `source`: its library as a [`MediaSource`](crate::MediaSource). MPD gives no files, only pictures, so a jukebox
//!   has [`Capability::ListMedia`](crate::Capability::ListMedia) without `FetchAsset`.
//! - `player`: as a [`Renderer`](crate::Renderer) of the household's titles. `library`: playing its own.
//!
//! # The household's queue is kept
//!
//! A title is put into the queue after the current song, never in place of it. Its URL carries what was going on
//! before (`mantel-back=SONG.MS.STATE.MODES`, see [`wire::Back`]), so that the way back survives a restart of the
//! gateway: at the title's end, or when it is stopped, it is taken out of the queue and the song before it is put back
//! to its place; it goes on after the title's end, and waits, paused, after a stop.
//!
//! # Limits
//!
//! Crate mpd_client brings the framing. It bounds neither line, answer nor time, and its typed answers and its client
//! panic or grow on some input, so only its connection is used: on a stream that ends at
//! [`session::MAX_LINE_BYTES`], [`session::MAX_ANSWER_LINES`] or [`session::MAX_ANSWER_BYTES`], under
//! [`session::EXCHANGE_TIME`], and with answers read by `wire`.
//!
//! What changes on the jukebox itself is told by `idle` ([`Jukebox::changes`]), at most so often as
//! [`session::TELL_PAUSE`].

mod library;
mod player;
pub mod session;
mod source;
#[cfg(test)]
mod tests;
pub mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::time::sleep;

use crate::changes::{Changes, Teller};
use session::{TELL_AGAIN, TELL_PAUSE};

pub use library::{Output, QUEUE_SHOWN, Queue, QueueEntry};

/// How to reach an MPD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpdAccess {
    /// Where it listens.
    pub address: SocketAddr,
}

/// The household's password for a jukebox. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<str>);

impl Password {
    /// A password as a person typed it; `None` when empty, too long for MPD (1,000 bytes) or with control characters,
    /// which MPD cannot take.
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= 1000 && !text.chars().any(char::is_control);
        fits.then(|| Self(text.into()))
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// One jukebox: its library, its queue and its player. Cheap to clone; holds no connection. Clones share what was
/// loaded into the player.
#[derive(Clone, Debug)]
pub struct Jukebox {
    name: String,
    access: MpdAccess,
    password: Option<Password>,
    playing: Arc<Mutex<player::Playing>>,
}

impl Jukebox {
    /// A jukebox that was found; `name` is for messages.
    pub fn new(name: String, access: MpdAccess) -> Self {
        Self {
            name,
            access,
            password: None,
            playing: Arc::default(),
        }
    }

    /// The same with the household's password.
    #[must_use]
    pub fn with_password(mut self, password: Option<Password>) -> Self {
        self.password = password;
        self
    }

    /// The name that it gives itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is done at the jukebox itself, from now on (`idle`).
    pub fn changes(&self) -> Changes {
        let jukebox = self.clone();
        Changes::by(move |teller, stop| async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = jukebox.tell(&teller) => {}
            }
        })
    }

    async fn tell(&self, teller: &Teller) {
        loop {
            if let Ok(mut link) = self.link().await {
                while let Ok(found) = link.idle().await {
                    for change in found {
                        teller.tell(change);
                    }
                    sleep(TELL_PAUSE).await;
                }
            }
            sleep(TELL_AGAIN).await;
        }
    }

    async fn link(&self) -> Result<session::Link, session::MpdError> {
        session::Link::open(self.access.address, self.password.as_ref()).await
    }
}
