//! More makers of UPnP devices: gerbera, and rygel, which serves and plays at once.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::net::Place;
use super::process::Proc;

/// How long a peer may take to start.
const START: Duration = Duration::from_mins(1);
/// Gerbera takes only ports from 49152.
const GERBERA_PORT: u16 = 49152;
/// The port of [`Rygel`].
const RYGEL_PORT: u16 = 49300;
/// Waits until the kernel has made sure of the place's IPv6 addresses: libupnp binds to them and gives up otherwise.
const SETTLED: &str =
    "until [ -z \"$(ip -6 addr show tentative 2>/dev/null)\" ]; do sleep 0.1; done; exec \"$@\"";

/// A UPnP media server, played by gerbera: a NAS.
#[derive(Debug)]
pub struct Gerbera {
    /// The program.
    pub proc: Proc,
}

impl Gerbera {
    /// Starts it at `place`, sharing `media` and watching it, under the friendly name `name`; its own files go to
    /// `folder`. Returns once it answers.
    pub async fn start(place: &Place, media: &Path, name: &str, folder: &Path) -> Result<Self> {
        let folder = folder.join(format!("{}-gerbera", place.name()));
        std::fs::create_dir_all(&folder).context("creating the media server's folder")?;
        let usual = std::fs::read_to_string("/etc/gerbera/config.xml")
            .context("reading the configuration that comes with gerbera")?;
        let mut config = between(&usual, "<home>", "</home>", &folder.display().to_string())?;
        config = between(&config, "<name>", "</name>", name)?;
        config = config.replace(
            "<udn/>",
            &format!("<udn>uuid:{}</udn>", super::peers::uuid(place)),
        );
        let watched = format!(
            "<import hidden-files=\"no\"><autoscan use-inotify=\"yes\"><directory location=\"{}\" mode=\"inotify\" \
             recursive=\"yes\" hidden-files=\"no\"/></autoscan>",
            media.display()
        );
        config = config.replace("<import hidden-files=\"no\">", &watched);
        let file = folder.join("config.xml");
        std::fs::write(&file, config).context("writing the media server's configuration")?;
        let proc = place
            .run("sh")
            .args(["-c", SETTLED, "sh", "gerbera", "-c"])
            .arg(&file)
            .args(["-e", place.interface(), "-p", &GERBERA_PORT.to_string()])
            .log(folder.join("out.log"))
            .spawn()
            .await?;
        proc.wait_port(GERBERA_PORT, START).await?;
        Ok(Self { proc })
    }
}

fn between(text: &str, from: &str, to: &str, with: &str) -> Result<String> {
    let (head, rest) = text.split_once(from).context("an unknown configuration")?;
    let (_, tail) = rest.split_once(to).context("an unknown configuration")?;
    Ok(format!("{head}{from}{with}{to}{tail}"))
}

/// A UPnP media server and a renderer in one program, played by rygel: a computer that shares a folder and plays.
#[derive(Debug)]
pub struct Rygel {
    /// The program, in a process namespace of its own with its message bus.
    pub proc: Proc,
}

impl Rygel {
    /// Starts it at `place`, sharing `media` as `name` and playing as `player`; its own files go to `folder`. Returns
    /// once it answers.
    pub async fn start(
        place: &Place,
        media: &Path,
        name: &str,
        player: &str,
        folder: &Path,
    ) -> Result<Self> {
        let folder = folder.join(format!("{}-rygel", place.name()));
        let (config, run) = (folder.join(".config"), folder.join("run"));
        for made in [&config, &run] {
            std::fs::create_dir_all(made).context("creating the media server's folder")?;
        }
        let text = format!(
            "[general]\ninterface={}\nport={RYGEL_PORT}\nupnp-enabled=true\nenable-transcoding=false\nipv6=false\n\
             [MediaExport]\nenabled=true\ntitle={name}\nuris={}\nextract-metadata=true\nmonitor-changes=true\n\
             monitor-grace-timeout=1\nstrict-sharing=false\n\
             [Playbin]\nenabled=true\ntitle={player}\naudio-sink=fakesink\nvideo-sink=fakesink\n",
            place.interface(),
            media.display(),
        );
        std::fs::write(config.join("rygel.conf"), text)
            .context("writing the media server's configuration")?;
        let proc = place
            .run("dbus-run-session")
            .args(["--", "rygel"])
            .alone()
            .env("HOME", &folder)
            .env("XDG_CONFIG_HOME", &config)
            .env("XDG_CACHE_HOME", folder.join(".cache"))
            .env("XDG_RUNTIME_DIR", &run)
            .env("GST_REGISTRY", folder.join("gst"))
            .log(folder.join("out.log"))
            .spawn()
            .await?;
        proc.wait_port(RYGEL_PORT, START).await?;
        Ok(Self { proc })
    }
}
