//! Which imports are under way and how far, for the pages.

use super::source::ImportSource;
use mantel_protocol::ids::TitleId;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Ended imports that are still shown.
const ENDED_SHOWN: usize = 32;

/// Where an import is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportPhase {
    /// Others go first.
    Waiting,
    /// Bytes come in and are sealed.
    Copying,
    /// All bytes are here; the sandbox looks inside.
    Examining,
    /// In the library.
    Done,
    /// Not imported, and nothing kept; the text says why and what to do.
    Failed(String),
}

impl ImportPhase {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::Failed(_))
    }
}

/// One import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportProgress {
    /// The title that it becomes.
    pub title: TitleId,
    /// Its name.
    pub name: String,
    /// The name of the device that it comes from.
    pub device: String,
    /// Plaintext bytes that are here.
    pub bytes_done: u64,
    /// Of so many, where the source told.
    pub bytes_total: Option<u64>,
    /// Where it is.
    pub phase: ImportPhase,
}

/// All imports; shared by the library and its tickets.
pub(super) struct Progress {
    rows: watch::Sender<Arc<Vec<ImportProgress>>>,
    under_way: Mutex<HashSet<(String, String)>>,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            rows: watch::Sender::new(Arc::default()),
            under_way: Mutex::default(),
        })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Vec<ImportProgress>>> {
        self.rows.subscribe()
    }

    pub(super) fn rows(&self) -> Arc<Vec<ImportProgress>> {
        Arc::clone(&self.rows.borrow())
    }
}

/// One import's right to run and its row.
pub(super) struct Ticket {
    progress: Arc<Progress>,
    title: TitleId,
    key: Option<(String, String)>,
}

impl Ticket {
    /// `None`: the same object of the same device is being imported.
    pub(super) fn take(progress: &Arc<Progress>, source: &ImportSource) -> Option<Self> {
        let key = source
            .remote_id
            .clone()
            .map(|id| (source.device_key.clone(), id));
        if let Some(key) = &key
            && !progress
                .under_way
                .lock()
                .expect("no holder of this lock panics")
                .insert(key.clone())
        {
            return None;
        }
        let title = TitleId::generate();
        let row = ImportProgress {
            title,
            name: source.name.clone(),
            device: source.device.clone(),
            bytes_done: 0,
            bytes_total: source.size,
            phase: ImportPhase::Waiting,
        };
        progress.rows.send_modify(|rows| {
            let rows = Arc::make_mut(rows);
            rows.push(row);
            let over = rows.iter().filter(|row| row.phase.is_over()).count();
            for _ in ENDED_SHOWN..over {
                if let Some(oldest) = rows.iter().position(|row| row.phase.is_over()) {
                    rows.remove(oldest);
                }
            }
        });
        Some(Self {
            progress: Arc::clone(progress),
            title,
            key,
        })
    }

    pub(super) fn title(&self) -> TitleId {
        self.title
    }

    /// The name of the device that the import comes from.
    pub(super) fn device(&self) -> String {
        let rows = self.progress.rows();
        rows.iter()
            .find(|row| row.title == self.title)
            .map(|row| row.device.clone())
            .unwrap_or_default()
    }

    pub(super) fn set(&self, phase: ImportPhase) {
        self.update(|row| row.phase = phase);
    }

    /// Takes the row away, as if the import had never begun: it is paused and says so elsewhere.
    pub(super) fn withdraw(&self) {
        self.progress
            .rows
            .send_modify(|rows| Arc::make_mut(rows).retain(|row| row.title != self.title));
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut ImportProgress)) {
        self.progress.rows.send_modify(|rows| {
            if let Some(row) = Arc::make_mut(rows)
                .iter_mut()
                .find(|row| row.title == self.title)
            {
                change(row);
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.update(|row| {
            if !row.phase.is_over() {
                row.phase = ImportPhase::Failed(format!(
                    "The import of \"{}\" was stopped. Nothing of it was kept; start it again when you like",
                    row.name
                ));
            }
        });
        if let Some(key) = &self.key {
            self.progress
                .under_way
                .lock()
                .expect("no holder of this lock panics")
                .remove(key);
        }
    }
}
