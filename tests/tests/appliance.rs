//! The appliance's root file system, booted by QEMU with real kernel devices (F2, F3, F63): a camera (vivid), a phone
//! (usb-mtp), memory sticks (usb-storage), a sound card (HDA) and a USB loudspeaker whose outputs QEMU writes to WAV
//! files, and a cable from a loudspeaker to a line-in (snd-aloop). It stands in a home's network; a picture of its camera
//! goes to another home through a server.
//!
//! `./mantel` builds the file system first (image/rootfs.sh). One boot serves all: it is emulated and slow. Each step
//! prints how long it took; the machine beneath decides that, so no step asserts it.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory watches real programs in real time; there is no clock to inject"
)]
#![allow(clippy::print_stdout, reason = "the test says what it measured")]

#[path = "appliance/bench.rs"]
mod bench;
#[path = "appliance/network.rs"]
mod network;
#[path = "appliance/pictures.rs"]
mod pictures;
#[path = "appliance/sounds.rs"]
mod sounds;
#[path = "appliance/tones.rs"]
mod tones;
#[path = "appliance/unit.rs"]
mod unit;

use std::time::Instant;

use anyhow::{Context as _, Result};

use bench::{Bench, timed};

#[tokio::test(flavor = "multi_thread")]
async fn real_kernel_devices_are_found_imported_played_and_unplugged() -> Result<()> {
    let begun = Instant::now();
    let bench = Bench::start().await?;
    if let Err(error) = all(&bench).await {
        return Err(error.context(bench.journal().await));
    }
    let (wavs, site) = bench.end().await?;
    sounds::were_heard(&wavs)?;
    println!("all: {:.0} s", begun.elapsed().as_secs_f64());
    site.done().await
}

async fn all(bench: &Bench) -> Result<()> {
    timed("devices found", pictures::found(bench)).await?;
    timed("the unit's rights", unit::rights(bench)).await?;
    timed("how far the units are closed", unit::exposure(bench)).await?;
    timed("open ports", network::ports(bench)).await?;
    timed("its name", network::name(bench)).await?;
    timed("the server's unit", unit::server(bench)).await?;
    let picture = timed("camera", pictures::camera(bench)).await?;
    timed("another home", network::another_home(bench, &picture)).await?;
    timed("phone", pictures::phone(bench)).await?;
    let tone = timed("memory stick", pictures::stick(bench)).await?;
    timed("loudspeaker", sounds::loudspeaker(bench, &tone)).await?;
    timed("line-in", sounds::line_in(bench, &tone)).await?;
    timed("USB loudspeaker", sounds::pulled_out(bench, &tone)).await?;
    timed("stick pulled out", pictures::pulled_out(bench)).await?;
    timed("safe to remove", pictures::let_go(bench)).await?;
    timed("after all that", sounds::still_plays(bench))
        .await
        .context("after devices were pulled out")?;
    timed("safe mode", network::safe_mode(bench)).await
}
