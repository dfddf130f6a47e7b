//! The folder that a sender sees: the names of what it sent, so that its rename, list and size commands work as it
//! expects. Nothing can be read from it. Bytes go straight through the sealer into the library; replacing, renaming or
//! deleting a name here never removes a title, and only a title that came by this very file follows its new name.

use super::{Inner, SenderId, store};
use crate::library::{ImportError, ImportSource, SourceError, SourceStream};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use mantel_protocol::ids::TitleId;
use mantel_runtime::db::DbError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// Names in one sender's folder; past it the oldest file's name is forgotten.
pub const MAX_ENTRIES: usize = 10_000;
/// Folders in folders.
pub const MAX_DEPTH: usize = 8;
/// The longest name of a file or folder, bytes.
pub const MAX_NAME_BYTES: usize = 200;
/// A sender that is silent for so long in the middle of a file has gone.
pub const SILENCE: Duration = Duration::from_mins(1);

/// A file or folder that a sender sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the root, parts joined by `/`; empty: the root.
    pub path: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Bytes; 0 of a folder.
    pub size: u64,
    /// When it came.
    pub modified: Timestamp,
    /// What it became; `None` of folders and empty files.
    pub title: Option<TitleId>,
    /// Whether the title came by this file.
    pub fresh: bool,
}

impl Entry {
    pub(super) fn root() -> Self {
        Self::folder(String::new(), Timestamp::UNIX_EPOCH)
    }

    fn folder(path: String, modified: Timestamp) -> Self {
        Self {
            path,
            folder: true,
            size: 0,
            modified,
            title: None,
            fresh: false,
        }
    }

    /// The last part of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// Why a command on the folder was refused. Nothing of the file was kept.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// No such name.
    #[error("there is no such file or folder")]
    NotFound,
    /// The folder that it should be in is not there.
    #[error("there is no such folder; make it first")]
    NoFolder,
    /// A folder where a file is needed, or the other way round.
    #[error("a folder cannot be used as a file, nor a file as a folder")]
    WrongKind,
    /// Taken.
    #[error("the name is taken")]
    Exists,
    /// Not empty.
    #[error("the folder is not empty")]
    NotEmpty,
    /// Too long, too deep, or not text.
    #[error("the name is too long, too deep, or not plain text")]
    BadName,
    /// Too many folders.
    #[error("there are too many folders")]
    TooMany,
    /// This account sends and never reads.
    #[error("this account may send only")]
    SendOnly,
    /// Files are sent whole.
    #[error("a file is sent from its beginning; nothing is kept of one that broke off")]
    WholeOnly,
    /// The day's limit.
    #[error("the limit for one day is reached; a person may raise it on the gateway's page")]
    DayLimit,
    /// It was revoked.
    #[error("this account was closed")]
    Revoked,
    /// The gateway is ending.
    #[error("the gateway is stopping")]
    Stopping,
    /// The library refused.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The database refused.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<rusqlite::Error> for FolderError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Db(error.into())
    }
}

impl FolderError {
    /// Whether it is for want of room: on the disk, or of the day's.
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::DayLimit | Self::TooMany | Self::Import(ImportError::DiskFull { .. })
        )
    }
}

/// A path as it is stored: `.` and empty parts left out, `..` resolved and never above the root.
pub(super) fn clean_path(path: &str) -> Result<String, FolderError> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split(['/', '\\']) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ if part.len() > MAX_NAME_BYTES || part.chars().any(char::is_control) => {
                return Err(FolderError::BadName);
            }
            _ => parts.push(part),
        }
        if parts.len() > MAX_DEPTH {
            return Err(FolderError::BadName);
        }
    }
    Ok(parts.join("/"))
}

/// One sender's folder; cheap to clone.
#[derive(Clone)]
pub(super) struct Folder {
    pub(super) inner: Arc<Inner>,
    pub(super) sender: SenderId,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Folder").field(&self.sender.0).finish()
    }
}

