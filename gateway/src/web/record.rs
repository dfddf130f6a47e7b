//! Recording from a line-in: start, stop, and how far it is (F2).

use super::Site;
use super::fields::Fields;
use super::format;
use super::respond::{Done, Posted, Refusal};
use super::shell::escape_query;
use crate::recording::{Ended, RecordingRow, TrackRow, TrackState};
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

/// A recording on a page.
pub struct Card {
    /// The device's key.
    pub device: String,
    /// Whether it runs.
    pub running: bool,
    /// Elapsed time, tracks and state in words.
    pub words: String,
    /// The louder side's level, percent.
    pub level: u64,
    /// Why it ended, if not by a person.
    pub problem: Option<String>,
    /// Its tracks.
    pub tracks: Vec<TrackCard>,
}

/// A track on a page.
pub struct TrackCard {
    /// Its name.
    pub name: String,
    /// `recording`, `saving`, `saved`, `lost`.
    pub state: &'static str,
    /// Length and state, or what went wrong.
    pub words: String,
    /// Its title, once it is in the library.
    pub title: Option<String>,
}

impl TrackCard {
    fn of(row: &TrackRow) -> Self {
        let length = format::clock_time(row.length.as_secs());
        let (state, words) = match &row.state {
            TrackState::Recording => ("recording", "being recorded".to_owned()),
            TrackState::Saving => ("saving", format!("{length} · being stored")),
            TrackState::Saved(_) => ("saved", format!("{length} · in the library")),
            TrackState::Lost(why) => ("lost", why.clone()),
        };
        let title = match &row.state {
            TrackState::Saved(title) => Some(title.to_string()),
            _ => None,
        };
        Self {
            name: row.name.clone(),
            state,
            words,
            title,
        }
    }
}

impl Card {
    fn of(row: &RecordingRow) -> Self {
        let elapsed = format::clock_time(row.elapsed.as_secs());
        let state = if row.ended.is_none() {
            "recording"
        } else {
            "ended"
        };
        let tracks = match row.tracks.len() {
            0 => "no track yet".to_owned(),
            1 => "1 track".to_owned(),
            many => format!("{many} tracks"),
        };
        let problem = match &row.ended {
            Some(Ended::Because(why)) => Some(why.clone()),
            Some(Ended::Over) => Some("The sound came to its end. All of it is kept.".to_owned()),
            Some(Ended::Gateway) => {
                Some("The gateway was stopped. What was recorded until then is kept.".to_owned())
            }
            Some(Ended::Stopped) | None => None,
        };
        Self {
            device: row.device.clone(),
            running: row.ended.is_none(),
            words: format!("{state} · {elapsed} · {tracks}"),
            level: u64::from(row.level[0].max(row.level[1])),
            problem,
            tracks: row.tracks.iter().map(TrackCard::of).collect(),
        }
    }

    /// What makes the page fetch its part again: all but what moves.
    pub fn version(&self) -> String {
        let tracks: Vec<_> = self.tracks.iter().map(|track| track.state).collect();
        format!(
            "{} {} {:?} {tracks:?}",
            self.device, self.running, self.problem
        )
    }
}

/// All recordings.
pub fn cards(site: &Site) -> Vec<Card> {
    let rows = site.state.recordings.rows();
    rows.borrow().iter().map(Card::of).collect()
}

/// All recordings for scripts.
pub fn status(site: &Site) -> Vec<Value> {
    let rows = site.state.recordings.rows();
    let rows = rows.borrow();
    let tracks = |row: &RecordingRow| -> Vec<Value> {
        let track = |track: &TrackRow| {
            let card = TrackCard::of(track);
            json!({
                "name": card.name, "state": card.state, "title": card.title,
                "length_ms": track.length.as_millis() as u64, "text": card.words,
            })
        };
        row.tracks.iter().map(track).collect()
    };
    let row = |row: &RecordingRow| {
        let card = Card::of(row);
        json!({
            "device": card.device, "running": card.running, "text": card.words, "problem": card.problem,
            "started": row.started.to_string(), "elapsed_ms": row.elapsed.as_millis() as u64,
            "cut_ms": row.cut.as_millis() as u64, "level": row.level, "tracks": tracks(row),
        })
    };
    rows.iter().map(row).collect()
}

/// `POST /devices/{device}/record`: `action` is `start` or `stop`.
pub async fn drive(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    let back = format!("/devices/{}", escape_query(&device));
    let done = match fields.text("action") {
        "start" => {
            let started = site.state.recordings.start(&device).await;
            started.map_err(|error| Refusal::from_part(&error).back(back.clone()))?;
            "recording"
        }
        "stop" => {
            site.state.recordings.stop(&device);
            "recorded"
        }
        _ => return Err(Refusal::field("The recorder knows no such command.").back(back)),
    };
    Ok(Done::to(format!("{back}?done={done}")))
}
