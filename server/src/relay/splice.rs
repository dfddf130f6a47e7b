//! Two joined sockets: bytes go from one to the other through a pipe inside the kernel, never through this process.

use super::Admission;
use super::side::ended;
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{DeliveryId, GrantId};
use rustix::io::Errno;
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The pipe from sender to receiver, bytes. The kernel may give less; then more calls move the same bytes.
const PIPE_BYTES: usize = 1024 * 1024;
/// The most bytes of one splice towards the receiver. Also what a cut may come late by.
const PIECE: usize = 1024 * 1024;
/// The most bytes of one splice towards the sender, which only gets requests.
const REQUEST_PIECE: usize = 64 * 1024;
/// A receiver may send this many bytes ...
const REQUEST_BYTES: u64 = 1024 * 1024;
/// ... and one for so many that it may receive: requests, not media the other way round.
const REQUEST_DIVISOR: u64 = 1_000;
/// A move of so many bytes begins a bulk: from then on bytes gather in the socket for a moment before they are moved,
/// since one large move costs a fraction of many small ones.
const BULK_BEGINS: usize = 32 * 1024;
/// The shortest moment ...
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// ... and the longest, which is also what a relayed byte may be late by.
const LONGEST_WAIT: Duration = Duration::from_millis(8);
/// The moment grows while fewer bytes than this gather in it.
const ENOUGH: usize = 256 * 1024;
/// How often relayed bytes are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Reports without a byte in either direction after which a stream is dropped: 60 seconds.
const IDLE_REPORTS: u32 = 60;
/// How far a stream may run ahead of its rate, as a part of a second.
const BURST: Duration = Duration::from_millis(100);
/// The least burst, so that a low rate still moves whole packets.
const MIN_BURST_BYTES: u64 = 16 * 1024;

/// Two sides that said `GO`.
pub(super) struct Stream {
    pub(super) sender: TcpStream,
    pub(super) receiver: TcpStream,
    pub(super) grant: Grant,
    pub(super) remaining: u64,
    pub(super) rate_limit: Option<u64>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("both sides finished")]
    Finished,
    #[error("a side broke off")]
    Broken(#[source] io::Error),
    #[error("the grant is used up")]
    Used,
    #[error("the delivery was revoked")]
    Revoked,
    #[error("a newer connection took over")]
    Replaced,
    #[error("no byte came for a minute")]
    Idle,
}

/// Moves bytes until both sides have finished or something ends the stream. Reports what it moved, also when dropped.
pub(super) async fn run<A: Admission>(
    stream: Stream,
    admission: &A,
    mut revoked: broadcast::Receiver<DeliveryId>,
    cut: &CancellationToken,
) {
    let Stream {
        sender,
        receiver,
        grant,
        remaining,
        rate_limit,
    } = stream;
    let (sender, receiver) = match (Ends::of(sender), Ends::of(receiver)) {
        (Ok(sender), Ok(receiver)) => (sender, receiver),
        (Err(error), _) | (_, Err(error)) => {
            return warn!(%error, "the relay cannot take over two sockets");
        }
    };
    let meter = Meter::new(admission, grant.id);
    let requests = AtomicU64::new(0);
    let back = REQUEST_BYTES.saturating_add(remaining / REQUEST_DIVISOR);
    let forward = Lane {
        from: sender.read.as_fd(),
        to: &receiver.write,
        piece: PIECE,
        allowed: remaining,
        moved: &meter.moved,
        pace: rate_limit.map(Pace::new),
    };
    let backward = Lane {
        from: receiver.read.as_fd(),
        to: &sender.write,
        piece: REQUEST_PIECE,
        allowed: back,
        moved: &requests,
        pace: None,
    };
    let end = tokio::select! {
        () = ended(&mut revoked, grant.delivery) => End::Revoked,
        () = cut.cancelled() => End::Replaced,
        end = both(forward, backward) => end,
        () = watch(&meter, &requests) => End::Idle,
    };
    if !matches!(end, End::Finished) {
        // What the kernel still holds for the receiver is thrown away: a cut is a cut.
        for socket in [&sender, &receiver] {
            let _ = rustix::net::sockopt::set_socket_linger(&socket.read, Some(Duration::ZERO));
        }
    }
    let bytes = meter.moved.load(Ordering::Relaxed);
    match &end {
        End::Broken(error) => debug!(grant = %grant.id, bytes, %error, "a side broke off"),
        End::Finished => info!(grant = %grant.id, bytes, "a relayed stream finished"),
        other => warn!(grant = %grant.id, bytes, why = %other, "a relayed stream was cut"),
    }
}

