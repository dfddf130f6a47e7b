//! The appliance's disk image in a machine with firmware (F65): first start, updates from slot to slot, an update that
//! does not work, bundles that are not right, power cuts, flipped bits, factory reset.
//!
//! `./mantel test-disk` builds what is booted: version 1.0.0 as a disk image, 1.1.0 and 1.2.0 as bundles (the gateway
//! of 1.2.0 ends at once), 0.9.0 and 1.3.0 as tiny ones that hold no system. The processor is emulated: a start takes
//! one to three minutes. Numbers: `MANTEL_CUTS` (3), `MANTEL_FLIPS` (20), `MANTEL_MUTATIONS` (1000), `MANTEL_SEED`.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory watches real programs in real time; there is no clock to inject"
)]
#![allow(clippy::print_stdout, reason = "the test says what it measured")]

#[path = "image/built.rs"]
mod built;
#[path = "image/files.rs"]
mod files;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::Household;
use mantel_tests::lab::{Guest, GuestBuilder, Home, Net, Place, Proc, Session, until};
use mantel_tests::media;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use built::{BROKEN, FIRST, OLD, SECOND, TINY, image, number, run, seed, spoil, text, verity};

/// The longest a word to the guest's shell may take: the processor is emulated, and this machine does other things.
const WORD: Duration = Duration::from_mins(3);
/// The longest a start may take, with the proof that it is good, and all tries of a slot that does not work.
const START: Duration = Duration::from_mins(25);
/// The longest that writing a slot may take.
const INSTALL: Duration = Duration::from_mins(15);
/// The disk of a box: the image, slot B and the data.
const DISK: &str = "6G";
/// Puts the disc with bundles in.
const PUT_IN: &str = "mkdir -p /run/disc; mountpoint -q /run/disc || \
                      mount -t squashfs -o ro $(blkid -t TYPE=squashfs -o device /dev/vd[b-z]) /run/disc";
/// What the gateway and the whole machine take.
const MEMORY: &str = "awk '/^VmRSS/ { print \"gateway: \" $2 / 1024 \" MiB resident\" }' \
                      /proc/$(pidof mantel-gateway)/status 2>/dev/null
awk '/^MemTotal/ { t = $2 } /^MemAvailable/ { a = $2 } END { print \"machine: \" (t - a) / 1024 \" MiB used\" }' \
                      /proc/meminfo";
const PASSWORD: &str = "a password for the box";

/// A new box: an empty disk on which the image was written.
fn new_disk(folder: &Path) -> Result<PathBuf> {
    let disk = folder.join("disk.qcow2");
    let base = image()?.join(FIRST).join("mantel.img");
    ensure!(
        base.is_file(),
        "{} is missing: ./mantel test-disk",
        base.display()
    );
    let _gone = std::fs::remove_file(&disk);
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            text(&base)?,
            text(&disk)?,
            DISK,
        ],
    )?;
    Ok(disk)
}

