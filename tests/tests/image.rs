//! The appliance's disk image (F65): what was built, power cuts, and (feature `disk-long`) a whole life and disks that are
//! not as they should be.
//!
//! `./mantel test-disk` builds what is booted: version 1.0.0 as a disk image, 1.1.0 and 1.2.0 as bundles (the gateway
//! of 1.2.0 ends at once), 0.9.0 and 1.3.0 as tiny ones that hold no system. The processor is emulated: a start takes
//! one to three minutes. Numbers: `MANTEL_CUTS` (3), `MANTEL_FLIPS` (20), `MANTEL_MUTATIONS` (1000), `MANTEL_SEED`,
//! `MANTEL_PROCESSORS` (2) of a machine.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory watches real programs in real time; there is no clock to inject"
)]
#![allow(clippy::print_stdout, reason = "the test says what it measured")]

#[path = "image/built.rs"]
mod built;
#[cfg(feature = "disk-long")]
#[path = "image/disks.rs"]
mod disks;
#[path = "image/files.rs"]
mod files;
#[cfg(feature = "disk-long")]
#[path = "image/life.rs"]
mod life;
#[path = "image/machine.rs"]
mod machine;

use std::time::Instant;

use anyhow::{Result, ensure};
use mantel_tests::lab::{Net, new_disk};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use built::{FIRST, SECOND, first_image, number, seed};
use machine::{Appliance, Belongings, bundles};

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_leave_a_whole_system() -> Result<()> {
    let net = Net::builder().home("h", &[]).up()?;
    let folder = net.folder().to_owned();
    let disc = bundles(&folder, &[SECOND])?;
    let home = net.home("h")?;
    let mut random = StdRng::seed_from_u64(seed());

    // A box that is about to be updated, and how long things take when nobody interferes.
    let disk = new_disk(&folder, &first_image()?)?;
    let began = Instant::now();
    let machine = Appliance::start(home, &folder, &disk, &disc, None).await?;
    let belongings = Belongings::bring(&machine).await?;
    machine.wait_good().await?;
    let first_start = began.elapsed();
    machine.hand_over(SECOND).await?;
    machine.guest.keep("ready").await?;
    let began = Instant::now();
    let (state, message) = machine.install(SECOND).await?;
    ensure!(state == "installed", "{state}: {message}");
    let install = began.elapsed();
    machine.guest.keep("installed").await?;
    let began = Instant::now();
    machine.restart().await?;
    machine.wait_good().await?;
    let activation = began.elapsed();
    machine.guest.quit().await?;
    println!("uninterrupted: {first_start:?}, {install:?}, {activation:?}");

    let (mut cuts, mut ended) = (0, [0_u32; 2]);
    let wanted = number("MANTEL_CUTS", 3);
    for chain in 0.. {
        if cuts >= wanted {
            break;
        }
        let (what, span) = [
            ("installation", install),
            ("activation", activation),
            ("first start", first_start),
        ][chain % 3];
        let (disk, mut resume) = match what {
            "installation" => (disk.clone(), Some("ready")),
            "activation" => (disk.clone(), Some("installed")),
            _ => {
                let other = folder.join("first");
                std::fs::create_dir_all(&other)?;
                (new_disk(&other, &first_image()?)?, None)
            }
        };
        // One cut, then up to two more while it starts again.
        let again = random.random_range(0..=2).min(wanted - cuts - 1);
        let mut moments = vec![span.mul_f64(random.random_range(0.0..1.0))];
        for _ in 0..again {
            moments.push(activation.mul_f64(random.random_range(0.0..1.0)));
        }
        for (index, moment) in moments.iter().enumerate() {
            let machine = Appliance::start(home, &folder, &disk, &disc, resume.take()).await?;
            match (index, what) {
                (0, "installation") => machine.ask_to_install(SECOND).await?,
                (0, "activation") => machine.ask("restart").await?,
                _ => {}
            }
            // The moment is the test's input: nothing is waited for.
            tokio::time::sleep(*moment).await;
            machine.guest.cut().await?;
            cuts += 1;
        }
        let machine = Appliance::start(home, &folder, &disk, &disc, None).await?;
        // The kernel checks each block of the slot as it is read (dm-verity); another test waits until all of them were.
        machine.guest.wait_up().await?;
        let (version, slot) = machine.running().await?;
        let expected: &[&str] = match what {
            "first start" => &[FIRST],
            // A new version that was cut off three times was passed over.
            "activation" if again < 2 => &[SECOND],
            _ => &[FIRST, SECOND],
        };
        ensure!(expected.contains(&version.as_str()), "{version} runs");
        if what == "first start" {
            Belongings::bring(&machine).await?.check(&machine).await?;
        } else {
            belongings.check(&machine).await?;
        }
        println!("cut {cuts}: {what}, {moments:.1?}: {version} in slot {slot}, data whole");
        ended[usize::from(slot == "B")] += 1;
        machine.guest.quit().await?;
    }
    println!(
        "{cuts} cuts; after them {} starts in slot A, {} in slot B",
        ended[0], ended[1]
    );
    net.done()
}
