//! Devices that misbehave (F2, F3, F63): descriptions that are no XML, bombs or gigabytes, lists that are junk, media
//! servers and televisions that go away while they are used. The devices page says what is wrong with each, and
//! everything beside it goes on.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests watch real programs in real time; there is no clock to inject"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{Site, SiteBuilder, Status, status};
use mantel_tests::lab::{MediaServer, Mode, Net, Place, Proc, Renderer, until};
use mantel_tests::media;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// What a gateway may have read of a description of 1 GB: its limit, and what the sockets hold.
const MOST_READ: u64 = 16 * 1024 * 1024;
/// What a gateway may have needed of memory at its highest, KiB.
const MOST_MEMORY_KIB: u64 = 400 * 1024;

/// Those whose description cannot be read.
const UNREADABLE: [&str; 6] = ["garbage", "cut", "bomb", "huge", "endless", "elsewhere"];
/// Those whose description is sound and whose lists are not.
const UNLISTABLE: [&str; 2] = ["lists-junk", "lists-huge"];

async fn nasty(place: &Place, behaviour: &str, logs: &Path) -> Result<Proc> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/nasty_device.py");
    let address = place.addr().to_string();
    let proc = place
        .run("python3")
        .arg(script)
        .args([address.as_str(), behaviour])
        .log(logs.join(format!("nasty-{behaviour}.log")))
        .spawn()
        .await?;
    proc.wait_line("ready", LONG).await?;
    Ok(proc)
}

/// The most memory that a program ever had, KiB (proc(5), `VmHWM`).
fn highest_memory_kib(proc: &Proc) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", proc.pid()))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn device_at(status: &Status, place: &Place) -> Option<status::Device> {
    let name = format!("Device at {}", place.addr());
    status
        .devices
        .iter()
        .find(|device| device.name == name)
        .cloned()
}

#[tokio::test]
async fn descriptions_of_all_kinds_are_survived_and_told() -> Result<()> {
    let places = [
        "cam", "bad1", "bad2", "bad3", "bad4", "bad5", "bad6", "bad7", "bad8",
    ];
    let net = Net::builder()
        .home("a", &places)
        .home("b", &["tv"])
        .mode(Mode::Namespaces)
        .up()?;
    let site = SiteBuilder::on(net).up().await?;
    let (home, anna) = (site.net.home("a")?, &site.anna);
    let folder = site.net.folder();
    let before = highest_memory_kib(site.a.proc.as_ref().context("gateway A runs")?)?;
    let mut devices = Vec::new();
    for (behaviour, name) in UNREADABLE.iter().chain(&UNLISTABLE).zip(&places[1..]) {
        let place = home.device(name)?.clone();
        devices.push((*behaviour, nasty(&place, behaviour, folder).await?, place));
    }
    let camcorder =
        MediaServer::start(home.device("cam")?, &media::folder()?, "Camcorder", folder).await?;
    camcorder.wait_files(6, LONG).await?;

    for (behaviour, _, place) in &devices[..UNREADABLE.len()] {
        let what = format!("a message about the device whose description is {behaviour}");
        let row = anna
            .wait(&what, LONG, |status| {
                device_at(status, place).filter(|row| row.problem.is_some())
            })
            .await?;
        println!("{behaviour}: \"{}\"", row.problem.unwrap_or_default());
    }
    let page = anna.session().get("/devices").await?.ok()?.body;
    for (behaviour, _, place) in &devices[..UNREADABLE.len()] {
        ensure!(
            page.contains(&place.addr().to_string()),
            "the devices page is silent about {behaviour}"
        );
    }
    for (behaviour, proc, _) in &devices {
        if matches!(*behaviour, "huge" | "endless") {
            let sent = proc
                .wait_map("what was read", LONG, sent_for("/description.xml"))
                .await?;
            ensure!(sent < MOST_READ, "{behaviour}: {sent} bytes were read");
            println!("{behaviour}: hung up after at most {sent} of 1073741824 bytes");
        }
    }

    // Sound descriptions, unsound lists: the page of the device says so, soon.
    for (behaviour, proc, _) in &devices[UNREADABLE.len()..] {
        let row = anna.device(&format!("Nasty {behaviour}")).await?;
        anna.admit(&row).await?;
        let began = Instant::now();
        let path = format!("/devices/{}", row.id.replace(':', "%3A"));
        let page = anna.session().get(&path).await?;
        ensure!(
            page.body.contains("notice"),
            "{behaviour}: {} without a message: {}",
            page.status,
            page.body
        );
        println!(
            "{behaviour}: its page answers {} after {:.1} s: {}",
            page.status,
            began.elapsed().as_secs_f32(),
            notice(&page.body)
        );
        if *behaviour == "lists-huge" {
            let sent = proc
                .wait_map("what was read", LONG, sent_for("/control"))
                .await?;
            ensure!(sent < MOST_READ, "{behaviour}: {sent} bytes were read");
        }
    }

    // The camcorder beside them works.
    let row = anna.device("Camcorder").await?;
    ensure!(row.problem.is_none(), "{row:?}");
    anna.admit(&row).await?;
    anna.import_all(&row, 6).await?;
    let highest = highest_memory_kib(site.a.proc.as_ref().context("gateway A runs")?)?;
    ensure!(highest < MOST_MEMORY_KIB, "gateway A had {highest} KiB");
    println!(
        "beside them all 6 files of the camcorder were imported; gateway A had {before} KiB at first, at most {highest} KiB"
    );
    drop((devices, camcorder));
    site.done().await
}

