//! The household's devices (F2, F5): what discovery sees joined with what the household decided, and imports from them.
//!
//! - `store`: decisions (admitted, ignored, names, classes) and what is remembered of those devices.
//! - `decide`: deciding and taking it back. `rows`: what is seen joined with what was decided.
//! - `imports`: whole devices imported in the background. `announce`: this gateway on its own network.
//! - `news`: what devices tell since. `cables`: what is plugged in, and "safe to remove".
//! - `levels`: how loud this machine's loudspeakers are.
//! - `players`: who asks this gateway for media.
//!
//! A new device is shown and may be looked into; importing from it admits it, since that is a person's decision. An
//! ignored one stays in the list, is not looked into and plays nothing.

pub mod announce;
mod cables;
mod decide;
mod imports;
mod levels;
mod news;
mod players;
mod rows;
mod store;

pub use announce::OwnVoice;
pub use cables::CablesConfig;
pub use decide::LastDecision;
pub use imports::{DeviceImport, DeviceImportState};
pub use news::{DeviceNews, MAX_FOLLOWED};
pub use players::{Asked, MAX_PLAYERS, PlayerRow};

use crate::library::{ImportError, ImportSource, Library, LibraryError};
use crate::link::Link;
use imports::Imports;
use jiff::Timestamp;
use mantel_peripherals::alsa::{Ports, SoundCards, Speakers};
use mantel_peripherals::discovery::{Discovery, DiscoveryConfig, Loopback, Snapshot, SsdpConfig};
use mantel_peripherals::media::{ListError, MAX_PAGE, ObjectId, Page, PageRequest};
use mantel_peripherals::mpd::Jukebox;
use mantel_peripherals::registry::Sighting;
use mantel_peripherals::{
    Capability, Device, DeviceClass, DeviceKey, DeviceState, MacAddress, MediaSource, Recorder,
    Renderer,
};
use mantel_protocol::ids::TitleId;
use mantel_protocol::key::DeviceId;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::tasks::Tasks;
use news::News;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use store::Stored;
use tokio::sync::watch;

/// The table of decisions.
pub const SCHEMA: Schema = Schema {
    module: "devices",
    steps: &[
        include_str!("schema.sql"),
        include_str!("schema_2.sql"),
        include_str!("schema_3.sql"),
    ],
};

/// Entries on one page of a listing.
pub const PAGE_ENTRIES: u32 = 60;
/// Longest name that the household may give, characters.
pub const MAX_NAME_CHARS: usize = 80;

/// How devices are looked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DevicesConfig {
    /// Devices are looked for on this network interface only; none: all interfaces.
    pub interface: Option<String>,
    /// Whether this gateway announces itself on the home's network, so that other gateways find it.
    pub announce: bool,
    /// The host name that it announces, without `.local`; none: one made of its device id.
    pub host_name: Option<String>,
    /// Also looks on the loopback interface: devices that are programs on this machine.
    pub loopback: bool,
    /// Things on cables.
    pub cables: CablesConfig,
    /// Loudspeakers of this machine: `all`, or ALSA's names of PCMs.
    pub loudspeakers: Vec<String>,
    /// Line-ins of this machine: `all`, or ALSA's names of PCMs.
    pub line_ins: Vec<String>,
}

impl Default for DevicesConfig {
    fn default() -> Self {
        Self {
            interface: None,
            announce: true,
            host_name: None,
            loopback: false,
            cables: CablesConfig::default(),
            loudspeakers: vec![ALL.to_owned()],
            line_ins: vec![ALL.to_owned()],
        }
    }
}

/// The word for every sound card.
const ALL: &str = "all";

fn ports(names: &[String]) -> Ports {
    match names {
        [] => Ports::Off,
        [word] if word == ALL => Ports::All,
        names => Ports::Named(names.to_vec()),
    }
}

/// What the household decided about a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceStanding {
    /// Nothing yet.
    #[default]
    New,
    /// It is used.
    Admitted,
    /// It is not used.
    Ignored,
}

/// A device as pages show it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRow {
    /// Its stable key.
    pub id: String,
    /// The household's name for it, or its own.
    pub name: String,
    /// What it is: by the household's word, or as it says.
    pub class: DeviceClass,
    /// Whether the household said what it is.
    pub class_corrected: bool,
    /// The id of the gateway that it is, if it is one of another home.
    pub gateway: Option<DeviceId>,
    /// Its maker, as it says.
    pub maker: Option<String>,
    /// Its model, as it says.
    pub model: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address, where known (F5).
    pub mac: Option<MacAddress>,
    /// Its electronic serial number, where told (F5).
    pub serial: Option<String>,
    /// What can be done with it.
    pub capabilities: BTreeSet<Capability>,
    /// Whether it answers.
    pub state: DeviceState,
    /// What the household decided.
    pub standing: DeviceStanding,
    /// When it was first seen in this run.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// What is wrong with it, in plain words.
    pub problem: Option<String>,
    /// Whether it must be let go before it is unplugged ([`Devices::eject`]).
    pub ejects: bool,
    pub(crate) keys: Arc<rows::Keys>,
}

