//! Mantel under measurement: the gateway's own sender and receiver, and the server's own relay, each a process.

use super::part::{Meter, Ready, told_to_stop};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use jiff::Timestamp;
use mantel_gateway::exchange::dial::{ChunkSink, RelayPoint, connect_direct, connect_relay};
use mantel_gateway::exchange::serve::{BlobSource, ChunkServer, Keeper, SCHEMA};
use mantel_protocol::blob::{BlobError, BlobHasher, BlobId, CHUNK_BYTES, HashList};
use mantel_protocol::chunk::Refusal;
use mantel_protocol::grant::{AnyGrant, Grant};
use mantel_protocol::key::{DeviceId, ServerKey, SigningKey};
use mantel_protocol::token;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use mantel_runtime::tasks::Tasks;
use mantel_server::relay::{KeyOnly, RelayConfig};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

/// The blob is this much noise, over and over: more than the caches hold, less than the memory.
const NOISE_BYTES: u64 = 64 * CHUNK_BYTES;
/// The receiver's file is synced after so many chunks.
const SYNC_CHUNKS: u64 = 16;

/// Which way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Way {
    /// The sender listens at a port that it tells; the receiver connects to it.
    Direct {
        /// For the receiver.
        port: u16,
    },
    /// Through Mantel's relay at this port of loopback.
    Relay {
        /// The relay's port.
        port: u16,
    },
}

/// The sender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Send {
    /// Seed of its key.
    pub key: [u8; 32],
    /// The server's public key.
    pub server: [u8; 32],
    /// The grant that it takes to the relay.
    pub grant: String,
    /// The file with the blob's chunk hashes.
    pub hashes: PathBuf,
    /// The file with the blob; none: from memory.
    pub file: Option<PathBuf>,
    /// A folder for its database.
    pub folder: PathBuf,
    /// Which way.
    pub way: Way,
}

/// The receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receive {
    /// Seed of its key.
    pub key: [u8; 32],
    /// The server's public key.
    pub server: [u8; 32],
    /// The grant.
    pub grant: String,
    /// The file to write; none: verified and dropped.
    pub file: Option<PathBuf>,
    /// Which way.
    pub way: Way,
}

/// The relay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelaySpec {
    /// Seed of the server's key.
    pub key: [u8; 32],
}

/// The blob that is sent.
pub struct Sample {
    /// Its hashes.
    pub hashes: HashList,
}

impl Sample {
    /// A blob of `bytes`; its hashes go to `hashes`, its bytes to `file`.
    pub fn make(bytes: u64, hashes: &Path, file: &Path) -> Result<Self> {
        let noise = noise();
        let (mut hasher, mut out) = (BlobHasher::new(), File::create(file)?);
        let mut left = bytes;
        while left > 0 {
            let now = &noise[..left.min(NOISE_BYTES) as usize];
            hasher.update(now);
            io::Write::write_all(&mut out, now)?;
            left -= now.len() as u64;
        }
        out.sync_all()?;
        let list = hasher.finish()?;
        std::fs::write(hashes, list.hashes().as_flattened())?;
        Ok(Self { hashes: list })
    }
}

