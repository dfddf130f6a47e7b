//! The main job, end to end, on real programs (F1, F2, F7, F8, F10, F14, F22, F24–F26, F61, F63, F64, F67): from a
//! camcorder in one home, through the server, paid for, to a TV in another. `./mantel demo` runs it.
//!
//! Three places in network namespaces (home A, home B, the server) that reach each other only through the server. The
//! camcorder is minidlna, the TV is gmediarender; the media are a film clip, camera photographs and a piece of music.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it speaks to the person who started it"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "it watches real programs in real time"
)]

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mantel_tests::actors::{Household, OrderBooks, Site, SiteBuilder, Status};
use mantel_tests::lab::{
    Capture, MediaServer, Mode, Needle, Net, Renderer, contains_any, needles, until,
};
use mantel_tests::media;

/// The main job of Mantel, shown on real programs.
#[derive(Parser)]
struct Arguments {
    /// End after the last step instead of staying up.
    #[arg(long)]
    once: bool,
    /// Use loopback addresses even where namespaces can be had.
    #[arg(long)]
    loopback: bool,
}

/// The price of the film clip.
const PRICE: &str = "2.50";
/// What Ben's account is credited with.
const CREDIT: &str = "20.00";
/// Anna's line to the internet, Mbit/s: so that the transfer can be watched.
const LINE_MBIT: u32 = 25;
/// Pieces of 64 bytes that are looked for, per file.
const NEEDLES: usize = 48;
/// The scene, and the scene where this user may make no network namespaces.
const APART: &str =
    "Each home and the server is a network namespace of its own; the homes reach only the server.";
const NOT_APART: &str = "This user may make no network namespaces (root may), so all live on \
                         loopback addresses:\nthe homes reach each other, and neither packet \
                         recorder nor television runs.";
/// The longest a step may take.
const LONG: Duration = Duration::from_mins(2);

struct Story {
    began: Instant,
    steps: u32,
}

