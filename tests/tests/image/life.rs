//! The long part: first start, updates from slot to slot, an update that does not work, bundles that are not right,
//! factory reset, a TPM, a flipped bit in the slot that runs.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{Household, Site, SiteBuilder};
use mantel_tests::lab::{GuestBuilder, Mode, Net, Place, Proc, Session, new_disk, text, until};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::built::{FIRST, SECOND, TINY, first_image, image, seed, verity};
use super::machine::{Appliance, Belongings, PASSWORD, PUT_IN, START, WORD, bundles};

/// The update that does not work.
const BROKEN: &str = "1.2.0";
/// A rightly signed bundle that is too old.
const OLD: &str = "0.9.0";
/// What an idle gateway, and the whole machine without a screen, take at most.
const GATEWAY_MIB: f64 = 60.0;
const MACHINE_MIB: f64 = 220.0;
/// What the gateway and the whole machine take.
const MEMORY: &str = "awk '/^VmRSS/ { print \"gateway: \" $2 / 1024 \" MiB resident\" }' \
                      /proc/$(pidof mantel-gateway)/status 2>/dev/null
awk '/^MemTotal/ { t = $2 } /^MemAvailable/ { a = $2 } END { print \"machine: \" (t - a) / 1024 \" MiB used\" }' \
                      /proc/meminfo";

// ---- One box through its life ------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_box_starts_updates_falls_back_and_forgets() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disk = new_disk(&folder, &first_image()?)?;
    let disc = bundles(&folder, &[FIRST, SECOND, BROKEN, OLD, TINY])?;
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
    safe_mode(&machine, &belongings).await?;
    forgets(&machine).await?;
    machine.guest.quit().await?;
    net.done()
}

/// The operator puts a version at the server; the box fetches it, puts it in place, starts into it when the household
/// says so, and tells. Of the next one, which does not work, it says so on its pages and to the operator.
#[tokio::test(flavor = "multi_thread")]
async fn a_box_updates_itself() -> Result<()> {
    let net = Net::two_homes()
        .home("h", &[])
        .mode(Mode::Namespaces)
        .up()?;
    let site = SiteBuilder::on(net).up().await?;
    let folder = site.net.folder().to_owned();
    let disk = new_disk(&folder, &first_image()?)?;
    let builder = GuestBuilder::from_disk(&disk)
        .credential("mantel-gateway.toml", "[system]\nspread_minutes = 0\n");
    let guest = builder.start(site.net.home("h")?, &folder).await?;
    let machine = Appliance { guest };
    let belongings = Belongings::bring(&machine).await?;
    let house = &belongings.home;
    house.open_admin().await?;
    house.live_in_daylight().await?;
    machine.wait_good().await?;
    let link = site.operator.new_customer("Hanna").await?;
    house.enrol(&link).await?;

    let began = Instant::now();
    offer(&site, SECOND).await?;
    in_place(house, SECOND).await?;
    println!("{SECOND} is in place after {} s", began.elapsed().as_secs());
    restart_now(&machine, house).await?;
    let running = machine.wait_good().await?;
    ensure!(running == (SECOND.into(), "B".into()), "runs {running:?}");
    told(&site, SECOND, "data-installed>1<").await?;
    belongings.check(&machine).await?;
    println!(
        "{SECOND} runs, and the operator knows, after {} s",
        began.elapsed().as_secs()
    );

    offer(&site, BROKEN).await?;
    in_place(house, BROKEN).await?;
    restart_now(&machine, house).await?;
    let running = machine.wait_good().await?;
    ensure!(running == (SECOND.into(), "B".into()), "runs {running:?}");
    told(&site, BROKEN, "data-failed>1<").await?;
    belongings.check(&machine).await?;
    let words = format!("Update {BROKEN} failed, running {SECOND}, nothing lost.");
    for page in ["/", "/library", "/devices"] {
        let shown = house.session().get(page).await?.ok()?.body;
        ensure!(shown.contains(&words), "{page} does not say it: {shown}");
    }
    println!(
        "{BROKEN} failed, and everybody knows, after {} s",
        began.elapsed().as_secs()
    );
    machine.guest.quit().await?;
    site.done().await
}

/// Puts a version at the server, for all homes.
async fn offer(site: &Site, version: &str) -> Result<()> {
    let bundle = std::fs::read(image()?.join(version).join("mantel.raucb"))?;
    let page = site.operator.put_release(version, &bundle).await?;
    ensure!(page.status == 303, "{} {}", page.status, page.body);
    site.operator.roll_out(version, 100, &[]).await
}

