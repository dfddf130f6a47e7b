//! Home Assistant, optional: this gateway tells the household's own MQTT broker of its players, transfers and storage,
//! and takes playback commands from it, nothing else.
//!
//! - `discovery`: topics, payloads, commands; pure. `talk`: the connection. This file: the settings.
//!
//! Off until a person names a broker. A broker that is away or misbehaves costs nothing but a retry.

pub mod discovery;
mod talk;

use crate::devices::Devices;
use crate::exchange::Exchange;
use crate::library::{Library, LibraryError};
use crate::link::Link;
use crate::playback::Playback;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::tasks::Tasks;
use rusqlite::OptionalExtension;
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// The table of settings.
pub const SCHEMA: Schema = Schema {
    module: "home_assistant",
    steps: &[include_str!("schema.sql")],
};

/// The prefix that Home Assistant listens to unless it was told another.
pub const USUAL_PREFIX: &str = "homeassistant";
/// MQTT's port without TLS.
pub const USUAL_PORT: u16 = 1883;
/// The longest host, user name or password, bytes.
const MAX_TEXT_BYTES: usize = 256;
/// The longest prefix, bytes.
const MAX_PREFIX_BYTES: usize = 60;
/// Where the password is sealed to, see the library's secrets.
const PASSWORD_PLACE: &str = "home assistant password";

/// The household's broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name; empty: no log-in.
    pub user: String,
    /// Password.
    pub password: Zeroizing<String>,
    /// Certificates (PEM) by which the broker is known; empty: no TLS.
    pub authority: String,
    /// Prefix of discovery topics.
    pub prefix: String,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            port,
            user,
            prefix,
            ..
        } = self;
        f.debug_struct("Settings")
            .field("broker", &format!("{host}:{port}"))
            .field("user", user)
            .field("prefix", prefix)
            .finish_non_exhaustive()
    }
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Status {
    /// No broker was named.
    #[default]
    Off,
    /// Being tried.
    Connecting,
    /// Told, and listening.
    Connected,
    /// Not reached; why, in words.
    Away(String),
}

/// Why settings were not taken.
#[derive(Debug, thiserror::Error)]
pub enum HomeAssistantError {
    /// A field.
    #[error("{0}; nothing was changed")]
    Field(&'static str),
    /// The certificates.
    #[error(
        "the certificate is not one that can be used: paste the broker's certificate, or that of its authority, as text \
         that begins with -----BEGIN CERTIFICATE-----. Nothing was changed"
    )]
    Certificate,
    /// The password does not open.
    #[error(transparent)]
    Secret(#[from] LibraryError),
    /// The database refused.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// The tie to Home Assistant; cheap to clone.
#[derive(Clone)]
pub struct HomeAssistant {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) parts: Parts,
    pub(super) status: watch::Sender<Status>,
    settings: watch::Sender<Option<Settings>>,
    tasks: Tasks,
    running: Mutex<Option<Tasks>>,
}

/// What is told of.
pub struct Parts {
    /// The database.
    pub db: Db,
    /// Time.
    pub clock: Clock,
    /// Titles and storage.
    pub library: Library,
    /// Players.
    pub devices: Devices,
    /// Transfers.
    pub exchange: Exchange,
    /// The server.
    pub link: Link,
    /// What plays.
    pub playback: Playback,
}

fn check(settings: &Settings) -> Result<(), HomeAssistantError> {
    let wrong = |what| Err(HomeAssistantError::Field(what));
    let plain = |text: &str| text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
    let host_ok = |c: char| c.is_ascii_alphanumeric() || "-._:%".contains(c);
    if settings.host.is_empty() || !plain(&settings.host) || !settings.host.chars().all(host_ok) {
        return wrong("the broker's address is a name or an IP address");
    }
    if settings.port == 0 {
        return wrong("the port is a number from 1 to 65535");
    }
    if !plain(&settings.user) || !plain(&settings.password) {
        return wrong("the user name or the password is too long");
    }
    let prefix = &settings.prefix;
    let prefix_ok = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
    let edges = prefix.starts_with('/') || prefix.ends_with('/');
    if prefix.is_empty()
        || prefix.len() > MAX_PREFIX_BYTES
        || edges
        || !prefix.chars().all(prefix_ok)
    {
        return wrong("the prefix is made of letters, digits, - and _");
    }
    if !settings.authority.is_empty() {
        talk::tls(&settings.authority).ok_or(HomeAssistantError::Certificate)?;
    }
    Ok(())
}

