//! What sends to this gateway by itself (F2): cameras, scanners and phones that push files by FTP or WebDAV.
//!
//! - `folder`: what a sender sees, and the way of its bytes through the sealer into the library.
//! - `ftp`: FTP with explicit TLS. `dav`: WebDAV below `/dav` on the household's address.
//! - `store`: the tables. This file: who may send, log-ins, and when the listener is open.
//!
//! Off until a person lets a first device send: before that no port is open and `/dav` is not there. An account can
//! send and see the names of what it sent; it can read nothing.

mod dav;
mod folder;
mod ftp;
mod store;

pub use folder::{Entry, FolderError, MAX_DEPTH, MAX_ENTRIES, MAX_NAME_BYTES};

use crate::attempts::Attempts;
use crate::library::Library;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use axum::Router;
use folder::Folder;
use jiff::Timestamp;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError, Schema};
use mantel_runtime::tasks::Tasks;
use rand::RngExt as _;
use serde::Deserialize;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// The tables of senders.
pub const SCHEMA: Schema = Schema {
    module: "uploads",
    steps: &[include_str!("schema.sql")],
};

/// Devices that may send, at most.
pub const MAX_SENDERS: usize = 64;
/// What a device may send in one day unless the household says otherwise, GB.
pub const DAY_LIMIT_GB: u32 = 50;
/// The longest name of a sender, characters.
pub const MAX_NAME_CHARS: usize = 60;
/// Files taken at the same time, of all senders; more wait.
const TRANSFERS: usize = 8;
/// A log-in is written down at most this often per sender.
const NOTE_EVERY: Duration = Duration::from_mins(1);
/// Letters and digits that are not mistaken for others on a camera's small screen.
const ALPHABET: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
/// Length of a generated password: 31^14, 69 bits.
const PASSWORD_CHARS: usize = 14;
/// The longest password looked at, bytes.
const MAX_PASSWORD_BYTES: usize = 256;

/// How devices send.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UploadsConfig {
    /// Where FTP is served once a device may send.
    pub ftp_listen: SocketAddr,
    /// First port of FTP's data connections.
    pub ftp_data_first: u16,
    /// Last port of FTP's data connections.
    pub ftp_data_last: u16,
}

impl Default for UploadsConfig {
    fn default() -> Self {
        Self {
            ftp_listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 2121)),
            ftp_data_first: 50_000,
            ftp_data_last: 50_063,
        }
    }
}

/// A sender's key, random.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SenderId(pub String);

/// Something that may send.
#[derive(Debug, Clone, PartialEq)]
pub struct Sender {
    /// Its key.
    pub id: SenderId,
    /// The household's name for it.
    pub name: String,
    /// Its user name.
    pub user: String,
    /// Since when it may send.
    pub created: Timestamp,
    /// When it last logged in.
    pub used: Option<Timestamp>,
    /// How: `FTP` or `WebDAV`.
    pub used_by: Option<String>,
    /// What it may send in one day, bytes.
    pub day_limit_bytes: u64,
    /// Files that it sent.
    pub sent_files: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
    /// Why its last file was not taken, in plain words.
    pub problem: Option<String>,
}

/// A new sender's log-in. The password is shown once and stored as a hash only.
pub struct NewSender {
    /// Its key.
    pub id: SenderId,
    /// Its user name.
    pub user: String,
    /// Its password.
    pub password: Zeroizing<String>,
}

/// Why something about senders was not done.
#[derive(Debug, thiserror::Error)]
pub enum UploadsError {
    /// No name.
    #[error("give the camera a name first; nothing was changed")]
    NoName,
    /// Too many.
    #[error(
        "{MAX_SENDERS} devices may send already; close one that is no longer used, then try again"
    )]
    TooMany,
    /// Unknown.
    #[error("this device may not send any more; nothing was changed")]
    NoSuchSender,
    /// The listener could not be opened.
    #[error(
        "the account was made, but FTP cannot listen on {address}: another program may use it; change uploads.ftp_listen \
         in the configuration. WebDAV works"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The password could not be worked on.
    #[error("the password could not be worked on; nothing was changed, try again")]
    Hashing,
    /// The database refused.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Who tried to log in, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Wrong user or password.
    Wrong,
    /// Too many wrong ones from this address.
    Wait(Duration),
    /// The gateway cannot judge now.
    Later,
}

/// What sends by itself; cheap to clone.
#[derive(Clone)]
pub struct Uploads {
    inner: Arc<Inner>,
}

struct Inner {
    config: UploadsConfig,
    keys: PathBuf,
    db: Db,
    library: Library,
    clock: Clock,
    tasks: Tasks,
    rows: watch::Sender<Arc<Vec<Sender>>>,
    attempts: Mutex<Attempts>,
    /// Passwords that were right in this run, by user: a keyed hash each, so that a camera that logs in for every
    /// picture costs one argon2 only.
    proved: Mutex<HashMap<String, (SenderId, blake3::Hash)>>,
    prove_key: [u8; 32],
    hashing: Semaphore,
    transfers: Semaphore,
    /// Cancelled when the sender is revoked.
    ends: Mutex<HashMap<SenderId, CancellationToken>>,
    noted: Mutex<HashMap<SenderId, Duration>>,
    listener: tokio::sync::Mutex<Option<ftp::Open>>,
    ftp_at: Mutex<Option<SocketAddr>>,
}