impl Story {
    /// Prints one step as it happens.
    fn step(&mut self, what: &str, detail: &str) {
        self.steps += 1;
        let at = self.began.elapsed().as_secs_f32();
        println!("{:>3} {at:>6.1} s  {what:<12} {detail}", self.steps);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain in one line; a backtrace would tell the person who started it nothing.
            eprintln!("\nThe demo stopped: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let mode = if arguments.loopback {
        Mode::Loopback
    } else {
        Mode::best()
    };
    let apart = mode == Mode::Namespaces;
    println!("Mantel, the main job on real programs. Anna and Ben live in two homes.");
    println!("{}\n", if apart { APART } else { NOT_APART });
    let mut story = Story {
        began: Instant::now(),
        steps: 0,
    };
    let net = Net::two_homes().mode(mode).up()?;
    let devices = if apart {
        ""
    } else {
        "[devices]\nloopback = true\n"
    };
    let site = SiteBuilder::on(net).gateway_config(devices).up().await?;
    story.step("running", "mantel-server and two mantel-gateways");
    let folder = site.net.folder().to_owned();
    let told = tell(&mut story, &site).await;
    let devices =
        told.with_context(|| format!("logs and data are kept in {}", folder.display()))?;
    if arguments.once {
        drop(devices);
        site.done().await?;
        println!(
            "\nAll {} steps done in {:.0} s; everything was removed again.",
            story.steps,
            story.began.elapsed().as_secs_f32()
        );
        return Ok(());
    }
    print_pages(&site);
    println!("\nEverything stays up. Press Ctrl-C to end it.");
    // The laboratory ends this process upon Ctrl-C and removes everything.
    std::future::pending().await
}

/// What must go on running while the pages are looked at.
type Devices = (MediaServer, Option<Renderer>);

async fn tell(story: &mut Story, site: &Site) -> Result<Devices> {
    let folder = site.net.folder().to_owned();
    let apart = site.net.mode() == Mode::Namespaces;
    let mut capture = None;
    if apart {
        let file = folder.join("server.pcap");
        capture = Some(Capture::start(site.net.server(), &file).await?);
        story.step("recording", "tcpdump records every packet at the server");
    }
    let cam = site.net.home("a")?.device("cam")?;
    let camcorder = MediaServer::start(cam, &media::folder()?, "Camcorder", &folder).await?;
    let files = media::all()?;
    camcorder.wait_files(files.len(), LONG).await?;
    let mut television = None;
    if apart {
        let tv = site.net.home("b")?.device("tv")?;
        television = Some(Renderer::start(tv, "Living room TV", &folder).await?);
    }

    let clip = import(story, &site.anna, files.len()).await?;
    site.anna.offer(&clip, PRICE).await?;
    let listing = site.ben.listing(&clip).await?;
    let price = listing.price.unwrap_or_default();
    story.step(
        "offered",
        &format!("by Anna in the catalog: \"{}\" for {price}", listing.name),
    );
    site.operator.credit("Ben", CREDIT).await?;
    story.step(
        "credited",
        &format!("{CREDIT} EUR to Ben's account, by the operator"),
    );
    if apart {
        site.net.limit_rate(site.a.place(), LINE_MBIT)?;
    }
    buy(story, site, &clip).await?;
    if apart {
        play(story, &site.ben, &clip).await?;
    }
    share_a_photo(story, site).await?;
    same_bytes(story, &site.ben, &clip).await?;
    no_plaintext(story, site, capture, &folder).await?;
    Ok((camcorder, television))
}

/// Discovers the camcorder and imports what it has; returns the film clip's id.
async fn import(story: &mut Story, anna: &Household, count: usize) -> Result<String> {
    let device = anna.device("Camcorder").await?;
    story.step(
        "discovered",
        &format!("in Anna's home by SSDP: {} ({})", device.name, device.class),
    );
    anna.admit(&device).await?;
    story.step("admitted", "by Anna, on her devices page");
    let titles = anna.import_all(&device, count).await?;
    for title in &titles {
        let blob = title.blobs.first().context("a title has a blob")?;
        let words = format!(
            "{:<5}  {:<16} sealed: {:>9} bytes, blob {blob:.12}…",
            title.kind, title.name, title.sealed_bytes
        );
        story.step("imported", &words);
    }
    let clip = titles
        .iter()
        .find(|title| title.kind == "video")
        .context("the clip was imported")?;
    Ok(clip.id.clone())
}

async fn buy(story: &mut Story, site: &Site, clip: &str) -> Result<()> {
    let order = site.ben.buy(clip).await?;
    story.step("ordered", &format!("by Ben: {order}"));
    let books = site.ledger(&order).await?;
    story.step(
        "funds held",
        &format!(
            "{} of Ben's credit, ledger {}",
            books.held_text(),
            books.entry("hold")?
        ),
    );
    let granted = async || site.ledger(&order).await.ok()?.grants.into_iter().next();
    let grant = until("the server's grant", LONG, granted).await?;
    story.step(
        "granted",
        &format!(
            "{} for {} bytes, signed by the server",
            grant.id, grant.max_bytes
        ),
    );
    let ready = follow(story, site, &order).await?;
    // The relay's count is written each second.
    let books: OrderBooks = until("the books of the order", LONG, async || {
        let books = site.ledger(&order).await.ok()?;
        let counted = books.relayed_bytes >= grant.max_bytes;
        (counted || books.path.as_deref() == Some("direct")).then_some(books)
    })
    .await?;
    let path = books.path.clone().unwrap_or_default();
    story.step(
        "transferred",
        &format!(
            "{} bytes, each chunk verified; path: {path}, {} bytes relayed",
            ready, books.relayed_bytes
        ),
    );
    let receipt = books.receipts.first().context("a receipt")?;
    story.step(
        "receipt",
        &format!("signed by Ben's gateway, BLAKE3 {receipt:.16}…"),
    );
    let entry = books.entry("capture")?;
    story.step(
        "captured",
        &format!("{} from Ben to Anna, ledger {entry}", books.held_text()),
    );
    story.step("pass", &books.pass.clone().context("a pass was granted")?);
    story.step(
        "license",
        &format!(
            "{}, keys sealed to Ben's gateway",
            books.license.context("the vault gave a license")?
        ),
    );
    Ok(())
}

/// Prints the transfer's progress until the title is ready; returns its size.
async fn follow(story: &mut Story, site: &Site, order: &str) -> Result<u64> {
    let mut told = None;
    let arriving = async || {
        let status = site.ben.status().await.ok()?;
        let now = status
            .orders
            .iter()
            .find(|o| o.order == order && o.direction == "in")?;
        let quarter = now.bytes_done * 4 / now.total_bytes.max(1);
        if quarter > 0 && told.is_none_or(|before| quarter > before) {
            told = Some(quarter);
            let percent = now.bytes_done * 100 / now.total_bytes.max(1);
            story.step(
                "transfer",
                &format!("{percent:>3} % of {} bytes", now.total_bytes),
            );
        }
        now.ready.then_some(now.total_bytes)
    };
    until("the film clip to arrive and be ready", LONG, arriving).await
}

async fn play(story: &mut Story, ben: &Household, clip: &str) -> Result<()> {
    let device = ben.device("Living room TV").await?;
    ben.admit(&device).await?;
    ben.play_on(clip, &device).await?;
    let playing = |least: f64| {
        let id = device.id.clone();
        move |status: &Status| {
            let now = status.playing.iter().find(|p| p.device == id)?;
            (now.state == "playing" && now.position_s > least).then_some(now.position_s)
        }
    };
    let first = ben.wait("the TV to play", LONG, playing(0.0)).await?;
    story.step(
        "playing",
        &format!("on Ben's {}: PLAYING at {first:.0} s", device.name),
    );
    let later = ben
        .wait("the position to advance", LONG, playing(first))
        .await?;
    story.step("playing", &format!("the position advances: {later:.0} s"));
    Ok(())
}

/// A photograph for Ben alone, free, end to end: the server sees neither its name nor its key.
async fn share_a_photo(story: &mut Story, site: &Site) -> Result<()> {
    let status = site.anna.status().await?;
    let photo = status
        .titles
        .iter()
        .find(|t| t.kind == "image")
        .context("a photograph was imported")?;
    let home = site.ben.home().await?;
    let pushed = site.anna.push(&photo.id, &home).await?;
    ensure!(pushed.ok, "the push was refused: {}", pushed.body);
    site.ben.wait_ready(&photo.id, LONG).await?;
    story.step(
        "pushed",
        &format!(
            "photo \"{}\" from Anna to Ben, private, free, its name unknown to the server",
            photo.name
        ),
    );
    Ok(())
}

async fn same_bytes(story: &mut Story, ben: &Household, clip: &str) -> Result<()> {
    let original = std::fs::read(media::clip()?)?;
    let received = ben.read_media(clip).await?;
    ensure!(
        blake3::hash(&received) == blake3::hash(&original),
        "Ben's copy differs from the camcorder's file"
    );
    story.step(
        "compared",
        "what Ben's gateway plays is byte for byte the camcorder's file",
    );
    Ok(())
}

async fn no_plaintext(
    story: &mut Story,
    site: &Site,
    capture: Option<Capture>,
    folder: &Path,
) -> Result<()> {
    let mut places = vec![
        site.a.data.clone(),
        site.b.data.clone(),
        site.server_data.clone(),
    ];
    let mut recorded = String::new();
    if let Some(capture) = capture {
        let summary = capture.stop().await?;
        let dropped = summary.dropped;
        ensure!(
            dropped == 0,
            "tcpdump missed {dropped} packets, so it proves nothing"
        );
        places.push(folder.join("server.pcap"));
        recorded = format!("in {} packets at the server, nor ", summary.captured);
    }
    let mut pieces: Vec<Needle> = Vec::new();
    for file in media::all()? {
        pieces.extend(needles(&file, NEEDLES)?);
    }
    for place in &places {
        let hits = contains_any(place, &pieces)?;
        ensure!(
            hits.is_empty(),
            "plaintext of the media was found: {hits:?}"
        );
    }
    let count = pieces.len();
    let words =
        format!("none of {count} known pieces of the media {recorded}on any of three disks");
    story.step("sealed", &words);
    Ok(())
}

fn print_pages(site: &Site) {
    println!(
        "\nThe pages, from this machine; the password is everywhere: {}\n",
        site.anna.password
    );
    println!("  Anna's home      {}/", site.anna.base);
    println!("  Ben's home       {}/", site.ben.base);
    println!(
        "  Ben's TV         {}/tv      (arrow keys and Enter)",
        site.ben.base
    );
    println!("  Support pages    {}/admin", site.ben.base);
    println!(
        "  The operator     {}/console/  (it has made its own certificate: accept it)",
        site.operator.base()
    );
}