/// Waits until a version is in the other slot.
async fn in_place(house: &Household, version: &str) -> Result<()> {
    let what = format!("{version} to be in place");
    house
        .wait(&what, START, |status| {
            let it = status.update.as_ref()?.under_way.as_ref()?;
            (it.version == version && it.stage == "installed").then_some(())
        })
        .await
}

async fn restart_now(machine: &Appliance, house: &Household) -> Result<()> {
    let starts = machine.starts();
    house.open_admin().await?;
    let restart = "/admin/update/restart";
    house.session().post_form(restart, &[]).await?.ok()?;
    machine.wait_firmware(starts).await
}

/// Waits until the console's page of a version says this.
async fn told(site: &Site, version: &str, what: &str) -> Result<()> {
    let path = format!("/console/updates/{version}");
    until(&format!("{what} in the console"), START, async || {
        let page = site.operator.session().get(&path).await.ok()?;
        page.body.contains(what).then_some(())
    })
    .await
}

/// Times and memory beside the same machine without any of this project's units: Debian alone.
#[tokio::test(flavor = "multi_thread")]
async fn beside_bare_debian() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disk = new_disk(&folder, &first_image()?)?;
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
            [ $to = 0 ] || echo \"gateway ready $(((to - from) / 1000)) ms after the start of userspace\"
            {MEMORY}"
        );
        let said = machine.guest.run(&script, START).await?;
        println!("{what}:\n{said}");
        if what == "Mantel" {
            for (name, most) in [("gateway: ", GATEWAY_MIB), ("machine: ", MACHINE_MIB)] {
                let line = said.lines().find_map(|line| line.strip_prefix(name));
                let figure = line.and_then(|line| line.split(' ').next());
                let mib: f64 = figure.context("a figure")?.parse()?;
                ensure!(mib <= most, "{name}{mib} MiB, at most {most}");
            }
        }
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
    machine.guest.type_in("touch /run/typed").await?;
    until("the console", WORD, async || {
        let now = machine.guest.console();
        (now.matches("this start is good").count() > before).then_some(())
    })
    .await?;
    machine.sh("[ ! -e /run/typed ]").await.map(drop)
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
        let (state, message) = machine
            .install(if name.starts_with("spoilt") {
                TINY
            } else {
                name
            })
            .await?;
        ensure!(state == "refused", "{name} was {state}: {message}");
        println!("{name} refused: {message}");
    }
    // Rightly signed, and not what was offered.
    machine.hand_over(TINY).await?;
    let (state, message) = machine.install_offered(&"0".repeat(64), TINY).await?;
    let said = message.contains("not what was offered");
    ensure!(state == "refused" && said, "it was {state}: {message}");
    // What was offered, under another name.
    let (state, message) = machine.install("1.9.0").await?;
    let said = message.contains(&format!("it is version {TINY}"));
    ensure!(state == "refused" && said, "it was {state}: {message}");
    let next = machine.sh("/usr/lib/mantel/boot-slots get-primary").await?;
    ensure!(next == "A", "slot {next} would start");
    Ok(())
}

async fn update(machine: &Appliance, belongings: &Belongings) -> Result<()> {
    machine.hand_over(SECOND).await?;
    let began = Instant::now();
    let (state, message) = machine.install(SECOND).await?;
    ensure!(state == "installed", "{state}: {message}");
    println!("{SECOND} installed in {} s", began.elapsed().as_secs());
    machine.restart().await?;
    let running = machine.wait_good().await?;
    ensure!(running == (SECOND.into(), "B".into()), "runs {running:?}");
    belongings.check(machine).await?;
    println!("{SECOND} runs {} s later", began.elapsed().as_secs());
    // What was the newest a moment ago is now too old.
    machine.hand_over(FIRST).await?;
    let (state, message) = machine.install(FIRST).await?;
    ensure!(state == "refused", "{FIRST} was {state}: {message}");
    println!("{FIRST} refused: {message}");
    Ok(())
}

