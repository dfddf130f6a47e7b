//! The yardstick: TLS 1.3 over one TCP connection and nothing else, as one writes it with tokio-rustls. Same key type
//! and cipher suite as Mantel's streams. Nothing is read from disk, verified or kept.

use super::part::{Meter, Ready, told_to_stop};
use super::syncthing;
use anyhow::{Context as _, Result, ensure};
use mantel_protocol::chunk::{decode, encode};
use mantel_protocol::key::SigningKey;
use mantel_protocol::relay::{
    Admission, GO, MAX_ADMISSION_FRAME, RELAY_ALPN, RELAY_PROTOCOL, Welcome,
};
use mantel_runtime::tls::{any_name, raw_key_client, raw_key_server};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ALPN: &[u8] = b"bench";
const PIECE: usize = 1024 * 1024;
/// What Mantel's ends read from the socket at once.
const LARGE: usize = 256 * 1024;

/// How the buffers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Buffers {
    /// As the library has them.
    Default,
    /// What is read from the socket as large as in Mantel's ends.
    Large,
}

/// Which way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Way {
    /// The sender listens at a port that it tells; the receiver connects to it.
    Direct {
        /// For the receiver.
        port: u16,
    },
    /// Through Syncthing's relay at this port of loopback.
    Syncthing {
        /// The relay's port.
        port: u16,
        /// Whom to connect to, for the receiver.
        peer: [u8; 32],
    },
    /// Through Mantel's relay at this port of loopback.
    Mantel {
        /// The relay's port.
        port: u16,
        /// The relay's public key.
        server: [u8; 32],
        /// The grant that both sides show.
        grant: String,
    },
}

/// The sender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Send {
    /// Seed of its key.
    pub key: [u8; 32],
    /// How much to send.
    pub bytes: u64,
    /// Its buffers.
    pub buffers: Buffers,
    /// Which way.
    pub way: Way,
}

/// The receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receive {
    /// Seed of its key.
    pub key: [u8; 32],
    /// The sender's public key.
    pub sender: [u8; 32],
    /// How much to expect.
    pub bytes: u64,
    /// Its buffers.
    pub buffers: Buffers,
    /// Which way.
    pub way: Way,
}

/// Sends.
pub async fn send(it: Send) -> Result<()> {
    let key = SigningKey::from_seed(&it.key)?;
    let config = raw_key_server(&key, ALPN)?;
    let (meter, raw, _stays) = match it.way {
        Way::Direct { .. } => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let port = listener.local_addr()?.port();
            let meter = Meter::start(&Ready { port, id: None })?;
            (meter, listener.accept().await?.0, None)
        }
        Way::Syncthing { port, .. } => {
            let mut guest = syncthing::Guest::join(port).await?;
            let ready = Ready {
                port: 0,
                id: Some(guest.id()),
            };
            let meter = Meter::start(&ready)?;
            let raw = guest.invited().await?;
            (meter, raw, Some(guest))
        }
        Way::Mantel {
            port,
            server,
            grant,
        } => {
            let meter = Meter::start(&Ready::default())?;
            (meter, enter_relay(&key, port, server, grant).await?, None)
        }
    };
    raw.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    match it.buffers {
        Buffers::Default => pour(acceptor.accept(raw).await?, it.bytes).await?,
        Buffers::Large => {
            let tls = acceptor
                .accept(BufReader::with_capacity(LARGE, raw))
                .await?;
            pour(tls, it.bytes).await?;
        }
    }
    told_to_stop().await?;
    meter.done(std::time::Duration::ZERO, 0)
}

async fn pour(mut to: impl AsyncWrite + Unpin, mut left: u64) -> Result<()> {
    let piece = vec![0x5a; PIECE];
    while left > 0 {
        let now = left.min(PIECE as u64) as usize;
        to.write_all(&piece[..now]).await?;
        left -= now as u64;
    }
    to.flush().await.context("sending the rest")
}

/// Receives.
pub async fn receive(it: Receive) -> Result<()> {
    let key = SigningKey::from_seed(&it.key)?;
    let config = raw_key_client(&key, it.sender, ALPN)?;
    let meter = Meter::start(&Ready::default())?;
    let raw = match it.way {
        Way::Direct { port } => TcpStream::connect(("127.0.0.1", port)).await?,
        Way::Syncthing { port, peer } => syncthing::Guest::connect(port, peer).await?,
        Way::Mantel {
            port,
            server,
            grant,
        } => enter_relay(&key, port, server, grant).await?,
    };
    raw.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(config));
    let begin = Instant::now();
    let bytes = match it.buffers {
        Buffers::Default => drink(connector.connect(any_name(), raw).await?, it.bytes).await?,
        Buffers::Large => {
            let buffered = BufReader::with_capacity(LARGE, raw);
            drink(connector.connect(any_name(), buffered).await?, it.bytes).await?
        }
    };
    meter.done(begin.elapsed(), bytes)
}

async fn drink(mut from: impl AsyncRead + Unpin, want: u64) -> Result<u64> {
    let mut buffer = vec![0; PIECE];
    let mut got = 0;
    while got < want {
        let now = from.read(&mut buffer).await?;
        ensure!(now > 0, "the sender ended after {got} bytes");
        got += now as u64;
    }
    Ok(got)
}

/// Shows a grant at Mantel's relay, as `mantel_protocol::relay` says, and waits for the other side.
async fn enter_relay(
    key: &SigningKey,
    port: u16,
    server: [u8; 32],
    grant: String,
) -> Result<TcpStream> {
    let config = raw_key_client(key, server, RELAY_ALPN)?;
    let raw = TcpStream::connect(("127.0.0.1", port)).await?;
    raw.set_nodelay(true)?;
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(any_name(), raw)
        .await?;
    tls.write_all(&encode(&Admission {
        version: RELAY_PROTOCOL,
        grant,
    }))
    .await?;
    tls.flush().await?;
    let len = tls.read_u32_le().await? as usize;
    ensure!(
        len <= MAX_ADMISSION_FRAME,
        "the relay sent a frame of {len} bytes"
    );
    let mut frame = vec![0; len];
    tls.read_exact(&mut frame).await?;
    let welcome: Welcome = decode(&frame)?;
    ensure!(welcome == Welcome::Joined, "the relay says {welcome:?}");
    let (mut raw, _) = tls.into_inner();
    raw.write_u8(GO).await?;
    Ok(raw)
}
