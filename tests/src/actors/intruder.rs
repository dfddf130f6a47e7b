//! A hostile gateway: holds a key and some token, and tries to get media bytes out of a home, out of the relay, or
//! money and keys out of the server. It speaks the protocol correctly, so that only the check under test stops it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use mantel_protocol::api::{
    GrantAnswer, GrantRequest, LicenseRequest, OrderLimits, OrderRequest, PaymentInfo,
    ReceiptRequest,
};
use mantel_protocol::blob::{ChunkRange, chunk_count};
use mantel_protocol::chunk::{
    Answer, CHUNK_ALPN, CHUNK_PROTOCOL, MAX_ANSWER_FRAME, Refusal, Request, decode, encode,
};
use mantel_protocol::envelope::OpeningKey;
use mantel_protocol::grant::{Grant, SeedGrant};
use mantel_protocol::ids::{HomeId, OrderId, TitleId};
use mantel_protocol::key::{DeviceId, SealKey, ServerKey, SigningKey};
use mantel_protocol::money::{Currency, Money};
use mantel_protocol::relay::{Admission, GO, RELAY_ALPN, RELAY_PROTOCOL, RelayRefusal, Welcome};
use mantel_protocol::restriction::Initiative;
use mantel_protocol::token::{DeviceLogin, peek_unverified};
use mantel_runtime::tls::{any_name, raw_key_client};
use reqwest::Method;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::lab::{Page, Session};

/// How long one attempt may take: longer than the relay lets one side wait for the other.
const PATIENCE: Duration = Duration::from_mins(1);

/// Who tries.
pub struct Intruder {
    /// The device key that it shows.
    pub key: SigningKey,
    /// The key to which it wants content keys sealed.
    pub seal: OpeningKey,
}

/// What an attempt at a home's chunk listener brought.
#[derive(Debug, PartialEq, Eq)]
pub struct Loot {
    /// The sender's refusal, if it said one.
    pub refusal: Option<Refusal>,
    /// Media bytes that came.
    pub media_bytes: u64,
}

/// What an attempt at the relay brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered {
    /// Refused.
    Refused(RelayRefusal),
    /// The relay hung up, or did not answer in time.
    Nothing,
    /// It was joined to the sender: the attempt succeeded as far as the relay goes.
    Joined(Loot),
}

impl Intruder {
    /// A device that nobody knows.
    pub fn stranger() -> Self {
        Self {
            key: SigningKey::generate(),
            seal: OpeningKey::generate(),
        }
    }

