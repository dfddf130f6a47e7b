//! One connection of a receiver, from its `Hello` to its end.

use super::grant_use::{self, STEP_BYTES};
use super::{BlobSource, Entry, Keeper, Shared};
use crate::exchange::wire::{self, Frames, WireError};
use bytes::Bytes;
use mantel_protocol::blob::{CHUNK_BYTES, ChunkRange, chunk_len, ranges_len};
use mantel_protocol::chunk::{Answer, CHUNK_PROTOCOL, MAX_REQUEST_FRAME, Refusal, Request};
use mantel_protocol::grant::AnyGrant;
use mantel_protocol::receipt::Path;
use mantel_protocol::token::TokenError;
use mantel_runtime::db::DbError;
use mantel_runtime::tls::peer_device;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};

/// How long a peer may take to say `Hello`.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long a peer that was refused may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// The most ranges asked for and not served yet.
const MAX_QUEUED_RANGES: usize = 1_024;
/// More is reserved when less than this is left: the commit then runs beside the sending.
const LOW_CREDIT: u64 = 4 * CHUNK_BYTES;

type Tls = TlsStream<BufReader<TcpStream>>;

/// Why a session ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the receiver said nothing in time")]
    Silent,
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("the delivery was ended")]
    Cut,
}

impl From<WireError> for SessionError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(error) => Self::Broken(error),
            WireError::Closed => Self::Broken(io::ErrorKind::UnexpectedEof.into()),
            WireError::Frame(_) => Self::Refused(Refusal::Protocol),
        }
    }
}

impl From<DbError> for SessionError {
    fn from(error: DbError) -> Self {
        error!(error = %mantel_runtime::logging::chain(&error), "grants cannot be counted, so nothing is sent");
        Self::Refused(Refusal::Busy)
    }
}

