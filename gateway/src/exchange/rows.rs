//! Orders and offers as pages show them.

use jiff::Timestamp;
use mantel_protocol::api::OrderEntry;
use mantel_protocol::ids::{HomeId, OrderId, TitleId};
use mantel_protocol::money::Money;
use mantel_protocol::receipt::Path;
use serde::{Deserialize, Serialize};

/// Which way an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To this home.
    In,
    /// To another home.
    Out,
}

/// How far an order is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Its turn has not come.
    #[default]
    Waiting,
    /// The sending home is being reached.
    Connecting,
    /// Bytes are coming.
    Receiving,
    /// Something is wrong; it goes on by itself.
    Paused,
    /// All is here; the receipt is being handed in.
    Receipt,
    /// Settled; the license is being fetched.
    License,
    /// It can be played.
    Ready,
    /// Cancelled, failed, or delivered to another home.
    Over,
}

/// An order as pages show it.
#[derive(Debug, Clone, PartialEq)]
pub struct OrderRow {
    /// As the server last said.
    pub entry: OrderEntry,
    /// The title's name, if it is known here.
    pub title_name: Option<String>,
    /// The other home.
    pub peer_name: String,
    /// Which way.
    pub direction: Direction,
    /// Verified bytes on the receiver's disk.
    pub bytes_done: u64,
    /// Bytes per second, now.
    pub rate: u64,
    /// Which way the bytes come, now.
    pub path: Option<Path>,
    /// Arrived, licensed, playable.
    pub ready: bool,
    /// How far it is.
    pub stage: Stage,
    /// What is wrong, for a person.
    pub problem: Option<String>,
}

/// An order that the server has not answered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingOrder {
    /// Its idempotency key.
    pub key: String,
    /// What.
    pub title: TitleId,
    /// Its name.
    pub title_name: String,
    /// For which home.
    pub receiver: HomeId,
    /// Since when.
    pub since: Timestamp,
    /// What the server refused it for; it is not asked again.
    pub problem: Option<String>,
}

/// What came of asking for an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// The server took it.
    Placed(OrderId),
    /// The server does not answer; it is asked again by itself.
    Waiting,
}

/// What came of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// The server took it.
    Published,
    /// The server does not answer; it is sent again by itself.
    Waiting,
}

/// Whether the catalog shows a title's thumbnail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poster {
    /// Yes.
    Show,
    /// No.
    Hide,
}

/// How a title is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum OfferMode {
    /// In the catalog.
    Catalog {
        /// The price proposed.
        price: Money,
    },
    /// To homes named.
    Private {
        /// Which.
        homes: Vec<HomeId>,
    },
}

/// An offer as pages show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferRow {
    /// What.
    pub title: TitleId,
    /// How.
    pub mode: OfferMode,
    /// The server has not answered yet.
    pub waiting: bool,
    /// The server refused it for this.
    pub problem: Option<String>,
}
