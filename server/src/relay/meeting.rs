//! Where the two sides of a grant find each other, and the register of streams under way. The one owner of both.

use super::RelayFigures;
use mantel_protocol::blob::BlobId;
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{DeliveryId, GrantId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::restriction::Side;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// The most sides of one device that wait at once.
const MAX_WAITING_PER_DEVICE: usize = 32;

/// An admitted connection that has not been told `Joined` yet.
pub(super) struct Guest {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) device: DeviceId,
    pub(super) side: Side,
    pub(super) token: String,
}

/// What becomes of a side that arrives.
pub(super) enum Arrival {
    /// The other side waits already: it now has this one's connection and goes on alone.
    HandedOver,
    /// It waits; the other will come through the channel. Keep the place as long as it waits.
    Waits(Guest, Place, oneshot::Receiver<Guest>),
    /// The relay is full.
    Full(Guest),
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: HashMap<GrantId, Waiter>,
    running: HashMap<(DeliveryId, BlobId), Running>,
    strangers: HashMap<IpAddr, u32>,
}

struct Waiter {
    number: u64,
    device: DeviceId,
    side: Side,
    meet: oneshot::Sender<Guest>,
}

struct Running {
    number: u64,
    cut: CancellationToken,
    ended: watch::Receiver<()>,
}

/// The meeting place.
pub(super) struct Meeting {
    max_waiting: usize,
    state: Mutex<State>,
}

impl Meeting {
    pub(super) fn new(max_waiting: usize) -> Self {
        Self {
            max_waiting,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(super) fn figures(&self) -> RelayFigures {
        let state = self.state();
        RelayFigures {
            waiting: state.waiting.len(),
            joined: state.running.len(),
        }
    }

    /// Counts a connection that has not shown a grant; `None` beyond `limit` from one address.
    pub(super) fn visit(self: &Arc<Self>, from: IpAddr, limit: u32) -> Option<Visit> {
        let mut state = self.state();
        let count = state.strangers.entry(from).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Visit {
            meeting: Arc::clone(self),
            from,
        })
    }

    /// A side of `grant` is here. The newest connection of a side counts: an older one that waits is let go.
    pub(super) fn arrive(self: &Arc<Self>, grant: GrantId, mut guest: Guest) -> Arrival {
        let mut state = self.state();
        if let Some(waiter) = state.waiting.remove(&grant)
            && waiter.side != guest.side
        {
            match waiter.meet.send(guest) {
                Ok(()) => return Arrival::HandedOver,
                // The other left in this moment.
                Err(back) => guest = back,
            }
        }
        let of_device = state
            .waiting
            .values()
            .filter(|waiter| waiter.device == guest.device)
            .count();
        if state.waiting.len() >= self.max_waiting || of_device >= MAX_WAITING_PER_DEVICE {
            return Arrival::Full(guest);
        }
        state.next += 1;
        let number = state.next;
        let (meet, other) = oneshot::channel();
        let waiter = Waiter {
            number,
            device: guest.device,
            side: guest.side,
            meet,
        };
        state.waiting.insert(grant, waiter);
        Arrival::Waits(
            guest,
            Place {
                meeting: Arc::clone(self),
                grant,
                number,
            },
            other,
        )
    }

    /// Registers a stream of `grant`, after cutting an older one of the same blob and delivery and waiting for its end,
    /// so that what it relayed has been counted.
    pub(super) async fn run(self: &Arc<Self>, grant: &Grant) -> Seat {
        let about = (grant.delivery, grant.blob);
        loop {
            let mut older = {
                let mut state = self.state();
                let Some(older) = state.running.get(&about) else {
                    state.next += 1;
                    let number = state.next;
                    let cut = CancellationToken::new();
                    let (alive, ended) = watch::channel(());
                    state.running.insert(
                        about,
                        Running {
                            number,
                            cut: cut.clone(),
                            ended,
                        },
                    );
                    return Seat {
                        meeting: Arc::clone(self),
                        about,
                        number,
                        cut,
                        _alive: alive,
                    };
                };
                older.cut.cancel();
                older.ended.clone()
            };
            // The sender is dropped with its seat: that is the end.
            while older.changed().await.is_ok() {}
        }
    }
}

/// A connection that has not shown a grant.
pub(super) struct Visit {
    meeting: Arc<Meeting>,
    from: IpAddr,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.meeting.state();
        if let Some(count) = state.strangers.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                state.strangers.remove(&self.from);
            }
        }
    }
}

/// A side's place among those that wait.
pub(super) struct Place {
    meeting: Arc<Meeting>,
    grant: GrantId,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.meeting.state();
        if state
            .waiting
            .get(&self.grant)
            .is_some_and(|waiter| waiter.number == self.number)
        {
            state.waiting.remove(&self.grant);
        }
    }
}

/// A stream's place among those under way.
pub(super) struct Seat {
    meeting: Arc<Meeting>,
    about: (DeliveryId, BlobId),
    number: u64,
    /// Cancelled when a newer stream takes over.
    pub(super) cut: CancellationToken,
    _alive: watch::Sender<()>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.meeting.state();
        if state
            .running
            .get(&self.about)
            .is_some_and(|running| running.number == self.number)
        {
            state.running.remove(&self.about);
        }
    }
}
