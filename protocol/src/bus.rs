//! MQTT 5 topics and payloads (DESIGN §1): the broker says "look again" or carries what a newer message replaces.
//! What must not be lost goes by the API.
//!
//! A device logs in with its device ID as client ID and user name, and a [`crate::token::DeviceLogin`] as password. It
//! may subscribe to its own `cmd` and publish to its own `ev` and `st`; nothing else.

use crate::ids::{DeliveryId, OrderId};
use crate::key::DeviceId;
use serde::{Deserialize, Serialize};

/// The longest payload, bytes.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// The server writes here.
pub fn cmd_topic(device: &DeviceId) -> String {
    format!("mantel/{device}/cmd")
}

/// The gateway reports progress here.
pub fn ev_topic(device: &DeviceId) -> String {
    format!("mantel/{device}/ev")
}

/// The gateway's presence; its last will says offline.
pub fn st_topic(device: &DeviceId) -> String {
    format!("mantel/{device}/st")
}

/// The device that a topic belongs to and the topic's last word.
pub fn parse_topic(topic: &str) -> Option<(DeviceId, &str)> {
    let (device, word) = topic.strip_prefix("mantel/")?.split_once('/')?;
    Some((device.parse().ok()?, word))
}

/// What a gateway should look at again, by the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "look", rename_all = "snake_case")]
pub enum Command {
    /// Orders that concern this home changed.
    Orders,
    /// This home is to send: deliveries, and those whose receiver waits at the relay.
    Deliveries,
    /// A delivery ended or its grant was revoked: stop sending now.
    Revoked {
        /// Which.
        delivery: DeliveryId,
    },
    /// The restrictions or the account's status changed.
    Restrictions,
    /// The catalog changed.
    Catalog,
    /// What is on offer for the appliance changed.
    Updates,
}

/// What a gateway reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How far a delivery is; a newer one replaces it.
    Progress {
        /// The delivery.
        delivery: DeliveryId,
        /// Its order.
        order: OrderId,
        /// Verified bytes on the receiver's disk.
        bytes_done: u64,
    },
}

/// A gateway's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Whether it is connected.
    pub online: bool,
}
