//! One connection to a sender, as a task: dials, greets, and passes chunks on. What to ask for comes from `receive.rs`.

use super::dial::{ChunkStream, DialError, FetchError, RelayPoint, connect_direct, connect_relay};
use super::fetch::{ConnectionId, Event};
use crate::link::ApiClient;
use mantel_protocol::blob::{ChunkRange, HashList};
use mantel_protocol::grant::Grant;
use mantel_protocol::key::SigningKey;
use mantel_protocol::receipt::Path;
use mantel_runtime::logging::chain;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Portions asked for and not yet passed to the sender: more than the fetcher has ahead.
pub(super) const WANT_QUEUE: usize = 16;

/// What a connection reports.
pub(super) enum Happening {
    /// For the fetcher.
    Event(Event),
    /// A grant came.
    Granted { source: usize, leave: Arc<Leave> },
    /// It is open; the hash list is checked.
    Opened {
        connection: ConnectionId,
        hashes: HashList,
    },
    /// A chunk, not verified.
    Chunk {
        connection: ConnectionId,
        index: u64,
        bytes: Vec<u8>,
    },
}

/// A grant and what is needed to use it.
pub(super) struct Leave {
    pub(super) token: String,
    pub(super) grant: Grant,
    pub(super) addresses: Vec<SocketAddr>,
}

/// What a connection is told.
pub(super) enum Ask {
    /// Ask for these.
    Want(ChunkRange),
    /// All came: say so and close.
    Done,
}

/// How to reach a sender.
pub(super) struct Route {
    pub(super) connection: ConnectionId,
    pub(super) path: Path,
    pub(super) leave: Arc<Leave>,
    pub(super) key: SigningKey,
    pub(super) relay: RelayPoint,
    pub(super) api: Option<ApiClient>,
}

/// Runs a connection until it ends; the last thing it reports is why.
pub(super) async fn run(
    route: Route,
    mut asks: mpsc::Receiver<Ask>,
    happenings: mpsc::Sender<Happening>,
) {
    let connection = route.connection;
    let last = match open(&route).await {
        Err(Closed::Dial(why)) => Event::NotOpened { connection, why },
        Err(Closed::Fetch(error)) => ended(connection, &error),
        Ok((stream, hashes)) => {
            if happenings
                .send(Happening::Opened { connection, hashes })
                .await
                .is_err()
            {
                return;
            }
            match pass_on(connection, stream, &mut asks, &happenings).await {
                Ok(()) => return,
                Err(error) => ended(connection, &error),
            }
        }
    };
    // The receiver is gone: nobody wants to know.
    let _ = happenings.send(Happening::Event(last)).await;
}

enum Closed {
    Dial(String),
    Fetch(FetchError),
}

impl From<DialError> for Closed {
    fn from(error: DialError) -> Self {
        tracing::debug!(error = %chain(&error), "no connection to the sending home");
        Self::Dial(error.to_string())
    }
}

async fn open(route: &Route) -> Result<(ChunkStream, HashList), Closed> {
    let leave = &route.leave;
    let sender = leave.grant.sender;
    let mut stream = match route.path {
        Path::Direct => connect_direct(&route.key, sender, &leave.addresses).await?,
        Path::Relay => {
            let api = route
                .api
                .as_ref()
                .ok_or_else(|| Closed::Dial("there is no server".into()))?;
            let asked = api.relay(leave.grant.delivery).await;
            asked.map_err(|error| Closed::Dial(error.to_string()))?;
            connect_relay(&route.key, &route.relay, &leave.token, sender).await?
        }
    };
    let hashes = stream
        .hello(&leave.token, &leave.grant)
        .await
        .map_err(Closed::Fetch)?;
    Ok((stream, hashes))
}

fn ended(connection: ConnectionId, error: &FetchError) -> Event {
    tracing::debug!(error = %chain(error), "a connection ended");
    match error {
        FetchError::Hashes(_) | FetchError::Protocol => Event::Wrong { connection },
        FetchError::Refused(_) | FetchError::Lost(_) => Event::Lost {
            connection,
            why: error.to_string(),
        },
    }
}

async fn pass_on(
    connection: ConnectionId,
    mut stream: ChunkStream,
    asks: &mut mpsc::Receiver<Ask>,
    happenings: &mpsc::Sender<Happening>,
) -> Result<(), FetchError> {
    loop {
        // Between chunks, or when nothing is due: hear what is wanted next.
        let ask = match stream.under_way() {
            0 => asks.recv().await,
            _ => asks.try_recv().ok(),
        };
        match ask {
            Some(Ask::Want(range)) => {
                stream.want(&[range]).await?;
                continue;
            }
            Some(Ask::Done) => {
                stream.done().await;
                return Ok(());
            }
            None if stream.under_way() == 0 => return Ok(()),
            None => {}
        }
        let (index, bytes) = stream.next(Vec::new()).await?;
        if happenings
            .send(Happening::Chunk {
                connection,
                index,
                bytes,
            })
            .await
            .is_err()
        {
            return Ok(());
        }
    }
}
