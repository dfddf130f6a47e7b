//! Uploads that are taken up again (F2, F3): a phone sends a file in pieces, over lost connections, reloads of its page
//! and restarts of this gateway. An acknowledged offset is durable; bytes are sealed before they reach the disk. At its
//! end an upload becomes a title as any import does, and content that is here already is recognised.

use super::blobs::{BlobError, blocking, bytes_in_words};
use super::import::ImportError;
use super::progress::{ImportPhase, Ticket};
use super::resumable_file::{self as part, PartError, PartFile};
use super::sealing::place;
use super::source::{ImportSource, SourceError, SourceStream};
use super::{Library, LibraryError};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mantel_protocol::blob::MAX_BLOB_BYTES;
use mantel_protocol::ids::TitleId;
use mantel_protocol::seal::{ContentKey, sealed_len};
use mantel_runtime::db::DbError;
use rusqlite::OptionalExtension;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use zeroize::{Zeroize, Zeroizing};

/// Uploads that are not finished, at most; a further one is refused.
pub const MAX_UPLOADS: i64 = 1_000;
/// An upload without a new byte for so long is deleted.
pub const KEEP_UPLOADS: Duration = Duration::from_hours(7 * 24);
/// Open files are closed after this time without a new byte.
pub(super) const KEEP_OPEN: Duration = Duration::from_mins(2);
/// The longest file name kept, characters.
const MAX_NAME_CHARS: usize = 150;
/// Plaintext bytes handed to the disk at a time.
const BATCH_BYTES: usize = 1024 * 1024;
/// A sender that is silent for so long has gone; what it sent stays.
const SILENCE: Duration = Duration::from_mins(1);

/// An upload's name: 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId([u8; 16]);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl FromStr for UploadId {
    type Err = UploadError;
    fn from_str(text: &str) -> Result<Self, UploadError> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(UploadError::NoSuchUpload)
    }
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadState {
    /// Plaintext bytes that are durable.
    pub offset: u64,
    /// Of so many.
    pub size: u64,
    /// What it became, once all is here.
    pub title: Option<TitleId>,
    /// Whether the library had the same content before: the title is the earlier one.
    pub was_there: bool,
}

/// Why an upload did not go on. What was acknowledged stays, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// Unknown, ended or too old.
    #[error("this upload is not known here any more; send the file from its beginning")]
    NoSuchUpload,
    /// The bytes do not begin where the last ones ended.
    #[error("the upload is at byte {offset}; go on from there")]
    Offset {
        /// Where it is.
        offset: u64,
    },
    /// More bytes than announced.
    #[error("more bytes came than the upload was to have; what was announced is kept")]
    TooMuch,
    /// Other bytes than those that came before at the same place.
    #[error("the file was changed while it was being sent; nothing of it was kept, send it again")]
    Changed,
    /// The connection broke; `offset` bytes are durable.
    #[error("the connection broke off; {} are kept, go on from there", bytes_in_words(*.offset))]
    BrokenOff {
        /// Where to go on.
        offset: u64,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// Too many uploads are open.
    #[error("too many uploads are unfinished; finish or stop some first")]
    TooMany,
    /// The library refused, in the words of an import.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl From<DbError> for UploadError {
    fn from(error: DbError) -> Self {
        Self::Import(error.into())
    }
}

impl From<BlobError> for UploadError {
    fn from(error: BlobError) -> Self {
        Self::Import(error.into())
    }
}

impl From<PartError> for UploadError {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Store(error) => error.into(),
            PartError::Seal(error) => Self::Import(error.into()),
            PartError::Changed => Self::Changed,
        }
    }
}

/// Uploads that are open in memory.
#[derive(Default)]
pub(super) struct Uploads {
    open: Mutex<HashMap<UploadId, Arc<Slot>>>,
}

/// One upload's place: its open file and who is sending.
#[derive(Default)]
struct Slot {
    open: tokio::sync::Mutex<Option<Open>>,
    /// Stops the sender before the present one: a phone that comes back must not wait for its own dead connection.
    sender: Mutex<CancellationToken>,
}

