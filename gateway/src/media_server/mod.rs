//! The gateway as a UPnP MediaServer:1 (F26, F63): players on the home's network browse this home's titles and those that
//! came from other homes, and play what rights allow.
//!
//! - `ssdp`: announces and answers. `description`: what the device and its services are.
//! - `soap`, `search`, `object`: calls, search criteria and object ids, text to types; pure.
//! - `directory`: Browse and Search. `didl`: listings written straight into the answer.
//! - `gena`: who follows changes, and telling them. `judge`: keeps what rights forbid off the lists.
//!
//! Only players that the household let in see anything. Who asks is known by its address ([`Devices::standing_of`]); a new
//! player sees one folder that says how it is let in, an ignored one is refused. Media goes out through `playback` alone,
//! by addresses that work for one player, for some hours.
//!
//! Why this is our own: the maintained crate for it, `librqbit-upnp-serve`, lists without pages, filters, sorting or
//! search, holds a listing in memory several times, knows nothing of who asks, and sends events wherever a subscriber
//! says. The parsers of this workspace (`mantel_peripherals::xml`, [`DeviceUrl`](mantel_peripherals::url::DeviceUrl)) are
//! bounded already and do for a server too. X_MS_MediaReceiverRegistrar is absent: no player tried needs it.

mod description;
mod didl;
mod directory;
mod gena;
mod judge;
mod object;
mod search;
mod soap;
mod ssdp;

use crate::devices::{Asked, DeviceStanding, Devices};
use crate::library::Library;
use crate::link::Link;
use crate::playback::Playback;
use crate::rights::Rights;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use directory::{Lists, Words};
use gena::{Follower, Followers, Refused, Service};
use mantel_peripherals::DeviceKey;
use mantel_protocol::key::DeviceId;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::http::Peer;
use mantel_runtime::tasks::Tasks;
use rusqlite::OptionalExtension;
use serde::Deserialize;
use soap::{Call, Fault};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// The switch.
pub const SCHEMA: Schema = Schema {
    module: "media_server",
    steps: &[include_str!("schema.sql")],
};

/// Calls answered at once; more wait.
const CALLS_AT_ONCE: usize = 8;
/// How long a call may take to arrive.
const CALL_TIME: Duration = Duration::from_secs(10);
/// Path of the device description.
const DESCRIPTION: &str = "/upnp/device.xml";
/// BLAKE3 derive_key context of the device's UDN.
const UDN: &str = "mantel 2026 media server UDN";

/// How this home's media is shown to players.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaServerConfig {
    /// Whether there is a media server at all; the household can switch it off on the devices page too.
    pub enabled: bool,
}

impl Default for MediaServerConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Where and how the media server is announced.
#[derive(Debug, Clone)]
pub struct Announce {
    /// Where the pages are served; the media server is beside them.
    pub web: SocketAddr,
    /// The only interface.
    pub interface: Option<String>,
    /// Whether on the loopback interface too.
    pub loopback: bool,
}

/// What the media server is made of.
#[derive(Clone)]
pub struct Parts {
    /// Where the switch is kept.
    pub db: Db,
    /// Titles.
    pub library: Library,
    /// What may be played.
    pub rights: Rights,
    /// Media addresses.
    pub playback: Playback,
    /// Who is let in.
    pub devices: Devices,
    /// The home's name.
    pub link: Link,
    /// Time.
    pub clock: Clock,
}

/// The media server; cheap to clone.
#[derive(Clone)]
pub struct MediaServer {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    library: Library,
    rights: Rights,
    playback: Playback,
    devices: Devices,
    link: Link,
    clock: Clock,
    config: MediaServerConfig,
    tasks: Tasks,
    udn: String,
    port: u16,
    on: watch::Sender<bool>,
    /// The first SystemUpdateID of this run: seconds, so that it is never one of an earlier run.
    first_update: u32,
    changes: watch::Receiver<u64>,
    /// Changes of who is let in.
    admissions: AtomicU32,
    lists: Lists,
    followers: Followers,
    places: Semaphore,
}

/// Who sent a call.
#[derive(Clone)]
struct Asker {
    peer: SocketAddr,
    let_in: bool,
    /// `http://<address>:<port>` of this gateway, as the player reached it.
    base: String,
    name: Arc<str>,
}

impl Asker {
    fn words(&self) -> Words {
        Words {
            root: self.name.to_string(),
            let_in: format!(
                "Not let in yet: open {}/devices on your phone and press \"Let in\"",
                self.base
            ),
        }
    }
}

/// The UDN of a gateway's media server: its own, the same after each start (RFC 9562 §5.8).
pub fn udn(device: DeviceId) -> DeviceKey {
    let digest = blake3::derive_key(UDN, device.to_string().as_bytes());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let uuid = uuid::Uuid::from_bytes(bytes);
    DeviceKey::new(&format!("uuid:{uuid}")).expect("a UUID is a key")
}

