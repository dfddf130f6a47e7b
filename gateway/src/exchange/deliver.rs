//! The life of one incoming order, from "held" to "ready" (F24). Each step looks at what is stored, so that a run that
//! was cut off anywhere is simply run again:
//!
//! 1. The manifest is opened and the title added to the library.
//! 2. Each blob is fetched ([`super::receive`]).
//! 3. A receipt for each is signed, stored, and sent until answered: the payment is captured once.
//! 4. The pass is redeemed for a license.
//! 5. The title is ready.

use super::fetch::Paths;
use super::progress::Meter;
use super::receive::{self, FetchFailure, Job};
use super::{Inner, Stage, store};
use crate::catalog::{CatalogError, ListingError, Opened};
use crate::library::{BlobError, LibraryError};
use crate::link::api::jittered;
use crate::link::{ApiError, Enrolment};
use crate::rights::{LocalDenial, RightsError};
use mantel_protocol::api::{LicenseRequest, OrderEntry, OrderState, ReceiptRequest};
use mantel_protocol::ids::OrderId;
use mantel_protocol::receipt::{Path, Receipt};
use mantel_protocol::restriction::{Exchange, Party};
use mantel_protocol::token::sign;
use mantel_runtime::db::DbError;
use mantel_runtime::logging::chain;
use mantel_runtime::tasks::Tasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{debug, info};