/// Reads "sent N bytes for PATH".
fn sent_for(path: &'static str) -> impl FnMut(&str) -> Option<u64> {
    move |line| {
        let (sent, what) = line.strip_prefix("sent ")?.split_once(" bytes for ")?;
        (what == path).then(|| sent.parse().ok())?
    }
}

/// The first notice on a page, as a person reads it.
fn notice(page: &str) -> String {
    let Some((_, rest)) = page.split_once("class=\"notice") else {
        return String::new();
    };
    let Some((_, rest)) = rest.split_once('>') else {
        return String::new();
    };
    let text = rest.split("</p>").next().unwrap_or_default();
    let mut plain = String::new();
    let mut tag = false;
    for letter in text.chars() {
        match letter {
            '<' => tag = true,
            '>' => tag = false,
            _ if !tag => plain.push(letter),
            _ => {}
        }
    }
    plain.trim().to_owned()
}

#[tokio::test]
async fn a_media_server_that_goes_away_during_an_import_is_told_and_comes_back() -> Result<()> {
    let site = SiteBuilder::on(Net::two_homes().mode(Mode::Namespaces).up()?)
        .up()
        .await?;
    let (anna, folder) = (&site.anna, site.net.folder().to_owned());
    let cam = site.net.home("a")?.device("cam")?.clone();
    let shared = folder.join("shared");
    std::fs::create_dir_all(&shared)?;
    media::long_clip(40_000_000, &shared.join("The long film.mp4"))?;
    let camcorder = MediaServer::start(&cam, &shared, "Camcorder", &folder).await?;
    camcorder.wait_files(1, LONG).await?;
    let row = anna.device("Camcorder").await?;
    anna.admit(&row).await?;
    site.net.limit_rate(&cam, 40)?;
    anna.done(
        &format!("/devices/{}/import", row.id.replace(':', "%3A")),
        &[],
    )
    .await?;
    let part = anna
        .wait("the import to be under way", LONG, |status| {
            status.imports.iter().find_map(|import| {
                import["bytes_done"]
                    .as_u64()
                    .filter(|bytes| *bytes > 4_000_000)
            })
        })
        .await?;
    // With all its children, which send the files.
    drop(camcorder);
    let began = Instant::now();
    let failed = anna
        .wait("the import to fail", LONG, |status| {
            status
                .imports
                .iter()
                .find(|import| import["phase"] == "failed")
                .cloned()
        })
        .await?;
    let problem = failed["problem"].as_str().unwrap_or_default().to_owned();
    ensure!(
        !problem.is_empty(),
        "an import failed without a word: {failed}"
    );
    let page = anna.session().get("/devices").await?.ok()?.body;
    ensure!(!notice(&page).is_empty(), "the devices page is silent");
    println!(
        "camcorder killed after {part} bytes: after {:.0} s the page says: \"{problem}\"",
        began.elapsed().as_secs_f32()
    );
    let titles = anna.status().await?.titles.len();
    ensure!(titles == 0, "a half title is in the library");
    still_works(&site).await?;

    site.net.limit_rate(&cam, 1_000)?;
    let camcorder = MediaServer::start(&cam, &shared, "Camcorder", &folder).await?;
    camcorder.wait_files(1, LONG).await?;
    let row = anna.device("Camcorder").await?;
    anna.import_all(&row, 2).await?;
    println!("camcorder back: the film was imported, and the page is clean");
    drop(camcorder);
    site.done().await
}

