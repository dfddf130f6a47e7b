//! Places an order: written down with its idempotency key, then asked for, then repeated until answered (F12–F14).

use super::{Exchange, ExchangeError, MAX_WAITING, Ordered, WaitingOrder, store};
use crate::link::api::random_hex;
use crate::link::{ApiError, LinkStatus};
use mantel_protocol::api::{
    Offered as ListedAs, OrderLimits, OrderRequest, PaymentInfo, TitleEntry,
};
use mantel_protocol::ids::{HomeId, TitleId};
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::restriction::Initiative;
use tracing::debug;

impl Exchange {
    /// Writes an order down, asks the server, and takes its answer.
    pub(super) async fn place(
        &self,
        title: TitleId,
        receiver: Option<HomeId>,
        max_price: Money,
        initiative: Initiative,
    ) -> Result<Ordered, ExchangeError> {
        let inner = &self.inner;
        if inner.waiting.borrow().len() >= MAX_WAITING {
            return Err(ExchangeError::TooMany);
        }
        let request = self.request(title, receiver, max_price, initiative)?;
        let key = request.idempotency_key.clone();
        let title_name = self.name_of(title).await;
        let waiting = WaitingOrder {
            key: key.clone(),
            title,
            title_name,
            receiver: request.receiver,
            since: inner.clock.now(),
            problem: None,
        };
        store::queue_order(&inner.db, waiting, &request).await?;
        inner.show_waiting().await?;
        if matches!(*inner.link.status().borrow(), LinkStatus::Offline { .. }) {
            // A person need not wait until a request to a server that is away times out: the driver asks again.
            inner.look.notify_one();
            return Ok(Ordered::Waiting);
        }
        let answer = inner.link.api()?.order(&request).await;
        let ordered = match answer {
            Ok(entry) => {
                let id = entry.order;
                store::order_placed(&inner.db, key, entry).await?;
                inner.changed.notify_one();
                inner.look.notify_one();
                Ok(Ordered::Placed(id))
            }
            Err(error) if error.passes() => {
                debug!(%error, "an order waits for the server");
                Ok(Ordered::Waiting)
            }
            Err(error) => {
                store::unqueue_order(&inner.db, key).await?;
                Err(error.into())
            }
        };
        inner.show_waiting().await?;
        ordered
    }

    fn request(
        &self,
        title: TitleId,
        receiver: Option<HomeId>,
        max_price: Money,
        initiative: Initiative,
    ) -> Result<OrderRequest, ExchangeError> {
        let inner = &self.inner;
        let enrolment = inner.link.enrolment().ok_or(ApiError::NotEnrolled)?;
        let receiver = receiver.unwrap_or(enrolment.home);
        let (device, seal_key) = if receiver == enrolment.home {
            (inner.link.device(), inner.link.identity().seal.seal_key())
        } else {
            let homes = inner.homes.borrow().clone();
            let home = homes
                .iter()
                .find(|home| home.home == receiver)
                .ok_or(ExchangeError::NoHome)?;
            (home.device, home.seal_key)
        };
        let limits = OrderLimits::default();
        let payment = PaymentInfo {
            device,
            seal_key,
            payer: enrolment.home,
            max_price,
            limits,
        };
        Ok(OrderRequest {
            idempotency_key: random_hex(),
            title,
            receiver,
            initiative,
            payment,
        })
    }

    async fn name_of(&self, title: TitleId) -> String {
        if let Some(listing) = self.inner.catalog.listing(title) {
            return listing.name;
        }
        let found = self.inner.library.title(title).await;
        found
            .ok()
            .flatten()
            .map_or_else(|| "a title".to_owned(), |title| title.name)
    }
}

pub(super) fn price_of(entry: &TitleEntry) -> Money {
    match &entry.offered {
        ListedAs::Catalog { price, .. } => *price,
        ListedAs::Private { .. } => Money::new(0, Currency::EUR),
    }
}
