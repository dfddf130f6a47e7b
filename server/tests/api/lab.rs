//! A server on loopback, and households whose gateways call it.

use jiff::Timestamp;
use mantel_protocol::api::{
    BlobEntry, EnrolRequest, Enrolled, GrantAnswer, GrantRequest, Offer, OrderEntry, OrderLimits,
    OrderRequest, PaymentInfo, Problem, ProblemCode, PublishRequest, ReceiptRequest, ServerCard,
    TitleEntry,
};
use mantel_protocol::blob::{BlobId, ChunkRange, chunk_count};
use mantel_protocol::envelope::{self, OpeningKey};
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{CustomerId, HomeId, TitleId};
use mantel_protocol::key::SigningKey;
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::{
    Asset, Manifest, MediaKind, TitleKeys, share_context, vault_context,
};
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::receipt::{Path, Receipt};
use mantel_protocol::restriction::Initiative;
use mantel_protocol::seal::{Cipher, ContentKey, sealed_len};
use mantel_protocol::token::{DeviceLogin, sign, verify};
use mantel_runtime::clock::Clock;
use mantel_runtime::tasks::Tasks;
use mantel_runtime::tls::{install_provider, pinned_client};
use mantel_server::app::{self, Running};
use mantel_server::config::Config;
use mantel_server::state::Core;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// Bytes of plaintext in a test title: three chunks when sealed.
pub const PLAIN_BYTES: u64 = 2_500_000;

/// Euro cents.
pub fn eur(minor: i64) -> Money {
    Money::new(minor, Currency::EUR)
}

/// A number that no other call got.
pub fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub struct Lab {
    pub clock: Clock,
    pub running: Running,
    pub fee_permille: u16,
    folder: TempDir,
}

impl Lab {
    pub async fn start() -> Self {
        Self::with_fee(0).await
    }

    pub async fn with_fee(fee_permille: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::manual(Timestamp::from_second(1_800_000_000).expect("in range"));
        let running = run(&folder, &clock, fee_permille).await;
        Self {
            clock,
            running,
            fee_permille,
            folder,
        }
    }

    /// Stops the server in order, and starts it over the same data.
    pub async fn restart(self) -> Self {
        let Self {
            clock,
            running,
            fee_permille,
            folder,
        } = self;
        running.stop().await;
        let running = run(&folder, &clock, fee_permille).await;
        Self {
            clock,
            running,
            fee_permille,
            folder,
        }
    }

    pub fn core(&self) -> &Core {
        &self.running.core
    }

    pub fn base(&self) -> String {
        format!("https://{}", self.running.api_addr)
    }

    pub fn client(&self) -> reqwest::Client {
        let tls = pinned_client(self.core().server.pin()).expect("a pin");
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()
            .expect("a client")
    }

    pub async fn customer(&self, name: &str, credit: i64) -> CustomerId {
        let customer = self
            .core()
            .customers
            .create(name, "")
            .await
            .expect("created");
        if credit > 0 {
            let key = format!("key-{}", unique());
            self.core()
                .ledger
                .credit(customer, eur(credit), "cash", &key)
                .await
                .expect("credited");
        }
        customer
    }

    /// A customer with one enrolled home.
    pub async fn home(&self, name: &str, credit: i64) -> Gateway {
        let customer = self.customer(name, credit).await;
        self.gateway(customer, name).await
    }

    pub async fn gateway(&self, customer: CustomerId, name: &str) -> Gateway {
        let code = self
            .core()
            .homes
            .claim_code(customer)
            .await
            .expect("a code")
            .code;
        let mut gateway = self.stranger(customer, name).await;
        let enrolled: Enrolled = gateway
            .post("/v1/enrol", &gateway.enrolment(&code))
            .await
            .expect("enrolled");
        gateway.home = enrolled.home;
        assert_eq!(enrolled.customer, customer);
        gateway
    }

    /// A gateway that has not enrolled.
    pub async fn stranger(&self, customer: CustomerId, name: &str) -> Gateway {
        let card: ServerCard = self
            .client()
            .get(format!("{}/v1/server", self.base()))
            .send()
            .await
            .expect("answered")
            .json()
            .await
            .expect("a card");
        Gateway {
            key: SigningKey::generate(),
            opening: OpeningKey::generate(),
            home: HomeId::generate(),
            customer,
            name: name.to_owned(),
            client: self.client(),
            base: self.base(),
            card,
            clock: self.clock.clone(),
        }
    }

    /// What a customer may spend, and what is held.
    pub async fn funds(&self, gateway: &Gateway) -> (i64, i64) {
        let row = self
            .core()
            .customers
            .find(gateway.customer)
            .await
            .expect("read")
            .expect("exists");
        (row.available.minor, row.held.minor)
    }

