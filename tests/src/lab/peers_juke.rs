//! Peers that announce themselves by DNS-SD: an mDNS responder for each place, a jukebox, a Cast television.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::net::Place;
use super::process::{Proc, ProcBuilder};
use super::wait::until;

/// How long a peer may take to start.
const START: Duration = Duration::from_mins(1);
/// MPD's usual port.
const MPD_PORT: u16 = 6600;
/// The port of Cast devices.
const CAST_PORT: u16 = 8009;

/// An mDNS responder, played by avahi-daemon with a D-Bus of its own: namespaces keep networks apart, not the sockets
/// in `/run`.
#[derive(Debug)]
pub struct Avahi {
    bus: Proc,
    daemon: Proc,
    address: String,
    folder: PathBuf,
}

impl Avahi {
    /// Starts both at `place`; their files go to a folder of their own in `folder`. Needs a place with a namespace.
    pub async fn start(place: &Place, folder: &Path) -> Result<Self> {
        ensure!(
            place.netns().is_some(),
            "there is no multicast at {}",
            place.name()
        );
        let folder = folder.join(format!("{}-avahi", place.name()));
        std::fs::create_dir_all(&folder).context("creating avahi's folder")?;
        // A socket has a path of at most 107 bytes (unix(7)).
        let socket = folder.join("bus");
        ensure!(
            socket.as_os_str().len() < 108,
            "{} is too long for a socket",
            socket.display()
        );
        let address = format!("unix:path={}", socket.display());
        let bus = place
            .run("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address"])
            .arg(format!("--address={address}"))
            .log(folder.join("bus.log"))
            .spawn()
            .await?;
        bus.wait_line("unix:path=", START).await?;
        let config = folder.join("avahi.conf");
        let text = format!(
            "[server]\nhost-name={}\nuse-ipv4=yes\nuse-ipv6=no\nallow-interfaces={}\nenable-dbus=yes\n\
             [publish]\npublish-workstation=no\npublish-hinfo=no\n",
            place.name(),
            place.interface(),
        );
        std::fs::write(&config, text).context("writing avahi's configuration")?;
        // Entering a namespace by `ip netns exec` gives mounts of one's own: this one is seen by nobody else.
        let script = "mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && \
                      exec avahi-daemon --no-chroot --no-drop-root --no-rlimits -f \"$0\"";
        let daemon = place
            .run("sh")
            .args(["-c", script])
            .arg(&config)
            .env("DBUS_SYSTEM_BUS_ADDRESS", &address)
            .log(folder.join("daemon.log"))
            .spawn()
            .await?;
        daemon.wait_line("startup complete", START).await?;
        Ok(Self {
            bus,
            daemon,
            address,
            folder,
        })
    }

    /// `program` so that it announces itself here, as MPD and shairport-sync do by themselves.
    #[must_use]
    pub fn announcing(&self, program: ProcBuilder) -> ProcBuilder {
        program.env("DBUS_SYSTEM_BUS_ADDRESS", &self.address)
    }

    /// Announces a service until the result is dropped: its instance name, type (`_http._tcp`), port and TXT record.
    pub async fn publish(
        &self,
        name: &str,
        service: &str,
        port: u16,
        txt: &[&str],
    ) -> Result<Proc> {
        let publish = self
            .daemon
            .place()
            .run("avahi-publish")
            .args(["-s", name, service, &port.to_string()])
            .args(txt)
            .log(self.folder.join(format!("{service}.log")));
        let publish = self.announcing(publish).spawn().await?;
        publish.wait_line("Established", START).await?;
        Ok(publish)
    }

    /// Whether both of its programs run.
    pub fn is_running(&self) -> bool {
        self.bus.exit().is_none() && self.daemon.exit().is_none()
    }
}

/// A jukebox, played by MPD: it keeps time but makes no sound.
#[derive(Debug)]
pub struct Mpd {
    /// The program.
    pub proc: Proc,
    /// What announces it.
    pub avahi: Avahi,
    folder: PathBuf,
}

impl Mpd {
    /// Starts it at `place` with the songs in `music`, announced under `name`. Returns once its library is read.
    pub async fn start(place: &Place, music: &Path, name: &str, folder: &Path) -> Result<Self> {
        let avahi = Avahi::start(place, folder).await?;
        let folder = folder.join(format!("{}-mpd", place.name()));
        let lists = folder.join("lists");
        std::fs::create_dir_all(&lists).context("creating MPD's folder")?;
        let config = folder.join("mpd.conf");
        let output = |name: &str| {
            format!(
                "audio_output {{\n  type \"null\"\n  name \"{name}\"\n  mixer_type \"software\"\n}}\n"
            )
        };
        let text = format!(
            "music_directory \"{}\"\nplaylist_directory \"{}\"\ndb_file \"{}\"\nbind_to_address \"{}\"\n\
             port \"{MPD_PORT}\"\nzeroconf_enabled \"yes\"\nzeroconf_name \"{name}\"\nauto_update \"no\"\n{}{}",
            music.display(),
            lists.display(),
            folder.join("db").display(),
            place.addr(),
            output("Loudspeakers"),
            output("Garden"),
        );
        std::fs::write(&config, text).context("writing MPD's configuration")?;
        let program = place
            .run("mpd")
            .args(["--no-daemon", "--stderr"])
            .arg(&config)
            .log(folder.join("mpd.log"));
        let proc = avahi.announcing(program).spawn().await?;
        proc.wait_port(MPD_PORT, START).await?;
        let mpd = Self {
            proc,
            avahi,
            folder,
        };
        mpd.mpc(&["update", "--wait"]).await?;
        Ok(mpd)
    }