/// The first wait after a step failed; doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between tries of a step.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Why a step did not succeed now. All of them are tried again while the order stands.
#[derive(Debug, thiserror::Error)]
enum StepFailure {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(
        "the title is no longer listed for this home; what arrived is kept. Cancel the order if it stays so"
    )]
    NotListed,
    #[error("{0}; the order goes on when the sending home offers the title again, or cancel it")]
    Listing(#[from] ListingError),
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error(transparent)]
    Rights(#[from] RightsError),
    #[error("{0}")]
    Restricted(#[from] LocalDenial),
    #[error(transparent)]
    Fetch(#[from] FetchFailure),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("the server settled the order without a pass; it is asked again")]
    NoPass,
}

/// What came of an order.
#[derive(PartialEq, Eq)]
enum Outcome {
    Ready,
    Over,
}

/// Runs an order until it is ready or over, however often it must try.
pub(super) async fn run(
    inner: Arc<Inner>,
    order: OrderId,
    mut meter: Meter,
    mut nudge: watch::Receiver<u64>,
    tasks: Tasks,
) {
    let mut wait = FIRST_WAIT;
    loop {
        nudge.mark_unchanged();
        match step_through(&inner, order, &mut meter, &nudge, &tasks).await {
            Ok(Outcome::Ready) => {
                meter.set_problem(None);
                meter.set_stage(Stage::Ready);
                return;
            }
            Ok(Outcome::Over) => return meter.set_stage(Stage::Over),
            Err(StepFailure::Fetch(FetchFailure::Over)) => {
                // The server's list will say what became of it; until then there is nothing to do here.
                debug!(%order, "the server grants no more for this order");
                inner.look.notify_one();
                wait = LONGEST_WAIT;
            }
            Err(error) => {
                debug!(%order, error = %chain(&error), "an order waits");
                meter.set_problem(Some(error.to_string()));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(wait)) => wait = (wait * 2).min(LONGEST_WAIT),
            changed = nudge.changed() => {
                if changed.is_err() { return }
                wait = FIRST_WAIT;
            }
        }
    }
}

async fn step_through(
    inner: &Arc<Inner>,
    order: OrderId,
    meter: &mut Meter,
    nudge: &watch::Receiver<u64>,
    tasks: &Tasks,
) -> Result<Outcome, StepFailure> {
    let Some(mirrored) = store::order(&inner.db, order).await? else {
        return Ok(Outcome::Over);
    };
    let mut entry = mirrored.entry;
    let enrolment = inner.link.enrolment().ok_or(ApiError::NotEnrolled)?;
    if mirrored.ready {
        return Ok(Outcome::Ready);
    }
    if matches!(entry.state, OrderState::Cancelled | OrderState::Failed) {
        return Ok(Outcome::Over);
    }
    let opened = prepare(inner, &entry).await?;
    if entry.state != OrderState::Settled {
        let path = collect(inner, &enrolment, &entry, &opened, meter, nudge, tasks).await?;
        meter.set_stage(Stage::Receipt);
        entry = hand_in(inner, &entry, path).await?;
        info!(%order, state = entry.state.as_str(), "the receipt was taken");
    }
    meter.set_stage(Stage::License);
    make_ready(inner, &entry, &opened).await?;
    meter.set_problem(None);
    Ok(Outcome::Ready)
}

/// Opens the listing and gives the title its place in the library.
async fn prepare(inner: &Inner, entry: &OrderEntry) -> Result<Opened, StepFailure> {
    let listed = if let Some(listed) = inner.catalog.entry(entry.title).await? {
        listed
    } else {
        inner.catalog.refresh().await?;
        inner
            .catalog
            .entry(entry.title)
            .await?
            .ok_or(StepFailure::NotListed)?
    };
    let opened = inner.catalog.open_entry(&listed)?;
    let token = opened.manifest_token.clone();
    inner
        .library
        .add_arriving(&opened.manifest, token, opened.from.clone())
        .await?;
    if let Some(keys) = &opened.keys {
        inner.library.store_keys(entry.title, keys).await?;
    }
    Ok(opened)
}

/// Fetches every blob that is not here; the path on which the last bytes came.
async fn collect(
    inner: &Arc<Inner>,
    enrolment: &Enrolment,
    entry: &OrderEntry,
    opened: &Opened,
    meter: &mut Meter,
    nudge: &watch::Receiver<u64>,
    tasks: &Tasks,
) -> Result<Option<Path>, StepFailure> {
    for (blob, bytes) in receive::bytes_here(inner, &entry.blobs).await {
        meter.set_blob(blob, bytes);
    }
    let party = |home| Party { home, active: true };
    inner.rights.may_exchange(&Exchange {
        initiative: entry.initiative,
        sender: party(entry.sender),
        receiver: party(entry.receiver),
        kind: opened.manifest.kind,
        bytes: entry.total_bytes,
    })?;
    meter.set_stage(Stage::Waiting);
    let _place = inner.places.acquire().await.map_err(|_| DbError::Closed)?;
    meter.set_problem(None);
    meter.set_stage(Stage::Connecting);
    let paths = if inner.config.direct {
        Paths::Any
    } else {
        Paths::Relay
    };
    let job = Job {
        inner,
        enrolment,
        order: entry,
        paths,
        nudge: nudge.clone(),
        tasks,
    };
    let mut last = None;
    for blob in &entry.blobs {
        last = receive::fetch(&job, *blob, meter).await?.or(last);
    }
    Ok(last)
}

/// Signs and stores receipts, then sends them until the server has answered.
async fn hand_in(
    inner: &Inner,
    entry: &OrderEntry,
    path: Option<Path>,
) -> Result<OrderEntry, StepFailure> {
    let key = &inner.link.identity().device;
    for blob in &entry.blobs {
        let receipt = Receipt {
            order: entry.order,
            delivery: entry.delivery,
            title: entry.title,
            grants: store::grants_used(&inner.db, entry.order, blob.blob).await?,
            blob: blob.blob,
            bytes: blob.sealed_bytes,
            path: path.unwrap_or(Path::Direct),
            receiver: key.device_id(),
            received: inner.link.now_signed(),
        };
        store::put_receipt(&inner.db, entry.order, blob.blob, sign(key, &receipt)).await?;
    }
    let stored = store::receipts(&inner.db, entry.order).await?;
    let receipts = stored.into_iter().map(|(_, token)| token).collect();
    let settled = inner
        .link
        .api()?
        .receipts(&ReceiptRequest { receipts })
        .await?;
    store::settle(&inner.db, settled.clone()).await?;
    Ok(settled)
}

/// Redeems the pass, and makes the title playable.
async fn make_ready(inner: &Inner, entry: &OrderEntry, opened: &Opened) -> Result<(), StepFailure> {
    let title = entry.title;
    // Settled before everything was here (a receipt answered, then the disk was exchanged): the bytes are still owed.
    for blob in &entry.blobs {
        if inner.library.blobs().read(blob.blob).await?.is_none() {
            return Err(BlobError::Damaged(blob.blob).into());
        }
    }
    if opened.keys.is_none() {
        let pass = entry.pass.clone().ok_or(StepFailure::NoPass)?;
        let seal_key = inner.link.identity().seal.seal_key();
        let answer = inner
            .link
            .api()?
            .license(&LicenseRequest { pass, seal_key })
            .await?;
        inner.rights.store_license(title, answer.license).await?;
    }
    inner.library.set_ready(title).await?;
    if let Some(asset) = opened.manifest.assets.first() {
        match inner.rights.content_key(title, asset.blob).await {
            Ok(key) => {
                if let Err(error) = inner.library.make_thumbnail(title, key).await {
                    debug!(%title, error = %chain(&error), "no thumbnail");
                }
            }
            Err(error) => debug!(%title, error = %chain(&error), "no key for a thumbnail"),
        }
    }
    store::set_ready(&inner.db, entry.order).await?;
    info!(order = %entry.order, %title, "ready");
    Ok(())
}
