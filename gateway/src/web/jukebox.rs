//! A jukebox on its device page: its queue, its outputs, and playing from its own library (F2, F63).

use super::Site;
use super::fields::Fields;
use super::respond::{Done, Posted, Refusal};
use super::shell::escape_query;
use super::view::transport_word;
use axum::extract::{Path, State};
use mantel_peripherals::media::{ObjectId, RenderError, TransportState};
use mantel_peripherals::mpd::{Jukebox, Output, QueueEntry};
use std::sync::Arc;

/// What a jukebox plays, for its page.
pub struct JukeboxCard {
    /// `playing`, `paused` …
    pub state: &'static str,
    /// Its buttons: command and word.
    pub buttons: [(&'static str, &'static str); 3],
    /// Songs of the queue around the current one.
    pub queue: Vec<QueueEntry>,
    /// Songs of the queue that are not shown.
    pub more: u32,
    /// Its loudspeakers.
    pub outputs: Vec<Output>,
}

impl JukeboxCard {
    /// Asks the jukebox.
    pub async fn of(jukebox: &Jukebox) -> Result<Self, RenderError> {
        let queue = jukebox.queue().await?;
        let shown = u32::try_from(queue.entries.len()).unwrap_or(u32::MAX);
        let press = if queue.state == TransportState::Playing {
            ("pause", "Pause")
        } else {
            ("resume", "Play")
        };
        Ok(Self {
            state: transport_word(queue.state),
            buttons: [("previous", "Previous song"), press, ("next", "Next song")],
            more: queue.length.saturating_sub(shown),
            queue: queue.entries,
            outputs: jukebox.outputs().await?,
        })
    }
}

/// `POST /devices/{device}/jukebox`
pub async fn drive(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    let back = format!("/devices/{}", escape_query(&device));
    let jukebox = site.state.devices.jukebox(&device);
    let jukebox = jukebox.ok_or_else(|| Refusal::missing("jukebox").back(back.clone()))?;
    let refused = |error: RenderError| Refusal::from_part(&error).back(back.clone());
    let done = match fields.text("action") {
        "play" => {
            let object = ObjectId::new(fields.raw("object"));
            let object = object.ok_or_else(|| Refusal::field("The song is missing."))?;
            jukebox.play_own(&object).await
        }
        "queued" => {
            let entry = fields.text("entry").parse();
            let entry = entry.map_err(|_| Refusal::field("The place in the queue is missing."))?;
            jukebox.play_queued(entry).await
        }
        "next" => jukebox.next().await,
        "previous" => jukebox.previous().await,
        "pause" => jukebox.pause().await,
        "resume" => jukebox.play().await,
        "on" => jukebox.enable_output(output(&fields)?).await,
        "off" => jukebox.disable_output(output(&fields)?).await,
        _ => return Err(Refusal::field("The jukebox knows no such command.").back(back)),
    };
    done.map_err(refused)?;
    Ok(Done::to(back))
}

fn output(fields: &Fields) -> Result<u32, Refusal> {
    let output = fields.text("output").parse();
    output.map_err(|_| Refusal::field("The loudspeaker is missing."))
}
