//! Which loudspeakers and line-ins this machine has (F2, F5): every PCM device of every sound card, or those that the
//! household named. Looked at when discovery starts and whenever the kernel's list of cards changes, so it works with
//! and without udev; a listener on udev events may send [`of_card`]'s sightings earlier, their keys are the same.

use std::collections::BTreeSet;
use std::time::Duration;

use alsa::Direction;
use alsa::card::Card;
use alsa::ctl::{Ctl, DeviceIter};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::SoundPort;
use crate::device::{Access, DeviceClass, DeviceKey, MAX_LABEL_CHARS, clean_label};
use crate::registry::{Input, Sighting};

/// Most cards looked at (the kernel's own limit).
pub const MAX_CARDS: usize = 32;
/// Most PCM devices of one card that are listed.
pub const MAX_DEVICES_PER_CARD: usize = 8;
/// How often the kernel's list of cards is compared.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a card is looked at again that is listed and cannot be opened: the kernel lists it before udev lets the
/// gateway open it.
pub const LOOKS_AT_SHUT: u32 = 30;
/// The kernel's list of cards; absent where the kernel has no sound.
const CARD_LIST: &str = "/proc/asound/cards";

/// Which ends of sound cards are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// None.
    #[default]
    Off,
    /// Every card's.
    All,
    /// These PCMs only, by ALSA's names.
    Named(Vec<String>),
}

/// Which loudspeakers and line-ins are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoundCards {
    /// Loudspeakers.
    pub outputs: Ports,
    /// Line-ins and microphones.
    pub inputs: Ports,
}

/// The key of a card's PCM device: `alsa:<card id>:<device>:out` or `…:in`.
pub fn key_of(card_id: &str, device: i32, direction: Direction) -> Option<DeviceKey> {
    DeviceKey::new(&format!("alsa:{card_id}:{device}:{}", word(direction)))
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Playback => "out",
        Direction::Capture => "in",
    }
}

/// The loudspeakers and line-ins of the card with this index, as sightings whose origin is their key. `None` when the
/// card is gone or cannot be opened (yet).
pub fn of_card(index: i32) -> Option<Vec<Sighting>> {
    let card = Card::new(index);
    let ctl = Ctl::from_card(&card, true).ok()?;
    let info = ctl.card_info().ok()?;
    let Some(id) = info.get_id().ok().filter(|id| is_plain(id)) else {
        return Some(Vec::new());
    };
    let card_name = info.get_name().unwrap_or(id);
    let mut found = Vec::new();
    for device in DeviceIter::new(&ctl).take(MAX_DEVICES_PER_CARD) {
        for direction in [Direction::Playback, Direction::Capture] {
            let Ok(pcm) = ctl.pcm_info(device.unsigned_abs(), 0, direction) else {
                continue;
            };
            let pcm_name = pcm.get_name().ok().unwrap_or_default();
            let port = SoundPort {
                pcm: format!("plughw:CARD={id},DEV={device}"),
                mixer: Some(format!("hw:CARD={id}")),
            };
            let key = key_of(id, device, direction);
            found.extend(key.map(|key| sighting(key, card_name, pcm_name, direction, port)));
        }
    }
    number_namesakes(&mut found);
    Some(found)
}

/// A card whose devices have one name: the second is "… 2".
fn number_namesakes(found: &mut [Sighting]) {
    let names: Vec<String> = found.iter().map(|sighting| sighting.name.clone()).collect();
    for (place, name) in names.iter().enumerate() {
        let before = names[..place].iter().filter(|other| *other == name).count();
        if before > 0 {
            let numbered = format!("{name} {}", before + 1);
            found[place].name = clean_label(&numbered, MAX_LABEL_CHARS).unwrap_or(numbered);
        }
    }
}

/// Runs what reads the names that a card and its devices give themselves; the entry for fuzzing.
pub fn parse_any(id: &str, card_name: &str, pcm_name: &str) -> Vec<Sighting> {
    let port = SoundPort::named(&format!("plughw:CARD={id},DEV=0")).filter(|_| is_plain(id));
    let both = [Direction::Playback, Direction::Capture].into_iter();
    both.filter_map(|direction| {
        let key = key_of(id, 0, direction)?;
        Some(sighting(key, card_name, pcm_name, direction, port.clone()?))
    })
    .collect()
}

