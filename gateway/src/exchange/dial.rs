//! The receiver's end of the chunk protocol (F22): reaches the sender directly or through the relay (F8) and takes
//! chunks. On either path the stream is TLS 1.3 from gateway to gateway, the receiver its client, and only the holder
//! of the sender's device key is accepted. Orders, grants and the choice of a path are the driver's.

use super::wire::{self, Frames, WireError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use mantel_protocol::api::MAX_ADDRESSES;
use mantel_protocol::blob::{BlobError, BlobId, ChunkRange, HashList, chunk_len};
use mantel_protocol::chunk::{
    Answer, CHUNK_ALPN, CHUNK_PROTOCOL, MAX_ANSWER_FRAME, Refusal, Request, decode, encode,
};
use mantel_protocol::grant::{Grant, MAX_GRANT_RANGES};
use mantel_protocol::key::{DeviceId, ServerKey, SigningKey};
use mantel_protocol::receipt::Path;
use mantel_protocol::relay::{
    Admission, GO, JOIN_WAIT_S, MAX_ADMISSION_FRAME, RELAY_ALPN, RELAY_PROTOCOL, RelayRefusal,
    Welcome,
};
use mantel_runtime::tls::{TlsError, any_name, raw_key_client};
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long one address has for TCP and TLS together.
const DIRECT_LIMIT: Duration = Duration::from_secs(1);
/// How long the relay has for TCP and TLS, and the sender for its handshake behind it.
const RELAY_LIMIT: Duration = Duration::from_secs(10);
/// The relay answers after [`JOIN_WAIT_S`] at the latest; it is given so much more.
const RELAY_GRACE: Duration = Duration::from_secs(10);
/// What one read takes from the socket. Large, so that a TLS record costs a fraction of a system call.
pub(super) const SOCKET_BUFFER: usize = 256 * 1024;
/// Chunks asked for and not yet come: 32 MiB on the way fill 1 Gbit/s at a quarter of a second.
const WINDOW_CHUNKS: u64 = 32;
/// The window is filled up again when so many chunks of it have come.
const WINDOW_STEP: u64 = 8;

/// Where the relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayPoint {
    /// The server's name or address.
    pub host: String,
    /// The relay's port.
    pub port: u16,
    /// The key that the relay must show.
    pub key: ServerKey,
}

/// Why no stream came about. Display is for a person.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The sender has told no address.
    #[error("the sending home has no address to connect to; its bytes go through the server")]
    NoAddress,
    /// No address led to the sender.
    #[error("the sending home cannot be reached directly; its bytes go through the server")]
    Unreachable,
    /// This gateway's key makes no TLS configuration.
    #[error("this gateway's key cannot be used")]
    Key(#[from] TlsError),
    /// The relay cannot be reached, or is not the one that was pinned.
    #[error("the server's relay cannot be reached; it will be tried again")]
    Relay(#[source] io::Error),
    /// The relay says no.
    #[error(transparent)]
    Refused(RelayRefusal),
    /// The relay joined, but the other end is not the sender, or broke off.
    #[error("the sending home broke off before the transfer began; it will be tried again")]
    Peer(#[source] io::Error),
}

/// Why chunks stopped coming. Display is for a person.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The sender says no.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection broke or stood still. Whole chunks were kept.
    #[error("the connection to the sending home broke; what arrived was kept")]
    Lost(#[source] io::Error),
    /// Something that the protocol does not allow.
    #[error("the sending home sent something that was not asked for; what arrived was kept")]
    Protocol,
    /// A hash list that does not belong to the blob.
    #[error("the sending home sent the description of something else; nothing of it was kept")]
    Hashes(#[source] BlobError),
}

/// Why [`ChunkStream::receive`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E: std::error::Error + 'static> {
    /// The stream failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The sink did not take a chunk: wrong bytes, or a full disk.
    #[error(transparent)]
    Sink(E),
}

impl From<WireError> for FetchError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(error) => Self::Lost(error),
            WireError::Closed => Self::Lost(io::ErrorKind::UnexpectedEof.into()),
            WireError::Frame(_) => Self::Protocol,
        }
    }
}

/// Where received chunks go: verifies each and makes it durable.
pub trait ChunkSink: Send {
    /// What can go wrong.
    type Error: std::error::Error + Send + 'static;

    /// Takes a chunk. Returns its buffer to be used again, or an empty one.
    fn write(
        &mut self,
        index: u64,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Self::Error>> + Send;
}

type Tls = TlsStream<BufReader<TcpStream>>;

/// A stream of chunks from one sender.
#[derive(Debug)]
pub struct ChunkStream {
    tls: Tls,
    frames: Frames,
    path: Path,
    /// The blob's size, once the sender has accepted.
    size: u64,
    /// What was asked for and has not come, in the order in which it will come.
    due: VecDeque<ChunkRange>,
}

/// Connects to the first of `addresses` behind which `sender` proves its key. All are tried at once, each for a second.
pub async fn connect_direct(
    key: &SigningKey,
    sender: DeviceId,
    addresses: &[SocketAddr],
) -> Result<ChunkStream, DialError> {
    if addresses.is_empty() {
        return Err(DialError::NoAddress);
    }
    let config = Arc::new(raw_key_client(key, sender.0, CHUNK_ALPN)?);
    let mut attempts: FuturesUnordered<_> = addresses
        .iter()
        .take(MAX_ADDRESSES)
        .map(|address| {
            let config = Arc::clone(&config);
            timeout(DIRECT_LIMIT, async move {
                secure(open(*address).await?, config).await
            })
        })
        .collect();
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(Ok(tls)) => return Ok(ChunkStream::new(tls, Path::Direct)),
            Ok(Err(error)) => tracing::debug!(%error, "a direct path failed"),
            Err(_) => tracing::debug!("a direct path did not answer in time"),
        }
    }
    Err(DialError::Unreachable)
}

