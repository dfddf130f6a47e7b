//! The exchange: orders, offers, and the transfer of sealed chunks between homes (F8, F10, F12–F14, F22, F24, F61, F67).
//!
//! - [`store`]: everything that must survive kill -9. [`driver`]: outboxes, the server's list, one task per order.
//! - [`deliver`]: the life of one incoming order. [`receive`] performs what the pure machine [`fetch`] decides;
//!   [`connection`] is one line to a sender, [`dial`] and [`wire`] its transport.
//! - [`send`] and [`serve`]: the sending side. [`offers`]: what this home offers. [`seed`]: an update's bundle, from home to
//!   home.
//!
//! Nothing that the server or a person acknowledged is lost: requests are written down with their idempotency key before
//! they are sent, receipts before they are handed in, and repeated until answered.

mod connection;
mod deliver;
pub mod dial;
mod driver;
pub mod fetch;
#[cfg(test)]
mod fetch_sim;
mod fetch_words;
mod offers;
mod place;
mod progress;
mod receive;
mod rows;
mod seed;
mod send;
pub mod serve;
pub mod store;
pub mod wire;

pub use rows::{
    Direction, OfferMode, OfferRow, Offered, OrderRow, Ordered, Poster, Stage, WaitingOrder,
};
pub use seed::{BundleStream, Seed};
pub use send::Holder;
pub use store::SCHEMA;

use crate::catalog::{Catalog, CatalogError, Listing};
use crate::library::{Library, LibraryError};
use crate::link::{ApiError, Link, RESYNC_EVERY, Wake};
use crate::rights::Rights;
use mantel_protocol::api::{AccountAnswer, HomeEntry, SeedOffer};
use mantel_protocol::blob::HashList;
use mantel_protocol::ids::{HomeId, OrderId, TitleId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::license::Terms;
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::restriction::Initiative;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, DbError};
use mantel_runtime::logging::chain;
use mantel_runtime::tasks::Tasks;
use mantel_runtime::tls::TlsError;
use serve::{ChunkServer, Sending};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, watch};
use tracing::{debug, warn};

/// The most orders that wait for the server's answer.
pub const MAX_WAITING: usize = 200;

/// How this gateway exchanges.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeOptions {
    /// Whether direct connections are tried and accepted; else all goes through the relay.
    pub direct: bool,
    /// Orders received at once.
    pub receive_at_once: usize,
}

/// Why something was not ordered, offered or cancelled; Display is for a person.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The server was not reached, or said no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No such title here.
    #[error("this title is not in the library; it may have been removed")]
    NoTitle,
    /// Only its publisher offers a title.
    #[error("this title came from another home; only your own titles can be offered or shared")]
    NotYours,
    /// It is being imported.
    #[error("this title is still being imported; offer it when it is ready")]
    NotReady,
    /// Its key is lost.
    #[error("this title's key cannot be read; import it again")]
    NoKey,
    /// The catalog does not list it.
    #[error("this title is not listed for your home any more")]
    NotListed,
    /// No such home.
    #[error("this home is not in the server's directory")]
    NoHome,
    /// Too many homes.
    #[error(
        "a title can be shared with at most {} homes",
        mantel_protocol::api::MAX_AUDIENCE
    )]
    Audience,
    /// It is in the catalog already.
    #[error("this title is in the catalog; withdraw it there before sharing it privately")]
    InCatalog,
    /// Below zero.
    #[error("a price cannot be below zero")]
    Price,
    /// Above what was agreed to.
    #[error(
        "the price is now {now}; nothing was ordered. Look at the title again and order at that price"
    )]
    PriceChanged {
        /// The price in the catalog.
        now: Money,
    },
    /// Too many orders wait.
    #[error("{MAX_WAITING} orders wait for the server already; try again when it answers")]
    TooMany,
    /// A key that cannot be sealed to.
    #[error("the keys could not be sealed for the receiver; tell the operator")]
    Seal,
    /// The library failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The database failed.
    #[error("the database could not be read or written; nothing was changed")]
    Db(#[from] DbError),
}

/// The exchange; cheap to clone.
#[derive(Clone)]
pub struct Exchange {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    db: Db,
    clock: Clock,
    link: Link,
    library: Library,
    catalog: Catalog,
    rights: Rights,
    server: ChunkServer<Holder>,
    config: ExchangeOptions,
    /// Orders received at once.
    places: Semaphore,
    /// Asks for a round of talk with the server about orders.
    look: Notify,
    /// Asks for a look at what is to be sent.
    look_send: Notify,
    /// Asks for homes, restrictions and catalog.
    look_around: Notify,
    /// The stored orders changed.
    changed: Notify,
    orders: watch::Sender<Arc<Vec<OrderRow>>>,
    waiting: watch::Sender<Arc<Vec<WaitingOrder>>>,
    offers: watch::Sender<Arc<Vec<OfferRow>>>,
    homes: watch::Sender<Arc<Vec<HomeEntry>>>,
    /// The bundle that other homes are given.
    seed: watch::Sender<Option<Arc<Seed>>>,
}