/// A disc with bundles for the guest, since nothing serves them there yet.
fn bundles(folder: &Path) -> Result<PathBuf> {
    let disc = folder.join("bundles.squashfs");
    let tray = folder.join("bundles");
    std::fs::create_dir_all(&tray)?;
    for version in [FIRST, SECOND, BROKEN, OLD, TINY] {
        let from = image()?.join(version).join("mantel.raucb");
        let to = tray.join(format!("{version}.raucb"));
        if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to).with_context(|| format!("no bundle {version}"))?;
        }
    }
    let tiny = std::fs::read(tray.join(format!("{TINY}.raucb")))?;
    let mut random = StdRng::seed_from_u64(7);
    for index in 0..number("MANTEL_MUTATIONS_INSIDE", 6) {
        let mut spoilt = tiny.clone();
        spoil(&mut spoilt, &mut random);
        std::fs::write(tray.join(format!("spoilt-{index}.raucb")), spoilt)?;
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
struct Appliance {
    guest: Guest,
}

impl Appliance {
    /// Starts it in `home`, from a snapshot of its disk if one is named.
    async fn start(
        home: &Home,
        folder: &Path,
        disk: &Path,
        disc: &Path,
        resume: Option<&str>,
    ) -> Result<Self> {
        let disc = format!("if=virtio,format=raw,readonly=on,file={}", text(disc)?);
        let mut builder = GuestBuilder::from_disk(disk).device(&["-drive", &disc]);
        if let Some(name) = resume {
            builder = builder.resume(name);
        }
        let guest = builder.start(home, folder).await?;
        Ok(Self { guest })
    }

    async fn sh(&self, script: &str) -> Result<String> {
        self.guest.run(script, WORD).await
    }

    /// What the machine says of itself.
    async fn facts(&self) -> Result<Value> {
        let words = self.sh("cat /run/mantel/system.json").await?;
        serde_json::from_str(&words).with_context(|| format!("not JSON: {words}"))
    }

    /// Waits until a start has proved good, and returns what runs: (version, slot).
    async fn wait_good(&self) -> Result<(String, String)> {
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
    async fn running(&self) -> Result<(String, String)> {
        let facts = self.facts().await?;
        let word = |name: &str| facts[name].as_str().unwrap_or_default().to_owned();
        Ok((word("version"), word("slot")))
    }

    fn tail(&self) -> String {
        let console = self.guest.console();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Puts a bundle where the gateway leaves it.
    async fn hand_over(&self, name: &str) -> Result<()> {
        let script = format!(
            "set -e; {PUT_IN}\n\
             d=/var/lib/mantel-gateway/update; install -d -o mantel -g mantel -m 700 $d\n\
             cp /run/disc/{name}.raucb $d/bundle.raucb; chown mantel: $d/bundle.raucb; sync"
        );
        self.guest.run(&script, INSTALL).await.map(drop)
    }

    /// Asks for something as the gateway does.
    async fn ask(&self, request: &str) -> Result<()> {
        let script = format!(
            "rm -f /run/mantel/update.json; \
             setpriv --reuid=mantel --regid=mantel --clear-groups touch /run/mantel/requests/{request}"
        );
        self.sh(&script).await.map(drop)
    }

    /// Installs a bundle that was handed over; what came of it: (state, message).
    async fn install(&self) -> Result<(String, String)> {
        self.ask("install").await?;
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
    async fn restart(&self) -> Result<()> {
        let before = self.guest.console().matches("BdsDxe: starting").count();
        self.ask("restart").await?;
        self.wait_firmware(before).await
    }

    /// Waits for the firmware's next start.
    async fn wait_firmware(&self, before: usize) -> Result<()> {
        let what = "the next start";
        self.guest
            .proc
            .wait_while_alive(what, START, async || {
                let now = self.guest.console().matches("BdsDxe: starting").count();
                (now > before).then_some(())
            })
            .await
    }

    fn starts(&self) -> usize {
        self.guest.console().matches("BdsDxe: starting").count()
    }
}

/// What the household has: a title whose bytes are known.
struct Belongings {
    home: Household,
    title: String,
    bytes: Vec<u8>,
}

impl Belongings {
    async fn bring(machine: &Appliance) -> Result<Self> {
        machine.guest.wait_up().await?;
        let home = Household::move_in("h", &machine.guest.url(), PASSWORD).await?;
        let bytes = std::fs::read(&media::photos()?[0])?;
        let title = home.add("photo.jpg", bytes.clone()).await?.id;
        Ok(Self { home, title, bytes })
    }

    /// The household is still logged in, and its title is whole.
    async fn check(&self, machine: &Appliance) -> Result<()> {
        machine.guest.wait_up().await?;
        let now = until("the title", WORD, async || {
            self.home.read_media(&self.title).await.ok()
        })
        .await?;
        ensure!(now == self.bytes, "the title is not what it was");
        Ok(())
    }
}

// ---- One box through its life ------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_box_starts_updates_falls_back_and_forgets() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disk = new_disk(&folder)?;
    let disc = bundles(&folder)?;
    let began = Instant::now();
    let home = net.home("h")?;
    let machine = Appliance::start(home, &folder, &disk, &disc, None).await?;
    machine.guest.wait_up().await?;
    let answers = began.elapsed().as_secs();
    println!("first start: the pages answer after {answers} s");
    let belongings = Belongings::bring(&machine).await?;
    let running = machine.wait_good().await?;
    ensure!(running == (FIRST.into(), "A".into()), "runs {running:?}");
    figures(&machine).await?;
    nobody_gets_in(&machine).await?;
    console(&machine).await?;
    refused(&machine).await?;
    update(&machine, &belongings).await?;
    falls_back(&machine, &belongings).await?;
    forgets(&machine).await?;
    machine.guest.quit().await?;
    net.done()
}

/// Times and memory beside the same machine without any of this project's units: Debian alone.
#[tokio::test(flavor = "multi_thread")]
async fn beside_bare_debian() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disk = new_disk(&folder)?;
    let home = net.home("h")?;
    // The first start makes the data partition, and is not counted.
    for what in ["first start", "Mantel", "bare"] {
        let mut builder = GuestBuilder::from_disk(&disk);
        if what == "bare" {
            for unit in [
                "mantel-gateway.service",
                "mantel-good.service",
                "mantel-console.service",
                "mantel-media-worker.socket",
                "mantel-media-eject.path",
                "mantel-request.path",
            ] {
                builder = builder.without(unit);
            }
        }
        let machine = Appliance {
            guest: builder.start(home, &folder).await?,
        };
        let script = format!(
            "until [ $(systemctl is-system-running) != starting ]; do sleep 1; done; sleep 60
            systemd-analyze | head -n 1
            from=$(systemctl show -P UserspaceTimestampMonotonic); to=$(systemctl show -P ActiveEnterTimestampMonotonic mantel-gateway)
            echo \"gateway ready $(((to - from) / 1000)) ms after the start of userspace\"
            {MEMORY}"
        );
        let said = machine.guest.run(&script, START).await?;
        println!("{what}:\n{said}");
        machine.guest.power_off().await?;
    }
    net.done()
}

/// Times and memory, printed.
async fn figures(machine: &Appliance) -> Result<()> {
    let script = format!(
        "systemd-analyze | head -n 1; {MEMORY}
         systemd-analyze critical-chain --no-pager mantel-gateway.service | sed -n '5,12p'"
    );
    println!("{}", machine.sh(&script).await?);
    let failed = machine
        .sh("systemctl list-units --state=failed --plain --no-legend")
        .await?;
    ensure!(failed.is_empty(), "units failed: {failed}");
    Ok(())
}

/// No account has a password, no shell waits on a terminal, nothing can be written to the system.
async fn nobody_gets_in(machine: &Appliance) -> Result<()> {
    let open = machine
        .sh("awk -F: '$2 !~ /^[!*]/ { print $1 }' /etc/shadow; cat /proc/[0-9]*/comm | grep -xE 'sshd|agetty|login' || true")
        .await?;
    ensure!(open.is_empty(), "can be entered: {open}");
    let written = machine.sh("touch /etc/x /usr/x 2>&1 || true").await?;
    let refusals = written.matches("Read-only file system").count();
    ensure!(refusals == 2, "the system can be written: {written}");
    Ok(())
}

/// Enter on the serial console shows how the machine is; other words do nothing.
async fn console(machine: &Appliance) -> Result<()> {
    let before = machine
        .guest
        .console()
        .matches("this start is good")
        .count();
    machine.guest.type_in("root\n").await?;
    until("the console", WORD, async || {
        let now = machine.guest.console();
        (now.matches("this start is good").count() > before).then_some(())
    })
    .await?;
    Ok(())
}

/// Bundles that are too old, or not what was signed.
async fn refused(machine: &Appliance) -> Result<()> {
    let list = format!("{PUT_IN}; cd /run/disc; ls spoilt-*");
    let spoilt = machine.sh(&list).await?;
    let mut names: Vec<String> = vec![OLD.to_owned()];
    names.extend(
        spoilt
            .split_whitespace()
            .map(|n| n.trim_end_matches(".raucb").to_owned()),
    );
    for name in &names {
        machine.hand_over(name).await?;
        let (state, message) = machine.install().await?;
        ensure!(state == "refused", "{name} was {state}: {message}");
        println!("{name} refused: {message}");
    }
    let next = machine.sh("/usr/lib/mantel/boot-slots get-primary").await?;
    ensure!(next == "A", "slot {next} would start");
    Ok(())
}

async fn update(machine: &Appliance, belongings: &Belongings) -> Result<()> {
    machine.hand_over(SECOND).await?;
    let began = Instant::now();
    let (state, message) = machine.install().await?;
    ensure!(state == "installed", "{state}: {message}");
    println!("{SECOND} installed in {} s", began.elapsed().as_secs());
    machine.restart().await?;
    let running = machine.wait_good().await?;
    ensure!(running == (SECOND.into(), "B".into()), "runs {running:?}");
    belongings.check(machine).await?;
    println!("{SECOND} runs {} s later", began.elapsed().as_secs());
    // What was the newest a moment ago is now too old.
    machine.hand_over(FIRST).await?;
    let (state, message) = machine.install().await?;
    ensure!(state == "refused", "{FIRST} was {state}: {message}");
    println!("{FIRST} refused: {message}");
    Ok(())
}

async fn falls_back(machine: &Appliance, belongings: &Belongings) -> Result<()> {
    machine.hand_over(BROKEN).await?;
    let (state, message) = machine.install().await?;
    ensure!(state == "installed", "{state}: {message}");
    let (began, starts) = (Instant::now(), machine.starts());
    machine.restart().await?;
    let running = machine.wait_good().await?;
    ensure!(running == (SECOND.into(), "B".into()), "runs {running:?}");
    let tries = machine.starts() - starts - 1;
    ensure!(tries == 3, "{BROKEN} was tried {tries} times");
    let facts = machine.facts().await?;
    ensure!(facts["failed_update"] == BROKEN, "it says {facts}");
    let said = format!("Update {BROKEN} did not work");
    ensure!(machine.guest.console().contains(&said), "it did not say so");
    belongings.check(machine).await?;
    let took = began.elapsed().as_secs();
    println!("{BROKEN} was tried {tries} times; {SECOND} runs again after {took} s");
    Ok(())
}

/// Factory reset: a new key, a new identity, no household.
async fn forgets(machine: &Appliance) -> Result<()> {
    let marks = "cat /etc/machine-id; blkid -s UUID -o value -p /dev/disk/by-partlabel/mantel-data; \
                 sha256sum </var/lib/mantel-gateway/keys/device.key";
    let before = machine.sh(marks).await?;
    let starts = machine.starts();
    machine.ask("factory-reset").await?;
    machine.wait_firmware(starts).await?;
    let running = machine.wait_good().await?;
    ensure!(running.0 == SECOND, "runs {running:?}");
    let after = machine.sh(marks).await?;
    for (old, new) in before.lines().zip(after.lines()) {
        ensure!(old != new && !new.is_empty(), "kept: {old}");
    }
    Household::move_in("h", &machine.guest.url(), PASSWORD)
        .await
        .context("a new household")?;
    println!("factory reset: identity, key and data are new");
    Ok(())
}

// ---- The TPM -----------------------------------------------------------------------------------

/// A TPM 2 for the next machine at `place`; it ends with it, its memory stays in `folder`.
async fn tpm(place: &Place, folder: &Path) -> Result<(Proc, Vec<String>)> {
    let (state, socket) = (folder.join("tpm"), folder.join("tpm.sock"));
    std::fs::create_dir_all(&state)?;
    let _gone = std::fs::remove_file(&socket);
    let swtpm = place
        .run("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", text(&state)?))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", text(&socket)?))
        .spawn()
        .await?;
    until("the TPM", WORD, async || socket.exists().then_some(())).await?;
    let words = [
        "-chardev",
        &format!("socket,id=tpm,path={}", text(&socket)?),
        "-tpmdev",
        "emulator,id=tpm0,chardev=tpm",
        "-device",
        "tpm-crb,tpmdev=tpm0",
    ];
    Ok((swtpm, words.map(str::to_owned).to_vec()))
}

/// With a TPM, the data open by it and by nothing else: the disk in another machine reveals nothing and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_tpm_the_disk_alone_does_not_open() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disk = new_disk(&folder)?;
    let home = net.home("h")?;
    let start = async |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let builder = GuestBuilder::from_disk(&disk).device(&words);
        let guest = builder.start(home, &folder).await?;
        Ok::<_, anyhow::Error>(Appliance { guest })
    };
    let (_first_tpm, words) = tpm(home.gateway(), &folder).await?;
    let machine = start(&words).await?;
    let belongings = Belongings::bring(&machine).await?;
    machine.wait_good().await?;
    ensure!(
        machine.facts().await?["data"] == "tpm",
        "the TPM is not used"
    );
    let rest = "dd if=/dev/disk/by-partlabel/mantel-key bs=512 skip=1 count=2047 status=none | tr -d '\\0' | wc -c";
    let key = machine.sh(rest).await?;
    ensure!(key == "0", "a key lies on the disk: {key}");
    machine.sh("sync").await?;
    machine.guest.proc.kill9().await?;

    // The disk in a machine without this TPM.
    let machine = start(&[]).await?;
    let said = "the data partition cannot be opened (tpm)";
    until(said, START, async || {
        machine.guest.console().contains(said).then_some(())
    })
    .await?;
    machine.sh("! systemctl is-active mantel-gateway").await?;
    let visitor = Session::new(&machine.guest.url())?;
    let page = until("the page of the safe mode", START, async || {
        let page = visitor.get("/").await.ok()?;
        (page.status == 503).then_some(page.body)
    })
    .await?;
    let words = "cannot be opened by this machine";
    ensure!(page.contains(words), "the page says {page}");
    machine.guest.proc.kill9().await?;

    // And back: nothing was lost.
    let (_same_tpm, words) = tpm(home.gateway(), &folder).await?;
    let machine = start(&words).await?;
    machine.wait_good().await?;
    belongings.check(&machine).await?;
    println!("the data open with their TPM and not without");
    machine.guest.quit().await?;
    net.done()
}

