//! A jukebox and a Cast television in a home, on real programs (F2, F63): MPD with its own announcement, and a Cast
//! receiver on npm castv2's server. What they do is asked of themselves: mpc for the one, its own state for the other.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{Household, Site, SiteBuilder, status};
use mantel_tests::lab::{CastTv, Mode, Mpd, Net, Proc};
use mantel_tests::media;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
const JUKEBOX: &str = "Kitchen jukebox";
const TELEVISION: &str = "Den television";

/// A home with a jukebox and a television; the other home is bare.
async fn site() -> Result<Site> {
    let net = Net::builder()
        .home("a", &["juke", "tv"])
        .home("b", &["pc"])
        .mode(Mode::Namespaces)
        .up()?;
    SiteBuilder::on(net).up().await
}

/// A music collection: two songs at the top, one in a folder.
fn collection(folder: &Path) -> Result<PathBuf> {
    let music = folder.join("collection");
    std::fs::create_dir_all(music.join("Attic")).context("creating the collection")?;
    for name in ["Morning.mp3", "Noon.mp3", "Attic/Night.mp3"] {
        std::fs::copy(media::song()?, music.join(name)).context("copying a song")?;
    }
    Ok(music)
}

/// The one row of a device, how soon after `announced` it was there.
async fn found(anna: &Household, name: &str, announced: Instant) -> Result<status::Device> {
    let device = anna.device(name).await?;
    println!("{name}: listed {:?} after its start", announced.elapsed());
    let rows = anna.status().await?.devices;
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let same = names.iter().filter(|listed| **listed == name).count();
    ensure!(same == 1, "{name} is listed {same} times in {names:?}");
    ensure!(device.standing == "new", "it is {}", device.standing);
    anna.admit(&device).await?;
    Ok(device)
}

/// Waits until the device plays `title` past `seconds`, and returns where it is.
async fn at_least(anna: &Household, device: &str, title: &str, seconds: f64) -> Result<f64> {
    anna.wait(&format!("{title} past {seconds} s"), LONG, |status| {
        let row = status.playing.iter().find(|row| row.device == device)?;
        let there = row.title == title && row.state == "playing" && row.position_s >= seconds;
        there.then_some(row.position_s)
    })
    .await
}

/// Seconds played, as mpc's `status` says them: `1:05/5:24`.
fn place_of(said: &str) -> Result<u32> {
    let times = said
        .split_whitespace()
        .find(|word| word.contains('/') && word.contains(':'));
    let (minutes, seconds) = times
        .and_then(|times| times.split('/').next()?.split_once(':'))
        .with_context(|| format!("no time in {said}"))?;
    Ok(minutes.parse::<u32>()? * 60 + seconds.parse::<u32>()?)
}

async fn wait_row(anna: &Household, device: &str, state: &str) -> Result<()> {
    anna.wait(&format!("{device} to be {state}"), LONG, |status| {
        let row = status.playing.iter().find(|row| row.device == device)?;
        (row.state == state).then_some(())
    })
    .await
}

