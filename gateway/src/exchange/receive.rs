//! Fetches the blobs of one order: performs what [`super::fetch`] decides (F22, F45, F61). Chunks are verified and
//! written one after the other; what is written survives kill -9, and a later run asks only for the rest.

use super::connection::{self, Ask, Happening, Leave, Route, WANT_QUEUE};
use super::dial::RelayPoint;
use super::fetch::{Action, ConnectionId, Event, Fetch, Paths, Trouble};
use super::progress::Meter;
use super::{Inner, store};
use crate::library::{BlobError, PartialBlob};
use crate::link::{ApiError, Enrolment};
use mantel_protocol::api::{BlobEntry, GrantRequest, OrderEntry, ProblemCode, ProblemReport};
use mantel_protocol::blob::{BlobId, ChunkRange, ranges_len};
use mantel_protocol::grant::Grant;
use mantel_protocol::receipt::Path;
use mantel_protocol::token::verify_ignoring_time;
use mantel_runtime::tasks::Tasks;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

/// Chunks between the connections and the writer, 1 MiB each.
const CHUNK_QUEUE: usize = 8;
/// A grant that the server's clock says has ended is still given this long, so that a wrong clock here cannot keep the
/// gateway asking without end: the sender judges.
const SHORTEST_GRANT: Duration = Duration::from_secs(90);

/// Why a blob was not fetched; what arrived is kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchFailure {
    /// The order is over at the server.
    #[error("the server grants no more for this order")]
    Over,
    /// The disk is full before the first byte.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// There is no server.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// What fetching needs.
pub(super) struct Job<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) enrolment: &'a Enrolment,
    pub(super) order: &'a OrderEntry,
    pub(super) paths: Paths,
    /// Changes when a try is worthwhile at once.
    pub(super) nudge: watch::Receiver<u64>,
    /// The order's own node: ends with it.
    pub(super) tasks: &'a Tasks,
}

/// Fetches one blob; returns the path on which the last chunk came, `None` if it was here.
pub(super) async fn fetch(
    job: &Job<'_>,
    blob: BlobEntry,
    meter: &mut Meter,
) -> Result<Option<Path>, FetchFailure> {
    let blobs = job.inner.library.blobs();
    if blobs.read(blob.blob).await?.is_some() {
        return Ok(None);
    }
    let partial = blobs.partial(blob.blob, blob.sealed_bytes).await?;
    let missing = partial.missing();
    meter.set_blob(blob.blob, partial.bytes_done());
    if missing.is_empty() {
        partial.finish().await?;
        return Ok(None);
    }
    info!(order = %job.order.order, blob = %blob.blob, missing = ranges_len(blob.sealed_bytes, &missing), "fetching");
    let (happenings, happened) = mpsc::channel(CHUNK_QUEUE);
    let fetching = Fetching {
        job,
        blob,
        machine: Fetch::new(job.paths, &missing, 1, rand::random()),
        partial,
        happenings,
        connections: HashMap::new(),
        leaving: None,
        leave: None,
        last_path: None,
        meter,
        // Whatever way this ends, its tasks end with it.
        tasks: Ending(job.tasks.child()),
    };
    fetching.run(happened).await
}

/// Cancels its tasks when dropped.
struct Ending(Tasks);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Line {
    asks: mpsc::Sender<Ask>,
    path: Path,
    _tasks: Ending,
}

struct Fetching<'a> {
    job: &'a Job<'a>,
    blob: BlobEntry,
    machine: Fetch,
    partial: PartialBlob,
    happenings: mpsc::Sender<Happening>,
    connections: HashMap<ConnectionId, Line>,
    leaving: Option<Line>,
    leave: Option<Arc<Leave>>,
    last_path: Option<Path>,
    meter: &'a mut Meter,
    tasks: Ending,
}

enum End {
    Finish,
    GiveUp,
}

