//! Admission by the server's key alone: a relay without a database, as benchmarks and a relay of its own machine use it.

use super::{Admission, Admitted, allowance};
use jiff::Timestamp;
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{DeliveryId, GrantId};
use mantel_protocol::key::{DeviceId, ServerKey};
use mantel_protocol::relay::RelayRefusal;
use mantel_protocol::restriction::Side;
use mantel_protocol::token::{self, TokenError};
use mantel_runtime::clock::Clock;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use tokio::sync::broadcast;

/// Grants remembered; beyond it those that have expired are forgotten.
const MAX_REMEMBERED: usize = 65_536;
/// Revocations that a stream may lag behind before it is cut.
const REVOCATION_QUEUE: usize = 256;

/// Judges a grant by its signature, its time, its two devices, and by what this process relayed under it.
pub struct KeyOnly {
    key: ServerKey,
    clock: Clock,
    state: Mutex<State>,
    revocations: broadcast::Sender<DeliveryId>,
}

#[derive(Default)]
struct State {
    /// Bytes relayed by grant, and when the grant expires.
    used: HashMap<GrantId, (u64, Timestamp)>,
    revoked: HashSet<DeliveryId>,
}

impl KeyOnly {
    /// Admits what `key` signed, judged by `clock`.
    pub fn new(key: ServerKey, clock: Clock) -> Self {
        let (revocations, _) = broadcast::channel(REVOCATION_QUEUE);
        Self {
            key,
            clock,
            state: Mutex::default(),
            revocations,
        }
    }

    /// Ends a delivery.
    pub fn revoke(&self, delivery: DeliveryId) {
        self.state().revoked.insert(delivery);
        // Without a stream under way nobody listens.
        let _ = self.revocations.send(delivery);
    }

    /// Bytes relayed under a grant so far.
    pub fn relayed_bytes(&self, grant: GrantId) -> u64 {
        self.state().used.get(&grant).map_or(0, |(bytes, _)| *bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    fn judge(&self, token: &str, device: DeviceId) -> Result<Admitted, RelayRefusal> {
        let now = self.clock.now();
        let grant: Grant = token::verify(&self.key, token, now).map_err(|error| match error {
            TokenError::Expired | TokenError::NotYetValid => RelayRefusal::Expired,
            _ => RelayRefusal::Forged,
        })?;
        let side = match device {
            it if it == grant.sender => Side::Sender,
            it if it == grant.receiver => Side::Receiver,
            _ => return Err(RelayRefusal::NotYours),
        };
        let mut state = self.state();
        if state.revoked.contains(&grant.delivery) {
            return Err(RelayRefusal::Revoked);
        }
        if state.used.len() >= MAX_REMEMBERED {
            state.used.retain(|_, (_, expires)| *expires > now);
        }
        let used = state
            .used
            .entry(grant.id)
            .or_insert((0, grant.validity.expires))
            .0;
        match allowance(&grant, used) {
            0 => Err(RelayRefusal::Used),
            remaining_bytes => Ok(Admitted {
                grant,
                side,
                remaining_bytes,
            }),
        }
    }
}

impl Admission for KeyOnly {
    async fn admit(&self, token: &str, device: DeviceId) -> Result<Admitted, RelayRefusal> {
        self.judge(token, device)
    }

    fn relayed(&self, grant: GrantId, bytes: u64) {
        if let Some((used, _)) = self.state().used.get_mut(&grant) {
            *used = used.saturating_add(bytes);
        }
    }

    fn revocations(&self) -> broadcast::Receiver<DeliveryId> {
        self.revocations.subscribe()
    }
}