async fn both(forward: Lane<'_>, backward: Lane<'_>) -> End {
    match tokio::try_join!(forward.run(), backward.run()) {
        Ok(_) => End::Finished,
        Err(end) => end,
    }
}

/// Reports every second; returns when the stream has been idle for too long.
async fn watch<A: Admission>(meter: &Meter<'_, A>, requests: &AtomicU64) {
    let mut every = interval(REPORT_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut seen, mut idle) = (u64::MAX, 0);
    while idle < IDLE_REPORTS {
        every.tick().await;
        meter.report();
        let now = meter.moved.load(Ordering::Relaxed) + requests.load(Ordering::Relaxed);
        idle = if now == seen { idle + 1 } else { 0 };
        seen = now;
    }
}

/// Counts what reached the receiver and reports what was not reported yet, at the latest when dropped.
struct Meter<'a, A: Admission> {
    admission: &'a A,
    grant: GrantId,
    moved: AtomicU64,
    reported: AtomicU64,
}

impl<'a, A: Admission> Meter<'a, A> {
    fn new(admission: &'a A, grant: GrantId) -> Self {
        Self {
            admission,
            grant,
            moved: AtomicU64::new(0),
            reported: AtomicU64::new(0),
        }
    }

    fn report(&self) {
        let moved = self.moved.load(Ordering::Relaxed);
        let before = self.reported.swap(moved, Ordering::Relaxed);
        if moved > before {
            self.admission.relayed(self.grant, moved - before);
        }
    }
}

impl<A: Admission> Drop for Meter<'_, A> {
    fn drop(&mut self) {
        self.report();
    }
}

/// A socket, its two directions watched apart: one from which bytes are gathered must not wake the relay for each packet.
struct Ends {
    read: OwnedFd,
    write: AsyncFd<OwnedFd>,
}

impl Ends {
    fn of(stream: TcpStream) -> io::Result<Self> {
        let read = OwnedFd::from(stream.into_std()?);
        let write = register(read.try_clone()?, Interest::WRITABLE)?;
        Ok(Self { read, write })
    }
}

/// Has the kernel wake a task for one direction of a socket. (tokio's other watchers always watch both.)
#[allow(
    deprecated,
    reason = "deprecated for types that may close the descriptor or hand out another; these own or borrow one that stays"
)]
fn register<T: AsFd + AsRawFd>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}

/// One direction.
struct Lane<'a> {
    from: BorrowedFd<'a>,
    to: &'a AsyncFd<OwnedFd>,
    piece: usize,
    allowed: u64,
    moved: &'a AtomicU64,
    pace: Option<Pace>,
}

