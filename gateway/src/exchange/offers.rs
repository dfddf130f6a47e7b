//! What this home offers: in the catalog, keys sealed to the vault (F25, F46), or to homes named, keys sealed to their
//! devices (F64). An offer is stored before it is sent and repeated until answered.

use super::{ExchangeError, Inner, OfferMode, OfferRow, Offered, Poster, store};
use crate::library::{Origin, Title, TitleState};
use crate::link::{ApiClient, Enrolment, RESYNC_EVERY, Wake};
use data_encoding::BASE64;
use mantel_protocol::api::{
    BlobEntry, HomeEntry, MAX_AUDIENCE, MAX_POSTER_BYTES, Offer, PublishRequest,
};
use mantel_protocol::envelope::{Envelope, seal};
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::{Manifest, PrivateShare, TitleKeys, share_context, vault_context};
use mantel_protocol::money::Money;
use mantel_protocol::token::sign;
use mantel_runtime::db::DbError;
use mantel_runtime::logging::chain;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, warn};

/// A title of this home, ready to be offered.
struct Own {
    title: Title,
    manifest: String,
    keys: TitleKeys,
}

async fn own(inner: &Inner, id: TitleId) -> Result<Own, ExchangeError> {
    let title = inner
        .library
        .title(id)
        .await?
        .ok_or(ExchangeError::NoTitle)?;
    if !matches!(title.origin, Origin::Own { .. }) || title.publisher != inner.link.device() {
        return Err(ExchangeError::NotYours);
    }
    if title.state != TitleState::Ready || title.assets.is_empty() {
        return Err(ExchangeError::NotReady);
    }
    let mut keys = Vec::with_capacity(title.assets.len());
    for asset in &title.assets {
        let key = inner
            .library
            .own_key(id, asset.blob)
            .await?
            .ok_or(ExchangeError::NoKey)?;
        keys.push((asset.blob, key));
    }
    let manifest = Manifest {
        title: id,
        name: title.name.clone(),
        kind: title.kind,
        recorded: title.recorded,
        publisher: title.publisher,
        assets: title.assets.clone(),
    };
    if !manifest.is_well_formed() {
        return Err(ExchangeError::NotReady);
    }
    let manifest = sign(&inner.link.identity().device, &manifest);
    let keys = TitleKeys::new(keys.iter().map(|(blob, key)| (*blob, key)));
    Ok(Own {
        title,
        manifest,
        keys,
    })
}

fn blobs_of(title: &Title) -> Vec<BlobEntry> {
    let entry = |asset: &mantel_protocol::manifest::Asset| BlobEntry {
        blob: asset.blob,
        sealed_bytes: asset.sealed_bytes,
    };
    title.assets.iter().map(entry).collect()
}

pub(super) async fn catalog(
    inner: &Inner,
    id: TitleId,
    price: Money,
    terms: Terms,
    poster: Poster,
) -> Result<Offered, ExchangeError> {
    if price.minor < 0 {
        return Err(ExchangeError::Price);
    }
    let enrolment = enrolled(inner)?;
    let own = own(inner, id).await?;
    let picture = match poster {
        Poster::Hide => None,
        Poster::Show => inner
            .library
            .thumbnail(id)
            .await?
            .filter(|jpeg| jpeg.len() <= MAX_POSTER_BYTES),
    };
    let keys = seal(
        &enrolment.server.vault_key,
        &vault_context(id),
        &own.keys.to_bytes(),
    )
    .map_err(|_| ExchangeError::Seal)?;
    let request = PublishRequest {
        title: id,
        blobs: blobs_of(&own.title),
        offer: Offer::Catalog {
            manifest: own.manifest,
            keys,
            price,
            terms,
            poster: picture.map(|jpeg| BASE64.encode(&jpeg)),
        },
    };
    publish(inner, id, OfferMode::Catalog { price }, request).await
}

pub(super) async fn share(
    inner: &Inner,
    id: TitleId,
    homes: &[HomeId],
) -> Result<Offered, ExchangeError> {
    let enrolment = enrolled(inner)?;
    let own = own(inner, id).await?;
    let mut audience: Vec<HomeId> = match mode_of(inner, id) {
        Some(OfferMode::Catalog { .. }) => return Err(ExchangeError::InCatalog),
        Some(OfferMode::Private { homes }) => homes,
        None => Vec::new(),
    };
    audience.extend(homes.iter().copied().filter(|home| *home != enrolment.home));
    audience.sort_unstable();
    audience.dedup();
    if audience.is_empty() {
        return Err(ExchangeError::NoHome);
    }
    if audience.len() > MAX_AUDIENCE {
        return Err(ExchangeError::Audience);
    }
    let known = known_homes(inner, &audience).await?;
    let sealed = audience
        .iter()
        .filter_map(|home| known.iter().find(|entry| entry.home == *home))
        .map(|home| Ok((home.home, envelope_for(&own, id, home)?)))
        .collect::<Result<Vec<_>, ExchangeError>>()?;
    if homes
        .iter()
        .any(|home| !sealed.iter().any(|(known, _)| known == home))
    {
        return Err(ExchangeError::NoHome);
    }
    let audience = sealed.iter().map(|(home, _)| *home).collect();
    let offer = Offer::Private {
        audience: sealed,
        kind: own.title.kind,
    };
    let request = PublishRequest {
        title: id,
        blobs: blobs_of(&own.title),
        offer,
    };
    publish(inner, id, OfferMode::Private { homes: audience }, request).await
}

