//! Media on devices and playing on devices, in words that no protocol owns: what [`MediaSource`] lists and fetches,
//! what [`Renderer`] plays (F3, F63). Adapters translate to and from these.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde::{Deserialize, Serialize};

use crate::alsa::Speaker;
use crate::cast::CastPlayer;
use crate::changes::Changes;
use crate::disc::Disc;
use crate::mpd::Jukebox;
use crate::ptp::PtpSource;
use crate::storage::Storage;
use crate::upnp::{MediaRenderer, MediaServer};
use crate::url::DeviceUrl;
use crate::walk::{LOOKED_THROUGH, Walk};

/// What happened below, in the adapter's own words.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Longest object id accepted from a device, in bytes.
pub const MAX_OBJECT_ID_BYTES: usize = 1024;

/// Most entries that one page asks for and keeps.
pub const MAX_PAGE: u32 = 200;

/// The device's own name for a container or an item; opaque.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub(crate) String);

impl ObjectId {
    /// The top container of every source.
    pub fn root() -> Self {
        Self("0".to_owned())
    }

    /// An id from stored text. `None` when empty or longer than [`MAX_OBJECT_ID_BYTES`].
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty() && text.len() <= MAX_OBJECT_ID_BYTES).then(|| Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a person does with a piece of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// Listens to it.
    Audio,
    /// Looks at it.
    Image,
    /// Watches it.
    Video,
    /// Anything else: text, playlists, any other file.
    Data,
}

impl MediaKind {
    /// The kind that a MIME type belongs to.
    pub fn of_mime(mime: &str) -> Self {
        let main = mime.split('/').next().unwrap_or_default();
        if main.eq_ignore_ascii_case("audio") {
            Self::Audio
        } else if main.eq_ignore_ascii_case("image") {
            Self::Image
        } else if main.eq_ignore_ascii_case("video") {
            Self::Video
        } else {
            Self::Data
        }
    }
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A folder, album, date …
    Container(Container),
    /// Something to play.
    Item(Item),
}

/// A container of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The device's name for it.
    pub id: ObjectId,
    /// Its title, one line.
    pub title: String,
    /// How many children the device says it has. A hint.
    pub child_count: Option<u32>,
}

/// An item of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The device's name for it. One file may be listed under several ids: see [`Item::original`] and `original_id`.
    pub id: ObjectId,
    /// The item that this one refers to, where the device says so.
    pub original_id: Option<ObjectId>,
    /// Its title, one line.
    pub title: String,
    /// `upnp:class`, such as `object.item.videoItem`.
    pub class: String,
    /// What it is.
    pub kind: MediaKind,
    /// When it was taken or published, in the device's local time.
    pub date: Option<jiff::civil::DateTime>,
    /// Artist or creator.
    pub artist: Option<String>,
    /// Album.
    pub album: Option<String>,
    /// The forms in which the device offers it. Those off the device's own address were left out.
    pub resources: Vec<Resource>,
}

impl Item {
    /// The untouched file: not a thumbnail, not a conversion. The largest, where sizes are told.
    pub fn original(&self) -> Option<&Resource> {
        let originals = || self.resources.iter().filter(|r| !r.converted);
        let largest = originals()
            .filter(|r| r.size_bytes.is_some())
            .max_by_key(|r| r.size_bytes);
        largest
            .or_else(|| originals().next())
            .or_else(|| self.resources.first())
    }
}

/// Where the bytes of a resource are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A URL on the device's own address.
    Url(DeviceUrl),
    /// The device's own name for the file: a path on a storage, an MTP object handle. Only its adapter reads it.
    Object(ObjectId),
}

/// One form of an item: where it is on the device, with what is known about its bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Where it is.
    pub location: Location,
    /// MIME type as told in its protocolInfo, lower case.
    pub mime: String,
    /// The whole protocolInfo, for a renderer (UPnP ConnectionManager:1 §2.5.2).
    pub protocol_info: String,
    /// Size, where told. A hint until it was fetched.
    pub size_bytes: Option<u64>,
    /// Playing time, where told.
    pub duration: Option<Duration>,
    /// Width and height in pixels, where told.
    pub resolution: Option<(u32, u32)>,
    /// Made from the original by the device (thumbnail, transcode): `DLNA.ORG_CI=1`.
    pub converted: bool,
}

/// Which page of a listing is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Index of the first entry.
    pub start: u32,
    /// Most entries; cut to [`MAX_PAGE`].
    pub count: u32,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self {
            start: 0,
            count: 100,
        }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Page {
    /// The entries that could be read.
    pub entries: Vec<Entry>,
    /// How many the device says there are in all. 0 and no entry: an empty container.
    pub total: u32,
    /// Where the next page starts, if there is one.
    pub next: Option<u32>,
    /// Entries and resources left out: unreadable, or pointing off the device.
    pub refused: u32,
}

