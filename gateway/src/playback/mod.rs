//! Playback (F3, F26, F63, DESIGN §9): titles by byte range to browsers and renderers, opened in memory.
//!
//! - `session`: who may fetch what until when. `range`, `serve`: the media URL.
//! - `pass`: media addresses for players that browse the library.
//! - `follow`, `control`, `task`, `queue`: playing on a renderer, decided and done, one title after the other.
//!
//! A media URL is bound to one viewer's address and ends after 12 hours. A license is judged at the first byte, at each
//! request and while bytes flow (see `serve`). Nothing is ever decrypted to disk.

mod control;
mod follow;
mod pass;
mod queue;
mod range;
mod serve;
mod session;
mod task;

pub use pass::{PASS_LIFE_S, Passes};
pub use queue::{MAX_QUEUE, Place, Waiting};
pub use serve::JUDGE_EVERY;
pub use session::{MAX_SESSIONS, SESSION_LIFE};

use crate::devices::{Asked, DeviceStanding, Devices};
use crate::library::{Library, LibraryError, Origin, Title, TitleState};
use crate::rights::{Rights, RightsError, Standing};
use axum::Router;
use axum::routing::get;
use control::Commands;
use mantel_peripherals::media::{Mute, RenderError, TransportState, Volume};
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::{Asset, MediaKind};
use mantel_runtime::clock::Clock;
use mantel_runtime::tasks::Tasks;
use pass::{Opens, PassKey};
use queue::Queue;
use session::{Addresses, NoSession, Session, Sessions};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How long after the last bytes somebody counts as watching, beside what the title itself lasts: browsers fetch far
/// ahead of what they show, a song whole.
const STILL_PLAYING: Duration = Duration::from_mins(2);
/// How long a player that neither plays nor stops, such as one that pauses, counts as one that plays.
const HELD: Duration = Duration::from_mins(30);

/// Who plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Viewer {
    /// A browser; the session is bound to the first address that asks.
    Browser,
    /// A renderer at this address.
    Renderer(IpAddr),
}

/// Where a player fetches a title.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaUrl {
    /// The path, `/media/…`, at the gateway's household address.
    pub path: String,
    /// The MIME type of what is there.
    pub mime: String,
    /// What it is.
    pub kind: MediaKind,
}

impl MediaUrl {
    fn of(token: &str, title: &Title, asset: &Asset) -> Self {
        let path = format!("/media/{token}.{}", extension(&asset.mime));
        Self {
            path,
            mime: asset.mime.clone(),
            kind: title.kind,
        }
    }
}

/// What plays on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct PlayingOn {
    /// The device's key.
    pub device: String,
    /// Its name.
    pub device_name: String,
    /// The title.
    pub title: TitleId,
    /// Its name.
    pub title_name: String,
    /// What the device is doing.
    pub state: TransportState,
    /// How far it is, where told.
    pub position: Option<Duration>,
    /// How long it is, where known.
    pub duration: Option<Duration>,
    /// What went wrong, in plain words.
    pub problem: Option<String>,
    /// How loud it is, where told.
    pub volume: Option<Volume>,
    /// Whether it is silenced, where told.
    pub mute: Option<Mute>,
    /// What plays after this, in order.
    pub queue: Vec<Waiting>,
}

/// Why a title is not played.
#[derive(Debug, thiserror::Error)]
pub enum PlaybackError {
    /// No such title.
    #[error("this title is no longer in the library")]
    NoSuchTitle,
    /// Not all here.
    #[error("this title is not all here yet; it can be played as soon as it is ready")]
    NotReady,
    /// No leave or no key.
    #[error("this title cannot be played: {0}")]
    Rights(RightsError),
    /// The library failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// No such device, or it plays nothing, or it is ignored.
    #[error("this device cannot play now; check that it is switched on, listed and not ignored")]
    NoPlayer,
    /// No network between gateway and device.
    #[error("there is no network between this gateway and {device}; connect both to the same one")]
    NoRoute {
        /// Its name.
        device: String,
    },
    /// The device refused; its own words say why.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// Too many wait.
    #[error("{MAX_QUEUE} titles wait for {device} already; remove some first")]
    QueueFull {
        /// Its name.
        device: String,
    },
    /// Nothing of ours plays there.
    #[error("nothing from this gateway is playing there")]
    NotPlaying,
}

