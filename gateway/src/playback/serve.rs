//! The media URL: GET and HEAD with byte ranges (RFC 9110 §14), decrypted in memory (F26, DESIGN §9).
//!
//! A license is judged when a session's first byte is asked for (the play is counted then, durably), at each request,
//! and every [`JUDGE_EVERY`] while bytes flow: a viewing period that ends in the middle of a film ends the stream
//! there, and each further request is refused with 403 and the reason. The content key lives in the answer's body only
//! and goes with it.

use super::pass::{Opens, PASS_CHARS};
use super::range::{Wanted, wanted};
use super::session::{Addresses, NoSession, Session};
use super::{Inner, Playback, PlaybackError, dlna_flags, extension};
use crate::library::{LibraryError, PlainReader};
use crate::rights::RightsError;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use mantel_protocol::manifest::MediaKind;
use mantel_runtime::http::Peer;
use mantel_runtime::logging::chain;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Plaintext bytes opened at a time.
const PIECE_BYTES: u64 = 256 * 1024;
/// Pieces opened before they are asked for, and so in memory per viewer.
const READ_AHEAD: usize = 2;
/// How often the license is judged again while bytes flow.
pub const JUDGE_EVERY: Duration = Duration::from_secs(15);

/// Why nothing is sent.
pub(super) enum Refusal {
    Session(NoSession),
    Rights(RightsError),
    Library(LibraryError),
    /// The blob is not complete (any more).
    NotHere,
    /// The household did not let this player in, or put it out.
    NotLetIn,
}

impl From<RightsError> for Refusal {
    fn from(error: RightsError) -> Self {
        Self::Rights(error)
    }
}

impl From<PlaybackError> for Refusal {
    fn from(error: PlaybackError) -> Self {
        match error {
            PlaybackError::Rights(error) => Self::Rights(error),
            PlaybackError::Library(error) => Self::Library(error),
            _ => Self::NotHere,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Session(NoSession::Unknown) => (
                StatusCode::NOT_FOUND,
                "This media address is over. Open the title again in the library.".to_owned(),
            ),
            Self::Session(NoSession::Foreign) => (
                StatusCode::FORBIDDEN,
                "This media address belongs to another player. Open the title again on this one."
                    .to_owned(),
            ),
            Self::Rights(
                error @ (RightsError::Library(_) | RightsError::Db(_) | RightsError::Api(_)),
            ) => {
                tracing::warn!(error = chain(&error), "a title could not be judged");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{error}. Try again."),
                )
            }
            Self::Rights(error) => (
                StatusCode::FORBIDDEN,
                format!("This title cannot be played: {error}."),
            ),
            Self::Library(error) => {
                tracing::warn!(error = chain(&error), "a title could not be opened");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("This title cannot be opened: {error}."),
                )
            }
            Self::NotLetIn => (
                StatusCode::FORBIDDEN,
                "This player may not play from this gateway. Let it in on the gateway's devices page."
                    .to_owned(),
            ),
            Self::NotHere => (
                StatusCode::NOT_FOUND,
                "This title is not all here. Order or import it again.".to_owned(),
            ),
        };
        let headers = [
            (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        (status, headers, text).into_response()
    }
}

/// `GET` and `HEAD /media/{token}[.ext]`.
pub(super) async fn media(
    State(playback): State<Arc<Inner>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let token = file.split('.').next().unwrap_or_default();
    let session = if token.len() == PASS_CHARS {
        Playback::open_pass(&playback, token, peer.ip()).await
    } else {
        let now = playback.clock.monotonic();
        let found = playback.sessions.find(token, peer.ip(), now);
        found.map_err(Refusal::Session)
    };
    let session = match session {
        Ok(session) => session,
        Err(why) => return why.into_response(),
    };
    answer(playback, session, &method, &headers)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

/// `GET` and `HEAD /media/picture/{pass}.jpg`: a thumbnail for a player that browses the library.
pub(super) async fn picture(
    State(playback): State<Arc<Inner>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    Path(file): Path<String>,
) -> Response {
    let pass = file.split('.').next().unwrap_or_default();
    let Some(title) = playback
        .pass_key
        .open(Opens::Picture, pass, peer.ip(), playback.now_s())
    else {
        return Refusal::Session(NoSession::Unknown).into_response();
    };
    if !playback.lets_in(peer.ip()) {
        return Refusal::NotLetIn.into_response();
    }
    match playback.library.thumbnail(title).await {
        Ok(Some(jpeg)) => {
            let features = format!(
                "DLNA.ORG_PN=JPEG_SM;DLNA.ORG_OP=00;DLNA.ORG_CI=1;DLNA.ORG_FLAGS={}",
                dlna_flags(MediaKind::Image)
            );
            let headers = [
                ("content-type", "image/jpeg"),
                ("cache-control", "private, max-age=3600"),
                ("transfermode.dlna.org", "Interactive"),
                ("contentfeatures.dlna.org", &features),
            ];
            (headers, jpeg).into_response()
        }
        Ok(None) => Refusal::NotHere.into_response(),
        Err(error) => Refusal::Library(error).into_response(),
    }
}

async fn answer(
    playback: Arc<Inner>,
    session: Arc<Session>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let key = playback
        .rights
        .content_key(session.title, session.blob)
        .await?;
    let opened = playback
        .library
        .plaintext(session.blob, key)
        .await
        .map_err(Refusal::Library)?;
    let plain = opened.ok_or(Refusal::NotHere)?;
    let size = plain.plain_bytes();
    let etag = format!("\"{}\"", &session.blob.to_string()[..32]);
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    // If-Range (RFC 9110 §13.1.5): another version, or a date, which is never given out here: the whole.
    let same = text(header::IF_RANGE).is_none_or(|condition| condition.trim() == etag);
    let range = if same { text(header::RANGE) } else { None };
    let (status, start, end) = match wanted(range, size) {
        Wanted::Whole => (StatusCode::OK, 0, size),
        Wanted::Part { start, end } => (StatusCode::PARTIAL_CONTENT, start, end),
        Wanted::Unsatisfiable => {
            let unsatisfied = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, unsatisfied).into_response());
        }
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    describe(response.headers_mut(), &session, &etag);
    put(
        response.headers_mut(),
        header::CONTENT_LENGTH,
        &(end - start).to_string(),
    );
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", end - 1);
        put(response.headers_mut(), header::CONTENT_RANGE, &range);
    }
    if method != Method::HEAD {
        session
            .begun
            .get_or_try_init(|| async { playback.rights.begin_play(session.title).await.map(drop) })
            .await?;
        *response.body_mut() = Body::from_stream(body(playback, session, plain, start, end));
    }
    Ok(response)
}