/// Bounds of a walk through everything that a source has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkLimits {
    /// Deepest container below the root.
    pub depth: u32,
    /// Most containers opened.
    pub containers: u32,
    /// Most items given out.
    pub items: u32,
}

impl Default for WalkLimits {
    fn default() -> Self {
        Self {
            depth: 16,
            containers: 10_000,
            items: 100_000,
        }
    }
}

/// Why listing failed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The container or item is no longer there: list its parent again.
    #[error("{device} no longer has this entry. List it again from the top.")]
    NotFound {
        /// The device's name.
        device: String,
    },
    /// It shows no memory: a phone that is locked or only charges, a camera without a card.
    #[error(
        "{device} shows no memory. Put in a card, or unlock it and choose file transfer on its screen; then list it again."
    )]
    Locked {
        /// The device's name.
        device: String,
    },
    /// There is nothing in it that could be listed.
    #[error(
        "There should be {what} in {device}, but there is none. Put one in, then list it again."
    )]
    NothingInside {
        /// The device's name.
        device: String,
        /// What belongs there, as `an audio CD`.
        what: &'static str,
    },
    /// The device does not answer: try later, or ask its owner to switch it on.
    #[error(
        "{device} does not answer. Check that it is switched on and connected; what was listed before is kept."
    )]
    Unreachable {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The device wants a password first, or another one.
    #[error(
        "{device} asks for a password, and this gateway has none or another one. Let it give listings without one; \
         nothing was changed."
    )]
    Password {
        /// The device's name.
        device: String,
    },
    /// The device answered with something unusable.
    #[error(
        "{device} sent a listing that cannot be read. Restart or update it; what was listed before is kept."
    )]
    BadAnswer {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
}

/// What to fetch of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// First byte wanted: 0, or how much is already here.
    pub from: u64,
    /// The validator of the earlier part ([`Fetched::validator`]): a changed file then starts again at 0.
    pub validator: Option<String>,
    /// Most bytes accepted, of the whole file.
    pub max_bytes: u64,
}

impl FetchRequest {
    /// The whole file, at most `max_bytes`.
    pub fn whole(max_bytes: u64) -> Self {
        Self {
            from: 0,
            validator: None,
            max_bytes,
        }
    }
}

/// An asset on its way from a device.
pub struct Fetched {
    /// Content-Type of the answer, without parameters, lower case.
    pub mime: Option<String>,
    /// Where the body starts in the file. Differs from what was asked (it is 0) when the device ignored the range or
    /// the file changed: drop what was kept and start again.
    pub offset: u64,
    /// Size of the whole file, where the device told it.
    pub total_bytes: Option<u64>,
    /// ETag or Last-Modified, to resume only the same file.
    pub validator: Option<String>,
    /// The bytes.
    pub body: AssetBody,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched")
            .field("mime", &self.mime)
            .field("offset", &self.offset)
            .field("total_bytes", &self.total_bytes)
            .finish_non_exhaustive()
    }
}

/// The bytes of an asset, bounded. After an error it ends; bytes given out before it are the file's beginning and may
/// be kept to resume from, except after [`FetchError::WrongSize`].
pub struct AssetBody {
    inner: Pin<Box<dyn Stream<Item = Result<Bytes, FetchError>> + Send>>,
}

impl AssetBody {
    pub(crate) fn new(
        stream: impl Stream<Item = Result<Bytes, FetchError>> + Send + 'static,
    ) -> Self {
        Self {
            inner: Box::pin(stream),
        }
    }
}

impl Stream for AssetBody {
    type Item = Result<Bytes, FetchError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(cx)
    }
}

