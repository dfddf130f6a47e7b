//! The import pipeline (F2, F3, F26): source → 64 KiB records sealed in memory → file and hash → a look inside →
//! names and rows. No plaintext is ever on disk. Whatever fails, nothing is left behind: the file is removed when the
//! import is dropped, the rows are written last and together; what kill -9 leaves is cleared at the next start.

use super::blobs::{BlobError, blocking, bytes_in_words};
use super::plain::PlainReader;
use super::probe::{Facts, look_into};
use super::progress::{ImportPhase, Ticket};
use super::sealing::{Sealed, Sealing, named, place};
use super::source::{ImportBytes, ImportSource, SourceError};
use super::store::{self, NewTitle};
use super::{Library, LibraryError, Origin, Title, TitleState};
use futures_util::StreamExt;
use mantel_peripherals::media::{FetchError, FetchRequest};
use mantel_protocol::blob::MAX_BLOB_BYTES;
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::Asset;
use mantel_protocol::seal::{Cipher, ContentKey, SealError, sealed_len};
use mantel_runtime::db::DbError;
use std::sync::Arc;
use std::time::Duration;

/// How often an interrupted fetch is taken up again without a new byte in between.
const MAX_RESUMES: u32 = 3;
/// How often an interrupted fetch is taken up again at all.
const MAX_RESUMES_EVER: u32 = 100;
/// How long a device is left alone before it is asked again, times the number of vain tries.
const RESUME_PAUSE: Duration = Duration::from_millis(700);