fn put(headers: &mut HeaderMap, name: impl header::IntoHeaderName, value: &str) {
    // Names and types are cleaned when they are stored; a value that is no header is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What a player is told. Only what a browser plays is given its type: a file that could be a page is a download.
fn describe(headers: &mut HeaderMap, session: &Session, etag: &str) {
    let is_media = MediaKind::of_mime(&session.mime) != MediaKind::Data
        && !session.mime.starts_with("image/svg");
    let mime = if is_media {
        session.mime.as_str()
    } else {
        "application/octet-stream"
    };
    put(headers, header::CONTENT_TYPE, mime);
    put(headers, header::ACCEPT_RANGES, "bytes");
    put(headers, header::ETAG, etag);
    put(headers, header::CACHE_CONTROL, "private, no-store");
    put(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(headers, header::CONTENT_SECURITY_POLICY, "sandbox");
    put(headers, "cross-origin-resource-policy", "same-origin");
    if !is_media {
        let name: String = session
            .name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || " -_".contains(*c))
            .collect();
        let file = format!(
            "attachment; filename=\"{name}.{}\"",
            extension(&session.mime)
        );
        put(headers, header::CONTENT_DISPOSITION, &file);
    }
    // DLNA guidelines 7.4.1.3.23 (transfer mode) and 7.4.1.3.17 (content features).
    let mode = if session.kind == MediaKind::Image {
        "Interactive"
    } else {
        "Streaming"
    };
    put(headers, "transfermode.dlna.org", mode);
    let features = format!(
        "DLNA.ORG_OP=01;DLNA.ORG_CI=0;DLNA.ORG_FLAGS={}",
        dlna_flags(session.kind)
    );
    put(headers, "contentfeatures.dlna.org", &features);
}

/// The bytes, opened a few pieces ahead of the viewer.
fn body(
    playback: Arc<Inner>,
    session: Arc<Session>,
    plain: PlainReader,
    start: u64,
    end: u64,
) -> impl Stream<Item = io::Result<Bytes>> {
    let judged = Arc::new(Mutex::new(playback.clock.monotonic()));
    // Pieces end at record borders, so that no record is opened twice.
    let pieces = stream::unfold(start, move |at| async move {
        let next = ((at / PIECE_BYTES + 1) * PIECE_BYTES).min(end);
        (at < end).then_some(((at, next), next))
    });
    let opened = pieces.map(move |(from, to)| {
        let (playback, session, plain, judged) = (
            Arc::clone(&playback),
            Arc::clone(&session),
            plain.clone(),
            Arc::clone(&judged),
        );
        async move {
            still_allowed(&playback, &session, &judged).await?;
            playback.note_sent(session.lasts);
            plain.read_at(from, (to - from) as usize).await.map_err(|error| {
                tracing::warn!(title = %session.title, error = chain(&error), "playing stopped");
                io::Error::other(error)
            })
        }
    });
    // After an error nothing more is sent; the player sees a body cut short.
    let mut failed = false;
    opened.buffered(READ_AHEAD).take_while(move |piece| {
        let go_on = !failed;
        failed |= piece.is_err();
        std::future::ready(go_on)
    })
}

/// Ends a body whose session ended or whose license did.
async fn still_allowed(
    playback: &Inner,
    session: &Session,
    judged: &Mutex<Duration>,
) -> io::Result<()> {
    if session.ended.is_cancelled() {
        return Err(io::Error::other("the session ended"));
    }
    if let Addresses::Browsing(address) = session.addresses
        && !playback.lets_in(address)
    {
        session.ended.cancel();
        return Err(io::Error::other("the household put the player out"));
    }
    let now = playback.clock.monotonic();
    let due = {
        let mut last = judged.lock().expect("no holder of this lock panics");
        let due = now.saturating_sub(*last) >= JUDGE_EVERY;
        if due {
            *last = now;
        }
        due
    };
    if due
        && let Err(error) = playback
            .rights
            .content_key(session.title, session.blob)
            .await
    {
        tracing::info!(title = %session.title, why = %error, "playing ended");
        session.ended.cancel();
        return Err(io::Error::other(error));
    }
    Ok(())
}