/// Serves a connection whose handshake is done. `stranger` is given back once the grant is accepted.
pub(super) async fn serve<K: Keeper>(
    shared: &Shared<K>,
    mut tls: Tls,
    path: Path,
    stranger: Option<OwnedSemaphorePermit>,
) -> Result<(), SessionError> {
    let mut frames = Frames::new(MAX_REQUEST_FRAME);
    let served = async {
        let grant = hello(shared, &mut tls, &mut frames).await?;
        // In the register first: a revocation from here on cuts it, one before is found in the database.
        let entry = shared.enter(&grant, path);
        let cut = entry.cut.clone();
        let sending = async {
            let _stream = shared
                .streams
                .try_acquire()
                .map_err(|_| SessionError::Refused(Refusal::Busy))?;
            let _bundle = match &grant {
                AnyGrant::Delivery(_) => None,
                AnyGrant::Bundle(_) => Some(
                    shared
                        .bundles
                        .try_acquire()
                        .map_err(|_| SessionError::Refused(Refusal::Busy))?,
                ),
            };
            let blob = admit(shared, &grant).await?;
            drop(stranger);
            let mut stream = Stream {
                shared,
                tls: &mut tls,
                frames: &mut frames,
                grant: &grant,
                entry,
                credit: 0,
            };
            let sent = stream.send(&blob).await;
            let (credit, bytes) = (stream.credit, stream.entry.bytes.load(Ordering::Relaxed));
            grant_use::give_back(&shared.db, grant.id(), credit).await?;
            info!(grant = %grant.id(), delivery = ?grant.delivery(), bytes, "a stream ended");
            sent
        };
        tokio::select! {
            biased;
            () = cut.cancelled() => Err(SessionError::Cut),
            sent = sending => sent,
        }
    };
    let end = served.await;
    match &end {
        Err(SessionError::Refused(refusal)) => refuse(&mut tls, *refusal).await,
        Err(SessionError::Cut) => {
            // What the kernel still holds for the receiver is thrown away: a cut is a cut.
            let socket = tls.get_ref().0.get_ref();
            let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
        Ok(()) => drop(timeout(CLOSE_LIMIT, tls.shutdown()).await),
        Err(_) => {}
    }
    end
}

/// Reads `Hello` and judges the grant by what it says itself.
async fn hello<K: Keeper>(
    shared: &Shared<K>,
    tls: &mut Tls,
    frames: &mut Frames,
) -> Result<AnyGrant, SessionError> {
    let request = timeout(HELLO_LIMIT, frames.read::<Request, _>(tls)).await;
    let Request::Hello {
        version: CHUNK_PROTOCOL,
        grant,
    } = request.map_err(|_| SessionError::Silent)??
    else {
        return Err(SessionError::Refused(Refusal::Protocol));
    };
    let refused = |refusal| Err(SessionError::Refused(refusal));
    let Some(server) = shared.keeper.server_key() else {
        return refused(Refusal::Forged);
    };
    let grant = match AnyGrant::verify(&server, &grant, shared.keeper.now()) {
        Ok(grant) => grant,
        Err(TokenError::Expired | TokenError::NotYetValid) => return refused(Refusal::Expired),
        Err(_) => return refused(Refusal::Forged),
    };
    let peer = peer_device(tls.get_ref().1);
    if grant.sender() != shared.key.device_id() || Some(grant.receiver()) != peer {
        return refused(Refusal::NotYours);
    }
    Ok(grant)
}

/// Judges the grant by what this gateway knows, and finds the blob.
async fn admit<K: Keeper>(shared: &Shared<K>, grant: &AnyGrant) -> Result<K::Blob, SessionError> {
    let refused = SessionError::Refused;
    if let Some(delivery) = grant.delivery()
        && grant_use::is_revoked(&shared.db, delivery).await?
    {
        return Err(refused(Refusal::Revoked));
    }
    shared.keeper.permit(grant).await.map_err(refused)?;
    if grant_use::used(&shared.db, grant.id()).await? >= grant.max_bytes() {
        return Err(refused(Refusal::Used));
    }
    let blob = shared.keeper.blob(grant.blob()).await.map_err(refused)?;
    blob.filter(|blob| {
        let hashes = blob.hashes();
        hashes.id() == grant.blob() && hashes.size() == grant.blob_bytes()
    })
    .ok_or(refused(Refusal::NotHere))
}

/// Says no. Waits for the peer to close, so that a reset does not take the answer away from it.
async fn refuse(tls: &mut Tls, refusal: Refusal) {
    let _ = timeout(CLOSE_LIMIT, async {
        wire::send(tls, &Answer::Refuse(refusal)).await?;
        tls.shutdown().await?;
        let mut rest = [0u8; 4_096];
        while tls.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// A stream whose grant is good.
struct Stream<'a, K: Keeper> {
    shared: &'a Shared<K>,
    tls: &'a mut Tls,
    frames: &'a mut Frames,
    grant: &'a AnyGrant,
    entry: Entry<'a, K>,
    /// Bytes reserved and not sent.
    credit: u64,
}

impl<K: Keeper> Stream<'_, K> {
    /// Sends what is asked for until the receiver is done. The next chunk is read while one is sent.
    async fn send(&mut self, blob: &K::Blob) -> Result<(), SessionError> {
        let hashes = blob.hashes().hashes().to_vec();
        wire::send(self.tls, &Answer::Accept { hashes })
            .await
            .map_err(SessionError::Broken)?;
        let mut queue: VecDeque<ChunkRange> = VecDeque::new();
        let mut ready: Option<(u64, Bytes)> = None;
        loop {
            if ready.is_none() && queue.is_empty() {
                timeout(wire::STALL_LIMIT, self.tls.flush())
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .map_err(SessionError::Broken)?;
            }
            if !self.requests(&mut queue, ready.is_none()).await? {
                return Ok(());
            }
            let (index, bytes) = match ready.take() {
                Some(chunk) => chunk,
                None => match pop(&mut queue) {
                    Some(index) => self.read(blob, index).await?,
                    None => continue,
                },
            };
            let wanted = ranges_len(self.grant.blob_bytes(), queue.make_contiguous());
            if self.credit < bytes.len() as u64 {
                self.credit += self.reserve(bytes.len() as u64 + wanted).await?;
            }
            self.credit = self
                .credit
                .checked_sub(bytes.len() as u64)
                .ok_or(SessionError::Refused(Refusal::Used))?;
            let next = pop(&mut queue);
            ready = self.send_one(blob, (index, bytes), next, wanted).await?;
        }
    }

    /// Sends one chunk. Beside it, reads the next and, where credit runs low, reserves more.
    async fn send_one(
        &mut self,
        blob: &K::Blob,
        (index, bytes): (u64, Bytes),
        next: Option<u64>,
        wanted: u64,
    ) -> Result<Option<(u64, Bytes)>, SessionError> {
        let low = next.is_some() && self.credit < LOW_CREDIT && self.credit < wanted;
        let missing = wanted.saturating_sub(self.credit);
        let reading = async {
            match next {
                Some(next) => read_chunk(self.grant, blob, next).await.map(Some),
                None => Ok(None),
            }
        };
        let reserving = async {
            if low {
                reserve(self.shared, self.grant, missing).await
            } else {
                Ok(0)
            }
        };
        let writing = async {
            let head = Answer::Chunk {
                index,
                len: bytes.len() as u32,
            };
            wire::write_raw(self.tls, &mantel_protocol::chunk::encode(&head)).await?;
            wire::write_raw(self.tls, &bytes).await
        };
        let (read, reserved, written) = tokio::join!(reading, reserving, writing);
        // Reserved is reserved, whatever else happened.
        self.credit += reserved.as_ref().copied().unwrap_or(0);
        written.map_err(SessionError::Broken)?;
        self.entry
            .bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        reserved?;
        read
    }

    /// Takes the requests that are there; waits for one if there is nothing to send. `false`: the receiver is done.
    async fn requests(
        &mut self,
        queue: &mut VecDeque<ChunkRange>,
        nothing_ready: bool,
    ) -> Result<bool, SessionError> {
        loop {
            let reading = self.frames.read::<Request, _>(self.tls);
            let request = if nothing_ready && queue.is_empty() {
                Some(reading.await)
            } else {
                // Cancel-safe: what has come of a frame is kept.
                tokio::select! {
                    biased;
                    request = reading => Some(request),
                    () = std::future::ready(()) => None,
                }
            };
            match request {
                None => return Ok(true),
                Some(Ok(Request::Want { ranges })) => {
                    if queue.len() + ranges.len() > MAX_QUEUED_RANGES {
                        return Err(SessionError::Refused(Refusal::Protocol));
                    }
                    queue.extend(ranges.iter().filter(|range| range.count > 0));
                }
                Some(Ok(Request::Done) | Err(WireError::Closed)) => return Ok(false),
                Some(Ok(Request::Hello { .. })) => {
                    return Err(SessionError::Refused(Refusal::Protocol));
                }
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    async fn read(&self, blob: &K::Blob, index: u64) -> Result<(u64, Bytes), SessionError> {
        read_chunk(self.grant, blob, index).await
    }

    async fn reserve(&self, want: u64) -> Result<u64, SessionError> {
        reserve(self.shared, self.grant, want).await
    }
}

/// Takes one chunk off the front of the queue.
fn pop(queue: &mut VecDeque<ChunkRange>) -> Option<u64> {
    let front = queue.front_mut()?;
    let index = front.start;
    front.start = front.start.saturating_add(1);
    front.count -= 1;
    if front.count == 0 {
        queue.pop_front();
    }
    Some(index)
}

async fn read_chunk<B: BlobSource>(
    grant: &AnyGrant,
    blob: &B,
    index: u64,
) -> Result<(u64, Bytes), SessionError> {
    let len = chunk_len(grant.blob_bytes(), index).filter(|_| grant.covers(index));
    let len = len.ok_or(SessionError::Refused(Refusal::NotYours))?;
    let bytes = blob
        .read_at(index * CHUNK_BYTES, len as usize)
        .await
        .map_err(|error| {
            error!(blob = %grant.blob(), %error, "a blob to be sent cannot be read");
            SessionError::Refused(Refusal::Unreadable)
        })?;
    if bytes.len() as u64 != len {
        return Err(SessionError::Refused(Refusal::Unreadable));
    }
    Ok((index, bytes))
}

/// A checkpoint: judges again what may have changed, and reserves at most a step of the bytes wanted. 0: used up.
async fn reserve<K: Keeper>(
    shared: &Shared<K>,
    grant: &AnyGrant,
    want: u64,
) -> Result<u64, SessionError> {
    let now = shared.keeper.now();
    if now >= grant.validity().expires {
        return Err(SessionError::Refused(Refusal::Expired));
    }
    shared
        .keeper
        .permit(grant)
        .await
        .map_err(SessionError::Refused)?;
    Ok(grant_use::reserve(&shared.db, grant, want.min(STEP_BYTES), now).await?)
}
