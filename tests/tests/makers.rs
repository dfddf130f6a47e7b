//! Media servers and renderers of four makers, driven by this project's UPnP control point (F2, F63): minidlna, gerbera,
//! rygel (which also plays) and gmediarender, each at its own address, none of them ours. Each is found, listed,
//! fetched from and watched for news; each renderer plays, seeks, tells of its volume, and goes to the next title.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use mantel_peripherals::discovery::{Discovery, DiscoveryConfig, Snapshot};
use mantel_peripherals::media::{
    Entry, FetchRequest, Item, MediaKind, Mute, PageRequest, PlayRequest, RenderError,
    TransportState, Volume, WalkLimits,
};
use mantel_peripherals::{Change, Changes, Device, DeviceClass, MediaSource, Renderer};
use mantel_tests::lab::{self, Gerbera, MediaServer, Mode, Net, Place, Rygel, until, until_ok};
use mantel_tests::media;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// The longest that news of a new file may take: those who tell nothing are asked each minute.
const NEWS: Duration = Duration::from_secs(75);
/// How long a renderer may stand at the end of a title.
const HANGS: Duration = Duration::from_secs(20);
/// How often a renderer is tried that leaves off by itself: gmediarender at times locks itself up when a title ends (and is
/// switched on anew), Rygel once stopped while it paused. Every step has to succeed in one try.
const TRIES: u32 = 3;

/// What is on the home's network, as this project sees it from beside the gateway.
struct Seen {
    devices: watch::Receiver<Snapshot>,
    discovery: Discovery,
    _stop: DropGuard,
}

impl Seen {
    fn start() -> Self {
        let cancel = CancellationToken::new();
        let (devices, discovery) = Discovery::start(DiscoveryConfig::default(), cancel.clone());
        Self {
            devices,
            discovery,
            _stop: cancel.drop_guard(),
        }
    }

    /// The one device at `place` of which `pick` makes something.
    async fn device<T>(
        &self,
        place: &Place,
        what: &str,
        pick: impl Fn(&Device) -> Option<T>,
    ) -> Result<(Device, T)> {
        let at = IpAddr::from(place.addr());
        until(&format!("{what} at {at}"), LONG, async || {
            self.discovery.search_now();
            let snapshot = self.devices.borrow().clone();
            let mut there = snapshot.iter().filter(|d| d.addresses.contains(&at));
            there.find_map(|device| Some((device.clone(), pick(device)?)))
        })
        .await
    }

    /// How many rows there are for a place.
    fn rows(&self, place: &Place) -> usize {
        let at = IpAddr::from(place.addr());
        let snapshot = self.devices.borrow().clone();
        snapshot
            .iter()
            .filter(|device| device.addresses.contains(&at))
            .count()
    }
}

/// The test media in a folder of their own, to which files may be added.
fn shared(net: &Net, name: &str) -> Result<PathBuf> {
    let folder = net.folder().join(format!("shared-{name}"));
    std::fs::create_dir_all(&folder)?;
    for file in media::all()? {
        let to = folder.join(file.file_name().context("a file name")?);
        std::fs::copy(&file, to)?;
    }
    Ok(folder)
}

/// What the test media are, by BLAKE3.
fn originals() -> Result<BTreeMap<String, PathBuf>> {
    let hash = |file: PathBuf| {
        let bytes = std::fs::read(&file)?;
        Ok((blake3::hash(&bytes).to_hex().to_string(), file))
    };
    media::all()?.into_iter().map(hash).collect()
}

async fn items(source: &MediaSource) -> Result<Vec<Item>> {
    let mut walk = source.walk(WalkLimits::default());
    let mut items = Vec::new();
    while let Some(item) = walk.next().await? {
        items.push(item);
    }
    Ok(items)
}

async fn hash_of(source: &MediaSource, item: &Item) -> Result<String> {
    let resource = item.original().context("nothing to fetch")?;
    let mut fetched = source
        .fetch(resource, FetchRequest::whole(1 << 30))
        .await
        .with_context(|| format!("fetching {}", item.title))?;
    let mut hash = blake3::Hasher::new();
    while let Some(chunk) = fetched.body.next().await.transpose()? {
        hash.update(&chunk);
    }
    Ok(hash.finalize().to_hex().to_string())
}

