//! The household's cameras (F2, F4): log-ins to them, still pictures, pictures and clips taken into the library, and
//! cameras that were added by their address.
//!
//! - `store`: log-ins (sealed) and typed cameras. `clip`: access units as a stream that the sandbox makes an MP4 of.
//!   `record`: clips being recorded.
//!
//! Deliberately absent: watching live in the browser; the protocols (they are in `peripherals`); decoding, which only
//! the library's sandbox does. Pictures and clips are in memory until they are sealed into the library. A crash loses
//! a clip that is being recorded.

mod clip;
mod record;
mod store;

pub use record::{MAX_SECONDS, Recording, RecordingState};

use crate::devices::{Devices, DevicesError, SeenCamera};
use crate::library::{CaptureError, ImportError, ImportSource, Library};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use mantel_peripherals::device::{Access, DeviceClass};
use mantel_peripherals::live::LiveError;
use mantel_peripherals::registry::Sighting;
use mantel_peripherals::rtsp::{RtspAccess, RtspUrl, Transport, UrlProblem};
use mantel_peripherals::{Camera, DeviceKey, Login};
use mantel_protocol::ids::TitleId;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::tasks::Tasks;
use record::Recordings;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::Typed;
use tokio::sync::{Semaphore, watch};

/// The tables.
pub const SCHEMA: Schema = Schema {
    module: "cameras",
    steps: &[include_str!("schema.sql")],
};

/// Most cameras added by their address.
pub const MAX_TYPED: usize = 64;
/// Longest name of a camera that is added, characters.
pub const MAX_NAME_CHARS: usize = 80;
/// A picture this old is still shown to the next page that asks.
const FRESH: SignedDuration = SignedDuration::from_secs(2);
/// Pictures kept for the next page that asks, one of each camera.
const MAX_SHOTS: usize = 4;
/// Cameras that are asked for a picture at the same time.
const LOOKS_AT_ONCE: usize = 4;
/// How long a camera that was just added is waited for.
const LIST_TIME: Duration = Duration::from_secs(5);

/// Why something was not done with a camera.
#[derive(Debug, thiserror::Error)]
pub enum CameraError {
    /// The device is not there, is ignored, or is no camera.
    #[error(transparent)]
    Device(#[from] DevicesError),
    /// The camera did not give it; its own words say why.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The picture or clip could not be made.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The library did not take it.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A typed address is of no use.
    #[error(transparent)]
    Address(#[from] UrlProblem),
    /// A user name or password that cannot be used.
    #[error(
        "this user name or password cannot be used: each has at most 128 characters, and the user name at least one"
    )]
    BadLogin,
    /// It is being recorded.
    #[error("\"{name}\" is being recorded already; stop that first")]
    Recording {
        /// Its name.
        name: String,
    },
    /// Enough are being recorded.
    #[error("other cameras are being recorded; wait until one of them is done")]
    TooManyRecordings,
    /// A length that cannot be recorded.
    #[error("a clip has 1 to {MAX_SECONDS} seconds")]
    BadLength,
    /// Nothing came that could be kept.
    #[error("no picture came from \"{name}\" while it was recorded; nothing was kept, try again")]
    NothingCame {
        /// Its name.
        name: String,
    },
    /// Enough cameras were added.
    #[error(
        "this gateway keeps {MAX_TYPED} cameras that were added by their address; remove one first"
    )]
    TooManyTyped,
    /// Not one that was added.
    #[error("this camera was not added by its address; it was found by itself, and can be ignored")]
    NotTyped,
    /// The database refused.
    #[error("the gateway's database refused; nothing was changed, try again")]
    Database(#[from] DbError),
}

/// The household's cameras; cheap to clone.
#[derive(Clone)]
pub struct Cameras {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    library: Library,
    devices: Devices,
    clock: Clock,
    tasks: Tasks,
    shots: Mutex<Vec<Shot>>,
    looks: Semaphore,
    recordings: Recordings,
}

/// The latest picture of a camera, or why there is none.
struct Shot {
    device: String,
    at: Timestamp,
    taken: Result<Bytes, String>,
}

