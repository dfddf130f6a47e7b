//! The gateway's configuration: a tree of each module's part. `gateway.toml` is the commented default, key by key.

use crate::devices::DevicesConfig;
use crate::media_server::MediaServerConfig;
use crate::recording::RecordingConfig;
use crate::updates::SystemConfig;
use crate::uploads::UploadsConfig;
use serde::Deserialize;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// The household's pages.
pub const DEFAULT_WEB_PORT: u16 = 8080;
/// The chunk listener, for other homes.
pub const DEFAULT_EXCHANGE_PORT: u16 = 8445;

/// The whole tree.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Keys, database, blobs.
    pub data_dir: PathBuf,
    /// A `tracing` filter, e.g. `info` or `mantel_gateway=debug`.
    pub log: String,
    /// The household's pages.
    pub web: WebConfig,
    /// Transfers to and from other homes.
    pub exchange: ExchangeConfig,
    /// The store.
    pub library: LibraryConfig,
    /// Peripherals.
    pub devices: DevicesConfig,
    /// Recording from a line-in.
    pub recording: RecordingConfig,
    /// This home's media for players on the network.
    pub media_server: MediaServerConfig,
    /// Devices that send by themselves.
    pub uploads: UploadsConfig,
    /// The appliance's system.
    pub system: SystemConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/mantel-gateway"),
            log: "info".to_owned(),
            web: WebConfig::default(),
            exchange: ExchangeConfig::default(),
            library: LibraryConfig::default(),
            devices: DevicesConfig::default(),
            recording: RecordingConfig::default(),
            media_server: MediaServerConfig::default(),
            uploads: UploadsConfig::default(),
            system: SystemConfig::default(),
        }
    }
}

/// The household's pages.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebConfig {
    /// Address and port.
    pub listen: SocketAddr,
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            listen: any(DEFAULT_WEB_PORT),
        }
    }
}

/// Transfers to and from other homes.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExchangeConfig {
    /// Where other homes connect directly.
    pub listen: SocketAddr,
    /// Whether direct connections are tried and accepted; else all goes through the server's relay.
    pub direct: bool,
    /// Orders received at once, 1 to 16.
    pub receive_at_once: usize,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        Self {
            listen: any(DEFAULT_EXCHANGE_PORT),
            direct: true,
            receive_at_once: 3,
        }
    }
}

/// The store.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LibraryConfig {
    /// Room that the store leaves free on its disk, MiB.
    pub keep_free_mib: u64,
    /// The largest file imported, GiB.
    pub max_import_gib: u64,
    /// The socket of media workers in units of their own; none: the gateway makes a sandbox for each run itself.
    pub media_workers: Option<PathBuf>,
}

impl Default for LibraryConfig {
    fn default() -> Self {
        Self {
            keep_free_mib: 256,
            max_import_gib: 256,
            media_workers: None,
        }
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_default_is_the_default_and_names_every_key() {
        let text = include_str!("../gateway.toml");
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("#= ") {
                Some(setting) => format!("{setting}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(path.path(), uncommented).expect("written");
        let config: Config =
            mantel_runtime::config::load(Some(path.path())).expect("every key is known");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        for key in [
            "data_dir",
            "log",
            "[web]",
            "[exchange]",
            "direct",
            "receive_at_once",
            "[library]",
            "[devices]",
            "[devices.cables]",
            "disc_images",
            "loudspeakers",
            "line_ins",
            "[recording]",
            "[media_server]",
            "[uploads]",
            "[system]",
        ] {
            assert!(text.contains(key), "{key} is not in gateway.toml");
        }
    }
}
