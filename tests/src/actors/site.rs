//! Two homes and a server as real programs, each at its own place of a [`Net`].

use super::{Household, Operator};
use crate::lab::{Net, Place, Proc, program};
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a program may take to start.
const START: Duration = Duration::from_secs(30);
/// The server's HTTPS port.
const API_PORT: u16 = 8443;
/// A gateway's pages.
const WEB_PORT: u16 = 8080;
/// The password of both households and the operator; the laboratory has no secrets.
const PASSWORD: &str = "correct horse battery";

/// How a site shall be.
pub struct SiteBuilder {
    net: Net,
    server_config: String,
    gateway_config: String,
}

/// A gateway's program and where its files are.
pub struct GatewayHandle {
    /// The program.
    pub proc: Option<Proc>,
    /// Its data directory.
    pub data: PathBuf,
    config: PathBuf,
    place: Place,
    log: PathBuf,
}

/// A running server with two homes, `a` and `b`.
pub struct Site {
    /// The network; it ends last.
    pub net: Net,
    /// The server's program.
    pub server: Option<Proc>,
    /// The server's data directory.
    pub server_data: PathBuf,
    /// The operator, logged in.
    pub operator: Operator,
    /// Home a's gateway.
    pub a: GatewayHandle,
    /// Home b's gateway.
    pub b: GatewayHandle,
    /// The household in home a.
    pub anna: Household,
    /// The household in home b.
    pub ben: Household,
    server_config: PathBuf,
}

/// A port that nothing listens on, at a place (for tests of unreachable peers).
pub fn free_of(place: &Place) -> String {
    place.url(9)
}

impl SiteBuilder {
    /// A site on this net, which must have the homes `a` and `b`.
    pub fn on(net: Net) -> Self {
        Self { net, server_config: String::new(), gateway_config: String::new() }
    }

    /// Adds lines to `server.toml`, sections included.
    #[must_use]
    pub fn server_config(mut self, toml: &str) -> Self {
        self.server_config = toml.to_owned();
        self
    }

    /// Adds lines to both `gateway.toml`, sections included.
    #[must_use]
    pub fn gateway_config(mut self, toml: &str) -> Self {
        self.gateway_config = toml.to_owned();
        self
    }

    /// Starts the server, sets up operator, customers and homes, starts and enrols both gateways.
    pub async fn up(self) -> Result<Site> {
        let Self { net, server_config, gateway_config } = self;
        let folder = net.folder().to_owned();
        let server_data = folder.join("server");
        std::fs::create_dir_all(&server_data)?;
        let config = folder.join("server.toml");
        let ip = net.server().addr();
        let text = format!(
            "data_dir = {:?}\nname = \"Mantel demo\"\n[api]\nlisten = \"{ip}:{API_PORT}\"\n[mqtt]\nlisten = \"{ip}:8883\"\n\
             {}",
            server_data.display().to_string(),
            with_section(&server_config, "relay", &format!("listen = \"{ip}:8444\"\n")),
        );
        std::fs::write(&config, text)?;
        let server = start_server(&net, &config).await?;
        let base = format!("https://{ip}:{API_PORT}");
        let operator = Operator::set_up(&base, &server_data, PASSWORD).await?;

        let mut homes = Vec::new();
        for (home, name) in [("a", "Anna"), ("b", "Ben")] {
            let place = net.home(home)?.gateway().clone();
            let mut gateway = GatewayHandle::new(&folder, home, place, &gateway_config)?;
            gateway.start().await?;
            let household = Household::move_in(name, &gateway.place.url(WEB_PORT), PASSWORD).await?;
            let link = operator.new_customer(name).await?;
            household.enrol(&link).await?;
            homes.push((gateway, household));
        }
        let (b, ben) = homes.pop().context("two homes")?;
        let (a, anna) = homes.pop().context("two homes")?;
        let server = Some(server);
        Ok(Site { net, server, server_data, operator, a, b, anna, ben, server_config: config })
    }
}

/// Puts `lines` at the head of `[section]` of a TOML text, or appends the section.
fn with_section(toml: &str, section: &str, lines: &str) -> String {
    let head = format!("[{section}]\n");
    if toml.contains(&head) {
        toml.replacen(&head, &format!("{head}{lines}"), 1)
    } else {
        format!("{head}{lines}{toml}")
    }
}

async fn start_server(net: &Net, config: &Path) -> Result<Proc> {
    let server = net
        .server()
        .run(program("mantel-server")?)
        .arg("--config")
        .arg(config)
        .log(net.folder().join("server.log"))
        .spawn()
        .await?;
    server.wait_port(API_PORT, START).await?;
    Ok(server)
}

impl GatewayHandle {
    fn new(folder: &Path, home: &str, place: Place, extra: &str) -> Result<Self> {
        let data = folder.join(format!("gateway-{home}"));
        std::fs::create_dir_all(&data)?;
        let config = folder.join(format!("gateway-{home}.toml"));
        let ip = place.addr();
        let exchange = with_section(extra, "exchange", &format!("listen = \"{ip}:8445\"\n"));
        let rest = with_section(&exchange, "devices", &format!("interface = {:?}\n", place.interface()));
        let text = format!(
            "data_dir = {:?}\n{}",
            data.display().to_string(),
            with_section(&rest, "web", &format!("listen = \"{ip}:{WEB_PORT}\"\n")),
        );
        std::fs::write(&config, text)?;
        let log = folder.join(format!("gateway-{home}.log"));
        Ok(Self { proc: None, data, config, place, log })
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Starts the program, after ending it if it still runs.
    pub async fn start(&mut self) -> Result<()> {
        if let Some(old) = self.proc.take() {
            old.stop().await?;
        }
        let proc = self
            .place
            .run(program("mantel-gateway")?)
            .arg("--config")
            .arg(&self.config)
            .log(&self.log)
            .spawn()
            .await?;
        proc.wait_port(WEB_PORT, START).await?;
        self.proc = Some(proc);
        Ok(())
    }

    /// Kills it as a crash would, and starts it again.
    pub async fn crash(&mut self) -> Result<()> {
        if let Some(proc) = self.proc.take() {
            proc.kill9().await?;
        }
        self.start().await
    }
}

impl Site {
    /// Kills the server as a crash would, and starts it again.
    pub async fn crash_server(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.kill9().await?;
        }
        self.server = Some(start_server(&self.net, &self.server_config).await?);
        Ok(())
    }

    /// Ends all programs in good order, then the net and its folder.
    pub async fn done(self) -> Result<()> {
        for proc in [self.a.proc, self.b.proc, self.server].into_iter().flatten() {
            proc.stop().await?;
        }
        self.net.done()
    }
}
