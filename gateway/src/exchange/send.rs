//! The sending side: what serving chunks asks of the rest of this gateway, and what the server asks it to send (F8, F61).

use super::Inner;
use super::dial::RelayPoint;
use super::seed::Seed;
use super::serve::{BlobSource, ChunkServer, Keeper};
use super::store;
use crate::library::{BlobError, BlobReader, Library, Title};
use crate::link::{Link, Wake};
use crate::rights::Rights;
use bytes::Bytes;
use jiff::Timestamp;
use mantel_protocol::api::HomeEntry;
use mantel_protocol::blob::{BlobId, HashList};
use mantel_protocol::chunk::Refusal;
use mantel_protocol::grant::{AnyGrant, Grant};
use mantel_protocol::ids::HomeId;
use mantel_protocol::key::{DeviceId, ServerKey};
use mantel_protocol::restriction::{Exchange, Initiative, Party};
use mantel_runtime::db::Db;
use mantel_runtime::logging::chain;
use std::io;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tracing::{debug, warn};

/// The rest of the gateway as the sender sees it.
pub struct Holder {
    pub(super) db: Db,
    pub(super) link: Link,
    pub(super) library: Library,
    pub(super) rights: Rights,
    pub(super) homes: watch::Receiver<Arc<Vec<HomeEntry>>>,
    pub(super) seed: watch::Receiver<Option<Arc<Seed>>>,
}

/// What is sent.
pub enum Held {
    /// A title's sealed bytes.
    Title(BlobReader),
    /// An update's bundle.
    Bundle(Arc<Seed>),
}

impl Keeper for Holder {
    type Blob = Held;

    fn server_key(&self) -> Option<ServerKey> {
        self.link.enrolment().map(|enrolment| enrolment.server.key)
    }

    fn now(&self) -> Timestamp {
        self.link.now_signed()
    }

    async fn permit(&self, grant: &AnyGrant) -> Result<(), Refusal> {
        let Some(enrolment) = self.link.enrolment() else {
            return Err(Refusal::Restricted);
        };
        let grant = match grant {
            AnyGrant::Delivery(grant) => grant,
            AnyGrant::Bundle(grant) => {
                let seed = self.seed.borrow().clone();
                let seed = seed.filter(|seed| seed.hashes().id() == grant.bundle);
                let receiver = self.home_of(grant.receiver).await;
                let receiver = receiver.ok_or(Refusal::Restricted)?;
                let may = self.rights.may_give_bundle(enrolment.home, receiver);
                may.map_err(|denial| {
                    warn!(grant = %grant.id, %denial, "a bundle is refused here");
                    Refusal::Restricted
                })?;
                return seed.ok_or(Refusal::NotHere)?.permit();
            }
        };
        let title = self.library.title(grant.title).await.map_err(|error| {
            warn!(error = %chain(&error), "a title to be sent cannot be read");
            Refusal::Unreadable
        })?;
        let title = title.ok_or(Refusal::NotHere)?;
        let receiver = self.receiver_of(grant).await.ok_or(Refusal::Restricted)?;
        let initiative = self.initiative_of(grant).await;
        let exchange = exchange_of(&title, initiative, enrolment.home, receiver);
        self.rights.may_exchange(&exchange).map_err(|denial| {
            warn!(delivery = %grant.delivery, %denial, "a delivery is refused here");
            Refusal::Restricted
        })
    }

    async fn blob(&self, blob: BlobId) -> Result<Option<Held>, Refusal> {
        let seed = self.seed.borrow().clone();
        if let Some(seed) = seed.filter(|seed| seed.hashes().id() == blob) {
            return Ok(Some(Held::Bundle(seed)));
        }
        let found = self.library.blobs().read(blob).await.map_err(|error| {
            warn!(%blob, error = %chain(&error), "a blob to be sent cannot be read");
            Refusal::Unreadable
        })?;
        Ok(found.map(Held::Title))
    }
}

impl Holder {
    /// The home of a device: from the directory last heard, or, of a new home, asked now.
    async fn home_of(&self, device: DeviceId) -> Option<HomeId> {
        let among = |homes: &[HomeEntry]| {
            homes
                .iter()
                .find(|home| home.device == device)
                .map(|home| home.home)
        };
        if let Some(home) = among(&self.homes.borrow()) {
            return Some(home);
        }
        among(&self.link.api().ok()?.homes().await.ok()?)
    }

    /// The home whose device a grant names.
    async fn receiver_of(&self, grant: &Grant) -> Option<HomeId> {
        if let Some(home) = self.home_of(grant.receiver).await {
            return Some(home);
        }
        let order = store::order(&self.db, grant.order).await.ok()??;
        Some(order.entry.receiver)
    }

    async fn initiative_of(&self, grant: &Grant) -> Initiative {
        match store::order(&self.db, grant.order).await {
            Ok(Some(order)) => order.entry.initiative,
            // The server has judged it; here, the stricter common case.
            _ => Initiative::Pull,
        }
    }
}

fn exchange_of(
    title: &Title,
    initiative: Initiative,
    sender: HomeId,
    receiver: HomeId,
) -> Exchange {
    let party = |home| Party { home, active: true };
    Exchange {
        initiative,
        sender: party(sender),
        receiver: party(receiver),
        kind: title.kind,
        bytes: title.sealed_bytes(),
    }
}

impl BlobSource for Held {
    fn hashes(&self) -> &HashList {
        match self {
            Self::Title(blob) => blob.hashes(),
            Self::Bundle(seed) => seed.hashes(),
        }
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let blob = match self {
            Self::Title(blob) => blob,
            Self::Bundle(seed) => return seed.read_at(offset, len).await,
        };
        blob.read_at(offset, len)
            .await
            .map_err(|error| match error {
                BlobError::Disk { source, .. } => source,
                other => io::Error::other(other),
            })
    }
}

/// Goes to the relay when the server says that a receiver waits there, and stops what is revoked. Until the process ends.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut wakes = inner.link.wakes();
    loop {
        match wakes.recv().await {
            Ok(Wake::Revoked(delivery)) => {
                if let Err(error) = inner.server.revoke(delivery).await {
                    warn!(%delivery, error = %chain(&error), "a revocation was not stored");
                }
            }
            Ok(Wake::Deliveries | Wake::Everything) | Err(RecvError::Lagged(_)) => {
                inner.look_send.notify_one();
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Asks what is to be sent, whenever that is worthwhile. Apart from [`run`], so that no slow answer delays a revocation.
pub(super) async fn attend(inner: Arc<Inner>) {
    loop {
        inner.look_send.notified().await;
        match join_relays(&inner.link, &inner.server).await {
            Ok(()) => {}
            Err(error) => debug!(%error, "the deliveries were not listed"),
        }
    }
}

async fn join_relays(
    link: &Link,
    server: &ChunkServer<Holder>,
) -> Result<(), crate::link::ApiError> {
    let tasks = link.api()?.deliveries().await?;
    let Some(enrolment) = link.enrolment() else {
        return Ok(());
    };
    let card = &enrolment.server;
    for grant in tasks.into_iter().filter_map(|task| task.relay_grant) {
        let relay = RelayPoint {
            host: enrolment.host.clone(),
            port: card.relay_port,
            key: card.key,
        };
        server.join_relay(relay, grant);
    }
    Ok(())
}