impl Lane<'_> {
    /// Moves bytes until `from` has finished, and then lets `to` know (half-close).
    async fn run(mut self) -> Result<(), End> {
        let (exit, entry) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|error| End::Broken(error.into()))?;
        if self.piece == PIECE {
            // Beyond the user's share of pipe memory the kernel refuses; the small pipe works too.
            let _ = fcntl_setpipe_size(&entry, PIPE_BYTES);
        }
        let mut source = Source::new(self.from);
        loop {
            let want = self
                .pace
                .as_ref()
                .map_or(self.piece, |pace| pace.piece.min(self.piece));
            // One byte more than allowed shows that the sender wants to go beyond.
            let want = usize::try_from(self.allowed)
                .unwrap_or(usize::MAX)
                .min(want)
                .max(1);
            let got = source.fill(&entry, want).await.map_err(End::Broken)?;
            if got == 0 {
                let _ = rustix::net::shutdown(self.to.get_ref(), Shutdown::Write);
                return Ok(());
            }
            self.allowed = self.allowed.checked_sub(got as u64).ok_or(End::Used)?;
            // A full piece is followed by more, as a rule: the kernel need not send a short packet at its end. (Where the
            // rule fails it waits for an acknowledgement, or for 200 ms at most.)
            let flags = if got == want {
                SpliceFlags::MORE
            } else {
                SpliceFlags::empty()
            };
            self.drain(&exit, got, flags).await.map_err(End::Broken)?;
            if let Some(pace) = &mut self.pace {
                pace.wait(got).await;
            }
        }
    }

    /// Empties the pipe of `left` bytes. The pipe holds them, so `EAGAIN` speaks of the socket.
    async fn drain(&self, exit: &OwnedFd, mut left: usize, flags: SpliceFlags) -> io::Result<()> {
        while left > 0 {
            let put = self
                .to
                .async_io(Interest::WRITABLE, |to| move_bytes(exit, to, left, flags))
                .await?;
            if put == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            left -= put;
            self.moved.fetch_add(put as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// A socket to read from. Between bulks the kernel says when it is readable; in bulk it is looked at after a moment.
struct Source<'a> {
    socket: BorrowedFd<'a>,
    /// `None` in bulk: the kernel wakes nobody.
    watched: Option<AsyncFd<BorrowedFd<'a>>>,
    wait: Duration,
    /// The last move left nothing behind.
    emptied: bool,
    /// Bytes moved since the last wait.
    gathered: usize,
}

impl<'a> Source<'a> {
    fn new(socket: BorrowedFd<'a>) -> Self {
        Self {
            socket,
            watched: None,
            wait: LONGEST_WAIT,
            emptied: false,
            gathered: 0,
        }
    }

    /// Takes up to `want` bytes into the empty pipe; 0 at the end. The pipe is empty, so `EAGAIN` speaks of the socket.
    async fn fill(&mut self, entry: &OwnedFd, want: usize) -> io::Result<usize> {
        let watched = match self.watched.take() {
            Some(watched) => watched,
            None => match self.gather(entry, want).await? {
                Some(got) => return Ok(got),
                None => register(self.socket, Interest::READABLE)?,
            },
        };
        let once = |from: &BorrowedFd<'_>| move_bytes(from, entry, want, SpliceFlags::empty());
        let got = watched.async_io(Interest::READABLE, once).await?;
        if got >= BULK_BEGINS {
            self.wait = SHORTEST_WAIT;
            self.emptied = got < want;
        } else {
            self.watched = Some(watched);
        }
        Ok(got)
    }

    /// In bulk: lets bytes gather, and takes them. `None`: nothing came even in the longest wait; the bulk is over.
    async fn gather(&mut self, entry: &OwnedFd, want: usize) -> io::Result<Option<usize>> {
        loop {
            if self.emptied {
                tokio::time::sleep(self.wait).await;
                self.gathered = 0;
            }
            match move_bytes(self.socket, entry, want, SpliceFlags::empty()) {
                Ok(got) => {
                    self.emptied = got < want;
                    self.gathered += got;
                    if self.emptied {
                        self.wait = self.next_wait();
                    }
                    return Ok(Some(got));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if self.wait >= LONGEST_WAIT => return Ok(None),
                Err(_) => {
                    self.emptied = true;
                    self.wait = (self.wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    /// How long the next bytes may gather: longer while few come, but never so long that the socket fills up and holds
    /// the sender back.
    fn next_wait(&self) -> Duration {
        let room = rustix::net::sockopt::socket_recv_buffer_size(self.socket).unwrap_or(0);
        if self.gathered >= room / 4 {
            (self.wait / 2).max(SHORTEST_WAIT)
        } else if self.gathered < ENOUGH {
            (self.wait * 2).min(LONGEST_WAIT)
        } else {
            self.wait
        }
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, len: usize, flags: SpliceFlags) -> io::Result<usize> {
    let flags = flags | SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match splice(&from, None, &to, None, len, flags) {
            Err(Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A token bucket of one stream.
struct Pace {
    rate: u64,
    burst: Duration,
    piece: usize,
    /// When the bytes moved so far would all be due.
    due: Instant,
}

impl Pace {
    fn new(rate: u64) -> Self {
        let rate = rate.max(1);
        let bytes = (rate / (1_000 / BURST.as_millis() as u64)).max(MIN_BURST_BYTES);
        let burst = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let piece = usize::try_from(bytes).unwrap_or(PIECE);
        Self {
            rate,
            burst,
            piece,
            due: Instant::now(),
        }
    }

    async fn wait(&mut self, moved: usize) {
        let now = Instant::now();
        let due = self.charge(moved, now);
        if due > now {
            sleep_until(due).await;
        }
    }

    /// Until when to wait after moving so many bytes.
    fn charge(&mut self, moved: usize, now: Instant) -> Instant {
        let took = Duration::from_secs_f64(moved as f64 / self.rate as f64);
        // Time in which nothing was moved earns one burst at most.
        self.due = self.due.max(now.checked_sub(self.burst).unwrap_or(now)) + took;
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paced_stream_keeps_its_rate_and_saves_no_more_than_a_burst() {
        let rate = 10_000_000;
        let mut pace = Pace::new(rate);
        let mut now = Instant::now() + Duration::from_hours(1);
        let begin = now;
        let mut moved = 0u64;
        while moved < 5 * rate {
            let piece = pace.piece;
            moved += piece as u64;
            now = now.max(pace.charge(piece, now));
        }
        let took = now - begin;
        let least = Duration::from_secs(5).saturating_sub(pace.burst);
        assert!(took >= least && took <= Duration::from_secs(6), "{took:?}");
    }
}
