//! The JSON inside Cast messages; pure. What a device says is read leniently: what is missing is not known.

use std::time::Duration;

use serde_json::{Value, json};

use crate::device::clean_label;
use crate::media::{MediaKind, PlayRequest, TransportState};
use crate::url::MAX_URL_BYTES;

/// Begins and ends a virtual connection.
pub const CONNECTION: &str = "urn:x-cast:com.google.cast.tp.connection";
/// `PING` and `PONG`.
pub const HEARTBEAT: &str = "urn:x-cast:com.google.cast.tp.heartbeat";
/// Applications and volume.
pub const RECEIVER: &str = "urn:x-cast:com.google.cast.receiver";
/// Media in an application.
pub const MEDIA: &str = "urn:x-cast:com.google.cast.media";
/// The default media receiver.
pub const DEFAULT_APP: &str = "CC1AD845";
/// Longest session or transport id kept, in bytes.
pub const MAX_ID_BYTES: usize = 200;
/// Most applications looked at in one status.
const MAX_APPS: usize = 16;
/// The longest time believed of a title or a position.
const MAX_SECONDS: f64 = 30.0 * 86_400.0;

/// What a device said.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It wants to know whether we are there.
    Ping,
    /// It ended the virtual connection.
    Close,
    /// The device's own status.
    Receiver {
        /// The request that it answers; 0: said by itself.
        request: u64,
        /// The status.
        status: ReceiverStatus,
    },
    /// The status of what plays; `None`: nothing was loaded.
    Media {
        /// The request that it answers; 0: said by itself.
        request: u64,
        /// The status.
        status: Option<MediaStatus>,
    },
    /// It did not do what was asked.
    Failed {
        /// The request.
        request: u64,
        /// Why.
        failure: Failure,
    },
    /// Anything else.
    Other,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The title's bytes could not be had.
    Network,
    /// The title cannot be played there.
    Media,
    /// Not in its present state.
    NotNow,
    /// In the device's words.
    Other(String),
}

/// An application that runs on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Which one, such as [`DEFAULT_APP`].
    pub id: String,
    /// Its session, to end it.
    pub session: String,
    /// Where it takes messages.
    pub transport: String,
}

/// The device's own status.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReceiverStatus {
    /// What runs.
    pub apps: Vec<App>,
    /// Loudness, 0 to 1.
    pub level: Option<f64>,
    /// Whether it is silenced.
    pub muted: bool,
}

impl ReceiverStatus {
    /// The default media receiver, if it runs.
    pub fn default_app(&self) -> Option<&App> {
        self.apps.iter().find(|app| app.id == DEFAULT_APP)
    }
}

/// What plays.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaStatus {
    /// Number of the media session, for commands.
    pub session: i64,
    /// What it does.
    pub state: TransportState,
    /// Whether it gave up with an error.
    pub failed: bool,
    /// Position.
    pub position: Option<Duration>,
    /// Length.
    pub duration: Option<Duration>,
    /// The URL that it plays.
    pub url: Option<String>,
}

/// Reads a message by its namespace.
pub fn heard(namespace: &str, payload: &str) -> Heard {
    let Ok(message) = serde_json::from_str::<Value>(payload) else {
        return Heard::Other;
    };
    let kind = message["type"].as_str().unwrap_or_default();
    let request = message["requestId"].as_u64().unwrap_or(0);
    match (namespace, kind) {
        (HEARTBEAT, "PING") => Heard::Ping,
        (CONNECTION, "CLOSE") => Heard::Close,
        (RECEIVER, "RECEIVER_STATUS") => Heard::Receiver {
            request,
            status: receiver_status(&message["status"]),
        },
        (MEDIA, "MEDIA_STATUS") => Heard::Media {
            request,
            status: message["status"].get(0).and_then(media_status),
        },
        (RECEIVER, "LAUNCH_ERROR" | "INVALID_REQUEST")
        | (
            MEDIA,
            "LOAD_FAILED" | "LOAD_CANCELLED" | "INVALID_PLAYER_STATE" | "INVALID_REQUEST" | "ERROR",
        ) => Heard::Failed {
            request,
            failure: failure(kind, &message),
        },
        _ => Heard::Other,
    }
}

/// Google's detailed error codes: 103 and 3xx are the network's, the others of 1xx the format's.
fn failure(kind: &str, message: &Value) -> Failure {
    match (kind, message["detailedErrorCode"].as_u64()) {
        ("INVALID_PLAYER_STATE" | "LOAD_CANCELLED", _) => Failure::NotNow,
        (_, Some(103 | 300..=399)) => Failure::Network,
        ("LOAD_FAILED" | "ERROR", _) => Failure::Media,
        _ => Failure::Other(
            message["reason"]
                .as_str()
                .and_then(|reason| clean_label(reason, 200))
                .unwrap_or_else(|| "it gave no reason".to_owned()),
        ),
    }
}

fn short(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty() && text.len() <= MAX_ID_BYTES)
        .map(str::to_owned)
}