impl HomeAssistant {
    /// Connects if a broker was named.
    pub async fn start(parts: Parts, tasks: &Tasks) -> Result<Self, HomeAssistantError> {
        let row = parts.db.read(|db| {
            let mut query = db.prepare_cached("SELECT * FROM home_assistant")?;
            let row = query.query_row([], |row| {
                let settings = Settings {
                    host: row.get("host")?,
                    port: u16::try_from(row.get::<_, i64>("port")?).unwrap_or(USUAL_PORT),
                    user: row.get("user")?,
                    password: Zeroizing::default(),
                    authority: row.get("authority")?,
                    prefix: row.get("prefix")?,
                };
                Ok((settings, row.get::<_, Vec<u8>>("password")?))
            });
            Ok::<_, DbError>(row.optional()?)
        });
        let settings = match row.await? {
            None => None,
            Some((mut settings, sealed)) => {
                let secret = parts.library.open_secret(PASSWORD_PLACE, &sealed)?;
                settings.password = Zeroizing::new(String::from_utf8_lossy(&secret).into_owned());
                Some(settings)
            }
        };
        let inner = Inner {
            parts,
            status: watch::Sender::new(Status::Off),
            settings: watch::Sender::new(settings),
            tasks: tasks.clone(),
            running: Mutex::default(),
        };
        let made = Self {
            inner: Arc::new(inner),
        };
        made.run();
        Ok(made)
    }

    /// How the connection is.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// The settings; the password is in them.
    pub fn settings(&self) -> Option<Settings> {
        self.inner.settings.borrow().clone()
    }

    /// Names the broker and connects. `keep_password`: the one that is stored is used.
    pub async fn set(
        &self,
        mut new: Settings,
        keep_password: bool,
    ) -> Result<(), HomeAssistantError> {
        if let (true, Some(old)) = (keep_password, self.settings()) {
            new.password = old.password;
        }
        check(&new)?;
        let sealed = self
            .inner
            .parts
            .library
            .seal_secret(PASSWORD_PLACE, new.password.as_bytes());
        let row = new.clone();
        let write = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute(
                "INSERT INTO home_assistant (one, host, port, user, password, authority, prefix)
                 VALUES (1, $1, $2, $3, $4, $5, $6)
                 ON CONFLICT (one) DO UPDATE SET host = excluded.host, port = excluded.port, user = excluded.user,
                     password = excluded.password, authority = excluded.authority, prefix = excluded.prefix",
                rusqlite::params![row.host, row.port, row.user, sealed, row.authority, row.prefix],
            )?;
            Ok::<_, DbError>(())
        };
        self.inner.parts.db.write(write).await?;
        self.inner.settings.send_replace(Some(new));
        self.run();
        Ok(())
    }

    /// Forgets the broker.
    pub async fn forget(&self) -> Result<(), HomeAssistantError> {
        let write = |tx: &rusqlite::Transaction<'_>| {
            tx.execute("DELETE FROM home_assistant", [])?;
            Ok::<_, DbError>(())
        };
        self.inner.parts.db.write(write).await?;
        self.inner.settings.send_replace(None);
        self.run();
        Ok(())
    }

    /// Ends the connection and begins one with the present settings.
    fn run(&self) {
        let settings = self.settings();
        let mut running = self
            .inner
            .running
            .lock()
            .expect("no holder of this lock panics");
        if let Some(before) = running.take() {
            before.cancel();
        }
        let Some(settings) = settings else {
            self.inner.status.send_replace(Status::Off);
            return;
        };
        self.inner.status.send_replace(Status::Connecting);
        let tasks = self.inner.tasks.child();
        talk::start(&self.inner, &settings, &tasks);
        *running = Some(tasks);
    }
}
