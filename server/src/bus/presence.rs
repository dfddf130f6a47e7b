//! Which devices are connected, told as events. A device is online from its subscription to its `cmd` (from then on a
//! command reaches it) until its connection ends, says goodbye on `st`, or leaves its last will. A take-over by a new
//! connection of the same device is no change.

use super::BusEvent;
use mantel_protocol::key::DeviceId;
use mantel_runtime::tasks::Tasks;
use rmqtt::types::Id;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tracing::debug;

/// How long a device that was taken over may need until its new connection subscribes. After that it is offline.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// The present devices, each with the connection that counts.
#[derive(Clone)]
pub(super) struct Presence {
    current: Arc<Mutex<HashMap<DeviceId, Id>>>,
    events: mpsc::Sender<BusEvent>,
    tasks: Tasks,
}

impl Presence {
    pub(super) fn new(events: mpsc::Sender<BusEvent>, tasks: Tasks) -> Self {
        Self {
            current: Arc::default(),
            events,
            tasks,
        }
    }

    /// `connection` is able to hear commands.
    pub(super) async fn arrived(&self, device: DeviceId, connection: Id) {
        // The lock is held while the event is sent, so that events come in the order of the changes.
        let mut current = self.current.lock().await;
        if current.insert(device, connection).is_none() {
            self.tell(BusEvent::Online(device)).await;
        }
    }

    /// `connection` is over; nothing happens if a newer one took its place.
    pub(super) async fn left(&self, device: DeviceId, connection: &Id) {
        let mut current = self.current.lock().await;
        if current.get(&device) == Some(connection) {
            current.remove(&device);
            self.tell(BusEvent::Offline(device)).await;
        }
    }

    /// `connection` was ended because the same device logged in anew; the new one is about to subscribe.
    pub(super) fn taken_over(&self, device: DeviceId, connection: Id) {
        let presence = self.clone();
        self.tasks.spawn("take-over", async move {
            tokio::time::sleep(TAKE_OVER).await;
            presence.left(device, &connection).await;
        });
    }

    /// Passes on a progress report; a newer one replaces it, so that it may be dropped.
    pub(super) fn progress(&self, event: BusEvent) {
        if self.events.try_send(event).is_err() {
            debug!("a progress report was dropped: the server is busy");
        }
    }

    async fn tell(&self, event: BusEvent) {
        // No receiver: the server is stopping.
        let _ = self.events.send(event).await;
    }
}
