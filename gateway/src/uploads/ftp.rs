//! FTP (RFC 959, 2389, 2428, 3659) with explicit TLS (RFC 4217), by crate libunftp over the sender's folder.
//!
//! One server object per connection, behind a pump of ours: the pump bounds what a client may send unanswered (the
//! crate's line buffer has no bound), how long it may be silent, how many connections there are, and ends them when the
//! account is revoked or the gateway stops.
//!
//! What cannot be known: stream mode marks the end of a file by closing the data connection (RFC 959 §3.4.1). A sender
//! that dies in a way that closes it in good order looks as if it had finished; a reset or silence is told apart, and
//! nothing is kept.

use super::folder::{Entry, Folder, FolderError};
use super::{Inner, Refused, lock};
use crate::library::SourceError;
use async_trait::async_trait;
use bytes::BytesMut;
use futures_util::{StreamExt as _, stream};
use libunftp::ServerBuilder;
use libunftp::options::{Binder, PassiveHost, SiteMd5, TlsFlags};
use mantel_runtime::files;
use mantel_runtime::tasks::Tasks;
use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use unftp_core::auth::{AuthenticationError, Authenticator, Credentials, DefaultUser, Principal};
use unftp_core::storage::{Error, ErrorKind, Fileinfo, Metadata, StorageBackend};

/// Connections at once.
const SESSIONS: usize = 32;
/// Of them from one address.
const SESSIONS_EACH: usize = 8;
/// A client may send this much before it is answered, bytes.
const UNANSWERED: usize = 64 * 1024;
/// A connection on which nothing moves is closed after this time; while a file is sent its own clock counts.
const IDLE: Duration = Duration::from_mins(10);
/// The same before log-in.
const IDLE_STRANGER: Duration = Duration::from_mins(1);
/// How long a client may take to connect for data. The crate's own limit is 15 s, after which it says nothing at all.
const DATA_WAIT: Duration = Duration::from_secs(10);
/// Tries to find a free port for data.
const PORT_TRIES: u16 = 64;

/// The open listener.
pub(super) struct Open {
    /// Where it listens.
    pub(super) at: SocketAddr,
    tasks: Tasks,
    ended: tokio::task::JoinHandle<()>,
}

impl Open {
    /// Closes it with all its connections; the port is free afterwards.
    pub(super) async fn close(self) {
        self.tasks.cancel();
        let _ = self.ended.await;
    }
}

/// Listens; where the kernel has no IPv6, "every address" means IPv4's.
async fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(at).await {
        Err(_) if at.is_ipv6() && at.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await
        }
        other => other,
    }
}

