//! An update's bundle from home to home (F65): given to those who show the server's [`SeedGrant`], and fetched from the
//! first home that answers. The chunk protocol and the listener are those of deliveries; the relay is not used, since
//! the server would send the same bytes that it sends as well by itself.

use super::dial::{ChunkStream, FetchError, connect_direct};
use super::serve::BlobSource;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mantel_protocol::api::{MAX_SEEDS, SeedOffer};
use mantel_protocol::blob::{ChunkRange, HashList, chunk_count};
use mantel_protocol::chunk::Refusal;
use mantel_protocol::grant::SeedGrant;
use mantel_protocol::key::{DeviceId, SigningKey};
use mantel_protocol::token::peek_unverified;
use mantel_runtime::files::blocking;
use mantel_runtime::logging::chain;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::debug;

/// How long the homes that are asked have together until one has accepted.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// How long a chunk may take: at 140 kbit/s the server is the better source.
const CHUNK_LIMIT: Duration = Duration::from_mins(1);

/// Whether nothing is going on in this home that sending would disturb.
type IsQuiet = Box<dyn Fn() -> bool + Send + Sync>;

/// A bundle that this home has whole and gives to others.
pub struct Seed {
    hashes: HashList,
    file: Arc<File>,
    is_quiet: IsQuiet,
}

impl Seed {
    /// The file at `path`. Its bytes are not checked here: who receives them does, by the same hashes.
    pub fn open(path: &Path, hashes: HashList, is_quiet: IsQuiet) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() != hashes.size() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            hashes,
            file: Arc::new(file),
            is_quiet,
        })
    }

    pub(super) fn permit(&self) -> Result<(), Refusal> {
        if (self.is_quiet)() {
            Ok(())
        } else {
            Err(Refusal::Busy)
        }
    }
}

impl BlobSource for Seed {
    fn hashes(&self) -> &HashList {
        &self.hashes
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        blocking(move || {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        })
        .await
    }
}

/// A bundle's chunks from another home, one after the other up to the last; not verified yet.
pub struct BundleStream {
    stream: ChunkStream,
    sender: DeviceId,
}

impl BundleStream {
    /// Whose gateway sends.
    pub fn sender(&self) -> DeviceId {
        self.sender
    }

    /// The next chunk.
    pub async fn next(&mut self) -> Result<(u64, Vec<u8>), FetchError> {
        let next = timeout(CHUNK_LIMIT, self.stream.next(Vec::new())).await;
        next.unwrap_or_else(|_| Err(FetchError::Lost(io::ErrorKind::TimedOut.into())))
    }

    /// All that was wanted is here.
    pub async fn done(self) {
        self.stream.done().await;
    }
}

/// Asks all homes at once; the first that accepts sends.
pub(super) async fn open_first(
    key: &SigningKey,
    seeds: &[SeedOffer],
    hashes: &HashList,
    first: u64,
    without: &BTreeSet<DeviceId>,
) -> Option<BundleStream> {
    let mut attempts: FuturesUnordered<_> = seeds
        .iter()
        .take(MAX_SEEDS)
        .filter_map(|seed| {
            // Ours to show, not to judge: the home that is asked verifies it.
            let grant: SeedGrant = peek_unverified(&seed.grant).ok()?;
            let wanted = grant.bundle == hashes.id() && !without.contains(&grant.sender);
            wanted.then(|| open(key, seed, grant.sender, hashes, first))
        })
        .collect();
    let opening = async {
        while let Some(attempt) = attempts.next().await {
            if attempt.is_some() {
                return attempt;
            }
        }
        None
    };
    timeout(OPEN_LIMIT, opening).await.ok().flatten()
}

async fn open(
    key: &SigningKey,
    seed: &SeedOffer,
    sender: DeviceId,
    hashes: &HashList,
    first: u64,
) -> Option<BundleStream> {
    let mut stream = match connect_direct(key, sender, &seed.addresses).await {
        Ok(stream) => stream,
        Err(error) => {
            debug!(%sender, error = %chain(&error), "a home that has the bundle was not reached");
            return None;
        }
    };
    let rest = ChunkRange {
        start: first,
        count: chunk_count(hashes.size()).saturating_sub(first),
    };
    let greeting = async {
        stream
            .hello_for(&seed.grant, hashes.id(), hashes.size())
            .await?;
        stream.want(&[rest]).await
    };
    match greeting.await {
        Ok(()) => Some(BundleStream { stream, sender }),
        Err(error) => {
            debug!(%sender, error = %chain(&error), "a home does not give its bundle now");
            None
        }
    }
}