    /// Asks it by mpc, another program's client, and returns what mpc printed.
    pub async fn mpc(&self, words: &[&str]) -> Result<String> {
        let place = self.proc.place();
        let asked = place
            .run("mpc")
            .args(words)
            .env("MPD_HOST", place.addr().to_string())
            .env("MPD_PORT", MPD_PORT.to_string())
            .log(self.folder.join("mpc.log"))
            .spawn()
            .await?;
        let status = asked.wait_exit(START).await?;
        ensure!(
            status.success(),
            "mpc {}: {}",
            words.join(" "),
            asked.tail()
        );
        Ok(asked.output())
    }

    /// Waits until what mpc says of `words` satisfies `is`.
    pub async fn wait_mpc(
        &self,
        what: &str,
        words: &[&str],
        is: impl Fn(&str) -> bool,
    ) -> Result<String> {
        until(what, START, async || {
            self.mpc(words).await.ok().filter(|said| is(said))
        })
        .await
    }
}

/// A Google Cast television, played by a receiver on npm castv2's server (`tests/peers`): it fetches and decodes what
/// it is told to play, in real time, and shows nothing.
#[derive(Debug)]
pub struct CastTv {
    /// The program.
    pub proc: Proc,
    /// What announces it.
    pub avahi: Avahi,
    announcement: Proc,
}

/// What the television itself thinks.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct CastState {
    /// Loudness, 0 to 1.
    pub level: f64,
    /// Whether it is silenced.
    pub muted: bool,
    /// Whether the default media receiver runs.
    pub app: bool,
    /// What is loaded.
    pub player: Option<CastPlaying>,
}

/// What a [`CastTv`] has loaded.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct CastPlaying {
    /// `PLAYING`, `PAUSED`, `BUFFERING` or `IDLE`.
    pub state: String,
    /// The URL.
    pub url: String,
    /// Seconds, as far as it was decoded.
    pub position: f64,
}

impl CastTv {
    /// Starts it at `place`, announced under the friendly name `name`. `./mantel` installs what it needs in
    /// `tests/peers`.
    pub async fn start(place: &Place, name: &str, folder: &Path) -> Result<Self> {
        let avahi = Avahi::start(place, folder).await?;
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        ensure!(
            peers.join("node_modules/castv2").is_dir(),
            "the Cast receiver is not installed; run ./mantel peers"
        );
        let folder = folder.join(format!("{}-cast", place.name()));
        std::fs::create_dir_all(&folder).context("creating the television's folder")?;
        let own = rcgen::generate_simple_self_signed(vec!["cast".to_owned()])
            .context("making the television's certificate")?;
        let (key, cert) = (folder.join("key.pem"), folder.join("cert.pem"));
        std::fs::write(&key, own.signing_key.serialize_pem()).context("writing its key")?;
        std::fs::write(&cert, own.cert.pem()).context("writing its certificate")?;
        let proc = place
            .run("node")
            .arg(peers.join("cast_receiver.js"))
            .args([place.addr().to_string(), CAST_PORT.to_string()])
            .args([&key, &cert])
            .log(folder.join("cast.log"))
            .spawn()
            .await?;
        proc.wait_line("ready", START).await?;
        let id = blake3::hash(place.name().as_bytes()).to_hex()[..32].to_owned();
        let announcement = avahi
            .publish(
                &format!("Chromecast-{id}"),
                "_googlecast._tcp",
                CAST_PORT,
                &[
                    &format!("id={id}"),
                    "md=Chromecast",
                    &format!("fn={name}"),
                    "ve=05",
                    "ca=4101",
                    "st=0",
                ],
            )
            .await?;
        Ok(Self {
            proc,
            avahi,
            announcement,
        })
    }

    /// What it thinks now; `None` before anything happened.
    pub fn state(&self) -> Option<CastState> {
        let said = self.proc.output();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        whole
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str(line.strip_prefix("state ")?).ok())
    }

    /// Waits until its state satisfies `is`.
    pub async fn wait_state(
        &self,
        what: &str,
        is: impl Fn(&CastState) -> bool,
    ) -> Result<CastState> {
        self.proc
            .wait_while_alive(what, START, async || self.state().filter(|now| is(now)))
            .await
    }

    /// Takes its announcement back, as a television that is switched off.
    pub async fn withdraw(self) -> Result<Proc> {
        self.announcement.stop().await?;
        Ok(self.proc)
    }
}
