//! Memory on a cable as a source of media (F2): camera cards, music players and memory sticks that a system service
//! has mounted read-only (`systemd/99-mantel-media.rules`). This adapter mounts nothing and writes nothing.
//!
//! [`wire`] is pure: names, order, types. `session` reads the disk. Objects are named `volume/path`; the volume's id
//! is that of its file system, so that two cards in one reader are never mixed up.

mod session;
pub mod wire;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::timeout;

use crate::device::{DeviceClass, MAX_LABEL_CHARS, clean_label};
use crate::media::{
    AssetBody, Container, Entry, FetchError, FetchRequest, Fetched, Item, ListError, Location,
    MAX_PAGE, MediaKind, ObjectId, Page, PageRequest, Resource,
};
use session::{Found, Name, Names};
use wire::Place;

pub use session::{MAX_FOLDER_NAMES, MAX_FOLDER_RECORDS};

/// Most volumes of one device.
pub const MAX_VOLUMES: usize = 16;
/// A page must be read within this time; a worn-out stick may take long.
pub const LIST_TIME: Duration = Duration::from_mins(1);
/// A piece of a file must be read within this time.
pub const READ_TIME: Duration = Duration::from_mins(1);
/// Bytes read at a time.
const PIECE: usize = 256 * 1024;

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The file system's own id, or the name of its mount point where it has none.
    pub id: String,
    /// Its label, for people.
    pub name: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The number of its device, as `8:17`: a mount point whose file system has gone is not read.
    pub device: String,
}

impl Volume {
    /// What a device that carries this volume is, by the folders at its top: blocks.
    pub(crate) fn class(&self) -> Option<DeviceClass> {
        let folders = session::holds(self).ok()?;
        let has = |name: &str| folders.iter().any(|folder| folder == name);
        if has("dcim") || has("private") || has("mp_root") {
            Some(DeviceClass::MemoryCard)
        } else {
            None
        }
    }
}

/// How a storage is reached.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StorageAccess {
    /// Its mounted volumes; none: it is plugged in and not in use.
    pub volumes: Vec<Volume>,
    /// Names by which the mount service can be asked to let go of its partitions.
    pub partitions: Vec<String>,
}

/// The names of the folder listed last: a walk asks for one page after another.
type Remembered = Arc<Mutex<Option<(Place, Arc<Names>)>>>;

/// One storage. Cheap to clone; holds nothing open.
#[derive(Clone, Debug)]
pub struct Storage {
    name: String,
    access: Arc<StorageAccess>,
    last: Remembered,
}