fn envelope_for(own: &Own, id: TitleId, home: &HomeEntry) -> Result<Envelope, ExchangeError> {
    let share = PrivateShare {
        manifest: own.manifest.clone(),
        keys: own.keys.clone(),
    };
    let plain = zeroize::Zeroizing::new(serde_json::to_vec(&share).expect("a share is plain data"));
    seal(&home.seal_key, &share_context(id, home.device), &plain).map_err(|_| ExchangeError::Seal)
}

/// The directory's entries for an audience; asked anew when one is unknown here.
async fn known_homes(
    inner: &Inner,
    audience: &[HomeId],
) -> Result<Arc<Vec<HomeEntry>>, ExchangeError> {
    let known = inner.homes.borrow().clone();
    if audience
        .iter()
        .all(|home| known.iter().any(|entry| entry.home == *home))
    {
        return Ok(known);
    }
    inner.refresh_homes().await?;
    Ok(inner.homes.borrow().clone())
}

pub(super) async fn withdraw(inner: &Inner, id: TitleId) -> Result<Offered, ExchangeError> {
    enrolled(inner)?;
    let mode = mode_of(inner, id).unwrap_or(OfferMode::Private { homes: Vec::new() });
    store::put_offer(&inner.db, id, &mode, None).await?;
    send_now(inner, id).await
}

fn enrolled(inner: &Inner) -> Result<Arc<Enrolment>, ExchangeError> {
    inner
        .link
        .enrolment()
        .ok_or(ExchangeError::Api(crate::link::ApiError::NotEnrolled))
}

/// How a title is offered now.
pub(super) fn mode_of(inner: &Inner, id: TitleId) -> Option<OfferMode> {
    let offers = inner.offers.borrow();
    offers
        .iter()
        .find(|offer| offer.title == id && offer.problem.is_none())
        .map(|offer| offer.mode.clone())
}

async fn publish(
    inner: &Inner,
    id: TitleId,
    mode: OfferMode,
    request: PublishRequest,
) -> Result<Offered, ExchangeError> {
    store::put_offer(&inner.db, id, &mode, Some(&request)).await?;
    send_now(inner, id).await
}

/// Sends what was just stored. No answer is no error: it is repeated by itself. A refusal is one, and the offer is gone.
async fn send_now(inner: &Inner, id: TitleId) -> Result<Offered, ExchangeError> {
    let api = inner.link.api()?;
    let stored = store::offers(&inner.db).await?;
    let Some(offer) = stored.into_iter().find(|offer| offer.row.title == id) else {
        return Ok(Offered::Waiting);
    };
    let sent = send(inner, &api, &offer).await;
    inner.show_offers().await?;
    match sent {
        Ok(()) => {
            if let Err(error) = inner.catalog.refresh().await {
                debug!(%error, "the catalog was not refreshed");
            }
            Ok(Offered::Published)
        }
        Err(ExchangeError::Api(error)) if error.passes() => Ok(Offered::Waiting),
        Err(error) => Err(error),
    }
}

async fn send(
    inner: &Inner,
    api: &ApiClient,
    offer: &store::StoredOffer,
) -> Result<(), ExchangeError> {
    let id = offer.row.title;
    let answer = match &offer.request {
        Some(request) => api.publish(request).await.map(drop),
        None => api.withdraw(id).await,
    };
    match (answer, &offer.request) {
        (Ok(()), Some(_)) => store::offer_sent(&inner.db, id).await?,
        (Ok(()), None) => store::remove_offer(&inner.db, id).await?,
        (Err(error), _) if error.passes() => return Err(error.into()),
        // Nothing to withdraw is withdrawn.
        (Err(error), None) if super::driver::is_settled_already(&error) => {
            store::remove_offer(&inner.db, id).await?;
        }
        (Err(error), _) => {
            store::offer_refused(&inner.db, id, error.to_string()).await?;
            return Err(error.into());
        }
    }
    Ok(())
}

/// Repeats offers that were not answered, until the process ends.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut wakes = inner.link.wakes();
    let mut every = tokio::time::interval(RESYNC_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if let Err(error) = flush(&inner).await {
            warn!(error = %chain(&error), "offers could not be read or written");
        }
        loop {
            tokio::select! {
                _ = every.tick() => break,
                wake = wakes.recv() => match wake {
                    Ok(Wake::Everything) | Err(RecvError::Lagged(_)) => break,
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }
}

async fn flush(inner: &Inner) -> Result<(), DbError> {
    let Ok(api) = inner.link.api() else {
        return Ok(());
    };
    for offer in store::offers(&inner.db)
        .await?
        .iter()
        .filter(|offer| offer.row.waiting)
    {
        if let Err(error) = send(inner, &api, offer).await {
            debug!(title = %offer.row.title, %error, "an offer waits");
        }
    }
    inner.show_offers().await
}

impl Inner {
    /// Shows the offers as they are stored.
    pub(super) async fn show_offers(&self) -> Result<(), DbError> {
        let rows: Vec<OfferRow> = store::offers(&self.db)
            .await?
            .into_iter()
            .map(|offer| offer.row)
            .collect();
        self.offers.send_if_modified(|now| {
            let changed = **now != rows;
            if changed {
                *now = Arc::new(rows);
            }
            changed
        });
        Ok(())
    }
}