impl Uploads {
    /// Opens the listener if a device may send already. That the port is taken is said on the page, and stops nothing.
    pub async fn start(
        config: UploadsConfig,
        data_dir: &Path,
        db: Db,
        library: Library,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, UploadsError> {
        let inner = Inner {
            config,
            keys: data_dir.join("keys"),
            db,
            library,
            clock,
            tasks: tasks.child(),
            rows: watch::Sender::new(Arc::default()),
            attempts: Mutex::default(),
            proved: Mutex::default(),
            prove_key: rand::random(),
            hashing: Semaphore::new(1),
            transfers: Semaphore::new(TRANSFERS),
            ends: Mutex::default(),
            noted: Mutex::default(),
            listener: tokio::sync::Mutex::default(),
            ftp_at: Mutex::default(),
        };
        let uploads = Self {
            inner: Arc::new(inner),
        };
        uploads.inner.refresh().await?;
        match uploads.open_or_close().await {
            Err(UploadsError::Listen { address, source }) => {
                tracing::warn!(%address, error = %source, "FTP for cameras is not served");
            }
            other => other?,
        }
        Ok(uploads)
    }

    /// Those that may send, by name.
    pub fn senders(&self) -> watch::Receiver<Arc<Vec<Sender>>> {
        self.inner.rows.subscribe()
    }

    /// Where FTP is served; `None`: it is closed.
    pub fn ftp_address(&self) -> Option<SocketAddr> {
        *lock(&self.inner.ftp_at)
    }

    /// The pages' part of it: WebDAV below `/dav`. It carries its own log-in.
    pub fn router(&self) -> Router {
        dav::router(Arc::clone(&self.inner))
    }

    /// Lets a device send.
    pub async fn let_send(
        &self,
        name: &str,
        day_limit_bytes: u64,
    ) -> Result<NewSender, UploadsError> {
        let name: String = name.split_whitespace().collect::<Vec<_>>().join(" ");
        let name: String = name
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_NAME_CHARS)
            .collect();
        if name.is_empty() {
            return Err(UploadsError::NoName);
        }
        let password = Zeroizing::new(random_text(PASSWORD_CHARS));
        let slug: String = name
            .to_lowercase()
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .take(12)
            .collect();
        let slug = if slug.is_empty() { "camera" } else { &slug };
        let sender = Sender {
            id: SenderId(random_text(16)),
            user: format!("{slug}-{}", random_text(4)),
            name,
            created: self.inner.clock.now(),
            used: None,
            used_by: None,
            day_limit_bytes,
            sent_files: 0,
            sent_bytes: 0,
            problem: None,
        };
        let made = NewSender {
            id: sender.id.clone(),
            user: sender.user.clone(),
            password: password.clone(),
        };
        let phc = self.inner.hash(password).await?;
        let write = move |tx: &rusqlite::Transaction<'_>| {
            Ok::<_, DbError>(store::add(tx, &sender, &phc, MAX_SENDERS)?)
        };
        if !self.inner.db.write(write).await? {
            return Err(UploadsError::TooMany);
        }
        tracing::info!(user = made.user, "a device may send");
        self.inner.refresh().await?;
        self.open_or_close().await?;
        Ok(made)
    }

    /// Closes an account: its connections end now. What it sent stays in the library.
    pub async fn revoke(&self, id: &SenderId) -> Result<(), UploadsError> {
        let gone = id.clone();
        let write =
            move |tx: &rusqlite::Transaction<'_>| Ok::<_, DbError>(store::remove(tx, &gone)?);
        let found = self.inner.db.write(write).await?;
        lock(&self.inner.proved).retain(|_, (sender, _)| sender != id);
        if let Some(end) = lock(&self.inner.ends).remove(id) {
            end.cancel();
        }
        self.inner.refresh().await?;
        self.open_or_close().await?;
        if found {
            Ok(())
        } else {
            Err(UploadsError::NoSuchSender)
        }
    }

    /// The listener is open exactly while something may send.
    async fn open_or_close(&self) -> Result<(), UploadsError> {
        let wanted = !self.inner.rows.borrow().is_empty();
        let mut listener = self.inner.listener.lock().await;
        if wanted && listener.is_none() {
            let open = ftp::open(&self.inner)
                .await
                .map_err(|source| UploadsError::Listen {
                    address: self.inner.config.ftp_listen,
                    source,
                })?;
            *lock(&self.inner.ftp_at) = Some(open.at);
            *listener = Some(open);
        } else if !wanted && let Some(open) = listener.take() {
            open.close().await;
            *lock(&self.inner.ftp_at) = None;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

fn random_text(chars: usize) -> String {
    let mut random = rand::rng();
    (0..chars)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

impl Inner {
    /// Reads the rows again; problems stay.
    async fn refresh(&self) -> Result<(), DbError> {
        let mut rows = self
            .db
            .read(|db| Ok::<_, DbError>(store::senders(db)?))
            .await?;
        self.rows.send_if_modified(|old| {
            for row in &mut rows {
                let was = old.iter().find(|was| was.id == row.id);
                row.problem = was.and_then(|was| was.problem.clone());
            }
            let changed = **old != rows;
            *old = Arc::new(std::mem::take(&mut rows));
            changed
        });
        Ok(())
    }

    fn note_problem(&self, id: &SenderId, problem: Option<String>) {
        self.rows.send_if_modified(|rows| {
            let Some(at) = rows.iter().position(|row| row.id == *id) else {
                return false;
            };
            if rows[at].problem == problem {
                return false;
            }
            Arc::make_mut(rows)[at].problem = problem;
            true
        });
    }

    fn name_of(&self, id: &SenderId) -> String {
        let rows = self.rows.borrow();
        let row = rows.iter().find(|row| row.id == *id);
        row.map_or_else(|| "Camera".to_owned(), |row| row.name.clone())
    }

    fn end_of(&self, id: &SenderId) -> CancellationToken {
        lock(&self.ends)
            .entry(id.clone())
            .or_insert_with(|| self.tasks.token().child_token())
            .clone()
    }

    async fn hash(&self, password: Zeroizing<String>) -> Result<String, UploadsError> {
        let _place = self
            .hashing
            .acquire()
            .await
            .map_err(|_| UploadsError::Hashing)?;
        let hashed = tokio::task::spawn_blocking(move || {
            let hashed = Argon2::default().hash_password(password.as_bytes());
            hashed.map(|hash| hash.to_string())
        });
        hashed
            .await
            .map_err(|_| UploadsError::Hashing)?
            .map_err(|_| UploadsError::Hashing)
    }

    /// Checks a log-in from `peer`. Wrong ones cost their address a growing wait; a right one that was proved before is
    /// never made to wait, and costs one hash.
    async fn log_in(
        self: &Arc<Self>,
        peer: IpAddr,
        user: &str,
        password: &str,
        by: &'static str,
    ) -> Result<Folder, Refused> {
        if password.len() > MAX_PASSWORD_BYTES || user.len() > MAX_PASSWORD_BYTES {
            return Err(Refused::Wrong);
        }
        let mark = blake3::keyed_hash(&self.prove_key, password.as_bytes());
        let proved = lock(&self.proved).get(user).cloned();
        // blake3::Hash compares in constant time.
        let sender = match proved.filter(|(_, known)| *known == mark) {
            Some((sender, _)) => sender,
            None => self.prove(peer, user, password, mark).await?,
        };
        let (now, id) = (self.clock.monotonic(), sender.clone());
        let due = lock(&self.noted)
            .insert(sender.clone(), now)
            .is_none_or(|last| now.saturating_sub(last) >= NOTE_EVERY);
        if due {
            let at = self.clock.now();
            let write = move |tx: &rusqlite::Transaction<'_>| {
                Ok::<_, DbError>(store::note_use(tx, &id, by, at)?)
            };
            self.db.write(write).await.map_err(|_| Refused::Later)?;
            self.refresh().await.map_err(|_| Refused::Later)?;
        }
        Ok(Folder {
            inner: Arc::clone(self),
            sender,
        })
    }

    async fn prove(
        &self,
        peer: IpAddr,
        user: &str,
        password: &str,
        mark: blake3::Hash,
    ) -> Result<SenderId, Refused> {
        let begun = lock(&self.attempts).begin(peer, self.clock.monotonic());
        begun.map_err(Refused::Wait)?;
        let name = user.to_owned();
        let found = self
            .db
            .read(move |db| Ok::<_, DbError>(store::by_user(db, &name)?))
            .await
            .map_err(|_| Refused::Later)?;
        let typed = Zeroizing::new(password.to_owned());
        let Some((sender, phc)) = found else {
            // As much work as for a user that is known.
            let _ = self.hash(typed).await;
            return Err(Refused::Wrong);
        };
        let _place = self.hashing.acquire().await.map_err(|_| Refused::Later)?;
        let right = tokio::task::spawn_blocking(move || {
            Argon2::default()
                .verify_password(typed.as_bytes(), phc.as_str())
                .is_ok()
        });
        if !right.await.map_err(|_| Refused::Later)? {
            tracing::warn!(%peer, user, "a device sent a wrong password");
            return Err(Refused::Wrong);
        }
        lock(&self.attempts).passed(peer);
        // It may have been revoked meanwhile.
        if !self.rows.borrow().iter().any(|row| row.id == sender) {
            return Err(Refused::Wrong);
        }
        lock(&self.proved).insert(user.to_owned(), (sender.clone(), mark));
        Ok(sender)
    }
}
