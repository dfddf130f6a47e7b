//! Sound at the gateway itself (F2, F63): loudspeakers and line-ins of its sound cards, by ALSA.
//!
//! - `cards`: which there are, and when they come and go.
//! - `speaker`: loudspeakers as renderers; `player` owns one on a thread, `track` decodes ahead for it.
//! - `capture`: inputs as live streams.
//! - `pcm`, `mixer`: the card itself. `mix`: arithmetic on samples.

mod capture;
pub mod cards;
pub mod mix;
pub mod mixer;
pub mod pcm;
mod player;
mod speaker;
mod track;

pub use capture::LineIn;
pub use cards::{Ports, SoundCards};
pub use pcm::SoundError;
pub use player::Level;
pub use speaker::{Levels, MAX_PLAYERS, Speaker, Speakers};

/// Longest PCM or mixer name taken, in bytes.
pub const MAX_PCM_NAME_BYTES: usize = 160;

/// Keeps ALSA's library from telling each failure on standard error too, at each try, on this thread: the error that it
/// returns is what counts.
fn hush() {
    let _words = alsa::Output::local_error_handler();
}

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
