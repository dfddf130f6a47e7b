//! Updates of the appliance: what the server offers is fetched, put in place when nothing plays, and started at night or
//! when the household says so; what came of it is told on the pages and to the server.
//!
//! - `decide`: the next step, pure. `driver`: performs it. `store`: what survives a crash.
//! - `system`: the files by which the gateway and the appliance's system talk. `quiet`: what an update waits for.
//! - `fetch`: the bundle's way to disk. `pieces`: where its pieces come from. `homes`: other homes that give it.
//!
//! A bundle that is whole is given to other homes, too, that show the server's grant for it: until something newer is
//! fetched, the version failed here or was withdrawn, or the disk gets full.
//!
//! The gateway may not install anything itself, nor restart the machine: it asks the system, which checks the bundle's
//! signature and goes back by itself when a version does not prove good. The system erases the household's data, too, when
//! the household wants a new beginning. On a machine that is no appliance (there is no `system.json`) this module does
//! nothing and the pages say nothing.

pub mod decide;
mod driver;
mod fetch;
mod homes;
mod pieces;
mod quiet;
pub mod store;
pub mod system;

pub use decide::Stage;
pub use store::SCHEMA;

use crate::cameras::Cameras;
use crate::devices::Devices;
use crate::exchange::Exchange;
use crate::library::Library;
use crate::link::Link;
use crate::playback::Playback;
use crate::recording::Recordings;
use jiff::Timestamp;
use mantel_protocol::update::Version;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError};
use mantel_runtime::files::blocking;
use mantel_runtime::logging::chain;
use mantel_runtime::tasks::Tasks;
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use system::{Request, System, SystemFolder};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// Where the appliance's system is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SystemConfig {
    /// The folder by which the system and the gateway talk.
    pub folder: PathBuf,
    /// Updates are looked for at a random moment within so many minutes after the start, after each six hours, and after
    /// the server speaks of one: so not all homes come at once, and the first have it to give when the others come.
    pub spread_minutes: u32,
}

impl Default for SystemConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("/run/mantel"),
            spread_minutes: 30,
        }
    }
}

/// What the pages show of the system and its updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What runs.
    pub running: Version,
    /// Whether both slots had their tries: the machine runs as it can.
    pub safe: bool,
    /// The update under way.
    pub under_way: Option<ShownUpdate>,
    /// The last update that failed, if nothing newer runs.
    pub failed: Option<ShownFailure>,
    /// When the server was last asked, and answered.
    pub asked: Option<Timestamp>,
    /// The version whose bundle other homes may fetch from here.
    pub gives: Option<Version>,
}

/// An update under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownUpdate {
    /// Which version.
    pub version: Version,
    /// How far it is.
    pub stage: Stage,
    /// Whether it runs already and has still to prove good.
    pub proving: bool,
    /// How much of its bundle is here, hundredths.
    pub percent: u64,
    /// Bytes of it that came from other homes since this program started.
    pub from_homes: u64,
    /// Whether "Restart now" was pressed.
    pub restart_wanted: bool,
    /// What it waits for, as "a title is playing".
    pub busy: Option<&'static str>,
    /// What is wrong, as a sentence; it goes on by itself.
    pub problem: Option<String>,
}

/// An update that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownFailure {
    /// Which version; `None`: the system cannot tell.
    pub version: Option<Version>,
    /// Why.
    pub words: String,
    /// Whether the household has read it.
    pub dismissed: bool,
}

/// Why this box does not forget everything.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// Nothing here could do it.
    #[error("this gateway does not run on an appliance: it cannot forget everything by itself")]
    NoAppliance,
    /// The request was not written.
    #[error("the box's system cannot be asked")]
    System(#[source] io::Error),
}

/// What updates ask of the other parts.
pub struct Parts {
    /// The database.
    pub db: Db,
    /// Time.
    pub clock: Clock,
    /// The server.
    pub link: Link,
    /// Imports, and room on the disk.
    pub library: Library,
    /// Imports from devices.
    pub devices: Devices,
    /// Clips from cameras.
    pub cameras: Cameras,
    /// Recordings from line-ins.
    pub recordings: Recordings,
    /// What plays.
    pub playback: Playback,
    /// Transfers.
    pub exchange: Exchange,
}

/// Updates; cheap to clone.
#[derive(Clone)]
pub struct Updates {
    /// `None`: no appliance.
    inner: Option<Arc<Inner>>,
}

struct Inner {
    parts: Parts,
    folder: SystemFolder,
    system: System,
    /// Where the bundle is put.
    update_dir: PathBuf,
    /// The longest that is waited with a question to the server.
    spread: Duration,
    shown: watch::Sender<Arc<Shown>>,
    /// Asks for a look now.
    look: Notify,
}

impl Updates {
    /// Goes on with what was under way, if this is an appliance.
    pub async fn start(
        config: &SystemConfig,
        data_dir: &Path,
        parts: Parts,
        tasks: &Tasks,
    ) -> Result<Self, DbError> {
        let folder = SystemFolder::new(&config.folder);
        let system = match folder.system() {
            Ok(Some(system)) => system,
            Ok(None) => return Ok(Self { inner: None }),
            Err(error) => {
                warn!(error = %chain(&error), "system.json makes no sense: this machine is not updated by the gateway");
                return Ok(Self { inner: None });
            }
        };
        info!(version = %system.version, safe = system.safe, failed = system.failed_update, "this is an appliance");
        let shown = Shown {
            running: system.version,
            safe: system.safe,
            under_way: None,
            failed: None,
            asked: None,
            gives: None,
        };
        let inner = Arc::new(Inner {
            parts,
            folder,
            system,
            update_dir: data_dir.join("update"),
            spread: Duration::from_mins(config.spread_minutes.into()),
            shown: watch::Sender::new(Arc::new(shown)),
            look: Notify::new(),
        });
        driver::start(&inner, tasks).await?;
        Ok(Self { inner: Some(inner) })
    }

    /// What the pages show; `None`: this is no appliance.
    pub fn shown(&self) -> Option<Arc<Shown>> {
        self.inner
            .as_ref()
            .map(|inner| Arc::clone(&inner.shown.borrow()))
    }

    /// What the pages show, as it changes; `None`: this is no appliance.
    pub fn changes(&self) -> Option<watch::Receiver<Arc<Shown>>> {
        self.inner.as_ref().map(|inner| inner.shown.subscribe())
    }

    /// The household wants the restart now; whether there is an update that waits for it.
    pub async fn restart_now(&self) -> Result<bool, DbError> {
        let Some(inner) = &self.inner else {
            return Ok(false);
        };
        let wanted = store::want_restart(&inner.parts.db).await?;
        inner.look.notify_one();
        Ok(wanted)
    }

    /// The household wants everything on this box erased: the machine restarts as soon as the system has heard it.
    pub async fn forget_everything(&self) -> Result<(), ForgetError> {
        let Some(inner) = &self.inner else {
            return Err(ForgetError::NoAppliance);
        };
        let folder = inner.folder.clone();
        blocking(move || folder.ask(&Request::FactoryReset))
            .await
            .map_err(ForgetError::System)
    }

    /// The household has read that an update failed.
    pub async fn dismiss(&self) -> Result<(), DbError> {
        let Some(inner) = &self.inner else {
            return Ok(());
        };
        store::dismiss(&inner.parts.db).await?;
        inner.shown.send_modify(|shown| {
            if let Some(failed) = &mut Arc::make_mut(shown).failed {
                failed.dismissed = true;
            }
        });
        inner.look.notify_one();
        Ok(())
    }
}