/// Playback; cheap to clone.
#[derive(Clone)]
pub struct Playback {
    inner: Arc<Inner>,
}

struct Inner {
    library: Library,
    rights: Rights,
    devices: Devices,
    clock: Clock,
    web: SocketAddr,
    tasks: Tasks,
    sessions: Sessions,
    pass_key: PassKey,
    commands: Mutex<HashMap<String, Commands>>,
    /// What waits, by device key; kept when a title is started over another.
    queues: Mutex<HashMap<String, Queue>>,
    rows: watch::Sender<Arc<Vec<PlayingOn>>>,
    watched: Mutex<Watched>,
}

/// How long somebody counts as watching, monotonic.
#[derive(Default)]
struct Watched {
    /// Until when what was fetched lasts.
    until: Duration,
    /// Since when players hold on without playing; `None`: none does, or one plays.
    held: Option<Duration>,
}

impl Playback {
    /// Playback of `library` under `rights`. `web`: the household HTTP address, where renderers
    /// fetch.
    pub fn new(
        library: Library,
        rights: Rights,
        devices: Devices,
        clock: Clock,
        web: SocketAddr,
        tasks: &Tasks,
    ) -> Self {
        let pass_key = PassKey::new(&library.derived_secret(pass::CONTEXT));
        let inner = Inner {
            pass_key,
            library,
            rights,
            devices,
            clock,
            web,
            tasks: tasks.child(),
            sessions: Sessions::default(),
            commands: Mutex::default(),
            queues: Mutex::default(),
            rows: watch::Sender::new(Arc::default()),
            watched: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A media URL for one viewer, if the title may be played.
    pub async fn open(&self, title: TitleId, viewer: Viewer) -> Result<MediaUrl, PlaybackError> {
        let found = self.playable(title).await?;
        let asset = found.main_asset().ok_or(PlaybackError::NotReady)?;
        let addresses = match viewer {
            Viewer::Browser => Addresses::First(std::sync::OnceLock::new()),
            Viewer::Renderer(address) => Addresses::Only(vec![address]),
        };
        let now = self.inner.clock.monotonic();
        let token = self
            .inner
            .sessions
            .add(Session::new(&found, asset, addresses, now), now);
        Ok(MediaUrl::of(&token, &found, asset))
    }

    /// Writes media addresses for a player at `address` that browses the library.
    pub fn passes(&self, address: IpAddr) -> Passes {
        Passes::new(&self.inner.pass_key, address, self.inner.now_s())
    }

    /// Opens a pass that a player at `address` shows.
    async fn open_pass(
        inner: &Arc<Inner>,
        token: &str,
        address: IpAddr,
    ) -> Result<Arc<Session>, serve::Refusal> {
        let title = inner
            .pass_key
            .open(Opens::Media, token, address, inner.now_s())
            .ok_or(serve::Refusal::Session(NoSession::Unknown))?;
        if !inner.lets_in(address) {
            return Err(serve::Refusal::NotLetIn);
        }
        let now = inner.clock.monotonic();
        if let Ok(session) = inner.sessions.find(token, address, now) {
            return Ok(session);
        }
        let this = Self {
            inner: Arc::clone(inner),
        };
        let found = this.playable(title).await?;
        let asset = found.main_asset().ok_or(serve::Refusal::NotHere)?;
        let session = Session::new(&found, asset, Addresses::Browsing(address), now);
        // Only what is counted must be remembered: a slide show of thousands would push others' sessions out.
        Ok(if matches!(found.origin, Origin::Own { .. }) {
            Arc::new(session)
        } else {
            inner.sessions.add_as(token, session, now)
        })
    }

    /// The media URLs' handlers. They carry their own tokens and need no log-in; the server must give
    /// [`mantel_runtime::http::Peer`] as connection information.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/media/{file}", get(serve::media))
            .route("/media/picture/{file}", get(serve::picture))
            .with_state(Arc::clone(&self.inner))
    }

    /// What plays where.
    pub fn sessions(&self) -> watch::Receiver<Arc<Vec<PlayingOn>>> {
        self.inner.rows.subscribe()
    }

    /// Whether somebody watches or listens: a renderer that plays, or paused not long ago, or a player that has fetched
    /// something which lasts until now.
    pub fn is_playing(&self) -> bool {
        let idle = |state| matches!(state, TransportState::Stopped | TransportState::NoMedia);
        let (mut plays, mut holds) = (false, false);
        for row in self.inner.rows.borrow().iter() {
            plays |= row.state == TransportState::Playing;
            holds |= !idle(row.state);
        }
        let now = self.inner.clock.monotonic();
        let mut watched = self
            .inner
            .watched
            .lock()
            .expect("no holder of this lock panics");
        if plays || !holds {
            watched.held = None;
        }
        let held = holds && now.saturating_sub(*watched.held.get_or_insert(now)) < HELD;
        plays || held || now < watched.until
    }

    /// A title that is here and may be played now.
    async fn playable(&self, title: TitleId) -> Result<Title, PlaybackError> {
        let found = self
            .inner
            .library
            .title(title)
            .await?
            .ok_or(PlaybackError::NoSuchTitle)?;
        if found.state != TitleState::Ready {
            return Err(PlaybackError::NotReady);
        }
        match self
            .inner
            .rights
            .standing(title)
            .await
            .map_err(PlaybackError::Rights)?
        {
            Standing::Own | Standing::Shared | Standing::Licensed { .. } => Ok(found),
            Standing::Ended(refusal) => Err(PlaybackError::Rights(refusal.into())),
            Standing::Needs => Err(PlaybackError::Rights(RightsError::NoLicense)),
        }
    }
}

impl Inner {
    /// Media that lasts so long is being sent.
    fn note_sent(&self, lasts: Duration) {
        let until = self.clock.monotonic() + lasts + STILL_PLAYING;
        let mut watched = self.watched.lock().expect("no holder of this lock panics");
        watched.until = watched.until.max(until);
    }