impl Storage {
    /// A storage; `name` is for messages.
    pub fn new(name: String, access: StorageAccess) -> Self {
        Self {
            name,
            access: Arc::new(access),
            last: Remembered::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One page of a folder: subfolders first, then media, in natural order. What is no media is left out.
    pub async fn list(&self, container: &ObjectId, page: PageRequest) -> Result<Page, ListError> {
        let Some(place) = self.place(container) else {
            return if *container == ObjectId::root() {
                Ok(self.volumes())
            } else {
                Err(self.not_found())
            };
        };
        let this = self.clone();
        self.blocking(move || this.list_blocking(&place, page))
            .await
    }

    /// One file by its id.
    pub async fn item(&self, id: &ObjectId) -> Result<Item, ListError> {
        let place = Place::parse(id.as_str()).ok_or_else(|| self.not_found())?;
        let this = self.clone();
        self.blocking(move || {
            let volume = this.volume(&place)?;
            let found = session::look(volume, std::slice::from_ref(&place))?;
            let found = found.into_iter().flatten().next();
            found
                .and_then(|found| item(&place, &found))
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
        .await
    }

    /// Opens a file.
    pub async fn fetch(
        &self,
        resource: &Resource,
        request: FetchRequest,
    ) -> Result<Fetched, FetchError> {
        let gone = || FetchError::Gone {
            device: self.name.clone(),
        };
        let Location::Object(id) = &resource.location else {
            return Err(gone());
        };
        let place = Place::parse(id.as_str()).ok_or_else(gone)?;
        let this = self.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let volume = this.volume(&place)?;
            session::open(volume, &place)
        });
        let (file, size, validator) = match timeout(READ_TIME, opening).await {
            Ok(Ok(Ok(opened))) => opened,
            Ok(Ok(Err(error))) if is_missing(&error) => return Err(gone()),
            Ok(Ok(Err(error))) => return Err(self.interrupted(error)),
            Ok(Err(panicked)) => return Err(self.interrupted(io::Error::other(panicked))),
            Err(late) => return Err(self.interrupted(late.into())),
        };
        if size > request.max_bytes {
            return Err(FetchError::TooLarge {
                device: self.name.clone(),
                limit: request.max_bytes,
            });
        }
        let same = request
            .validator
            .as_ref()
            .is_none_or(|earlier| *earlier == validator);
        let offset = if same && request.from <= size {
            request.from
        } else {
            0
        };
        let mut file = tokio::fs::File::from_std(file);
        file.seek(io::SeekFrom::Start(offset))
            .await
            .map_err(|error| self.interrupted(error))?;
        let reading = Reading {
            device: self.name.clone(),
            file,
            at: offset,
            size,
        };
        Ok(Fetched {
            mime: Some(resource.mime.clone()),
            offset,
            total_bytes: Some(size),
            validator: Some(validator),
            body: reading.into_body(),
        })
    }

    /// The folder that an id names; the root of a storage with one volume is that volume's top.
    fn place(&self, id: &ObjectId) -> Option<Place> {
        if *id != ObjectId::root() {
            return Place::parse(id.as_str());
        }
        match self.access.volumes.as_slice() {
            [only] => Place::parse(&format!("{}/", only.id)),
            _ => None,
        }
    }

    fn volume(&self, place: &Place) -> io::Result<&Volume> {
        let mut volumes = self.access.volumes.iter();
        volumes
            .find(|volume| volume.id == place.volume)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn volumes(&self) -> Page {
        let volumes = self.access.volumes.iter().take(MAX_VOLUMES);
        let entries: Vec<Entry> = volumes
            .filter_map(|volume| {
                Some(Entry::Container(Container {
                    id: ObjectId::new(&format!("{}/", volume.id))?,
                    title: volume.name.clone(),
                    child_count: None,
                }))
            })
            .collect();
        Page {
            total: entries.len() as u32,
            entries,
            next: None,
            refused: 0,
        }
    }

    fn list_blocking(&self, place: &Place, page: PageRequest) -> io::Result<Page> {
        let volume = self.volume(place)?;
        let names = self.names(volume, place, page.start)?;
        let count = page.count.clamp(1, MAX_PAGE) as usize;
        let start = (page.start as usize).min(names.names.len());
        let end = (start + count).min(names.names.len());
        let mut refused = if start == 0 { names.refused } else { 0 };
        let shown = &names.names[start..end];
        let files: Vec<Place> = shown
            .iter()
            .filter(|name| !name.folder)
            .map(|name| place.join(&name.path))
            .collect();
        let mut looked_at = session::look(volume, &files)?.into_iter();
        let mut entries = Vec::with_capacity(shown.len());
        for name in shown {
            let here = place.join(&name.path);
            let entry = if name.folder {
                folder(&here, name)
            } else {
                let found = looked_at.next().flatten();
                found.and_then(|found| item(&here, &found)).map(Entry::Item)
            };
            match entry {
                Some(entry) => entries.push(entry),
                None => refused = refused.saturating_add(1),
            }
        }
        Ok(Page {
            entries,
            total: names.names.len() as u32,
            next: (end < names.names.len()).then_some(end as u32),
            refused,
        })
    }

    /// The folder's names: read anew for its first page, remembered for the following ones.
    fn names(&self, volume: &Volume, place: &Place, start: u32) -> io::Result<Arc<Names>> {
        let mut last = self.last.lock().expect("no holder of this lock panics");
        if let (Some((of, names)), true) = (&*last, start > 0)
            && of == place
        {
            return Ok(Arc::clone(names));
        }
        let names = Arc::new(session::names(volume, place)?);
        *last = Some((place.clone(), Arc::clone(&names)));
        Ok(names)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, ListError> {
        let unreachable = |source: io::Error| ListError::Unreachable {
            device: self.name.clone(),
            source: source.into(),
        };
        match timeout(LIST_TIME, tokio::task::spawn_blocking(work)).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) if is_missing(&error) => Err(self.not_found()),
            Ok(Ok(Err(error))) => Err(unreachable(error)),
            Ok(Err(panicked)) => Err(unreachable(io::Error::other(panicked))),
            Err(late) => Err(unreachable(late.into())),
        }
    }

    fn not_found(&self) -> ListError {
        ListError::NotFound {
            device: self.name.clone(),
        }
    }

    fn interrupted(&self, source: io::Error) -> FetchError {
        FetchError::Interrupted {
            device: self.name.clone(),
            source: source.into(),
        }
    }
}

/// Whether the volume answered and the file is not there: also what openat2(2) says of links and of ways out.
fn is_missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let refused = [Errno::LOOP, Errno::XDEV, Errno::NOTDIR, Errno::NAMETOOLONG];
    error.kind() == io::ErrorKind::NotFound
        || Errno::from_io_error(error).is_some_and(|errno| refused.contains(&errno))
}

fn folder(place: &Place, name: &Name) -> Option<Entry> {
    Some(Entry::Container(Container {
        id: place.id().filter(|_| place.path.len() < wire::MAX_DEPTH)?,
        title: clean_label(&name.path, MAX_LABEL_CHARS)?,
        child_count: None,
    }))
}

/// The item of a file; `None`: it holds no media.
fn item(place: &Place, found: &Found) -> Option<Item> {
    let mime = found.mime?;
    let id = place.id()?;
    let kind = match mime {
        "application/mxf" => MediaKind::Video,
        mime => MediaKind::of_mime(mime),
    };
    let name = place.path.last()?;
    Some(Item {
        original_id: None,
        title: clean_label(wire::stem(name), MAX_LABEL_CHARS)?,
        class: String::new(),
        kind,
        date: jiff::Timestamp::from_second(found.modified)
            .ok()
            .filter(|_| found.modified > 0)
            .map(|at| at.to_zoned(jiff::tz::TimeZone::UTC).datetime()),
        artist: None,
        album: None,
        resources: vec![Resource {
            location: Location::Object(id.clone()),
            mime: mime.to_owned(),
            protocol_info: String::new(),
            size_bytes: Some(found.size),
            duration: None,
            resolution: None,
            converted: false,
        }],
        id,
    })
}

/// A file being read: exactly as many bytes as it had when it was opened.
struct Reading {
    device: String,
    file: tokio::fs::File,
    at: u64,
    size: u64,
}

impl Reading {
    fn into_body(self) -> AssetBody {
        AssetBody::new(stream::try_unfold(self, |mut reading| async move {
            let piece = reading.next().await?;
            Ok(piece.map(|piece| (piece, reading)))
        }))
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, FetchError> {
        let left = self.size - self.at;
        let mut piece = BytesMut::with_capacity(PIECE.min(left.saturating_add(1) as usize));
        let read = timeout(READ_TIME, self.file.read_buf(&mut piece)).await;
        let failed = |source: io::Error| FetchError::Interrupted {
            device: self.device.clone(),
            source: source.into(),
        };
        let read = read.map_err(|late| failed(late.into()))?.map_err(failed)? as u64;
        if read == 0 && left == 0 {
            return Ok(None);
        }
        if read == 0 || read > left {
            return Err(FetchError::WrongSize {
                device: self.device.clone(),
                declared: self.size,
                received: self.at + read,
            });
        }
        self.at += read;
        Ok(Some(piece.freeze()))
    }
}

#[cfg(test)]
mod tests;
