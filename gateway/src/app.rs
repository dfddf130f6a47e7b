//! Wires the gateway together: ordered start, ordered stop.
//!
//! Start: data directory and its lock, database, keys, listeners, then the modules from the library upwards; pages last.
//! Stop: the task tree ends (requests under way get ten seconds), then the database's writer, then the lock.

use crate::cameras::{self, CameraError, Cameras};
use crate::catalog::{self, Catalog, CatalogError};
use crate::config::Config;
use crate::devices::{self, Devices, DevicesError, OwnVoice};
use crate::exchange::{self, Exchange, ExchangeOptions, StartError};
use crate::home_assistant::{self, HomeAssistant, HomeAssistantError};
use crate::library::{self, Enclosure, Library, LibraryError, LibraryOptions};
use crate::link::identity::IdentityError;
use crate::link::{self, Identity, Link};
use crate::media_server::{self, MediaServer};
use crate::playback::Playback;
use crate::recording::Recordings;
use crate::rights::{self, Rights, RightsError};
use crate::updates::{self, Updates};
use crate::uploads::{self, Uploads, UploadsError};
use crate::web::{self, WebState};
use crate::zone;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::lifecycle::STOP_PATIENCE;
use mantel_runtime::logging::RecentLog;
use mantel_runtime::tasks::Tasks;
use mantel_runtime::{http, tls};
use std::fs::{File, TryLockError};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tracing::info;