    /// Wall-clock time, Unix seconds.
    fn now_s(&self) -> u64 {
        u64::try_from(self.clock.now().as_second()).unwrap_or(0)
    }

    /// Whether the household let in who asks from `address`.
    fn lets_in(&self, address: IpAddr) -> bool {
        let asked = Asked {
            address,
            program: None,
            now: self.clock.now(),
            monotonic: self.clock.monotonic(),
        };
        self.devices.standing_of(asked) == DeviceStanding::Admitted
    }
}

/// DLNA flags (guidelines 7.4.1.3.24): background and interactive transfer for images, streaming for the rest,
/// connection stalling, DLNA 1.5.
pub(crate) fn dlna_flags(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "00F00000000000000000000000000000",
        MediaKind::Audio | MediaKind::Video | MediaKind::Data => "01700000000000000000000000000000",
    }
}

/// The file name ending that players expect for a MIME type; some go by it alone.
fn extension(mime: &str) -> &'static str {
    match mime {
        "video/mp4" | "video/x-m4v" => "mp4",
        "video/quicktime" => "mov",
        "video/x-matroska" | "audio/x-matroska" => "mkv",
        "video/webm" => "webm",
        "video/x-msvideo" | "video/avi" => "avi",
        "video/mp2t" | "video/vnd.dlna.mpeg-tts" => "ts",
        "video/mpeg" => "mpg",
        "audio/mpeg" => "mp3",
        "audio/mp4" => "m4a",
        "audio/aac" => "aac",
        "audio/flac" | "audio/x-flac" => "flac",
        "audio/ogg" | "video/ogg" => "ogg",
        "audio/wav" | "audio/x-wav" => "wav",
        "image/jpeg" => "jpg",
        "image/png" => "png",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "image/tiff" => "tif",
        "text/plain" => "txt",
        "application/pdf" => "pdf",
        _ => "bin",
    }
}

#[cfg(test)]
pub(crate) mod tests;