// ---- Power cuts --------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_leave_a_whole_system() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disc = bundles(&folder)?;
    let home = net.home("h")?;
    let mut random = StdRng::seed_from_u64(seed());

    // A box that is about to be updated, and how long things take when nobody interferes.
    let disk = new_disk(&folder)?;
    let began = Instant::now();
    let machine = Appliance::start(home, &folder, &disk, &disc, None).await?;
    let belongings = Belongings::bring(&machine).await?;
    machine.wait_good().await?;
    let first_start = began.elapsed();
    machine.hand_over(SECOND).await?;
    machine.guest.keep("ready").await?;
    let began = Instant::now();
    let (state, message) = machine.install().await?;
    ensure!(state == "installed", "{state}: {message}");
    let install = began.elapsed();
    machine.guest.keep("installed").await?;
    let began = Instant::now();
    machine.restart().await?;
    machine.wait_good().await?;
    let activation = began.elapsed();
    machine.guest.quit().await?;
    println!("uninterrupted: {first_start:?}, {install:?}, {activation:?}");

    let mut ended = [0_u32; 2];
    for cut in 0..number("MANTEL_CUTS", 3) {
        let (what, span) = [
            ("installation", install),
            ("activation", activation),
            ("first start", first_start),
        ][usize::try_from(cut % 3)?];
        let after = span.mul_f64(random.random_range(0.0..1.0));
        let (disk, resume) = match what {
            "installation" => (disk.clone(), Some("ready")),
            "activation" => (disk.clone(), Some("installed")),
            _ => {
                let other = folder.join("first");
                std::fs::create_dir_all(&other)?;
                (new_disk(&other)?, None)
            }
        };
        let machine = Appliance::start(home, &folder, &disk, &disc, resume).await?;
        match what {
            "installation" => machine.ask("install").await?,
            "activation" => machine.ask("restart").await?,
            _ => {}
        }
        // The moment is the test's input: nothing is waited for.
        tokio::time::sleep(after).await;
        machine.guest.proc.kill9().await?;
        let machine = Appliance::start(home, &folder, &disk, &disc, None).await?;
        // The kernel checks each block of the slot as it is read (dm-verity); another test waits until all of them were.
        machine.guest.wait_up().await?;
        let (version, slot) = machine.running().await?;
        let expected = match what {
            "first start" => vec![FIRST],
            "installation" => vec![FIRST, SECOND],
            _ => vec![SECOND],
        };
        ensure!(expected.contains(&version.as_str()), "{version} runs");
        if resume.is_some() {
            belongings.check(&machine).await?;
        } else {
            Belongings::bring(&machine).await?.check(&machine).await?;
        }
        println!("cut {cut}: {what} after {after:.1?}: {version} in slot {slot}, data whole");
        ended[usize::from(slot == "B")] += 1;
        machine.guest.quit().await?;
    }
    println!(
        "after the cuts: {} in slot A, {} in slot B",
        ended[0], ended[1]
    );
    net.done()
}

