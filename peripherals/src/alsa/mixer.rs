//! Loudness and mute where the card has a mixer. Each call opens it anew: the household may turn a knob in between,
//! and the card may be gone.

use alsa::mixer::{Mixer, Selem, SelemChannelId, SelemId};

/// Controls that stand for "how loud", in the order in which they are looked for.
const CONTROLS: [&str; 6] = [
    "Master",
    "PCM",
    "Speaker",
    "Headphone",
    "Digital",
    "Line Out",
];

/// A card's loudness control, by name.
#[derive(Debug, Clone)]
pub struct Knob {
    card: String,
    control: &'static str,
}

impl Knob {
    /// The card's first control with a volume; `None`: it has none.
    pub fn find(card: &str) -> Option<Self> {
        let found = CONTROLS.into_iter().find(|control| {
            let knob = Self {
                card: card.to_owned(),
                control,
            };
            knob.with(|element| element.has_playback_volume().then_some(()))
                .flatten()
                .is_some()
        })?;
        Some(Self {
            card: card.to_owned(),
            control: found,
        })
    }

    fn with<T>(&self, use_it: impl FnOnce(&Selem<'_>) -> T) -> Option<T> {
        super::hush();
        let mixer = Mixer::new(&self.card, true).ok()?;
        let element = mixer.find_selem(&SelemId::new(self.control, 0))?;
        Some(use_it(&element))
    }

    /// Loudness in percent of the control's range.
    pub fn percent(&self) -> Option<u8> {
        self.with(|element| {
            let (low, high) = element.get_playback_volume_range();
            let now = element
                .get_playback_volume(SelemChannelId::FrontLeft)
                .ok()?;
            let range = (high - low).max(1);
            u8::try_from(((now - low) * 100 + range / 2) / range).ok()
        })?
    }

    /// Sets it; `None`: not done.
    pub fn set_percent(&self, percent: u8) -> Option<()> {
        self.with(|element| {
            let (low, high) = element.get_playback_volume_range();
            let value = low + ((high - low) * i64::from(percent.min(100)) + 50) / 100;
            element.set_playback_volume_all(value).ok()
        })?
    }

    /// Whether it is silenced; `None`: it has no switch.
    pub fn muted(&self) -> Option<bool> {
        self.with(|element| {
            let on = element
                .has_playback_switch()
                .then(|| element.get_playback_switch(SelemChannelId::FrontLeft))?;
            on.ok().map(|on| on == 0)
        })?
    }

    /// Silences it or not; `None`: it has no switch, or it was not done.
    pub fn set_muted(&self, muted: bool) -> Option<()> {
        self.with(|element| {
            let done = element
                .has_playback_switch()
                .then(|| element.set_playback_switch_all(i32::from(!muted)))?;
            done.ok()
        })?
    }
}
