//! RTSP cameras (F2, F63; RFC 2326): live picture and sound as access units, by crate retina.
//!
//! - [`wire`]: addresses of streams, pure. [`session`]: playing one. [`meter`]: the bound between camera and retina.
//!   [`udp`]: packets by UDP.
//!
//! What retina takes apart: H.264 (RFC 6184), H.265 (RFC 7798), JPEG (RFC 2435, pictures up to 2 MB), AAC (RFC 3640),
//! G.711. What it does not, and so neither do we: MPEG-4 part 2, MP3, Opus, SRTP, RTSP 2.0, sending sound. The first
//! picture track and the first sound track of those kinds are played; others are not set up.
//!
//! Packets come interleaved in the RTSP connection, so that none is lost or reordered and no port is opened; by UDP
//! where the household chooses it. Taking a stream up again after it broke is the caller's decision.

pub mod meter;
pub mod session;
pub mod udp;
pub mod wire;

#[cfg(test)]
mod hostile;

pub use session::RtspCamera;
pub use wire::{RtspUrl, TypedUrl, UrlProblem};

/// How packets come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Within the RTSP connection (RFC 2326 §10.12).
    #[default]
    Interleaved,
    /// By UDP, for cameras that do nothing else. What the network loses is lost.
    Udp,
}

/// How a camera that speaks only RTSP is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtspAccess {
    /// Its stream.
    pub url: RtspUrl,
    /// How packets come.
    pub transport: Transport,
}
