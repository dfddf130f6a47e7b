//! Importing everything that a device has, in the background: one task per device, with progress and an end (F2).
//! A crash loses the walk, not what was imported; started again, it skips what is in the library.

use super::news::News;
use crate::library::{ImportError, ImportSource, Library};
use mantel_peripherals::media::{ObjectId, WalkLimits};
use mantel_peripherals::{Device, DeviceKey, MediaChange, MediaSource, WalkSummary};
use mantel_runtime::tasks::Tasks;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Bounds of one import of everything.
const LIMITS: WalkLimits = WalkLimits {
    depth: 16,
    containers: 5_000,
    items: 50_000,
};
/// Rows kept of ended imports; one per device.
const MAX_ROWS: usize = 64;

/// Where an import of everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceImportState {
    /// Under way.
    Running,
    /// All was looked at.
    Done,
    /// A person stopped it, or the gateway stops.
    Stopped,
    /// It gave up; the text says why and what to do. What was imported stays.
    Failed(String),
}

/// An import of everything on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceImport {
    /// The device's key.
    pub device: String,
    /// The device's name.
    pub name: String,
    /// Files found so far.
    pub found: u32,
    /// Imported by this run.
    pub imported: u32,
    /// In the library before.
    pub already_here: u32,
    /// Not imported; see `problem`.
    pub failed: u32,
    /// Where it is.
    pub state: DeviceImportState,
    /// Why the last file that failed did.
    pub problem: Option<String>,
}

pub(super) struct Imports {
    rows: Arc<watch::Sender<Arc<Vec<DeviceImport>>>>,
    running: Arc<Mutex<HashMap<String, CancellationToken>>>,
    news: News,
    /// Devices of which everything is here, as of a time since which they are followed ([`News::since`]).
    complete: Arc<Mutex<HashMap<String, u64>>>,
}

impl Imports {
    pub(super) fn new(news: News) -> Self {
        Self {
            news,
            complete: Arc::default(),
            rows: Arc::new(watch::Sender::new(Arc::default())),
            running: Arc::default(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vec<DeviceImport>>> {
        self.rows.subscribe()
    }

    pub(super) fn cancel(&self, device: &Device) {
        let running = self.running.lock().expect("no holder of this lock panics");
        for (key, token) in running.iter() {
            if DeviceKey::new(key).is_some_and(|key| device.is(&key)) {
                token.cancel();
            }
        }
    }

    /// `false`: it runs already.
    pub(super) fn start(
        &self,
        tasks: &Tasks,
        library: Library,
        source: MediaSource,
        key: &str,
        name: &str,
    ) -> bool {
        let token = tasks.token().child_token();
        {
            let mut running = self.running.lock().expect("no holder of this lock panics");
            if running.contains_key(key) {
                return false;
            }
            running.insert(key.to_owned(), token.clone());
        }
        let row = Row {
            rows: Arc::clone(&self.rows),
            device: key.to_owned(),
        };
        row.begin(name);
        let running = Arc::clone(&self.running);
        let name = name.to_owned();
        let since = self.news.since(key);
        let taken = self.news.take(key);
        let whole = {
            let complete = self.complete.lock().expect("no holder of this lock panics");
            since.is_none() || complete.get(key).copied() != since
        };
        // Where everything else is here already, only what changed is walked.
        let only = taken.as_ref().and_then(|news| match &news.change {
            MediaChange::Inside(containers) if !whole => Some(containers.clone()),
            MediaChange::Inside(_) | MediaChange::Anything => None,
        });
        let (news, complete) = (self.news.clone(), Arc::clone(&self.complete));
        tasks.spawn_graceful("import-device", async move {
            let walked = token
                .run_until_cancelled(Box::pin(walk(&row, &library, source, only, &name)))
                .await;
            let ended = matches!(&walked, Some(Ok(seen)) if !seen.cut && seen.failed_containers == 0)
                && !row.failed();
            {
                let mut complete = complete.lock().expect("no holder of this lock panics");
                complete.remove(&row.device);
                if let Some(since) = since.filter(|_| ended) {
                    complete.insert(row.device.clone(), since);
                }
            }
            if let Some(taken) = taken.filter(|_| !ended) {
                news.give_back(&row.device, taken);
            }
            let state = match walked {
                Some(Ok(_)) => DeviceImportState::Done,
                Some(Err(why)) => DeviceImportState::Failed(why),
                None => DeviceImportState::Stopped,
            };
            running
                .lock()
                .expect("no holder of this lock panics")
                .remove(&row.device);
            row.update(|row| row.state = state);
        });
        true
    }
}

/// One device's row.
struct Row {
    rows: Arc<watch::Sender<Arc<Vec<DeviceImport>>>>,
    device: String,
}

impl Row {
    fn begin(&self, name: &str) {
        let new = DeviceImport {
            device: self.device.clone(),
            name: name.to_owned(),
            found: 0,
            imported: 0,
            already_here: 0,
            failed: 0,
            state: DeviceImportState::Running,
            problem: None,
        };
        self.rows.send_modify(|rows| {
            let rows = Arc::make_mut(rows);
            rows.retain(|row| row.device != self.device);
            rows.push(new);
            if rows.len() > MAX_ROWS
                && let Some(ended) = rows
                    .iter()
                    .position(|row| row.state != DeviceImportState::Running)
            {
                rows.remove(ended);
            }
        });
    }

    /// Whether a file of it was not imported.
    fn failed(&self) -> bool {
        let rows = self.rows.borrow();
        rows.iter()
            .any(|row| row.device == self.device && row.failed > 0)
    }

    fn update(&self, change: impl FnOnce(&mut DeviceImport)) {
        self.rows.send_modify(|rows| {
            if let Some(row) = Arc::make_mut(rows)
                .iter_mut()
                .find(|row| row.device == self.device)
            {
                change(row);
            }
        });
    }
}

/// Imports what a walk finds, of everything or of `only` these containers.
async fn walk(
    row: &Row,
    library: &Library,
    source: MediaSource,
    only: Option<BTreeSet<ObjectId>>,
    name: &str,
) -> Result<WalkSummary, String> {
    let mut known = library
        .imported_from(&row.device)
        .await
        .map_err(|error| error.to_string())?;
    let mut walk = match only {
        Some(containers) => source.walk_from(containers, LIMITS),
        None => source.walk(LIMITS),
    };
    while let Some(item) = walk.next().await.map_err(|error| error.to_string())? {
        row.update(|row| row.found += 1);
        let Some(import) = ImportSource::from_device(&row.device, name, source.clone(), &item)
        else {
            continue;
        };
        let id = item
            .original_id
            .as_ref()
            .unwrap_or(&item.id)
            .as_str()
            .to_owned();
        if !known.insert(id) {
            row.update(|row| row.already_here += 1);
            continue;
        }
        match Box::pin(library.import(import)).await {
            Ok(_) => row.update(|row| row.imported += 1),
            Err(error @ ImportError::DiskFull { .. }) => return Err(error.to_string()),
            Err(error) => row.update(|row| {
                row.failed += 1;
                row.problem = Some(error.to_string());
            }),
        }
    }
    let summary = walk.summary();
    if summary.cut {
        row.update(|row| {
            row.problem = Some(format!(
                "\"{name}\" has more than can be imported at once; start it again"
            ));
        });
    }
    Ok(summary)
}
