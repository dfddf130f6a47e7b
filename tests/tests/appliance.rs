//! The appliance's root file system, booted by QEMU with real kernel devices on its buses (F2, F3): a phone
//! (usb-mtp) and a memory stick (usb-storage).
//!
//! `./mantel test` builds the file system first (image/rootfs.sh). One boot serves all: it is emulated and slow.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory watches real programs in real time; there is no clock to inject"
)]
#![allow(clippy::print_stdout, reason = "the test says what it measured")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{Household, status::Device};
use mantel_tests::lab::{Guest, GuestBuilder, Net};
use mantel_tests::media;

/// The longest a step in the guest may take: the processor is emulated, and this machine does other things.
const STEP: Duration = Duration::from_mins(6);
/// The memory stick's serial number.
const SERIAL: &str = "HOLIDAY01";

/// Where `./mantel` puts what image/rootfs.sh makes.
fn image() -> PathBuf {
    let target = std::env::current_exe().ok().and_then(|exe| {
        let debug = exe.ancestors().find(|folder| folder.ends_with("debug"))?;
        Some(debug.parent()?.to_owned())
    });
    target.unwrap_or_default().join("image")
}

/// A memory stick as a camera leaves it: one FAT partition with a DCIM folder that holds `photo`.
fn stick(file: &Path, photo: &Path) -> Result<()> {
    const START: u64 = 1 << 20;
    std::fs::File::create(file)?.set_len(64 << 20)?;
    let run = |program: &str, words: &[&str]| -> Result<()> {
        let done = Command::new(program).args(words).output();
        let done = done.with_context(|| format!("{program} is missing (./mantel setup)"))?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{program}: {said}");
        Ok(())
    };
    let path = file.to_str().context("a readable path")?;
    // The partition table (MBR): one entry, type 0x0c, from sector 2048 to the end.
    let mut table = vec![0_u8; 512];
    table[446..462].copy_from_slice(&[
        0, 0xfe, 0xff, 0xff, 0x0c, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0xf8, 1, 0,
    ]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(file)?,
        &table,
        0,
    )?;
    let part = format!("{path}@@{START}");
    run(
        "mformat",
        &[
            "-i", &part, "-F", "-v", "HOLIDAY", "-T", "129024", "-h", "64", "-s", "32", "::",
        ],
    )?;
    run("mmd", &["-i", &part, "::DCIM", "::DCIM/100CANON"])?;
    let photo = photo.to_str().context("a readable path")?;
    run(
        "mcopy",
        &["-i", &part, photo, "::DCIM/100CANON/IMG_0002.JPG"],
    )
}

struct Bench {
    home: Household,
    guest: Guest,
    photos: Vec<PathBuf>,
    net: Net,
}

async fn start() -> Result<Bench> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let photos = media::photos()?;
    let phone = folder.join("phone");
    std::fs::create_dir_all(phone.join("DCIM"))?;
    std::fs::copy(&photos[0], phone.join("DCIM/PHOTO1.JPG"))?;
    let flash = folder.join("stick.img");
    stick(&flash, &photos[1])?;
    let guest = GuestBuilder::new(&image())
        .device(&["-device", "qemu-xhci,id=usb"])
        .device(&[
            "-device",
            &format!("usb-mtp,id=phone,rootdir={},desc=Phone", phone.display()),
        ])
        .device(&[
            "-drive",
            &format!("if=none,id=flash,format=raw,file={}", flash.display()),
        ])
        .device(&[
            "-device",
            &format!("usb-storage,id=stick,drive=flash,serial={SERIAL},removable=on"),
        ])
        .start(net.home("h")?.gateway(), &folder)
        .await?;
    guest.wait_up().await?;
    let home = Household::move_in("h", &guest.url(), "a password for the guest").await?;
    Ok(Bench {
        home,
        guest,
        photos,
        net,
    })
}

/// Waits for a device whose row fits.
async fn device(home: &Household, what: &str, fits: impl Fn(&Device) -> bool) -> Result<Device> {
    home.wait(what, STEP, |status| {
        let online = |d: &&Device| d.state == "online" && fits(d);
        status.devices.iter().find(online).cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_on_usb_are_found_and_imported() -> Result<()> {
    let bench = start().await?;
    pictures(&bench).await?;
    bench.guest.quit().await?;
    bench.net.done()
}

async fn pictures(bench: &Bench) -> Result<()> {
    let home = &bench.home;
    for (what, photo, on_stick) in [
        ("the phone", &bench.photos[0], false),
        ("the memory stick", &bench.photos[1], true),
    ] {
        let found = device(home, what, |d| {
            d.capabilities.iter().any(|c| c == "fetch_asset") && is_stick(d) == on_stick
        })
        .await?;
        let before = home.status().await?.titles.len();
        let titles = home.import_all(&found, before + 1).await?;
        let wanted = blake3::hash(&std::fs::read(photo)?);
        let mut same = false;
        for title in &titles {
            same |= blake3::hash(&home.read_media(&title.id).await?) == wanted;
        }
        ensure!(same, "no title is the file on {what}");
        println!(
            "{what}: \"{}\" [{}] imported, equal to the file on it",
            found.name, found.class
        );
    }
    Ok(())
}

/// Things on cables are known by vendor, product and serial number.
fn is_stick(device: &Device) -> bool {
    device.id.contains(SERIAL)
}
