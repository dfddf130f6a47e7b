//! The sender's end of the chunk protocol (F22): serves sealed chunks to those who show the server's grant (F61), on the
//! listener (direct) and through the relay (F8).
//!
//! Before a byte of media is sent: the server signed the grant, its time is now, this gateway is its sender and the peer
//! that proved its key in TLS is its receiver, the server has not ended the delivery, the restrictions known here allow
//! it, the blob is here, and its bytes are reserved durably (`grant_use`). Time, revocation, restrictions and
//! reservation are looked at again every 16 MiB ([`STEP_BYTES`]); a revocation cuts a stream under way at once.
//!
//! What the rest of the gateway knows is asked of a [`Keeper`]; `session` serves one connection.

mod grant_use;
mod session;
#[cfg(test)]
mod tests;

pub use grant_use::{SCHEMA, STEP_BYTES};

use super::dial::{RelayPoint, SOCKET_BUFFER, enter_relay};
use bytes::Bytes;
use jiff::Timestamp;
use mantel_protocol::blob::{BlobId, HashList};
use mantel_protocol::chunk::{CHUNK_ALPN, Refusal};
use mantel_protocol::grant::AnyGrant;
use mantel_protocol::ids::{DeliveryId, GrantId, OrderId};
use mantel_protocol::key::{DeviceId, ServerKey, SigningKey};
use mantel_protocol::receipt::Path;
use mantel_runtime::db::{Db, DbError};
use mantel_runtime::logging::chain;
use mantel_runtime::tasks::Tasks;
use mantel_runtime::tls::{TlsError, raw_key_server};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Streams served at once; more are told that this home is busy.
pub const MAX_STREAMS: usize = 8;
/// Of these, homes that are given a bundle at once: an update can wait, and comes from elsewhere too.
pub const MAX_BUNDLE_STREAMS: usize = 2;
/// Connections that have not shown a good grant; more wait in the kernel's queue.
const MAX_STRANGERS: usize = 64;
/// Sessions at the relay at once, waiting or under way.
const MAX_RELAY_SESSIONS: usize = 32;
/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The rest of the gateway, as the sender sees it.
pub trait Keeper: Send + Sync + 'static {
    /// A blob that is here.
    type Blob: BlobSource;

    /// The server whose grants count; `None` before enrolment: then every grant is refused.
    fn server_key(&self) -> Option<ServerKey>;

    /// The time by which grants are judged: signed by the server, not the machine's clock.
    fn now(&self) -> Timestamp;

    /// Judges by what is known here: restrictions ([`Refusal::Restricted`]), the household's will
    /// ([`Refusal::Revoked`]), what the household does now where a bundle has to wait for it ([`Refusal::Busy`]).
    fn permit(&self, grant: &AnyGrant) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// A whole blob, or bundle; `None` if it is not here.
    fn blob(
        &self,
        blob: BlobId,
    ) -> impl Future<Output = Result<Option<Self::Blob>, Refusal>> + Send;
}

/// A blob's sealed bytes.
pub trait BlobSource: Send + Sync + 'static {
    /// Its chunk hashes.
    fn hashes(&self) -> &HashList;

    /// Reads `len` bytes at `offset`, all of them.
    fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = io::Result<Bytes>> + Send;
}

/// A stream under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sending {
    /// For which order.
    pub order: OrderId,
    /// In which delivery.
    pub delivery: DeliveryId,
    /// What.
    pub blob: BlobId,
    /// To whom.
    pub receiver: DeviceId,
    /// Which way.
    pub path: Path,
    /// Media bytes sent on this connection.
    pub bytes: u64,
}

/// The sender; cheap to clone.
pub struct ChunkServer<K>(Arc<Shared<K>>);

impl<K> Clone for ChunkServer<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<K> {
    key: SigningKey,
    acceptor: TlsAcceptor,
    keeper: Arc<K>,
    db: Db,
    tasks: Tasks,
    streams: Arc<Semaphore>,
    bundles: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    live: HashMap<u64, Live>,
    /// Relay sessions by the token that they show.
    at_relay: HashSet<String>,
}

struct Live {
    /// `None`: a bundle.
    about: Option<Sending>,
    grant: GrantId,
    bytes: Arc<AtomicU64>,
    cut: CancellationToken,
}

impl<K> Shared<K> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

/// A stream's entry in the register; leaves it when dropped.
struct Entry<'a, K> {
    shared: &'a Shared<K>,
    number: u64,
    bytes: Arc<AtomicU64>,
    cut: CancellationToken,
}

impl<K> Drop for Entry<'_, K> {
    fn drop(&mut self) {
        self.shared.state().live.remove(&self.number);
    }
}