/// Lists and fetches everything, adds a file, and waits to be told of it.
async fn serves(source: &MediaSource, folder: &Path, maker: &str) -> Result<()> {
    let wanted = originals()?;
    let found = until(&format!("six files of {maker}"), LONG, async || {
        let items = items(source).await.ok()?;
        (items.len() >= wanted.len()).then_some(items)
    })
    .await?;
    let mut kinds = BTreeMap::new();
    let mut left = wanted.clone();
    for item in &found {
        let hash = hash_of(source, item).await?;
        ensure!(
            wanted.contains_key(&hash),
            "{maker}: {} is no file of ours: {item:?}",
            item.title
        );
        left.remove(&hash);
        *kinds.entry(item.kind).or_insert(0_u32) += 1;
    }
    ensure!(left.is_empty(), "{maker} did not give {left:?}");
    ensure!(
        kinds
            == BTreeMap::from([
                (MediaKind::Audio, 1),
                (MediaKind::Image, 4),
                (MediaKind::Video, 1)
            ]),
        "{maker} lists {kinds:?}"
    );
    let page = PageRequest {
        start: 0,
        count: 50,
    };
    let storms = source.search("Storm", page).await?.entries;
    ensure!(
        !storms.is_empty()
            && storms
                .iter()
                .all(|entry| matches!(entry, Entry::Item(item) if item.title.contains("Storm"))),
        "{maker} finds {storms:?}"
    );
    let nothing = source.search("no \"such\" \\ title", page).await?.entries;
    ensure!(nothing.is_empty(), "{maker} finds {nothing:?}");
    let mut changes = source.changes();
    // The subscription stands when the baseline was heard; what is added before is found by the walk below anyway.
    if let Ok(early) = tokio::time::timeout(Duration::from_secs(3), changes.next()).await {
        println!("{maker}: at first {early:?}");
    }
    let began = Instant::now();
    std::fs::copy(media::clip()?, folder.join("Another film.mp4"))?;
    // gerbera 1.1.0 keeps its SystemUpdateID when inotify tells it of a file: it has no news.
    let news = match tokio::time::timeout(NEWS, changes.next()).await {
        Ok(Some(Change::Media(change))) => {
            format!(
                "news {:.1} s after the file: {change:?}",
                began.elapsed().as_secs_f32()
            )
        }
        Ok(other) => anyhow::bail!("{maker} told {other:?}"),
        Err(_) if maker == "gerbera" => "no news of the file".to_owned(),
        Err(_) => anyhow::bail!("{maker} tells no news"),
    };
    until("the new film", LONG, async || {
        let items = items(source).await.ok()?;
        // By its number, since some makers list it under the title that is in the file.
        (items.len() == wanted.len() + 1).then_some(())
    })
    .await?;
    println!("{maker}: 6 files listed and fetched, BLAKE3 equal; {news}");
    changes.end().await;
    Ok(())
}