/// Why fetching an asset failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The connection failed, stalled or broke: what came is kept, resume later.
    #[error(
        "{device} stopped sending. What arrived is kept; it goes on when the device answers again."
    )]
    Interrupted {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The device refused or has the file no more: list again.
    #[error("{device} does not give this file (HTTP status {status}). List its media again.")]
    Refused {
        /// The device's name.
        device: String,
        /// HTTP status.
        status: u16,
    },
    /// The device has the file no more: list again.
    #[error("{device} no longer has this file. List its media again.")]
    Gone {
        /// The device's name.
        device: String,
    },
    /// The URL is not on the device (any more), or the device redirects: list again.
    #[error(
        "{device} points to an address that is not its own; nothing was fetched. List its media again."
    )]
    Elsewhere {
        /// The device's name.
        device: String,
    },
    /// The device lists its media but gives no files: what it plays stays on it.
    #[error("{device} plays its media but gives no files away; nothing was imported.")]
    NotGiven {
        /// The device's name.
        device: String,
    },
    /// Larger than allowed.
    #[error("The file on {device} is larger than the {limit} bytes allowed; it was not imported.")]
    TooLarge {
        /// The device's name.
        device: String,
        /// The limit.
        limit: u64,
    },
    /// The device told one size and sent another: nothing of it can be trusted.
    #[error("{device} declared {declared} bytes but sent {}. The file was not imported; try again.", size_words(*.declared, *.received))]
    WrongSize {
        /// The device's name.
        device: String,
        /// What it declared.
        declared: u64,
        /// What came; more than declared means "at least one more".
        received: u64,
    },
}

fn size_words(declared: u64, received: u64) -> String {
    if received > declared {
        "more".to_owned()
    } else {
        format!("only {received}")
    }
}

/// A device as a source of media: one variant per adapter.
#[derive(Clone, Debug)]
pub enum MediaSource {
    /// A UPnP AV MediaServer.
    Upnp(MediaServer),
    /// Mounted memory: a card, a stick, a player.
    Storage(Storage),
    /// An audio CD.
    Disc(Disc),
    /// A camera, phone or player by PTP or MTP.
    Ptp(PtpSource),
    /// An MPD's library.
    Mpd(Jukebox),
}

impl MediaSource {
    /// The name of the device or program.
    pub fn name(&self) -> &str {
        match self {
            Self::Upnp(server) => server.name(),
            Self::Storage(storage) => storage.name(),
            Self::Disc(disc) => disc.name(),
            Self::Ptp(device) => device.name(),
            Self::Mpd(jukebox) => jukebox.name(),
        }
    }

    /// One page of a container's children.
    pub async fn list(&self, container: &ObjectId, page: PageRequest) -> Result<Page, ListError> {
        match self {
            Self::Upnp(server) => server.list(container, page).await,
            Self::Storage(storage) => storage.list(container, page).await,
            Self::Disc(disc) => disc.list(container, page).await,
            Self::Ptp(device) => device.list(container, page).await,
            Self::Mpd(jukebox) => jukebox.list(container, page).await,
        }
    }

    /// One page of what has `text` in its title, in all containers. A source that cannot search, or refuses to, is looked
    /// through, within [`LOOKED_THROUGH`].
    pub async fn search(&self, text: &str, page: PageRequest) -> Result<Page, ListError> {
        if let Self::Upnp(server) = self {
            match server.search(text, page).await {
                // An optional action; gerbera 1.1.0 has it and answers everything with error 501.
                Err(ListError::BadAnswer { .. }) => {}
                answer => return answer,
            }
        }
        self.walk(LOOKED_THROUGH).titled(text, page).await
    }

    /// One item again by its id, for instance to fetch it after the device got a new address.
    pub async fn item(&self, id: &ObjectId) -> Result<Item, ListError> {
        match self {
            Self::Upnp(server) => server.item(id).await,
            Self::Storage(storage) => storage.item(id).await,
            Self::Disc(disc) => disc.item(id).await,
            Self::Ptp(device) => device.item(id).await,
            Self::Mpd(jukebox) => jukebox.item(id).await,
        }
    }

    /// Everything that the source has, each file once, within `limits`; safe against cycles.
    pub fn walk(&self, limits: WalkLimits) -> Walk {
        Walk::from(self.clone(), [self.top()], limits)
    }

    /// As [`MediaSource::walk`], but only what is in these containers and below. Everything, where a file is in
    /// several containers under different ids (`upnp::quirks`).
    pub fn walk_from(
        &self,
        containers: impl IntoIterator<Item = ObjectId>,
        limits: WalkLimits,
    ) -> Walk {
        let top = self.top();
        if top == ObjectId::root() {
            Walk::from(self.clone(), containers, limits)
        } else {
            Walk::from(self.clone(), [top], limits)
        }
    }

    /// Where everything is listed once.
    pub(crate) fn top(&self) -> ObjectId {
        match self {
            Self::Upnp(server) => server.top(),
            Self::Storage(_) | Self::Disc(_) | Self::Ptp(_) | Self::Mpd(_) => ObjectId::root(),
        }
    }

