//! The console over HTTP, with the real parts on a database of its own.

mod door;
mod pages;
mod updates;

use super::*;
use crate::config::Config;
use crate::customers::{Caller, Standing};
use crate::orders::OrderFilter;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mantel_protocol::api::{
    BlobEntry, EnrolRequest, Offer, OrderLimits, OrderRequest, OrderState, PaymentInfo,
    PublishRequest,
};
use mantel_protocol::blob::BlobId;
use mantel_protocol::envelope::{self, OpeningKey};
use mantel_protocol::ids::{CustomerId, OrderId, TitleId};
use mantel_protocol::key::SigningKey;
use mantel_protocol::license::Terms;
use mantel_protocol::manifest::{Asset, Manifest, MediaKind, TitleKeys, vault_context};
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::restriction::{Initiative, Rule, Side};
use mantel_protocol::seal::{Cipher, ContentKey, sealed_len};
use mantel_protocol::token::{DeviceLogin, sign};
use mantel_runtime::clock::Clock;
use mantel_runtime::tasks::Tasks;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_mins(1);
const PASSWORD: &str = "right horse battery";
/// A name that does harm where it is not escaped.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=y>&amp;{{7*7}}";
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Rig {
    core: Core,
    http: reqwest::Client,
    host: String,
    cookie: Option<String>,
    token: String,
    tasks: Tasks,
    folder: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }

    fn leads_to(&self, path: &str) {
        assert_eq!(
            (self.status, self.header("location")),
            (303, path),
            "{}",
            self.text
        );
    }

    fn shows(&self, words: &[&str]) {
        assert_eq!(self.status, 200, "{}", self.text);
        for word in words {
            assert!(
                self.text.contains(word),
                "“{word}” is missing in {}",
                self.text
            );
        }
    }
}

impl Rig {
    /// A new server whose operator has set no password yet.
    async fn fresh() -> Self {
        mantel_runtime::tls::install_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = Config {
            data_dir: folder.path().to_owned(),
            name: "Haven & Co".into(),
            ..Config::default()
        };
        let (core, mut notices) = Core::open(&config, Clock::real())
            .await
            .expect("the core opens");
        let token = core
            .operator
            .new_setup_token()
            .await
            .expect("a token")
            .expect("no password yet");
        let tasks = Tasks::root();
        // Nobody listens to the notices here; they must not pile up.
        tasks.spawn(
            "notices",
            async move { while notices.recv().await.is_some() {} },
        );
        let listener = tokio::net::TcpListener::bind((LOCAL, 0))
            .await
            .expect("a port");
        let host = listener.local_addr().expect("bound").to_string();
        mantel_runtime::http::serve(
            listener,
            router(core.clone(), tasks.token().clone()),
            &tasks,
        );
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client");
        Self {
            core,
            http,
            host,
            cookie: None,
            token,
            tasks,
            folder,
        }
    }

    /// A server with a logged-in operator.
    async fn start() -> Self {
        let mut rig = Self::fresh().await;
        let token = rig.token.clone();
        let answer = rig
            .post(
                "/console/setup",
                &[
                    ("token", &token),
                    ("password", PASSWORD),
                    ("again", PASSWORD),
                ],
            )
            .await;
        answer.leads_to("/console");
        rig.take_cookie(&answer);
        rig
    }

    fn take_cookie(&mut self, answer: &Answer) {
        let cookie = answer
            .header("set-cookie")
            .split(';')
            .next()
            .expect("a first part")
            .to_owned();
        self.cookie = Some(cookie);
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let request = match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        };
        let answer = tokio::time::timeout(DEADLINE, request.send())
            .await
            .expect("in time")
            .expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let bytes = answer.bytes().await.expect("a body");
        Answer {
            status,
            headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(format!("http://{}{path}", self.host)))
            .await
    }

    fn form(&self, path: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let body: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={}", encoded(value)))
            .collect();
        self.http
            .post(format!("http://{}{path}", self.host))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"))
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let origin = format!("https://{}", self.host);
        self.send(
            self.form(path, fields)
                .header("origin", origin)
                .header("sec-fetch-site", "same-origin"),
        )
        .await
    }

    async fn customer(&self, name: &str) -> CustomerId {
        self.core.customers.create(name, "").await.expect("created")
    }

    /// A home with its gateway's keys.
    async fn home(&self, customer: CustomerId, name: &str) -> (Caller, SigningKey) {
        let code = self.core.homes.claim_code(customer).await.expect("a code");
        let key = SigningKey::generate();
        let request = EnrolRequest {
            claim_code: code.code,
            device: key.device_id(),
            seal_key: OpeningKey::generate().seal_key(),
            proof: DeviceLogin::sign(&key, self.core.server.card().key, jiff::Timestamp::now()),
            home_name: name.into(),
            serial: Some("SN-1".into()),
            macs: vec!["02:00:00:00:00:01".into()],
        };
        (
            self.core
                .homes
                .enrol(request, LOCAL)
                .await
                .expect("enrolled"),
            key,
        )
    }

    async fn title(
        &self,
        caller: &Caller,
        key: &SigningKey,
        name: &str,
        price: i64,
        poster: Option<Vec<u8>>,
    ) -> TitleId {
        let (title, blob, content) = (
            TitleId::generate(),
            BlobId(rand::random()),
            ContentKey::generate(),
        );
        let sealed_bytes = sealed_len(1_000_000);
        let asset = Asset {
            blob,
            sealed_bytes,
            plain_bytes: 1_000_000,
            mime: "video/mp4".into(),
            cipher: Cipher::default(),
            duration_ms: None,
            width: None,
            height: None,
            codecs: None,
        };
        let manifest = Manifest {
            title,
            name: name.into(),
            kind: MediaKind::Video,
            recorded: None,
            publisher: key.device_id(),
            assets: vec![asset],
        };
        let keys = TitleKeys::new([(blob, &content)]).to_bytes();
        let vault = self.core.server.card().vault_key;
        let offer = Offer::Catalog {
            manifest: sign(key, &manifest),
            keys: envelope::seal(&vault, &vault_context(title), &keys).expect("sealed"),
            price: Money::new(price, Currency::EUR),
            terms: Terms::default(),
            poster: poster.map(|bytes| STANDARD.encode(bytes)),
        };
        let request = PublishRequest {
            title,
            blobs: vec![BlobEntry { blob, sealed_bytes }],
            offer,
        };
        self.core
            .publish(caller.clone(), request)
            .await
            .expect("published");
        title
    }

    async fn order(&self, receiver: &Caller, title: TitleId) -> OrderId {
        let request = OrderRequest {
            idempotency_key: OrderId::generate().to_string(),
            title,
            receiver: receiver.home,
            initiative: Initiative::Pull,
            payment: PaymentInfo {
                device: receiver.device,
                seal_key: receiver.seal_key,
                payer: receiver.home,
                max_price: Money::new(10_000, Currency::EUR),
                limits: OrderLimits::default(),
            },
        };
        self.core
            .orders
            .place(receiver.clone(), request)
            .await
            .expect("ordered")
            .order
    }
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "%{byte:02X}");
        out
    })
}

const PAGES: [&str; 10] = [
    "/console",
    "/console/customers",
    "/console/homes",
    "/console/titles",
    "/console/deliveries",
    "/console/deliveries?show=all",
    "/console/ledger",
    "/console/restrictions",
    "/console/updates",
    "/console/settings",
];
