//! Cameras, phones and players that speak PTP or MTP as a source of media (F2): ISO 15740 and MTP 1.1, over USB
//! (`mtp`) and over the LAN (`ptp_ip`).
//!
//! [`wire`] is pure. This file lists and fetches over a [`Link`], whichever it is. One device has one link, shared by
//! all who use it, opened when needed and closed when nobody does. Objects are named by storage, handle and file name:
//! a handle that means another file today is not taken for the one of yesterday.
//!
//! Not done: MTPZ, playlists, thumbnails, events, capture, and what single makers added.

mod body;
mod link;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use crate::device::{MAX_LABEL_CHARS, clean_label};
use crate::media::{
    Container, Entry, FetchError, FetchRequest, Fetched, Item, ListError, Location, MAX_PAGE,
    MediaKind, ObjectId, Page, PageRequest, Resource,
};
use crate::mtp::MtpAccess;
use crate::ptp_ip::PtpIpAccess;
use crate::storage::wire::{is_for_people, is_name, stem};
use body::{Body, Way};
use link::Open;
use wire::{ALL_ONES, MAX_ARRAY, MAX_DATASET, ObjectInfo, Reader, operation, response};

pub use link::{LinkError, STEP_TIME};

/// A page must be listed within this time; phones look into each picture for its date.
pub const LIST_TIME: Duration = Duration::from_mins(2);
/// Most storages of one device.
pub const MAX_STORAGES: usize = 32;
/// Most devices remembered at once.
const MAX_DEVICES: usize = 256;

/// How such a device is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PtpAccess {
    /// On a USB cable.
    Usb(MtpAccess),
    /// On the LAN.
    Ip(PtpIpAccess),
}

/// What is known of a device while somebody uses it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) open: Option<Open>,
    /// The handles of the folder that was listed last: a walk asks for one page after another.
    last: Option<(Folder, Arc<Vec<u32>>)>,
}

type Shared = Arc<tokio::sync::Mutex<State>>;

static DEVICES: Mutex<BTreeMap<PtpAccess, Weak<tokio::sync::Mutex<State>>>> =
    Mutex::new(BTreeMap::new());

/// The one state of a device.
fn shared(access: &PtpAccess) -> Shared {
    let mut devices = DEVICES.lock().expect("no holder of this lock panics");
    if let Some(known) = devices.get(access).and_then(Weak::upgrade) {
        return known;
    }
    if devices.len() >= MAX_DEVICES {
        devices.retain(|_, known| known.strong_count() > 0);
    }
    let new = Shared::default();
    devices.insert(access.clone(), Arc::downgrade(&new));
    new
}

/// A folder of a device: the top of a storage where `handle` is [`ALL_ONES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Folder {
    storage: u32,
    handle: u32,
}

impl Folder {
    fn parse(id: &ObjectId) -> Option<Self> {
        let (storage, handle) = id.as_str().strip_prefix("f/")?.split_once('/')?;
        Some(Self {
            storage: u32::from_str_radix(storage, 16).ok()?,
            handle: u32::from_str_radix(handle, 16).ok()?,
        })
    }

    fn id(self) -> ObjectId {
        ObjectId(format!("f/{:x}/{:x}", self.storage, self.handle))
    }

    /// Whether an object is in here by its own word. Some devices answer a question for one folder with everything;
    /// some say of everything that it is at the top.
    fn holds(self, info: &ObjectInfo) -> bool {
        info.parent == self.handle || info.parent == 0 || info.parent == ALL_ONES
    }
}

/// The id of a file: storage, handle, name.
fn file_id(info: &ObjectInfo, handle: u32) -> Option<ObjectId> {
    ObjectId::new(&format!("o/{:x}/{handle:x}/{}", info.storage, info.name))
}

fn parse_file_id(id: &ObjectId) -> Option<(u32, u32, &str)> {
    let (storage, rest) = id.as_str().strip_prefix("o/")?.split_once('/')?;
    let (handle, name) = rest.split_once('/')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some((number(storage)?, number(handle)?, name))
}

/// One device. Cheap to clone; the link is closed with the last clone.
#[derive(Clone, Debug)]
pub struct PtpSource {
    name: String,
    access: PtpAccess,
    shared: Shared,
}

