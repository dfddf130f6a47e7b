//! What cameras, phones and sticks give: listed once and rightly, imported whole, pulled out without harm.

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::status::{Device, Title};
use mantel_tests::lab::run;
use serde_json::{Value, json};

use super::bench::{Bench, SERIAL, SLOW_SERIAL, STEP, TONE_FILE};

/// What is there from the beginning: how its key begins, its class, its name.
const EXPECTED: [(&str, &str, &str); 9] = [
    ("block:QEMU_DVD-ROM", "disc", "CD"),
    ("v4l2:", "camera", "vivid"),
    ("usb:46f4:0004:", "phone", "QEMU filesharing"),
    ("usb:46f4:0001:", "memory_card", "HOLIDAY"),
    ("alsa:Intel:0:out", "speaker", "Loudspeaker (HDA Intel"),
    ("alsa:Loopback:0:out", "speaker", "Loudspeaker (Loopback"),
    ("alsa:Loopback:1:out", "speaker", "Loudspeaker (Loopback"),
    ("alsa:Loopback:0:in", "line_in", "Line-in (Loopback"),
    ("alsa:Loopback:1:in", "line_in", "Line-in (Loopback"),
];

/// Everything is listed once, as what it is. A stick is so only when it is mounted, a moment after it is there.
pub async fn found(bench: &Bench) -> Result<()> {
    let right = |row: &Device, (key, class, name): (&str, &str, &str)| {
        let is = row.class == class && row.name.starts_with(name) && row.state == "online";
        row.id.starts_with(key) && is
    };
    let devices = bench
        .home
        .wait("all devices, as what they are", STEP, |status| {
            let devices = &status.devices;
            let there = |wanted| devices.iter().any(|row| right(row, wanted));
            EXPECTED.into_iter().all(there).then(|| devices.clone())
        })
        .await?;
    for device in &devices {
        println!("    {}: \"{}\" [{}]", device.id, device.name, device.class);
    }
    ensure!(
        devices.len() == EXPECTED.len(),
        "something is listed twice, or is no device of this machine: {devices:?}"
    );
    Ok(())
}

/// A picture is taken on the camera's page, and is what the camera shows; returns the title.
pub async fn camera(bench: &Bench) -> Result<String> {
    let home = &bench.home;
    let camera = bench
        .device("the camera", |d| d.id.starts_with("v4l2:"))
        .await?;
    ensure!(
        camera.capabilities.iter().any(|c| c == "live_stream"),
        "{camera:?}"
    );
    home.admit(&camera).await?;
    let page = home.device_page(&camera).await?;
    ensure!(
        page.contains("Take a picture"),
        "the camera's page offers no picture"
    );
    let title = home.take_picture(&camera).await?;
    let picture = home.read_media(&title).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &picture)?;
    let path = file.path().to_str().context("a readable path")?;
    let (width, height) = size_of(path)?;
    // vivid's largest "webcam" size.
    ensure!(
        (width, height) == (3840, 2160),
        "the picture is {width} x {height}"
    );
    let bars = bars_of(path)?;
    // White, yellow, cyan, green, magenta, red, blue, black: three bits each, red first.
    ensure!(
        bars == [7, 6, 3, 2, 5, 4, 1, 0],
        "not the colour bars that the camera shows: {bars:?}"
    );
    println!(
        "    \"{}\": a picture of {width} x {height}, {} bytes, with the camera's colour bars",
        camera.name,
        picture.len()
    );
    Ok(title)
}

fn size_of(file: &str) -> Result<(u32, u32)> {
    let entries = "stream=codec_name,width,height";
    let out = run(
        "ffprobe",
        &["-v", "error", "-of", "json", "-show_entries", entries, file],
    )?;
    let told: Value = serde_json::from_slice(&out)?;
    let stream = &told["streams"][0];
    ensure!(stream["codec_name"] == "mjpeg", "no JPEG: {told}");
    let edge = |name: &str| stream[name].as_u64().and_then(|n| u32::try_from(n).ok());
    edge("width").zip(edge("height")).context("no size")
}

/// The picture in eight upright strips: which of red, green and blue each has.
fn bars_of(file: &str) -> Result<Vec<u8>> {
    let raw = run(
        "ffmpeg",
        &[
            "-v",
            "error",
            "-i",
            file,
            "-vf",
            "scale=8:1:flags=area,format=rgb24",
            "-f",
            "rawvideo",
            "-",
        ],
    )?;
    let bits = |dot: &[u8]| dot.iter().fold(0, |bits, c| bits << 1 | u8::from(*c > 96));
    Ok(raw.chunks_exact(3).map(bits).collect())
}