/// Why a file was not imported. Nothing of it was kept, whatever the reason.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// No room.
    #[error(
        "\"{name}\" was not imported: the gateway's disk has {} left for media and {} are needed. Nothing of it was \
         kept. Remove titles or attach a larger disk, then import it again",
        bytes_in_words(*.free), bytes_in_words(*.needed)
    )]
    DiskFull {
        /// The title.
        name: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that may still be used.
        free: u64,
    },
    /// The device did not send it; its own words say why.
    #[error("\"{name}\" was not imported. {source}")]
    Device {
        /// The title.
        name: String,
        /// Why.
        source: FetchError,
    },
    /// The device broke off again and again, or is gone.
    #[error(
        "\"{name}\" was not imported: {device} stopped sending. Nothing of it was kept; check that {device} is \
         switched on and connected, then import it again"
    )]
    BrokenOff {
        /// The title.
        name: String,
        /// The device's name.
        device: String,
        /// What happened last.
        #[source]
        source: mantel_peripherals::media::Cause,
    },
    /// The upload broke.
    #[error(
        "\"{name}\" was not imported: the upload broke off. Nothing of it was kept; send it again"
    )]
    Upload {
        /// The title.
        name: String,
        /// Why.
        #[source]
        source: SourceError,
    },
    /// Nothing in it.
    #[error("\"{name}\" was not imported: the file is empty")]
    Empty {
        /// The title.
        name: String,
    },
    /// Larger than the limit of this gateway.
    #[error("\"{name}\" was not imported: it is larger than {}, the most that this gateway takes", bytes_in_words(*.limit))]
    TooLarge {
        /// The title.
        name: String,
        /// The limit.
        limit: u64,
    },
    /// The same file is on its way already.
    #[error("\"{name}\" is being imported already")]
    UnderWay {
        /// The title.
        name: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The library refused.
    #[error(transparent)]
    Library(#[from] LibraryError),
}

impl From<DbError> for ImportError {
    fn from(error: DbError) -> Self {
        Self::Library(error.into())
    }
}

impl From<SealError> for ImportError {
    fn from(error: SealError) -> Self {
        Self::Library(error.into())
    }
}

impl Library {
    /// Imports one file and returns its title; the title that is there already, if it was imported before. Dropping
    /// the future ends the import and leaves nothing behind. Progress is in [`Library::imports`].
    pub async fn import(&self, source: ImportSource) -> Result<TitleId, ImportError> {
        Ok(self.import_told(source).await?.0)
    }

    /// [`Library::import`], which also says whether the title is a new one.
    pub async fn import_told(&self, source: ImportSource) -> Result<(TitleId, bool), ImportError> {
        if let Some(imported) = source.imported() {
            let wanted = imported.clone();
            let known = self
                .inner
                .db
                .read(move |db| Ok::<_, DbError>(store::by_import(db, &wanted)?))
                .await?;
            if let Some(title) = known {
                return Ok((title, false));
            }
        }
        let Some(ticket) = Ticket::take(&self.inner.progress, &source) else {
            return Err(ImportError::UnderWay { name: source.name });
        };
        let place = self.inner.import_places.acquire().await;
        let result = Box::pin(self.import_with(&ticket, source)).await;
        drop(place);
        match &result {
            Ok(_) => ticket.set(ImportPhase::Done),
            Err(error) => {
                tracing::warn!(error = %mantel_runtime::logging::chain(error), "import failed");
                ticket.set(ImportPhase::Failed(error.to_string()));
            }
        }
        result.map(|title| (title, title == ticket.title()))
    }

    async fn import_with(
        &self,
        ticket: &Ticket,
        mut source: ImportSource,
    ) -> Result<TitleId, ImportError> {
        ticket.set(ImportPhase::Copying);
        let limit = self.inner.options.max_import_bytes.min(MAX_BLOB_BYTES / 2);
        let name = source.name.clone();
        if let Some(size) = source.size {
            if size > limit {
                return Err(ImportError::TooLarge { name, limit });
            }
            let store = Arc::clone(&self.inner.blobs.inner);
            blocking(move || store.check_room(sealed_len(size)))
                .await
                .map_err(|error| named(&name, error))?;
        }
        let key = ContentKey::generate();
        let sealed = Box::pin(self.seal_source(ticket, &mut source, &key, limit)).await?;
        if sealed.plain_bytes == 0 {
            return Err(ImportError::Empty { name });
        }
        let store = Arc::clone(&self.inner.blobs.inner);
        let sealed = blocking(move || place(&store, sealed))
            .await
            .map_err(|error| named(&name, error))?;
        ticket.set(ImportPhase::Examining);
        self.keep(ticket.title(), source, sealed, key).await
    }

    /// Streams the source into a sealed file.
    async fn seal_source(
        &self,
        ticket: &Ticket,
        source: &mut ImportSource,
        key: &ContentKey,
        limit: u64,
    ) -> Result<Sealed, ImportError> {
        let mut sealing = Sealing::begin(self, ticket, key, source.name.clone(), limit).await?;
        match &mut source.bytes {
            ImportBytes::Stream(stream) => {
                while let Some(piece) = stream.next().await {
                    let piece = piece.map_err(|source| ImportError::Upload {
                        name: sealing.name.clone(),
                        source,
                    })?;
                    sealing.push(&piece).await?;
                }
            }
            ImportBytes::Device { source, resource } => {
                fetch_all(&mut sealing, source, resource).await?;
            }
        }
        sealing.finish().await
    }

    /// Looks inside and writes the rows, all or none.
    pub(super) async fn keep(
        &self,
        id: TitleId,
        source: ImportSource,
        sealed: Sealed,
        key: ContentKey,
    ) -> Result<TitleId, ImportError> {
        let Sealed {
            list,
            plain_bytes,
            content_mark,
            mut unfinished,
        } = sealed;
        let (blob, size) = (list.id(), list.size());
        let paths = self.inner.blobs.inner.paths(blob);
        let reader = blocking(move || super::blobs::BlobReader::open(&paths, blob, size)).await?;
        let plain = PlainReader::open(reader, &key)
            .await
            .map_err(LibraryError::from)?;
        let imported = source.imported();
        let (facts, thumbnail) = look_into(&self.inner.sandbox, &plain, source.told).await;
        let wrap = &self.inner.store_key;
        let asset = asset(blob, size, plain_bytes, &facts);
        let new = NewTitle {
            origin_key: source.device_key,
            content_mark: Some(content_mark),
            keys: vec![(blob, wrap.wrap(&super::key_place(id, blob), key.expose()))],
            thumbnail: thumbnail.map(|jpeg| wrap.wrap(&super::thumbnail_place(id), &jpeg)),
            imported,
            tags: facts.tags,
            title: Title {
                id,
                name: source.name,
                kind: facts.kind,
                origin: Origin::Own {
                    device: source.device,
                },
                state: TitleState::Ready,
                recorded: facts.recorded,
                added: self.inner.clock.now(),
                assets: vec![asset],
                publisher: self.inner.options.publisher,
                manifest: None,
                note: facts.note,
            },
        };
        let now = self.inner.clock.now();
        let same = self
            .inner
            .db
            .write(move |tx| {
                let same = store::insert(tx, &new)?;
                if same.is_none() {
                    store::put_blob(tx, blob, size, now)?;
                }
                Ok::<_, DbError>(same)
            })
            .await?;
        if let Some(other) = same {
            // The same content under another name: what was sealed now is not needed.
            return Ok(other);
        }
        unfinished.paths.clear();
        self.changed();
        Ok(id)
    }
}

/// Fetches a device's file; goes on where it broke off.
async fn fetch_all(
    sealing: &mut Sealing<'_>,
    source: &mantel_peripherals::MediaSource,
    resource: &mantel_peripherals::media::Resource,
) -> Result<(), ImportError> {
    let (mut validator, mut vain, mut resumes) = (None, 0, 0);
    loop {
        let before = sealing.bytes();
        let request = FetchRequest {
            from: before,
            validator: validator.clone(),
            max_bytes: sealing.limit,
        };
        let fetched = source.fetch(resource, request).await;
        let error = match fetch_some(sealing, fetched, &mut validator).await {
            Err(ImportError::Device {
                source: FetchError::Interrupted { device, source },
                ..
            }) => (device, source),
            other => return other,
        };
        vain = if sealing.bytes() > before {
            0
        } else {
            vain + 1
        };
        resumes += 1;
        if vain >= MAX_RESUMES || resumes >= MAX_RESUMES_EVER {
            let (device, source) = error;
            return Err(ImportError::BrokenOff {
                name: sealing.name.clone(),
                device,
                source,
            });
        }
        tracing::info!(bytes = sealing.bytes(), "fetch interrupted: taken up again");
        tokio::time::sleep(RESUME_PAUSE * vain).await;
    }
}

/// Streams one answer of a device.
async fn fetch_some(
    sealing: &mut Sealing<'_>,
    fetched: Result<mantel_peripherals::media::Fetched, FetchError>,
    validator: &mut Option<String>,
) -> Result<(), ImportError> {
    let name = sealing.name.clone();
    let failed = |source| ImportError::Device {
        name: name.clone(),
        source,
    };
    let mut fetched = fetched.map_err(failed)?;
    if fetched.offset != sealing.bytes() {
        // The device ignores ranges, or the file changed.
        sealing.restart().await?;
    }
    if fetched.offset != sealing.bytes() {
        return Err(failed(FetchError::Refused {
            device: sealing.ticket.device(),
            status: 416,
        }));
    }
    if let (Some(total), 0) = (fetched.total_bytes, fetched.offset) {
        sealing.expect(total).await?;
    }
    *validator = fetched.validator.take();
    while let Some(piece) = fetched.body.next().await {
        sealing.push(&piece.map_err(failed)?).await?;
    }
    Ok(())
}

fn asset(
    blob: mantel_protocol::blob::BlobId,
    sealed_bytes: u64,
    plain_bytes: u64,
    facts: &Facts,
) -> Asset {
    Asset {
        blob,
        sealed_bytes,
        plain_bytes,
        mime: facts.mime.clone(),
        cipher: Cipher::default(),
        duration_ms: facts.duration_ms,
        width: facts.width,
        height: facts.height,
        codecs: facts.codecs.clone(),
    }
}
