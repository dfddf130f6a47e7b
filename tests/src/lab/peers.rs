//! Real programs that play a home's devices, and the packet recorder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::http::Session;
use super::net::Place;
use super::process::Proc;
use super::wait::until;

/// How long a peer may take to start.
const START: Duration = Duration::from_mins(1);
/// The port of a [`MediaServer`].
const MEDIA_SERVER_PORT: u16 = 8200;
/// The port of a [`Renderer`]; it takes only ports from 49152.
const RENDERER_PORT: u16 = 49494;

/// tcpdump hands packets on after one second at the latest.
const CAPTURE_DELAY: Duration = Duration::from_secs(2);

/// A UPnP media server, played by minidlna: a camcorder or a PC that shares a folder.
#[derive(Debug)]
pub struct MediaServer {
    /// The program.
    pub proc: Proc,
}

impl MediaServer {
    /// Starts it at `place`, sharing `media` under the friendly name `name`; its own files go to
    /// `folder`. Returns once it answers; see [`MediaServer::wait_files`].
    pub async fn start(place: &Place, media: &Path, name: &str, folder: &Path) -> Result<Self> {
        let folder = folder.join(format!("{}-minidlna", place.name()));
        let database = folder.join("db");
        std::fs::create_dir_all(&database).context("creating the media server's folder")?;
        let config = format!(
            "port={MEDIA_SERVER_PORT}\nnetwork_interface={}\nmedia_dir={}\nfriendly_name={name}\n\
             uuid={}\ndb_dir={}\nlog_dir={}\ninotify=yes\nnotify_interval=30\n",
            place.interface(),
            media.display(),
            uuid(place),
            database.display(),
            folder.display(),
        );
        let file = folder.join("minidlna.conf");
        std::fs::write(&file, config).context("writing the media server's configuration")?;
        let proc = place
            .run("minidlnad")
            .args(["-S", "-f"])
            .arg(&file)
            .arg("-P")
            .arg(folder.join("pid"))
            .log(folder.join("out.log"))
            .spawn()
            .await?;
        let server = Self { proc };
        wait_page(&server.proc, &server.url(), START).await?;
        Ok(server)
    }

    /// The URL of its device description.
    pub fn url(&self) -> String {
        format!("{}/rootDesc.xml", self.proc.place().url(MEDIA_SERVER_PORT))
    }

    /// Waits until it has found at least `count` files in its folder.
    pub async fn wait_files(&self, count: usize, deadline: Duration) -> Result<()> {
        let site = Session::new(&self.proc.place().url(MEDIA_SERVER_PORT))?;
        let what = format!("{count} files");
        self.proc
            .wait_while_alive(&what, deadline, async || {
                let page = site.get("/").await.ok()?;
                (files_on(&page.body) >= count).then_some(())
            })
            .await
    }
}

/// How many files minidlna's own page counts: the sum of its audio, video and image rows.
fn files_on(page: &str) -> usize {
    page.split("<tr><td>")
        .filter(|row| row.contains("files"))
        .filter_map(|row| row.split("<td>").nth(1))
        .filter_map(|cell| cell.split('<').next()?.trim().parse::<usize>().ok())
        .sum()
}

/// A UPnP media renderer, played by gmediarender: a TV whose screen and loudspeaker keep time but
/// show nothing.
#[derive(Debug)]
pub struct Renderer {
    /// The program.
    pub proc: Proc,
}

impl Renderer {
    /// Starts it at `place` under the friendly name `name`, logging to `folder`. Returns once it
    /// answers.
    pub async fn start(place: &Place, name: &str, folder: &Path) -> Result<Self> {
        let proc = place
            .run("gmediarender")
            .args(["-f", name, "-I", place.interface(), "-u", &uuid(place)])
            .args(["-p", &RENDERER_PORT.to_string(), "--logfile=stdout"])
            .args([
                "--gstout-audiosink=fakeaudiosink",
                "--gstout-videosink=fakevideosink",
            ])
            // Its registry of plugins: several at a time must not write the same one.
            .env("GST_REGISTRY", folder.join(format!("{}-gst", place.name())))
            .log(folder.join(format!("{}-gmediarender.log", place.name())))
            .spawn()
            .await?;
        let renderer = Self { proc };
        wait_page(&renderer.proc, &renderer.url(), START).await?;
        Ok(renderer)
    }

    /// The URL of its device description.
    pub fn url(&self) -> String {
        format!("{}/description.xml", self.proc.place().url(RENDERER_PORT))
    }
}

async fn wait_page(proc: &Proc, url: &str, deadline: Duration) -> Result<()> {
    let site = Session::new(url)?;
    proc.wait_while_alive(&format!("an answer at {url}"), deadline, async || {
        site.get(url).await.ok()?.ok().ok().map(drop)
    })
    .await
}

/// A device's own UUID, the same each time it is started in the same place.
pub(super) fn uuid(place: &Place) -> String {
    let seed = format!("{} {}", place.name(), place.addr());
    let digest = blake3::hash(seed.as_bytes()).to_hex();
    let part = |from: usize, to: usize| digest.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-4{}-8{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 15),
        part(15, 18),
        part(18, 30)
    )
}

/// A recording of all packets that pass a place, made by tcpdump.
#[derive(Debug)]
pub struct Capture {
    proc: Proc,
    file: PathBuf,
}

/// What tcpdump says of a recording. A proof needs `dropped == 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureSummary {
    /// Packets in the file.
    pub captured: u64,
    /// Packets the kernel had to leave out.
    pub dropped: u64,
}

impl Capture {
    /// Starts recording at `place`, whole packets on all interfaces, into the pcap file `file`.
    /// Returns once it records. Needs root.
    pub async fn start(place: &Place, file: &Path) -> Result<Self> {
        let proc = place
            .run("tcpdump")
            .args(["-i", "any", "-n", "-s", "0", "-U"])
            // 256 MiB of buffer. In immediate mode each packet would take 256 KiB of it, however short.
            .args(["-B", "262144"])
            // As root throughout: a change of user would undo the death signal.
            .args(["-Z", "root", "-w"])
            .arg(file)
            .log(file.with_extension("tcpdump.log"))
            .spawn()
            .await?;
        proc.wait_line("listening on", START).await?;
        Ok(Self {
            proc,
            file: file.to_owned(),
        })
    }

    /// Ends the recording once nothing more arrives in the file.
    pub async fn stop(self) -> Result<CaptureSummary> {
        let size = || self.file.metadata().ok().map(|found| found.len());
        until("the recording to settle", START, async || {
            let before = size()?;
            tokio::time::sleep(CAPTURE_DELAY).await;
            (size()? == before).then_some(())
        })
        .await?;
        self.proc.signal(Signal::INT)?;
        self.proc.wait_exit(START).await?;
        let said = self.proc.output();
        let count = |what: &str| {
            let line = said.lines().find(|line| line.contains(what))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Ok(CaptureSummary {
            captured: count("captured").context("tcpdump did not say what it captured")?,
            dropped: count("dropped by kernel").context("tcpdump did not say what it dropped")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_rows_of_the_status_page() {
        let page = "<h3>Media library</h3><table><tr><td>Audio files</td><td>1</td></tr>\
                    <tr><td>Video files</td><td>2</td></tr><tr><td>Image files</td><td>4</td></tr></table>";
        assert_eq!(files_on(page), 7);
        assert_eq!(files_on("<html>"), 0);
    }
}