/// Why the exchange did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database failed.
    #[error("the orders could not be read")]
    Db(#[from] DbError),
    /// The key makes no TLS server.
    #[error("this gateway's key cannot be used")]
    Tls(#[from] TlsError),
}

impl Exchange {
    /// Goes on with everything that was under way. `listener` takes direct connections from other homes.
    #[allow(
        clippy::too_many_arguments,
        reason = "one of each part that the exchange joins; called once"
    )]
    pub async fn start(
        config: ExchangeOptions,
        listener: TcpListener,
        db: Db,
        clock: Clock,
        link: Link,
        library: Library,
        catalog: Catalog,
        rights: Rights,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let homes = watch::Sender::new(Arc::new(store::homes(&db).await?));
        let seed = watch::Sender::new(None);
        let holder = Holder {
            db: db.clone(),
            link: link.clone(),
            library: library.clone(),
            rights: rights.clone(),
            homes: homes.subscribe(),
            seed: seed.subscribe(),
        };
        let server =
            ChunkServer::new(&link.identity().device, Arc::new(holder), db.clone(), tasks)?;
        if config.direct {
            server.listen(listener);
        }
        let inner = Arc::new(Inner {
            db,
            clock,
            link,
            library,
            catalog,
            rights,
            server,
            places: Semaphore::new(config.receive_at_once.max(1)),
            config,
            look: Notify::new(),
            look_send: Notify::new(),
            look_around: Notify::new(),
            changed: Notify::new(),
            orders: watch::Sender::new(Arc::default()),
            waiting: watch::Sender::new(Arc::default()),
            offers: watch::Sender::new(Arc::default()),
            homes,
            seed,
        });
        inner.show_offers().await?;
        inner.show_waiting().await?;
        tasks.spawn(
            "exchange-orders",
            driver::run(Arc::clone(&inner), tasks.child()),
        );
        tasks.spawn("exchange-sync", driver::sync(Arc::clone(&inner)));
        tasks.spawn("exchange-offers", offers::run(Arc::clone(&inner)));
        tasks.spawn("exchange-revoke", send::run(Arc::clone(&inner)));
        tasks.spawn("exchange-send", send::attend(Arc::clone(&inner)));
        tasks.spawn("exchange-look", look_again(Arc::clone(&inner)));
        Ok(Self { inner })
    }

    /// All orders that concern this home, newest first.
    pub fn orders(&self) -> watch::Receiver<Arc<Vec<OrderRow>>> {
        self.inner.orders.subscribe()
    }

    /// Orders that the server has not answered, oldest first.
    pub fn waiting(&self) -> watch::Receiver<Arc<Vec<WaitingOrder>>> {
        self.inner.waiting.subscribe()
    }

    /// What this home offers.
    pub fn offers(&self) -> watch::Receiver<Arc<Vec<OfferRow>>> {
        self.inner.offers.subscribe()
    }

    /// The homes of the directory, this one included.
    pub fn homes(&self) -> watch::Receiver<Arc<Vec<HomeEntry>>> {
        self.inner.homes.subscribe()
    }

    /// What may be ordered.
    pub fn listings(&self) -> watch::Receiver<Arc<Vec<Listing>>> {
        self.inner.catalog.listings()
    }

    /// Streams that this home sends now.
    pub fn sending(&self) -> Vec<Sending> {
        self.inner.server.sending()
    }

    /// Whether other homes may connect directly.
    pub fn is_direct(&self) -> bool {
        self.inner.config.direct
    }

    /// From now on other homes are given this bundle, those that show the server's grant for it; `None`: none.
    pub fn give_bundle(&self, seed: Option<Seed>) {
        self.inner.seed.send_replace(seed.map(Arc::new));
    }

    /// Connects to the first of the homes named that gives the bundle with these hashes, from its chunk `first` on;
    /// never through the relay. `without`: homes that are left out.
    pub async fn fetch_bundle(
        &self,
        seeds: &[SeedOffer],
        hashes: &HashList,
        first: u64,
        without: &BTreeSet<DeviceId>,
    ) -> Option<BundleStream> {
        let key = &self.inner.link.identity().device;
        seed::open_first(key, seeds, hashes, first, without).await
    }

    /// Asks the server for homes, restrictions and catalog now: somebody opened a page that shows them. Does not wait.
    pub fn refresh(&self) {
        self.inner.look_around.notify_one();
    }

    /// The account at the server.
    pub async fn account(&self) -> Result<AccountAnswer, ExchangeError> {
        Ok(self.inner.link.api()?.account().await?)
    }

    /// Homes known by an IP address, MAC address or serial number (F5, F6).
    pub async fn look_up(&self, address: &str) -> Result<Vec<HomeEntry>, ExchangeError> {
        Ok(self.inner.link.api()?.look_up(address).await?)
    }

    /// Offers an own title in the catalog.
    pub async fn offer_catalog(
        &self,
        title: TitleId,
        price: Money,
        terms: Terms,
        poster: Poster,
    ) -> Result<Offered, ExchangeError> {
        offers::catalog(&self.inner, title, price, terms, poster).await
    }

    /// Shares an own title with these homes too, end to end (F64).
    pub async fn share(&self, title: TitleId, homes: &[HomeId]) -> Result<Offered, ExchangeError> {
        offers::share(&self.inner, title, homes).await
    }

    /// Offers a title no longer. What was delivered stays delivered.
    pub async fn withdraw(&self, title: TitleId) -> Result<Offered, ExchangeError> {
        offers::withdraw(&self.inner, title).await
    }

    /// Orders a listed title for this home, or for another as a gift (F13). `max_price`: `None`: the price listed now.
    pub async fn order(
        &self,
        title: TitleId,
        receiver: Option<HomeId>,
        max_price: Option<Money>,
    ) -> Result<Ordered, ExchangeError> {
        let entry = self
            .inner
            .catalog
            .entry(title)
            .await?
            .ok_or(ExchangeError::NotListed)?;
        let listed = place::price_of(&entry);
        let max_price = max_price.unwrap_or(listed);
        if listed.currency != max_price.currency || listed.minor > max_price.minor {
            return Err(ExchangeError::PriceChanged { now: listed });
        }
        self.place(title, receiver, max_price, Initiative::Pull)
            .await
    }

    /// Sends an own title to another home (F10): shares it, if it is not offered already, and orders the delivery.
    pub async fn push(&self, title: TitleId, home: HomeId) -> Result<Ordered, ExchangeError> {
        let price = match offers::mode_of(&self.inner, title) {
            Some(OfferMode::Catalog { price }) => {
                let entry = self.inner.catalog.entry(title).await?;
                entry.as_ref().map_or(price, place::price_of)
            }
            Some(OfferMode::Private { homes }) if homes.contains(&home) => {
                Money::new(0, Currency::EUR)
            }
            _ => {
                self.share(title, &[home]).await?;
                Money::new(0, Currency::EUR)
            }
        };
        self.place(title, Some(home), price, Initiative::Push).await
    }

    /// Cancels an order; its hold is released. When the server is away it is cancelled as soon as it answers.
    pub async fn cancel(&self, order: OrderId) -> Result<(), ExchangeError> {
        let inner = &self.inner;
        store::queue_cancel(&inner.db, order).await?;
        let answer = inner.link.api()?.cancel(order).await;
        let entry = match answer {
            Ok(entry) => Some(entry),
            Err(error) if error.passes() => return Ok(()),
            Err(error) => {
                store::cancel_answered(&inner.db, order, None).await?;
                inner.look.notify_one();
                return Err(error.into());
            }
        };
        store::cancel_answered(&inner.db, order, entry).await?;
        inner.changed.notify_one();
        Ok(())
    }

    /// Takes a refused order off the list of those that wait.
    pub async fn dismiss(&self, key: &str) -> Result<(), ExchangeError> {
        store::unqueue_order(&self.inner.db, key.to_owned()).await?;
        Ok(self.inner.show_waiting().await?)
    }
}