impl PtpSource {
    /// A device; `name` is for messages.
    pub fn new(name: String, access: PtpAccess) -> Self {
        let shared = shared(&access);
        Self {
            name,
            access,
            shared,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One page of a folder, in the device's own order.
    pub async fn list(&self, container: &ObjectId, page: PageRequest) -> Result<Page, ListError> {
        let listing = async {
            let mut state = self.open().await?;
            let listed = self.list_with(&mut state, container, page).await;
            close_if_broken(&mut state, &listed);
            listed
        };
        match timeout(LIST_TIME, listing).await {
            Ok(listed) => listed.map_err(|error| self.list_error(error)),
            Err(late) => Err(self.list_error(LinkError::broken(late))),
        }
    }

    async fn list_with(
        &self,
        state: &mut State,
        container: &ObjectId,
        page: PageRequest,
    ) -> Result<Page, LinkError> {
        let folder = if *container == ObjectId::root() {
            let open = state.open.as_mut().ok_or(LinkError::Closed)?;
            let storages = storages(open).await?;
            match storages.as_slice() {
                [] => return Err(LinkError::NoStorage),
                [only] => Folder {
                    storage: *only,
                    handle: ALL_ONES,
                },
                several => return names_of(open, several).await,
            }
        } else {
            Folder::parse(container).ok_or(LinkError::Refused(response::INVALID_OBJECT))?
        };
        let handles = handles(state, folder, page.start).await?;
        let open = state.open.as_mut().ok_or(LinkError::Closed)?;
        let start = (page.start as usize).min(handles.len());
        let end = (start + page.count.clamp(1, MAX_PAGE) as usize).min(handles.len());
        let mut entries = Vec::new();
        let mut refused = 0;
        for handle in &handles[start..end] {
            match info(open, folder.storage, *handle).await {
                Ok(info) if !folder.holds(&info) => {}
                Ok(info) => match entry(open, &info, *handle).await? {
                    Told::Entry(entry) => entries.push(entry),
                    Told::NotForPeople => {}
                    Told::Unusable => refused += 1,
                },
                // One that cannot be described is left out; the others are listed.
                Err(LinkError::Refused(_) | LinkError::Malformed(_)) => refused += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(Page {
            entries,
            total: handles.len() as u32,
            next: (end < handles.len()).then_some(end as u32),
            refused,
        })
    }

    /// One file by its id.
    pub async fn item(&self, id: &ObjectId) -> Result<Item, ListError> {
        let asking = async {
            let mut state = self.open().await?;
            let found = self.find(&mut state, id).await;
            close_if_broken(&mut state, &found);
            found
        };
        let found = timeout(LIST_TIME, asking).await;
        let found = found.unwrap_or_else(|late| Err(LinkError::broken(late)));
        let (item, ..) = found.map_err(|error| self.list_error(error))?;
        Ok(item)
    }

    /// The file that an id names, if the handle still means it.
    async fn find(
        &self,
        state: &mut State,
        id: &ObjectId,
    ) -> Result<(Item, u32, ObjectInfo), LinkError> {
        let gone = LinkError::Refused(response::INVALID_OBJECT);
        let Some((storage, handle, name)) = parse_file_id(id) else {
            return Err(gone);
        };
        let open = state.open.as_mut().ok_or(LinkError::Closed)?;
        let info = info(open, storage, handle).await?;
        if info.name != name {
            return Err(gone);
        }
        match entry(open, &info, handle).await? {
            Told::Entry(Entry::Item(item)) => Ok((item, handle, info)),
            _ => Err(gone),
        }
    }

    /// Opens a file.
    pub async fn fetch(
        &self,
        resource: &Resource,
        request: FetchRequest,
    ) -> Result<Fetched, FetchError> {
        let Location::Object(id) = &resource.location else {
            return Err(self.fetch_error(LinkError::Refused(response::INVALID_OBJECT)));
        };
        let opening = async {
            let mut state = self.open().await?;
            let found = self.find(&mut state, id).await;
            close_if_broken(&mut state, &found);
            let (item, handle, info) = found?;
            let operations = state.open.as_ref().map(|open| open.info.operations.clone());
            Ok((item, handle, info, operations.unwrap_or_default()))
        };
        let opened = timeout(LIST_TIME, opening).await;
        let opened = opened.unwrap_or_else(|late| Err(LinkError::broken(late)));
        let (item, handle, info, operations) = opened.map_err(|error| self.fetch_error(error))?;
        let size = item
            .resources
            .first()
            .and_then(|resource| resource.size_bytes);
        if size.is_some_and(|size| size > request.max_bytes) {
            return Err(FetchError::TooLarge {
                device: self.name.clone(),
                limit: request.max_bytes,
            });
        }
        let way = Way::best(&operations, size);
        let date = info.date.map(|date| date.to_string()).unwrap_or_default();
        let validator = format!("{handle:x}-{}-{date}", size.unwrap_or_default());
        let same = request
            .validator
            .as_ref()
            .is_none_or(|earlier| *earlier == validator);
        let resumes = way != Way::Whole && same && size.is_some_and(|size| request.from <= size);
        let offset = if resumes { request.from } else { 0 };
        let body = Body {
            source: self.clone(),
            handle,
            way,
            at: offset,
            size,
            limit: request.max_bytes,
            held: None,
        };
        Ok(Fetched {
            mime: Some(resource.mime.clone()),
            offset,
            total_bytes: size,
            validator: Some(validator),
            body: body.into_body(),
        })
    }

    /// The device's state with an open link.
    pub(crate) async fn open(&self) -> Result<OwnedMutexGuard<State>, LinkError> {
        let mut state = Arc::clone(&self.shared).lock_owned().await;
        if !state.open.as_ref().is_some_and(Open::is_ready) {
            state.open = None;
            state.last = None;
            state.open = Some(Open::new(&self.access).await?);
        }
        Ok(state)
    }

    fn list_error(&self, source: LinkError) -> ListError {
        let device = self.name.clone();
        match source {
            LinkError::Refused(
                response::INVALID_OBJECT | response::INVALID_PARENT | response::INVALID_STORAGE,
            ) => ListError::NotFound { device },
            LinkError::NoStorage
            | LinkError::Refused(response::STORE_NOT_AVAILABLE | response::ACCESS_DENIED) => {
                ListError::Locked { device }
            }
            LinkError::Refused(_) | LinkError::Malformed(_) | LinkError::TooMuch => {
                ListError::BadAnswer {
                    device,
                    source: source.into(),
                }
            }
            source => ListError::Unreachable {
                device,
                source: source.into(),
            },
        }
    }

    pub(crate) fn fetch_error(&self, source: LinkError) -> FetchError {
        let device = self.name.clone();
        match source {
            LinkError::Refused(response::INVALID_OBJECT | response::INVALID_STORAGE) => {
                FetchError::Gone { device }
            }
            source => FetchError::Interrupted {
                device,
                source: source.into(),
            },
        }
    }
}

/// After an error that leaves question and answer out of step the link is closed; the next use opens it again.
pub(crate) fn close_if_broken<T>(state: &mut State, result: &Result<T, LinkError>) {
    if matches!(result, Err(error) if error.breaks_the_link()) {
        state.open = None;
    }
}

async fn storages(open: &mut Open) -> Result<Vec<u32>, LinkError> {
    let bytes = open
        .ask(operation::GET_STORAGE_IDS, &[], MAX_DATASET)
        .await?;
    let mut ids = Reader::new(&bytes).u32_array()?;
    // The lower half is 0 where no card is in (ISO 15740 §5.6).
    ids.retain(|id| id & 0xffff != 0);
    ids.truncate(MAX_STORAGES);
    Ok(ids)
}

/// Several storages as folders.
async fn names_of(open: &mut Open, storages: &[u32]) -> Result<Page, LinkError> {
    let mut entries = Vec::new();
    for storage in storages {
        let asked = open
            .ask(operation::GET_STORAGE_INFO, &[*storage], MAX_DATASET)
            .await;
        let name = match asked {
            Ok(bytes) => wire::storage_name(&bytes).unwrap_or_default(),
            Err(LinkError::Refused(_)) => String::new(),
            Err(error) => return Err(error),
        };
        let folder = Folder {
            storage: *storage,
            handle: ALL_ONES,
        };
        entries.push(Entry::Container(Container {
            id: folder.id(),
            title: clean_label(&name, MAX_LABEL_CHARS)
                .unwrap_or_else(|| format!("Memory {}", entries.len() + 1)),
            child_count: None,
        }));
    }
    Ok(Page {
        total: entries.len() as u32,
        entries,
        next: None,
        refused: 0,
    })
}

/// The handles in a folder: asked anew for its first page, remembered for the following ones.
async fn handles(
    state: &mut State,
    folder: Folder,
    start: u32,
) -> Result<Arc<Vec<u32>>, LinkError> {
    if let (Some((of, handles)), true) = (&state.last, start > 0)
        && *of == folder
    {
        return Ok(Arc::clone(handles));
    }
    let open = state.open.as_mut().ok_or(LinkError::Closed)?;
    let question = [folder.storage, 0, folder.handle];
    let bytes = open
        .ask(operation::GET_OBJECT_HANDLES, &question, 4 * MAX_ARRAY + 4)
        .await?;
    let handles = Arc::new(Reader::new(&bytes).u32_array()?);
    state.last = Some((folder, Arc::clone(&handles)));
    Ok(handles)
}

/// What an object is. The storage that was asked counts, not the one that the object names: some devices name another.
async fn info(open: &mut Open, storage: u32, handle: u32) -> Result<ObjectInfo, LinkError> {
    let bytes = open
        .ask(operation::GET_OBJECT_INFO, &[handle], MAX_DATASET)
        .await?;
    Ok(ObjectInfo {
        storage,
        ..ObjectInfo::parse(&bytes)?
    })
}

/// What became of an object.
enum Told {
    Entry(Entry),
    /// Hidden, a system's own, or no media.
    NotForPeople,
    /// Its name or id cannot be used.
    Unusable,
}

async fn entry(open: &mut Open, info: &ObjectInfo, handle: u32) -> Result<Told, LinkError> {
    if !is_name(&info.name) {
        return Ok(Told::Unusable);
    }
    if info.is_folder() {
        let folder = Folder {
            storage: info.storage,
            handle,
        };
        let title = clean_label(&info.name, MAX_LABEL_CHARS);
        return Ok(match title.filter(|_| is_for_people(&info.name)) {
            Some(title) => Told::Entry(Entry::Container(Container {
                id: folder.id(),
                title,
                child_count: None,
            })),
            None => Told::NotForPeople,
        });
    }
    let mime = wire::mime(info.format, &info.name).filter(|_| !info.name.starts_with('.'));
    let Some(mime) = mime else {
        return Ok(Told::NotForPeople);
    };
    let size = match info.size {
        ALL_ONES => long_size(open, handle).await?,
        size => Some(u64::from(size)),
    };
    Ok(
        item(info, handle, mime, size)
            .map_or(Told::Unusable, |item| Told::Entry(Entry::Item(item))),
    )
}

/// The size of a file of 4 GiB or more, where the device can tell.
async fn long_size(open: &mut Open, handle: u32) -> Result<Option<u64>, LinkError> {
    if !open
        .info
        .operations
        .contains(&operation::GET_OBJECT_PROP_VALUE)
    {
        return Ok(None);
    }
    let question = [handle, u32::from(wire::OBJECT_SIZE)];
    match open
        .ask(operation::GET_OBJECT_PROP_VALUE, &question, MAX_DATASET)
        .await
    {
        Ok(bytes) => Ok(Reader::new(&bytes).u64().ok()),
        Err(LinkError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn item(info: &ObjectInfo, handle: u32, mime: &str, size: Option<u64>) -> Option<Item> {
    let id = file_id(info, handle)?;
    Some(Item {
        original_id: None,
        title: clean_label(stem(&info.name), MAX_LABEL_CHARS)?,
        class: String::new(),
        kind: MediaKind::of_mime(mime),
        date: info.date,
        artist: None,
        album: None,
        resources: vec![Resource {
            location: Location::Object(id.clone()),
            mime: mime.to_owned(),
            protocol_info: String::new(),
            size_bytes: size,
            duration: None,
            resolution: Some(info.pixels).filter(|(width, height)| *width > 0 && *height > 0),
            converted: false,
        }],
        id,
    })
}

#[cfg(test)]
mod tests;
