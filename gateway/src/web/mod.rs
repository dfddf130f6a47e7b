//! The pages: household (`/`), ten-foot (`/tv`) and support (`/admin`). Server-rendered; scripts only move progress
//! bars, navigate on a television and drive its player (DESIGN §10). F11, F20, F24, F63 as far as they are built.
//!
//! One file per page or group of endpoints. [`session`] says who is asking and guards each area, [`respond`] turns
//! what a form did into a page or JSON, [`view`] says what the other modules' rows look like to a person, [`live`] and
//! [`events`] tell open pages what changed. The only state of its own is the password and the sessions ([`store`]) and,
//! in memory, attempts at the password and televisions waiting to be let in.

mod admin;
mod assets;
mod cameras;
mod catalog;
mod devices;
mod events;
mod fields;
mod forget;
mod format;
mod home;
mod home_assistant;
mod homes;
mod jukebox;
mod library;
mod live;
mod login;
mod orders;
mod pair;
mod play;
mod players;
mod record;
mod respond;
mod resumable;
mod senders;
mod session;
mod setup;
mod shell;
mod status;
mod store;
mod title;
mod tv;
mod updates;
mod upload;
mod view;

pub use store::SCHEMA;

use crate::attempts::Attempts;
use crate::cameras::Cameras;
use crate::catalog::Catalog;
use crate::devices::Devices;
use crate::exchange::Exchange;
use crate::home_assistant::HomeAssistant;
use crate::library::Library;
use crate::link::Link;
use crate::media_server::MediaServer;
use crate::playback::Playback;
use crate::recording::Recordings;
use crate::rights::Rights;
use crate::updates::Updates;
use crate::uploads::Uploads;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use mantel_runtime::logging::RecentLog;
use mantel_runtime::tasks::Tasks;
use pair::Pairings;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// The largest form, bytes; uploads have a limit of their own.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// Passwords worked on at once (19 MiB each).
const HASHING: usize = 2;
/// Pages that listen for news at once; further ones show what they showed when loaded.
const LISTENERS: usize = 64;

/// The parts of the gateway that pages show and drive.
#[derive(Clone)]
pub struct WebState {
    /// Time.
    pub clock: Clock,
    /// The gateway's database.
    pub db: Db,
    /// Where the pages' tasks run.
    pub tasks: Tasks,
    /// Recent lines of the log.
    pub log: RecentLog,
    /// When the program started.
    pub started: Timestamp,
    /// The tie to the server.
    pub link: Link,
    /// Titles.
    pub library: Library,
    /// Peripherals.
    pub devices: Devices,
    /// Cameras among them.
    pub cameras: Cameras,
    /// What may be played.
    pub rights: Rights,
    /// What may be ordered.
    pub catalog: Catalog,
    /// Orders and offers.
    pub exchange: Exchange,
    /// Players.
    pub playback: Playback,
    /// Recordings from line-ins.
    pub recordings: Recordings,
    /// This home's media for players on the network.
    pub media_server: MediaServer,
    /// Devices that send by themselves.
    pub uploads: Uploads,
    /// The household's own MQTT broker.
    pub home_assistant: HomeAssistant,
    /// Updates of the appliance.
    pub updates: Updates,
}

/// The pages' own state around [`WebState`].
struct Site {
    state: WebState,
    attempts: Mutex<Attempts>,
    pairings: Mutex<Pairings>,
    hashing: Semaphore,
    listeners: Arc<Semaphore>,
}

impl Site {
    /// Wall-clock time, Unix seconds.
    fn now_s(&self) -> i64 {
        self.state.clock.now().as_second()
    }
}

/// All pages. Playback's media addresses are not among them: they carry their own tokens and need no log-in.
pub fn router(state: WebState) -> Router {
    let site = Arc::new(Site {
        state,
        attempts: Mutex::default(),
        pairings: Mutex::default(),
        hashing: Semaphore::new(HASHING),
        listeners: Arc::new(Semaphore::new(LISTENERS)),
    });
    let admin = admin_area().route_layer(from_fn_with_state(site.clone(), session::admin_only));
    let household = household()
        .merge(admin)
        .route_layer(from_fn_with_state(site.clone(), session::household_only));
    let television = television().route_layer(from_fn_with_state(
        site.clone(),
        session::household_or_television,
    ));
    Router::new()
        .merge(household)
        .merge(television)
        .merge(open_to_all())
        .fallback(respond_missing)
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(from_fn(session::same_origin))
        .layer(from_fn_with_state(site.clone(), respond::dress))
        .layer(from_fn(guard_headers))
        .with_state(site)
}

fn open_to_all() -> Router<Arc<Site>> {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/static/{name}", get(assets::serve))
        .route(
            "/setup",
            get(setup::password_page).post(setup::choose_password),
        )
        .route("/login", get(login::page).post(login::log_in))
        .route("/tv", get(tv::home))
        .route("/tv/pair/poll", post(pair::poll))
}

