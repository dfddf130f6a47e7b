//! A box of the household in a machine with firmware, and what it is asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::Household;
use mantel_tests::lab::{Guest, GuestBuilder, Home, run, text, until};
use mantel_tests::media;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

use super::built::{TINY, image, number, spoil};

/// The longest a word to the guest's shell may take: the processor is emulated, and this machine does other things.
pub const WORD: Duration = Duration::from_mins(3);
/// The longest a start may take, with the proof that it is good, and all tries of a slot that does not work.
pub const START: Duration = Duration::from_mins(25);
/// The longest that writing a slot may take.
pub const INSTALL: Duration = Duration::from_mins(15);
/// Puts the disc with bundles in.
pub const PUT_IN: &str = "mkdir -p /run/disc; mountpoint -q /run/disc || \
                      mount -t squashfs -o ro $(blkid -t TYPE=squashfs -o device /dev/vd[b-z]) /run/disc";
pub const PASSWORD: &str = "a password for the box";

/// A disc with bundles for the guest, since nothing serves them there yet.
pub fn bundles(folder: &Path, versions: &[&str]) -> Result<PathBuf> {
    let disc = folder.join("bundles.squashfs");
    let tray = folder.join("bundles");
    std::fs::create_dir_all(&tray)?;
    for version in versions {
        let from = image()?.join(version).join("mantel.raucb");
        let to = tray.join(format!("{version}.raucb"));
        if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to).with_context(|| format!("no bundle {version}"))?;
        }
    }
    if versions.contains(&TINY) {
        let tiny = std::fs::read(tray.join(format!("{TINY}.raucb")))?;
        let mut random = StdRng::seed_from_u64(7);
        for index in 0..number("MANTEL_MUTATIONS_INSIDE", 6) {
            let mut spoilt = tiny.clone();
            spoil(&mut spoilt, &mut random);
            std::fs::write(tray.join(format!("spoilt-{index}.raucb")), spoilt)?;
        }
    }
    run(
        "mksquashfs",
        &[
            text(&tray)?,
            text(&disc)?,
            "-quiet",
            "-no-progress",
            "-noI",
            "-noD",
            "-noF",
            "-noappend",
        ],
    )?;
    Ok(disc)
}

/// A box of the household, running.
pub struct Appliance {
    pub guest: Guest,
}

impl Appliance {
    /// Starts it in `home`, from a snapshot of its disk if one is named.
    pub async fn start(
        home: &Home,
        folder: &Path,
        disk: &Path,
        disc: &Path,
        resume: Option<&str>,
    ) -> Result<Self> {
        let disc = format!("if=virtio,format=raw,readonly=on,file={}", text(disc)?);
        let mut builder = GuestBuilder::from_disk(disk)
            .device(&["-drive", &disc])
            .processors(number("MANTEL_PROCESSORS", 2));
        if let Some(name) = resume {
            builder = builder.resume(name);
        }
        let guest = builder.start(home, folder).await?;
        Ok(Self { guest })
    }

    pub async fn sh(&self, script: &str) -> Result<String> {
        self.guest.run(script, WORD).await
    }

    /// What the machine says of itself.
    pub async fn facts(&self) -> Result<Value> {
        let words = self.sh("cat /run/mantel/system.json").await?;
        serde_json::from_str(&words).with_context(|| format!("not JSON: {words}"))
    }

    /// Waits until a start has proved good, and returns what runs: (version, slot).
    pub async fn wait_good(&self) -> Result<(String, String)> {
        let good = self
            .guest
            .proc
            .wait_while_alive("a good start", START, async || {
                let seen = self.sh("cat /run/mantel/good && echo is-good").await.ok()?;
                seen.ends_with("is-good").then_some(())
            })
            .await;
        good.with_context(|| format!("the console ended with:\n{}", self.tail()))?;
        self.running().await
    }

    /// What runs: (version, slot).
    pub async fn running(&self) -> Result<(String, String)> {
        let facts = self.facts().await?;
        let word = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
        Ok((word("version"), word("slot")))
    }