impl Fetching<'_> {
    async fn run(
        mut self,
        mut happened: mpsc::Receiver<Happening>,
    ) -> Result<Option<Path>, FetchFailure> {
        let mut nudge = self.job.nudge.clone();
        let mut event = Event::Tick;
        loop {
            let now = self.job.inner.clock.monotonic();
            let actions = self.machine.on(event, now);
            match self.perform(actions).await {
                Some(End::Finish) => {
                    let path = self.last_path;
                    self.partial.finish().await?;
                    return Ok(path);
                }
                Some(End::GiveUp) => return Err(FetchFailure::Over),
                None => {}
            }
            let now = self.job.inner.clock.monotonic();
            let wait = self.machine.next_tick().map(|at| at.saturating_sub(now));
            let tick = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            event = tokio::select! {
                Some(happening) = happened.recv() => self.take(happening).await?,
                Ok(()) = nudge.changed() => Event::Nudge,
                () = tick => Event::Tick,
            };
        }
    }

    async fn take(&mut self, happening: Happening) -> Result<Event, FetchFailure> {
        Ok(match happening {
            Happening::Event(event) => {
                if let Event::NotOpened { connection, .. }
                | Event::Lost { connection, .. }
                | Event::Wrong { connection } = &event
                {
                    self.connections.remove(connection);
                }
                event
            }
            Happening::Granted { source, leave } => {
                let inner = self.job.inner;
                let left = leave
                    .grant
                    .validity
                    .expires
                    .duration_since(inner.link.now_signed());
                let left = Duration::try_from(left)
                    .unwrap_or_default()
                    .max(SHORTEST_GRANT);
                let event = Event::Granted {
                    source,
                    chunks: leave.grant.chunks.clone(),
                    reachable: !leave.addresses.is_empty(),
                    expires: inner.clock.monotonic() + left,
                };
                self.leave = Some(leave);
                event
            }
            Happening::Opened { connection, hashes } => match self.partial.set_hashes(hashes).await
            {
                Ok(()) => {
                    self.meter
                        .set_path(self.connections.get(&connection).map(|line| line.path));
                    Event::Opened { connection }
                }
                Err(error) => self.write_failed(connection, error)?,
            },
            Happening::Chunk {
                connection,
                index,
                bytes,
            } => {
                let len = bytes.len() as u64;
                let fresh = !self.partial.has(index);
                match self.partial.write(index, bytes).await {
                    Ok(()) => {
                        if let Some(line) = self.connections.get(&connection) {
                            self.last_path = Some(line.path);
                        }
                        if fresh {
                            self.meter.add(self.blob.blob, len);
                        }
                        Event::Arrived { connection, index }
                    }
                    Err(error) => self.write_failed(connection, error)?,
                }
            }
        })
    }

    fn write_failed(
        &mut self,
        connection: ConnectionId,
        error: BlobError,
    ) -> Result<Event, FetchFailure> {
        match error {
            BlobError::WrongBytes(_) => Ok(Event::Wrong { connection }),
            BlobError::DiskFull { needed, free } => {
                let needed = needed.max(self.bytes_missing());
                Ok(Event::NoRoom { needed, free })
            }
            other => Err(other.into()),
        }
    }

    fn bytes_missing(&self) -> u64 {
        ranges_len(self.blob.sealed_bytes, &self.partial.missing())
    }

    async fn perform(&mut self, actions: Vec<Action>) -> Option<End> {
        for action in actions {
            match action {
                Action::AskGrant { source, chunks } => self.ask_grant(source, chunks),
                Action::Dial {
                    connection, path, ..
                } => self.dial(connection, path),
                Action::Want { connection, range } => self.tell_line(connection, Ask::Want(range)),
                Action::Done { connection } => {
                    self.tell_line(connection, Ask::Done);
                    // It says goodbye by itself; at the latest it ends with the fetch, or when another follows it.
                    self.leaving = self.connections.remove(&connection);
                    self.meter.set_path(None);
                }
                Action::Drop { connection } => {
                    self.connections.remove(&connection);
                    self.meter.set_path(None);
                }
                Action::CheckRoom => self.check_room().await,
                Action::Tell(trouble) => self.tell(trouble),
                Action::Finish => return Some(End::Finish),
                Action::GiveUp => return Some(End::GiveUp),
            }
        }
        self.meter.report(&self.job.inner.link);
        None
    }

    /// Passes a word to a connection. Its queue has room for all that the fetcher has ahead; a connection that is gone
    /// has reported, or will.
    fn tell_line(&self, connection: ConnectionId, ask: Ask) {
        if let Some(line) = self.connections.get(&connection)
            && line.asks.try_send(ask).is_err()
        {
            debug!(connection, "a connection did not take a request");
        }
    }

    fn ask_grant(&self, source: usize, chunks: Vec<ChunkRange>) {
        let (inner, happenings) = (Arc::clone(self.job.inner), self.happenings.clone());
        let (order, blob) = (self.job.order.clone(), self.blob);
        let server = self.job.enrolment.server.key;
        self.tasks.0.spawn("grant", async move {
            let happening = match obtain(&inner, &order, blob, chunks, &server).await {
                Ok(leave) => Happening::Granted {
                    source,
                    leave: Arc::new(leave),
                },
                Err(error) if is_final(&error) => Happening::Event(Event::NeverGranted { source }),
                Err(error) => Happening::Event(Event::NotGranted {
                    source,
                    why: error.to_string(),
                }),
            };
            let _ = happenings.send(happening).await;
        });
    }

    fn dial(&mut self, connection: ConnectionId, path: Path) {
        let Some(leave) = self.leave.clone() else {
            return;
        };
        let inner = self.job.inner;
        let server = &self.job.enrolment.server;
        let (asks, asked) = mpsc::channel(WANT_QUEUE);
        let route = Route {
            connection,
            path,
            leave,
            key: inner.link.identity().device.clone(),
            relay: RelayPoint {
                host: self.job.enrolment.host.clone(),
                port: server.relay_port,
                key: server.key,
            },
            api: inner.link.api().ok(),
        };
        let tasks = self.tasks.0.child();
        tasks.spawn(
            "connection",
            connection::run(route, asked, self.happenings.clone()),
        );
        self.connections.insert(
            connection,
            Line {
                asks,
                path,
                _tasks: Ending(tasks),
            },
        );
    }

    async fn check_room(&self) {
        let (needed, free) = (
            self.bytes_missing(),
            self.job.inner.library.free_bytes().await,
        );
        let event = if free > needed {
            Event::Room
        } else {
            Event::NoRoom { needed, free }
        };
        let happenings = self.happenings.clone();
        self.tasks.0.spawn("room", async move {
            let _ = happenings.send(Happening::Event(event)).await;
        });
    }

    fn tell(&mut self, trouble: Option<Trouble>) {
        self.meter
            .set_problem(trouble.as_ref().map(ToString::to_string));
        let Some(trouble) = trouble else { return };
        info!(order = %self.job.order.order, problem = %trouble, "a transfer waits");
        if matches!(trouble, Trouble::NoWay(_)) {
            return;
        }
        if let Ok(api) = self.job.inner.link.api() {
            let delivery = self.job.order.delivery;
            let report = ProblemReport {
                detail: trouble.to_string(),
                fatal: false,
            };
            self.tasks.0.spawn("problem", async move {
                if let Err(error) = api.problem(delivery, &report).await {
                    debug!(%error, "a problem was not reported");
                }
            });
        }
    }
}

