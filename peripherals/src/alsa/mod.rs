//! Sound at the gateway itself (F2, F63): loudspeakers and line-ins of its sound cards, by ALSA.
//!
//! - `cards`: which there are, and when they come and go.

pub mod cards;

pub use cards::{Ports, SoundCards};

/// Longest PCM or mixer name taken, in bytes.
pub const MAX_PCM_NAME_BYTES: usize = 160;

/// One end of a sound card, by the names under which ALSA opens it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SoundPort {
    /// The PCM, such as `plughw:CARD=PCH,DEV=0` or a name of the household's `asound.conf`.
    pub pcm: String,
    /// The mixer of its card, such as `hw:CARD=PCH`; `None`: loudness is made in software.
    pub mixer: Option<String>,
}

impl SoundPort {
    /// A PCM by name, without a mixer. `None` when empty, longer than [`MAX_PCM_NAME_BYTES`] or with control
    /// characters.
    pub fn named(pcm: &str) -> Option<Self> {
        let fits = !pcm.is_empty()
            && pcm.len() <= MAX_PCM_NAME_BYTES
            && !pcm.chars().any(char::is_control);
        fits.then(|| Self {
            pcm: pcm.to_owned(),
            mixer: None,
        })
    }
}
