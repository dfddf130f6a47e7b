//! Disks that are not as they should be: a damaged note, two of them in one machine, the image written to a used one.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::Household;
use mantel_tests::lab::{GuestBuilder, Home, Net, Session, new_disk, run, text, until};
use serde_json::json;

use super::built::{FIRST, first_image};
use super::machine::{Appliance, Belongings, PASSWORD, START};

/// Where the note lies that says how the data open.
const NOTE: &str = "/run/mantel-disk/mantel-key";

/// A box with `devices` besides its disk.
async fn start(home: &Home, folder: &Path, disk: &Path, devices: &[&str]) -> Result<Appliance> {
    let builder = GuestBuilder::from_disk(disk).device(devices);
    let guest = builder.start(home, folder).await?;
    Ok(Appliance { guest })
}

/// Waits for the page in the gateway's place, which says `words`; the console says why.
async fn stays_off(machine: &Appliance, why: &str, words: &str) -> Result<()> {
    let visitor = Session::new(&machine.guest.url())?;
    let page = until("the page of the safe mode", START, async || {
        let page = visitor.get("/").await.ok()?;
        (page.status == 503).then_some(page.body)
    })
    .await
    .with_context(|| machine.tail())?;
    for part in [words, &format!("NOT OPEN: {why}. Nothing was erased")] {
        ensure!(
            page.contains(part),
            "the page does not say {part:?}: {page}"
        );
    }
    machine
        .sh("! systemctl is-active mantel-gateway")
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_not_as_it_should_be_loses_nothing() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disk = new_disk(&folder, &first_image()?)?;
    let home = net.home("h")?;
    // From a stick, whose partitions are no memory card for the gateway.
    let stick = GuestBuilder::from_disk(&disk).usb();
    let guest = stick.start(home, &folder).await?;
    let machine = Appliance { guest };
    let belongings = Belongings::bring(&machine).await?;
    machine.wait_good().await?;
    machine.sh("! grep mantel/media /proc/mounts").await?;

    // The note is damaged: nothing is made anew in place of what it led to.
    let keep = format!(
        "dd if={NOTE} bs=512 count=1 status=none | base64 -w 0
         dd if=/dev/urandom of={NOTE} bs=512 count=1 conv=fsync status=none"
    );
    let note = machine.sh(&keep).await?;
    machine.guest.cut().await?;
    let machine = start(home, &folder, &disk, &[]).await?;
    let why = "the note that says how the data partition opens is damaged";
    stays_off(&machine, why, "does not work as it should").await?;
    let mend = format!("echo {note} | base64 -d | dd of={NOTE} conv=fsync status=none");
    machine.sh(&mend).await?;
    machine.guest.cut().await?;

    // A second disk of the same kind, whose partitions bear the same names.
    let image = first_image()?;
    let second = format!("format=raw,snapshot=on,file={}", text(&image)?);
    let beside = format!("if=virtio,{second}");
    let machine = start(home, &folder, &disk, &["-drive", &beside]).await?;
    let why = "two disks with Mantel are plugged in";
    stays_off(&machine, why, "take out the disk").await?;
    machine.guest.cut().await?;

    // A stick of the same kind that comes later changes nothing.
    let later = format!("if=none,id=later,{second}");
    let words = ["-device", "qemu-xhci", "-drive", &later];
    let machine = start(home, &folder, &disk, &words).await?;
    machine.wait_good().await?;
    let plug = json!({"driver": "usb-storage", "drive": "later"});
    machine.guest.command("device_add", plug).await?;
    let seen = "udevadm wait --timeout=60 /dev/sda3 && udevadm settle && /usr/lib/mantel/boot-env set A_TRY=2
                dd if=/dev/vda1 bs=512 skip=2053 count=1 iflag=direct status=none | grep -ax A_TRY=2";
    machine.sh(seen).await?;
    belongings.check(&machine).await?;
    println!("neither a damaged note nor a second disk cost anything");
    machine.guest.quit().await?;

    // The image written over it all: a new box, whatever lay on the disk.
    let words = ["convert", "-n", "-f", "raw", "-O", "qcow2"];
    run(
        "qemu-img",
        &[&words[..], &[text(&image)?, text(&disk)?]].concat(),
    )?;
    let machine = start(home, &folder, &disk, &[]).await?;
    let running = machine.wait_good().await?;
    ensure!(running == (FIRST.into(), "A".into()), "runs {running:?}");
    Household::move_in("h", &machine.guest.url(), PASSWORD)
        .await
        .context("a new household")?;
    println!("the image written again gives a new box");
    machine.guest.quit().await?;
    net.done()
}
