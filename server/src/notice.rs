//! What is told after a commit: "look again" to gateways, an end to the relay, a change to the console's pages.
//!
//! A transaction fills an [`Outbox`]; whoever ran it posts the outbox once it is committed. A notice that is lost costs
//! latency, never truth: gateways ask again on every connection and every 30 s.

use mantel_protocol::bus::Command;
use mantel_protocol::ids::DeliveryId;
use mantel_protocol::key::DeviceId;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, watch};

/// Notices waiting for the broker; more are dropped.
pub const NOTICE_QUEUE: usize = 4_096;
/// Revocations that a slow listener may be behind.
pub const REVOCATION_QUEUE: usize = 1_024;

/// What the broker has to do about a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Tell it to look again.
    Tell(Command),
    /// End its connection: it is not admitted any more.
    Disconnect,
}

/// What one transaction has to tell.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outbox {
    notices: Vec<(DeviceId, Notice)>,
    revoked: Vec<DeliveryId>,
}

impl Outbox {
    /// Tells a gateway to look again. Twice the same is told once.
    pub fn tell(&mut self, device: DeviceId, command: Command) {
        let notice = (device, Notice::Tell(command));
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }

    /// Ends the connection of a gateway that this transaction shut out.
    pub fn disconnect(&mut self, device: DeviceId) {
        self.notices.push((device, Notice::Disconnect));
    }

    /// Tells the sender's gateway and the relay to stop a delivery.
    pub fn revoke(&mut self, sender: DeviceId, delivery: DeliveryId) {
        self.revoked.push(delivery);
        self.tell(sender, Command::Revoked { delivery });
    }
}

/// Where notices go; cheap to clone.
#[derive(Clone)]
pub struct Notices {
    to_broker: mpsc::Sender<(DeviceId, Notice)>,
    revoked: broadcast::Sender<DeliveryId>,
    changes: Arc<watch::Sender<u64>>,
}

impl Notices {
    /// A new set of queues, and the end from which the broker takes.
    pub fn new() -> (Self, mpsc::Receiver<(DeviceId, Notice)>) {
        let (to_broker, taken) = mpsc::channel(NOTICE_QUEUE);
        let (revoked, _) = broadcast::channel(REVOCATION_QUEUE);
        let (changes, _) = watch::channel(0);
        (
            Self {
                to_broker,
                revoked,
                changes: Arc::new(changes),
            },
            taken,
        )
    }

    /// Sends what a committed transaction has to tell.
    pub fn post(&self, outbox: Outbox) {
        for delivery in outbox.revoked {
            // No listener: no relay runs, so there is nothing to stop.
            let _ = self.revoked.send(delivery);
        }
        for notice in outbox.notices {
            if self.to_broker.try_send(notice).is_err() {
                tracing::warn!(
                    "the queue to the broker is full; gateways will see the change at their next look"
                );
                break;
            }
        }
        self.changed();
    }

    /// Tells the console's pages that something changed.
    pub fn changed(&self) {
        self.changes
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Deliveries that were ended by the server, from now on.
    pub fn revocations(&self) -> broadcast::Receiver<DeliveryId> {
        self.revoked.subscribe()
    }

    /// A number that grows with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