#[tokio::test]
async fn media_servers_of_three_makers_are_found_listed_fetched_and_watched() -> Result<()> {
    let net = Net::builder()
        .home("a", &["mini", "gerb", "rygel"])
        .mode(Mode::Namespaces)
        .up()?;
    let (home, folder) = (net.home("a")?, net.folder().to_owned());
    let seen = Seen::start();
    let share = |name| shared(&net, name);
    let (mini, gerb, pc) = (share("mini")?, share("gerb")?, share("rygel")?);
    let places = [
        home.device("mini")?,
        home.device("gerb")?,
        home.device("rygel")?,
    ];
    let minidlna = MediaServer::start(places[0], &mini, "Camcorder", &folder).await?;
    let gerbera = Gerbera::start(places[1], &gerb, "NAS", &folder).await?;
    let rygel = Rygel::start(places[2], &pc, "Study PC", "Study player", &folder).await?;
    let served = async |place: &Place, share: &Path, maker: &str, class: DeviceClass| {
        let began = Instant::now();
        let (device, source) = seen.device(place, maker, Device::media_source).await?;
        println!(
            "{maker}: \"{}\" {:?} seen {:.1} s after the last look",
            device.name,
            device.class,
            began.elapsed().as_secs_f32(),
        );
        serves(&source, share, maker).await?;
        let rows = seen.rows(place);
        ensure!(rows == 1, "{maker} is listed {rows} times");
        let (device, _) = seen.device(place, maker, Device::media_source).await?;
        ensure!(device.class == class, "{maker} is a {:?}", device.class);
        anyhow::Ok(())
    };
    tokio::try_join!(
        served(places[0], &mini, "minidlna", DeviceClass::Camcorder),
        served(places[1], &gerb, "gerbera", DeviceClass::MediaServer),
        // A computer that also plays is known as what it plays.
        served(places[2], &pc, "rygel", DeviceClass::Television),
    )?;
    drop((minidlna, gerbera, rygel));
    net.done()
}

async fn status_is(
    renderer: &Renderer,
    what: &str,
    want: impl Fn(&mantel_peripherals::media::PlaybackStatus) -> bool,
) -> Result<mantel_peripherals::media::PlaybackStatus> {
    let mut last = None;
    until(what, LONG, async || {
        let status = renderer.status().await.ok()?;
        let fits = want(&status);
        last = Some(status.clone());
        fits.then_some(status)
    })
    .await
    .with_context(|| format!("at last {last:?}"))
}

fn request(item: &Item) -> Result<PlayRequest> {
    let resource = item.original().context("nothing to play")?;
    let mantel_peripherals::media::Location::Url(url) = &resource.location else {
        anyhow::bail!("{resource:?} has no URL");
    };
    Ok(PlayRequest {
        url: url.to_string(),
        title: item.title.clone(),
        kind: item.kind,
        mime: resource.mime.clone(),
        size_bytes: resource.size_bytes,
        duration: resource.duration,
    })
}

/// The next title plays: by itself, or, where the renderer hangs between the two (gmediarender at times), after it was
/// started as the gateway does then.
async fn goes_on(
    renderer: &Renderer,
    changes: &mut Changes,
    next: &PlayRequest,
) -> Result<&'static str> {
    let plays = |status: &mantel_peripherals::media::PlaybackStatus| {
        status.state == TransportState::Playing && status.url.as_deref() == Some(next.url.as_str())
    };
    // Asked only when it tells of something: asked while it changes titles, gmediarender locks itself up.
    let by_itself = async {
        loop {
            let change = changes.next().await.context("no changes")?;
            if change == Change::Playing && plays(&renderer.status().await?) {
                return anyhow::Ok(());
            }
        }
    };
    if let Ok(told) = tokio::time::timeout(HANGS, by_itself).await {
        told?;
        return Ok("goes to the next title by itself");
    }
    renderer.load(next).await?;
    renderer.play().await?;
    status_is(renderer, "the next title after a hang", plays).await?;
    Ok("hung at the end and was given the next title")
}

