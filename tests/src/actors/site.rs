//! Two homes and a server as real programs, each at its own place of a [`Net`].

use super::{Books, Household, Operator, OrderBooks};
use crate::lab::{Net, Place, Proc, program};
use anyhow::{Context as _, Result};
use mantel_protocol::key::{ServerKey, SigningKey};
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
    small_disk: Option<(String, String)>,
}

/// A gateway's program and where its files are.
pub struct GatewayHandle {
    /// The program.
    pub proc: Option<Proc>,
    /// Its data directory. With a small disk it lies in the program's own mount namespace: see [`GatewayHandle::inside`].
    pub data: PathBuf,
    config: PathBuf,
    place: Place,
    log: PathBuf,
    small_disk: Option<String>,
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

impl SiteBuilder {
    /// A site on this net, which must have the homes `a` and `b`.
    pub fn on(net: Net) -> Self {
        Self {
            net,
            server_config: String::new(),
            gateway_config: String::new(),
            small_disk: None,
        }
    }

    /// Adds lines to `server.toml`, sections included.
    #[must_use]
    pub fn server_config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.server_config);
        self
    }

    /// Adds lines to both `gateway.toml`, sections included; `{home}` in them becomes `a` and `b`.
    #[must_use]
    pub fn gateway_config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.gateway_config);
        self
    }

    /// Puts the data directory of a home's gateway on a disk of its own of this size, such as `320m`. It is empty again
    /// after each start, and needs root.
    #[must_use]
    pub fn small_disk(mut self, home: &str, size: &str) -> Self {
        self.small_disk = Some((home.to_owned(), size.to_owned()));
        self
    }

    /// Starts the server, sets up operator, customers and homes, starts and enrols both gateways.
    pub async fn up(self) -> Result<Site> {
        let Self {
            net,
            server_config,
            gateway_config,
            small_disk,
        } = self;
        let folder = net.folder().to_owned();
        let server_data = folder.join("server");
        std::fs::create_dir_all(&server_data)?;
        let config = folder.join("server.toml");
        let ip = net.server().addr();
        let text = format!(
            "data_dir = {:?}\nname = \"Mantel demo\"\n[api]\nlisten = \"{ip}:{API_PORT}\"\n[mqtt]\nlisten = \"{ip}:8883\"\n\
             {}",
            server_data.display().to_string(),
            with_section(
                &server_config,
                "relay",
                &format!("listen = \"{ip}:8444\"\n")
            ),
        );
        std::fs::write(&config, text)?;
        let server = start_server(&net, &config).await?;
        let base = format!("https://{ip}:{API_PORT}");
        let operator = Operator::set_up(&base, &server_data, PASSWORD).await?;

        let mut homes = Vec::new();
        for (home, name) in [("a", "Anna"), ("b", "Ben")] {
            let place = net.home(home)?.gateway().clone();
            let mut gateway = GatewayHandle::new(&folder, home, place, &gateway_config)?;
            gateway.small_disk = small_disk
                .iter()
                .find(|(of, _)| of == home)
                .map(|(_, size)| size.clone());
            gateway.start().await?;
            let household =
                Household::move_in(name, &gateway.place.url(WEB_PORT), PASSWORD).await?;
            let link = operator.new_customer(name).await?;
            household.enrol(&link).await?;
            homes.push((gateway, household));
        }
        let (b, ben) = homes.pop().context("two homes")?;
        let (a, anna) = homes.pop().context("two homes")?;
        let server = Some(server);
        Ok(Site {
            net,
            server,
            server_data,
            operator,
            a,
            b,
            anna,
            ben,
            server_config: config,
        })
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
        let extra = extra.replace("{home}", home);
        let exchange = with_section(&extra, "exchange", &format!("listen = \"{ip}:8445\"\n"));
        let rest = with_section(
            &exchange,
            "devices",
            &format!("interface = {:?}\n", place.interface()),
        );
        let text = format!(
            "data_dir = {:?}\n{}",
            data.display().to_string(),
            with_section(&rest, "web", &format!("listen = \"{ip}:{WEB_PORT}\"\n")),
        );
        std::fs::write(&config, text)?;
        let log = folder.join(format!("gateway-{home}.log"));
        Ok(Self {
            proc: None,
            data,
            config,
            place,
            log,
            small_disk: None,
        })
    }

    /// Starts a gateway in a home of a net without a server; nobody has used it yet. `extra` are lines for its
    /// `gateway.toml`; `small_disk` as in [`SiteBuilder::small_disk`].
    pub async fn lone(
        net: &Net,
        home: &str,
        extra: &str,
        small_disk: Option<&str>,
    ) -> Result<Self> {
        let place = net.home(home)?.gateway().clone();
        let mut gateway = Self::new(net.folder(), home, place, extra)?;
        gateway.small_disk = small_disk.map(str::to_owned);
        gateway.start().await?;
        Ok(gateway)
    }

    /// Where its pages are.
    pub fn url(&self) -> String {
        self.place.url(WEB_PORT)
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
        let gateway = program("mantel-gateway")?;
        let builder = match &self.small_disk {
            None => self.place.run(gateway),
            // `ip netns exec` gives each program a mount namespace: the disk goes with the program.
            Some(size) => self
                .place
                .run("sh")
                .args([
                    "-c",
                    "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && shift 2 && exec \"$@\"",
                    "sh",
                ])
                .arg(size)
                .arg(&self.data)
                .arg(gateway),
        };
        let proc = builder
            .arg("--config")
            .arg(&self.config)
            .log(&self.log)
            .spawn()
            .await?;
        proc.wait_port(WEB_PORT, START).await?;
        self.proc = Some(proc);
        Ok(())
    }

    /// A file of the running program as it sees it, whatever is mounted there.
    pub fn inside(&self, path: &Path) -> Result<PathBuf> {
        let proc = self.proc.as_ref().context("the gateway does not run")?;
        let path = path.strip_prefix("/").context("a path from the root")?;
        Ok(Path::new("/proc")
            .join(proc.pid().to_string())
            .join("root")
            .join(path))
    }

    /// Ends it and removes all that it kept.
    pub async fn clear(mut self) -> Result<()> {
        if let Some(proc) = self.proc.take() {
            proc.stop().await?;
        }
        std::fs::remove_dir_all(&self.data).context("removing what the gateway kept")
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
    /// Starts a gateway in another home of the net; nobody has used it yet.
    pub async fn new_gateway(&self, home: &str) -> Result<GatewayHandle> {
        let place = self.net.home(home)?.gateway().clone();
        let mut gateway = GatewayHandle::new(self.net.folder(), home, place, "")?;
        gateway.start().await?;
        Ok(gateway)
    }

    /// The server's books.
    pub fn books(&self) -> Books {
        Books::of(&self.server_data)
    }

    /// What the server wrote down about an order.
    pub async fn ledger(&self, order: &str) -> Result<OrderBooks> {
        let (books, order) = (self.books(), order.to_owned());
        tokio::task::spawn_blocking(move || books.order(&order))
            .await
            .context("reading the books")?
    }

    /// The key with which the server signs grants and the like. A test that forges with it says so.
    pub fn server_signing(&self) -> Result<SigningKey> {
        let seed =
            std::fs::read(self.server_data.join("keys/server.key")).context("the server's key")?;
        Ok(SigningKey::from_seed(&seed)?)
    }

    /// The server's public key.
    pub fn server_key(&self) -> Result<ServerKey> {
        Ok(self.server_signing()?.server_key())
    }

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
        for proc in [self.a.proc, self.b.proc, self.server]
            .into_iter()
            .flatten()
        {
            proc.stop().await?;
        }
        self.net.done()
    }
}