    pub async fn assert_balanced(&self) {
        assert!(
            self.core().ledger.balanced().await.expect("read"),
            "the ledger adds up"
        );
    }
}

async fn run(folder: &TempDir, clock: &Clock, fee_permille: u16) -> Running {
    install_provider();
    let mut config = Config {
        data_dir: folder.path().to_owned(),
        ..Config::default()
    };
    let any = "127.0.0.1:0".parse().expect("an address");
    (config.api.listen, config.mqtt.listen, config.relay.listen) = (any, any, any);
    config.money.fee_permille = fee_permille;
    app::start(config, clock.clone(), Tasks::root())
        .await
        .expect("the server starts")
}

/// A household's gateway, as far as the server sees it.
#[derive(Clone)]
pub struct Gateway {
    pub key: SigningKey,
    pub opening: OpeningKey,
    pub home: HomeId,
    pub customer: CustomerId,
    pub name: String,
    pub client: reqwest::Client,
    pub base: String,
    pub card: ServerCard,
    pub clock: Clock,
}

/// A title that a gateway made.
#[derive(Clone)]
pub struct Made {
    pub title: TitleId,
    pub blobs: Vec<BlobEntry>,
    pub keys: TitleKeys,
    pub manifest: String,
    pub kind: MediaKind,
}

pub type Called<T> = Result<T, Problem>;

impl Gateway {
    pub fn login(&self) -> String {
        DeviceLogin::sign(&self.key, self.card.key, self.clock.now())
    }

    /// After a restart of the server its ports are others.
    pub fn moved(&mut self, lab: &Lab) {
        self.base = lab.base();
        self.client = lab.client();
    }

