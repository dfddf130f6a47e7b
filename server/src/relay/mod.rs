//! The relay (F8): joins two gateways that cannot reach each other and moves their bytes without reading them.
//!
//! ```text
//! gateway ──TCP──▶ raw-key TLS ─▶ Admission frame ─▶ `Admission::admit` ─▶ wait for the other side (`meeting`)
//!                  (`side`)                                                     │ both there: Joined, drop TLS, GO
//! gateway ◀══════════ splice(2), both directions (`splice`) ═══════════▶ gateway
//! ```
//! After `GO` the two gateways speak their own end-to-end TLS; the relay sees ciphertext only. It counts the bytes of
//! every grant, never moves more than the grant's allowance, keeps to a rate where one is set, and cuts a stream at once
//! when its delivery is revoked. Nothing is kept here: what was relayed is told to [`Admission::relayed`], and a gateway
//! that loses its stream comes back with its grant.
//!
//! Deliberately absent: any knowledge of orders, homes and restrictions. [`Admission`] judges.

mod by_key;
mod meeting;
mod side;
mod splice;
#[cfg(test)]
mod tests;

pub use by_key::KeyOnly;

use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{DeliveryId, GrantId};
use mantel_protocol::key::{DeviceId, SigningKey};
use mantel_protocol::relay::{RELAY_ALPN, RelayRefusal};
use mantel_protocol::restriction::Side;
use mantel_runtime::tasks::Tasks;
use mantel_runtime::tls::{TlsError, raw_key_server};
use serde::Deserialize;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, broadcast};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// Connections that have not shown a grant yet; more callers wait in the kernel's queue.
const MAX_STRANGERS: usize = 256;
/// Of those, the most from one address; what comes beyond is closed.
const MAX_STRANGERS_PER_ADDRESS: u32 = 64;
/// How long a connection has for handshake and admission frame.
const ADMISSION_LIMIT: Duration = Duration::from_secs(10);
/// What TLS records, chunk frames and hash lists may add to the media bytes of a grant: a fiftieth ...
const OVERHEAD_DIVISOR: u64 = 50;
/// ... and this many bytes.
const OVERHEAD_BYTES: u64 = 1024 * 1024;

/// A side of a delivery, admitted.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// What the token says.
    pub grant: Grant,
    /// On which side of it the device is.
    pub side: Side,
    /// How many more bytes the relay may move from sender to receiver; see [`allowance`].
    pub remaining_bytes: u64,
}

/// Who may use the relay, and how much.
pub trait Admission: Send + Sync + 'static {
    /// Judges a grant that `device` shows. Asked when a side arrives, and again just before two sides are joined.
    fn admit(
        &self,
        token: &str,
        device: DeviceId,
    ) -> impl Future<Output = Result<Admitted, RelayRefusal>> + Send;

    /// Takes note of bytes moved from sender to receiver since the last call. Called at least every second while bytes
    /// move, and at the end of every stream.
    fn relayed(&self, grant: GrantId, bytes: u64);

    /// Deliveries that the server ends from now on.
    fn revocations(&self) -> broadcast::Receiver<DeliveryId>;
}

/// How many bytes may still be relayed under a grant of which `relayed_before` were: its media bytes and what TLS and
/// framing add.
pub fn allowance(grant: &Grant, relayed_before: u64) -> u64 {
    let media = grant.max_bytes();
    let whole = media
        .saturating_add(media / OVERHEAD_DIVISOR)
        .saturating_add(OVERHEAD_BYTES);
    whole.saturating_sub(relayed_before)
}

/// The relay's part of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayConfig {
    /// The most bytes per second from sender to receiver in each stream; none: no limit.
    pub rate_limit: Option<u64>,
    /// Sides that wait for the other at once; more are told that the relay is busy.
    pub max_waiting: usize,
    /// Connections in all; more wait in the kernel's queue.
    pub max_connections: usize,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            rate_limit: None,
            max_waiting: 1_024,
            max_connections: 4_096,
        }
    }
}

/// Why the relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The signing key makes no TLS configuration.
    #[error("the relay cannot use the server's signing key")]
    Tls(#[from] TlsError),
    /// The listener has no address.
    #[error("the relay's listener does not work")]
    Listener(#[source] std::io::Error),
}

/// The relay at work; cheap to clone.
#[derive(Clone)]
pub struct Relay {
    local: SocketAddr,
    meeting: Arc<meeting::Meeting>,
}

/// What goes on at the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RelayFigures {
    /// Sides that wait for the other.
    pub waiting: usize,
    /// Streams joined.
    pub joined: usize,
}

impl Relay {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What goes on now.
    pub fn figures(&self) -> RelayFigures {
        self.meeting.figures()
    }
}

/// Starts the relay on `listener` as tasks of `tasks`. `key` is the server's signing key, which gateways pin.
pub fn start<A: Admission>(
    listener: TcpListener,
    key: &SigningKey,
    admission: Arc<A>,
    config: RelayConfig,
    tasks: &Tasks,
) -> Result<Relay, RelayError> {
    start_with(listener, key, admission, config, ADMISSION_LIMIT, tasks)
}

fn start_with<A: Admission>(
    listener: TcpListener,
    key: &SigningKey,
    admission: Arc<A>,
    config: RelayConfig,
    limit: Duration,
    tasks: &Tasks,
) -> Result<Relay, RelayError> {
    let local = listener.local_addr().map_err(RelayError::Listener)?;
    let meeting = Arc::new(meeting::Meeting::new(config.max_waiting));
    let desk = Arc::new(side::Desk {
        acceptor: TlsAcceptor::from(Arc::new(raw_key_server(key, RELAY_ALPN)?)),
        admission,
        meeting: Arc::clone(&meeting),
        rate_limit: config.rate_limit,
        limit,
    });
    let node = tasks.clone();
    tasks.spawn("relay-accept", async move {
        let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
        let places = Arc::new(Semaphore::new(config.max_connections.max(2)));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok(stranger) = Arc::clone(&strangers).acquire_owned().await else { return };
            let (stream, peer) = accept(&listener).await;
            let Some(visit) = desk.meeting.visit(peer.ip(), MAX_STRANGERS_PER_ADDRESS) else {
                debug!(%peer, "too many unfinished connections from one address");
                continue;
            };
            let desk = Arc::clone(&desk);
            node.spawn("relay-side", async move {
                let unfinished = side::Unfinished { _place: stranger, _visit: visit };
                if let Err(error) = desk.serve(stream, unfinished).await {
                    debug!(%peer, error = %mantel_runtime::logging::chain(&error), "a relay connection ended");
                }
                drop(place);
            });
        }
    });
    Ok(Relay { local, meeting })
}

async fn accept(listener: &TcpListener) -> (tokio::net::TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it the last piece of a chunk would wait for an acknowledgement.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                // Out of descriptors, most likely: let others finish first.
                warn!(%error, "the relay cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