impl MediaServer {
    /// Starts announcing, judging and telling followers.
    pub async fn start(
        config: MediaServerConfig,
        announce: Announce,
        parts: Parts,
        tasks: &Tasks,
    ) -> Result<Self, DbError> {
        let Parts {
            db,
            library,
            rights,
            playback,
            devices,
            link,
            clock,
        } = parts;
        let on = config.enabled && db.read(|db| Ok::<_, DbError>(stored_switch(db)?)).await?;
        let udn = udn(link.device()).as_str().to_owned();
        // 2026-01-01, so that the number stays small for long.
        let seconds = clock.now().as_second() - 1_767_225_600;
        let first_update = u32::try_from(seconds.max(1)).unwrap_or(1);
        let inner = Arc::new(Inner {
            changes: library.changes(),
            db,
            library,
            rights,
            playback,
            devices,
            link,
            clock,
            tasks: tasks.child(),
            udn: udn.clone(),
            port: announce.web.port(),
            on: watch::Sender::new(on),
            first_update,
            admissions: AtomicU32::new(0),
            lists: Lists::default(),
            followers: Followers::default(),
            places: Semaphore::new(CALLS_AT_ONCE),
            config,
        });
        let announced = ssdp::Announced {
            udn,
            types: vec![
                description::DEVICE_TYPE.to_owned(),
                directory::SERVICE.to_owned(),
                description::CONNECTION_MANAGER.to_owned(),
            ],
            port: announce.web.port(),
            path: DESCRIPTION,
            only: Some(announce.web.ip()).filter(|ip| !ip.is_unspecified()),
            v6: announce.web.is_ipv6(),
            interface: announce.interface,
            loopback: announce.loopback,
            boot: first_update,
        };
        if inner.config.enabled {
            let token = tasks.token().clone();
            tasks.spawn_graceful(
                "media-server-announce",
                ssdp::run(announced, inner.on.subscribe(), token),
            );
            tasks.spawn("media-server-judge", judge::run(Arc::clone(&inner)));
            tasks.spawn(
                "media-server-admissions",
                note_admissions(Arc::clone(&inner)),
            );
            tasks.spawn("media-server-events", tell(Arc::clone(&inner)));
        }
        Ok(Self { inner })
    }

    /// Its handlers, for the same server as the pages; they need no log-in. The server must give
    /// [`mantel_runtime::http::Peer`] as connection information.
    pub fn router(&self) -> Router {
        Router::new()
            .route(DESCRIPTION, get(device))
            .route("/upnp/directory.xml", get(directory_description))
            .route("/upnp/connections.xml", get(connections_description))
            .route("/upnp/directory/control", post(directory_call))
            .route("/upnp/connections/control", post(connections_call))
            .route("/upnp/directory/event", any(directory_event))
            .route("/upnp/connections/event", any(connections_event))
            .with_state(Arc::clone(&self.inner))
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        *self.inner.on.borrow()
    }

    /// Whether the household may switch it on: the configuration does not forbid it.
    pub fn may_be_on(&self) -> bool {
        self.inner.config.enabled
    }

    /// Switches it on or off, durably.
    pub async fn switch(&self, on: bool) -> Result<(), DbError> {
        let write = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute(
                "INSERT INTO media_server_switch (one, is_on) VALUES (1, ?1)
                 ON CONFLICT (one) DO UPDATE SET is_on = excluded.is_on",
                [i64::from(on)],
            )?;
            Ok::<_, DbError>(())
        };
        self.inner.db.write(write).await?;
        self.inner.on.send_replace(on && self.inner.config.enabled);
        Ok(())
    }
}

