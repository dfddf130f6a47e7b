//! A diagnostics tool: what is on the LAN, as this crate sees it.
//!
//! ```text
//! lan [--loopback] devices [SECONDS]            list devices
//! lan [--loopback] browse NAME                  walk a media server
//! lan [--loopback] fetch NAME TITLE FILE        fetch an item to FILE, print its BLAKE3
//! lan [--loopback] play NAME URL MIME           play on a renderer: position, pause, seek, volume, stop
//! lan [--loopback] watch NAME SECONDS           print what a device tells of itself
//! lan [--loopback] capture NAME                 print a capture of a device, secrets removed
//! lan camera NAME FILE [USER PASSWORD]          a still to FILE, then ten seconds of its live stream, counted
//! lan rtsp URL FILE                             the same of a stream at rtsp://[USER:PASSWORD@]ADDRESS/…
//! lan v4l2 NODE FILE                            the same of a camera on a cable, with all that it offers
//! ```
//! NAME is part of a device's name.
#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use mantel_peripherals::capture::Titles;
use mantel_peripherals::discovery::{Discovery, DiscoveryConfig, Loopback, Snapshot};
use mantel_peripherals::media::{
    FetchRequest, Item, MediaKind, PlayRequest, TransportState, Volume, WalkLimits,
};
use mantel_peripherals::rtsp::{RtspAccess, RtspCamera, RtspUrl, Transport};
use mantel_peripherals::v4l2::{V4l2Access, V4l2Camera};
use mantel_peripherals::{Camera, Device, Login, MediaSource, Renderer};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a named device is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut config = DiscoveryConfig::default();
    if arguments.first().is_some_and(|first| first == "--loopback") {
        config.ssdp.loopback = Loopback::Searched;
        arguments.remove(0);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["v4l2", node, file] => return v4l2(node, file).await,
        ["rtsp", url, file] => return rtsp(url, file).await,
        _ => {}
    }
    let cancel = CancellationToken::new();
    let (devices, discovery) = Discovery::start(config, cancel.clone());
    let result = match arguments[..] {
        [] | ["devices"] => list(devices, 6).await,
        ["devices", seconds] => list(devices, seconds.parse()?).await,
        ["browse", name] => browse(&source(devices, name).await?).await,
        ["fetch", name, title, file] => fetch(&source(devices, name).await?, title, file).await,
        ["play", name, url, mime] => play(&renderer(devices, name).await?, url, mime).await,
        ["watch", name, seconds] => watch(devices, name, seconds.parse()?).await,
        ["capture", name] => {
            let device = wait_for(devices, name, |device| Some(device.clone())).await?;
            let capture = mantel_peripherals::capture::capture(&device, Titles::Removed).await;
            println!("{}", serde_json::to_string_pretty(&capture)?);
            Ok(())
        }
        ["camera", name, file] => look(&camera(devices, name, None).await?, file).await,
        ["camera", name, file, user, password] => {
            let login = Login::new(user, password).context("no such log-in")?;
            look(&camera(devices, name, Some(login)).await?, file).await
        }
        _ => bail!(
            "usage: lan [--loopback] devices | browse NAME | fetch NAME TITLE FILE | play NAME URL MIME | \
             camera NAME FILE [USER PASSWORD] | rtsp URL FILE | v4l2 NODE FILE"
        ),
    };
    cancel.cancel();
    discovery.finished().await;
    result
}

async fn list(devices: watch::Receiver<Snapshot>, seconds: u64) -> anyhow::Result<()> {
    sleep(Duration::from_secs(seconds)).await;
    let snapshot = devices.borrow().clone();
    for device in snapshot.iter() {
        println!(
            "{} [{}] {:?}",
            device.name,
            device.class.label(),
            device.state
        );
        println!("  id        {}", device.id);
        println!(
            "  maker     {} / {}",
            text(device.maker.as_ref()),
            text(device.model.as_ref())
        );
        println!(
            "  at        {:?} mac {} serial {}",
            device.addresses,
            text(device.mac.as_ref()),
            text(device.serial.as_ref())
        );
        println!("  can       {:?}", device.capabilities);
        for part in &device.parts {
            println!(
                "  part      {} [{}] {}",
                part.name,
                part.class.label(),
                part.key
            );
        }
        if let Some(problem) = &device.problem {
            println!("  problem   {problem}");
        }
    }
    println!("{} devices", snapshot.len());
    Ok(())
}