    pub fn enrolment(&self, code: &str) -> EnrolRequest {
        EnrolRequest {
            claim_code: code.to_owned(),
            device: self.key.device_id(),
            seal_key: self.opening.seal_key(),
            proof: self.login(),
            home_name: self.name.clone(),
            serial: Some(format!("SN-{}", self.name)),
            macs: vec!["02:00:00:00:00:0A".into()],
        }
    }

    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        login: &str,
    ) -> Called<T> {
        let request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(login);
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body),
            None => request,
        };
        let response = request.send().await.expect("answered");
        let status = response.status();
        let kind = response
            .headers()
            .get("content-type")
            .map(|kind| kind.as_bytes().to_vec());
        let text = response.text().await.expect("whole");
        if status.is_success() {
            let text = if text.is_empty() { "null" } else { &text };
            return Ok(serde_json::from_str(text)
                .unwrap_or_else(|error| panic!("{path}: {error}: {text}")));
        }
        assert_eq!(
            kind.as_deref(),
            Some(&b"application/problem+json"[..]),
            "{path}: {text}"
        );
        let problem: Problem = serde_json::from_str(&text).expect("a problem");
        assert_eq!(problem.status, status.as_u16());
        assert!(!problem.detail.is_empty());
        Err(problem)
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Called<T> {
        self.call(Method::GET, path, None, &self.login()).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Called<T> {
        self.call(Method::DELETE, path, None, &self.login()).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Called<T> {
        self.call(
            Method::POST,
            path,
            Some(serde_json::to_string(body).expect("JSON")),
            &self.login(),
        )
        .await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Called<T> {
        self.call(
            Method::PUT,
            path,
            Some(serde_json::to_string(body).expect("JSON")),
            &self.login(),
        )
        .await
    }

    /// A title of `files` files, sealed and signed.
    pub fn make(&self, name: &str, files: usize) -> Made {
        let title = TitleId::generate();
        let sealed_bytes = sealed_len(PLAIN_BYTES);
        let blobs: Vec<BlobEntry> = (0..files)
            .map(|_| BlobEntry {
                blob: BlobId(*blake3::hash(&unique().to_le_bytes()).as_bytes()),
                sealed_bytes,
            })
            .collect();
        let keys: Vec<ContentKey> = blobs.iter().map(|_| ContentKey::generate()).collect();
        let asset = |entry: &BlobEntry| Asset {
            blob: entry.blob,
            sealed_bytes: entry.sealed_bytes,
            plain_bytes: PLAIN_BYTES,
            mime: "video/mp4".into(),
            cipher: Cipher::default(),
            duration_ms: Some(60_000),
            width: Some(1920),
            height: Some(1080),
            codecs: Some("h264, aac".into()),
        };
        let manifest = Manifest {
            title,
            name: name.to_owned(),
            kind: MediaKind::Video,
            recorded: None,
            publisher: self.key.device_id(),
            assets: blobs.iter().map(asset).collect(),
        };
        let keys = TitleKeys::new(blobs.iter().map(|entry| entry.blob).zip(&keys));
        Made {
            title,
            blobs,
            keys,
            manifest: sign(&self.key, &manifest),
            kind: manifest.kind,
        }
    }

    pub fn catalog_offer(&self, made: &Made, price: i64) -> PublishRequest {
        let context = vault_context(made.title);
        let keys = envelope::seal(&self.card.vault_key, &context, &made.keys.to_bytes())
            .expect("a vault key");
        let terms = Terms {
            viewing_window_s: Some(172_800),
            ..Terms::default()
        };
        PublishRequest {
            title: made.title,
            blobs: made.blobs.clone(),
            offer: Offer::Catalog {
                manifest: made.manifest.clone(),
                keys,
                price: eur(price),
                terms,
                poster: None,
            },
        }
    }

    /// Offers a new title in the catalog.
    pub async fn offer(&self, name: &str, price: i64) -> Made {
        let made = self.make(name, 1);
        let _: TitleEntry = self
            .post("/v1/titles", &self.catalog_offer(&made, price))
            .await
            .expect("offered");
        made
    }

    pub fn private_offer(made: &Made, audience: &[&Gateway]) -> PublishRequest {
        let envelope_for = |to: &&Gateway| {
            let context = share_context(made.title, to.key.device_id());
            let sealed = envelope::seal(&to.opening.seal_key(), &context, &made.keys.to_bytes());
            (to.home, sealed.expect("a seal key"))
        };
        let audience = audience.iter().map(envelope_for).collect();
        PublishRequest {
            title: made.title,
            blobs: made.blobs.clone(),
            offer: Offer::Private {
                audience,
                kind: made.kind,
            },
        }
    }

    /// An order for this home, paid by it.
    pub fn order_request(&self, made: &Made, max_price: i64) -> OrderRequest {
        OrderRequest {
            idempotency_key: format!("order-{}", unique()),
            title: made.title,
            receiver: self.home,
            initiative: Initiative::Pull,
            payment: PaymentInfo {
                device: self.key.device_id(),
                seal_key: self.opening.seal_key(),
                payer: self.home,
                max_price: eur(max_price),
                limits: OrderLimits::default(),
            },
        }
    }

    pub async fn order(&self, made: &Made, max_price: i64) -> Called<OrderEntry> {
        self.post("/v1/orders", &self.order_request(made, max_price))
            .await
    }

    pub async fn ask_grant(&self, order: &OrderEntry, blob: BlobEntry) -> Called<GrantAnswer> {
        let chunks = vec![ChunkRange {
            start: 0,
            count: chunk_count(blob.sealed_bytes),
        }];
        let path = format!("/v1/deliveries/{}/grant", order.delivery);
        self.post(
            &path,
            &GrantRequest {
                blob: blob.blob,
                chunks,
            },
        )
        .await
    }

    /// A grant for a whole blob, verified as a sender would.
    pub async fn grant(&self, order: &OrderEntry, blob: BlobEntry) -> (String, Grant) {
        let answer = self.ask_grant(order, blob).await.expect("granted");
        let grant =
            verify(&self.card.key, &answer.grant, self.clock.now()).expect("the server signed");
        (answer.grant, grant)
    }

    pub fn receipt(&self, order: &OrderEntry, blob: BlobEntry, grants: &[&Grant]) -> Receipt {
        Receipt {
            order: order.order,
            delivery: order.delivery,
            title: order.title,
            grants: grants.iter().map(|grant| grant.id).collect(),
            blob: blob.blob,
            bytes: blob.sealed_bytes,
            path: Path::Direct,
            receiver: self.key.device_id(),
            received: self.clock.now(),
        }
    }

    pub async fn hand_in(&self, receipts: Vec<String>) -> Called<OrderEntry> {
        self.post("/v1/receipts", &ReceiptRequest { receipts })
            .await
    }

    /// Grant and receipt for every blob of an order.
    pub async fn receive(&self, order: &OrderEntry) -> Called<OrderEntry> {
        let mut receipts = Vec::new();
        for blob in &order.blobs {
            let (_, grant) = self.grant(order, *blob).await;
            receipts.push(sign(&self.key, &self.receipt(order, *blob, &[&grant])));
        }
        self.hand_in(receipts).await
    }
}

/// The kind of problem with which a call was refused.
pub fn code<T: std::fmt::Debug>(called: Called<T>) -> ProblemCode {
    called.expect_err("refused").code
}
