//! [`Core`]: the server's parts in one value, for the API, the console, the relay and the broker; and the changes that
//! cross parts, each in one transaction.

mod seeds;
mod server;
mod views;

pub use server::Server;

use crate::catalog::{self, By, Offering, TitleMode, TitleState, Titles};
use crate::config::Config;
use crate::customers::operator::Operator;
use crate::customers::{self, Caller, Customers, Homes, Standing};
use crate::db;
use crate::directory::{self, Directory, HomeRow};
use crate::error::{MAX_NOTE_CHARS, Result, clean_note, missing};
use crate::identity::Identity;
use crate::ledger::{self, Ledger};
use crate::notice::{Notice, Notices};
use crate::orders::grants::Grants;
use crate::orders::progress::Progress;
use crate::orders::steps::{Desk, Scene};
use crate::orders::{self, Orders};
use crate::passes;
use crate::releases::{self, Releases};
use crate::restrictions::{self, Restrictions};
use crate::vault::{self, Vault};
use mantel_protocol::api::{HomeEntry, PublishRequest, TitleEntry};
use mantel_protocol::bus::Command;
use mantel_protocol::ids::{CustomerId, HomeId, RestrictionId, TitleId};
use mantel_protocol::key::DeviceId;
use mantel_protocol::restriction::Rule;
use mantel_protocol::token::{ServerTime, sign};
use mantel_runtime::clock::Clock;
use mantel_runtime::db::{Db, Schema};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The tables of all parts, in the order in which they are made.
pub const SCHEMAS: &[Schema] = &[
    customers::store::SCHEMA,
    directory::store::SCHEMA,
    catalog::store::SCHEMA,
    restrictions::store::SCHEMA,
    ledger::store::SCHEMA,
    orders::store::SCHEMA,
    passes::SCHEMA,
    vault::SCHEMA,
    releases::store::SCHEMA,
];

/// The longest random word with which a gateway asks for the time, characters.
pub const MAX_NONCE_CHARS: usize = 64;

/// All parts; cheap to clone.
#[derive(Clone)]
pub struct Core {
    /// The customers' accounts.
    pub customers: Customers,
    /// Homes, claim codes, log-ins of gateways.
    pub homes: Homes,
    /// The operator's log-in.
    pub operator: Operator,
    /// Where homes are.
    pub directory: Directory,
    /// The titles.
    pub titles: Titles,
    /// The rules.
    pub restrictions: Restrictions,
    /// The money.
    pub ledger: Ledger,
    /// The orders.
    pub orders: Orders,
    /// The grants, as the relay asks for them.
    pub grants: Grants,
    /// The content keys.
    pub vault: Vault,
    /// Versions of the appliance.
    pub releases: Releases,
    /// Who this server is.
    pub server: Server,
    db: Db,
    clock: Clock,
}

impl Core {
    /// Opens the data directory's keys and database. What gateways are to be told comes out of the receiver.
    pub async fn open(
        config: &Config,
        clock: Clock,
    ) -> Result<(Self, mpsc::Receiver<(DeviceId, Notice)>)> {
        let identity = Arc::new(Identity::load_or_create(
            &config.data_dir,
            config.public_name.as_deref(),
            clock.now(),
        )?);
        let db = Db::open(&config.data_dir.join("server.db"), SCHEMAS)?;
        let (notices, to_broker) = Notices::new();
        let currency = config.money.currency;
        let desk = Desk {
            identity: Arc::clone(&identity),
            currency,
            fee_permille: config.money.fee_permille,
        };
        let key = identity.signing().server_key();
        let progress = Progress::new(clock.clone());
        let base = || (db.clone(), clock.clone(), notices.clone());
        let directory = Directory::new(db.clone(), clock.clone(), notices.clone());
        let grants = Grants::new(
            db.clone(),
            clock.clone(),
            key,
            notices.clone(),
            progress.clone(),
        );
        let orders = Orders::new(
            db.clone(),
            clock.clone(),
            notices.clone(),
            desk,
            directory.clone(),
            progress,
        );
        let (d, c, n) = base();
        let customers = Customers::new(d, c, n, currency);
        let (d, c, n) = base();
        let homes = Homes::new(d, c, n, key);
        let (d, c, n) = base();
        let titles = Titles::new(d, c, n, currency);
        let (d, c, n) = base();
        let ledger = Ledger::new(d, c, n, currency);
        let (d, c, n) = base();
        let releases = Releases::open(&config.data_dir, d, c, n).await?;
        ledger.check_currency().await?;
        orders.resume().await?;
        let core = Self {
            customers,
            homes,
            operator: Operator::new(db.clone(), clock.clone()),
            directory,
            titles,
            restrictions: Restrictions::new(db.clone()),
            ledger,
            orders,
            grants,
            vault: Vault::new(db.clone(), clock.clone(), Arc::clone(&identity)),
            releases,
            server: Server::new(identity, config.clone()),
            db,
            clock,
        };
        Ok((core, to_broker))
    }

