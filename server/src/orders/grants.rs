//! Grants at the relay (F8, F61): who may use it, under which grant, for how many bytes.

use super::progress::Progress;
use super::store;
use crate::error::Result;
use crate::notice::Notices;
use crate::relay::{Admission, Admitted, allowance};
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{DeliveryId, GrantId};
use mantel_protocol::key::{DeviceId, ServerKey};
use mantel_protocol::relay::RelayRefusal;
use mantel_protocol::restriction::Side;
use mantel_protocol::token::{TokenError, verify};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use mantel_runtime::tasks::Tasks;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

/// How often relayed bytes are written.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// Grants whose delivery is remembered for show.
const MAX_REMEMBERED: usize = 10_000;

/// The grants as the relay asks for them; cheap to clone.
#[derive(Clone)]
pub struct Grants {
    db: Db,
    clock: Clock,
    server: ServerKey,
    notices: Notices,
    progress: Progress,
    /// Bytes relayed that the database does not have yet.
    unwritten: Arc<Mutex<HashMap<GrantId, u64>>>,
    /// The deliveries of grants that were admitted.
    deliveries: Arc<Mutex<HashMap<GrantId, DeliveryId>>>,
}

impl Grants {
    /// Over an open database. `server` is the key that signed the grants.
    pub fn new(
        db: Db,
        clock: Clock,
        server: ServerKey,
        notices: Notices,
        progress: Progress,
    ) -> Self {
        Self {
            db,
            clock,
            server,
            notices,
            progress,
            unwritten: Arc::default(),
            deliveries: Arc::default(),
        }
    }

    /// Writes relayed bytes every second, as a task of `tasks`. What a crash loses is at most a second's count.
    pub fn keep(&self, tasks: &Tasks) {
        let grants = self.clone();
        tasks.spawn("relayed-bytes", async move {
            let mut every = tokio::time::interval(FLUSH_EVERY);
            loop {
                every.tick().await;
                grants.flush().await;
            }
        });
    }

    /// Writes relayed bytes now; called once more when the relay has stopped.
    pub async fn flush(&self) {
        let batch: Vec<(GrantId, u64)> = self
            .unwritten
            .lock()
            .expect("no holder of this lock panics")
            .iter()
            .map(|(id, n)| (*id, *n))
            .collect();
        if batch.is_empty() {
            return;
        }
        let job = batch.clone();
        let written: Result<()> = self
            .db
            .write(move |tx| {
                job.iter()
                    .try_for_each(|(grant, bytes)| store::add_relayed(tx, *grant, *bytes))
            })
            .await;
        match written {
            Ok(()) => {
                let mut unwritten = self
                    .unwritten
                    .lock()
                    .expect("no holder of this lock panics");
                for (grant, bytes) in batch {
                    if let Some(left) = unwritten.get_mut(&grant) {
                        *left = left.saturating_sub(bytes);
                    }
                }
                unwritten.retain(|_, left| *left > 0);
            }
            Err(error) => drop(error.problem()),
        }
        self.notices.changed();
    }

    async fn judge(
        &self,
        token: &str,
        device: DeviceId,
    ) -> std::result::Result<Admitted, RelayRefusal> {
        let grant: Grant =
            verify(&self.server, token, self.clock.now()).map_err(|error| match error {
                TokenError::Expired | TokenError::NotYetValid => RelayRefusal::Expired,
                _ => RelayRefusal::Forged,
            })?;
        let side = match device {
            _ if device == grant.sender => Side::Sender,
            _ if device == grant.receiver => Side::Receiver,
            _ => return Err(RelayRefusal::NotYours),
        };
        let id = grant.id;
        let standing = self.db.read(move |c| store::grant_standing(c, id)).await;
        let (written, holds) = match standing {
            Ok(Some(standing)) => standing,
            Ok(None) => return Err(RelayRefusal::Revoked),
            Err(error) => {
                drop(error.problem());
                return Err(RelayRefusal::Busy);
            }
        };
        if !holds {
            return Err(RelayRefusal::Revoked);
        }
        let unwritten = self
            .unwritten
            .lock()
            .expect("no holder of this lock panics")
            .get(&id)
            .copied()
            .unwrap_or(0);
        let remaining_bytes = allowance(&grant, written.saturating_add(unwritten));
        if remaining_bytes == 0 {
            return Err(RelayRefusal::Used);
        }
        let mut deliveries = self
            .deliveries
            .lock()
            .expect("no holder of this lock panics");
        if deliveries.len() >= MAX_REMEMBERED {
            deliveries.clear();
        }
        deliveries.insert(id, grant.delivery);
        Ok(Admitted {
            grant,
            side,
            remaining_bytes,
        })
    }
}

impl Admission for Grants {
    async fn admit(
        &self,
        token: &str,
        device: DeviceId,
    ) -> std::result::Result<Admitted, RelayRefusal> {
        self.judge(token, device).await
    }

    fn relayed(&self, grant: GrantId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let mut unwritten = self
            .unwritten
            .lock()
            .expect("no holder of this lock panics");
        let sum = unwritten.entry(grant).or_insert(0);
        *sum = sum.saturating_add(bytes);
        drop(unwritten);
        let delivery = self
            .deliveries
            .lock()
            .expect("no holder of this lock panics")
            .get(&grant)
            .copied();
        if let Some(delivery) = delivery {
            self.progress.relayed(delivery);
        }
    }

    fn revocations(&self) -> broadcast::Receiver<DeliveryId> {
        self.notices.revocations()
    }
}
