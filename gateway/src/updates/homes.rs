//! Other homes that give a bundle, and what this home gives. The server names homes that have it; the first that answers
//! is taken, without the relay. What comes from a home is not trusted: the caller verifies each piece, and a home that
//! sent a wrong one is left out from then on.

use super::fetch::bundle_in;
use super::quiet;
use super::{Inner, Parts};
use crate::exchange::{BundleStream, Seed};
use mantel_protocol::api::UpdateOffer;
use mantel_protocol::blob::{BlobError, CHUNK_BYTES, HashList};
use mantel_protocol::key::DeviceId;
use mantel_protocol::update::Version;
use mantel_runtime::files::blocking;
use mantel_runtime::logging::chain;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tracing::{debug, info, warn};

/// The pause after no home gave a piece; the server gives them meanwhile.
const LOOK_AGAIN: Duration = Duration::from_mins(2);

/// The homes from which one bundle comes.
#[derive(Default)]
pub(super) struct Homes {
    stream: Option<BundleStream>,
    /// Homes that sent wrong bytes of it.
    wrong: BTreeSet<DeviceId>,
    /// When homes are looked for again, by the monotonic clock.
    next: Duration,
    /// Pieces that came on the stream.
    came: u64,
    /// Bytes that came from homes and were right.
    bytes: u64,
}

impl Homes {
    /// Bytes that came from homes and were right.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The piece from `start`, not verified; `None`: no home gives it now.
    pub(super) async fn piece(
        &mut self,
        parts: &Parts,
        version: Version,
        hashes: &HashList,
        start: u64,
    ) -> Option<Vec<u8>> {
        let (wanted, now) = (start / CHUNK_BYTES, parts.clock.monotonic());
        if self.stream.is_none() && now >= self.next {
            self.next = now + LOOK_AGAIN;
            self.came = 0;
            self.stream = self.open(parts, version, hashes, wanted).await;
        }
        let stream = self.stream.as_mut()?;
        match stream.next().await {
            Ok((index, bytes)) if index == wanted => {
                self.came += 1;
                return Some(bytes);
            }
            Ok((index, _)) => debug!(index, wanted, "another piece than the one that is due"),
            Err(error) => {
                debug!(home = %stream.sender(), error = %chain(&error), "a home stopped giving");
            }
        }
        self.stream = None;
        if self.came > 0 {
            // It was worth it: perhaps its grant ended, or its household began to play something.
            self.next = Duration::ZERO;
        }
        None
    }

    async fn open(
        &self,
        parts: &Parts,
        version: Version,
        hashes: &HashList,
        first: u64,
    ) -> Option<BundleStream> {
        if !parts.exchange.is_direct() {
            return None;
        }
        let seeds = match parts.link.api().ok()?.update_seeds(version).await {
            Ok(seeds) => seeds,
            Err(error) => {
                debug!(error = %chain(&error), "the server named no homes");
                return None;
            }
        };
        let stream = parts
            .exchange
            .fetch_bundle(&seeds, hashes, first, &self.wrong)
            .await?;
        info!(%version, home = %stream.sender(), first, "an update comes from another home");
        Some(stream)
    }

    /// The piece was right.
    pub(super) fn took(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// The piece was wrong: its home is left out, and another one looked for at once.
    pub(super) fn was_wrong(&mut self, error: &BlobError) {
        if let Some(stream) = self.stream.take() {
            let home = stream.sender();
            warn!(%home, %error, "another home sent wrong bytes of an update; they were not kept");
            self.wrong.insert(home);
            self.next = Duration::ZERO;
        }
    }

    /// All pieces are here.
    pub(super) async fn done(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.done().await;
        }
    }
}

/// The bundle that is here, to be given to other homes while nothing goes on in this one.
pub(super) async fn seed(inner: &Arc<Inner>, offer: &UpdateOffer) -> io::Result<Seed> {
    let hashes = offer
        .hashes()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let path = bundle_in(&inner.update_dir);
    let weak: Weak<Inner> = Arc::downgrade(inner);
    let is_quiet = move || {
        weak.upgrade()
            .is_some_and(|inner| quiet::busy(&inner.parts).is_none())
    };
    blocking(move || Seed::open(&path, hashes, Box::new(is_quiet))).await
}
