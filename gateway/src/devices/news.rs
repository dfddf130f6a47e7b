//! What is new on the household's media servers since the last import (F2): one follower for each admitted device that
//! answers. In memory only: after a restart an import looks at everything.

use super::{DeviceRow, DeviceStanding};
use mantel_peripherals::discovery::Snapshot;
use mantel_peripherals::{Access, Capability, Change, Device, DeviceKey, DeviceState, MediaChange};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Devices followed at the same time; more are imported from as before, without being told of news.
pub const MAX_FOLLOWED: usize = 64;

/// What a device told since it was last imported from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNews {
    /// How often it told something.
    pub times: u32,
    /// What changed.
    pub(super) change: MediaChange,
}

/// News by device key.
type Table = BTreeMap<String, DeviceNews>;

/// What is new on each device.
#[derive(Clone)]
pub(super) struct News {
    table: watch::Sender<Arc<Table>>,
    /// Devices followed without a break, whose news are therefore all there are.
    followed: watch::Sender<Arc<BTreeMap<String, u64>>>,
}

impl News {
    pub(super) fn new() -> Self {
        Self {
            table: watch::Sender::new(Arc::default()),
            followed: watch::Sender::new(Arc::default()),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// Takes a device's news, for an import; see [`News::give_back`].
    pub(super) fn take(&self, device: &str) -> Option<DeviceNews> {
        let mut taken = None;
        self.table.send_if_modified(|table| {
            if table.contains_key(device) {
                taken = Arc::make_mut(table).remove(device);
            }
            taken.is_some()
        });
        taken
    }

    /// The import of these news did not end.
    pub(super) fn give_back(&self, device: &str, news: DeviceNews) {
        self.add(device, news.change, news.times);
    }

    /// Names the time since which a device is followed without a break, if it is.
    pub(super) fn since(&self, device: &str) -> Option<u64> {
        self.followed.borrow().get(device).copied()
    }

    fn add(&self, device: &str, change: MediaChange, times: u32) {
        self.table.send_modify(|table| {
            let table = Arc::make_mut(table);
            let (times, change) = match table.remove(device) {
                Some(before) => (
                    before.times.saturating_add(times),
                    before.change.and(change),
                ),
                None => (times, change),
            };
            table.insert(device.to_owned(), DeviceNews { times, change });
        });
    }

    /// Follows those devices that are admitted and answer, until the gateway stops.
    pub(super) async fn follow(
        self,
        mut seen: watch::Receiver<Snapshot>,
        mut rows: watch::Receiver<Arc<Vec<DeviceRow>>>,
    ) {
        let mut followers: BTreeMap<String, (Vec<Access>, AbortHandle)> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let mut begun = 0;
        loop {
            let wanted = wanted(&seen.borrow_and_update(), &rows.borrow_and_update());
            followers.retain(|key, (access, task)| {
                let stays = !task.is_finished()
                    && wanted
                        .get(key)
                        .is_some_and(|device| reached(device) == *access);
                if !stays {
                    task.abort();
                    self.unfollow(key);
                }
                stays
            });
            for (key, device) in wanted {
                if followers.contains_key(&key) || followers.len() >= MAX_FOLLOWED {
                    continue;
                }
                let Some(source) = device.media_source() else {
                    continue;
                };
                begun += 1;
                self.followed.send_modify(|followed| {
                    Arc::make_mut(followed).insert(key.clone(), begun);
                });
                let (news, device_key) = (self.clone(), key.clone());
                let task = tasks.spawn(async move {
                    let mut changes = source.changes();
                    while let Some(change) = changes.next().await {
                        if let Change::Media(change) = change {
                            news.add(&device_key, change, 1);
                        }
                    }
                });
                followers.insert(key, (reached(&device), task));
            }
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { return },
                changed = rows.changed() => if changed.is_err() { return },
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    fn unfollow(&self, device: &str) {
        self.followed.send_modify(|followed| {
            Arc::make_mut(followed).remove(device);
        });
    }
}

/// How a device is reached: with another address it is followed anew.
fn reached(device: &Device) -> Vec<Access> {
    device
        .parts
        .iter()
        .map(|part| part.access.clone())
        .collect()
}

fn wanted(seen: &Snapshot, rows: &[DeviceRow]) -> BTreeMap<String, Device> {
    let rows = rows.iter().filter(|row| {
        row.standing == DeviceStanding::Admitted
            && row.state == DeviceState::Online
            && row.capabilities.contains(&Capability::ListMedia)
    });
    rows.filter_map(|row| {
        let key = DeviceKey::new(&row.id)?;
        let device = seen.iter().find(|device| device.is(&key))?;
        Some((row.id.clone(), device.clone()))
    })
    .collect()
}