/// Meets `sender` at the relay. `grant` is the token; it names both.
pub async fn connect_relay(
    key: &SigningKey,
    relay: &RelayPoint,
    grant: &str,
    sender: DeviceId,
) -> Result<ChunkStream, DialError> {
    let config = Arc::new(raw_key_client(key, sender.0, CHUNK_ALPN)?);
    let raw = enter_relay(key, relay, grant).await?;
    let tls = timeout(RELAY_LIMIT, secure(raw, config))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(DialError::Peer)?;
    Ok(ChunkStream::new(tls, Path::Relay))
}

/// Shows `grant` at the relay, waits until the other side is there, and returns the raw stream to it.
pub(super) async fn enter_relay(
    key: &SigningKey,
    relay: &RelayPoint,
    grant: &str,
) -> Result<TcpStream, DialError> {
    let config = raw_key_client(key, relay.key.0, RELAY_ALPN)?;
    let entering = async {
        let raw = open((relay.host.as_str(), relay.port)).await?;
        let mut tls = TlsConnector::from(Arc::new(config))
            .connect(any_name(), raw)
            .await?;
        let admission = Admission {
            version: RELAY_PROTOCOL,
            grant: grant.to_owned(),
        };
        tls.write_all(&encode(&admission)).await?;
        tls.flush().await?;
        io::Result::Ok(tls)
    };
    let mut tls = timeout(RELAY_LIMIT, entering)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(DialError::Relay)?;
    let patience = Duration::from_secs(JOIN_WAIT_S) + RELAY_GRACE;
    let welcome = timeout(patience, read_welcome(&mut tls))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(DialError::Relay)?;
    match welcome {
        Welcome::Refused(refusal) => Err(DialError::Refused(refusal)),
        Welcome::Joined => {
            let (mut raw, _) = tls.into_inner();
            raw.write_u8(GO).await.map_err(DialError::Relay)?;
            Ok(raw)
        }
    }
}