/// What is looked at on a device.
#[derive(Debug, Clone, Copy)]
pub enum Looked<'a> {
    /// Its top container.
    Top,
    /// The container with this id.
    In(&'a str),
    /// What has this text in its title.
    Named(&'a str),
}

/// One page of what a device has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listing {
    /// The entries.
    pub page: Page,
    /// Which of the entries (by the device's names for them) are in the library already.
    pub imported: BTreeSet<String>,
}

/// Why something was not done with a device.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// It was never seen in this run.
    #[error("this device is not in the house now; switch it on and wait until it is listed")]
    NoSuchDevice,
    /// Nothing was decided yet, or all of it was taken back.
    #[error("there is no decision about a device to take back; nothing was changed")]
    NothingToUndo,
    /// The household ignores it.
    #[error("\"{name}\" is ignored by this gateway; admit it first")]
    Ignored {
        /// Its name.
        name: String,
    },
    /// It has no media.
    #[error("\"{name}\" offers no media that could be listed")]
    NoMedia {
        /// Its name.
        name: String,
    },
    /// It lists its media and gives no files.
    #[error("\"{name}\" plays its media but gives no files away; nothing was imported")]
    GivesNothing {
        /// Its name.
        name: String,
    },
    /// It is no camera.
    #[error("\"{name}\" is no camera that this gateway can use")]
    NoCamera {
        /// Its name.
        name: String,
    },
    /// The object has nothing that could be fetched.
    #[error("\"{object}\" has no file that could be imported; nothing was changed")]
    NothingToFetch {
        /// Its title.
        object: String,
    },
    /// Not an object of a device.
    #[error("this entry cannot be found; list the device again from the top")]
    NoSuchObject,
    /// It is no memory that is mounted.
    #[error("\"{name}\" is not in use; it may be unplugged")]
    NotMounted {
        /// Its name.
        name: String,
    },
    /// Nobody watches for requests.
    #[error(
        "\"{name}\" was mounted by another program, which alone can let it go. Nothing is written to it; it may be \
         unplugged while no import runs"
    )]
    NoMountService {
        /// Its name.
        name: String,
    },
    /// The request could not be left.
    #[error("the request to let \"{name}\" go could not be written; nothing was changed")]
    EjectRequest {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was not let go in time.
    #[error("\"{name}\" is still in use. Wait until its import has ended, then try again")]
    StillMounted {
        /// Its name.
        name: String,
    },
    /// An import of the device is running.
    #[error("everything on \"{name}\" is being imported already")]
    UnderWay {
        /// Its name.
        name: String,
    },
    /// The device did not list; its own words say why.
    #[error(transparent)]
    List(#[from] ListError),
    /// The file was not imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The library refused.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The database refused.
    #[error("the gateway's database refused; nothing was changed, try again")]
    Database(#[from] DbError),
}

/// The household's devices; cheap to clone.
#[derive(Clone)]
pub struct Devices {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    library: Library,
    seen: watch::Receiver<Snapshot>,
    rows: watch::Sender<Arc<Vec<DeviceRow>>>,
    stored: watch::Sender<Arc<Stored>>,
    writes: Arc<AtomicU64>,
    clock: Clock,
    discovery: Option<Discovery>,
    imports: Imports,
    news: News,
    speakers: Speakers,
    players: players::Players,
    tasks: Tasks,
    eject_dir: PathBuf,
}

impl Devices {
    /// Starts discovery and follows it; `own` is never listed.
    pub async fn start(
        config: &DevicesConfig,
        own: &OwnVoice,
        link: &Link,
        db: Db,
        library: Library,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, DevicesError> {
        let loopback = if config.loopback {
            Loopback::Searched
        } else {
            Loopback::Ignored
        };
        let discovery_config = DiscoveryConfig {
            interface: config.interface.clone(),
            ssdp: SsdpConfig {
                loopback,
                ..SsdpConfig::default()
            },
            hotplug: config.cables.hotplug(),
            sound: SoundCards {
                outputs: ports(&config.loudspeakers),
                inputs: ports(&config.line_ins),
            },
            announced: Some(announce::follow(config, own, link, tasks)),
            ignored: own.keys.clone(),
            ..DiscoveryConfig::default()
        };
        let (seen, discovery) = Discovery::start(discovery_config, tasks.token().clone());
        let eject_dir = config.cables.eject_dir.clone();
        Self::follow(seen, Some(discovery), eject_dir, db, library, clock, tasks).await
    }

    /// Follows a list of devices, whoever makes it.
    pub(crate) async fn follow(
        seen: watch::Receiver<Snapshot>,
        discovery: Option<Discovery>,
        eject_dir: PathBuf,
        db: Db,
        library: Library,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, DevicesError> {
        let stored = db
            .read(|db| Ok::<_, DbError>(store::everything(db)?))
            .await?;
        let rows = rows::join(&seen.borrow().clone(), &stored);
        let rows = watch::Sender::new(Arc::new(rows));
        let news = News::new();
        let imports = Imports::new(news.clone());
        tasks.spawn(
            "devices-news",
            news.clone().follow(seen.clone(), rows.subscribe()),
        );
        let speakers = levels::speakers(&db, library.decoder(), tasks).await?;
        let inner = Inner {
            db,
            library,
            seen,
            rows,
            players: players::Players::new(&stored.decisions),
            stored: watch::Sender::new(Arc::new(stored)),
            writes: Arc::default(),
            clock,
            discovery,
            imports,
            news,
            speakers,
            tasks: tasks.child(),
            eject_dir,
        };
        let devices = Self {
            inner: Arc::new(inner),
        };
        tasks.spawn("devices", rows::publish(devices.clone()));
        Ok(devices)
    }

    /// All devices, in the order in which discovery names them.
    pub fn snapshot(&self) -> watch::Receiver<Arc<Vec<DeviceRow>>> {
        self.inner.rows.subscribe()
    }

    /// How many addresses announce more than is listened to, or invent devices.
    pub fn noisy(&self) -> usize {
        let discovery = self.inner.discovery.as_ref();
        discovery.map_or(0, |discovery| *discovery.noisy().borrow())
    }

    /// Searches the network now.
    pub fn search_now(&self) {
        if let Some(discovery) = &self.inner.discovery {
            discovery.search_now();
        }
    }

    /// One page of what a device has.
    pub async fn browse(
        &self,
        id: &str,
        what: Looked<'_>,
        page: u32,
    ) -> Result<Listing, DevicesError> {
        let (source, device) = self.source(id)?;
        let count = PAGE_ENTRIES.min(MAX_PAGE);
        let request = PageRequest {
            start: page.saturating_mul(count),
            count,
        };
        let listed = match what {
            Looked::Top => source.list(&ObjectId::root(), request).await,
            Looked::In(id) => {
                let object = ObjectId::new(id).ok_or(DevicesError::NoSuchObject)?;
                source.list(&object, request).await
            }
            Looked::Named(text) => source.search(text, request).await,
        };
        let page = match listed {
            Ok(page) => page,
            Err(error) => return Err(self.failed(&device, error).await),
        };
        let imported = self.inner.library.imported_from(device.id.as_str()).await?;
        Ok(Listing { page, imported })
    }

    /// Imports one object and returns its title.
    pub async fn import_one(&self, id: &str, object: &str) -> Result<TitleId, DevicesError> {
        let (source, device) = self.source(id)?;
        if !device.capabilities.contains(&Capability::FetchAsset) {
            let name = self.name_of(&device);
            return Err(DevicesError::GivesNothing { name });
        }
        let object = ObjectId::new(object).ok_or(DevicesError::NoSuchObject)?;
        let item = match source.item(&object).await {
            Ok(item) => item,
            Err(error) => return Err(self.failed(&device, error).await),
        };
        self.admit_if_new(id).await?;
        let import =
            ImportSource::from_device(device.id.as_str(), &self.name_of(&device), source, &item)
                .ok_or(DevicesError::NothingToFetch { object: item.title })?;
        Ok(Box::pin(self.inner.library.import(import)).await?)
    }

    /// Imports everything that a device has, in the background; see [`Devices::imports`].
    pub async fn import_all(&self, id: &str) -> Result<(), DevicesError> {
        let (source, device) = self.source(id)?;
        let name = self.name_of(&device);
        if !device.capabilities.contains(&Capability::FetchAsset) {
            return Err(DevicesError::GivesNothing { name });
        }
        self.admit_if_new(id).await?;
        let library = self.inner.library.clone();
        if self.inner.imports.start(
            &self.inner.tasks,
            library,
            source,
            device.id.as_str(),
            &name,
        ) {
            Ok(())
        } else {
            Err(DevicesError::UnderWay { name })
        }
    }

    /// Stops an import of everything; what is imported stays.
    pub fn cancel_import(&self, id: &str) {
        if let Ok(device) = self.device(id) {
            self.inner.imports.cancel(&device);
        }
    }

    /// What devices told since they were last imported from, by device key.
    pub fn news(&self) -> watch::Receiver<Arc<BTreeMap<String, DeviceNews>>> {
        self.inner.news.subscribe()
    }

    /// Imports of whole devices, the latest of each.
    pub fn imports(&self) -> watch::Receiver<Arc<Vec<DeviceImport>>> {
        self.inner.imports.subscribe()
    }

    /// A device as a player; `None`: it is not there, is ignored, or plays nothing.
    pub fn renderer(&self, id: &str) -> Option<Renderer> {
        self.player(id).map(|player| player.renderer)
    }

    /// A device as a jukebox with a library and a queue of its own; `None`: it is not there, is ignored, or is none.
    pub fn jukebox(&self, id: &str) -> Option<Jukebox> {
        let device = self.device(id).ok()?;
        self.row(&device)
            .filter(|row| row.standing != DeviceStanding::Ignored)?;
        device.jukebox()
    }

    /// A device as a player, with what a session on it needs.
    pub(crate) fn player(&self, id: &str) -> Option<Player> {
        let device = self.device(id).ok()?;
        let row = self
            .row(&device)
            .filter(|row| row.standing != DeviceStanding::Ignored)?;
        let own = || {
            let port = device.loudspeaker()?;
            Some(Renderer::Alsa(self.inner.speakers.open(&row.name, port)))
        };
        let renderer = device.renderer().or_else(own)?;
        Some(Player {
            renderer,
            id: row.id,
            name: row.name,
            addresses: device.addresses,
        })
    }

    /// A device to record from, with its row; `None`: it is not there, or cannot be recorded from.
    pub(crate) fn recorder(&self, id: &str) -> Option<(Recorder, DeviceRow)> {
        let device = self.device(id).ok()?;
        let row = self.row(&device)?;
        Some((device.recorder()?, row))
    }

    /// A device as a camera: under the household's name for it, with all of its keys.
    pub(crate) fn seen_camera(&self, id: &str) -> Result<SeenCamera, DevicesError> {
        let mut device = self.device(id)?;
        let name = self.name_of(&device);
        let standing = self.row(&device).map(|row| row.standing);
        if standing == Some(DeviceStanding::Ignored) {
            return Err(DevicesError::Ignored { name });
        }
        if !device.capabilities.contains(&Capability::LiveStream) {
            return Err(DevicesError::NoCamera { name });
        }
        let keys = device.aliases.iter();
        let keys = keys.map(|key| key.as_str().to_owned()).collect();
        device.name = name;
        Ok(SeenCamera { device, keys })
    }

    /// Lists a device that the household named itself.
    pub(crate) async fn list(&self, sighting: Sighting) {
        if let Some(discovery) = &self.inner.discovery {
            discovery.tell(sighting).await;
        }
    }

    /// Takes back what was listed by [`Devices::list`].
    pub(crate) async fn unlist(&self, device: DeviceKey) {
        if let Some(discovery) = &self.inner.discovery {
            discovery.take_back(device).await;
        }
    }

    fn device(&self, id: &str) -> Result<Device, DevicesError> {
        let key = DeviceKey::new(id).ok_or(DevicesError::NoSuchDevice)?;
        let seen = self.inner.seen.borrow();
        seen.iter()
            .find(|device| device.is(&key))
            .cloned()
            .ok_or(DevicesError::NoSuchDevice)
    }

    fn row(&self, device: &Device) -> Option<DeviceRow> {
        self.inner
            .rows
            .borrow()
            .iter()
            .find(|row| row.id == device.id.as_str())
            .cloned()
    }

    fn name_of(&self, device: &Device) -> String {
        self.row(device)
            .map_or_else(|| device.name.clone(), |row| row.name)
    }

    fn source(&self, id: &str) -> Result<(MediaSource, Device), DevicesError> {
        let device = self.device(id)?;
        let name = self.name_of(&device);
        if self
            .row(&device)
            .is_some_and(|row| row.standing == DeviceStanding::Ignored)
        {
            return Err(DevicesError::Ignored { name });
        }
        let source = device
            .media_source()
            .ok_or(DevicesError::NoMedia { name })?;
        Ok((source, device))
    }

    /// A device that does not answer is looked at again soon, so that its row says so.
    async fn failed(&self, device: &Device, error: ListError) -> DevicesError {
        if let (ListError::Unreachable { .. }, Some(discovery)) = (&error, &self.inner.discovery) {
            discovery.recheck(device.id.clone()).await;
        }
        error.into()
    }

    /// Has discovery look whether a device is still there.
    pub(crate) async fn recheck(&self, id: &str) {
        if let (Some(key), Some(discovery)) = (DeviceKey::new(id), &self.inner.discovery) {
            discovery.recheck(key).await;
        }
    }
}

/// A device that is a camera.
pub(crate) struct SeenCamera {
    /// The device, under the household's name for it.
    pub(crate) device: Device,
    /// Its keys.
    pub(crate) keys: Vec<String>,
}

/// A device that plays.
pub(crate) struct Player {
    pub(crate) renderer: Renderer,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
}

#[cfg(test)]
pub(crate) mod tests;