impl<K> Shared<K> {
    fn enter(&self, grant: &AnyGrant, path: Path) -> Entry<'_, K> {
        let (bytes, cut) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let about = match grant {
            AnyGrant::Delivery(grant) => Some(Sending {
                order: grant.order,
                delivery: grant.delivery,
                blob: grant.blob,
                receiver: grant.receiver,
                path,
                bytes: 0,
            }),
            AnyGrant::Bundle(_) => None,
        };
        let live = Live {
            about,
            grant: grant.id(),
            bytes: Arc::clone(&bytes),
            cut: cut.clone(),
        };
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.live.insert(number, live);
        Entry {
            shared: self,
            number,
            bytes,
            cut,
        }
    }
}

impl<K: Keeper> ChunkServer<K> {
    /// A sender that shows `key`. Its connections are tasks of `tasks`; `db` holds [`SCHEMA`].
    pub fn new(key: &SigningKey, keeper: Arc<K>, db: Db, tasks: &Tasks) -> Result<Self, TlsError> {
        let acceptor = TlsAcceptor::from(Arc::new(raw_key_server(key, CHUNK_ALPN)?));
        Ok(Self(Arc::new(Shared {
            key: key.clone(),
            acceptor,
            keeper,
            db,
            tasks: tasks.clone(),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            bundles: Semaphore::new(MAX_BUNDLE_STREAMS),
            state: Mutex::default(),
        })))
    }

    /// Serves those who come directly.
    pub fn listen(&self, listener: TcpListener) {
        let server = self.clone();
        self.0.tasks.spawn("chunk-accept", async move {
            let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
            loop {
                let Ok(place) = Arc::clone(&strangers).acquire_owned().await else {
                    return;
                };
                let (stream, peer) = accept(&listener).await;
                let one = server.clone();
                server.0.tasks.spawn("chunk-direct", async move {
                    if let Err(error) = one
                        .secure_and_serve(stream, Path::Direct, Some(place))
                        .await
                    {
                        debug!(%peer, error = %chain(&error), "a direct stream ended");
                    }
                });
            }
        });
    }

    /// Meets the receiver at the relay with `grant` and serves it. While a session with this grant lives, nothing more is
    /// done.
    pub fn join_relay(&self, relay: RelayPoint, grant: String) {
        {
            let mut state = self.0.state();
            if state.at_relay.len() >= MAX_RELAY_SESSIONS || !state.at_relay.insert(grant.clone()) {
                return;
            }
        }
        let session = RelaySession {
            server: self.clone(),
            grant,
        };
        self.0.tasks.spawn("chunk-relay", async move {
            let server = &session.server;
            let stream = match enter_relay(&server.0.key, &relay, &session.grant).await {
                Ok(stream) => stream,
                Err(error) => return info!(error = %chain(&error), "no stream through the relay"),
            };
            if let Err(error) = server.secure_and_serve(stream, Path::Relay, None).await {
                debug!(error = %chain(&error), "a relayed stream ended");
            }
        });
    }

    /// The server ended a delivery: its streams are cut, and its grants refused from now on.
    pub async fn revoke(&self, delivery: DeliveryId) -> Result<(), DbError> {
        self.cut(delivery);
        grant_use::revoke(&self.0.db, delivery, self.0.keeper.now()).await?;
        // One that began meanwhile.
        self.cut(delivery);
        Ok(())
    }

    fn cut(&self, delivery: DeliveryId) {
        let state = self.0.state();
        let of_it = |live: &&Live| {
            let about = live.about.as_ref();
            about.is_some_and(|about| about.delivery == delivery)
        };
        for live in state.live.values().filter(of_it) {
            info!(grant = %live.grant, %delivery, "a stream is cut: the server ended its delivery");
            live.cut.cancel();
        }
    }

    /// The deliveries under way now.
    pub fn sending(&self) -> Vec<Sending> {
        let state = self.0.state();
        let with_bytes = |live: &Live| {
            Some(Sending {
                bytes: live.bytes.load(Ordering::Relaxed),
                ..live.about.clone()?
            })
        };
        state.live.values().filter_map(with_bytes).collect()
    }

    async fn secure_and_serve(
        &self,
        stream: TcpStream,
        path: Path,
        stranger: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Result<(), session::SessionError> {
        let buffered = BufReader::with_capacity(SOCKET_BUFFER, stream);
        let tls = timeout(HANDSHAKE_LIMIT, self.0.acceptor.accept(buffered))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(session::SessionError::Handshake)?;
        session::serve(&self.0, tls, path, stranger).await
    }
}

/// Leaves the register of relay sessions when dropped.
struct RelaySession<K> {
    server: ChunkServer<K>,
    grant: String,
}

impl<K> Drop for RelaySession<K> {
    fn drop(&mut self) {
        self.server.0.state().at_relay.remove(&self.grant);
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, std::net::SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                // Out of descriptors, most likely: let others finish first.
                warn!(%error, "the chunk listener cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
