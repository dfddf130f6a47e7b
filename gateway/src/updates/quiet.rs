//! What an update waits for: whatever a restart would break off.

use super::Parts;
use crate::cameras::RecordingState;
use crate::devices::DeviceImportState;
use crate::exchange::Stage;

/// The first hour of the night in which the machine may restart by itself, and the first hour after it; local time.
const NIGHT: std::ops::Range<i8> = 3..5;

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
    // An order whose sender is away would hold an update up for weeks: only bytes that move count.
    let orders = parts.exchange.orders();
    let moving = |stage: Stage| matches!(stage, Stage::Receiving | Stage::Receipt | Stage::License);
    if orders.borrow().iter().any(|row| moving(row.stage)) || !parts.exchange.sending().is_empty() {
        return Some("titles are being exchanged with another home");
    }
    None
}

/// Whether the machine may restart by itself at this hour.
pub fn is_night(hour: i8) -> bool {
    NIGHT.contains(&hour)
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
    fn the_night_is_from_three_to_five() {
        let hours: Vec<i8> = (0..24).filter(|hour| is_night(*hour)).collect();
        assert_eq!(hours, [3, 4]);
    }
}