/// Every module's tables.
pub const SCHEMAS: &[Schema] = &[
    link::SCHEMA,
    library::SCHEMA,
    devices::SCHEMA,
    cameras::SCHEMA,
    rights::SCHEMA,
    catalog::SCHEMA,
    exchange::SCHEMA,
    exchange::serve::SCHEMA,
    media_server::SCHEMA,
    uploads::SCHEMA,
    home_assistant::SCHEMA,
    updates::SCHEMA,
    zone::SCHEMA,
    web::SCHEMA,
];

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data directory cannot be used.
    #[error("cannot use the data directory {path}; check that it exists and who owns it")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another gateway runs there.
    #[error("another mantel-gateway is running with the data directory {path}; stop it first")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// An address is taken.
    #[error(
        "cannot listen on {address}; another program may use it. Change `{key}` in the configuration"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The setting.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be opened.
    #[error("cannot open the database")]
    Db(#[from] DbError),
    /// The keys cannot be loaded.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The library cannot be opened.
    #[error("cannot open the library")]
    Library(#[from] LibraryError),
    /// The licenses cannot be read.
    #[error("cannot read the licenses")]
    Rights(#[from] RightsError),
    /// The catalog cannot be read.
    #[error("cannot read the catalog")]
    Catalog(#[from] CatalogError),
    /// Discovery cannot start.
    #[error("cannot look for devices")]
    Devices(#[from] DevicesError),
    /// The cameras cannot be read.
    #[error("cannot read the cameras")]
    Cameras(#[from] CameraError),
    /// The exchange cannot start.
    #[error("cannot start the exchange with other homes")]
    Exchange(#[from] StartError),
    /// The accounts of devices that send cannot be read.
    #[error("cannot read which devices may send")]
    Uploads(#[from] UploadsError),
    /// The settings of the household's broker cannot be read.
    #[error("cannot read the settings for Home Assistant")]
    HomeAssistant(#[from] HomeAssistantError),
}

/// A running gateway.
pub struct Running {
    /// Its parts, as pages use them.
    pub state: WebState,
    /// Where its pages are.
    pub web: SocketAddr,
    /// Where its chunk listener is.
    pub exchange: SocketAddr,
    tasks: Tasks,
    _lock: File,
}

impl Running {
    /// The root of its task tree.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Stops everything in order.
    pub async fn stop(self) {
        self.tasks.shut_down(STOP_PATIENCE).await;
    }
}

/// Starts a gateway with the operating system's clock.
pub async fn start(config: Config, log: RecentLog) -> Result<Running, AppError> {
    start_with_clock(config, log, Clock::real()).await
}

/// Starts a gateway with a clock of the caller's.
pub async fn start_with_clock(
    config: Config,
    log: RecentLog,
    clock: Clock,
) -> Result<Running, AppError> {
    tls::install_provider();
    let tasks = Tasks::root();
    match start_parts(&config, log, &clock, &tasks).await {
        Ok(running) => Ok(running),
        Err(error) => {
            // What was started already ends too.
            tasks.shut_down(STOP_PATIENCE).await;
            Err(error)
        }
    }
}

async fn start_parts(
    config: &Config,
    log: RecentLog,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Running, AppError> {
    let lock = take_data_dir(&config.data_dir)?;
    let db = Db::open(&config.data_dir.join("gateway.db"), SCHEMAS)?;
    zone::load(&db).await?;
    let identity = Arc::new(Identity::load_or_create(&config.data_dir)?);
    let web_listener = bind(config.web.listen, "web.listen").await?;
    let chunk_listener = bind(config.exchange.listen, "exchange.listen").await?;
    let (web_at, chunks_at) = (local(&web_listener), local(&chunk_listener));

    let mut options = LibraryOptions {
        min_free_bytes: config.library.keep_free_mib.saturating_mul(1 << 20),
        max_import_bytes: config.library.max_import_gib.saturating_mul(1 << 30),
        ..LibraryOptions::new(identity.device.device_id())
    };
    if let Some(socket) = &config.library.media_workers {
        options.enclosure = Enclosure::Workers(socket.clone());
    }
    let store_key = identity.store.clone();
    let library = Library::open(
        &config.data_dir,
        db.clone(),
        store_key,
        clock.clone(),
        tasks,
        options,
    )
    .await?;
    let interface = config.devices.interface.clone();
    let reachable = config.exchange.direct.then_some(chunks_at);
    let link = Link::start(
        db.clone(),
        clock.clone(),
        identity,
        interface,
        reachable,
        tasks,
    )
    .await?;
    let rights = Rights::open(db.clone(), link.clone(), library.clone()).await?;
    let catalog = Catalog::open(db.clone(), link.clone(), library.clone()).await?;
    let own = OwnVoice::new(link.device(), web_at.port()).with(media_server::udn(link.device()));
    let devices = Devices::start(
        &config.devices,
        &own,
        &link,
        db.clone(),
        library.clone(),
        clock.clone(),
        tasks,
    )
    .await?;
    let cameras = Cameras::start(
        db.clone(),
        library.clone(),
        devices.clone(),
        clock.clone(),
        tasks,
    )
    .await?;
    let uploads = Uploads::start(
        config.uploads.clone(),
        &config.data_dir,
        db.clone(),
        library.clone(),
        clock.clone(),
        tasks,
    )
    .await?;
    let exchange = Exchange::start(
        ExchangeOptions {
            direct: config.exchange.direct,
            receive_at_once: config.exchange.receive_at_once.clamp(1, 16),
        },
        chunk_listener,
        db.clone(),
        clock.clone(),
        link.clone(),
        library.clone(),
        catalog.clone(),
        rights.clone(),
        tasks,
    )
    .await?;
    let playback = Playback::new(
        library.clone(),
        rights.clone(),
        devices.clone(),
        clock.clone(),
        web_at,
        tasks,
    );
    let recordings = Recordings::new(
        config.recording.clone(),
        library.clone(),
        devices.clone(),
        clock.clone(),
        tasks,
    );
    let media_server = MediaServer::start(
        config.media_server.clone(),
        media_server::Announce {
            web: web_at,
            interface: config.devices.interface.clone(),
            loopback: config.devices.loopback,
        },
        media_server::Parts {
            db: db.clone(),
            library: library.clone(),
            rights: rights.clone(),
            playback: playback.clone(),
            devices: devices.clone(),
            link: link.clone(),
            clock: clock.clone(),
        },
        tasks,
    )
    .await?;
    let home_assistant = HomeAssistant::start(
        home_assistant::Parts {
            db: db.clone(),
            clock: clock.clone(),
            library: library.clone(),
            devices: devices.clone(),
            exchange: exchange.clone(),
            link: link.clone(),
            playback: playback.clone(),
        },
        tasks,
    )
    .await?;
    let updates = Updates::start(
        &config.system,
        &config.data_dir,
        updates::Parts {
            db: db.clone(),
            clock: clock.clone(),
            link: link.clone(),
            library: library.clone(),
            devices: devices.clone(),
            cameras: cameras.clone(),
            recordings: recordings.clone(),
            playback: playback.clone(),
            exchange: exchange.clone(),
        },
        tasks,
    )
    .await?;
    let state = WebState {
        started: clock.now(),
        clock: clock.clone(),
        db,
        tasks: tasks.clone(),
        log,
        link,
        library,
        devices,
        cameras,
        rights,
        catalog,
        exchange,
        playback: playback.clone(),
        recordings,
        media_server: media_server.clone(),
        uploads: uploads.clone(),
        home_assistant,
        updates,
    };
    let router = web::router(state.clone())
        .merge(playback.router())
        .merge(media_server.router())
        .merge(uploads.router());
    http::serve(web_listener, router, tasks);
    info!(device = %state.link.device(), web = %web_at, exchange = %chunks_at, "the gateway serves");
    Ok(Running {
        state,
        web: web_at,
        exchange: chunks_at,
        tasks: tasks.clone(),
        _lock: lock,
    })
}

/// Makes the data directory, for its owner only, and locks it until the process ends.
fn take_data_dir(path: &Path) -> Result<File, AppError> {
    let failed = |source| AppError::DataDir {
        path: path.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(failed)?;
    let lock = File::create(path.join("lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(AppError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Listens; where the kernel has no IPv6, "every address" means IPv4's.
async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, AppError> {
    let listener = match TcpListener::bind(address).await {
        Err(_) if address.is_ipv6() && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    };
    listener.map_err(|source| AppError::Listen {
        address,
        key,
        source,
    })
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener
        .local_addr()
        .expect("a bound socket has an address")
}