struct Open {
    file: Box<PartFile>,
    ticket: Ticket,
    used: Duration,
}

/// An upload's row.
struct Row {
    name: String,
    mime: Option<String>,
    size: u64,
    sealed_key: Vec<u8>,
    title: Option<TitleId>,
    was_there: bool,
}

fn place_of(id: UploadId) -> String {
    format!("upload {id}")
}

impl Library {
    fn upload_path(&self, id: UploadId) -> PathBuf {
        self.inner.blobs.inner.upload(&id.to_string())
    }

    /// Begins an upload of `size` bytes. Refused at once when it can never end well: no room, too large, empty.
    pub async fn begin_upload(
        &self,
        name: &str,
        mime: Option<&str>,
        size: u64,
    ) -> Result<UploadId, UploadError> {
        self.clear_uploads().await?;
        let name: String = name
            .rsplit(['/', '\\'])
            .next()
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_NAME_CHARS)
            .collect();
        let limit = self.inner.options.max_import_bytes.min(MAX_BLOB_BYTES / 2);
        if size == 0 {
            return Err(ImportError::Empty { name }.into());
        }
        if size > limit {
            return Err(ImportError::TooLarge { name, limit }.into());
        }
        let store = Arc::clone(&self.inner.blobs.inner);
        blocking(move || store.check_room(sealed_len(size)))
            .await
            .map_err(|error| super::sealing::named(&name, error))?;
        let id = UploadId(rand::random());
        let key = ContentKey::generate();
        let sealed_key = self.inner.store_key.wrap(&place_of(id), key.expose());
        let mime = mime.map(super::source::clean_mime);
        let now = self.inner.clock.now().as_millisecond();
        let begun = self.inner.db.write(move |tx| {
            let open: i64 =
                tx.query_row("SELECT count(*) FROM uploads WHERE title IS NULL", [], |row| row.get(0))?;
            if open >= MAX_UPLOADS {
                return Ok(false);
            }
            tx.execute(
                "INSERT INTO uploads (id, name, mime, size_bytes, sealed_key, touched_at_ms, title, was_there)
                 VALUES ($1, $2, $3, $4, $5, $6, NULL, 0)",
                rusqlite::params![id.to_string(), name, mime, size as i64, sealed_key, now],
            )?;
            Ok::<_, DbError>(true)
        });
        if begun.await? {
            Ok(id)
        } else {
            Err(UploadError::TooMany)
        }
    }

    /// How far an upload is. One that has all its bytes and was interrupted at its very end is finished now.
    pub async fn upload_state(&self, id: UploadId) -> Result<UploadState, UploadError> {
        let row = self.upload_row(id).await?;
        if row.title.is_some() {
            return Ok(done(&row));
        }
        let (path, size) = (self.upload_path(id), row.size);
        let offset = blocking(move || part::durable(&path, size)).await?;
        if offset == size {
            return self.append_upload(id, size, stream::empty().boxed()).await;
        }
        Ok(UploadState {
            offset,
            size,
            title: None,
            was_there: false,
        })
    }

    /// Adds bytes from `offset` on, which must be where the upload is. With the last byte it becomes a title. Whoever
    /// was sending before is stopped first.
    pub async fn append_upload(
        &self,
        id: UploadId,
        offset: u64,
        bytes: SourceStream,
    ) -> Result<UploadState, UploadError> {
        let row = self.upload_row(id).await?;
        if row.title.is_some() {
            return Ok(done(&row));
        }
        let slot = {
            let mut open = self
                .inner
                .uploads
                .open
                .lock()
                .expect("no holder of this lock panics");
            Arc::clone(open.entry(id).or_default())
        };
        let mine = CancellationToken::new();
        let before = std::mem::replace(
            &mut *slot.sender.lock().expect("no holder of this lock panics"),
            mine.clone(),
        );
        before.cancel();
        let mut open = slot.open.lock().await;
        let at = match open.take() {
            Some(open) => open,
            None => self.open_upload(id, &row).await?,
        };
        at.ticket.set(ImportPhase::Copying);
        if at.file.durable() != offset {
            let offset = at.file.durable();
            *open = Some(at);
            return Err(UploadError::Offset { offset });
        }
        // A file whose write failed is dropped here, and verified before it is used again.
        let (mut at, ended) = match receive(at, row.size, bytes, &mine).await {
            Err(UploadError::Changed) => {
                self.delete_uploads(vec![id.to_string()]).await?;
                return Err(UploadError::Changed);
            }
            received => received?,
        };
        self.touch_upload(id).await?;
        let offset = at.file.durable();
        if offset == row.size {
            at.ticket.set(ImportPhase::Examining);
            let state = self.finish_upload(id, &row, at).await;
            drop(open);
            self.inner
                .uploads
                .open
                .lock()
                .expect("no holder of this lock panics")
                .remove(&id);
            return state;
        }
        at.used = self.inner.clock.monotonic();
        *open = Some(at);
        ended.map(|()| UploadState {
            offset,
            size: row.size,
            title: None,
            was_there: false,
        })
    }

    /// Ends an upload; nothing of it stays. A title that it became already stays.
    pub async fn drop_upload(&self, id: UploadId) -> Result<(), UploadError> {
        self.upload_row(id).await?;
        let slot = self
            .inner
            .uploads
            .open
            .lock()
            .expect("no holder of this lock panics")
            .remove(&id);
        if let Some(slot) = slot {
            slot.sender
                .lock()
                .expect("no holder of this lock panics")
                .cancel();
            if let Some(open) = slot.open.lock().await.take() {
                open.ticket.withdraw();
            }
        }
        self.delete_uploads(vec![id.to_string()]).await
    }

    async fn open_upload(&self, id: UploadId, row: &Row) -> Result<Open, UploadError> {
        let secret = self.inner.store_key.unwrap(&place_of(id), &row.sealed_key);
        let secret = secret
            .map_err(LibraryError::from)
            .map_err(ImportError::from)?;
        let key = ContentKey::from_bytes(&secret).map_err(ImportError::from)?;
        let (store, mark) = (
            Arc::clone(&self.inner.blobs.inner),
            self.inner.store_key.mark_hasher(),
        );
        let (path, size) = (self.upload_path(id), row.size);
        let file =
            blocking_part(move || PartFile::open(store, &path, &key, mark, size).map(Box::new))
                .await?;
        let ticket = Ticket::take(&self.inner.progress, &source_of(row)).ok_or_else(|| {
            ImportError::UnderWay {
                name: row.name.clone(),
            }
        })?;
        let done = file.durable();
        ticket.update(|row| row.bytes_done = done);
        Ok(Open {
            file,
            ticket,
            used: self.inner.clock.monotonic(),
        })
    }

    async fn finish_upload(
        &self,
        id: UploadId,
        row: &Row,
        open: Open,
    ) -> Result<UploadState, UploadError> {
        let Open { file, ticket, .. } = open;
        let kept = self.keep_upload(id, row, file, &ticket).await;
        let title = match kept {
            Ok(title) => title,
            Err(error) => {
                ticket.withdraw();
                return Err(error);
            }
        };
        let was_there = title != ticket.title();
        ticket.set(ImportPhase::Done);
        self.inner
            .db
            .write(move |tx| {
                tx.execute(
                    "UPDATE uploads SET title = $1, was_there = $2 WHERE id = $3",
                    (title.to_string(), i64::from(was_there), id.to_string()),
                )?;
                Ok::<_, DbError>(())
            })
            .await?;
        let path = self.upload_path(id);
        blocking(move || {
            // What cannot be removed now is cleared at the next start.
            drop(std::fs::remove_file(path));
            Ok::<_, BlobError>(())
        })
        .await?;
        Ok(UploadState {
            offset: row.size,
            size: row.size,
            title: Some(title),
            was_there,
        })
    }

    async fn keep_upload(
        &self,
        id: UploadId,
        row: &Row,
        file: Box<PartFile>,
        ticket: &Ticket,
    ) -> Result<TitleId, UploadError> {
        let secret = self.inner.store_key.unwrap(&place_of(id), &row.sealed_key);
        let secret = secret
            .map_err(LibraryError::from)
            .map_err(ImportError::from)?;
        let key = ContentKey::from_bytes(&secret).map_err(ImportError::from)?;
        let store = Arc::clone(&self.inner.blobs.inner);
        let sealed = blocking_part(move || Ok(place(&store, file.finish()?)?)).await?;
        let _place = self.inner.import_places.acquire().await;
        Ok(self
            .keep(ticket.title(), source_of(row), sealed, key)
            .await?)
    }

    async fn upload_row(&self, id: UploadId) -> Result<Row, UploadError> {
        let found = self.inner.db.read(move |db| {
            let mut query = db.prepare_cached("SELECT * FROM uploads WHERE id = $1")?;
            let row = query.query_row([id.to_string()], |row| {
                let title: Option<String> = row.get("title")?;
                Ok(Row {
                    name: row.get("name")?,
                    mime: row.get("mime")?,
                    size: row.get::<_, i64>("size_bytes")? as u64,
                    sealed_key: row.get("sealed_key")?,
                    title: title.and_then(|title| title.parse().ok()),
                    was_there: row.get::<_, i64>("was_there")? != 0,
                })
            });
            Ok::<_, DbError>(row.optional()?)
        });
        found.await?.ok_or(UploadError::NoSuchUpload)
    }

    async fn touch_upload(&self, id: UploadId) -> Result<(), UploadError> {
        let now = self.inner.clock.now().as_millisecond();
        let touched = self.inner.db.write(move |tx| {
            tx.execute(
                "UPDATE uploads SET touched_at_ms = $1 WHERE id = $2",
                (now, id.to_string()),
            )?;
            Ok::<_, DbError>(())
        });
        Ok(touched.await?)
    }

    /// Closes files to which nothing was added for a while; they are opened again when bytes come.
    pub(super) fn close_idle_uploads(&self) {
        let now = self.inner.clock.monotonic();
        let mut open = self
            .inner
            .uploads
            .open
            .lock()
            .expect("no holder of this lock panics");
        open.retain(|_, slot| {
            let Ok(mut inside) = slot.open.try_lock() else {
                return true; // someone is sending
            };
            let idle = inside
                .as_ref()
                .is_none_or(|open| now.saturating_sub(open.used) >= KEEP_OPEN);
            if let Some(open) = inside.take_if(|_| idle) {
                open.ticket.withdraw();
            }
            !idle
        });
    }

    /// Deletes uploads that nobody goes on with, and files without a row.
    pub(super) async fn clear_uploads(&self) -> Result<(), UploadError> {
        self.close_idle_uploads();
        let keep_ms = i64::try_from(KEEP_UPLOADS.as_millis()).unwrap_or(i64::MAX);
        let oldest = self
            .inner
            .clock
            .now()
            .as_millisecond()
            .saturating_sub(keep_ms);
        let old = self.inner.db.read(move |db| {
            let mut query = db.prepare_cached("SELECT id FROM uploads WHERE touched_at_ms < $1")?;
            let ids = query.query_map([oldest], |row| row.get::<_, String>(0))?;
            Ok::<_, DbError>(ids.collect::<Result<Vec<_>, _>>()?)
        });
        let old = old.await?;
        if old.is_empty() {
            Ok(())
        } else {
            self.delete_uploads(old).await
        }
    }

    /// At start: deletes files that no row names.
    pub(super) async fn clear_stray_uploads(&self) -> Result<(), LibraryError> {
        let known = self.inner.db.read(|db| {
            let mut query = db.prepare_cached("SELECT id FROM uploads WHERE title IS NULL")?;
            let ids = query.query_map([], |row| row.get::<_, String>(0))?;
            Ok::<_, DbError>(ids.collect::<Result<Vec<_>, _>>()?)
        });
        let (known, root) = (known.await?, self.inner.blobs.inner.root.clone());
        let cleared = blocking(move || {
            clear_strays(&root, &known).map_err(BlobError::disk("read the blob folder"))
        });
        Ok(cleared.await?)
    }

    /// Rows first: a crash leaves files, which the next start clears away.
    async fn delete_uploads(&self, ids: Vec<String>) -> Result<(), UploadError> {
        let rows = ids.clone();
        let gone = self.inner.db.write(move |tx| {
            for id in &rows {
                tx.execute("DELETE FROM uploads WHERE id = $1", [id])?;
            }
            Ok::<_, DbError>(())
        });
        gone.await?;
        let paths: Vec<PathBuf> = ids
            .iter()
            .map(|id| self.inner.blobs.inner.upload(id))
            .collect();
        let removed = blocking(move || {
            for path in paths {
                drop(std::fs::remove_file(path));
            }
            Ok::<_, BlobError>(())
        });
        Ok(removed.await?)
    }
}