/// The photograph on the phone is imported as it is.
pub async fn phone(bench: &Bench) -> Result<()> {
    let phone = bench.device("the phone", |d| d.class == "phone").await?;
    let titles = import(bench, &phone, 1).await?;
    same(bench, &titles, &std::fs::read(&bench.photos[0])?).await
}

/// So are the photograph and the tone on the stick; the tone's title.
pub async fn stick(bench: &Bench) -> Result<Title> {
    let stick = bench
        .device("the memory stick", |d| d.id.contains(SERIAL))
        .await?;
    let titles = import(bench, &stick, 2).await?;
    same(bench, &titles, &std::fs::read(&bench.photos[1])?).await?;
    let tone = titles.into_iter().find(|title| title.kind == "audio");
    tone.with_context(|| format!("no music among what was imported: {TONE_FILE}"))
}

/// A stick is let go when the household asks, and is no longer mounted.
pub async fn let_go(bench: &Bench) -> Result<()> {
    let stick = bench
        .device("the memory stick", |d| d.id.contains(SERIAL))
        .await?;
    let mounts = "ls /run/mantel/media | wc -l; grep -c ' /run/mantel/media/' /proc/mounts || true";
    let before = bench.guest.shell(mounts).await?;
    bench.home.eject(&stick).await?;
    bench
        .home
        .wait("the stick to be let go", STEP, |status| {
            let mounted =
                |d: &Device| d.id == stick.id && d.capabilities.iter().any(|c| c == "fetch_asset");
            (!status.devices.iter().any(mounted)).then_some(())
        })
        .await?;
    let after = bench.guest.shell(mounts).await?;
    println!("    mounted before: {before:?}, after: {after:?}");
    ensure!(
        after.ends_with('0') && !before.ends_with('0'),
        "it is still mounted"
    );
    Ok(())
}

/// Imports everything on a device; the titles that came.
async fn import(bench: &Bench, device: &Device, count: usize) -> Result<Vec<Title>> {
    let before = bench.home.status().await?.titles;
    let all = bench.home.import_all(device, before.len() + count).await?;
    let new = |title: &Title| !before.iter().any(|old| old.id == title.id);
    Ok(all.into_iter().filter(new).collect())
}

async fn same(bench: &Bench, titles: &[Title], wanted: &[u8]) -> Result<()> {
    for title in titles {
        if bench.home.read_media(&title.id).await? == wanted {
            println!("    imported, equal to the file: {}", title.name);
            return Ok(());
        }
    }
    anyhow::bail!("no title is the file on the device: {titles:?}")
}

/// A stick is put in, and pulled out while a film on it is imported: the household reads why the film is not there, the
/// photograph stays, and so does the other stick.
pub async fn pulled_out(bench: &Bench) -> Result<()> {
    let (home, guest) = (&bench.home, &bench.guest);
    let begun = std::time::Instant::now();
    let plug = json!({
        "driver": "usb-storage", "id": "slow", "drive": "slow", "serial": SLOW_SERIAL, "removable": true,
    });
    guest.command("device_add", plug).await?;
    let slow = bench
        .device("the second stick", |d| {
            // It is there before it is mounted.
            d.id.contains(SLOW_SERIAL) && d.capabilities.iter().any(|c| c == "fetch_asset")
        })
        .await?;
    println!(
        "    put in and found after {:.1} s: \"{}\" [{}]",
        begun.elapsed().as_secs_f64(),
        slow.name,
        slow.class
    );
    home.import(&slow).await?;
    let film = |row: &&Value| row["name"].as_str().is_some_and(|n| n.contains("MVI_0004"));
    home.wait("the film to be half-way", STEP, |status| {
        let row = status.imports.iter().find(film)?;
        let done = row["bytes_done"].as_u64()?;
        (done > 4 << 20).then_some(())
    })
    .await?;
    guest.command("device_del", json!({ "id": "slow" })).await?;
    let why = home
        .wait("the film's import to end", STEP, |status| {
            let row = status.imports.iter().find(film)?;
            row["problem"].as_str().map(str::to_owned)
        })
        .await?;
    println!("    pulled out: \"{why}\"");
    bench.gone(&slow).await?;
    let status = home.status().await?;
    ensure!(
        status.titles.iter().any(|t| t.name.contains("IMG_0003")),
        "the photograph that was imported before is gone"
    );
    ensure!(
        !status
            .titles
            .iter()
            .any(|t| t.name.contains("MVI_0004") && t.state == "ready"),
        "half a film is in the library"
    );
    bench
        .device("the first stick", |d| d.id.contains(SERIAL))
        .await
        .map(drop)
}