/// A camera ready to be asked, with what a page or a title says of it.
#[derive(Clone)]
struct Ready {
    camera: Camera,
    key: String,
    name: String,
}

impl Cameras {
    /// Lists the cameras that were added, and is ready for the others.
    pub async fn start(
        db: Db,
        library: Library,
        devices: Devices,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, CameraError> {
        let typed = db.read(|db| Ok::<_, DbError>(store::typed(db)?)).await?;
        for camera in typed {
            match RtspUrl::typed(&camera.url) {
                Ok(typed) => {
                    let listed = sighting(&typed.url, &camera.name, camera.transport);
                    devices.list(listed).await;
                }
                Err(error) => tracing::warn!(%error, "a stored camera's address is of no use"),
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                db,
                library,
                devices,
                clock,
                tasks: tasks.child(),
                shots: Mutex::default(),
                looks: Semaphore::new(LOOKS_AT_ONCE),
                recordings: Recordings::new(),
            }),
        })
    }

    /// What the camera sees, as a JPEG; at most two seconds old.
    pub async fn still(&self, id: &str) -> Result<Bytes, CameraError> {
        let ready = self.ready(id).await?;
        let _place = self.inner.looks.acquire().await.expect("never closed");
        if let Some(jpeg) = self.fresh(&ready.key) {
            return Ok(jpeg);
        }
        self.shoot(&ready).await
    }

    /// Why the last picture of the camera did not come, in plain words.
    pub fn problem(&self, id: &str) -> Option<String> {
        let shots = self
            .inner
            .shots
            .lock()
            .expect("no holder of this lock panics");
        let shot = shots.iter().find(|shot| shot.device == id)?;
        shot.taken.as_ref().err().cloned()
    }

    /// Takes a picture into the library and returns its title.
    pub async fn take_picture(&self, id: &str) -> Result<TitleId, CameraError> {
        let ready = self.ready(id).await?;
        let jpeg = self.shoot(&ready).await?;
        self.inner.devices.admit_if_new(id).await?;
        let now = self.inner.clock.now();
        let name = title_name(&ready.name, now);
        let source = ImportSource::picture((&ready.key, &ready.name), &name, now, jpeg);
        Ok(Box::pin(self.inner.library.import(source)).await?)
    }

    /// Begins to record a clip of `seconds` into the library, in the background; see [`Cameras::recordings`].
    pub async fn record(&self, id: &str, seconds: u32) -> Result<(), CameraError> {
        if !(1..=MAX_SECONDS).contains(&seconds) {
            return Err(CameraError::BadLength);
        }
        let ready = self.ready(id).await?;
        self.inner.devices.admit_if_new(id).await?;
        let length = Duration::from_secs(seconds.into());
        record::begin(self, ready, length)
    }

    /// Ends a recording now; what was recorded is kept.
    pub fn stop(&self, id: &str) {
        self.inner.recordings.stop(id);
    }

    /// Recordings, the latest of each camera.
    pub fn recordings(&self) -> watch::Receiver<Arc<Vec<Recording>>> {
        self.inner.recordings.subscribe()
    }

    /// Whether the household entered a user name and a password for the device.
    pub async fn has_login(&self, id: &str) -> Result<bool, CameraError> {
        let seen = self.inner.devices.seen_camera(id)?;
        Ok(self.login(&seen).await?.is_some())
    }

    /// Keeps a user name and a password for the device, sealed.
    pub async fn set_login(&self, id: &str, user: &str, password: &str) -> Result<(), CameraError> {
        let login = Login::new(user, password).ok_or(CameraError::BadLogin)?;
        let seen = self.inner.devices.seen_camera(id)?;
        self.keep_login(&seen.keys, &login).await?;
        self.forget_shot(seen.device.id.as_str());
        Ok(())
    }

    /// Forgets the user name and the password for the device.
    pub async fn forget_login(&self, id: &str) -> Result<(), CameraError> {
        let seen = self.inner.devices.seen_camera(id)?;
        let keys = seen.keys;
        let remove = move |tx: &rusqlite::Transaction<'_>| {
            Ok::<_, DbError>(store::remove_logins(tx, &keys)?)
        };
        self.inner.db.write(remove).await?;
        self.forget_shot(seen.device.id.as_str());
        Ok(())
    }

    /// Adds a camera by the address of its stream and returns its device key. A user name and a password may stand in
    /// the address or be given apart.
    pub async fn add(
        &self,
        address: &str,
        name: &str,
        transport: Transport,
        login: Option<(&str, &str)>,
    ) -> Result<String, CameraError> {
        let typed = RtspUrl::typed(address)?;
        let login = match login {
            Some((user, password)) => {
                Some(Login::new(user, password).ok_or(CameraError::BadLogin)?)
            }
            None => typed.login,
        };
        let name = clean_name(name, &typed.url);
        let camera = Typed {
            url: typed.url.to_string(),
            name: name.clone(),
            transport,
        };
        let write = move |tx: &rusqlite::Transaction<'_>| {
            let known = store::typed(tx)?;
            if known.len() >= MAX_TYPED && !known.iter().any(|old| old.url == camera.url) {
                return Ok(false);
            }
            store::put_typed(tx, &camera)?;
            Ok::<_, DbError>(true)
        };
        if !self.inner.db.write(write).await? {
            return Err(CameraError::TooManyTyped);
        }
        let sighting = sighting(&typed.url, &name, transport);
        let key = sighting.key.as_str().to_owned();
        if let Some(login) = login {
            self.keep_login(std::slice::from_ref(&key), &login).await?;
        }
        self.inner.devices.list(sighting).await;
        self.admit_when_listed(&key).await?;
        Ok(key)
    }

    /// Removes a camera that was added by its address, with its log-in. Its titles stay.
    pub async fn remove(&self, id: &str) -> Result<(), CameraError> {
        let seen = self.inner.devices.seen_camera(id)?;
        let url = typed_url(&seen.keys).ok_or(CameraError::NotTyped)?;
        self.forget_login(id).await?;
        let stored = url.clone();
        let remove = move |tx: &rusqlite::Transaction<'_>| {
            Ok::<_, DbError>(store::remove_typed(tx, &stored)?)
        };
        self.inner.db.write(remove).await?;
        self.inner.devices.unlist(seen.device.id).await;
        Ok(self.inner.devices.forget(seen.keys).await?)
    }

    /// Whether the device was added by its address.
    pub fn is_typed(&self, id: &str) -> bool {
        let seen = self.inner.devices.seen_camera(id);
        seen.is_ok_and(|seen| typed_url(&seen.keys).is_some())
    }

    async fn ready(&self, id: &str) -> Result<Ready, CameraError> {
        let seen = self.inner.devices.seen_camera(id)?;
        let login = self.login(&seen).await?;
        let key = seen.device.id.as_str().to_owned();
        let name = seen.device.name.clone();
        let camera = seen.device.camera(login);
        let camera = camera.ok_or_else(|| DevicesError::NoCamera { name: name.clone() })?;
        Ok(Ready { camera, key, name })
    }

    async fn login(&self, seen: &SeenCamera) -> Result<Option<Login>, CameraError> {
        let keys = seen.keys.clone();
        let sealed = self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::login(db, &keys)?))
            .await?;
        let Some((key, sealed)) = sealed else {
            return Ok(None);
        };
        let opened = self.inner.library.open_secret(&login_place(&key), &sealed);
        let Ok(opened) = opened else {
            tracing::warn!(
                device = key,
                "a stored log-in does not open; it is taken for none"
            );
            return Ok(None);
        };
        let text = std::str::from_utf8(&opened).unwrap_or_default();
        Ok(text
            .split_once('\n')
            .and_then(|(user, password)| Login::new(user, password)))
    }

    async fn keep_login(&self, keys: &[String], login: &Login) -> Result<(), CameraError> {
        let text = zeroize::Zeroizing::new(format!("{}\n{}", login.user(), login.password()));
        let seal = |key: &String| {
            let place = login_place(key);
            let sealed = self.inner.library.seal_secret(&place, text.as_bytes());
            (key.clone(), sealed)
        };
        let rows: Vec<(String, Vec<u8>)> = keys.iter().map(seal).collect();
        let write =
            move |tx: &rusqlite::Transaction<'_>| Ok::<_, DbError>(store::put_logins(tx, &rows)?);
        Ok(self.inner.db.write(write).await?)
    }

    /// Asks the camera for a picture now.
    async fn shoot(&self, ready: &Ready) -> Result<Bytes, CameraError> {
        let taken = match ready.camera.still().await {
            Ok(still) => self
                .inner
                .library
                .jpeg_of(still)
                .await
                .map_err(CameraError::from),
            Err(error) => {
                if let LiveError::Unreachable { .. } = error {
                    self.inner.devices.recheck(&ready.key).await;
                }
                Err(error.into())
            }
        };
        let told = taken
            .as_ref()
            .map(Clone::clone)
            .map_err(ToString::to_string);
        let shot = Shot {
            device: ready.key.clone(),
            at: self.inner.clock.now(),
            taken: told,
        };
        let mut shots = self
            .inner
            .shots
            .lock()
            .expect("no holder of this lock panics");
        shots.retain(|old| old.device != shot.device);
        shots.push(shot);
        let many = shots.len().saturating_sub(MAX_SHOTS);
        shots.drain(..many);
        taken
    }

    fn fresh(&self, key: &str) -> Option<Bytes> {
        let now = self.inner.clock.now();
        let shots = self
            .inner
            .shots
            .lock()
            .expect("no holder of this lock panics");
        let shot = shots.iter().find(|shot| shot.device == key)?;
        let age = now.duration_since(shot.at);
        (age >= SignedDuration::ZERO && age < FRESH)
            .then(|| shot.taken.as_ref().ok().cloned())
            .flatten()
    }

    fn forget_shot(&self, key: &str) {
        let mut shots = self
            .inner
            .shots
            .lock()
            .expect("no holder of this lock panics");
        shots.retain(|shot| shot.device != key);
    }

    /// A camera that a person adds is let in by that.
    async fn admit_when_listed(&self, key: &str) -> Result<(), CameraError> {
        let mut rows = self.inner.devices.snapshot();
        let listed = async {
            while self.inner.devices.seen_camera(key).is_err() {
                if rows.changed().await.is_err() {
                    return;
                }
            }
        };
        // Not listed yet: it will be, and then waits to be let in.
        let _ = tokio::time::timeout(LIST_TIME, listed).await;
        Ok(self.inner.devices.admit(key).await?)
    }
}