    /// A thief with the keys of an enrolled gateway.
    pub fn with_keys_of(gateway_data: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = gateway_data.join("keys").join(name);
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))
        };
        Ok(Self {
            key: SigningKey::from_seed(&read("device.key")?)?,
            seal: OpeningKey::from_bytes(&read("seal.key")?).context("a seal key")?,
        })
    }

    /// Shows `grant` at a home's chunk listener, asks for all that it claims to cover, and counts what comes.
    pub async fn knock(&self, at: SocketAddr, sender: DeviceId, grant: &str) -> Result<Loot> {
        let config = Arc::new(raw_key_client(&self.key, sender.0, CHUNK_ALPN)?);
        let attempt = async {
            let raw = TcpStream::connect(at)
                .await
                .context("connecting to the chunk listener")?;
            let tls = TlsConnector::from(config).connect(any_name(), raw).await;
            plunder(tls.context("the handshake with the chunk listener")?, grant).await
        };
        timeout(PATIENCE, attempt)
            .await
            .context("the chunk listener neither refused nor closed")?
    }

    /// Shows `grant` at the relay; if joined, goes on as [`Intruder::knock`].
    pub async fn knock_at_relay(
        &self,
        at: SocketAddr,
        relay: ServerKey,
        sender: DeviceId,
        grant: &str,
    ) -> Result<Entered> {
        let config = Arc::new(raw_key_client(&self.key, relay.0, RELAY_ALPN)?);
        let inner = Arc::new(raw_key_client(&self.key, sender.0, CHUNK_ALPN)?);
        let attempt = async {
            let raw = TcpStream::connect(at)
                .await
                .context("connecting to the relay")?;
            let tls = TlsConnector::from(config).connect(any_name(), raw).await;
            let mut tls = tls.context("the handshake with the relay")?;
            let admission = Admission {
                version: RELAY_PROTOCOL,
                grant: grant.to_owned(),
            };
            tls.write_all(&encode(&admission)).await?;
            tls.flush().await?;
            let Ok(welcome) = read_frame::<Welcome>(&mut tls).await else {
                return Ok(Entered::Nothing);
            };
            if let Welcome::Refused(refusal) = welcome {
                return Ok(Entered::Refused(refusal));
            }
            let (mut raw, _) = tls.into_inner();
            raw.write_u8(GO).await?;
            let tls = TlsConnector::from(inner).connect(any_name(), raw).await;
            let none = Loot {
                refusal: None,
                media_bytes: 0,
            };
            let Ok(tls) = tls else {
                return Ok(Entered::Joined(none));
            };
            plunder(tls, grant).await.map(Entered::Joined)
        };
        timeout(PATIENCE, attempt)
            .await
            .unwrap_or(Ok(Entered::Nothing))
    }

    /// Calls the server's API with a good log-in of this key.
    pub async fn call(
        &self,
        server: &Session,
        key: ServerKey,
        (method, path): (Method, &str),
        body: &impl serde::Serialize,
    ) -> Result<Page> {
        let login = DeviceLogin::sign(&self.key, key, Timestamp::now());
        let answer = server
            .request(method, path)?
            .bearer_auth(login)
            .header("content-type", "application/json")
            .body(serde_json::to_vec(body)?)
            .send()
            .await?;
        Page::read(answer).await
    }

    /// Asks for a grant as a receiver would.
    pub async fn ask_grant(
        &self,
        server: &Session,
        key: ServerKey,
        delivery: &str,
        wanted: &GrantRequest,
    ) -> Result<GrantAnswer> {
        let path = format!("/v1/deliveries/{delivery}/grant");
        self.call(server, key, (Method::POST, &path), wanted)
            .await?
            .ok()?
            .json()
    }

    /// Orders a title straight at the API, past its gateway's own judgement, at any price.
    pub async fn order(
        &self,
        server: &Session,
        key: ServerKey,
        title: TitleId,
        (receiver, device, seal_key): (HomeId, DeviceId, SealKey),
        (payer, initiative): (HomeId, Initiative),
    ) -> Result<Page> {
        let request = OrderRequest {
            idempotency_key: OrderId::generate().to_string(),
            title,
            receiver,
            initiative,
            payment: PaymentInfo {
                device,
                seal_key,
                payer,
                max_price: Money::new(1_000_000, Currency::EUR),
                limits: OrderLimits::default(),
            },
        };
        self.call(server, key, (Method::POST, "/v1/orders"), &request)
            .await
    }

    /// Hands in receipts.
    pub async fn hand_in(
        &self,
        server: &Session,
        key: ServerKey,
        receipts: &[String],
    ) -> Result<Page> {
        let request = ReceiptRequest {
            receipts: receipts.to_vec(),
        };
        self.call(server, key, (Method::POST, "/v1/receipts"), &request)
            .await
    }

    /// Redeems a pass at the vault.
    pub async fn redeem(&self, server: &Session, key: ServerKey, pass: &str) -> Result<Page> {
        let request = LicenseRequest {
            pass: pass.to_owned(),
            seal_key: self.seal.seal_key(),
        };
        self.call(server, key, (Method::POST, "/v1/licenses"), &request)
            .await
    }
}

/// Says `Hello` with the grant and wants everything; counts raw chunk bytes until all have come or the sender stops.
async fn plunder<S>(mut tls: S, token: &str) -> Result<Loot>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let grant = peek_unverified::<Grant>(token).map(|grant| grant.blob_bytes);
    let seed = || peek_unverified::<SeedGrant>(token).map(|grant| grant.bundle_bytes);
    let size = grant.or_else(|_| seed()).unwrap_or(1);
    let chunks = vec![ChunkRange {
        start: 0,
        count: chunk_count(size),
    }];
    let hello = Request::Hello {
        version: CHUNK_PROTOCOL,
        grant: token.to_owned(),
    };
    tls.write_all(&encode(&hello)).await?;
    tls.flush().await?;
    let mut loot = Loot {
        refusal: None,
        media_bytes: 0,
    };
    while loot.media_bytes < size {
        match read_frame::<Answer>(&mut tls).await {
            Ok(Answer::Accept { .. }) => {
                let want = Request::Want {
                    ranges: chunks.clone(),
                };
                tls.write_all(&encode(&want)).await?;
                tls.flush().await?;
            }
            Ok(Answer::Refuse(refusal)) => {
                loot.refusal = Some(refusal);
                return Ok(loot);
            }
            Ok(Answer::Chunk { len, .. }) => {
                let mut chunk = (&mut tls).take(u64::from(len));
                loot.media_bytes += tokio::io::copy(&mut chunk, &mut tokio::io::sink()).await?;
            }
            // Hung up.
            Err(_) => return Ok(loot),
        }
    }
    tls.write_all(&encode(&Request::Done)).await?;
    tls.flush().await?;
    Ok(loot)
}

async fn read_frame<M: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<M> {
    let len = from.read_u32_le().await? as usize;
    ensure!(len <= MAX_ANSWER_FRAME, "a frame of {len} bytes");
    let mut frame = vec![0; len];
    from.read_exact(&mut frame).await?;
    Ok(decode(&frame)?)
}
