//! `GET /events`: news for open pages, as server-sent events, one event per area of [`super::live`].

use super::Site;
use super::live::{AREAS, news};
use super::respond::Refusal;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// News is told at most this often.
const REST: Duration = Duration::from_millis(400);
/// Events waiting for one slow page.
const QUEUE: usize = AREAS.len();

/// Streams news until the page is left or the gateway stops.
pub async fn stream(
    State(site): State<Arc<Site>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let Ok(place) = Arc::clone(&site.listeners).try_acquire_owned() else {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many pages are open.",
            "This page still works; reload it to see what changed.",
        ));
    };
    let (send, receive) = mpsc::channel(QUEUE);
    let listener = Arc::clone(&site);
    site.state.tasks.spawn("events", async move {
        tell(&listener, send).await;
        drop(place);
    });
    Ok(Sse::new(ReceiverStream::new(receive)).keep_alive(KeepAlive::default()))
}

async fn tell(site: &Site, send: mpsc::Sender<Result<Event, Infallible>>) {
    let state = &site.state;
    let mut told: HashMap<&str, String> = HashMap::new();
    let (mut orders, mut waiting) = (state.exchange.orders(), state.exchange.waiting());
    let (mut homes, mut listings, mut offers) = (
        state.exchange.homes(),
        state.exchange.listings(),
        state.exchange.offers(),
    );
    let (mut library, mut imports) = (state.library.changes(), state.library.imports());
    let (mut devices, mut walks) = (state.devices.snapshot(), state.devices.imports());
    let mut fresh = state.devices.news();
    let mut senders = state.uploads.senders();
    let (mut playing, mut link) = (state.playback.sessions(), state.link.status());
    let mut recordings = state.recordings.rows();
    let mut updates = state.updates.changes();
    loop {
        for area in AREAS {
            let text = serde_json::to_string(&news(site, area)).expect("news is plain data");
            if told.get(area) == Some(&text) {
                continue;
            }
            if send
                .send(Ok(Event::default().event(area).data(&text)))
                .await
                .is_err()
            {
                return;
            }
            told.insert(area, text);
        }
        tokio::time::sleep(REST).await;
        // A part that is gone means that the gateway stops.
        let alive = tokio::select! {
            () = send.closed() => false,
            alive = next(&mut orders) => alive,
            alive = next(&mut waiting) => alive,
            alive = next(&mut homes) => alive,
            alive = next(&mut listings) => alive,
            alive = next(&mut offers) => alive,
            alive = next(&mut library) => alive,
            alive = next(&mut imports) => alive,
            alive = next(&mut devices) => alive,
            alive = next(&mut walks) => alive,
            alive = next(&mut fresh) => alive,
            alive = next(&mut senders) => alive,
            alive = next(&mut playing) => alive,
            alive = next(&mut link) => alive,
            alive = next(&mut recordings) => alive,
            alive = next_if_any(updates.as_mut()) => alive,
        };
        if !alive {
            return;
        }
    }
}

async fn next<T>(watched: &mut watch::Receiver<T>) -> bool {
    watched.changed().await.is_ok()
}

/// Like [`next`]; what is not there never changes.
async fn next_if_any<T>(watched: Option<&mut watch::Receiver<T>>) -> bool {
    match watched {
        Some(watched) => next(watched).await,
        None => std::future::pending().await,
    }
}