/// The key of a camera that was added; see [`typed_url`].
fn typed_key(url: &str) -> Option<DeviceKey> {
    DeviceKey::new(&format!("rtsp:{url}"))
}

fn typed_url(keys: &[String]) -> Option<String> {
    keys.iter()
        .find_map(|key| key.strip_prefix("rtsp:"))
        .map(str::to_owned)
}

fn sighting(url: &RtspUrl, name: &str, transport: Transport) -> Sighting {
    let text = url.to_string();
    let key = typed_key(&text).or_else(|| DeviceKey::new("rtsp:"));
    Sighting {
        key: key.expect("a short key is one"),
        origin: text,
        name: name.to_owned(),
        class: DeviceClass::Camera,
        maker: None,
        model: None,
        serial: None,
        mac: None,
        // None: each is a row of its own, though a recorder gives the streams of many cameras at one address.
        addresses: BTreeSet::new(),
        access: Access::Rtsp(RtspAccess {
            url: url.clone(),
            transport,
        }),
    }
}

fn clean_name(text: &str, url: &RtspUrl) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    let name: String = words.join(" ").chars().take(MAX_NAME_CHARS).collect();
    if name.is_empty() {
        format!("Camera at {}", url.host())
    } else {
        name
    }
}

/// Where a log-in is sealed for.
fn login_place(key: &str) -> String {
    format!("camera login {key}")
}

/// `Garden camera, 21 Nov 2026 14:03:22`, by the gateway's clock and zone.
fn title_name(camera: &str, at: Timestamp) -> String {
    let local = at.to_zoned(crate::zone::here());
    format!("{camera}, {}", local.strftime("%-d %b %Y %H:%M:%S"))
}

#[cfg(test)]
mod tests;
