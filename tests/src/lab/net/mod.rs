//! Homes, the internet between them, and who can reach whom.

mod build;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::disk::run;
use super::guard::{self, Claim};
use super::process::ProcBuilder;
use build::{loopback, namespaces};

/// How many homes a net has at most: a slot has eight networks, one of them unused.
const MAX_HOMES: usize = 7;
/// How many devices a home has at most beside its gateway.
const MAX_DEVICES: usize = 100;

/// The bit of the capability to make namespaces (capabilities(7)).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// How places are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each place is a network namespace. Needs root, or its rights, and `ip`.
    Namespaces,
    /// Each place is an address in 127.0.0.0/8: nothing is kept apart, and there is no multicast.
    Loopback,
}

impl Mode {
    /// The best this machine offers.
    pub fn best() -> Self {
        let name = format!("mtprobe{}", std::process::id());
        let made = ip(&["netns", "add", &name]).is_ok();
        if made && ip(&["netns", "del", &name]).is_ok() {
            Self::Namespaces
        } else {
            Self::Loopback
        }
    }
}

/// Somewhere a program can run: a machine with its own address.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    netns: Option<String>,
    interface: String,
    addr: Ipv4Addr,
    lab_addr: Ipv4Addr,
    /// The other end of its cable: namespace and interface.
    port: Option<(String, String)>,
}

impl Place {
    /// What it is called, such as `a-gw`, `b-tv` or `server`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// The laboratory's own address on the same network.
    pub fn lab_addr(&self) -> Ipv4Addr {
        self.lab_addr
    }

    /// Its network interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its network namespace, if it has one of its own.
    pub fn netns(&self) -> Option<&str> {
        self.netns.as_deref()
    }

    /// An HTTP URL at this place, such as `http://10.213.9.2:8080`.
    pub fn url(&self, port: u16) -> String {
        format!("http://{}:{port}", self.addr)
    }

    /// A program to be started at this place.
    pub fn run(&self, program: impl AsRef<Path>) -> ProcBuilder {
        ProcBuilder::new(self.clone(), program.as_ref())
    }
}

/// One home: a LAN with a gateway and devices, and a router to the internet.
#[derive(Clone, Debug)]
pub struct Home {
    name: String,
    router: Option<String>,
    wan: Ipv4Addr,
    network: String,
    gateway: Place,
    devices: Vec<Place>,
}

impl Home {
    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its gateway runs.
    pub fn gateway(&self) -> &Place {
        &self.gateway
    }

    /// Its router, where the bridge of its network is.
    pub fn router(&self) -> Result<Place> {
        let Some(netns) = &self.router else {
            bail!(
                "home {} has a router only where places are namespaces",
                self.name
            );
        };
        let [a, b, c, _] = self.gateway.addr.octets();
        Ok(Place {
            name: format!("{}-router", self.name),
            netns: Some(netns.clone()),
            interface: "br0".to_owned(),
            addr: Ipv4Addr::new(a, b, c, build::ROUTER_HOST),
            lab_addr: self.gateway.lab_addr,
            port: None,
        })
    }

    /// One of its devices, by the name it was given.
    pub fn device(&self, name: &str) -> Result<&Place> {
        let full = format!("{}-{name}", self.name);
        self.devices
            .iter()
            .find(|place| place.name == full)
            .with_context(|| format!("home {} has no device {name}", self.name))
    }
}

/// What a net shall be.
#[derive(Clone, Debug, Default)]
pub struct NetBuilder {
    homes: Vec<(String, Vec<String>)>,
    joined: bool,
    mode: Option<Mode>,
}

impl NetBuilder {
    /// Adds a home with a gateway and the named devices. Names are short, of a-z and 0-9.
    #[must_use]
    pub fn home(mut self, name: &str, devices: &[&str]) -> Self {
        let devices = devices.iter().map(|&device| device.to_owned()).collect();
        self.homes.push((name.to_owned(), devices));
        self
    }

    /// Lets homes reach one another from the start.
    #[must_use]
    pub fn joined(mut self) -> Self {
        self.joined = true;
        self
    }

    /// Sets how places are kept apart, instead of as well as this machine can.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Builds the net.
    pub fn up(self) -> Result<Net> {
        let short = |name: &String| {
            (1..=5).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
        };
        ensure!(self.homes.len() <= MAX_HOMES, "more than {MAX_HOMES} homes");
        for (home, devices) in &self.homes {
            ensure!(
                devices.len() <= MAX_DEVICES,
                "more than {MAX_DEVICES} devices in {home}"
            );
            for name in devices.iter().chain([home]) {
                ensure!(
                    short(name),
                    "the name {name} is not of 1 to 5 letters and digits"
                );
            }
        }
        let mode = self.mode.unwrap_or_else(Mode::best);
        let claim = Claim::take()?;
        let folder = guard::runs_folder().join(&claim.prefix);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .context("resolving the folder of the run")?;
        let mut net = match mode {
            Mode::Namespaces => namespaces(claim, &self.homes, folder)?,
            Mode::Loopback => loopback(claim, &self.homes, folder),
        };
        if self.joined {
            net.join_homes()?;
        }
        Ok(net)
    }
}