    /// Suspends an account: its deliveries stop, holds go back, and nothing moves until it is reopened (F17).
    pub async fn suspend(&self, customer: CustomerId, note: &str) -> Result<()> {
        self.set_standing(customer, Standing::Suspended, note).await
    }

    /// Reopens a suspended account.
    pub async fn reopen(&self, customer: CustomerId) -> Result<()> {
        self.set_standing(customer, Standing::Active, "").await
    }

    async fn set_standing(
        &self,
        customer: CustomerId,
        standing: Standing,
        note: &str,
    ) -> Result<()> {
        let note = clean_note(note, MAX_NOTE_CHARS, "the note")?;
        self.orders
            .transact(move |scene| {
                if !customers::store::set_standing(scene.tx, customer, standing, &note)? {
                    return Err(missing("customer"));
                }
                for home in customers::store::homes_of(scene.tx, customer)? {
                    scene.outbox.tell(home.device, Command::Restrictions);
                }
                catalog::tell_all(scene.tx, scene.outbox)?;
                end_of_payer(scene, customer, standing)?;
                scene.end_forbidden().map(drop)
            })
            .await
    }

    /// Adds a restriction. Deliveries that it forbids stop, and their holds go back.
    pub async fn add_restriction(
        &self,
        home: Option<HomeId>,
        rule: Rule,
        note: &str,
    ) -> Result<RestrictionId> {
        let note = note.to_owned();
        self.orders
            .transact(move |scene| {
                let id = restrictions::add(scene.tx, home, rule, &note, scene.now, scene.outbox)?;
                catalog::tell_all(scene.tx, scene.outbox)?;
                scene.end_forbidden()?;
                Ok(id)
            })
            .await
    }

    /// Removes a restriction.
    pub async fn remove_restriction(&self, id: RestrictionId) -> Result<()> {
        self.orders
            .transact(move |scene| {
                restrictions::remove(scene.tx, id, scene.outbox)?;
                catalog::tell_all(scene.tx, scene.outbox)
            })
            .await
    }

    /// The operator withdraws a title: its deliveries under way stop, and holds go back. Passes stay good.
    pub async fn withdraw_title(&self, title: TitleId) -> Result<()> {
        self.orders
            .transact(move |scene| withdraw(scene, title, By::Operator))
            .await
    }

    /// Takes a home's enrolment back: its gateway may no longer log in, and its connection and deliveries end.
    pub async fn remove_home(&self, home: HomeId) -> Result<()> {
        self.orders
            .transact(move |scene| {
                let device = customers::store::remove_home(scene.tx, home, scene.now)?
                    .ok_or_else(|| missing("home"))?;
                scene.outbox.disconnect(device);
                let why = "one of the two homes is no longer at this server";
                scene.end_those(why, |order| {
                    [order.sender, order.receiver, order.payer].contains(&home)
                })?;
                catalog::tell_all(scene.tx, scene.outbox)
            })
            .await
    }

