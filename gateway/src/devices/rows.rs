//! What discovery sees joined with what the household decided, as rows for pages: pure, but for the task that keeps them.

use super::store::{self, Decision, Decisions, Memory, Stored};
use super::{DeviceRow, DeviceStanding, Devices, announce, cables};
use mantel_peripherals::{Device, DeviceState};
use mantel_runtime::db::DbError;
use mantel_runtime::logging::chain;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// By what a device is found among the decisions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Keys {
    /// Keys of its programs: each belongs to one device.
    pub(super) aliases: BTreeSet<String>,
    /// Its serial number and hardware address, where no other device shows the same.
    pub(super) marks: BTreeSet<String>,
}

impl Keys {
    pub(super) fn all(&self) -> impl Iterator<Item = &String> {
        self.aliases.iter().chain(&self.marks)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.aliases.contains(key) || self.marks.contains(key)
    }
}

/// The latest decision about one of its programs; about none of them: that about its serial number or hardware address.
pub(super) fn decision_of(keys: &Keys, decisions: &Decisions) -> Decision {
    let by_name = keys.aliases.iter().filter_map(|key| decisions.get(key));
    let by_mark = || keys.marks.iter().filter_map(|key| decisions.get(key));
    by_name
        .max_by_key(|decision| decision.decided_at_ms)
        .or_else(|| by_mark().max_by_key(|decision| decision.decided_at_ms))
        .cloned()
        .unwrap_or_default()
}

/// The rows: devices as discovery names them, then those that were decided about and are not seen now.
pub(super) fn join(seen: &[Device], stored: &Stored) -> Vec<DeviceRow> {
    let mut shown: BTreeMap<String, u32> = BTreeMap::new();
    for mark in seen.iter().flat_map(Device::marks) {
        *shown.entry(mark.as_str().to_owned()).or_default() += 1;
    }
    let mut rows: Vec<DeviceRow> = seen
        .iter()
        .map(|device| {
            let texts = |keys: BTreeSet<mantel_peripherals::DeviceKey>| {
                let texts = keys.into_iter().map(|key| key.as_str().to_owned());
                texts.collect::<BTreeSet<String>>()
            };
            let mut keys = Keys {
                aliases: texts(device.aliases.clone()),
                marks: texts(device.marks()),
            };
            keys.marks.retain(|mark| shown.get(mark) == Some(&1));
            let decision = decision_of(&keys, &stored.decisions);
            row(device, keys, decision)
        })
        .collect();
    let away: Vec<DeviceRow> = stored
        .memory
        .iter()
        .filter(|memory| !rows.iter().any(|row| memory.is(row)))
        .filter_map(|memory| remembered(memory, &stored.decisions))
        .collect();
    rows.extend(away);
    rows
}

fn row(device: &Device, keys: Keys, decision: Decision) -> DeviceRow {
    let gateway = |key: &String| announce::gateway_of(key, device.class);
    DeviceRow {
        id: device.id.as_str().to_owned(),
        name: decision.name.unwrap_or_else(|| device.name.clone()),
        class: decision.class.unwrap_or(device.class),
        class_corrected: decision.class.is_some(),
        gateway: keys.aliases.iter().find_map(gateway),
        maker: device.maker.clone(),
        model: device.model.clone(),
        addresses: device.addresses.clone(),
        mac: device.mac,
        serial: device.serial.clone(),
        capabilities: device.capabilities.clone(),
        state: device.state,
        standing: decision.standing,
        first_seen: device.first_seen,
        last_seen: device.last_seen,
        problem: device.problem.clone(),
        ejects: !cables::mounted_partitions(device).is_empty(),
        keys: Arc::new(keys),
    }
}

/// A device that is not seen now; `None` where nothing is decided about it any more.
fn remembered(memory: &Memory, decisions: &Decisions) -> Option<DeviceRow> {
    let keys = Keys {
        aliases: memory.keys.clone(),
        marks: BTreeSet::new(),
    };
    let decision = decision_of(&keys, decisions);
    let gateway = |key: &String| announce::gateway_of(key, memory.class);
    is_decided(&decision).then(|| DeviceRow {
        id: memory.id.clone(),
        name: decision.name.unwrap_or_else(|| memory.name.clone()),
        class: decision.class.unwrap_or(memory.class),
        class_corrected: decision.class.is_some(),
        gateway: keys.aliases.iter().find_map(gateway),
        maker: memory.maker.clone(),
        model: memory.model.clone(),
        addresses: Vec::new(),
        mac: memory.mac,
        serial: memory.serial.clone(),
        capabilities: memory.capabilities.clone(),
        state: DeviceState::Gone,
        standing: decision.standing,
        first_seen: memory.last_seen,
        last_seen: memory.last_seen,
        problem: None,
        ejects: false,
        keys: Arc::new(keys),
    })
}

