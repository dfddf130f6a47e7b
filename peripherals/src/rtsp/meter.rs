//! The bound between a camera and retina.
//!
//! retina keeps what it has received until a message or a picture is whole, however large the camera says it is or lets
//! it grow. So it is given a connection to this relay on loopback instead of to the camera: the relay passes bytes
//! both ways, counts those that came since the last whole picture, and ends the connection beyond
//! [`MAX_PENDING_BYTES`]. It reads nothing of what passes, so nothing can be hidden from it by framing. The camera
//! sees the relay's address in request lines, as it would behind a forwarded port; only paths matter to cameras.

use std::io;
use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::Transport;
use crate::live::MAX_ACCESS_UNIT_BYTES;

/// Most bytes that a camera may send without a picture (or, of a stream without pictures, a packet of sound) getting
/// whole.
pub const MAX_PENDING_BYTES: u64 = 2 * MAX_ACCESS_UNIT_BYTES as u64;
/// Most bytes that a camera may send before it plays: answers and the description of its streams.
pub const MAX_SETUP_BYTES: u64 = 512 * 1024;
/// How long the relay waits for retina's connection.
const ACCEPT_TIME: Duration = Duration::from_secs(5);
/// How long one write may take: a consumer that stands still ends the stream.
const WRITE_TIME: Duration = Duration::from_mins(1);
/// Bytes passed on at once.
const PIECE_BYTES: usize = 32 * 1024;

/// How a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The camera closed it, or it broke.
    #[error("the camera closed the connection")]
    ByCamera,
    /// The camera sent too much for one message or picture.
    #[error("the camera sent more than {0} bytes without a whole picture among them")]
    TooMuch(u64),
    /// What the camera sent is no RTSP.
    #[error("the camera does not speak RTSP as it should")]
    NoRtsp,
    /// Our side closed it.
    #[error("the stream was closed")]
    ByUs,
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Meter {
    pending: AtomicU64,
    limit: AtomicU64,
    ended: OnceLock<Ended>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            pending: AtomicU64::new(0),
            limit: AtomicU64::new(MAX_SETUP_BYTES),
            ended: OnceLock::new(),
        }
    }

    /// From now on pictures come.
    pub(crate) fn playing(&self) {
        self.limit.store(MAX_PENDING_BYTES, Ordering::Relaxed);
        self.progress();
    }

    /// Something got whole.
    pub(crate) fn progress(&self) {
        self.pending.store(0, Ordering::Relaxed);
    }

    /// How the connection ended; `None`: it has not, or retina's side broke first.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.get().copied()
    }

    /// Says how the connection ended, before our side of it is closed.
    pub(super) fn tell(&self, ended: Ended) {
        // Only the first reason counts.
        let _ = self.ended.set(ended);
    }

    pub(super) fn count(&self, bytes: usize) -> Result<(), Ended> {
        let limit = self.limit.load(Ordering::Relaxed);
        let bytes = bytes as u64;
        if self.pending.fetch_add(bytes, Ordering::Relaxed) + bytes > limit {
            return Err(Ended::TooMuch(limit));
        }
        Ok(())
    }
}

/// A listener for retina, on loopback.
pub(crate) async fn listen() -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Relays one connection until either side ends it.
pub(crate) async fn relay(
    listener: TcpListener,
    camera: TcpStream,
    transport: Transport,
    meter: &Meter,
) {
    let accepted = timeout(ACCEPT_TIME, listener.accept()).await;
    drop(listener);
    let Ok(Ok((ours, _))) = accepted else {
        meter.tell(Ended::ByUs);
        return;
    };
    match transport {
        Transport::Interleaved => pass_on(ours, camera, meter).await,
        Transport::Udp => super::udp::relay(ours, camera, meter).await,
    }
}

async fn pass_on(ours: TcpStream, camera: TcpStream, meter: &Meter) {
    let (mut ours_read, mut ours_write) = ours.into_split();
    let (mut camera_read, mut camera_write) = camera.into_split();
    let down = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let Ok(read @ 1..) = camera_read.read(&mut piece).await else {
                return Ended::ByCamera;
            };
            if let Err(ended) = meter.count(read) {
                return ended;
            }
            if !pass(&mut ours_write, &piece[..read]).await {
                return Ended::ByUs;
            }
        }
    };
    let up = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let Ok(read @ 1..) = ours_read.read(&mut piece).await else {
                return Ended::ByUs;
            };
            if !pass(&mut camera_write, &piece[..read]).await {
                return Ended::ByCamera;
            }
        }
    };
    let ended = tokio::select! {
        ended = down => ended,
        ended = up => ended,
    };
    // Told before our side sees the end, so that whoever sees it can ask why.
    meter.tell(ended);
}

async fn pass(to: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    matches!(timeout(WRITE_TIME, to.write_all(bytes)).await, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_never_ends_is_cut_and_whole_ones_are_not() {
        let meter = Meter::new();
        assert_eq!(
            meter.count(MAX_SETUP_BYTES as usize + 1),
            Err(Ended::TooMuch(MAX_SETUP_BYTES))
        );
        meter.playing();
        for _ in 0..1000 {
            meter
                .count(MAX_ACCESS_UNIT_BYTES)
                .expect("one picture is allowed");
            meter.progress();
        }
        meter.count(MAX_ACCESS_UNIT_BYTES).expect("one");
        meter.count(MAX_ACCESS_UNIT_BYTES).expect("two");
        assert_eq!(meter.count(1), Err(Ended::TooMuch(MAX_PENDING_BYTES)));
    }
}