async fn falls_back(machine: &Appliance, belongings: &Belongings) -> Result<()> {
    machine.hand_over(BROKEN).await?;
    let (state, message) = machine.install(BROKEN).await?;
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

/// After three starts that were cut off, with the other slot known to be bad, what worked is started in safe mode; that
/// it works after all ends the safe mode.
async fn safe_mode(machine: &Appliance, belongings: &Belongings) -> Result<()> {
    machine
        .sh("/usr/lib/mantel/boot-env set A_TRY=3 B_TRY=3")
        .await?;
    machine.restart().await?;
    let running = machine.wait_good().await?;
    ensure!(running == (SECOND.into(), "B".into()), "runs {running:?}");
    let facts = machine.facts().await?;
    ensure!(facts["safe"] == true, "it says {facts}");
    belongings.check(machine).await?;
    let tries = machine.sh("/usr/lib/mantel/boot-env get B_TRY").await?;
    ensure!(tries == "0", "the next start is not a usual one: {tries}");
    println!("safe mode takes the slot that worked");
    Ok(())
}

/// machine-id, the data's UUID, the sum of the gateway's key.
fn marks_of(said: &str) -> Result<[String; 3]> {
    let marks: Vec<String> = said.lines().map(str::to_owned).collect();
    let hex = |mark: &String| {
        mark.len() >= 32
            && mark
                .chars()
                .all(|c| c.is_ascii_hexdigit() || "- ".contains(c))
    };
    ensure!(marks.iter().all(hex), "no marks: {said}");
    marks.try_into().ok().context("three marks")
}

/// Factory reset: a new key, a new identity, no household.
async fn forgets(machine: &Appliance) -> Result<()> {
    let marks = "cat /etc/machine-id; blkid -s UUID -o value -p /run/mantel-disk/mantel-data; \
                 sha256sum </var/lib/mantel-gateway/keys/device.key";
    let before = machine.sh(marks).await?;
    let starts = machine.starts();
    machine.ask("factory-reset").await?;
    machine.wait_firmware(starts).await?;
    let running = machine.wait_good().await?;
    ensure!(running.0 == SECOND, "runs {running:?}");
    let facts = machine.facts().await?;
    let nothing = facts["failed_update"].is_null();
    ensure!(nothing, "a new household reads of an update: {facts}");
    let after = machine.sh(marks).await?;
    let (before, after) = (marks_of(&before)?, marks_of(&after)?);
    for (old, new) in before.iter().zip(&after) {
        ensure!(old != new, "kept: {old}");
    }
    Household::move_in("h", &machine.guest.url(), PASSWORD)
        .await
        .context("a new household")?;
    println!("factory reset: identity, key and data are new");
    Ok(())
}

// ---- The TPM -----------------------------------------------------------------------------------

/// A TPM 2 for the next machine at `place`; its memory stays in `folder`.
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
        .log(folder.join("tpm.log"))
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
    let disk = new_disk(&folder, &first_image()?)?;
    let home = net.home("h")?;
    let start = async |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let builder = GuestBuilder::from_disk(&disk).device(&words);
        let guest = builder.start(home, &folder).await?;
        Ok::<_, anyhow::Error>(Appliance { guest })
    };
    let (running_tpm, words) = tpm(home.gateway(), &folder).await?;
    let machine = start(&words).await?;
    let belongings = Belongings::bring(&machine).await?;
    machine.wait_good().await?;
    ensure!(
        machine.facts().await?["data"] == "tpm",
        "the TPM is not used"
    );
    let rest = "dd if=/run/mantel-disk/mantel-key bs=512 skip=1 count=2047 status=none | tr -d '\\0' | wc -c";
    let key = machine.sh(rest).await?;
    ensure!(key == "0", "a key lies on the disk: {key}");
    machine.sh("sync").await?;
    machine.guest.cut().await?;
    // The program would wait for another machine, and hold the TPM's memory.
    running_tpm.kill9().await?;

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
    machine.guest.cut().await?;

    // And back: nothing was lost.
    let (_same_tpm, words) = tpm(home.gateway(), &folder).await?;
    let machine = start(&words).await?;
    machine.wait_good().await?;
    belongings.check(&machine).await?;
    println!("the data open with their TPM and not without");
    machine.guest.quit().await?;
    net.done()
}

// ---- A flipped bit -----------------------------------------------------------------------------

/// A flipped bit in the running slot: the machine panics at it, and the other slot takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_ends_in_the_other_slot() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let (disk, disc) = (
        new_disk(&folder, &first_image()?)?,
        bundles(&folder, &[SECOND])?,
    );
    let home = net.home("h")?;
    let machine = Appliance::start(home, &folder, &disk, &disc, None).await?;
    let belongings = Belongings::bring(&machine).await?;
    machine.wait_good().await?;
    machine.hand_over(SECOND).await?;
    let (state, message) = machine.install(SECOND).await?;
    ensure!(state == "installed", "{state}: {message}");
    let (_, tree) = verity(&first_image()?)?;
    let place_of_bit = StdRng::seed_from_u64(seed()).random_range(0..tree / 2);
    let flip = format!(
        "d=/run/mantel-disk/mantel-root-b; b=$(dd if=$d bs=1 skip={place_of_bit} count=1 status=none | od -An -tu1)
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