/// Homes, a server, and the internet between them; removed when dropped.
#[derive(Debug)]
pub struct Net {
    mode: Mode,
    server: Place,
    homes: Vec<Home>,
    folder: PathBuf,
    claim: Claim,
}

impl Net {
    /// Begins a net.
    pub fn builder() -> NetBuilder {
        NetBuilder::default()
    }

    /// The usual net: home `a` with a camcorder `cam`; home `b` with a `tv` and a computer `pc`.
    pub fn two_homes() -> NetBuilder {
        Self::builder().home("a", &["cam"]).home("b", &["tv", "pc"])
    }

    /// How its places are kept apart.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What its names in the kernel begin with.
    pub fn prefix(&self) -> &str {
        &self.claim.prefix
    }

    /// Where the server runs.
    pub fn server(&self) -> &Place {
        &self.server
    }

    /// A home, by the name it was given.
    pub fn home(&self, name: &str) -> Result<&Home> {
        self.homes
            .iter()
            .find(|home| home.name == name)
            .with_context(|| format!("there is no home {name}"))
    }

    /// The folder of this run for logs and data. It outlives the net unless [`Net::done`] is called.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends a test that went well: removes the net and the folder with its logs and data.
    ///
    /// With `MANTEL_LAB_KEEP` set in the environment the folder stays, to be looked at.
    pub fn done(self) -> Result<()> {
        let folder = self.folder.clone();
        drop(self);
        if std::env::var_os("MANTEL_LAB_KEEP").is_some() {
            return Ok(());
        }
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }

    /// Lets homes reach one another, as with a public address or a mapped port.
    pub fn join_homes(&mut self) -> Result<()> {
        self.set_isolation("off")?;
        self.each_pair(|router, network, via| {
            ip(&["-n", router, "route", "replace", network, "via", via])
        })
    }

    /// Keeps homes from reaching one another, as at the start.
    pub fn part_homes(&mut self) -> Result<()> {
        self.set_isolation("on")?;
        self.each_pair(|router, network, _| {
            // It is gone already where homes were never joined.
            let _ = ip(&["-n", router, "route", "del", network]);
            Ok(())
        })
    }

    /// Pulls the cable of a place; it keeps its address and its programs.
    pub fn unplug(&self, place: &Place) -> Result<()> {
        set_port(place, "down")
    }

    /// Puts the cable of a place back.
    pub fn plug(&self, place: &Place) -> Result<()> {
        set_port(place, "up")
    }

    /// Limits what a place can send and receive, each to `megabits` per second.
    pub fn limit_rate(&self, place: &Place, megabits: u32) -> Result<()> {
        let (Some(netns), Some((space, port))) = (&place.netns, &place.port) else {
            bail!("a rate can be limited only in a namespace of its own");
        };
        let rate = format!("{megabits}mbit");
        for (space, interface) in [(netns, &place.interface), (space, port)] {
            let shape = ["burst", "64kb", "latency", "100ms"];
            let mut args = vec![
                "-n", space, "qdisc", "replace", "dev", interface, "root", "tbf",
            ];
            args.extend(["rate", &rate]);
            args.extend(shape);
            run("tc", &args)?;
        }
        Ok(())
    }

    fn set_isolation(&self, state: &str) -> Result<()> {
        for (index, home) in self.homes.iter().enumerate() {
            if home.router.is_some() {
                let space = format!("{}i", self.claim.prefix);
                let port = format!("h{index}");
                ip(&[
                    "-n",
                    &space,
                    "link",
                    "set",
                    &port,
                    "type",
                    "bridge_slave",
                    "isolated",
                    state,
                ])?;
            }
        }
        Ok(())
    }

    /// Calls `change` for each home's router and each other home's network and outer address.
    fn each_pair(&self, change: impl Fn(&str, &str, &str) -> Result<()>) -> Result<()> {
        for (from, home) in self.homes.iter().enumerate() {
            for (to, other) in self.homes.iter().enumerate() {
                if let (Some(router), true) = (&home.router, from != to) {
                    change(router, &other.network, &other.wan.to_string())?;
                }
            }
        }
        Ok(())
    }
}

/// Whether this process may make namespaces of all kinds: root may, and who has its rights.
pub(super) fn has_root_rights() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    bits & CAP_SYS_ADMIN != 0
}

fn set_port(place: &Place, state: &str) -> Result<()> {
    let Some((space, port)) = &place.port else {
        bail!(
            "{} has no cable to pull: it is a loopback address",
            place.name
        );
    };
    ip(&["-n", space, "link", "set", port, state])
}

pub(super) fn ip(args: &[&str]) -> Result<()> {
    run("ip", args).map(drop)
}

/// Whether something accepts TCP connections at `addr`, tried once from the laboratory.
pub(super) async fn accepts(addr: impl Into<IpAddr>, port: u16) -> bool {
    let attempt = tokio::net::TcpStream::connect((addr.into(), port));
    matches!(
        tokio::time::timeout(Duration::from_secs(1), attempt).await,
        Ok(Ok(_))
    )
}
