//! The server's configuration. All keys have defaults: no configuration is needed.

use crate::relay;
use mantel_protocol::money::Currency;
use serde::Deserialize;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// `server.toml`; the commented default in the package lists every key.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the database and the keys are.
    pub data_dir: PathBuf,
    /// What the operator calls this server.
    pub name: String,
    /// Host name or address under which homes reach this server; `None`: the one that the operator's browser used.
    pub public_name: Option<String>,
    /// What is logged, e.g. `info` or `mantel_server=debug`.
    pub log: String,
    /// The HTTPS API and the operator's console.
    pub api: ApiConfig,
    /// The MQTT broker.
    pub mqtt: MqttConfig,
    /// The relay.
    pub relay: RelayConfig,
    /// Money.
    pub money: MoneyConfig,
}

/// `[api]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// `[mqtt]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// `[relay]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RelayConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The most bytes per second from sender to receiver in each stream; none: no limit.
    pub rate_limit: Option<u64>,
    /// Sides that wait for the other at once; more are told that the relay is busy.
    pub max_waiting: usize,
    /// Connections in all; more wait in the kernel's queue.
    pub max_connections: usize,
}

impl RelayConfig {
    /// What the relay itself is told.
    pub fn limits(&self) -> relay::RelayConfig {
        relay::RelayConfig {
            rate_limit: self.rate_limit,
            max_waiting: self.max_waiting,
            max_connections: self.max_connections,
        }
    }
}

/// `[money]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoneyConfig {
    /// The currency of all accounts and prices (ISO 4217). It cannot change once money was booked.
    pub currency: Currency,
    /// The operator's share of each sale, in thousandths; the rest goes to the publisher. 0 to 1000.
    pub fee_permille: u16,
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/mantel-server"),
            name: "Mantel".into(),
            public_name: None,
            log: "info".into(),
            api: ApiConfig::default(),
            mqtt: MqttConfig::default(),
            relay: RelayConfig::default(),
            money: MoneyConfig::default(),
        }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self { listen: any(8443) }
    }
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self { listen: any(8883) }
    }
}

impl Default for RelayConfig {
    fn default() -> Self {
        let limits = relay::RelayConfig::default();
        Self {
            listen: any(8444),
            rate_limit: limits.rate_limit,
            max_waiting: limits.max_waiting,
            max_connections: limits.max_connections,
        }
    }
}

impl Default for MoneyConfig {
    fn default() -> Self {
        Self {
            currency: Currency::EUR,
            fee_permille: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_runtime::config::load;
    use std::path::Path;

    #[test]
    fn the_commented_default_holds_the_defaults() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("server.toml");
        let shipped: Config = load(Some(&file)).expect("the shipped file is valid");
        assert_eq!(format!("{shipped:?}"), format!("{:?}", Config::default()));
    }
}
