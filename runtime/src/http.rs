//! Serving an axum router over TCP or TLS, with the task tree's ordered stop.

use crate::tasks::Tasks;
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; more callers wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Finished handshakes waiting for the server.
const READY_QUEUE: usize = 64;

/// Where a request came from; extract it with `ConnectInfo<Peer>`.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// A listener that sends each answer at once: a short one would wait for the peer's acknowledgement otherwise.
struct PromptListener(TcpListener);

impl Listener for PromptListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        accept(&self.0).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, PromptListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, PromptListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// A listener that hands out finished TLS connections; handshakes run beside each other.
pub struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl TlsListener {
    /// Accepts on `listener` from now on, as tasks of `tasks`.
    pub fn start(
        listener: TcpListener,
        config: rustls::ServerConfig,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (send, ready) = mpsc::channel(READY_QUEUE);
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        let node = tasks.clone();
        tasks.spawn("tls-accept", async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return;
                };
                let (stream, peer) = accept(&listener).await;
                let (acceptor, send) = (acceptor.clone(), send.clone());
                node.spawn("tls-handshake", async move {
                    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => drop(send.send((stream, peer)).await),
                        Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
                        Err(_) => debug!(%peer, "TLS handshake took too long"),
                    }
                    drop(place);
                });
            }
        });
        Ok(Self { ready, local })
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                // Out of descriptors, most likely: let others finish first.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// Serves plain HTTP (pages on the LAN) until the tree stops; requests under way may finish.
pub fn serve(listener: TcpListener, router: Router, tasks: &Tasks) {
    let token = tasks.token().clone();
    let service = router.into_make_service_with_connect_info::<Peer>();
    tasks.spawn_graceful("http", async move {
        let listener = PromptListener(listener);
        let served = axum::serve(listener, service).with_graceful_shutdown(token.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "the HTTP server stopped");
        }
    });
}

/// Serves HTTPS until the tree stops; requests under way may finish.
pub fn serve_tls(listener: TlsListener, router: Router, tasks: &Tasks) {
    let token = tasks.token().clone();
    let service = router.into_make_service_with_connect_info::<Peer>();
    tasks.spawn_graceful("https", async move {
        let served = axum::serve(listener, service).with_graceful_shutdown(token.cancelled_owned());
        if let Err(error) = served.await {
            warn!(%error, "the HTTPS server stopped");
        }
    });
}
