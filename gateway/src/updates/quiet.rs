//! What an update waits for: whatever a restart would break off.

use super::Parts;
use crate::cameras::RecordingState;
use crate::devices::DeviceImportState;
use crate::exchange::{Direction, Stage};
use mantel_protocol::key::DeviceId;

/// The night in which the machine may restart by itself, minutes after midnight, local time: 3 to 5 o'clock.
const NIGHT: std::ops::Range<u32> = 180..300;
/// Each home's night begins at a minute of its own within so many, so that not all homes come back to the server at once.
const SPREAD: u32 = 90;

/// What is going on, as it completes "it waits because …"; `None`: nothing.
pub fn busy(parts: &Parts) -> Option<&'static str> {
    if parts.playback.is_playing() {
        return Some("something is playing");
    }
    let recording = parts.recordings.rows();
    let clips = parts.cameras.recordings();
    let clip = |state: &RecordingState| {
        matches!(state, RecordingState::Recording | RecordingState::Saving)
    };
    if recording.borrow().iter().any(|row| row.ended.is_none())
        || clips.borrow().iter().any(|row| clip(&row.state))
    {
        return Some("something is being recorded");
    }
    let (imports, walks) = (parts.library.imports(), parts.devices.imports());
    if imports.borrow().iter().any(|row| !row.phase.is_over())
        || walks
            .borrow()
            .iter()
            .any(|row| row.state == DeviceImportState::Running)
    {
        return Some("media is being imported");
    }
    // An order whose other home is away would hold an update up for weeks: only bytes that move count.
    let orders = parts.exchange.orders();
    let moving = |stage: Stage| matches!(stage, Stage::Receiving | Stage::Receipt | Stage::License);
    let comes = orders
        .borrow()
        .iter()
        .any(|row| row.direction == Direction::In && moving(row.stage));
    if comes || !parts.exchange.sending().is_empty() {
        return Some("titles are being exchanged with another home");
    }
    None
}

/// Whether the machine of this device may restart by itself, so many minutes after midnight.
pub fn is_night(minute: u32, device: DeviceId) -> bool {
    let [low, high, ..] = device.0;
    let own = u32::from(u16::from_le_bytes([low, high])) % SPREAD;
    (NIGHT.start + own..NIGHT.end).contains(&minute)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playback::Viewer;
    use crate::playback::tests::{Stage, ask};
    use std::time::Duration;

    #[tokio::test]
    async fn who_fetched_media_counts_as_watching_for_two_minutes() {
        let stage = Stage::with(&[]).await;
        let title = stage.import("film.mp4", "video/mp4", &[7; 1000]).await;
        let media = stage.playback.open(title, Viewer::Browser).await;
        let path = media.expect("opened").path;
        assert!(!stage.playback.is_playing(), "a page was opened, no more");
        let answer = ask(stage.address, [127, 0, 0, 1], "GET", &path, "").await;
        assert_eq!(answer.status, 200);
        assert!(stage.playback.is_playing());
        stage.home.clock.advance(Duration::from_secs(119));
        assert!(stage.playback.is_playing());
        stage.home.clock.advance(Duration::from_secs(1));
        assert!(!stage.playback.is_playing());
    }

    #[test]
    fn the_night_is_from_three_to_five_and_begins_in_each_home_at_its_own_minute() {
        let night = |device| -> Vec<u32> {
            let minutes = (0..24 * 60).filter(|minute| is_night(*minute, device));
            minutes.collect()
        };
        let mut begins = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let device = DeviceId(*blake3::hash(&[seed]).as_bytes());
            let minutes = night(device);
            assert_eq!(minutes, night(device));
            assert!(minutes[0] >= 3 * 60 && minutes.last() == Some(&(5 * 60 - 1)));
            assert!(minutes.len() > 30, "{}", minutes.len());
            begins.insert(minutes[0]);
        }
        assert!(begins.len() > 50, "{begins:?}");
    }
}