pub(super) fn is_decided(decision: &Decision) -> bool {
    decision.standing != DeviceStanding::New || decision.name.is_some() || decision.class.is_some()
}

impl Memory {
    /// A seen device as it is to be remembered.
    pub(super) fn of(device: &Device, row: &DeviceRow) -> Self {
        Self {
            id: row.id.clone(),
            keys: row.keys.all().cloned().collect(),
            name: device.name.clone(),
            class: device.class,
            maker: device.maker.clone(),
            model: device.model.clone(),
            mac: device.mac,
            serial: device.serial.clone(),
            capabilities: device.capabilities.clone(),
            last_seen: device.last_seen,
        }
    }

    /// Whether the row shows this device.
    pub(super) fn is(&self, row: &DeviceRow) -> bool {
        row.keys.all().any(|key| self.keys.contains(key))
    }

    /// Whether it is worth writing down again. Where it was last seen is written when it goes.
    fn is_as(&self, other: &Self) -> bool {
        let later = Self {
            last_seen: other.last_seen,
            ..self.clone()
        };
        later == *other
    }
}

/// Devices decided about that are not remembered as they are now, each with the ids that it replaces.
fn to_remember(seen: &[Device], rows: &[DeviceRow], stored: &Stored) -> Vec<(Memory, Vec<String>)> {
    let decided = rows.iter().filter(|row| {
        row.standing != DeviceStanding::New
            || is_decided(&decision_of(&row.keys, &stored.decisions))
    });
    let mut changed = Vec::new();
    for row in decided {
        let Some(device) = seen.iter().find(|device| device.id.as_str() == row.id) else {
            continue;
        };
        let now = Memory::of(device, row);
        let known: Vec<&Memory> = stored.memory.iter().filter(|m| m.is(row)).collect();
        let went = device.state == DeviceState::Gone;
        let same = |m: &&&Memory| m.is_as(&now) && (!went || m.last_seen == now.last_seen);
        if known.len() != 1 || !known.iter().any(|m| same(&m)) {
            let replaced = known.iter().map(|m| m.id.clone()).collect();
            changed.push((now, replaced));
        }
    }
    changed
}

impl Devices {
    /// Takes over what was read by a write, unless a later write was faster.
    pub(super) fn keep(&self, all: Stored) {
        self.inner.stored.send_if_modified(|before| {
            let later = all.number > before.number;
            if later {
                *before = Arc::new(all);
            }
            later
        });
        self.refresh();
    }

    /// Makes the rows anew, from the latest of both: whoever is last has seen all.
    fn refresh(&self) {
        self.inner.rows.send_if_modified(|before| {
            let stored = self.inner.stored.borrow().clone();
            let rows = join(&self.inner.seen.borrow().clone(), &stored);
            let changed = **before != rows;
            if changed {
                *before = Arc::new(rows);
            }
            changed
        });
    }
}

/// Keeps the rows true, and remembers those that were decided about.
pub(super) async fn publish(devices: Devices) {
    let inner = &devices.inner;
    let (mut seen, mut stored) = (inner.seen.clone(), inner.stored.subscribe());
    loop {
        let (now, known) = (
            seen.borrow_and_update().clone(),
            stored.borrow_and_update().clone(),
        );
        devices.refresh();
        let changed = to_remember(&now, &join(&now, &known), &known);
        if !changed.is_empty() {
            let writes = Arc::clone(&inner.writes);
            let written = inner.db.write(move |tx| {
                for (memory, replaced) in &changed {
                    store::remember(tx, memory, replaced)?;
                }
                Ok::<_, DbError>(store::everything(tx)?.numbered(&writes))
            });
            match written.await {
                Ok(all) => devices.keep(all),
                // They are shown as they are; only a restart would not know them while they are away.
                Err(error) => tracing::warn!(error = %chain(&error), "devices are not remembered"),
            }
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            changed = stored.changed() => if changed.is_err() { return },
        }
    }
}
