//! `/devices/{device}/still` and its neighbours: what a camera sees, pictures and clips from it, its log-in, and cameras
//! that are added by their address (F2).

use super::Site;
use super::fields::Fields;
use super::respond::{Done, Posted, Refusal};
use super::shell::escape_query;
use crate::cameras::{CameraError, MAX_SECONDS, Recording, RecordingState};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use mantel_peripherals::rtsp::Transport;
use std::sync::Arc;

/// A camera on its device's page.
pub struct CameraCard {
    /// Why the last picture did not come.
    pub problem: Option<String>,
    /// Whether a log-in is stored.
    pub has_login: bool,
    /// Whether it is reached over the network, where a log-in may be needed.
    pub asks: bool,
    /// Whether it was added by its address.
    pub typed: bool,
    /// The latest recording.
    pub recording: Option<RecordingCard>,
}

/// A recording on its camera's page.
pub struct RecordingCard {
    /// Whether it goes on.
    pub running: bool,
    /// How far it is.
    pub words: String,
    /// The title that it became.
    pub title: Option<String>,
    /// Why it is short, or was not kept.
    pub problem: Option<String>,
}

impl RecordingCard {
    fn of(row: &Recording) -> Self {
        let (running, words, failed) = match &row.state {
            RecordingState::Recording => {
                let words = format!("recording · {} of {} seconds", row.seconds, row.wanted);
                (true, words, None)
            }
            RecordingState::Saving => (false, "being saved".to_owned(), None),
            RecordingState::Done(_) => (false, "in the library".to_owned(), None),
            RecordingState::Failed(why) => (false, "not kept".to_owned(), Some(why.clone())),
        };
        Self {
            running,
            words,
            title: match &row.state {
                RecordingState::Done(title) => Some(title.to_string()),
                _ => None,
            },
            problem: failed.or_else(|| row.problem.clone()),
        }
    }
}

impl CameraCard {
    /// The camera `id`; `on_network`: it has an address.
    pub async fn of(site: &Site, id: &str, on_network: bool) -> Self {
        let cameras = &site.state.cameras;
        let typed = cameras.is_typed(id);
        let recordings = cameras.recordings();
        let recording = recordings
            .borrow()
            .iter()
            .find(|row| row.device == id)
            .map(RecordingCard::of);
        Self {
            problem: cameras.problem(id),
            // A device that has just gone has no form for it either.
            has_login: cameras.has_login(id).await.unwrap_or_default(),
            asks: on_network || typed,
            typed,
            recording,
        }
    }
}

fn path_of(device: &str) -> String {
    format!("/devices/{}", escape_query(device))
}

fn refused(device: &str) -> impl Fn(CameraError) -> Refusal {
    let back = path_of(device);
    move |error| Refusal::from_part(&error).back(back.clone())
}

/// `GET /devices/{device}/still`: what the camera sees, as a JPEG.
pub async fn still(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
) -> Result<Response, Refusal> {
    let jpeg = site
        .state
        .cameras
        .still(&device)
        .await
        .map_err(refused(&device))?;
    let headers = [
        (header::CONTENT_TYPE, "image/jpeg"),
        (header::CACHE_CONTROL, "private, no-store"),
    ];
    Ok((headers, jpeg).into_response())
}

/// `POST /devices/{device}/picture`
pub async fn picture(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Posted {
    let title = site
        .state
        .cameras
        .take_picture(&device)
        .await
        .map_err(refused(&device))?;
    let location = format!("/library/{title}?done=picture");
    Ok(Done::to(location).fact("title", title.to_string()))
}

/// `POST /devices/{device}/clip`
pub async fn record(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    let seconds = fields.number("seconds", "The length in seconds", MAX_SECONDS)?;
    site.state
        .cameras
        .record(&device, seconds.unwrap_or_default())
        .await
        .map_err(refused(&device))?;
    Ok(Done::to(format!("{}?done=clip", path_of(&device))))
}

/// `POST /devices/{device}/clip/stop`
pub async fn stop(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Done {
    site.state.cameras.stop(&device);
    Done::to(format!("{}?done=clip-ended", path_of(&device)))
}

/// `POST /devices/{device}/login`
pub async fn log_in(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    let (user, password) = (fields.text("user"), fields.raw("password"));
    site.state
        .cameras
        .set_login(&device, user, password)
        .await
        .map_err(refused(&device))?;
    Ok(Done::to(format!("{}?done=login", path_of(&device))))
}

/// `POST /devices/{device}/login/forget`
pub async fn forget_log_in(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Posted {
    site.state
        .cameras
        .forget_login(&device)
        .await
        .map_err(refused(&device))?;
    Ok(Done::to(format!("{}?done=login-gone", path_of(&device))))
}

/// `POST /devices/camera`: adds a camera by the address of its stream.
pub async fn add(State(site): State<Arc<Site>>, fields: Fields) -> Posted {
    let user = fields.text("user");
    let login = (!user.is_empty()).then(|| (user, fields.raw("password")));
    let transport = match fields.text("transport") {
        "udp" => Transport::Udp,
        _ => Transport::Interleaved,
    };
    let device = site
        .state
        .cameras
        .add(fields.text("url"), fields.text("name"), transport, login)
        .await
        .map_err(|error| Refusal::from_part(&error).back("/devices"))?;
    let location = format!("{}?done=camera-added", path_of(&device));
    Ok(Done::to(location).fact("device", device))
}

/// `POST /devices/{device}/camera/remove`
pub async fn remove(State(site): State<Arc<Site>>, Path(device): Path<String>) -> Posted {
    site.state
        .cameras
        .remove(&device)
        .await
        .map_err(refused(&device))?;
    Ok(Done::to("/devices?done=camera-removed"))
}
