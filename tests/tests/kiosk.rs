//! The appliance with a screen (F26): what is on it is looked at, by the picture that the graphics card shows, and its
//! keys are pressed.
//!
//! `./mantel test-disk --kiosk` builds what is booted: version 1.0.0 with a screen, and tiny bundles of 1.3.0 for boxes
//! with and without. The processor is emulated and there is no GPU: the first page takes minutes. What was seen is in
//! `target/mantel-shots`.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory watches real programs in real time; there is no clock to inject"
)]
#![allow(clippy::print_stdout, reason = "the test says what it measured")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::Household;
use mantel_tests::lab::{Guest, GuestBuilder, Home, Net, Picture, built, new_disk, qr_code};
use mantel_tests::media;

/// The longest a word to the guest's shell may take.
const WORD: Duration = Duration::from_mins(3);
/// The longest until something is on the screen: the processor is emulated, and this machine does other things.
const SHOWN: Duration = Duration::from_mins(20);
/// Colours of the television's pages (gateway/web/src/tv.css): behind everything, and around what has the focus.
const GROUND: [u8; 3] = [0x10, 0x0d, 0x0b];
const ACCENT: [u8; 3] = [0xf2, 0x97, 0x5f];
/// The ground of the safe mode's page (image/root/usr/lib/mantel/safe-page).
const SAFE: [u8; 3] = [0x14, 0x16, 0x1a];
/// What the unit may be exposed to at most, by `systemd-analyze security`.
const EXPOSURE: f64 = 2.5;
const PASSWORD: &str = "a password for the box";
/// How many renderers run in a sandbox of their own: seccomp filter, own users, processes and network.
const SANDBOXED: &str = "n=0; for p in $(grep -lsz -- --type=renderer /proc/[0-9]*/cmdline); do p=${p%/cmdline}
grep -qs '^Seccomp:.2' $p/status || continue
for kind in user pid net; do [ $(readlink $p/ns/$kind) != $(readlink /proc/$(pidof cage)/ns/$kind) ] || continue 2; done
n=$((n + 1)); done; echo $n";

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// A box with a screen, and somebody who looks.
struct Screen {
    guest: Guest,
    shots: PathBuf,
}

impl Screen {
    /// Starts the box; `card` is a graphics card or nothing, `words` what else it has.
    async fn start(home: &Home, folder: &Path, disk: &Path, words: &[&str]) -> Result<Self> {
        let builder = GuestBuilder::from_disk(disk).device(&["-m", "3072"]);
        let guest = builder.device(words).start(home, folder).await?;
        let shots = target().join("mantel-shots");
        std::fs::create_dir_all(&shots)?;
        let shots = shots.canonicalize()?;
        Ok(Self { guest, shots })
    }

    async fn sh(&self, script: &str) -> Result<String> {
        self.guest.run(script, WORD).await
    }

    async fn state(&self) -> Result<String> {
        self.sh("systemctl show -P ActiveState mantel-kiosk").await
    }

    /// Waits until the browser talks with the gateway: what the screen shows is then no longer what was on it before.
    async fn asks(&self) -> Result<()> {
        let script = "ss -Htnp dport = :8080 | grep -c chromium";
        let asked = async || self.sh(script).await.ok().map(drop);
        let what = "the browser to ask the gateway";
        self.guest.proc.wait_while_alive(what, SHOWN, asked).await
    }

    /// Looks until `seen` finds something in the picture, which is kept as `kiosk-<name>`.
    async fn look<T>(
        &self,
        name: &str,
        mut seen: impl FnMut(&Picture, &Path) -> Option<T>,
    ) -> Result<T> {
        let file = self.shots.join(format!("kiosk-{name}.ppm"));
        let began = Instant::now();
        let found = self
            .guest
            .proc
            .wait_while_alive(&format!("{name} on the screen"), SHOWN, async || {
                let picture = self.guest.screenshot(&file).await.ok()?;
                seen(&picture, &file)
            })
            .await;
        if found.is_err() {
            let journal = self.sh("journalctl -b -u mantel-kiosk --no-pager | tail -n 40");
            println!("{}", journal.await.unwrap_or_default());
        }
        println!(
            "{name}: on the screen after {} s",
            began.elapsed().as_secs()
        );
        found
    }

