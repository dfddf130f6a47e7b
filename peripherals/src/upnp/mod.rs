//! UPnP AV: media servers as sources and media renderers as players (F2, F63).
//!
//! - `wire`: device descriptions, SOAP envelopes and faults, times; pure (UPnP Device Architecture 2.0 §2, §3).
//! - `didl`: DIDL-Lite, the listing format; pure (UPnP ContentDirectory:1 §2.8).
//! - `classify`: what a described device is; pure.
//! - `session`: the calls, over [`crate::http`].
//! - `media_server`, `renderer`: the two adapters.
//! - `gena`: events, with asking as the way out: many renderers send them late or never.
//! - `quirks`: real devices' deviations, each with its capture in `testdata/`.

mod capture;
mod classify;
pub mod didl;
pub mod gena;
mod media_server;
pub mod quirks;
mod renderer;
mod session;
pub mod wire;

pub(crate) use capture::{capture_calls, replay_browse};
pub use media_server::MediaServer;
pub use renderer::MediaRenderer;
pub use session::{CallError, DescribeError, Described, describe};

use std::net::IpAddr;

use crate::media::ObjectId;
use wire::Service;

/// How to reach a media server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerAccess {
    /// ContentDirectory.
    pub content_directory: Service,
    /// The container in which it lists everything once, where that is not its root.
    pub all_in: Option<ObjectId>,
}

impl ServerAccess {
    /// The device's address; nothing is fetched from any other.
    pub fn address(&self) -> IpAddr {
        self.content_directory.control.host()
    }
}

/// How to reach a renderer.
#[derive(Clone, Debug, PartialEq)]
pub struct RendererAccess {
    /// The device's address.
    pub address: IpAddr,
    /// AVTransport.
    pub av_transport: Service,
    /// RenderingControl, where it has one.
    pub rendering_control: Option<Service>,
    /// Highest value of its Volume variable.
    pub volume_max: u16,
    /// MIME types it says it plays, sorted; empty when it did not tell.
    pub formats: Vec<String>,
}