fn television() -> Router<Arc<Site>> {
    Router::new()
        .route("/tv/play/{title}", post(tv::play))
        .route("/tv/watch/{title}", get(tv::watch))
        .route("/thumbs/{title}", get(library::thumbnail))
}

fn household() -> Router<Arc<Site>> {
    Router::new()
        .route("/", get(home::page))
        .route(
            "/setup/server",
            get(setup::server_page).post(setup::connect),
        )
        .route("/logout", post(login::log_out))
        .route("/devices", get(devices::list))
        .route("/devices/search", post(devices::search))
        .route("/devices/undo", post(devices::undo))
        .route("/devices/camera", post(cameras::add))
        .route("/devices/media-server", post(players::switch))
        .route("/devices/players/{player}/admit", post(players::admit))
        .route("/devices/players/{player}/ignore", post(players::ignore))
        .route("/devices/{device}", get(devices::browse))
        .route("/devices/{device}/admit", post(devices::admit))
        .route("/devices/{device}/ignore", post(devices::ignore))
        .route("/devices/{device}/rename", post(devices::rename))
        .route("/devices/{device}/eject", post(devices::eject))
        .route("/devices/{device}/class", post(devices::set_class))
        .route("/devices/{device}/import", post(devices::import))
        .route(
            "/devices/{device}/import/cancel",
            post(devices::cancel_import),
        )
        .route("/devices/{device}/still", get(cameras::still))
        .route("/devices/{device}/picture", post(cameras::picture))
        .route("/devices/{device}/clip", post(cameras::record))
        .route("/devices/{device}/clip/stop", post(cameras::stop))
        .route("/devices/{device}/login", post(cameras::log_in))
        .route(
            "/devices/{device}/login/forget",
            post(cameras::forget_log_in),
        )
        .route("/devices/{device}/camera/remove", post(cameras::remove))
        .route("/devices/{device}/player", post(play::drive))
        .route("/devices/{device}/record", post(record::drive))
        .route("/devices/{device}/jukebox", post(jukebox::drive))
        .route("/library", get(library::page))
        .route(
            "/library/upload",
            post(upload::receive).layer(DefaultBodyLimit::disable()),
        )
        .route(
            "/library/uploads",
            post(resumable::begin).options(resumable::options),
        )
        .route(
            "/library/uploads/{upload}",
            axum::routing::head(resumable::state)
                .patch(resumable::append)
                .delete(resumable::end)
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/library/{title}", get(title::page))
        .route("/library/{title}/play", post(play::begin))
        .route("/library/{title}/watch", get(play::watch))
        .route("/library/{title}/rename", post(title::rename))
        .route("/library/{title}/offer", post(title::offer))
        .route("/library/{title}/withdraw", post(title::withdraw))
        .route("/library/{title}/share", post(title::share))
        .route("/library/{title}/push", post(title::push))
        .route(
            "/library/{title}/remove",
            get(title::confirm_remove).post(title::remove),
        )
        .route("/uploads", get(senders::list).post(senders::let_send))
        .route("/uploads/{sender}/revoke", post(senders::revoke))
        .route("/homes", get(homes::list))
        .route("/homes/{home}", get(homes::one))
        .route("/catalog", get(catalog::list))
        .route("/catalog/{title}", get(catalog::confirm))
        .route("/catalog/{title}/order", post(catalog::order))
        .route("/catalog/{title}/poster", get(catalog::poster))
        .route("/orders", get(orders::page))
        .route("/orders/{order}/cancel", post(orders::cancel))
        .route("/pair", get(pair::page).post(pair::approve))
        .route("/events", get(events::stream))
        .route("/status.json", get(status::json))
        .route("/update/dismiss", post(updates::dismiss))
        .route("/admin/login", get(admin::log_in_page).post(admin::log_in))
}

fn admin_area() -> Router<Arc<Site>> {
    Router::new()
        .route("/admin", get(admin::status))
        .route("/admin/update/restart", post(updates::restart))
        .route("/admin/zone", post(admin::set_zone))
        .route("/admin/forget", post(forget::everything))
        .route("/admin/storage", get(admin::storage))
        .route("/admin/transfers", get(admin::transfers))
        .route("/admin/log", get(admin::log))
        .route("/admin/sessions", get(admin::sessions))
        .route("/admin/sessions/{session}/revoke", post(admin::revoke))
        .route("/admin/password", post(admin::change_password))
        .route(
            "/admin/home-assistant",
            get(home_assistant::show).post(home_assistant::set),
        )
        .route("/admin/home-assistant/forget", post(home_assistant::forget))
}

async fn respond_missing() -> respond::Refusal {
    respond::Refusal::missing("page")
}

/// Nothing but this gateway's own files, no framing, no sniffing; pages are not kept by shared caches.
async fn guard_headers(request: Request, next: Next) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; \
                          connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, no-cache"));
    response
}