async fn not_playing(anna: &Household, device: &str) -> Result<()> {
    anna.wait("the end of playing", LONG, |status| {
        let playing = status.playing.iter().any(|row| row.device == device);
        (!playing).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_jukebox_is_listed_driven_and_left_as_it_was() -> Result<()> {
    let site = site().await?;
    let (anna, folder) = (&site.anna, site.net.folder().to_owned());
    let place = site.net.home("a")?.device("juke")?;
    let announced = Instant::now();
    let mpd = Mpd::start(place, &collection(&folder)?, JUKEBOX, &folder).await?;
    let device = found(anna, JUKEBOX, announced).await?;
    ensure!(device.class == "jukebox", "it is a {}", device.class);
    let can = ["list_media", "render"];
    ensure!(
        device.capabilities == can,
        "it can {:?}",
        device.capabilities
    );

    // Its library: listed with a way to play, none to import.
    let page = anna.device_page(&device).await?;
    for text in ["Attic", "Albums", "Loudspeakers", "jukebox\""] {
        ensure!(page.contains(text), "the page has no {text}: {page}");
    }
    ensure!(
        !page.contains("/import\""),
        "the page offers an import: {page}"
    );
    ensure!(page.matches("data-object=\"song:").count() == 2, "{page}");
    anna.jukebox(
        &device,
        &[("action", "play"), ("object", "song:Morning.mp3")],
    )
    .await?;
    anna.jukebox(&device, &[("action", "play"), ("object", "dir:Attic")])
        .await?;
    anna.jukebox(&device, &[("action", "previous")]).await?;
    mpd.wait_mpc("its own song", &["status"], |said| {
        said.contains("[playing] #1/2")
    })
    .await?;
    mpd.mpc(&["seek", "00:01:00"]).await?;
    let outputs = mpd.mpc(&["outputs"]).await?;
    ensure!(
        outputs.contains("Output 2 (Garden) is enabled"),
        "{outputs}"
    );
    anna.jukebox(&device, &[("action", "off"), ("output", "1")])
        .await?;
    mpd.wait_mpc("the garden to be silent", &["outputs"], |said| {
        said.contains("Output 2 (Garden) is disabled")
    })
    .await?;

    // A title of the library, between its own songs.
    let before = place_of(&mpd.mpc(&["status"]).await?)?;
    let song = std::fs::read(media::song()?)?;
    let first = anna.add("First.mp3", song.clone()).await?;
    let mut other = song;
    other.truncate(other.len() / 2);
    let second = anna.add("Second.mp3", other).await?;
    anna.play_on(&first.id, &device).await?;
    let here = at_least(anna, &device.id, &first.id, 1.0).await?;
    at_least(anna, &device.id, &first.id, here + 1.0).await?;
    let said = mpd.mpc(&["status"]).await?;
    ensure!(said.contains("[playing] #2/3"), "{said}");

    anna.player(&device, &[("action", "volume"), ("volume", "35")])
        .await?;
    mpd.wait_mpc("the volume", &["volume"], |said| said.contains("35%"))
        .await?;
    anna.player(&device, &[("action", "pause")]).await?;
    mpd.wait_mpc("the pause", &["status"], |said| said.contains("[paused]"))
        .await?;
    wait_row(anna, &device.id, "paused").await?;
    anna.player(&device, &[("action", "resume")]).await?;
    anna.player(&device, &[("action", "seek"), ("position", "200")])
        .await?;
    at_least(anna, &device.id, &first.id, 200.0).await?;

    // The next title without a gap, near the end of this one.
    anna.done(
        &format!("/library/{}/play", first.id),
        &[("on", &device.id), ("when", "next")],
    )
    .await?;
    anna.done(
        &format!("/library/{}/play", second.id),
        &[("on", &device.id), ("when", "next")],
    )
    .await?;
    anna.player(&device, &[("action", "seek"), ("position", "318")])
        .await?;
    at_least(anna, &device.id, &second.id, 1.0).await?;
    println!(
        "{JUKEBOX}: {}",
        mpd.mpc(&["status"]).await?.replace('\n', " | ")
    );

    // Stopped: its own queue is as it was, paused where it was.
    anna.player(&device, &[("action", "stop")]).await?;
    not_playing(anna, &device.id).await?;
    let said = mpd
        .wait_mpc("its own queue", &["status"], |said| {
            said.contains("[paused]  #1/2")
        })
        .await?;
    ensure!(place_of(&said)? >= before, "not at its place: {said}");
    ensure!(
        said.contains("single: off"),
        "a mode was left behind: {said}"
    );
    drop(mpd);
    site.done().await
}

#[tokio::test]
async fn a_cast_television_plays_seeks_and_queues() -> Result<()> {
    let site = site().await?;
    let (anna, folder) = (&site.anna, site.net.folder().to_owned());
    let place = site.net.home("a")?.device("tv")?;
    let announced = Instant::now();
    let tv = CastTv::start(place, TELEVISION, &folder).await?;
    let device = found(anna, TELEVISION, announced).await?;
    ensure!(device.class == "television", "it is a {}", device.class);
    ensure!(
        device.capabilities == ["render"],
        "{:?}",
        device.capabilities
    );

    let film = anna.add("Film.mp4", std::fs::read(media::clip()?)?).await?;
    let song = anna.add("Song.mp3", std::fs::read(media::song()?)?).await?;
    anna.play_on(&film.id, &device).await?;
    let here = at_least(anna, &device.id, &film.id, 1.0).await?;
    at_least(anna, &device.id, &film.id, here + 1.0).await?;
    // Not only what it says: it has decoded so much of what it fetched.
    let seen = tv
        .wait_state("its own picture", |now| {
            now.player
                .as_ref()
                .is_some_and(|p| p.state == "PLAYING" && p.position > 2.0)
        })
        .await?;
    println!("{TELEVISION}: {seen:?}");

    anna.player(&device, &[("action", "volume"), ("volume", "35")])
        .await?;
    tv.wait_state("the volume", |now| (now.level - 0.35).abs() < 0.001)
        .await?;
    anna.player(&device, &[("action", "mute")]).await?;
    tv.wait_state("silence", |now| now.muted).await?;
    anna.player(&device, &[("action", "unmute")]).await?;
    tv.wait_state("sound", |now| !now.muted).await?;
    anna.player(&device, &[("action", "pause")]).await?;
    tv.wait_state("the pause", |now| {
        now.player.as_ref().is_some_and(|p| p.state == "PAUSED")
    })
    .await?;
    wait_row(anna, &device.id, "paused").await?;
    anna.player(&device, &[("action", "resume")]).await?;

    // The next title, by the television's own queue.
    anna.done(
        &format!("/library/{}/play", song.id),
        &[("on", &device.id), ("when", "next")],
    )
    .await?;
    anna.player(&device, &[("action", "seek"), ("position", "36")])
        .await?;
    at_least(anna, &device.id, &film.id, 36.0).await?;
    at_least(anna, &device.id, &song.id, 1.0).await?;
    anna.player(&device, &[("action", "stop")]).await?;
    tv.wait_state("its own screen", |now| !now.app && now.player.is_none())
        .await?;
    not_playing(anna, &device.id).await?;

    // Switched off: its row says so.
    let program: Proc = tv.withdraw().await?;
    anna.wait("the television to be gone", LONG, |status| {
        let row = status.devices.iter().find(|row| row.id == device.id)?;
        (row.state == "gone").then_some(())
    })
    .await?;
    drop(program);
    site.done().await
}