/// Whether asking again cannot help: the server says that the order is over, or may not be.
fn is_final(error: &ApiError) -> bool {
    use ProblemCode::{BadRequest, Conflict, Forbidden, NotFound, Restricted};
    matches!(
        error.code(),
        Some(BadRequest | Conflict | Forbidden | NotFound | Restricted)
    )
}

async fn obtain(
    inner: &Inner,
    order: &OrderEntry,
    blob: BlobEntry,
    chunks: Vec<ChunkRange>,
    server: &mantel_protocol::key::ServerKey,
) -> Result<Leave, ApiError> {
    let request = GrantRequest {
        blob: blob.blob,
        chunks,
    };
    let answer = inner.link.api()?.grant(order.delivery, &request).await?;
    let grant: Grant = verify_ignoring_time(server, &answer.grant).map_err(ApiError::Token)?;
    let fits = grant.delivery == order.delivery
        && grant.order == order.order
        && grant.blob == blob.blob
        && grant.blob_bytes == blob.sealed_bytes
        && grant.receiver == inner.link.device();
    if !fits {
        return Err(ApiError::Answer);
    }
    if let Err(error) = store::note_grant(&inner.db, order.order, grant.blob, grant.id).await {
        tracing::warn!(%error, "a grant could not be noted");
    }
    Ok(Leave {
        token: answer.grant,
        grant,
        addresses: answer.sender_addresses,
    })
}

/// How many bytes of an order's blobs are here.
pub(super) async fn bytes_here(inner: &Inner, blobs: &[BlobEntry]) -> HashMap<BlobId, u64> {
    let mut here = HashMap::new();
    for blob in blobs {
        if let Ok(Some(_)) = inner.library.blobs().read(blob.blob).await {
            here.insert(blob.blob, blob.sealed_bytes);
        }
    }
    here
}
