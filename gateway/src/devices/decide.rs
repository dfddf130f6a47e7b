//! The household decides about its devices, and takes it back (F2).

use super::rows::decision_of;
use super::store::{self, Decision, Undo};
use super::{DeviceRow, DeviceStanding, Devices, DevicesError, MAX_NAME_CHARS};
use jiff::Timestamp;
use mantel_peripherals::DeviceClass;
use mantel_runtime::db::DbError;
use std::sync::Arc;

/// The latest decision, for a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastDecision {
    /// The device's name before it.
    pub name: String,
    /// `admitted`, `ignored`, `renamed` or `class`.
    pub what: String,
    /// When.
    pub at: Timestamp,
}

impl Devices {
    /// Uses a device from now on.
    pub async fn admit(&self, id: &str) -> Result<(), DevicesError> {
        let admit = |decision: &mut Decision| decision.standing = DeviceStanding::Admitted;
        self.decide(id, "admitted", admit).await
    }

    /// Uses a device from now on, unless something else was decided.
    pub(crate) async fn admit_if_new(&self, id: &str) -> Result<(), DevicesError> {
        let admit = |decision: &mut Decision| {
            if decision.standing == DeviceStanding::New {
                decision.standing = DeviceStanding::Admitted;
            }
        };
        self.decide(id, "admitted", admit).await
    }

    /// Ignores a device from now on; an import from it is stopped.
    pub async fn ignore(&self, id: &str) -> Result<(), DevicesError> {
        let ignore = |decision: &mut Decision| decision.standing = DeviceStanding::Ignored;
        self.decide(id, "ignored", ignore).await?;
        self.cancel_import(id);
        Ok(())
    }

    /// Gives a device the household's name; an empty one gives it its own name back.
    pub async fn rename(&self, id: &str, name: &str) -> Result<(), DevicesError> {
        let words: Vec<&str> = name
            .split(|c: char| c.is_whitespace() || c.is_control())
            .filter(|w| !w.is_empty())
            .collect();
        let name: String = words.join(" ").chars().take(MAX_NAME_CHARS).collect();
        let name = (!name.is_empty()).then_some(name);
        self.decide(id, "renamed", |decision| decision.name = name)
            .await
    }

    /// Says what a device is; `None`: what it says itself.
    pub async fn set_class(
        &self,
        id: &str,
        class: Option<DeviceClass>,
    ) -> Result<(), DevicesError> {
        self.decide(id, "class", move |decision| decision.class = class)
            .await
    }

    /// What was decided last and can be taken back.
    pub fn last_decision(&self) -> Option<LastDecision> {
        let stored = self.inner.stored.borrow();
        stored.last.as_ref().map(|undo| LastDecision {
            name: undo.name.clone(),
            what: undo.what.clone(),
            at: undo.at,
        })
    }

    /// Takes the latest decision back and returns the name of its device; called again, the one before it.
    pub async fn undo(&self) -> Result<String, DevicesError> {
        let (now, writes) = (self.inner.clock.now(), Arc::clone(&self.inner.writes));
        let write = move |tx: &rusqlite::Transaction<'_>| {
            let undone = store::undo(tx, now)?;
            Ok::<_, DbError>((undone, store::everything(tx)?.numbered(&writes)))
        };
        let (undone, all) = self.inner.db.write(write).await?;
        self.keep(all);
        let undone = undone.ok_or(DevicesError::NothingToUndo)?;
        let ignored = |row: &DeviceRow| row.standing == DeviceStanding::Ignored;
        for key in &undone.keys {
            if self.row_of(key).as_ref().is_some_and(ignored) {
                self.cancel_import(key);
            }
        }
        Ok(undone.name)
    }

    /// Forgets a device and what was decided about it: one that the household had named itself and has removed.
    pub(crate) async fn forget(&self, keys: Vec<String>) -> Result<(), DevicesError> {
        let writes = Arc::clone(&self.inner.writes);
        let write = move |tx: &rusqlite::Transaction<'_>| {
            store::forget(tx, &keys)?;
            Ok::<_, DbError>(store::everything(tx)?.numbered(&writes))
        };
        let all = self.inner.db.write(write).await?;
        self.keep(all);
        Ok(())
    }

    async fn decide(
        &self,
        id: &str,
        what: &'static str,
        change: impl FnOnce(&mut Decision) + Send + 'static,
    ) -> Result<(), DevicesError> {
        let row = self.row_of(id).ok_or(DevicesError::NoSuchDevice)?;
        let (now, writes) = (self.inner.clock.now(), Arc::clone(&self.inner.writes));
        let write = move |tx: &rusqlite::Transaction<'_>| {
            let before = decision_of(&row.keys, &store::all(tx)?);
            let mut after = before.clone();
            change(&mut after);
            if after != before {
                after.decided_at_ms = now.as_millisecond();
                let undo = Undo {
                    keys: row.keys.all().cloned().collect(),
                    name: row.name.clone(),
                    what: what.to_owned(),
                    before,
                    at: now,
                };
                store::put(tx, &undo.keys, &after)?;
                store::note(tx, &undo)?;
            }
            Ok::<_, DbError>(store::everything(tx)?.numbered(&writes))
        };
        let all = self.inner.db.write(write).await?;
        // The rows show it at once, also to the caller's next request.
        self.keep(all);
        Ok(())
    }

    /// The row of which this is a key.
    fn row_of(&self, key: &str) -> Option<DeviceRow> {
        let rows = self.inner.rows.borrow();
        rows.iter()
            .find(|row| row.id == key || row.keys.has(key))
            .cloned()
    }
}
