//! Where a bundle's pieces come from: another home that has it whole, else the server. Each is verified before it is kept.

use super::driver::Driver;
use super::fetch::{Fetch, TakeError};
use super::store::{self, StoredUpdate};
use crate::link::ApiError;
use mantel_protocol::api::ProblemCode;
use mantel_protocol::words::size;
use mantel_runtime::db::DbError;
use mantel_runtime::files::blocking;
use mantel_runtime::logging::chain;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info, warn};

/// The pause after a piece did not come.
pub(super) const FETCH_AGAIN: Duration = Duration::from_secs(30);
/// The pause when the disk is full or refuses.
const DISK_AGAIN: Duration = Duration::from_mins(10);
/// The pause after wrong bytes: they will be wrong for a while.
const WRONG_AGAIN: Duration = Duration::from_hours(1);

/// What came of a step of fetching.
enum Piece {
    /// One was taken, or another source is tried.
    GoOn,
    /// The bundle is whole.
    AllHere,
}

/// Why a piece did not come to disk.
enum Hitch {
    Room { needed: u64, free: u64 },
    Disk(io::Error),
    Wrong(mantel_protocol::blob::BlobError),
    Server(ApiError),
}

/// What the household reads when the disk is full.
pub(super) fn no_room(version: mantel_protocol::update::Version, needed: u64, free: u64) -> String {
    format!(
        "There is no room for version {version}: {} are needed and {} are free. What is here is kept; remove \
         titles, then it goes on by itself.",
        size(needed),
        size(free)
    )
}

impl Driver {
    /// Fetches one piece, or ends the fetching.
    pub(super) async fn fetch(&mut self, update: &StoredUpdate) -> Result<Duration, DbError> {
        let version = update.it.version;
        let (pause, problem) = match self.piece(update).await {
            Ok(Piece::GoOn) => {
                self.problem = None;
                return Ok(Duration::ZERO);
            }
            Ok(Piece::AllHere) => {
                info!(%version, "an update's bundle is here, whole and right");
                self.fetch = None;
                self.problem = None;
                let parts = &self.inner.parts;
                store::note_whole(&parts.db, parts.exchange.is_direct()).await?;
                // The server learns with the next question that it is here.
                self.next.ask = Duration::ZERO;
                return Ok(Duration::ZERO);
            }
            Err(Hitch::Room { needed, free }) => (DISK_AGAIN, Some(no_room(version, needed, free))),
            Err(Hitch::Disk(error)) => {
                warn!(%version, %error, "an update cannot be written");
                self.fetch = None;
                let words = "The disk refused a part of it. It is tried again in 10 minutes.";
                (DISK_AGAIN, Some(words.to_owned()))
            }
            Err(Hitch::Wrong(error)) => {
                warn!(%version, error = %chain(&error), "the server sent wrong bytes of an update; they were not kept");
                let words = format!(
                    "What the server sent of version {version} is damaged, and was not kept. It is tried again in an hour; \
                     the operator can see to it."
                );
                (WRONG_AGAIN, Some(words))
            }
            Err(Hitch::Server(error)) => {
                debug!(%version, error = %chain(&error), "a piece of an update did not come");
                if error.code() == Some(ProblemCode::NotFound) {
                    self.next.ask = Duration::ZERO;
                }
                let words = "The server did not send the next part. It goes on by itself.";
                (FETCH_AGAIN, Some(words.to_owned()))
            }
        };
        self.next.fetch = self.after(pause);
        self.problem = problem;
        Ok(Duration::ZERO)
    }

    /// One piece.
    async fn piece(&mut self, update: &StoredUpdate) -> Result<Piece, Hitch> {
        let inner = Arc::clone(&self.inner);
        let fetch = match self.fetch.take() {
            Some((bundle, fetch)) if bundle == update.offer.bundle => fetch,
            _ => {
                let hashes = Arc::new(update.offer.hashes().map_err(Hitch::Wrong)?);
                let folder = inner.update_dir.clone();
                let opened = blocking(move || Fetch::open(&folder, hashes)).await;
                opened.map_err(Hitch::Disk)?
            }
        };
        let (hashes, done) = (fetch.hashes().clone(), fetch.bytes_done());
        let whole = hashes.size();
        let missing = fetch.missing();
        self.percent = done * 100 / whole;
        self.fetch = Some((update.offer.bundle, fetch));
        let Some((start, count)) = missing else {
            let Some((_, fetch)) = self.fetch.take() else {
                return Ok(Piece::AllHere);
            };
            self.homes.done().await;
            blocking(move || fetch.keep()).await.map_err(Hitch::Disk)?;
            return Ok(Piece::AllHere);
        };
        // The rest, and once more all of it: the system makes a copy of its own before it reads it.
        let (needed, free) = (whole - done + whole, inner.parts.library.free_bytes().await);
        if needed > free {
            return Err(Hitch::Room { needed, free });
        }
        let version = update.offer.version;
        let from_home = self
            .homes
            .piece(&inner.parts, version, &hashes, start)
            .await;
        let is_from_home = from_home.is_some();
        let bytes = if let Some(bytes) = from_home {
            bytes
        } else {
            let api = inner.parts.link.api().map_err(Hitch::Server)?;
            let bytes = api.bundle_piece(version, start, count).await;
            bytes.map_err(Hitch::Server)?
        };
        let Some((bundle, mut fetch)) = self.fetch.take() else {
            return Ok(Piece::GoOn);
        };
        let (fetch, taken) = blocking(move || {
            let taken = fetch.take(&bytes);
            Ok((fetch, taken))
        })
        .await
        .map_err(Hitch::Disk)?;
        self.percent = fetch.bytes_done() * 100 / whole;
        self.fetch = Some((bundle, fetch));
        match taken {
            Ok(()) if is_from_home => {
                self.homes.took(count);
                Ok(Piece::GoOn)
            }
            Ok(()) => Ok(Piece::GoOn),
            Err(TakeError::Wrong(error)) if is_from_home => {
                self.homes.was_wrong(&error);
                Ok(Piece::GoOn)
            }
            Err(TakeError::Wrong(error)) => Err(Hitch::Wrong(error)),
            Err(TakeError::Disk(error)) => Err(Hitch::Disk(error)),
        }
    }
}
