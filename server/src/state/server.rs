//! Who this server is: its names, ports, keys and links.

use crate::config::Config;
use crate::error::{Result, broken};
use crate::identity::{Identity, host_name};
use mantel_protocol::api::ServerCard;
use mantel_protocol::key::SigningKey;
use mantel_protocol::money::Currency;
use mantel_runtime::tls::Pin;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Who this server is; cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    identity: Arc<Identity>,
    config: Config,
    api_port: AtomicU16,
    mqtt_port: AtomicU16,
    relay_port: AtomicU16,
}

impl Server {
    pub(super) fn new(identity: Arc<Identity>, config: Config) -> Self {
        let ports = [config.api.listen, config.mqtt.listen, config.relay.listen]
            .map(|at| AtomicU16::new(at.port()));
        let [api_port, mqtt_port, relay_port] = ports;
        Self(Arc::new(Inner {
            identity,
            config,
            api_port,
            mqtt_port,
            relay_port,
        }))
    }

    /// Its keys.
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.0.identity
    }

    /// Notes the ports that were really bound.
    pub fn set_ports(&self, api: u16, mqtt: u16, relay: u16) {
        self.0.api_port.store(api, Ordering::Relaxed);
        self.0.mqtt_port.store(mqtt, Ordering::Relaxed);
        self.0.relay_port.store(relay, Ordering::Relaxed);
    }

    /// Who this server is, for gateways.
    pub fn card(&self) -> ServerCard {
        ServerCard {
            name: self.0.config.name.clone(),
            key: self.signing_key().server_key(),
            vault_key: self.0.identity.vault().seal_key(),
            mqtt_port: self.0.mqtt_port.load(Ordering::Relaxed),
            relay_port: self.0.relay_port.load(Ordering::Relaxed),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The pin of the API's and the broker's certificate.
    pub fn pin(&self) -> Pin {
        self.0.identity.pin()
    }

    /// The pin as a claim link carries it.
    pub fn pin_text(&self) -> String {
        self.0.identity.pin_text()
    }

    /// The key that signs grants, passes, licenses and time; also the relay's.
    pub fn signing_key(&self) -> &SigningKey {
        self.0.identity.signing()
    }

    /// The currency of all accounts and prices.
    pub fn currency(&self) -> Currency {
        self.0.config.money.currency
    }

    /// The operator's share of each sale, thousandths.
    pub fn fee_permille(&self) -> u16 {
        self.0.config.money.fee_permille
    }

    /// TLS for the API and the console.
    pub fn tls_config(&self) -> Result<rustls::ServerConfig> {
        self.0.identity.tls_config()
    }

    /// The certificate, PEM.
    pub fn certificate_path(&self) -> PathBuf {
        self.0.identity.certificate_path()
    }

    /// The certificate's private key, PEM (PKCS#8).
    pub fn certificate_key_path(&self) -> PathBuf {
        self.0.identity.certificate_key_path()
    }

    /// What a customer types into a gateway. `host` is the Host header of the operator's browser.
    pub fn claim_link(&self, host: Option<&str>, code: &str) -> String {
        format!(
            "https://{}/claim/{code}#{}",
            self.authority(host),
            self.pin_text()
        )
    }

    /// The link with which the operator sets his password.
    pub fn setup_link(&self, token: &str) -> String {
        format!("https://{}/console/setup#{token}", self.authority(None))
    }

    /// Host and port under which this server is reached: as configured, as the browser says, or this machine's name.
    fn authority(&self, host: Option<&str>) -> String {
        let port = self.0.api_port.load(Ordering::Relaxed);
        if let Some(name) = &self.0.config.public_name {
            return if name.contains(':')
                && !name.starts_with('[')
                && name.parse::<std::net::Ipv6Addr>().is_ok()
            {
                format!("[{name}]:{port}")
            } else if name
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
            {
                name.clone()
            } else {
                format!("{name}:{port}")
            };
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        match host.filter(|host| !host.is_empty() && host.len() <= 255 && host.chars().all(plain)) {
            // A browser leaves out the default port of HTTPS, 443, and no other.
            Some(host) => host.to_owned(),
            None => format!(
                "{}:{port}",
                host_name().unwrap_or_else(|| "localhost".to_owned())
            ),
        }
    }

    /// Where the one-time setup link is kept until it is used.
    pub fn setup_link_path(&self) -> PathBuf {
        self.0.config.data_dir.join("setup-link")
    }

    /// Keeps the setup link where the operator finds it, for its owner only.
    pub fn write_setup_link(&self, link: &str) -> Result<()> {
        let text = format!("{link}\n");
        let mode = mantel_runtime::files::Mode::Secret;
        mantel_runtime::files::write_atomic(&self.setup_link_path(), text.as_bytes(), mode).map_err(
            broken("the file setup-link cannot be written to the data directory"),
        )
    }
}