    /// Tells when something changed on the device, from now on.
    pub fn changes(&self) -> Changes {
        match self {
            Self::Upnp(server) => server.changes(),
            // They tell nothing; that they come and go, discovery tells.
            Self::Storage(_) | Self::Disc(_) | Self::Ptp(_) => {
                Changes::by(|_, _| std::future::ready(()))
            }
            Self::Mpd(jukebox) => jukebox.changes(),
        }
    }

    /// Opens a resource for streaming. `resource` must come from this device.
    pub async fn fetch(
        &self,
        resource: &Resource,
        request: FetchRequest,
    ) -> Result<Fetched, FetchError> {
        match self {
            Self::Upnp(server) => server.fetch(resource, request).await,
            Self::Storage(storage) => storage.fetch(resource, request).await,
            Self::Disc(disc) => disc.fetch(resource, request).await,
            Self::Ptp(device) => device.fetch(resource, request).await,
            Self::Mpd(jukebox) => Err(jukebox.fetch()),
        }
    }
}

/// What to play: a URL that the renderer can reach, with what it may show about it.
#[derive(Clone, Debug, PartialEq)]
pub struct PlayRequest {
    /// Where the renderer fetches it; any host that it can reach.
    pub url: String,
    /// Title to show.
    pub title: String,
    /// What it is.
    pub kind: MediaKind,
    /// MIME type of the bytes at `url`.
    pub mime: String,
    /// Size of the whole, where known.
    pub size_bytes: Option<u64>,
    /// Playing time, where known.
    pub duration: Option<Duration>,
}

/// What a renderer is doing (UPnP AVTransport:1 §2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportState {
    /// Loaded, not playing.
    Stopped,
    /// Playing.
    Playing,
    /// Between two states: loading, seeking.
    Transitioning,
    /// Paused.
    Paused,
    /// Nothing to play was set.
    NoMedia,
    /// Recording, or paused while recording.
    Recording,
    /// A word of the maker's own.
    Other,
}

/// What a renderer plays and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaybackStatus {
    /// What it is doing.
    pub state: TransportState,
    /// Whether the renderer itself reports an error (`CurrentTransportStatus`).
    pub failed: bool,
    /// Position in the current track, where told.
    pub position: Option<Duration>,
    /// Length of the current track, where told.
    pub duration: Option<Duration>,
    /// The URL that it plays. Not ours: somebody else took the renderer.
    pub url: Option<String>,
}

/// Loudness in percent of the renderer's own range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Volume(u8);

impl Volume {
    /// `percent` cut to 100.
    pub fn percent(percent: u8) -> Self {
        Self(percent.min(100))
    }

    /// 0 to 100.
    pub fn as_percent(self) -> u8 {
        self.0
    }
}

/// Whether a renderer is silenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mute {
    /// Silenced.
    On,
    /// Heard.
    Off,
}