async fn read_welcome(tls: &mut TlsStream<TcpStream>) -> io::Result<Welcome> {
    let len = tls.read_u32_le().await? as usize;
    if len > MAX_ADMISSION_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; len];
    tls.read_exact(&mut frame).await?;
    decode(&frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn open(to: impl tokio::net::ToSocketAddrs) -> io::Result<TcpStream> {
    let raw = TcpStream::connect(to).await?;
    raw.set_nodelay(true)?;
    Ok(raw)
}

async fn secure(raw: TcpStream, config: Arc<ClientConfig>) -> io::Result<Tls> {
    let buffered = BufReader::with_capacity(SOCKET_BUFFER, raw);
    TlsConnector::from(config)
        .connect(any_name(), buffered)
        .await
}

impl ChunkStream {
    fn new(tls: Tls, path: Path) -> Self {
        let frames = Frames::new(MAX_ANSWER_FRAME);
        Self {
            tls,
            frames,
            path,
            size: 0,
            due: VecDeque::new(),
        }
    }

    /// Which way it goes.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Shows the grant; the answer is the blob's hash list, checked against the grant.
    pub async fn hello(&mut self, token: &str, grant: &Grant) -> Result<HashList, FetchError> {
        self.hello_for(token, grant.blob, grant.blob_bytes).await
    }

    /// [`ChunkStream::hello`] with a token of either kind, for a blob of this size.
    pub async fn hello_for(
        &mut self,
        token: &str,
        blob: BlobId,
        blob_bytes: u64,
    ) -> Result<HashList, FetchError> {
        let hello = Request::Hello {
            version: CHUNK_PROTOCOL,
            grant: token.to_owned(),
        };
        wire::send(&mut self.tls, &hello)
            .await
            .map_err(FetchError::Lost)?;
        match self.frames.read(&mut self.tls).await? {
            Answer::Accept { hashes } => {
                let list =
                    HashList::verified(blob, blob_bytes, hashes).map_err(FetchError::Hashes)?;
                self.size = list.size();
                Ok(list)
            }
            Answer::Refuse(refusal) => Err(FetchError::Refused(refusal)),
            Answer::Chunk { .. } => Err(FetchError::Protocol),
        }
    }

    /// Asks for chunks; they come in this order, after those asked for before.
    pub async fn want(&mut self, ranges: &[ChunkRange]) -> Result<(), FetchError> {
        for part in ranges.chunks(MAX_GRANT_RANGES) {
            let want = Request::Want {
                ranges: part.to_vec(),
            };
            wire::send(&mut self.tls, &want)
                .await
                .map_err(FetchError::Lost)?;
            self.due.extend(part.iter().filter(|range| range.count > 0));
        }
        Ok(())
    }

    /// How many chunks were asked for and have not come.
    pub fn under_way(&self) -> u64 {
        self.due
            .iter()
            .map(|range| range.count)
            .fold(0, u64::saturating_add)
    }

    /// Receives the next chunk asked for into `buffer`, whose content is replaced. The bytes are not verified yet.
    pub async fn next(&mut self, mut buffer: Vec<u8>) -> Result<(u64, Vec<u8>), FetchError> {
        match self.frames.read(&mut self.tls).await? {
            Answer::Chunk { index, len } => {
                self.expect(index, len)?;
                buffer.clear();
                let read = wire::read_raw(&mut self.tls, len as usize, &mut buffer).await;
                read.map_err(FetchError::Lost)?;
                Ok((index, buffer))
            }
            Answer::Refuse(refusal) => Err(FetchError::Refused(refusal)),
            Answer::Accept { .. } => Err(FetchError::Protocol),
        }
    }

    /// Only the chunk that is due, and only in its own length, may come.
    fn expect(&mut self, index: u64, len: u32) -> Result<(), FetchError> {
        let due = self.due.front_mut().ok_or(FetchError::Protocol)?;
        if due.start != index || chunk_len(self.size, index) != Some(u64::from(len)) {
            return Err(FetchError::Protocol);
        }
        due.start += 1;
        due.count -= 1;
        if due.count == 0 {
            self.due.pop_front();
        }
        Ok(())
    }

    /// Receives `ranges` into `sink`. A window of chunks is under way all the time, and the next chunk is read while
    /// the sink works on the one before. What the sink took is kept, however this ends.
    pub async fn receive<S: ChunkSink>(
        &mut self,
        ranges: &[ChunkRange],
        sink: &mut S,
    ) -> Result<(), ReceiveError<S::Error>> {
        let mut left: VecDeque<ChunkRange> = ranges.iter().copied().collect();
        let mut spare = Vec::new();
        let mut come: Option<(u64, Vec<u8>)> = None;
        loop {
            let under_way = self.under_way();
            if !left.is_empty() && under_way <= WINDOW_CHUNKS - WINDOW_STEP {
                let more = take_chunks(&mut left, WINDOW_CHUNKS - under_way);
                self.want(&more).await?;
            }
            come = match (come, self.under_way() > 0) {
                (None, false) => return Ok(()),
                (None, true) => Some(self.next(std::mem::take(&mut spare)).await?),
                (Some((index, bytes)), false) => {
                    spare = sink.write(index, bytes).await.map_err(ReceiveError::Sink)?;
                    None
                }
                (Some((index, bytes)), true) => {
                    let buffer = std::mem::take(&mut spare);
                    let (written, next) = tokio::join!(sink.write(index, bytes), self.next(buffer));
                    spare = written.map_err(ReceiveError::Sink)?;
                    Some(next?)
                }
            };
        }
    }

    /// Tells the sender that all has come, and closes.
    pub async fn done(mut self) {
        // The chunks are here; whether the sender still hears of it changes nothing.
        let _ = wire::send(&mut self.tls, &Request::Done).await;
        let _ = timeout(DIRECT_LIMIT, self.tls.shutdown()).await;
    }
}

/// Takes at most `count` chunks off the front.
fn take_chunks(left: &mut VecDeque<ChunkRange>, mut count: u64) -> Vec<ChunkRange> {
    let mut taken = Vec::new();
    while count > 0
        && let Some(front) = left.front_mut()
    {
        let now = front.count.min(count);
        if now > 0 {
            taken.push(ChunkRange {
                start: front.start,
                count: now,
            });
        }
        count -= now;
        front.start = front.start.saturating_add(now);
        front.count -= now;
        if front.count == 0 {
            left.pop_front();
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_window_off_the_front() {
        let range = |start, count| ChunkRange { start, count };
        let mut left = VecDeque::from([range(0, 3), range(9, 0), range(10, 100)]);
        assert_eq!(take_chunks(&mut left, 5), [range(0, 3), range(10, 2)]);
        assert_eq!(take_chunks(&mut left, 4), [range(12, 4)]);
        assert_eq!(take_chunks(&mut left, 1_000), [range(16, 94)]);
        assert_eq!(take_chunks(&mut left, 1), []);
    }

    #[tokio::test]
    async fn without_an_answer_the_home_is_unreachable() {
        let (key, sender) = (SigningKey::generate(), SigningKey::generate().device_id());
        let none = connect_direct(&key, sender, &[]).await;
        assert!(matches!(none, Err(DialError::NoAddress)));
        // A port that was free a moment ago: refused at once.
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = closed.local_addr().expect("an address");
        drop(closed);
        let dead = connect_direct(&key, sender, &[address]).await;
        assert!(matches!(dead, Err(DialError::Unreachable)));
    }
}
