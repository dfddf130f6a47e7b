//! Playing: here in the browser, or on a device; and the controls of what plays (F24, F63).

use super::Site;
use super::fields::Fields;
use super::respond::{Done, Page, Posted, Refusal, page};
use super::shell::{Nav, Shell, escape_query};
use crate::library::{Title, TitleState};
use crate::playback::{Place, Viewer};
use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use mantel_peripherals::media::Mute;
use mantel_protocol::ids::TitleId;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// The title of a path, if it is in the library.
pub async fn find(site: &Site, text: &str) -> Result<Title, Refusal> {
    let missing = || Refusal::missing("title").back("/library");
    let id: TitleId = text.parse().map_err(|_| missing())?;
    let title = site
        .state
        .library
        .title(id)
        .await
        .map_err(|e| Refusal::from_part(&e).back("/library"))?;
    title.ok_or_else(missing)
}

/// Opens a title for this browser: the path of its media. Counts a play where plays are limited.
pub async fn open(site: &Site, title: &Title) -> Result<String, Refusal> {
    let back = format!("/library/{}", title.id);
    if title.state != TitleState::Ready {
        return Err(Refusal::new(
            axum::http::StatusCode::CONFLICT,
            "The title is not complete yet.",
            "Nothing was charged. It can be played when it has arrived.",
        )
        .back(back));
    }
    let opened = site.state.playback.open(title.id, Viewer::Browser).await;
    opened
        .map(|url| url.path)
        .map_err(|e| Refusal::from_part(&e).back(back))
}

/// `POST /library/{title}/play`
pub async fn begin(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    fields: Fields,
) -> Posted {
    let title = find(&site, &id).await?;
    match fields.text("on") {
        "" | "here" => {
            let media = open(&site, &title).await?;
            let page = format!("/library/{}/watch?media={}", title.id, escape_query(&media));
            Ok(Done::to(page).fact("media", media))
        }
        device => {
            let playback = &site.state.playback;
            let (played, done) = match fields.text("when") {
                "next" => {
                    let played = playback.play_after(title.id, device, Place::Next).await;
                    (played, "queued-next")
                }
                "last" => {
                    let played = playback.play_after(title.id, device, Place::Last).await;
                    (played, "queued")
                }
                "" | "now" => (playback.play_on(title.id, device).await, "playing"),
                _ => return Err(Refusal::field("A title plays now, next or last.")),
            };
            played.map_err(|e| Refusal::from_part(&e).back(format!("/library/{id}")))?;
            Ok(Done::to(format!("/library/{}?done={done}", title.id)))
        }
    }
}

#[derive(Template)]
#[template(path = "watch.html")]
struct WatchPage {
    shell: Shell,
    id: String,
    name: String,
    kind: &'static str,
    media: String,
}

/// The media that [`begin`] opened.
#[derive(Deserialize)]
pub struct Opened {
    media: Option<String>,
}

impl Opened {
    /// The media's path, if it is one of ours.
    pub fn own_media(self) -> Option<String> {
        let plain = |path: &str| {
            path.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
        };
        self.media
            .filter(|path| path.starts_with("/media/") && !path.contains("..") && plain(path))
    }
}

/// `GET /library/{title}/watch`
pub async fn watch(
    State(site): State<Arc<Site>>,
    Path(id): Path<String>,
    Query(opened): Query<Opened>,
) -> Page {
    let title = find(&site, &id).await?;
    let Some(media) = opened.own_media() else {
        return Ok(Redirect::to(&format!("/library/{}", title.id)).into_response());
    };
    let shell = Shell::plain(&site, Nav::Library);
    Ok(page(&WatchPage {
        shell,
        id: title.id.to_string(),
        name: title.name,
        kind: title.kind.as_str(),
        media,
    }))
}

/// The longest position that a seek names, seconds.
const MAX_POSITION_S: u32 = 30 * 86_400;

/// `POST /devices/{device}/player`
pub async fn drive(
    State(site): State<Arc<Site>>,
    Path(device): Path<String>,
    fields: Fields,
) -> Posted {
    let back = own_back(&fields);
    let refused =
        |error: crate::playback::PlaybackError| Refusal::from_part(&error).back(back.clone());
    let playback = &site.state.playback;
    match fields.text("action") {
        "pause" => playback.pause(&device).await.map_err(refused)?,
        "resume" => playback.resume(&device).await.map_err(refused)?,
        "stop" => playback.stop(&device).await.map_err(refused)?,
        "seek" => {
            let position = fields.number("position", "The position", MAX_POSITION_S)?;
            let position = position.ok_or_else(|| Refusal::field("The position is missing."))?;
            playback
                .seek(&device, Duration::from_secs(position.into()))
                .await
                .map_err(refused)?;
        }
        "back" | "forward" => {
            let now = super::view::playing(&site)
                .into_iter()
                .find(|card| card.device == device);
            let at = now
                .ok_or_else(|| Refusal::missing("playing title").back(back.clone()))?
                .at_s;
            let to = if fields.text("action") == "back" {
                at.saturating_sub(30)
            } else {
                at + 30
            };
            playback
                .seek(&device, Duration::from_secs(to))
                .await
                .map_err(refused)?;
        }
        "volume" => {
            let volume = fields.number("volume", "The volume", 100)?;
            let volume = volume.ok_or_else(|| Refusal::field("The volume is missing."))?;
            playback
                .volume(&device, volume as u8)
                .await
                .map_err(refused)?;
        }
        "mute" => playback.mute(&device, Mute::On).await.map_err(refused)?,
        "unmute" => playback.mute(&device, Mute::Off).await.map_err(refused)?,
        "next" => playback.skip(&device).await.map_err(refused)?,
        "clear" => playback.clear_queue(&device),
        "first" => playback.promote(&device, entry(&fields)?),
        "remove" => playback.unqueue(&device, entry(&fields)?),
        _ => return Err(Refusal::field("The player knows no such command.").back(back)),
    }
    Ok(Done::to(back))
}

/// A place in a queue.
fn entry(fields: &Fields) -> Result<u64, Refusal> {
    let entry = fields.text("entry").parse();
    entry.map_err(|_| Refusal::field("The place in the queue is missing."))
}

fn own_back(fields: &Fields) -> String {
    super::session::own_path(fields.text("back")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::Opened;

    #[test]
    fn only_own_media_is_shown() {
        for (media, ok) in [
            ("/media/abc-DEF_1.mp4", true),
            ("/media/../admin?x", false),
            ("//evil.example/x", false),
            ("/media/a\" onerror=\"x", false),
            ("https://evil.example/media/x", false),
        ] {
            assert_eq!(
                Opened {
                    media: Some(media.to_owned())
                }
                .own_media()
                .is_some(),
                ok,
                "{media}"
            );
        }
    }
}