impl Inner {
    async fn show_waiting(&self) -> Result<(), DbError> {
        let rows: Vec<WaitingOrder> = store::queued_orders(&self.db)
            .await?
            .into_iter()
            .map(|(waiting, _)| waiting)
            .collect();
        self.waiting.send_if_modified(|now| {
            let changed = **now != rows;
            if changed {
                *now = Arc::new(rows);
            }
            changed
        });
        Ok(())
    }

    async fn refresh_homes(&self) -> Result<(), ExchangeError> {
        let fresh = self.link.api()?.homes().await?;
        let known = self.homes.borrow().clone();
        if *known != fresh {
            store::put_homes(&self.db, &fresh).await?;
            self.homes.send_replace(Arc::new(fresh));
            self.changed.notify_one();
        }
        Ok(())
    }
}

/// Keeps homes, restrictions and catalog fresh, until the process ends.
async fn look_again(inner: Arc<Inner>) {
    let mut wakes = inner.link.wakes();
    let mut every = tokio::time::interval(RESYNC_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = Wake::Everything;
    loop {
        if inner.link.enrolment().is_some() {
            look(&inner, due).await;
        }
        due = loop {
            tokio::select! {
                _ = every.tick() => break Wake::Everything,
                () = inner.look_around.notified() => break Wake::Everything,
                wake = wakes.recv() => match wake {
                    Ok(wake @ (Wake::Everything | Wake::Catalog | Wake::Restrictions)) => break wake,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => break Wake::Everything,
                    Err(RecvError::Closed) => return,
                },
            }
        };
    }
}

async fn look(inner: &Inner, due: Wake) {
    let everything = due == Wake::Everything;
    if (everything || due == Wake::Restrictions)
        && let Err(error) = inner.rights.refresh().await
    {
        debug!(error = %chain(&error), "the restrictions were not refreshed");
    }
    if let Err(error) = inner.refresh_homes().await {
        debug!(error = %chain(&error), "the directory was not refreshed");
    }
    if (everything || due == Wake::Catalog)
        && let Err(error) = inner.catalog.refresh().await
    {
        match error {
            CatalogError::Api(error) => debug!(%error, "the catalog was not refreshed"),
            CatalogError::Db(error) => warn!(error = %chain(&error), "the catalog was not stored"),
        }
    }
}
