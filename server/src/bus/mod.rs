//! The bus: an MQTT 5 broker inside the server (rmqtt as a library), TLS only (DESIGN §1, §11).
//!
//! It tells a gateway behind NAT to look again ([`Command`]), and tells the server who is connected and how far
//! deliveries are ([`BusEvent`]). Nothing here is truth: a lost message costs latency, for gateways ask the API anew on
//! every connection. Hence clean sessions only, no retained messages, no stored ones.
//!
//! - `acl`: who may log in, subscribe, publish; pure. `hooks`: the broker asks it. `presence`: online and offline.
//!
//! A device logs in by its key ([`mantel_protocol::token::DeviceLogin`] as password; client ID = user name = device ID),
//! hears its own `cmd`, speaks on its own `ev` and `st`. The same device connecting anew takes its session over. A
//! gateway that dies without a word is noticed after 1.5 × [`KEEPALIVE_S`].

mod acl;
mod hooks;
mod presence;
#[cfg(test)]
mod tests;

use hooks::{Admit, Hooks};
use jiff::Timestamp;
pub use mantel_protocol::bus::Command;
use mantel_protocol::bus::{MAX_PAYLOAD, cmd_topic};
use mantel_protocol::ids::{DeliveryId, OrderId};
use mantel_protocol::key::{DeviceId, ServerKey};
use mantel_runtime::clock::Clock;
use mantel_runtime::tasks::Tasks;
use presence::Presence;
use rmqtt::codec::types::{Publish as Packet, QoS};
use rmqtt::context::ServerContext;
use rmqtt::net::{Builder, Listener};
use rmqtt::server::MqttServer;
use rmqtt::types::{From, Id, Message, Publish, Reason};
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// The longest keepalive granted, seconds; the broker waits 1.5 times as long, so that a dead gateway is noticed within
/// 23 s.
pub const KEEPALIVE_S: u16 = 15;
/// The largest packet, bytes: the largest payload, and room for topic and properties, or a log-in.
const MAX_PACKET: u32 = MAX_PAYLOAD as u32 + 2 * 1024;
/// Commands waiting for one gateway; the oldest is dropped, for the next look sees all.
const MAX_QUEUE: usize = 64;
/// Commands sent to one gateway and not yet acknowledged.
const MAX_INFLIGHT: NonZeroU16 = NonZeroU16::new(16).expect("16 is not 0");
/// Subscriptions of one gateway; it needs one.
const MAX_SUBSCRIPTIONS: usize = 4;
/// Log-ins being checked at once.
const MAX_HANDSHAKES: usize = 256;
/// Log-ins waiting to be checked.
const MAX_WAITING: usize = 10_000;
/// How long TLS handshake and log-in may take each.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Events waiting for the server.
const EVENT_QUEUE: usize = 1_024;
/// How often a log-in that holds the session's lock is waited for when a device is to be disconnected.
const LOCK_TRIES: u32 = 40;
/// The pause between two such tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Where the bus listens and whom it trusts.
#[derive(Clone)]
pub struct BusConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The server's certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM (PKCS#8).
    pub key: PathBuf,
    /// The server that log-ins must name.
    pub server: ServerKey,
    /// Judges whether log-ins hold.
    pub clock: Clock,
}

/// What the bus tells the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusEvent {
    /// A gateway connected; commands reach it.
    Online(DeviceId),
    /// A gateway left, or went silent.
    Offline(DeviceId),
    /// A receiver's report; for show.
    Progress {
        /// Who reports.
        device: DeviceId,
        /// The delivery.
        delivery: DeliveryId,
        /// Its order.
        order: OrderId,
        /// Verified bytes on the receiver's disk.
        bytes_done: u64,
    },
}

