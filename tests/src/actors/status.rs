//! What a gateway's `/status.json` says.

use serde::Deserialize;

/// The whole answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The connection to the server.
    pub link: Link,
    /// Devices on the LAN.
    pub devices: Vec<Device>,
    /// The library.
    pub titles: Vec<Title>,
    /// Imports under way.
    pub imports: Vec<serde_json::Value>,
    /// What may be ordered.
    pub listings: Vec<Listing>,
    /// Orders in and out.
    pub orders: Vec<Order>,
    /// What plays on devices.
    pub playing: Vec<Playing>,
    /// Recordings from line-ins, as they are told.
    #[serde(default)]
    pub recordings: Vec<serde_json::Value>,
    /// Other homes.
    pub homes: Vec<Home>,
    /// Updates of the appliance; none where the gateway runs on no appliance.
    #[serde(default)]
    pub update: Option<Update>,
}

/// Updates of the appliance.
#[derive(Debug, Clone, Deserialize)]
pub struct Update {
    /// The version that runs.
    pub running: String,
    /// The update under way.
    pub under_way: Option<UpdateUnderWay>,
    /// When the server was last asked.
    pub asked: Option<String>,
    /// The version that other homes may fetch from here.
    pub gives: Option<String>,
}

/// An update under way.
#[derive(Debug, Clone, Deserialize)]
pub struct UpdateUnderWay {
    /// Which version.
    pub version: String,
    /// `fetching`, `ready`, `installing`, `installed` or `restarting`.
    pub stage: String,
    /// How much of the bundle is here, hundredths.
    pub percent: u64,
    /// What it waits for.
    pub busy: Option<String>,
    /// Bytes of the bundle that came from other homes.
    pub from_homes: u64,
    /// Whether "Restart now" was pressed.
    pub restart_wanted: bool,
    /// What is wrong.
    pub problem: Option<String>,
}

/// The connection to the server.
#[derive(Debug, Clone, Deserialize)]
pub struct Link {
    /// `online`, `offline`, `connecting` or `not_enrolled`.
    pub state: String,
    /// Why it is offline.
    pub why: Option<String>,
    /// This home's id.
    pub home: Option<String>,
}

/// A device on the LAN.
#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    /// Its key.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: String,
    /// `online` or `gone`.
    pub state: String,
    /// `new`, `admitted` or `ignored`.
    pub standing: String,
    /// Where it is.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// A title in the library.
#[derive(Debug, Clone, Deserialize)]
pub struct Title {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// `importing`, `arriving` or `ready`.
    pub state: String,
    /// Whether it is this home's own.
    pub own: bool,
    /// Its sealed size.
    pub sealed_bytes: u64,
    /// Its blobs.
    pub blobs: Vec<String>,
}

/// A title that may be ordered.
#[derive(Debug, Clone, Deserialize)]
pub struct Listing {
    /// Its id.
    pub title: String,
    /// Its name.
    pub name: String,
    /// Its price in words, if it has one.
    pub price: Option<String>,
    /// Whether this home published it.
    pub mine: bool,
    /// `available`, `ordered`, `arriving` or `here`.
    pub state: String,
}

/// An order.
#[derive(Debug, Clone, Deserialize)]
pub struct Order {
    /// Its id.
    pub order: String,
    /// Its title.
    pub title: String,
    /// `in` or `out`.
    pub direction: String,
    /// Its state at the server.
    pub state: String,
    /// Verified bytes.
    pub bytes_done: u64,
    /// All bytes.
    pub total_bytes: u64,
    /// `direct` or `relay`.
    pub path: Option<String>,
    /// Its price.
    pub price: String,
    /// Whether it may be played.
    pub ready: bool,
    /// What is wrong.
    pub problem: Option<String>,
}

/// What plays on a device.
#[derive(Debug, Clone, Deserialize)]
pub struct Playing {
    /// The device's key.
    pub device: String,
    /// The title.
    pub title: String,
    /// Its state.
    pub state: String,
    /// Where it is, seconds.
    pub position_s: f64,
    /// How long it is, seconds.
    pub duration_s: Option<f64>,
    /// How loud it plays, percent, where the device tells.
    #[serde(default)]
    pub volume: Option<u8>,
    /// What is wrong.
    pub problem: Option<String>,
}

/// Another home.
#[derive(Debug, Clone, Deserialize)]
pub struct Home {
    /// Its id.
    pub home: String,
    /// Its name.
    pub name: String,
    /// Whether it is connected.
    pub online: bool,
    /// Whether titles may be pushed to it.
    pub may_push: bool,
}