/// Plays, seeks, pauses; volume and mute both ways, also told when another remote does it; the next title.
async fn plays(renderer: &Renderer, song: &PlayRequest, films: &[PlayRequest; 2]) -> Result<()> {
    let name = renderer.name().to_owned();
    let mut changes = renderer.changes();
    renderer.load(song).await?;
    renderer.play().await?;
    let at = |seconds: u64| {
        move |status: &mantel_peripherals::media::PlaybackStatus| {
            status.state == TransportState::Playing
                && status.position >= Some(Duration::from_secs(seconds))
        }
    };
    status_is(renderer, "the song to play", at(2)).await?;
    until_ok("seeking", LONG, async || {
        renderer.seek(Duration::from_mins(1)).await
    })
    .await?;
    status_is(renderer, "the place sought", at(60)).await?;
    renderer.pause().await?;
    status_is(renderer, "the pause", |s| s.state == TransportState::Paused).await?;
    renderer.play().await?;
    status_is(renderer, "going on", at(60)).await?;

    // Everything that was said so far is read; then another remote control turns the volume.
    while tokio::time::timeout(Duration::from_secs(2), changes.next())
        .await
        .is_ok_and(|change| change.is_some())
    {}
    renderer.set_volume(Volume::percent(37)).await?;
    let began = Instant::now();
    let told = async {
        while changes.next().await.context("no changes")? != Change::Loudness {}
        anyhow::Ok(began.elapsed())
    };
    let told = tokio::time::timeout(LONG, told).await??;
    let volume = renderer.volume().await?.as_percent();
    ensure!((36..=38).contains(&volume), "{name} is at {volume} %");
    renderer.set_mute(Mute::On).await?;
    let muted = renderer.mute().await?;
    renderer.set_mute(Mute::Off).await?;

    // The next title, without a hand. Of the same kind: from a film to a song gmediarender waits for ever.
    let [film, next_film] = films;
    renderer.stop().await?;
    renderer.load(film).await?;
    renderer.play().await?;
    status_is(renderer, "the film to play", at(1)).await?;
    let next = renderer.load_next(next_film).await;
    let gapless = match &next {
        Ok(()) => {
            until_ok("seeking", LONG, async || {
                renderer.seek(Duration::from_secs(38)).await
            })
            .await?;
            goes_on(renderer, &mut changes, next_film).await?
        }
        Err(RenderError::Unsupported { .. }) => "cannot be told what is next",
        Err(other) => anyhow::bail!("{name}: {other:?}"),
    };
    renderer.stop().await?;
    println!(
        "{name}: played, sought, paused; told of the volume after {:.2} s; mute {muted:?}; {gapless}",
        told.as_secs_f32()
    );
    changes.end().await;
    Ok(())
}

#[tokio::test]
async fn renderers_of_two_makers_play_seek_tell_and_go_on() -> Result<()> {
    let net = Net::builder()
        .home("a", &["mini", "tv", "rygel"])
        .mode(Mode::Namespaces)
        .up()?;
    let (home, folder) = (net.home("a")?, net.folder().to_owned());
    let seen = Seen::start();
    let share = shared(&net, "mini")?;
    let (mini, tv, pc) = (
        home.device("mini")?,
        home.device("tv")?,
        home.device("rygel")?,
    );
    std::fs::copy(media::clip()?, share.join("Another film.mp4"))?;
    let minidlna = MediaServer::start(mini, &share, "Camcorder", &folder).await?;
    let mut gmedia = lab::Renderer::start(tv, "Living room TV", &folder).await?;
    let rygel = Rygel::start(pc, &share, "Study PC", "Study player", &folder).await?;
    minidlna.wait_files(7, LONG).await?;
    let (_, source) = seen.device(mini, "minidlna", Device::media_source).await?;
    let items = items(&source).await?;
    let of = |kind| items.iter().find(|item| item.kind == kind);
    let song = request(of(MediaKind::Audio).context("a song")?)?;
    let mut films = items.iter().filter(|item| item.kind == MediaKind::Video);
    let mut film = || request(films.next().context("a film")?);
    let films = [film()?, film()?];
    for place in [tv, pc] {
        let (device, renderer) = seen.device(place, "a player", Device::renderer).await?;
        println!("{} {:?}: {:?}", device.name, device.class, device.model);
        let mut played = plays(&renderer, &song, &films).await;
        for _ in 1..TRIES {
            let Err(error) = &played else { break };
            println!("{} left off by itself: {error:#}", device.name);
            let status = renderer.status().await;
            let hangs = matches!(status, Err(RenderError::Unreachable { .. }));
            if hangs && place.name() == tv.name() {
                gmedia.proc.kill9().await?;
                gmedia = lab::Renderer::start(tv, "Living room TV", &folder).await?;
            }
            played = plays(&renderer, &song, &films).await;
        }
        played?;
    }
    drop((minidlna, gmedia, rygel));
    net.done()
}