impl Folder {
    /// One entry.
    pub(super) async fn entry(&self, path: &str) -> Result<Entry, FolderError> {
        let (path, sender) = (clean_path(path)?, self.sender.clone());
        let found = self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::entry(db, &sender, &path)?));
        found.await?.ok_or(FolderError::NotFound)
    }

    /// What is in a folder.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Entry>, FolderError> {
        let at = self.entry(path).await?;
        if !at.folder {
            return Ok(vec![at]);
        }
        let sender = self.sender.clone();
        let found = self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::list(db, &sender, &at.path)?));
        Ok(found.await?)
    }

    /// Makes a folder.
    pub(super) async fn make(&self, path: &str) -> Result<(), FolderError> {
        let made = Entry::folder(clean_path(path)?, self.inner.clock.now());
        let sender = self.sender.clone();
        self.write(move |tx| {
            if store::entry(tx, &sender, &made.path)?.is_some() {
                return Err(FolderError::Exists);
            }
            store::put(tx, &sender, &made)
        })
        .await
    }

    /// Takes a name away.
    pub(super) async fn delete(&self, path: &str, folder: bool) -> Result<(), FolderError> {
        let (path, sender) = (clean_path(path)?, self.sender.clone());
        self.write(move |tx| store::delete(tx, &sender, &path, folder))
            .await
    }

    /// Renames; a title that came by this file gets the new name too, unless a person gave it another one.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), FolderError> {
        let (from, to) = (clean_path(from)?, clean_path(to)?);
        let (sender, new) = (self.sender.clone(), to.clone());
        let was = self
            .write(move |tx| store::rename(tx, &sender, &from, &new))
            .await?;
        if let (Some(title), true) = (was.title, was.fresh) {
            let library = &self.inner.library;
            let renamed = library.follow_file(title, was.name(), &to).await;
            if let Err(error) = renamed {
                tracing::warn!(%error, "a title kept the name under which it was sent");
            }
        }
        Ok(())
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, FolderError> + Send + 'static,
    ) -> Result<T, FolderError> {
        self.inner.db.write(work).await
    }

    /// Takes a file. Returns when it is in the library; whatever goes wrong before, nothing of it is kept. `size` is
    /// what was announced, if anything was.
    pub(super) async fn put(
        &self,
        path: &str,
        size: Option<u64>,
        bytes: SourceStream,
    ) -> Result<Entry, FolderError> {
        let path = clean_path(path)?;
        let taken = self.take(path, size, bytes).await;
        let problem = taken.as_ref().err().map(ToString::to_string);
        if let Some(problem) = &problem {
            tracing::warn!(
                sender = self.sender.0,
                problem,
                "a pushed file was not taken"
            );
        }
        self.inner.note_problem(&self.sender, problem);
        taken
    }

    async fn take(
        &self,
        path: String,
        size: Option<u64>,
        bytes: SourceStream,
    ) -> Result<Entry, FolderError> {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !self.entry(parent).await.is_ok_and(|at| at.folder) {
            return Err(FolderError::NoFolder);
        }
        match self.entry(&path).await {
            Ok(there) if there.folder => return Err(FolderError::WrongKind),
            Ok(_) | Err(FolderError::NotFound) => {}
            Err(error) => return Err(error),
        }
        let (sender, now) = (self.sender.clone(), self.inner.clock.now());
        let room = self
            .inner
            .db
            .read(move |db| Ok::<_, DbError>(store::room_today(db, &sender, now)?))
            .await?
            .ok_or(FolderError::Revoked)?;
        if size.unwrap_or(0) > room || room == 0 {
            return Err(FolderError::DayLimit);
        }
        let _place = self
            .inner
            .transfers
            .acquire()
            .await
            .map_err(|_| FolderError::Stopping)?;
        let arrived = Arc::new(AtomicU64::new(0));
        let taken = self
            .import(&path, size, bytes, room, Arc::clone(&arrived))
            .await;
        let (sender, bytes) = (self.sender.clone(), arrived.load(Ordering::Relaxed));
        let kept = taken.as_ref().ok().cloned();
        self.write(move |tx| {
            store::count(tx, &sender, u64::from(kept.is_some()), bytes, now)?;
            kept.map_or(Ok(()), |entry| store::put(tx, &sender, &entry))
        })
        .await?;
        self.inner.refresh().await?;
        if bytes > room && taken.is_err() {
            return Err(FolderError::DayLimit);
        }
        taken
    }

    /// Streams the file into the library.
    async fn import(
        &self,
        path: &str,
        size: Option<u64>,
        bytes: SourceStream,
        room: u64,
        arrived: Arc<AtomicU64>,
    ) -> Result<Entry, FolderError> {
        let ended = self.inner.end_of(&self.sender);
        let mut bytes = watched(bytes, room, arrived.clone(), ended).boxed();
        // Some senders make an empty file first: that is a name and no title.
        let Some(first) = bytes.next().await else {
            return Ok(Entry {
                folder: false,
                ..Entry::folder(path.to_owned(), self.inner.clock.now())
            });
        };
        let rest = stream::once(async { first }).chain(bytes);
        let name = path.rsplit('/').next().unwrap_or_default();
        let source = ImportSource::pushed(
            &format!("push:{}", self.sender.0),
            &self.inner.name_of(&self.sender),
            name,
            size,
            rest,
        );
        let (tell, told) = oneshot::channel();
        let library = self.inner.library.clone();
        // A task of ours, so that it ends with the gateway; outside the protocol crate's spans, which hold whole sessions.
        tracing::Span::none().in_scope(|| {
            self.inner.tasks.spawn("push", async move {
                let _ = tell.send(library.import_told(source).await);
            })
        });
        let (title, fresh) = told.await.map_err(|_| FolderError::Stopping)??;
        Ok(Entry {
            path: path.to_owned(),
            folder: false,
            size: arrived.load(Ordering::Relaxed),
            modified: self.inner.clock.now(),
            title: Some(title),
            fresh,
        })
    }
}

