//! Two homes and a real server on loopback.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(missing_docs, reason = "read by the tests beside it only")]

use futures_util::stream;
use mantel_gateway::app::{self, Running};
use mantel_gateway::config::Config;
use mantel_gateway::exchange::{Offered, OrderRow, Ordered, Poster};
use mantel_gateway::library::{ImportSource, TitleState};
use mantel_gateway::link::LinkStatus;
use mantel_protocol::ids::{CustomerId, HomeId, OrderId, TitleId};
use mantel_protocol::license::Terms;
use mantel_protocol::money::{Currency, Money};
use mantel_runtime::clock::Clock;
use mantel_runtime::logging::RecentLog;
use mantel_runtime::tasks::Tasks;
use mantel_runtime::tls::install_provider;
use mantel_server::app::Running as Server;
use mantel_server::config::Config as ServerConfig;
use mantel_server::orders::DeliveryView;
use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;

/// How long anything may take before the test says what it waited for.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const MIB: usize = 1024 * 1024;

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

pub fn euros(minor: i64) -> Money {
    Money::new(minor, Currency::EUR)
}

/// Waits until `good` finds what it looks for.
pub async fn until<T, R>(
    what: &str,
    mut from: watch::Receiver<T>,
    good: impl Fn(&T) -> Option<R>,
) -> R {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = good(&from.borrow_and_update()) {
                return found;
            }
            from.changed().await.expect("the gateway runs");
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub async fn start_server(data_dir: &FilePath, relay_rate: Option<u64>) -> Server {
    start_server_at(data_dir, relay_rate, [loopback(); 3]).await
}

/// `at`: where API, broker and relay listen.
pub async fn start_server_at(
    data_dir: &FilePath,
    relay_rate: Option<u64>,
    at: [SocketAddr; 3],
) -> Server {
    install_provider();
    let mut config = ServerConfig {
        data_dir: data_dir.to_owned(),
        ..ServerConfig::default()
    };
    [config.api.listen, config.mqtt.listen, config.relay.listen] = at;
    config.relay.rate_limit = relay_rate;
    mantel_server::app::start(config, Clock::real(), Tasks::root())
        .await
        .expect("the server starts")
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ways {
    All,
    RelayOnly,
}

pub async fn start_gateway(data_dir: &FilePath, ways: Ways) -> Running {
    start_gateway_keeping(data_dir, ways, 1).await
}

pub async fn start_gateway_keeping(data_dir: &FilePath, ways: Ways, keep_free_mib: u64) -> Running {
    let mut config = Config {
        data_dir: data_dir.to_owned(),
        ..Config::default()
    };
    config.web.listen = loopback();
    config.exchange.listen = loopback();
    config.exchange.direct = ways == Ways::All;
    config.library.keep_free_mib = keep_free_mib;
    config.devices.interface = Some("no-devices-here".into());
    app::start(config, RecentLog::default())
        .await
        .expect("the gateway starts")
}

/// A customer with credit and his gateway.
pub struct Home {
    pub gateway: Running,
    pub customer: CustomerId,
    pub folder: TempDir,
}

impl Home {
    pub async fn new(server: &Server, name: &str, credit: i64, ways: Ways) -> Self {
        let core = &server.core;
        let customer = core.customers.create(name, "").await.expect("a customer");
        if credit > 0 {
            core.ledger
                .credit(customer, euros(credit), "test", name)
                .await
                .expect("credit");
        }
        let code = core.homes.claim_code(customer).await.expect("a code").code;
        let host = format!("127.0.0.1:{}", server.api_addr.port());
        let claim = core.server.claim_link(Some(&host), &code);
        let folder = tempfile::tempdir().expect("a folder");
        let gateway = start_gateway(folder.path(), ways).await;
        gateway
            .state
            .link
            .enrol(&claim, name)
            .await
            .expect("enrolled");
        let home = Self {
            gateway,
            customer,
            folder,
        };
        home.online().await;
        home
    }

    pub async fn online(&self) {
        until("the link", self.gateway.state.link.status(), |status| {
            (*status == LinkStatus::Online).then_some(())
        })
        .await;
        let rules = self.gateway.state.rights.restrictions();
        until("the restrictions", rules, |rules| {
            rules.set.is_some().then_some(())
        })
        .await;
    }

    pub fn home(&self) -> HomeId {
        self.gateway.state.link.enrolment().expect("enrolled").home
    }

    pub async fn import(&self, bytes: &[u8]) -> TitleId {
        let pieces: Vec<Result<bytes::Bytes, std::io::Error>> = bytes
            .chunks(MIB)
            .map(|piece| Ok(bytes::Bytes::copy_from_slice(piece)))
            .collect();
        let size = Some(bytes.len() as u64);
        let source = ImportSource::upload("holiday.bin", None, size, stream::iter(pieces));
        self.gateway
            .state
            .library
            .import(source)
            .await
            .expect("imported")
    }

    pub async fn sees(&self, title: TitleId) {
        let listings = self.gateway.state.exchange.listings();
        let there = |listings: &Arc<Vec<mantel_gateway::catalog::Listing>>| {
            listings
                .iter()
                .any(|listing| listing.title == title)
                .then_some(())
        };
        until("the listing", listings, there).await;
    }

    pub async fn row(&self, what: &str, good: impl Fn(&OrderRow) -> bool) -> OrderRow {
        let orders = self.gateway.state.exchange.orders();
        until(what, orders, |rows| {
            rows.iter().find(|row| good(row)).cloned()
        })
        .await
    }

    /// The title's plaintext, opened with the key that the rights give.
    pub async fn opened(&self, title: TitleId) -> Vec<u8> {
        let state = &self.gateway.state;
        let found = state
            .library
            .title(title)
            .await
            .expect("readable")
            .expect("there");
        assert_eq!(found.state, TitleState::Ready);
        let asset = found.main_asset().expect("an asset");
        let key = state
            .rights
            .content_key(title, asset.blob)
            .await
            .expect("a key");
        let reader = state
            .library
            .plaintext(asset.blob, key)
            .await
            .expect("opens")
            .expect("there");
        let mut plain = Vec::new();
        while (plain.len() as u64) < asset.plain_bytes {
            let len = (asset.plain_bytes as usize - plain.len()).min(MIB);
            plain.extend_from_slice(
                &reader
                    .read_at(plain.len() as u64, len)
                    .await
                    .expect("reads"),
            );
        }
        plain
    }
}

/// Bytes that do not compress and differ by seed.
pub fn media(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

pub async fn offer(home: &Home, title: TitleId, price: i64) {
    let exchange = &home.gateway.state.exchange;
    let offered = exchange
        .offer_catalog(title, euros(price), Terms::default(), Poster::Show)
        .await;
    assert_eq!(offered.expect("offered"), Offered::Published);
}

pub async fn place(home: &Home, title: TitleId) -> OrderId {
    match home
        .gateway
        .state
        .exchange
        .order(title, None, None)
        .await
        .expect("ordered")
    {
        Ordered::Placed(order) => order,
        Ordered::Waiting => panic!("the server answers"),
    }
}

pub async fn balance(server: &Server, customer: CustomerId) -> (i64, i64) {
    let row = server
        .core
        .customers
        .find(customer)
        .await
        .expect("readable")
        .expect("there");
    (row.available.minor, row.held.minor)
}

/// The order when the relay, which reports every second, has reported all of it.
pub async fn all_relayed(server: &Server, order: OrderId) -> DeliveryView {
    loop {
        server.core.grants.flush().await;
        let view = server
            .core
            .orders
            .view(order)
            .await
            .expect("readable")
            .expect("there");
        if view.row.relayed_bytes >= view.row.total_bytes {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