fn text(value: Option<&impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// Waits for a device that `pick` accepts.
async fn wait_for<T>(
    mut devices: watch::Receiver<Snapshot>,
    name: &str,
    pick: impl Fn(&Device) -> Option<T>,
) -> anyhow::Result<T> {
    let found = async {
        loop {
            let snapshot = devices.borrow_and_update().clone();
            let mut named = snapshot.iter().filter(|device| device.name.contains(name));
            if let Some(found) = named.find_map(&pick) {
                return anyhow::Ok(found);
            }
            devices.changed().await?;
        }
    };
    timeout(PATIENCE, found)
        .await
        .with_context(|| format!("no such device: {name}"))?
}

async fn source(devices: watch::Receiver<Snapshot>, name: &str) -> anyhow::Result<MediaSource> {
    wait_for(devices, name, Device::media_source).await
}

async fn renderer(devices: watch::Receiver<Snapshot>, name: &str) -> anyhow::Result<Renderer> {
    wait_for(devices, name, Device::renderer).await
}

async fn watch(devices: watch::Receiver<Snapshot>, name: &str, seconds: u64) -> anyhow::Result<()> {
    let device = wait_for(devices, name, |device| {
        (!device.capabilities.is_empty()).then(|| device.clone())
    })
    .await?;
    let source = device.media_source().map(|source| source.changes());
    let renderer = device.renderer().map(|renderer| renderer.changes());
    let mut changes: Vec<_> = source.into_iter().chain(renderer).collect();
    let all = futures_util::future::join_all(changes.iter_mut().map(async |changes| {
        while let Some(change) = changes.next().await {
            println!("{change:?}");
        }
    }));
    // The time is over: that is the usual end.
    let _ = timeout(Duration::from_secs(seconds), all).await;
    for changes in changes {
        changes.end().await;
    }
    Ok(())
}

async fn camera(
    devices: watch::Receiver<Snapshot>,
    name: &str,
    login: Option<Login>,
) -> anyhow::Result<Camera> {
    wait_for(devices, name, |device| device.camera(login.clone())).await
}

async fn rtsp(url: &str, file: &str) -> anyhow::Result<()> {
    let (url, login) = match RtspUrl::typed(url) {
        Ok(typed) => (typed.url, typed.login),
        // A camera that is a program on this machine.
        Err(_) => (
            RtspUrl::parse(url, std::net::Ipv4Addr::LOCALHOST.into())?,
            None,
        ),
    };
    let access = RtspAccess {
        url,
        transport: Transport::Interleaved,
    };
    let camera = RtspCamera::new("The camera".to_owned(), access, login);
    look(&Camera::Rtsp(camera), file).await
}

async fn v4l2(node: &str, file: &str) -> anyhow::Result<()> {
    let access = V4l2Access {
        node: node.into(),
        name: node.to_owned(),
    };
    let camera = V4l2Camera::new(node.to_owned(), access);
    for mode in camera.modes().await? {
        println!("offers {mode}");
    }
    look(&Camera::V4l2(camera), file).await
}

async fn look(camera: &Camera, file: &str) -> anyhow::Result<()> {
    let still = camera.still().await?;
    std::fs::write(file, &still.bytes)?;
    println!("still {} {} bytes to {file}", still.mime, still.bytes.len());
    let mut live = camera.live().await?;
    for track in live.tracks() {
        println!("track {track:?}");
    }
    let mut counted = vec![(0_u64, 0_u64, 0_u64); live.tracks().len()];
    let all = async {
        while let Some(unit) = live.next().await {
            let unit = unit?;
            let (units, keys, bytes) = &mut counted[unit.track];
            *units += 1;
            *keys += u64::from(unit.key);
            *bytes += unit.bytes.len() as u64;
        }
        anyhow::Ok(())
    };
    // Ten seconds, or until it ends by itself.
    let ended = timeout(Duration::from_secs(10), all).await;
    println!("units, keys, bytes of each track: {counted:?}; ended: {ended:?}");
    Ok(())
}

async fn browse(source: &MediaSource) -> anyhow::Result<()> {
    let mut walk = source.walk(WalkLimits::default());
    while let Some(item) = walk.next().await? {
        let original = item
            .original()
            .context("the walk gives out fetchable items only")?;
        println!(
            "{:?} \"{}\" by {} on {} at {} {} {:?} bytes {:?}",
            item.kind,
            item.title,
            text(item.artist.as_ref()),
            text(item.album.as_ref()),
            text(item.date.as_ref()),
            original.mime,
            original.size_bytes,
            original.duration,
        );
    }
    println!("{:?}", walk.summary());
    Ok(())
}

async fn find(source: &MediaSource, title: &str) -> anyhow::Result<Item> {
    let mut walk = source.walk(WalkLimits::default());
    while let Some(item) = walk.next().await? {
        if item.title == title {
            return Ok(item);
        }
    }
    bail!("{} has no \"{title}\"", source.name())
}

async fn fetch(source: &MediaSource, title: &str, file: &str) -> anyhow::Result<()> {
    let item = find(source, title).await?;
    let resource = item.original().context("nothing to fetch")?;
    // The first half, dropped in the middle, then the rest by range: what a broken transfer does.
    let whole = resource.size_bytes.unwrap_or(u64::MAX);
    let mut out = std::fs::File::create(file)?;
    let mut hash = blake3::Hasher::new();
    let mut have = 0_u64;
    let mut request = FetchRequest::whole(u64::MAX);
    for stop_at in [whole / 2, u64::MAX] {
        request.from = have;
        let mut fetched = source.fetch(resource, request.clone()).await?;
        println!("{fetched:?} validator {:?}", fetched.validator);
        anyhow::ensure!(fetched.offset == have, "the device ignores ranges");
        request.validator = fetched.validator.take();
        while have < stop_at {
            let Some(chunk) = fetched.body.next().await.transpose()? else {
                break;
            };
            have += chunk.len() as u64;
            hash.update(&chunk);
            out.write_all(&chunk)?;
        }
    }
    println!("{have} bytes, BLAKE3 {}", hash.finalize().to_hex());
    Ok(())
}

async fn play(renderer: &Renderer, url: &str, mime: &str) -> anyhow::Result<()> {
    println!(
        "{} plays {} formats",
        renderer.name(),
        renderer.formats().len()
    );
    let what = PlayRequest {
        url: url.to_owned(),
        title: "Trial <&>".to_owned(),
        kind: MediaKind::of_mime(mime),
        mime: mime.to_owned(),
        size_bytes: None,
        duration: None,
    };
    renderer.load(&what).await?;
    renderer.play().await?;
    let start = until(renderer, "playing", |s| {
        s.state == TransportState::Playing && s.position.is_some()
    })
    .await?;
    until(renderer, "advanced by 3 s", |s| {
        s.position >= start.map(|p| p + Duration::from_secs(3))
    })
    .await?;
    renderer.pause().await?;
    until(renderer, "paused", |s| s.state == TransportState::Paused).await?;
    renderer.play().await?;
    let goal = Duration::from_secs(30);
    renderer.seek(goal).await?;
    until(renderer, "sought to 30 s", |s| s.position >= Some(goal)).await?;
    renderer.set_volume(Volume::percent(37)).await?;
    println!("volume {}%", renderer.volume().await?.as_percent());
    renderer.stop().await?;
    until(renderer, "stopped", |s| s.state == TransportState::Stopped).await?;
    Ok(())
}

/// Asks until `reached`; gives the position.
async fn until(
    renderer: &Renderer,
    what: &str,
    reached: impl Fn(&mantel_peripherals::media::PlaybackStatus) -> bool,
) -> anyhow::Result<Option<Duration>> {
    let asked = async {
        loop {
            let status = renderer.status().await?;
            if reached(&status) {
                println!(
                    "{what}: {:?} at {:?} of {:?}",
                    status.state, status.position, status.duration
                );
                return anyhow::Ok(status.position);
            }
            sleep(Duration::from_millis(250)).await;
        }
    };
    timeout(PATIENCE, asked)
        .await
        .with_context(|| format!("not {what} in time"))?
}