/// Why a renderer did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// It does not answer.
    #[error(
        "{device} does not answer. Check that it is switched on and connected, then try again."
    )]
    Unreachable {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// It cannot play this format: another form of the title may work.
    #[error("{device} cannot play this format.")]
    Format {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The gateway could not start its own decoder for it: nothing is wrong with the device or the title.
    #[error(
        "The gateway could not start its decoder, so {device} plays nothing. The title is unharmed. Install bubblewrap \
         and util-linux on the gateway, allow user namespaces, and try again."
    )]
    NoDecoder {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// It could not read the media from the gateway.
    #[error(
        "{device} could not fetch the title from the gateway. Check that both are on the same network."
    )]
    MediaUnreachable {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// Not possible in its present state.
    #[error("{device} cannot do this right now. Wait a moment or start the title again.")]
    NotNow {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// It has no such function at all.
    #[error("{device} does not offer this function.")]
    Unsupported {
        /// The device's name.
        device: String,
    },
    /// It refused for another reason, or its answer is unreadable.
    #[error("{device} refused: {source}.")]
    Refused {
        /// The device's name.
        device: String,
        /// What happened.
        source: Cause,
    },
}

/// A device that plays what it is given: one variant per adapter.
#[derive(Clone, Debug)]
pub enum Renderer {
    /// A UPnP AV MediaRenderer.
    Upnp(Box<MediaRenderer>),
    /// A loudspeaker of this machine.
    Alsa(Speaker),
    /// An MPD's player.
    Mpd(Jukebox),
    /// A Google Cast device.
    Cast(CastPlayer),
}

impl Renderer {
    /// The name of the device or program.
    pub fn name(&self) -> &str {
        match self {
            Self::Upnp(renderer) => renderer.name(),
            Self::Alsa(speaker) => speaker.name(),
            Self::Mpd(jukebox) => jukebox.name(),
            Self::Cast(player) => player.name(),
        }
    }

    /// MIME types that it says it plays, lower case, sorted; empty when it did not tell. May hold `*` and `video/*`.
    /// A hint to choose by, not a reason to refuse: renderers forget types that they play.
    pub fn formats(&self) -> &[String] {
        match self {
            Self::Upnp(renderer) => renderer.formats(),
            Self::Alsa(speaker) => speaker.formats(),
            Self::Mpd(jukebox) => jukebox.formats(),
            Self::Cast(player) => player.formats(),
        }
    }

    /// Loads `what` without starting it. The state is then [`TransportState::Stopped`].
    pub async fn load(&self, what: &PlayRequest) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.load(what).await,
            Self::Alsa(speaker) => speaker.load(what).await,
            Self::Mpd(jukebox) => jukebox.load(what).await,
            Self::Cast(player) => player.load(what).await,
        }
    }

    /// Tells when something changed on the renderer, from now on: also what a person does at the renderer itself.
    pub fn changes(&self) -> Changes {
        match self {
            Self::Upnp(renderer) => renderer.changes(),
            Self::Alsa(speaker) => speaker.changes(),
            Self::Mpd(jukebox) => jukebox.changes(),
            Self::Cast(player) => player.changes(),
        }
    }

    /// Sets what plays after the current title, without a gap. Replaces what was set before; [`Renderer::load`] drops
    /// it. [`RenderError::Unsupported`] where a renderer cannot: then load and play at the end of the current one.
    ///
    /// It does not say when the change happens: [`PlaybackStatus::url`] does.
    pub async fn load_next(&self, what: &PlayRequest) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.load_next(what).await,
            Self::Alsa(speaker) => speaker.load_next(what).await,
            Self::Mpd(jukebox) => jukebox.load_next(what).await,
            Self::Cast(player) => player.load_next(what).await,
        }
    }

    /// Starts or resumes.
    pub async fn play(&self) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.play().await,
            Self::Alsa(speaker) => speaker.play().await,
            Self::Mpd(jukebox) => jukebox.play().await,
            Self::Cast(player) => player.play().await,
        }
    }

    /// Pauses.
    pub async fn pause(&self) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.pause().await,
            Self::Alsa(speaker) => speaker.pause().await,
            Self::Mpd(jukebox) => jukebox.pause().await,
            Self::Cast(player) => player.pause().await,
        }
    }

    /// Stops.
    pub async fn stop(&self) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.stop().await,
            Self::Alsa(speaker) => speaker.stop().await,
            Self::Mpd(jukebox) => jukebox.stop().await,
            Self::Cast(player) => player.stop().await,
        }
    }

    /// Goes to `position` in the current track; whole seconds.
    pub async fn seek(&self, position: Duration) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.seek(position).await,
            Self::Alsa(speaker) => speaker.seek(position).await,
            Self::Mpd(jukebox) => jukebox.seek(position).await,
            Self::Cast(player) => player.seek(position).await,
        }
    }

    /// What it does now.
    pub async fn status(&self) -> Result<PlaybackStatus, RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.status().await,
            Self::Alsa(speaker) => speaker.status().await,
            Self::Mpd(jukebox) => jukebox.status().await,
            Self::Cast(player) => player.status().await,
        }
    }

    /// How loud it is.
    pub async fn volume(&self) -> Result<Volume, RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.volume().await,
            Self::Alsa(speaker) => speaker.volume().await,
            Self::Mpd(jukebox) => jukebox.volume().await,
            Self::Cast(player) => player.volume().await,
        }
    }

    /// Sets how loud it is.
    pub async fn set_volume(&self, volume: Volume) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.set_volume(volume).await,
            Self::Alsa(speaker) => speaker.set_volume(volume).await,
            Self::Mpd(jukebox) => jukebox.set_volume(volume).await,
            Self::Cast(player) => player.set_volume(volume).await,
        }
    }

    /// Whether it is silenced.
    pub async fn mute(&self) -> Result<Mute, RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.mute().await,
            Self::Alsa(speaker) => speaker.mute().await,
            Self::Mpd(jukebox) => jukebox.mute().await,
            Self::Cast(player) => player.mute().await,
        }
    }

    /// Silences it or not.
    pub async fn set_mute(&self, mute: Mute) -> Result<(), RenderError> {
        match self {
            Self::Upnp(renderer) => renderer.set_mute(mute).await,
            Self::Alsa(speaker) => speaker.set_mute(mute).await,
            Self::Mpd(jukebox) => jukebox.set_mute(mute).await,
            Self::Cast(player) => player.set_mute(mute).await,
        }
    }
}