fn noise() -> Bytes {
    let mut bytes = vec![0; NOISE_BYTES as usize];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn load_hashes(path: &Path, grant: &Grant) -> Result<HashList> {
    let bytes = std::fs::read(path)?;
    let hashes = bytes.as_chunks::<32>().0.to_vec();
    Ok(HashList::verified(grant.blob, grant.blob_bytes, hashes)?)
}

/// The sender's only blob.
#[derive(Clone)]
struct Stored {
    hashes: Arc<HashList>,
    noise: Bytes,
    file: Option<Arc<File>>,
}

impl BlobSource for Stored {
    fn hashes(&self) -> &HashList {
        &self.hashes
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let Some(file) = self.file.clone() else {
            let start = (offset % NOISE_BYTES) as usize;
            return Ok(self.noise.slice(start..start + len));
        };
        spawn_blocking(move || {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        })
        .await?
    }
}

struct Home {
    server: ServerKey,
    clock: Clock,
    stored: Stored,
}

impl Keeper for Home {
    type Blob = Stored;

    fn server_key(&self) -> Option<ServerKey> {
        Some(self.server)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn permit(&self, _: &AnyGrant) -> Result<(), Refusal> {
        Ok(())
    }

    async fn blob(&self, blob: BlobId) -> Result<Option<Stored>, Refusal> {
        Ok((blob == self.stored.hashes.id()).then(|| self.stored.clone()))
    }
}

/// Sends.
pub async fn send(it: Send) -> Result<()> {
    let (key, server) = (SigningKey::from_seed(&it.key)?, ServerKey(it.server));
    let clock = Clock::real();
    let grant: Grant = token::verify(&server, &it.grant, clock.now())?;
    let hashes = Arc::new(load_hashes(&it.hashes, &grant)?);
    let file = it.file.map(File::open).transpose()?.map(Arc::new);
    let home = Home {
        server,
        clock,
        stored: Stored {
            hashes,
            noise: noise(),
            file,
        },
    };
    let db = Db::open(&it.folder.join("sender.db"), &[SCHEMA])?;
    let tasks = Tasks::root();
    let chunks = ChunkServer::new(&key, Arc::new(home), db, &tasks)?;
    let meter = match it.way {
        Way::Direct { .. } => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            chunks.listen(listener);
            Meter::start(&Ready { port, id: None })?
        }
        Way::Relay { port } => {
            let meter = Meter::start(&Ready::default())?;
            let host = "127.0.0.1".to_owned();
            chunks.join_relay(
                RelayPoint {
                    host,
                    port,
                    key: server,
                },
                it.grant,
            );
            meter
        }
    };
    told_to_stop().await?;
    meter.done(Duration::ZERO, 0)?;
    tasks.shut_down(Duration::from_secs(5)).await;
    Ok(())
}

/// Verifies chunks and, with a file, writes them down.
struct Shelf {
    hashes: Arc<HashList>,
    file: Option<Arc<File>>,
    bytes: u64,
    unsynced: u64,
}

/// Why a chunk was not taken.
#[derive(Debug, thiserror::Error)]
enum ShelfError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the file was not written")]
    File(#[from] io::Error),
    #[error("the process is ending")]
    Ending,
}

impl ChunkSink for Shelf {
    type Error = ShelfError;

    async fn write(&mut self, index: u64, bytes: Vec<u8>) -> Result<Vec<u8>, ShelfError> {
        let (hashes, file) = (Arc::clone(&self.hashes), self.file.clone());
        self.bytes += bytes.len() as u64;
        self.unsynced += 1;
        let sync = self.unsynced == SYNC_CHUNKS;
        if sync {
            self.unsynced = 0;
        }
        spawn_blocking(move || {
            hashes.verify_chunk(index, &bytes)?;
            if let Some(file) = file {
                file.write_all_at(&bytes, index * CHUNK_BYTES)?;
                if sync {
                    file.sync_data()?;
                }
            }
            Ok(bytes)
        })
        .await
        .map_err(|_| ShelfError::Ending)?
    }
}

/// Receives.
pub async fn receive(it: Receive) -> Result<()> {
    let (key, server) = (SigningKey::from_seed(&it.key)?, ServerKey(it.server));
    let grant: Grant = token::verify(&server, &it.grant, Clock::real().now())?;
    let file = it.file.map(File::create).transpose()?.map(Arc::new);
    let meter = Meter::start(&Ready::default())?;
    let begin = Instant::now();
    let mut stream = match it.way {
        Way::Direct { port } => {
            connect_direct(&key, grant.sender, &[([127, 0, 0, 1], port).into()]).await?
        }
        Way::Relay { port } => {
            let relay = RelayPoint {
                host: "127.0.0.1".to_owned(),
                port,
                key: server,
            };
            connect_relay(&key, &relay, &it.grant, grant.sender).await?
        }
    };
    let hashes = Arc::new(stream.hello(&it.grant, &grant).await?);
    let mut shelf = Shelf {
        hashes,
        file,
        bytes: 0,
        unsynced: 0,
    };
    stream.receive(&grant.chunks, &mut shelf).await?;
    if let Some(file) = shelf.file.take() {
        spawn_blocking(move || file.sync_all()).await??;
    }
    let wall = begin.elapsed();
    stream.done().await;
    meter.done(wall, shelf.bytes)
}

/// Relays until told to stop.
pub async fn relay(it: RelaySpec) -> Result<()> {
    let key = SigningKey::from_seed(&it.key)?;
    let admission = Arc::new(KeyOnly::new(key.server_key(), Clock::real()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let tasks = Tasks::root();
    let relay =
        mantel_server::relay::start(listener, &key, admission, RelayConfig::default(), &tasks)
            .context("starting the relay")?;
    let meter = Meter::start(&Ready {
        port: relay.local_addr().port(),
        id: None,
    })?;
    told_to_stop().await?;
    meter.done(Duration::ZERO, 0)
}

/// A device's public key.
pub fn device(seed: &[u8; 32]) -> Result<DeviceId> {
    Ok(SigningKey::from_seed(seed)?.device_id())
}
