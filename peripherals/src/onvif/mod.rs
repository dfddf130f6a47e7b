//! Network cameras that speak ONVIF (F2, F63): found by WS-Discovery, asked at their device and media services for who
//! they are and where their stream and their snapshot are. The stream itself is RTSP.
//!
//! - [`wire`]: requests and answers, pure. [`digest`]: HTTP digest, pure. [`session`]: asking.
//!
//! The SOAP is written here and not taken from a crate: those that exist bring an HTTP client of their own, which looks
//! up names, follows redirects and holds answers of any size. Six requests over the bounded client of this crate are
//! less code than fencing one of those in. Snapshots are asked for by HTTP digest only: Basic would hand the
//! password to whatever answers at the camera's address.
//!
//! Not spoken: Media2 (`ver20`), events, PTZ, replay, TLS.

pub mod digest;
pub mod session;
pub mod wire;

pub use session::OnvifCamera;

use crate::url::DeviceUrl;

/// How a camera is reached (ONVIF Core Specification §5, §7.3): found by WS-Discovery, nothing asked of it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnvifAccess {
    /// Its device service: the first of its XAddrs that is on the address that it spoke from.
    pub service: DeviceUrl,
}