// ---- A flipped bit -----------------------------------------------------------------------------

/// A flipped bit in the running slot: the machine panics at it, and the other slot takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_ends_in_the_other_slot() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let (disk, disc) = (new_disk(&folder)?, bundles(&folder)?);
    let home = net.home("h")?;
    let machine = Appliance::start(home, &folder, &disk, &disc, None).await?;
    let belongings = Belongings::bring(&machine).await?;
    machine.wait_good().await?;
    machine.hand_over(SECOND).await?;
    let (state, message) = machine.install().await?;
    ensure!(state == "installed", "{state}: {message}");
    let (_, tree) = verity(&image()?.join(FIRST).join("mantel.img"))?;
    let place_of_bit = StdRng::seed_from_u64(seed()).random_range(0..tree / 2);
    let flip = format!(
        "d=/dev/disk/by-partlabel/mantel-root-b; b=$(dd if=$d bs=1 skip={place_of_bit} count=1 status=none | od -An -tu1)
         printf \"\\\\x$(printf %02x $((b ^ 16)))\" | dd of=$d bs=1 seek={place_of_bit} conv=notrunc,fsync status=none"
    );
    machine.sh(&flip).await?;
    let starts = machine.starts();
    machine.restart().await?;
    let running = machine.wait_good().await?;
    ensure!(running == (FIRST.into(), "A".into()), "runs {running:?}");
    let facts = machine.facts().await?;
    ensure!(facts["failed_update"] == SECOND, "it says {facts}");
    belongings.check(&machine).await?;
    let tries = machine.starts() - starts - 1;
    println!("bit 4 of byte {place_of_bit} of slot B: {tries} tries, then slot A; data whole");
    machine.guest.quit().await?;
    net.done()
}
