//! Cameras on a cable that the kernel drives by Video4Linux (F2, F63): USB webcams, capture cards, camera modules.

use std::path::PathBuf;

/// How a camera on a cable is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V4l2Access {
    /// Its device node by a name that stays, such as `/dev/v4l/by-id/usb-…-video-index0`; `/dev/videoN` where there is
    /// none.
    pub node: PathBuf,
    /// Its name as the driver tells it (`v4l2_capability.card`).
    pub name: String,
}
