//! Start and ordered stop of the whole server.
//!
//! Keys and database, then listeners, then the parts that serve; a part that fails to start stops those before it. On
//! stop: no new connections, requests finish (10 s), the relay lets go, its counts are written, the database closes.

use crate::bus::{self, Bus, BusConfig, BusError, BusEvent};
use crate::config::Config;
use crate::error::CoreError;
use crate::notice::Notice;
use crate::relay::{self, RelayError};
use crate::state::Core;
use crate::{api, console};
use mantel_protocol::key::DeviceId;
use mantel_runtime::clock::Clock;
use mantel_runtime::http::{TlsListener, serve_tls};
use mantel_runtime::lifecycle::STOP_PATIENCE;
use mantel_runtime::tasks::Tasks;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing::{info, warn};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys, database or configuration.
    #[error("the server cannot use its data directory")]
    Core(#[from] CoreError),
    /// A port is taken or not allowed.
    #[error("cannot listen on {address} for {what}; is another program there?")]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The broker.
    #[error("the MQTT broker did not start")]
    Bus(#[from] BusError),
    /// The relay.
    #[error("the relay did not start")]
    Relay(#[from] RelayError),
}

/// A server at work.
pub struct Running {
    /// Where the API and the console listen.
    pub api_addr: SocketAddr,
    /// Where the broker listens.
    pub mqtt_addr: SocketAddr,
    /// Where the relay listens.
    pub relay_addr: SocketAddr,
    /// The one-time link with which the operator sets his password; `None`: it is set.
    pub setup_link: Option<String>,
    /// All parts.
    pub core: Core,
    /// Its tasks.
    pub tasks: Tasks,
}

impl Running {
    /// Stops everything in order.
    pub async fn stop(self) {
        self.tasks.shut_down(STOP_PATIENCE).await;
        self.finish().await;
    }

    /// Writes what is still in memory; called when all tasks have stopped.
    pub async fn finish(&self) {
        self.core.grants.flush().await;
    }
}

/// Starts the server. Port 0 takes any free port.
pub async fn start(config: Config, clock: Clock, tasks: Tasks) -> Result<Running, StartError> {
    match start_parts(config, clock, &tasks).await {
        Ok(running) => Ok(running),
        Err(error) => {
            tasks.shut_down(STOP_PATIENCE).await;
            Err(error)
        }
    }
}

async fn start_parts(config: Config, clock: Clock, tasks: &Tasks) -> Result<Running, StartError> {
    let (core, notices) = Core::open(&config, clock.clone()).await?;
    let api_listener = listen("the API", config.api.listen).await?;
    let relay_listener = listen("the relay", config.relay.listen).await?;
    let local = |listener: &TcpListener, what| {
        listener.local_addr().map_err(|source| StartError::Listen {
            what,
            address: config.api.listen,
            source,
        })
    };
    let api_addr = local(&api_listener, "the API")?;
    core.grants.keep(tasks);
    let key = core.server.signing_key();
    let relay = relay::start(
        relay_listener,
        key,
        Arc::new(core.grants.clone()),
        config.relay.limits(),
        tasks,
    )?;
    let (bus, events) = start_bus(&config, &core, clock, tasks).await?;
    pump(&bus, &core, notices, events, tasks);
    let (mqtt_addr, relay_addr) = (bus.local_addr(), relay.local_addr());
    core.server
        .set_ports(api_addr.port(), mqtt_addr.port(), relay_addr.port());
    let setup_link = offer_setup(&core).await?;
    let listener =
        TlsListener::start(api_listener, core.server.tls_config()?, tasks).map_err(|source| {
            StartError::Listen {
                what: "the API",
                address: api_addr,
                source,
            }
        })?;
    let router = api::router(core.clone())
        .merge(console::router(core.clone(), tasks.token().clone()))
        .fallback(api::nothing_here);
    serve_tls(listener, router, tasks);
    info!(%api_addr, %mqtt_addr, %relay_addr, "serving");
    Ok(Running {
        api_addr,
        mqtt_addr,
        relay_addr,
        setup_link,
        core,
        tasks: tasks.clone(),
    })
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = match TcpListener::bind(address).await {
        // A machine without IPv6: "all addresses" is then all of IPv4.
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|source| StartError::Listen {
        what,
        address,
        source,
    })
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
    ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

async fn start_bus(
    config: &Config,
    core: &Core,
    clock: Clock,
    tasks: &Tasks,
) -> Result<(Bus, mpsc::Receiver<BusEvent>), StartError> {
    let bus_config = BusConfig {
        listen: config.mqtt.listen,
        certificate: core.server.certificate_path(),
        key: core.server.certificate_key_path(),
        server: core.server.signing_key().server_key(),
        clock,
    };
    let homes = core.homes.clone();
    let admit = move |device: DeviceId| {
        let homes = homes.clone();
        async move {
            match homes.device_home(device).await {
                Ok(home) => home.is_some(),
                Err(error) => {
                    drop(error.problem());
                    false
                }
            }
        }
    };
    Ok(bus::start(bus_config, admit, tasks).await?)
}

/// Carries notices to the broker, and what gateways say on it to the parts.
fn pump(
    bus: &Bus,
    core: &Core,
    mut notices: mpsc::Receiver<(DeviceId, Notice)>,
    mut events: mpsc::Receiver<BusEvent>,
    tasks: &Tasks,
) {
    let bus = bus.clone();
    tasks.spawn("bus-notices", async move {
        while let Some((device, notice)) = notices.recv().await {
            match notice {
                Notice::Tell(command) => bus.send(device, command).await,
                Notice::Disconnect => bus.disconnect(device).await,
            }
        }
    });
    let core = core.clone();
    tasks.spawn("bus-events", async move {
        while let Some(event) = events.recv().await {
            match event {
                BusEvent::Online(device) => core.directory.online(device),
                BusEvent::Offline(device) => core.directory.offline(device),
                BusEvent::Progress {
                    device,
                    delivery,
                    bytes_done,
                    ..
                } => {
                    core.orders.progress(device, delivery, bytes_done);
                }
            }
        }
    });
}

/// Until the operator has set a password, every start offers a new one-time link.
async fn offer_setup(core: &Core) -> Result<Option<String>, StartError> {
    let Some(token) = core.operator.new_setup_token().await? else {
        match std::fs::remove_file(core.server.setup_link_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%error, "the used file setup-link cannot be removed");
            }
            _ => {}
        }
        return Ok(None);
    };
    let link = core.server.setup_link(&token);
    core.server.write_setup_link(&link)?;
    Ok(Some(link))
}