/// Opens the listener.
pub(super) async fn open(inner: &Arc<Inner>) -> io::Result<Open> {
    let listener = bind(inner.config.ftp_listen).await?;
    let at = listener.local_addr()?;
    let tls = Arc::new(tls_file(&inner.keys)?);
    let tasks = inner.tasks.child();
    let (node, inner) = (tasks.clone(), Arc::clone(inner));
    let ended = tasks.spawn("ftp", async move {
        let places = Arc::new(Semaphore::new(SESSIONS));
        let each: Arc<Mutex<HashMap<IpAddr, usize>>> = Arc::default();
        loop {
            let (mut stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an FTP connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let address = peer.ip().to_canonical();
            let guard = Each::take(&each, address);
            let (Ok(place), Some(guard)) = (Arc::clone(&places).try_acquire_owned(), guard) else {
                node.spawn("ftp-busy", async move {
                    let busy = stream.write_all(b"421 Too many connections, try again later.\r\n");
                    let _ = tokio::time::timeout(IDLE_STRANGER, busy).await;
                });
                continue;
            };
            let (inner, tls, tasks) = (Arc::clone(&inner), Arc::clone(&tls), node.clone());
            node.spawn("ftp-session", async move {
                if let Err(error) = session(&inner, tls, stream, address, &tasks).await {
                    tracing::debug!(%address, %error, "an FTP connection ended");
                }
                drop((place, guard));
            });
        }
    });
    tracing::info!(%at, "FTP is open for devices that send");
    Ok(Open { at, tasks, ended })
}

/// Counts the connections of one address.
struct Each {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Each {
    fn take(counts: &Arc<Mutex<HashMap<IpAddr, usize>>>, address: IpAddr) -> Option<Self> {
        let mut locked = lock(counts);
        let count = locked.entry(address).or_default();
        if *count >= SESSIONS_EACH {
            return None;
        }
        *count += 1;
        drop(locked);
        Some(Self {
            counts: Arc::clone(counts),
            address,
        })
    }
}

impl Drop for Each {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// The file with the gateway's key and certificate for FTP: made once, signed by itself. Cameras take it as it is or let
/// a person accept it.
fn tls_file(keys: &Path) -> io::Result<PathBuf> {
    let made = rcgen::generate_simple_self_signed(vec!["mantel.local".to_owned()]);
    let made = made.map_err(io::Error::other)?;
    let path = keys.join("uploads-tls.pem");
    files::load_or_create_secret(&path, || {
        format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem()).into_bytes()
    })?;
    Ok(path)
}

/// One connection, from greeting to end.
async fn session(
    inner: &Arc<Inner>,
    tls: Arc<PathBuf>,
    stream: TcpStream,
    peer: IpAddr,
    tasks: &Tasks,
) -> io::Result<()> {
    let own = stream.local_addr()?.ip().to_canonical();
    let who: Arc<OnceLock<Folder>> = Arc::default();
    let coming = watch::Sender::new(0);
    let backend = Backend {
        who: Arc::clone(&who),
        coming: coming.clone(),
    };
    let gate = Gate {
        inner: Arc::clone(inner),
        who: Arc::clone(&who),
        peer,
    };
    let (first, last) = (inner.config.ftp_data_first, inner.config.ftp_data_last);
    let mut builder = ServerBuilder::with_authenticator(
        Box::new(move || backend.clone()),
        Arc::new(gate) as Arc<dyn Authenticator + Send + Sync>,
    )
    .greeting("Mantel takes files here. Log in with the user name and password from its page.")
    .passive_ports(first..=last.max(first))
    .idle_session_timeout(IDLE.as_secs())
    .sitemd5(SiteMd5::None)
    .ftps(tls.as_path(), tls.as_path())
    .ftps_tls_flags(TlsFlags::LATEST_VERSIONS)
    .binder(DataPorts {
        own,
        peer,
        tasks: tasks.clone(),
        waiting: CancellationToken::new(),
        coming: coming.subscribe(),
    });
    if let IpAddr::V4(own) = own {
        builder = builder.passive_host(PassiveHost::Ip(own));
    }
    let server = builder
        .build()
        .map_err(|error| io::Error::other(error.to_string()))?;
    let (near, far) = pair().await?;
    let served = tasks.spawn("ftp-server", async move {
        let _ = server.service(far).await;
    });
    let pumped = pump(stream, near, inner, &who, &coming).await;
    // The server sees the end of its connection, and ends.
    let _ = served.await;
    pumped
}

/// Two ends of a connection inside this machine, which nobody else can have.
async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let mine = near.local_addr()?;
    loop {
        let (far, peer) = listener.accept().await?;
        if peer == mine {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

/// Carries bytes between client and server within the limits of this file.
async fn pump(
    client: TcpStream,
    server: TcpStream,
    inner: &Inner,
    who: &OnceLock<Folder>,
    coming: &watch::Sender<usize>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut up, mut down) = (vec![0u8; 4_096], vec![0u8; 4_096]);
    let mut unanswered = 0;
    let mut end: Option<CancellationToken> = None;
    loop {
        if end.is_none() {
            end = who.get().map(|folder| inner.end_of(&folder.sender));
        }
        let (patience, ended) = match &end {
            Some(end) => (IDLE, end.clone()),
            None => (IDLE_STRANGER, CancellationToken::new()),
        };
        tokio::select! {
            biased; // nothing more is taken in or answered once the account is revoked
            () = ended.cancelled() => return Ok(()),
            () = tokio::time::sleep(patience) => {
                if *coming.borrow() > 0 {
                    continue; // a file is coming on its own connection
                }
                let said = to_client.write_all(b"421 Nothing was said for too long.\r\n");
                return tokio::time::timeout(IDLE_STRANGER, said).await.unwrap_or(Ok(()));
            }
            read = from_server.read(&mut down) => {
                let len = read?;
                if len == 0 {
                    return Ok(());
                }
                unanswered = 0;
                let sent = to_client.write_all(&down[..len]);
                tokio::time::timeout(IDLE, sent).await.map_err(io::Error::other)??;
            }
            read = from_client.read(&mut up) => {
                let len = read?;
                if len == 0 {
                    return Ok(());
                }
                unanswered += len;
                if unanswered > UNANSWERED {
                    return Err(io::Error::other("more than 64 KiB came without waiting for an answer"));
                }
                to_server.write_all(&up[..len]).await?;
            }
        }
    }
}

/// Takes data connections at the address to which the client came, from the client only, and hands them on to the
/// server within this machine, at the same port: the server sees both its connections come from there.
struct DataPorts {
    own: IpAddr,
    peer: IpAddr,
    tasks: Tasks,
    /// The port that was told last and to which nobody came yet.
    waiting: CancellationToken,
    coming: watch::Receiver<usize>,
}

impl Debug for DataPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataPorts")
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Binder for DataPorts {
    async fn bind(&mut self, _: IpAddr, ports: RangeInclusive<u16>) -> io::Result<TcpSocket> {
        self.waiting.cancel();
        self.waiting = CancellationToken::new();
        let count = u32::from(*ports.end() - *ports.start()) + 1;
        let mut refused = io::Error::other("no port");
        let start: u32 = rand::random();
        for try_number in 0..u32::from(PORT_TRIES).min(count) {
            let port = *ports.start() + (start.wrapping_add(try_number) % count) as u16;
            match self.take(port).await {
                Ok(socket) => return Ok(socket),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

impl DataPorts {
    async fn take(&self, port: u16) -> io::Result<TcpSocket> {
        let inside = TcpSocket::new_v4()?;
        inside.set_reuseaddr(true)?;
        inside.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        if self.own == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            return Ok(inside); // the client is on this machine
        }
        let listener = TcpListener::bind((self.own, port)).await?;
        let (peer, waiting, coming) = (self.peer, self.waiting.clone(), self.coming.clone());
        self.tasks.spawn("ftp-data", async move {
            let came = tokio::select! {
                () = waiting.cancelled() => return,
                came = tokio::time::timeout(DATA_WAIT, from(&listener, peer)) => came,
            };
            drop(listener);
            let client = came.unwrap_or_else(|late| Err(late.into()));
            if let Err(error) = splice(client, port, coming).await {
                tracing::debug!(%error, "a data connection broke");
            }
        });
        Ok(inside)
    }
}

/// The first connection from this address.
async fn from(listener: &TcpListener, peer: IpAddr) -> io::Result<TcpStream> {
    loop {
        let (stream, at) = listener.accept().await?;
        if at.ip().to_canonical() == peer {
            return Ok(stream);
        }
        tracing::warn!(%at, "a data connection from a stranger was closed");
    }
}

/// Carries a data connection to the server. One that breaks on one side breaks on the other: its end would look like the
/// end of the file. One that never came breaks as well.
///
/// The crate looks at the connection once more before it begins to read a file, and if that was reset already, it leaves
/// the client without an answer (0.24.0, `spawn_processing`); so the reset waits for the file to begin.
async fn splice(
    client: io::Result<TcpStream>,
    port: u16,
    mut coming: watch::Receiver<usize>,
) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let carried = carry(client, &mut server).await;
    if carried.is_err() {
        let begun = coming.wait_for(|files| *files > 0);
        let _ = tokio::time::timeout(DATA_WAIT, begun).await;
        let _ = server.set_zero_linger();
    }
    carried
}

async fn carry(client: io::Result<TcpStream>, server: &mut TcpStream) -> io::Result<()> {
    let mut client = client?;
    let (up, down) = (64 * 1024, 8 * 1024);
    let carried = tokio::io::copy_bidirectional_with_sizes(&mut client, server, up, down).await;
    if carried.is_err() {
        let _ = client.set_zero_linger();
    }
    carried.map(drop)
}

/// Lets one connection log in.
struct Gate {
    inner: Arc<Inner>,
    who: Arc<OnceLock<Folder>>,
    peer: IpAddr,
}

impl Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Authenticator for Gate {
    async fn authenticate(
        &self,
        user: &str,
        told: &Credentials,
    ) -> Result<Principal, AuthenticationError> {
        let password = told.password.as_deref().unwrap_or_default();
        let folder = self.inner.log_in(self.peer, user, password, "FTP").await;
        let folder = folder.map_err(|refused| match refused {
            Refused::Wrong => AuthenticationError::BadPassword,
            Refused::Wait(_) => AuthenticationError::new("too many wrong passwords"),
            Refused::Later => AuthenticationError::new("the gateway cannot judge now"),
        })?;
        // A connection belongs to the first that logs in on it.
        let known = self.who.get_or_init(|| folder.clone());
        if known.sender != folder.sender {
            return Err(AuthenticationError::BadUser);
        }
        Ok(Principal {
            username: user.to_owned(),
        })
    }
}

/// The folder of whoever logged in on this connection.
#[derive(Debug, Clone)]
struct Backend {
    who: Arc<OnceLock<Folder>>,
    /// How many files are coming on this connection.
    coming: watch::Sender<usize>,
}

/// A file that is coming; over when dropped.
struct Coming<'a>(&'a watch::Sender<usize>);

impl<'a> Coming<'a> {
    fn begin(files: &'a watch::Sender<usize>) -> Self {
        files.send_modify(|files| *files += 1);
        Self(files)
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|files| *files -= 1);
    }
}

impl Backend {
    fn folder(&self) -> Result<&Folder, Error> {
        self.who
            .get()
            .ok_or_else(|| Error::from(ErrorKind::PermissionDenied))
    }
}

fn refused(error: FolderError) -> Error {
    use crate::library::ImportError as I;
    let kind = match &error {
        error if error.is_full() => ErrorKind::ExceededStorageAllocationError,
        FolderError::BadName => ErrorKind::FileNameNotAllowedError,
        FolderError::SendOnly | FolderError::Revoked | FolderError::WholeOnly => {
            ErrorKind::PermissionDenied
        }
        FolderError::NoFolder => ErrorKind::PermanentDirectoryNotAvailable,
        FolderError::NotEmpty => ErrorKind::PermanentDirectoryNotEmpty,
        FolderError::Import(I::Upload { .. }) => ErrorKind::ConnectionClosed,
        FolderError::Import(I::TooLarge { .. }) => ErrorKind::ExceededStorageAllocationError,
        FolderError::Import(_) | FolderError::Db(_) | FolderError::Stopping => {
            ErrorKind::LocalError
        }
        _ => ErrorKind::PermanentFileNotAvailable,
    };
    Error::new(kind, error)
}

impl Metadata for Entry {
    fn len(&self) -> u64 {
        self.size
    }
    fn is_dir(&self) -> bool {
        self.folder
    }
    fn is_file(&self) -> bool {
        !self.folder
    }
    fn is_symlink(&self) -> bool {
        false
    }
    fn modified(&self) -> Result<SystemTime, Error> {
        Ok(self.modified.into())
    }
    fn gid(&self) -> u32 {
        0
    }
    fn uid(&self) -> u32 {
        0
    }
}

fn text(path: &Path) -> Result<&str, Error> {
    path.to_str()
        .ok_or_else(|| ErrorKind::FileNameNotAllowedError.into())
}

#[async_trait]
impl StorageBackend<DefaultUser> for Backend {
    type Metadata = Entry;

    async fn metadata<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        path: P,
    ) -> Result<Entry, Error> {
        self.folder()?
            .entry(text(path.as_ref())?)
            .await
            .map_err(refused)
    }

    async fn list<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        path: P,
    ) -> Result<Vec<Fileinfo<PathBuf, Entry>>, Error> {
        let entries = self
            .folder()?
            .list(text(path.as_ref())?)
            .await
            .map_err(refused)?;
        let info = |entry: Entry| Fileinfo {
            path: PathBuf::from(entry.name()),
            metadata: entry,
        };
        Ok(entries.into_iter().map(info).collect())
    }

    async fn get<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        _: P,
        _: u64,
    ) -> Result<Box<dyn AsyncRead + Send + Sync + Unpin>, Error> {
        Err(refused(FolderError::SendOnly))
    }

    async fn put<P, R>(&self, _: &DefaultUser, input: R, path: P, at: u64) -> Result<u64, Error>
    where
        P: AsRef<Path> + Send + Debug,
        R: AsyncRead + Send + Sync + Unpin + 'static,
    {
        let folder = self.folder()?;
        if at > 0 {
            return Err(refused(FolderError::WholeOnly));
        }
        let _coming = Coming::begin(&self.coming);
        let bytes = stream::unfold(Some(input), |input| async move {
            let mut input = input?;
            let mut piece = BytesMut::with_capacity(64 * 1024);
            match input.read_buf(&mut piece).await {
                Ok(0) => None,
                Ok(_) => Some((Ok(piece.freeze()), Some(input))),
                Err(error) => Some((Err(SourceError::from(error)), None)),
            }
        });
        let path = text(path.as_ref())?.to_owned();
        let entry = folder
            .put(&path, None, bytes.boxed())
            .await
            .map_err(refused)?;
        Ok(entry.size)
    }

    async fn del<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        path: P,
    ) -> Result<(), Error> {
        self.folder()?
            .delete(text(path.as_ref())?, false)
            .await
            .map_err(refused)
    }

    async fn mkd<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        path: P,
    ) -> Result<(), Error> {
        self.folder()?
            .make(text(path.as_ref())?)
            .await
            .map_err(refused)
    }

    async fn rename<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        from: P,
        to: P,
    ) -> Result<(), Error> {
        let (from, to) = (text(from.as_ref())?, text(to.as_ref())?);
        self.folder()?.rename(from, to).await.map_err(refused)
    }

    async fn rmd<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        path: P,
    ) -> Result<(), Error> {
        self.folder()?
            .delete(text(path.as_ref())?, true)
            .await
            .map_err(refused)
    }

    async fn cwd<P: AsRef<Path> + Send + Debug>(
        &self,
        _: &DefaultUser,
        path: P,
    ) -> Result<(), Error> {
        let at = self
            .folder()?
            .entry(text(path.as_ref())?)
            .await
            .map_err(refused)?;
        if at.folder {
            Ok(())
        } else {
            Err(ErrorKind::PermanentDirectoryNotAvailable.into())
        }
    }
}