/// Something else at the same gateway goes on.
async fn still_works(site: &Site) -> Result<()> {
    let photo = media::photos()?.remove(0);
    let title = site.anna.add("Blinds.jpg", std::fs::read(&photo)?).await?;
    ensure!(
        site.anna.read_media(&title.id).await? == std::fs::read(&photo)?,
        "the photograph differs"
    );
    Ok(())
}

#[tokio::test]
async fn a_television_that_goes_away_while_it_plays_is_told_and_comes_back() -> Result<()> {
    let site = SiteBuilder::on(Net::two_homes().mode(Mode::Namespaces).up()?)
        .up()
        .await?;
    let (ben, folder) = (&site.ben, site.net.folder().to_owned());
    let tv = site.net.home("b")?.device("tv")?.clone();
    let television = Renderer::start(&tv, "Living room TV", &folder).await?;
    let clip = ben
        .add("Big Buck Bunny.mp4", std::fs::read(media::clip()?)?)
        .await?;
    let row = ben.device("Living room TV").await?;
    ben.admit(&row).await?;
    ben.play_on(&clip.id, &row).await?;
    let playing = |status: &Status| {
        let now = status.playing.iter().find(|now| now.device == row.id)?;
        (now.state == "playing" && now.position_s > 0.0).then_some(now.position_s)
    };
    ben.wait("the TV to play", LONG, playing).await?;
    television.proc.kill9().await?;
    let began = Instant::now();
    let problem = ben
        .wait("the page to say that the TV went away", LONG, |status| {
            let played = status
                .playing
                .iter()
                .find(|now| now.device == row.id)
                .and_then(|now| now.problem.clone());
            let device = status.devices.iter().find(|device| device.id == row.id)?;
            let gone = (device.state == "gone").then(|| "gone".to_owned());
            played.or(device.problem.clone()).or(gone)
        })
        .await?;
    println!(
        "TV killed: after {:.0} s the page says: \"{problem}\"",
        began.elapsed().as_secs_f32()
    );
    let again = ben
        .post(&format!("/library/{}/play", clip.id), &[("on", &row.id)])
        .await?;
    ensure!(
        !again.ok && again.status < 500 && !again.what().is_empty(),
        "{again:?}"
    );
    println!("playing on it then: \"{}\"", again.what());
    let read = ben.read_media(&clip.id).await?;
    ensure!(read == std::fs::read(media::clip()?)?, "the clip differs");

    let television = Renderer {
        proc: television.proc.restart().await?,
    };
    until("the TV to play again", LONG, async || {
        let answer = ben
            .post(&format!("/library/{}/play", clip.id), &[("on", &row.id)])
            .await
            .ok()?;
        answer.ok.then_some(())
    })
    .await?;
    let at = ben.wait("the TV to play", LONG, playing).await?;
    println!("TV back: PLAYING again at {at:.0} s");
    drop(television);
    site.done().await
}