/// Bytes counted; they end with an error when the sender falls silent, is revoked, or passes its limit.
fn watched(
    bytes: SourceStream,
    room: u64,
    arrived: Arc<AtomicU64>,
    ended: tokio_util::sync::CancellationToken,
) -> impl futures_util::Stream<Item = Result<Bytes, SourceError>> + Send {
    stream::unfold(Some(bytes), move |bytes| {
        let (arrived, ended) = (Arc::clone(&arrived), ended.clone());
        async move {
            let mut bytes = bytes?;
            let next = tokio::select! {
                () = ended.cancelled() => Some(Err("the account was closed".into())),
                next = tokio::time::timeout(SILENCE, bytes.next()) =>
                    next.unwrap_or_else(|_| Some(Err("the sender fell silent".into()))),
            };
            match next? {
                Ok(piece) => {
                    let len = piece.len() as u64;
                    let total = arrived.fetch_add(len, Ordering::Relaxed) + len;
                    if total > room {
                        return Some((Err(FolderError::DayLimit.into()), None));
                    }
                    Some((Ok(piece), Some(bytes)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root_and_within_limits() {
        for (path, clean) in [
            ("/", ""),
            ("DCIM//100/./a.jpg", "DCIM/100/a.jpg"),
            ("../../etc/passwd", "etc/passwd"),
            ("a/../../b", "b"),
            ("\\cam\\x.jpg", "cam/x.jpg"),
        ] {
            assert_eq!(clean_path(path).expect("clean"), clean, "{path}");
        }
        for bad in ["a\r\nb".to_owned(), "x".repeat(201), "a/".repeat(9)] {
            assert!(clean_path(&bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leaves_the_folder(any: String, near in r"[a./\\]{0,40}") {
            for path in [any, near] {
                let Ok(clean) = clean_path(&path) else { continue };
                let parts: Vec<&str> = clean.split('/').collect();
                assert!(parts.len() <= MAX_DEPTH);
                assert!(clean.is_empty() || parts.iter().all(|part| !matches!(*part, "" | "." | "..")));
                assert_eq!(clean_path(&clean).expect("clean"), clean);
            }
        }
    }
}