fn done(row: &Row) -> UploadState {
    UploadState {
        offset: row.size,
        size: row.size,
        title: row.title,
        was_there: row.was_there,
    }
}

fn source_of(row: &Row) -> ImportSource {
    let nothing = stream::empty::<Result<Bytes, std::io::Error>>();
    ImportSource::upload(&row.name, row.mime.as_deref(), Some(row.size), nothing)
}

async fn blocking_part<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PartError> + Send + 'static,
) -> Result<T, UploadError> {
    blocking(work).await.map_err(Into::into)
}

/// Takes bytes until they end, break off, or another sender takes over (the inner result); what is whole is durable
/// afterwards. The outer error: the disk refused.
async fn receive(
    mut at: Open,
    size: u64,
    mut bytes: SourceStream,
    mine: &CancellationToken,
) -> Result<(Open, Result<(), UploadError>), UploadError> {
    let mut batch = Zeroizing::new(Vec::with_capacity(BATCH_BYTES));
    let mut left = size - at.file.durable();
    let mut broken: Option<SourceError> = None;
    let mut too_much = false;
    loop {
        let next = tokio::select! {
            biased;
            () = mine.cancelled() => Some(Err("the sender came back on a new connection".into())),
            next = tokio::time::timeout(SILENCE, bytes.next()) =>
                next.unwrap_or_else(|_| Some(Err("the sender fell silent".into()))),
        };
        match next {
            None => break,
            Some(Err(error)) => {
                broken = Some(error);
                break;
            }
            Some(Ok(piece)) => {
                let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                too_much = take < piece.len();
                left -= take as u64;
                batch.extend_from_slice(&piece[..take]);
            }
        }
        if batch.len() >= BATCH_BYTES {
            let full = std::mem::replace(&mut *batch, Vec::with_capacity(BATCH_BYTES));
            at = write(at, full, false).await?;
        }
        if too_much {
            break;
        }
    }
    let rest = std::mem::take(&mut *batch);
    let at = write(at, rest, true).await?;
    let offset = at.file.durable();
    let ended = match broken {
        Some(source) => Err(UploadError::BrokenOff { offset, source }),
        None if too_much => Err(UploadError::TooMuch),
        None => Ok(()),
    };
    Ok((at, ended))
}

async fn write(mut at: Open, mut plain: Vec<u8>, settle: bool) -> Result<Open, UploadError> {
    let ticket = at.ticket.title();
    let written = blocking_part(move || {
        let result = at.file.push(&plain).and_then(|()| {
            if settle {
                at.file.settle().map(drop)
            } else {
                Ok(())
            }
        });
        plain.zeroize();
        match result {
            Ok(()) => Ok(at),
            Err(error) => {
                at.ticket.withdraw();
                Err(error)
            }
        }
    });
    let at = written.await?;
    tracing::trace!(%ticket, durable = at.file.durable(), "an upload went on");
    let done = at.file.durable();
    at.ticket.update(|row| row.bytes_done = done);
    Ok(at)
}

/// The files of uploads below the store's root that no row names; for the start.
pub(super) fn clear_strays(root: &Path, known: &[String]) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name
            .strip_prefix("upload-")
            .and_then(|rest| rest.strip_suffix(".part"));
        if id.is_some_and(|id| !known.iter().any(|known| known == id)) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
