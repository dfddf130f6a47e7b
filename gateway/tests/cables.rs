//! A memory card and an audio CD, from being put in to being in the library, on a real gateway (F2, F3). The test runs
//! itself again in a mount namespace of its own, where it may mount: a tmpfs is the card.

use mantel_gateway::app::{self, Running};
use mantel_gateway::config::Config;
use mantel_gateway::devices::{DeviceImportState, DeviceRow, Looked};
use mantel_gateway::library::Origin;
use mantel_peripherals::media::Entry;
use mantel_peripherals::{Capability, DeviceClass, DeviceState};
use mantel_runtime::logging::RecentLog;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long anything may take before the test says what it waited for.
const PATIENCE: Duration = Duration::from_secs(90);
/// Set in the namespace.
const INSIDE: &str = "MANTEL_TEST_MAY_MOUNT";

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// Runs this test again where it may mount; `true`: this is that run.
fn may_mount(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("a test program");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare (util-linux) is installed");
    assert!(status.success(), "{test} failed in its namespace");
    false
}

async fn gateway(folder: &Path, disc_images: Vec<PathBuf>) -> Running {
    let mut config = Config {
        data_dir: folder.join("data"),
        ..Config::default()
    };
    config.web.listen = "127.0.0.1:0".parse().expect("an address");
    config.exchange.listen = config.web.listen;
    config.library.keep_free_mib = 1;
    config.devices.interface = Some("no-devices-here".to_owned());
    config.devices.cables.media_root = folder.join("media");
    config.devices.cables.disc_images = disc_images;
    app::start(config, RecentLog::default())
        .await
        .expect("the gateway starts")
}

/// Waits until `good` finds what it looks for.
async fn until<T, R>(
    what: &str,
    mut from: watch::Receiver<T>,
    good: impl Fn(&T) -> Option<R>,
) -> R {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = good(&from.borrow_and_update()) {
                return found;
            }
            from.changed().await.expect("the gateway runs");
        }
    });
    let found = found.await;
    found.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn row(rows: &Arc<Vec<DeviceRow>>, class: DeviceClass, state: DeviceState) -> Option<DeviceRow> {
    let mut rows = rows.iter();
    rows.find(|row| row.class == class && row.state == state)
        .cloned()
}

/// Imports everything and gives the names of the titles, sorted.
async fn import_all(gateway: &Running, device: &DeviceRow) -> Vec<String> {
    let devices = &gateway.state.devices;
    devices.import_all(&device.id).await.expect("begun");
    let done = until("the import", devices.imports(), |rows| {
        let row = rows.iter().find(|row| row.device == device.id)?;
        (row.state != DeviceImportState::Running).then(|| row.clone())
    });
    let done = done.await;
    assert_eq!((done.state, done.problem), (DeviceImportState::Done, None));
    let titles = gateway.state.library.list().await.expect("readable");
    let own = titles.iter().filter(
        |title| matches!(&title.origin, Origin::Own { device: from } if *from == device.name),
    );
    let mut names: Vec<String> = own.map(|title| title.name.clone()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_memory_card_is_found_imported_and_gone() {
    if !may_mount("a_memory_card_is_found_imported_and_gone") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let point = folder.path().join("media/EOS");
    fs::create_dir_all(&point).expect("made");
    let gateway = gateway(folder.path(), Vec::new()).await;
    let rows = gateway.state.devices.snapshot();
    let text = |path: &Path| path.to_str().expect("plain").to_owned();
    // A folder that nothing is mounted on is no card, whatever lies in it.
    fs::create_dir_all(folder.path().join("media/not-mounted/DCIM")).expect("made");

    let fresh = folder.path().join("fresh");
    fs::create_dir_all(&fresh).expect("made");
    run("mount", &["-t", "tmpfs", "card", &text(&fresh)]);
    let pictures = fresh.join("DCIM/100EOS");
    fs::create_dir_all(&pictures).expect("made");
    for (number, color) in [(1, "red"), (2, "blue")] {
        let input = format!("color={color}:size=320x240");
        let file = text(&pictures.join(format!("IMG_000{number}.JPG")));
        run(
            "ffmpeg",
            &[
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                &input,
                "-frames:v",
                "1",
                &file,
            ],
        );
    }
    fs::write(fresh.join("private.txt"), "not for the library").expect("written");
    std::os::unix::fs::symlink("/etc/passwd", pictures.join("IMG_0003.JPG")).expect("linked");
    run("mount", &["--bind", &text(&fresh), &text(&point)]);

    let card = until("the card", rows.clone(), |rows| {
        row(rows, DeviceClass::MemoryCard, DeviceState::Online)
    });
    let card = card.await;
    assert_eq!(card.name, "EOS");
    assert!(card.capabilities.contains(&Capability::ListMedia));
    let listing = gateway.state.devices.browse(&card.id, Looked::Top, 0).await;
    let [Entry::Container(dcim)] = &listing.expect("listed").page.entries[..] else {
        panic!("DCIM alone");
    };
    assert_eq!(dcim.title, "DCIM");
    assert_eq!(import_all(&gateway, &card).await, ["IMG_0001", "IMG_0002"]);

    run("umount", &[&text(&point)]);
    until("the card's end", rows, |rows| {
        row(rows, DeviceClass::MemoryCard, DeviceState::Gone)
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_audio_cd_is_copied_and_plays_what_was_on_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let sound = folder.path().join("disc.bin");
    let input = "sine=frequency=440:duration=12:sample_rate=44100";
    let raw = sound.to_str().expect("plain");
    run(
        "ffmpeg",
        &[
            "-v", "error", "-f", "lavfi", "-i", input, "-ac", "2", "-f", "s16le", raw,
        ],
    );
    let cue = folder.path().join("disc.cue");
    let text = "TITLE \"Test tones\"\nFILE \"disc.bin\" BINARY\n  TRACK 01 AUDIO\n    TITLE \"One\"\n    INDEX 01 00:00:00\n  \
                TRACK 02 AUDIO\n    TITLE \"Two\"\n    INDEX 01 00:05:00\n";
    fs::write(&cue, text).expect("written");
    let gateway = gateway(folder.path(), vec![cue]).await;
    let drive = until("the drive", gateway.state.devices.snapshot(), |rows| {
        row(rows, DeviceClass::Disc, DeviceState::Online)
    });
    let drive = drive.await;
    assert_eq!(import_all(&gateway, &drive).await, ["One", "Two"]);

    let titles = gateway.state.library.list().await.expect("readable");
    let two = titles
        .iter()
        .find(|title| title.name == "Two")
        .expect("there");
    let asset = &two.assets[0];
    assert_eq!(asset.mime, "audio/flac");
    // 12 seconds less the first 5, as the sandboxed probe reads it.
    assert_eq!(asset.duration_ms, Some(7000));
    gateway.stop().await;
}
