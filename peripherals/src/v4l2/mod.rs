//! Cameras on a cable that the kernel drives by Video4Linux (F2, F63): USB webcams, capture cards, camera modules.
//!
//! - [`wire`]: choosing among formats, taking H.264 apart, packing rows; pure. [`session`]: capturing, by crate v4l.
//!
//! Used: JPEG pictures, H.264, packed YUYV, from single-planar capture devices. Not used: sensors that give raw Bayer
//! or multi-planar buffers (they need a media graph set up first), radio, output devices.

pub mod session;
pub mod wire;

use std::path::PathBuf;

pub use session::V4l2Camera;

/// How a camera on a cable is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V4l2Access {
    /// Its device node by a name that stays, such as `/dev/v4l/by-id/usb-…-video-index0`; `/dev/videoN` where there is
    /// none.
    pub node: PathBuf,
    /// Its name as the driver tells it (`v4l2_capability.card`).
    pub name: String,
}