    pub fn tail(&self) -> String {
        let console = self.guest.console();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Puts a bundle where the gateway leaves it.
    pub async fn hand_over(&self, name: &str) -> Result<()> {
        let script = format!(
            "set -e; {PUT_IN}\n\
             d=/var/lib/mantel-gateway/update; install -d -o mantel -g mantel -m 700 $d\n\
             cp /run/disc/{name}.raucb $d/bundle.raucb; chown mantel: $d/bundle.raucb; sync"
        );
        self.guest.run(&script, INSTALL).await.map(drop)
    }

    /// Asks for something as the gateway does.
    pub async fn ask(&self, request: &str) -> Result<()> {
        self.ask_with(request, "").await
    }

    pub async fn ask_with(&self, request: &str, words: &str) -> Result<()> {
        let script = format!(
            "rm -f /run/mantel/update.json; cd /run/mantel/requests; echo {words} >/run/words; chmod 644 /run/words
             setpriv --reuid=mantel --regid=mantel --clear-groups sh -c 'cat /run/words >.new; mv .new {request}'"
        );
        self.sh(&script).await.map(drop)
    }

    /// Installs a bundle that was handed over; what came of it: (state, message).
    pub async fn install(&self, version: &str) -> Result<(String, String)> {
        let sum = "sha256sum </var/lib/mantel-gateway/update/bundle.raucb | cut -c 1-64";
        let sum = self.sh(sum).await?;
        self.install_offered(&sum, version).await
    }

    /// Asks to install a bundle that was handed over before.
    pub async fn ask_to_install(&self, version: &str) -> Result<()> {
        let bundle = image()?.join(version).join("mantel.raucb");
        let sum = run("sha256sum", &[text(&bundle)?])?;
        let sum = String::from_utf8(sum)?;
        let sum = sum.get(..64).context("a sum")?;
        self.ask_with("install", &format!("{sum} {version}")).await
    }

    /// Installs a bundle that was handed over where the one with this SHA-256 was offered.
    pub async fn install_offered(&self, sum: &str, version: &str) -> Result<(String, String)> {
        let asked = format!("{sum} {version}");
        self.ask_with("install", &asked).await?;
        let what = "the end of the installation";
        let guest = &self.guest;
        guest
            .proc
            .wait_while_alive(what, INSTALL, async || {
                let said = self.sh("cat /run/mantel/update.json").await.ok()?;
                let said: Value = serde_json::from_str(&said).ok()?;
                let word = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
                (said["state"] != "installing").then(|| (word("state"), word("message")))
            })
            .await
    }

    /// Asks for a restart and waits until the kernel has gone.
    pub async fn restart(&self) -> Result<()> {
        let before = self.starts();
        self.ask("restart").await?;
        self.wait_firmware(before).await
    }

    /// Waits for the firmware's next start.
    pub async fn wait_firmware(&self, before: usize) -> Result<()> {
        let what = "the next start";
        self.guest
            .proc
            .wait_while_alive(what, START, async || (self.starts() > before).then_some(()))
            .await
    }

    pub fn starts(&self) -> usize {
        self.guest.console().matches("BdsDxe: starting").count()
    }
}

/// What the household has: a title whose bytes are known.
pub struct Belongings {
    pub home: Household,
    title: String,
    bytes: Vec<u8>,
}

impl Belongings {
    pub async fn bring(machine: &Appliance) -> Result<Self> {
        machine.guest.wait_up().await?;
        let home = Household::move_in("h", &machine.guest.url(), PASSWORD).await?;
        let bytes = std::fs::read(&media::photos()?[0])?;
        let title = home.add("photo.jpg", bytes.clone()).await?.id;
        Ok(Self { home, title, bytes })
    }

    /// The household is still logged in, and its title is whole.
    pub async fn check(&self, machine: &Appliance) -> Result<()> {
        machine.guest.wait_up().await?;
        let now = until("the title", WORD, async || {
            self.home.read_media(&self.title).await.ok()
        })
        .await?;
        ensure!(now == self.bytes, "the title is not what it was");
        Ok(())
    }
}
