//! Recording from what plays only once (F2): tape decks, record players, microphones.
//!
//! - `split`: where one track ends and the next begins, decided without I/O. `flac`: tracks as FLAC.
//!
//! A [`Recorder`] gives a live stream of 16-bit stereo; the gateway feeds it through both.

pub mod flac;
pub mod split;

use crate::alsa::LineIn;
use crate::live::{LiveError, LiveStream};

/// A device that can be recorded from: one variant per adapter.
#[derive(Clone, Debug)]
pub enum Recorder {
    /// A sound card's input.
    Alsa(LineIn),
}

impl Recorder {
    /// The name of the device.
    pub fn name(&self) -> &str {
        match self {
            Self::Alsa(line_in) => line_in.name(),
        }
    }

    /// Begins to record: one track of 16-bit stereo sound, until the stream is dropped or the device goes.
    pub async fn open(&self) -> Result<LiveStream, LiveError> {
        match self {
            Self::Alsa(line_in) => line_in.open().await,
        }
    }
}