    /// Looks until a QR code with these letters in it is shown, and returns all of it.
    async fn look_for_code(&self, name: &str, letters: &str) -> Result<String> {
        self.look(name, |_, file| {
            let said = qr_code(file).ok()??;
            said.contains(letters).then_some(said)
        })
        .await
    }

    /// Looks until something has the focus, and returns where.
    async fn look_for_focus(&self, name: &str) -> Result<(f64, f64)> {
        self.look(name, |picture, file| {
            // The letters of a code have that colour too.
            let no_code = qr_code(file).ok()?.is_none();
            no_code.then(|| picture.middle(ACCENT)).flatten()
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_screen_shows_the_pages_and_its_keys_move_the_focus() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disk = new_disk(&folder, &built("trial/1.0.0-kiosk/mantel-kiosk.img")?)?;
    let home = net.home("h")?;
    let other = built("trial/1.3.0/mantel.raucb")?;
    let drive = format!("if=virtio,format=raw,readonly=on,file={}", other.display());
    let words = ["-device", "VGA,vgamem_mb=32", "-drive", &drive];
    let screen = Screen::start(home, &folder, &disk, &words).await?;

    // A new box: the screen leads a phone to the page where the password is chosen.
    let address = screen.look_for_code("first-use", "http://").await?;
    let own = screen.guest.url();
    ensure!(address.trim_end_matches('/') == own, "{address}, not {own}");
    let picture = Picture::read(&screen.shots.join("kiosk-first-use.ppm"))?;
    let (share, colours) = (picture.share(GROUND), picture.colours());
    println!(
        "{:?}, {share:.2} of it ground, {colours} colours",
        picture.size()
    );
    ensure!(share > 0.5 && colours > 50, "not the page");
    let household = Household::move_in("h", &own, PASSWORD).await?;
    for photo in &media::photos()?[..2] {
        let name = photo.file_name().and_then(|name| name.to_str());
        let name = name.context("a name")?;
        household.add(name, std::fs::read(photo)?).await?;
    }

    // Then a code, and no key needs to be pressed to be let in.
    let code = screen.look_for_code("code", "/pair?code=").await?;
    let (_, code) = code.split_once("code=").context("a code")?;
    let fields = [("code", code), ("name", "Screen")];
    household.done("/pair", &fields).await?;
    let first = screen.look_for_focus("shelves").await?;
    screen.guest.press(&["right"]).await?;
    let second = screen
        .look("right", |picture, _| {
            let at = picture.middle(ACCENT)?;
            (at.0 > first.0 + 50.0).then_some(at)
        })
        .await?;
    println!("the focus at {first:.0?}, after the right key at {second:.0?}");
    screen.guest.press(&["ret"]).await?;
    // Tiles have gone, and with them the focus.
    let photo = |picture: &Picture, _: &Path| {
        (picture.colours() > 5000 && picture.middle(ACCENT).is_none()).then_some(())
    };
    screen.look("photo", photo).await?;
    screen.guest.press(&["esc"]).await?;
    screen.look_for_focus("back").await?;

    locked_up(&screen).await?;
    comes_back(&screen).await?;
    gateway_away(&screen).await?;
    wrong_kind(&screen, &other).await?;
    safe_mode(&screen).await?;
    screen.guest.power_off().await?;

    // The same box without a graphics card.
    let screen = Screen::start(home, &folder, &disk, &[]).await?;
    screen.guest.wait_up().await?;
    let up = "until [ $(systemctl is-system-running) != starting ]; do sleep 1; done";
    screen.guest.run(up, SHOWN).await?;
    let (state, failed) = (
        screen.state().await?,
        screen.sh("systemctl --failed -q").await?,
    );
    let skipped = screen.sh("systemctl show -P Result mantel-kiosk").await?;
    ensure!(
        state == "inactive" && skipped == "exec-condition",
        "{state}, {skipped}"
    );
    ensure!(failed.is_empty(), "units failed: {failed}");
    screen.sh("! pidof cage chromium").await?;
    println!("without a screen: {state}");
    screen.guest.quit().await?;
    net.done()
}

/// It may do little, and a page less.
async fn locked_up(screen: &Screen) -> Result<()> {
    let script = "systemd-analyze security --no-pager mantel-kiosk.service | tail -n 1";
    let said = screen.sh(script).await?;
    let figure = said
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok());
    let figure = figure.with_context(|| format!("no figure in {said}"))?;
    ensure!(figure <= EXPOSURE, "{said}");
    let sandboxed = screen.sh(SANDBOXED).await?;
    ensure!(sandboxed != "0", "no page is in a sandbox");
    let memory = "echo $(($(systemctl show -P MemoryCurrent mantel-kiosk) >> 20)) MiB in its cgroup; \
                  awk '/^Pss:/ { n += $2 } END { print int(n / 1024) \" MiB (PSS)\" }' \
                  $(sed 's|.*|/proc/&/smaps_rollup|' /sys/fs/cgroup/system.slice/mantel-kiosk.service/cgroup.procs)";
    let memory = screen.sh(memory).await?;
    println!("exposure {figure}; {sandboxed} pages in sandboxes; {memory}");
    Ok(())
}

/// It ends with the screen, comes with it, and comes back after a crash, let in as before.
async fn comes_back(screen: &Screen) -> Result<()> {
    // The emulated card tells nothing of plugs: the event that other drivers send is made here.
    let connector = "c=$(ls -d /sys/class/drm/card*-*/status | head -n 1)";
    let event = "udevadm trigger --action=change --subsystem-match=drm";
    for (word, wanted) in [("off", "inactive"), ("detect", "active")] {
        let script = format!("{connector}; echo {word} >$c; {event}");
        screen.sh(&script).await?;
        let what = format!("an {wanted} kiosk after {word} of the screen");
        let waiting = screen.guest.proc.wait_while_alive(&what, SHOWN, async || {
            (screen.state().await.ok()? == wanted).then_some(())
        });
        waiting.await?;
    }
    screen.asks().await?;
    screen.look_for_focus("plugged-in").await?;
    let restarts = "systemctl show -P NRestarts mantel-kiosk";
    let before = screen.sh(restarts).await?;
    screen.sh("kill -9 $(pidof cage)").await?;
    let waiting = screen
        .guest
        .proc
        .wait_while_alive("a restart", SHOWN, async || {
            (screen.sh(restarts).await.ok()? != before).then_some(())
        });
    waiting.await?;
    screen.asks().await?;
    screen.look_for_focus("crashed").await?;
    println!("it ends and starts with the screen, and comes back after a crash");
    Ok(())
}

/// A key that is pressed while the gateway is away leads to a page of the browser's; once it is back, so are the shelves.
async fn gateway_away(screen: &Screen) -> Result<()> {
    screen.sh("systemctl stop mantel-gateway").await?;
    screen.guest.press(&["ret"]).await?;
    screen
        .look("gateway-away", |picture, _| {
            picture.middle(ACCENT).is_none().then_some(())
        })
        .await?;
    screen.sh("systemctl start mantel-gateway").await?;
    screen.asks().await?;
    screen.look_for_focus("gateway-back").await?;
    println!("the shelves are back with the gateway");
    Ok(())
}

/// An update for boxes without a screen is refused.
async fn wrong_kind(screen: &Screen, bundle: &Path) -> Result<()> {
    let size = std::fs::metadata(bundle)?.len();
    let script = format!(
        "d=$(ls /dev/vd[b-z] | head -n 1); mkdir -p /var/lib/mantel-update; b=/var/lib/mantel-update/bundle.raucb
         head -c {size} $d >$b; rauc install $b 2>&1 | grep LastError; rm -f $b"
    );
    let said = screen.sh(&script).await?;
    ensure!(
        said.to_lowercase().contains("compatible"),
        "rauc said {said}"
    );
    println!("a bundle for boxes without a screen: {said}");
    Ok(())
}

/// Where the gateway is not, the page of the safe mode is on the screen.
async fn safe_mode(screen: &Screen) -> Result<()> {
    let script = "systemctl stop mantel-gateway && systemctl start mantel-safe.socket";
    screen.sh(script).await?;
    // Its words are drawn after its ground.
    let page = |picture: &Picture, _: &Path| {
        (picture.share(SAFE) > 0.5 && picture.colours() > 50).then_some(())
    };
    screen.look("safe-mode", page).await
}