fn stored_switch(db: &rusqlite::Connection) -> rusqlite::Result<bool> {
    let stored: Option<i64> = db
        .query_row("SELECT is_on FROM media_server_switch", [], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(stored != Some(0))
}

impl Inner {
    /// SystemUpdateID: another number after each change of the library and of who is let in.
    fn update_id(&self) -> u32 {
        let changes = *self.changes.borrow() as u32;
        self.first_update
            .wrapping_add(changes)
            .wrapping_add(self.admissions.load(Ordering::Relaxed))
    }

    /// What players call this gateway.
    fn name(&self) -> String {
        match self.link.enrolment() {
            Some(at) if !at.home_name.is_empty() => format!("Mantel ({})", at.home_name),
            _ => "Mantel".to_owned(),
        }
    }

    fn asker(&self, peer: SocketAddr, headers: &HeaderMap) -> Result<Asker, Fault> {
        let program = headers
            .get(header::USER_AGENT)
            .and_then(|value| value.to_str().ok());
        let asked = Asked {
            address: peer.ip(),
            program,
            now: self.clock.now(),
            monotonic: self.clock.monotonic(),
        };
        let let_in = match self.devices.standing_of(asked) {
            DeviceStanding::Admitted => true,
            DeviceStanding::New => false,
            DeviceStanding::Ignored => return Err(Fault::NotLetIn),
        };
        Ok(Asker {
            peer,
            let_in,
            base: self.base(peer, headers),
            name: self.name().into(),
        })
    }

    /// This gateway as the player reached it: what the request says, where it is a literal address; else the address of
    /// the route to the player.
    fn base(&self, peer: SocketAddr, headers: &HeaderMap) -> String {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        let literal = host.and_then(|text| {
            let bare = |text: &str| {
                text.parse::<IpAddr>()
                    .ok()
                    .map(|ip| SocketAddr::new(ip, 80))
            };
            text.parse::<SocketAddr>().ok().or_else(|| bare(text))
        });
        let at = literal
            .filter(|at| at.port() != 0)
            .or_else(|| Some(SocketAddr::new(route_to(peer)?, self.port)));
        at.map_or_else(String::new, |at| format!("http://{at}"))
    }
}

/// This machine's address on the way to a player. No packet is sent.
fn route_to(peer: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    socket.local_addr().ok().map(|own| own.ip())
}

/// Counts changes of who is let in, so that lists and followers learn of them.
async fn note_admissions(inner: Arc<Inner>) {
    let (mut devices, mut players) = (inner.devices.snapshot(), inner.devices.players());
    let mut before = None;
    loop {
        let now: Vec<(String, DeviceStanding)> = {
            let devices = devices.borrow_and_update();
            let players = players.borrow_and_update();
            let devices = devices.iter().map(|row| (row.id.clone(), row.standing));
            let players = players.iter().map(|row| (row.id.clone(), row.standing));
            let decided = devices.chain(players);
            decided
                .filter(|(_, standing)| *standing != DeviceStanding::New)
                .collect()
        };
        if before.is_some_and(|before| before != now) {
            inner.admissions.fetch_add(1, Ordering::Relaxed);
        }
        before = Some(now);
        tokio::select! {
            changed = devices.changed() => if changed.is_err() { return },
            changed = players.changed() => if changed.is_err() { return },
        }
    }
}

/// Tells followers what changed, at most every [`gena::TELL_EVERY`].
async fn tell(inner: Arc<Inner>) {
    let mut told = inner.update_id();
    loop {
        tokio::time::sleep(gena::TELL_EVERY).await;
        let update = inner.update_id();
        if update == told {
            continue;
        }
        told = update;
        let now = inner.clock.monotonic();
        let containers = ["0", "music", "pictures", "videos", "homes"];
        let changed: Vec<String> = containers.map(|id| format!("{id},{update}")).to_vec();
        let properties = [
            ("SystemUpdateID", update.to_string()),
            ("ContainerUpdateIDs", changed.join(",")),
        ];
        let followers = inner.followers.of(Service::Directory, now);
        let telling = followers
            .iter()
            .map(|follower| inner.followers.tell(follower, &properties, now));
        futures_util::future::join_all(telling).await;
    }
}

fn xml(status: StatusCode, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/xml; charset=\"utf-8\""),
        (
            header::SERVER,
            concat!("Linux/1 UPnP/1.1 Mantel/", env!("CARGO_PKG_VERSION")),
        ),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, [("ext", "")], body).into_response()
}

fn off() -> Response {
    (
        StatusCode::NOT_FOUND,
        "The media server of this gateway is switched off.\n",
    )
        .into_response()
}

async fn device(
    State(inner): State<Arc<Inner>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
) -> Response {
    if !*inner.on.borrow() {
        return off();
    }
    let base = inner.base(peer, &headers);
    let text = description::device(&inner.udn, &inner.name(), &base);
    xml(StatusCode::OK, text.into())
}

async fn directory_description(State(inner): State<Arc<Inner>>) -> Response {
    if !*inner.on.borrow() {
        return off();
    }
    xml(StatusCode::OK, description::content_directory().into())
}

async fn connections_description(State(inner): State<Arc<Inner>>) -> Response {
    if !*inner.on.borrow() {
        return off();
    }
    xml(StatusCode::OK, description::connection_manager().into())
}

/// Reads a call; its header must name the same action as its body, where it is there at all.
async fn read_call(request: Request) -> Result<Call, Response> {
    let bad = |status: StatusCode| status.into_response();
    let (head, body) = request.into_parts();
    let reading = axum::body::to_bytes(body, soap::MAX_CALL_BYTES);
    let bytes = tokio::time::timeout(CALL_TIME, reading)
        .await
        .map_err(|_| bad(StatusCode::REQUEST_TIMEOUT))?
        .map_err(|_| bad(StatusCode::PAYLOAD_TOO_LARGE))?;
    let call = Call::parse(&bytes).ok_or_else(|| bad(StatusCode::BAD_REQUEST))?;
    let named = head.headers.get("soapaction").and_then(|v| v.to_str().ok());
    let action = named.and_then(|text| text.trim().trim_matches('"').rsplit('#').next());
    if action.is_some_and(|action| action != call.action) {
        return Err(refuse(Fault::Action));
    }
    Ok(call)
}