fn receiver_status(status: &Value) -> ReceiverStatus {
    let apps = status["applications"].as_array();
    let app = |app: &Value| {
        Some(App {
            id: short(&app["appId"])?,
            session: short(&app["sessionId"])?,
            transport: short(&app["transportId"])?,
        })
    };
    ReceiverStatus {
        apps: apps
            .map(|apps| apps.iter().take(MAX_APPS).filter_map(app).collect())
            .unwrap_or_default(),
        level: status["volume"]["level"]
            .as_f64()
            .filter(|level| (0.0..=1.0).contains(level)),
        muted: status["volume"]["muted"].as_bool().unwrap_or(false),
    }
}

fn media_status(status: &Value) -> Option<MediaStatus> {
    let idle_reason = status["idleReason"].as_str();
    let state = match status["playerState"].as_str()? {
        "PLAYING" => TransportState::Playing,
        "PAUSED" => TransportState::Paused,
        "BUFFERING" | "LOADING" => TransportState::Transitioning,
        "IDLE" => TransportState::Stopped,
        _ => TransportState::Other,
    };
    let media = &status["media"];
    Some(MediaStatus {
        session: status["mediaSessionId"].as_i64()?,
        state,
        failed: state == TransportState::Stopped && idle_reason == Some("ERROR"),
        position: seconds(&status["currentTime"]),
        duration: seconds(&media["duration"]).filter(|duration| !duration.is_zero()),
        url: media["contentUrl"]
            .as_str()
            .or(media["contentId"].as_str())
            .filter(|url| !url.is_empty() && url.len() <= MAX_URL_BYTES)
            .map(str::to_owned),
    })
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64()?;
    (0.0..=MAX_SECONDS)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

/// `MediaInformation` of a title.
pub fn media(what: &PlayRequest) -> Value {
    let mut media = json!({
        "contentId": what.url,
        "contentType": what.mime,
        "streamType": "BUFFERED",
        "metadata": {
            // Generic, music track, photo.
            "metadataType": match what.kind {
                MediaKind::Audio => 3,
                MediaKind::Image => 4,
                MediaKind::Video | MediaKind::Data => 0,
            },
            "title": what.title,
        },
    });
    if let Some(duration) = what.duration {
        media["duration"] = json!(duration.as_secs_f64());
    }
    media
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_television_that_plays_is_read() {
        let text = include_str!("../../testdata/cast/media-status.json");
        let Heard::Media {
            request,
            status: Some(status),
        } = heard(MEDIA, text)
        else {
            panic!("not read")
        };
        assert_eq!((request, status.session), (7, 1));
        assert_eq!(status.state, TransportState::Playing);
        assert_eq!(status.position, Some(Duration::from_millis(12_500)));
        assert!(
            status
                .url
                .is_some_and(|url| url.ends_with("/media/abc.mp4"))
        );
    }

    #[test]
    fn a_receiver_is_read() {
        let text = include_str!("../../testdata/cast/receiver-status.json");
        let Heard::Receiver { status, .. } = heard(RECEIVER, text) else {
            panic!("not read")
        };
        assert_eq!(
            status.default_app().map(|app| app.transport.as_str()),
            Some("web-1")
        );
        assert_eq!((status.level, status.muted), (Some(0.5), false));
    }

    #[test]
    fn failures_are_told_apart() {
        let failed = |text| match heard(MEDIA, text) {
            Heard::Failed { failure, .. } => Some(failure),
            _ => None,
        };
        for (text, wanted) in [
            (r#"{"type":"LOAD_FAILED","requestId":3}"#, Failure::Media),
            (
                r#"{"type":"LOAD_FAILED","requestId":3,"detailedErrorCode":103}"#,
                Failure::Network,
            ),
            (
                r#"{"type":"INVALID_PLAYER_STATE","requestId":3}"#,
                Failure::NotNow,
            ),
            (
                r#"{"type":"INVALID_REQUEST","reason":"NO\nWAY"}"#,
                Failure::Other("NO WAY".to_owned()),
            ),
        ] {
            assert_eq!(failed(text), Some(wanted), "{text}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_not_believed() {
        let text = r#"{"type":"MEDIA_STATUS","status":[{"mediaSessionId":1,"playerState":"PLAYING",
            "currentTime":-4,"media":{"duration":1e300,"contentId":""}}]}"#;
        let Heard::Media {
            status: Some(status),
            ..
        } = heard(MEDIA, text)
        else {
            panic!("not read")
        };
        assert_eq!(
            (status.position, status.duration, status.url),
            (None, None, None)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(text in any::<String>(), deep in 0_usize..3000) {
            for namespace in [CONNECTION, HEARTBEAT, RECEIVER, MEDIA] {
                let _ = heard(namespace, &text);
                let _ = heard(namespace, &"[".repeat(deep));
                let _ = heard(namespace, &format!(r#"{{"type":"MEDIA_STATUS","status":{}}}"#, serde_json::json!([text])));
            }
        }
    }
}