/// A card id is what ALSA's configuration language takes unquoted.
fn is_plain(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 32
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn sighting(
    key: DeviceKey,
    card_name: &str,
    pcm_name: &str,
    direction: Direction,
    port: SoundPort,
) -> Sighting {
    let (class, noun, access) = match direction {
        Direction::Playback => (DeviceClass::Speaker, "Loudspeaker", Access::AlsaOut(port)),
        Direction::Capture => (DeviceClass::LineIn, "Line-in", Access::AlsaIn(port)),
    };
    // "HDA Intel PCH" has "ALC256 Analog" and "HDMI 0": the card's name alone does not tell them apart.
    let place = match pcm_name {
        "" => card_name.to_owned(),
        name if name == card_name => card_name.to_owned(),
        name => format!("{card_name}, {name}"),
    };
    let name = clean_label(&format!("{noun} ({place})"), MAX_LABEL_CHARS)
        .unwrap_or_else(|| noun.to_owned());
    Sighting {
        origin: key.as_str().to_owned(),
        key,
        name,
        class,
        maker: None,
        model: clean_label(card_name, MAX_LABEL_CHARS),
        serial: None,
        mac: None,
        addresses: BTreeSet::new(),
        access,
    }
}

/// The cards' numbers in the kernel's list, such as ` 0 [PCH            ]: HDA-Intel - HDA Intel PCH`.
fn indices(list: &str) -> Vec<i32> {
    let index = |line: &str| line.split_once('[')?.0.trim().parse().ok();
    list.lines().filter_map(index).take(MAX_CARDS).collect()
}

/// All that `config` names, now, and whether a card could not be opened.
pub fn scan(config: &SoundCards) -> (Vec<Sighting>, bool) {
    let (mut found, mut shut) = (Vec::new(), false);
    if config.outputs == Ports::All || config.inputs == Ports::All {
        // Not by ALSA's own iterator: that leaves out what cannot be opened, as if it were not there.
        let list = std::fs::read(CARD_LIST).unwrap_or_default();
        for index in indices(&String::from_utf8_lossy(&list)) {
            let Some(ends) = of_card(index) else {
                shut = true;
                continue;
            };
            found.extend(ends.into_iter().filter(|sighting| match sighting.access {
                Access::AlsaOut(_) => config.outputs == Ports::All,
                _ => config.inputs == Ports::All,
            }));
        }
    }
    for (ports, direction) in [
        (&config.outputs, Direction::Playback),
        (&config.inputs, Direction::Capture),
    ] {
        let Ports::Named(names) = ports else { continue };
        for name in names {
            let key = DeviceKey::new(&format!("alsa:{name}:{}", word(direction)));
            if let (Some(key), Some(port)) = (key, SoundPort::named(name)) {
                found.push(sighting(key, name, "", direction, port));
            } else {
                tracing::warn!(name, "not a name of a PCM: left out");
            }
        }
    }
    (found, shut)
}

/// Tells discovery which there are, and what came and went, until `cancel`.
pub(crate) async fn run(
    config: SoundCards,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
) {
    if config == SoundCards::default() {
        return;
    }
    let mut listed: Option<Vec<u8>> = None;
    let mut present: BTreeSet<String> = BTreeSet::new();
    let mut looks_at_shut = 0;
    let mut every = interval(LOOK_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = every.tick() => {}
        }
        let now = tokio::fs::read(CARD_LIST).await.unwrap_or_default();
        let changed = listed.as_ref() != Some(&now);
        if changed {
            looks_at_shut = LOOKS_AT_SHUT;
        } else if looks_at_shut == 0 {
            continue;
        }
        listed = Some(now);
        let wanted = config.clone();
        // Opening a card's control device may wait for its driver.
        let Ok((found, shut)) = tokio::task::spawn_blocking(move || scan(&wanted)).await else {
            continue;
        };
        looks_at_shut = match looks_at_shut {
            _ if !shut => 0,
            1 => {
                tracing::warn!(
                    "a sound card cannot be opened and is left out; does another program have it, and may this one \
                     open what is in /dev/snd (group audio)?"
                );
                0
            }
            left => left - 1,
        };
        let keys: BTreeSet<String> = found.iter().map(|s| s.origin.clone()).collect();
        for origin in present.difference(&keys) {
            let origin = origin.clone();
            if inputs.send(Input::Lost { origin }).await.is_err() {
                return;
            }
        }
        for sighting in found {
            if inputs.send(Input::Seen(Box::new(sighting))).await.is_err() {
                return;
            }
        }
        present = keys;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_ports_are_listed_under_stable_keys() {
        let (found, _) = scan(&SoundCards {
            outputs: Ports::Named(vec!["kitchen".to_owned(), String::new()]),
            inputs: Ports::Named(vec!["deck".to_owned()]),
        });
        let told: Vec<_> = found
            .iter()
            .map(|s| (s.key.as_str(), s.class, s.name.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "alsa:kitchen:out",
                    DeviceClass::Speaker,
                    "Loudspeaker (kitchen)"
                ),
                ("alsa:deck:in", DeviceClass::LineIn, "Line-in (deck)"),
            ]
        );
    }

    #[test]
    fn namesakes_on_one_card_are_numbered() {
        let (mut found, _) = scan(&SoundCards {
            outputs: Ports::Named(vec!["a".to_owned(), "a".to_owned(), "b".to_owned()]),
            inputs: Ports::Off,
        });
        number_namesakes(&mut found);
        let names: Vec<_> = found.iter().map(|sighting| &*sighting.name).collect();
        assert_eq!(
            names,
            ["Loudspeaker (a)", "Loudspeaker (a) 2", "Loudspeaker (b)"]
        );
    }

    #[test]
    fn the_kernels_list_is_read() {
        let list = " 0 [Loopback       ]: Loopback - Loopback\n                      Loopback 1\n\
                    12 [Audio          ]: USB-Audio - USB [Audio]\n                      USB [Audio] at usb-1\n";
        assert_eq!(indices(list), [0, 12]);
        assert!(indices("--- no soundcards ---\n").is_empty());
    }

    #[test]
    fn nothing_is_listed_that_was_not_asked_for() {
        assert!(scan(&SoundCards::default()).0.is_empty());
    }
}