    /// A gateway offers a title.
    pub async fn publish(&self, caller: Caller, request: PublishRequest) -> Result<TitleEntry> {
        let vault = self.server.identity().vault();
        let currency = self.server.currency();
        let offering = Offering::read(&caller, request, vault, currency)?;
        self.orders
            .transact(move |scene| {
                catalog::publish(scene.tx, &offering, scene.now, scene.outbox)?;
                let named = |home| offering.audience.iter().any(|(named, _)| *named == home);
                if offering.mode == TitleMode::Private {
                    let why = "the publisher no longer shares the title with this home";
                    scene.end_those(why, |order| {
                        order.title == offering.title && !named(order.receiver)
                    })?;
                }
                let title = catalog::store::find(scene.tx, offering.title)?
                    .ok_or_else(|| missing("title"))?;
                title.entry(scene.tx, caller.home, currency)
            })
            .await
    }

    /// A publisher withdraws its title.
    pub async fn withdraw_own(&self, caller: &Caller, title: TitleId) -> Result<()> {
        let home = caller.home;
        self.orders
            .transact(move |scene| {
                let known =
                    catalog::store::find(scene.tx, title)?.filter(|title| title.publisher == home);
                known.ok_or_else(|| missing("title of this home"))?;
                withdraw(scene, title, By::Publisher)
            })
            .await
    }

    /// What a home may order now, and what it offers itself.
    pub async fn titles_for(&self, caller: &Caller) -> Result<Vec<TitleEntry>> {
        let (caller, now, currency) = (caller.clone(), self.clock.now(), self.server.currency());
        self.db
            .read(move |c| views::titles_for(c, &caller, now, currency))
            .await
    }

    /// The other homes as a home sees them.
    pub async fn homes_for(&self, caller: &Caller) -> Result<Vec<HomeEntry>> {
        let rows = self.directory.homes(None).await?;
        self.entries(caller, rows).await
    }

    /// The homes that an address names (F5, F6), as a home sees them.
    pub async fn look_up(&self, caller: &Caller, address: &str) -> Result<Vec<HomeEntry>> {
        let rows = self.directory.look_up(address).await?;
        self.entries(caller, rows).await
    }

    async fn entries(&self, caller: &Caller, rows: Vec<HomeRow>) -> Result<Vec<HomeEntry>> {
        let (caller, now) = (caller.clone(), self.clock.now());
        self.db
            .read(move |c| {
                let rules = views::lasting(restrictions::store::for_homes(
                    c,
                    &views::all_of(&rows, caller.home),
                )?);
                rows.into_iter()
                    .map(|row| views::home_entry(c, &caller, row, &rules, now))
                    .collect()
            })
            .await
    }

    /// A home's restrictions, signed.
    pub async fn signed_restrictions(&self, caller: &Caller) -> Result<String> {
        let (caller, now, identity) = (
            caller.clone(),
            self.clock.now(),
            Arc::clone(self.server.identity()),
        );
        self.db
            .read(move |c| restrictions::signed_set(c, &caller, identity.signing(), now))
            .await
    }

    /// The time, signed.
    pub fn signed_time(&self, nonce: &str) -> Result<String> {
        let nonce = crate::error::clean(nonce, MAX_NONCE_CHARS, "the nonce")?;
        Ok(sign(
            self.server.signing_key(),
            &ServerTime {
                now: self.clock.now(),
                nonce,
            },
        ))
    }

    /// Whether the database answers.
    pub async fn is_healthy(&self) -> bool {
        let one: Result<Option<i64>> = self
            .db
            .read(|c| db::one(c, "SELECT 1", (), |row| row.get(0)))
            .await;
        matches!(one, Ok(Some(1)))
    }
}

fn end_of_payer(scene: &mut Scene<'_>, customer: CustomerId, standing: Standing) -> Result<()> {
    if standing == Standing::Active {
        return Ok(());
    }
    scene.end_those("the paying account was suspended", |order| {
        order.payer_customer == customer
    })
}

fn withdraw(scene: &mut Scene<'_>, title: TitleId, by: By) -> Result<()> {
    if !catalog::store::set_state(scene.tx, title, TitleState::Withdrawn, by, scene.now)? {
        return Err(missing("title"));
    }
    let why = match by {
        By::Publisher => "the publisher withdrew the title",
        By::Operator => "the operator withdrew the title",
    };
    scene.end_those(why, |order| order.title == title)?;
    catalog::tell_all(scene.tx, scene.outbox)
}