/// Why the bus did not start.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The address is taken, or not this machine's.
    #[error(
        "cannot listen for gateways (MQTT) on {address}; is another server running? Choose another `mqtt.listen`"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificate or its key cannot be used.
    #[error(
        "the certificate {certificate} or its key cannot be used for MQTT; move both away to have new ones made"
    )]
    Certificate {
        /// Which.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The running broker; cheap to clone.
#[derive(Clone)]
pub struct Bus {
    context: ServerContext,
    clock: Clock,
    local: SocketAddr,
}

/// Starts the broker as tasks of `tasks`. `admit` is asked after a device proved its key: is it enrolled, its account
/// known? The events must be drained: changes of presence wait for room, progress reports are dropped when there is none.
pub async fn start<F, Fut>(
    config: BusConfig,
    admit: F,
    tasks: &Tasks,
) -> Result<(Bus, mpsc::Receiver<BusEvent>), BusError>
where
    F: Fn(DeviceId) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = bool> + Send + 'static,
{
    let listener = bind(&config)?;
    let local = listener.local_addr().map_err(|source| BusError::Listen {
        address: config.listen,
        source: source.into(),
    })?;
    let context = ServerContext::new().busy_check_enable(false).build().await;
    let (events, receiver) = mpsc::channel(EVENT_QUEUE);
    let admit: Admit = Arc::new(move |device| Box::pin(admit(device)));
    let presence = Presence::new(events, tasks.clone());
    let hooks = Hooks {
        server: config.server,
        clock: config.clock.clone(),
        admit,
        presence,
    };
    let register = context.extends.hook_mgr().register();
    hooks.register(register.as_ref()).await;
    let bus = Bus {
        context: context.clone(),
        clock: config.clock,
        local,
    };
    let (stopping, ending) = (tasks.token().clone(), bus.clone());
    tasks.spawn_graceful("bus", async move {
        let server = MqttServer::new(context)
            .listener_by_id(listener, local.port())
            .build();
        if let Some(Err(error)) = stopping.run_until_cancelled(server.run()).await {
            warn!(%error, "the bus stopped; gateways fall back to asking the API");
        }
        // Nobody new comes in. Those inside are let go, so that they connect to the next server at once.
        ending.close_all().await;
        drop(register);
    });
    info!(address = %local, "bus (MQTT) listening");
    Ok((bus, receiver))
}

fn bind(config: &BusConfig) -> Result<Listener, BusError> {
    let listen = |address: SocketAddr| builder(config).laddr(address).bind();
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.listen.port()));
    let bound = match listen(config.listen) {
        // A machine without IPv6: "all addresses" is then all of IPv4.
        Err(_) if config.listen.ip() == Ipv6Addr::UNSPECIFIED && !has_ipv6() => listen(v4),
        bound => bound,
    };
    let bound = bound.map_err(|source| BusError::Listen {
        address: config.listen,
        source: source.into(),
    })?;
    bound.tls().map_err(|source| BusError::Certificate {
        certificate: config.certificate.clone(),
        source: source.into(),
    })
}

fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The limits of every connection.
fn builder(config: &BusConfig) -> Builder {
    Builder::new()
        .name("mqtt")
        .reuseaddr(Some(true))
        .nodelay(true)
        .allow_anonymous(false)
        .allow_zero_keepalive(false)
        .min_keepalive(1)
        .max_keepalive(KEEPALIVE_S)
        .keepalive_backoff(0.75)
        .max_packet_size(MAX_PACKET)
        .max_connections(MAX_WAITING)
        .max_handshaking_limit(MAX_HANDSHAKES)
        .handshake_timeout(HANDSHAKE_LIMIT)
        .send_timeout(HANDSHAKE_LIMIT)
        .max_clientid_len(64)
        .max_inflight(MAX_INFLIGHT)
        .max_mqueue_len(MAX_QUEUE)
        .max_qos_allowed(QoS::AtLeastOnce)
        .max_topic_levels(3)
        .max_subscriptions(MAX_SUBSCRIPTIONS)
        .max_topic_aliases(0)
        .session_expiry_interval(Duration::ZERO)
        // 0 would mean no limit; a log-in that asks for more than 0 is refused anyway.
        .max_session_expiry_interval(Duration::from_secs(1))
        .tls_cert(Some(config.certificate.to_string_lossy()))
        .tls_key(Some(config.key.to_string_lossy()))
}

impl Bus {
    /// Tells a gateway to look again; best effort: nothing happens where it is not connected.
    pub async fn send(&self, device: DeviceId, command: Command) {
        let payload = serde_json::to_vec(&command).expect("commands are plain data");
        let packet = Packet {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: cmd_topic(&device).into(),
            packet_id: None,
            payload: payload.into(),
            properties: None,
        };
        let publish = Publish::new(
            Box::new(packet),
            None,
            None,
            Some(self.now().as_millisecond()),
        );
        let from = From::from_system(self.identity("server"));
        let forwarded = self
            .context
            .extends
            .shared()
            .await
            .forwards(None, from, publish)
            .await;
        if forwarded.is_err() {
            debug!(%device, "a command was not delivered; the gateway asks the API by itself");
        }
    }

    /// Ends a gateway's connection now, if it has one. It may log in again if it is still admitted.
    pub async fn disconnect(&self, device: DeviceId) {
        let entry = self
            .context
            .extends
            .shared()
            .await
            .entry(self.identity(&device.to_string()));
        for _ in 0..LOCK_TRIES {
            if let Ok(mut locked) = entry.try_lock().await {
                if let Err(error) = locked.kick(true, true, true).await {
                    debug!(%device, %error, "the gateway had gone already");
                }
                return;
            }
            // The device is logging in this moment; admission decides about that log-in, then it is ended.
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        warn!(%device, "a gateway's connection could not be ended; its grants are revoked all the same");
    }

    /// Where the bus listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    async fn close_all(&self) {
        let shared = self.context.extends.shared().await;
        for entry in shared.iter() {
            if let Some(connection) = entry.tx() {
                let _ = connection.unbounded_send(Message::Closed(Reason::from_static(
                    "the server is stopping",
                )));
            }
        }
    }

    fn identity(&self, client: &str) -> Id {
        Id::new(
            self.context.node.id(),
            self.local.port(),
            None,
            None,
            client.to_owned().into(),
            None,
        )
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