fn refuse(fault: Fault) -> Response {
    xml(StatusCode::INTERNAL_SERVER_ERROR, soap::fault(fault).into())
}

async fn directory_call(
    State(inner): State<Arc<Inner>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    if !*inner.on.borrow() {
        return off();
    }
    let headers = request.headers().clone();
    let call = match read_call(request).await {
        Ok(call) => call,
        Err(refused) => return refused,
    };
    let Ok(_place) = inner.places.acquire().await else {
        return refuse(Fault::Failed);
    };
    let answered = async {
        let asker = inner.asker(peer, &headers)?;
        match call.action.as_str() {
            "Browse" => directory::browse(&inner, asker, &call).await,
            "Search" => directory::search(&inner, asker, &call).await,
            _ => description::directory_facts(&call, inner.update_id())
                .map(Body::from)
                .ok_or(Fault::Action),
        }
    };
    match answered.await {
        Ok(body) => xml(StatusCode::OK, body),
        Err(fault) => refuse(fault),
    }
}

async fn connections_call(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    if !*inner.on.borrow() {
        return off();
    }
    let call = match read_call(request).await {
        Ok(call) => call,
        Err(refused) => return refused,
    };
    match description::connections(&call) {
        Ok(text) => xml(StatusCode::OK, text.into()),
        Err(fault) => refuse(fault),
    }
}

async fn directory_event(
    State(inner): State<Arc<Inner>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    event(&inner, Service::Directory, peer, &method, &headers)
}

async fn connections_event(
    State(inner): State<Arc<Inner>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    event(&inner, Service::Connections, peer, &method, &headers)
}

/// Tells a new follower all variables, after the answer to it (§4.1.2).
fn first_event(inner: Arc<Inner>, follower: Follower) {
    let tasks = inner.tasks.clone();
    tasks.spawn("media-server-first-event", async move {
        let properties = match follower.service {
            Service::Directory => vec![
                ("SystemUpdateID", inner.update_id().to_string()),
                ("ContainerUpdateIDs", String::new()),
            ],
            Service::Connections => vec![
                (
                    "SourceProtocolInfo",
                    description::SOURCE_PROTOCOLS.to_owned(),
                ),
                ("SinkProtocolInfo", String::new()),
                ("CurrentConnectionIDs", "0".to_owned()),
            ],
        };
        let now = inner.clock.monotonic();
        inner.followers.tell(&follower, &properties, now).await;
    });
}

/// SUBSCRIBE and UNSUBSCRIBE (UPnP Device Architecture 1.1 §4.1).
fn event(
    inner: &Arc<Inner>,
    service: Service,
    peer: SocketAddr,
    method: &Method,
    headers: &HeaderMap,
) -> Response {
    if !*inner.on.borrow() {
        return off();
    }
    match subscribe(inner, service, peer, method, headers) {
        Ok(response) => response,
        Err(refused) => StatusCode::from_u16(refused.status())
            .unwrap_or(StatusCode::BAD_REQUEST)
            .into_response(),
    }
}

fn subscribe(
    inner: &Arc<Inner>,
    service: Service,
    peer: SocketAddr,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Refused> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let now = inner.clock.monotonic();
    let life_s = gena::life(text("timeout"));
    let accepted = |sid: &str| {
        let headers = [
            (HeaderName::from_static("sid"), sid.to_owned()),
            (
                HeaderName::from_static("timeout"),
                format!("Second-{life_s}"),
            ),
        ];
        (StatusCode::OK, headers).into_response()
    };
    match (method.as_str(), text("sid"), text("callback")) {
        ("SUBSCRIBE", Some(_), Some(_)) => Err(Refused::Bad),
        ("SUBSCRIBE", Some(sid), None) => {
            inner.followers.renew(sid, peer.ip(), life_s, now)?;
            Ok(accepted(sid))
        }
        ("SUBSCRIBE", None, Some(callback)) if text("nt") == Some("upnp:event") => {
            let follower = inner.followers.add(service, callback, peer, life_s, now)?;
            let response = accepted(&follower.sid);
            first_event(Arc::clone(inner), follower);
            Ok(response)
        }
        ("UNSUBSCRIBE", Some(sid), None) => {
            inner.followers.remove(sid, peer.ip(), now)?;
            Ok(StatusCode::OK.into_response())
        }
        ("SUBSCRIBE" | "UNSUBSCRIBE", ..) => Err(Refused::Precondition),
        _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
    }
}

#[cfg(test)]
mod tests;
