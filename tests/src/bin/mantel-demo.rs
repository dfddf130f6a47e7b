//! The main job, end to end, on real programs (F1, F2, F7, F8, F10, F14, F22, F24–F26, F61, F63, F64, F67): from a
//! camcorder in one home, through the server, paid for, to a TV in another. `./mantel demo` runs it.
//!
//! Three places in network namespaces (home A, home B, the server) that reach each other only through the server. The
//! camcorder is minidlna, the TV is gmediarender; the media are a film clip, camera photographs and a piece of music.
#![allow(clippy::print_stdout, reason = "it speaks to the person who started it")]

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mantel_tests::actors::{Household, Site, SiteBuilder, Status};
use mantel_tests::lab::{Capture, MediaServer, Mode, Needle, Net, Renderer, contains_any, needles};
use mantel_tests::media;
use std::path::Path;
use std::time::{Duration, Instant};

/// The main job of Mantel, shown on real programs.
#[derive(Parser)]
struct Arguments {
    /// End after the last step instead of staying up.
    #[arg(long)]
    once: bool,
}

/// The price of the film clip.
const PRICE: &str = "2.50";
/// What Ben's account is credited with.
const CREDIT: &str = "20.00";
/// Pieces of 64 bytes that are looked for, per file.
const NEEDLES: usize = 8;

struct Story {
    began: Instant,
    steps: u32,
}

impl Story {
    /// Prints one step as it happens.
    fn step(&mut self, what: &str, detail: &str) {
        self.steps += 1;
        let at = self.began.elapsed().as_secs_f32();
        println!("{:>3}  {at:>6.1} s  {what:<12} {detail}", self.steps);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut story = Story { began: Instant::now(), steps: 0 };
    let mode = Mode::best();
    ensure!(
        mode == Mode::Namespaces,
        "the demo needs network namespaces: run it as root with iproute2 installed (./mantel doctor tells what is missing); \
         devices announce themselves by multicast, which loopback does not carry"
    );
    let site = SiteBuilder::on(Net::two_homes().up()?).up().await?;
    story.step("running", &format!("server and two gateways, each in a namespace of its own, {mode:?}"));
    let result = tell(&mut story, &site).await;
    if let Err(error) = result {
        println!("\nThe demo stopped: {error:#}");
        println!("Logs and data are kept in {}", site.net.folder().display());
        return Err(error);
    }
    print_urls(&site);
    if !arguments.once {
        println!("\nEverything stays up. Press Ctrl-C to end it.");
        tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")?;
    }
    site.done().await
}

async fn tell(story: &mut Story, site: &Site) -> Result<()> {
    let folder = site.net.folder().to_owned();
    let capture = Capture::start(site.net.server(), &folder.join("server.pcap")).await?;
    story.step("recording", "tcpdump records every packet at the server");

    let cam = site.net.home("a")?.device("cam")?;
    let camcorder = MediaServer::start(cam, &media::folder()?, "Camcorder", &folder).await?;
    let files = media::all()?;
    camcorder.wait_files(files.len(), Duration::from_secs(60)).await?;
    let television = site.net.home("b")?.device("tv")?;
    let _television = Renderer::start(television, "Living room TV", &folder).await?;

    let clip = import(story, &site.anna, files.len()).await?;
    site.anna.offer(&clip, PRICE).await?;
    let listing = site.ben.listing(&clip).await?;
    let price = listing.price.unwrap_or_default();
    story.step("offered", &format!("\"{}\" by Anna in the catalog at {price}", listing.name));

    site.operator.credit("Ben", CREDIT).await?;
    story.step("credited", &format!("Ben's account with {CREDIT} EUR by the operator"));
    buy(story, site, &clip).await?;
    play(story, &site.ben, &clip).await?;
    share_a_photo(story, site).await?;
    same_bytes(story, &site.ben, &clip).await?;
    no_plaintext(story, site, capture, &folder).await
}

/// Discovers the camcorder and imports what it has; returns the film clip's id.
async fn import(story: &mut Story, anna: &Household, count: usize) -> Result<String> {
    let device = anna.device("Camcorder").await?;
    story.step("discovered", &format!("{} ({}) in Anna's home by SSDP", device.name, device.class));
    anna.admit(&device).await?;
    let titles = anna.import_all(&device, count).await?;
    for title in &titles {
        story.step("imported", &format!("{:<6} \"{}\"", title.kind, title.name));
        let blob = title.blobs.first().context("a title has a blob")?;
        story.step("sealed", &format!("{} bytes as blob {:.16}…", title.sealed_bytes, blob));
    }
    let clip = titles.iter().find(|title| title.kind == "video").context("the clip was imported")?;
    Ok(clip.id.clone())
}

async fn buy(story: &mut Story, site: &Site, clip: &str) -> Result<()> {
    let ordered = site.ben.order(clip).await?;
    ensure!(ordered.ok, "the order was refused: {}", ordered.body);
    let order = ordered.body["order"].as_str().context("an order id")?.to_owned();
    story.step("ordered", &format!("by Ben: {order}"));
    let ledger = site.ledger(&order).await?;
    story.step("funds held", &format!("{} of Ben's credit ({})", ledger.held_text(), ledger.entry("hold")?));
    let mut told = 0;
    let ready = site
        .ben
        .wait("the film clip to arrive", Duration::from_mins(3), |status: &Status| {
            status.orders.iter().find(|o| o.order == order && o.direction == "in" && o.ready).cloned()
        });
    tokio::pin!(ready);
    let mut every = tokio::time::interval(Duration::from_millis(200));
    let ready = loop {
        tokio::select! {
            done = &mut ready => break done?,
            _ = every.tick() => {
                let status = site.ben.status().await?;
                let Some(now) = status.orders.iter().find(|o| o.order == order) else { continue };
                if now.bytes_done > told && !now.ready {
                    told = now.bytes_done;
                    let percent = now.bytes_done * 100 / now.total_bytes.max(1);
                    let path = now.path.as_deref().unwrap_or("…");
                    story.step("transfer", &format!("{percent:>3} % of {} bytes, path: {path}", now.total_bytes));
                }
            }
        }
    };
    let ledger = site.ledger(&order).await?;
    for grant in &ledger.grants {
        story.step("granted", &format!("{} signed by the server, {} bytes relayed", grant.id, grant.relayed_bytes));
    }
    let path = ready.path.as_deref().unwrap_or("?");
    story.step("transferred", &format!("{} bytes verified chunk by chunk, path: {path}", ready.total_bytes));
    story.step("receipt", &format!("signed by Ben's gateway, BLAKE3 {:.16}…", ledger.receipts.first().context("a receipt")?));
    story.step("captured", &format!("{} from Ben to Anna ({})", ready.price, ledger.entry("capture")?));
    story.step("pass", &ledger.pass.context("a pass was granted")?);
    story.step("license", &ledger.license.context("the vault gave a license")?);
    Ok(())
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
    let first = ben.wait("the TV to play", Duration::from_secs(60), playing(0.0)).await?;
    story.step("playing", &format!("on {}: PLAYING at {first:.0} s", device.name));
    let later = ben.wait("the position to advance", Duration::from_secs(60), playing(first)).await?;
    story.step("playing", &format!("position advanced to {later:.0} s"));
    Ok(())
}

/// A photograph for Ben alone, free, end to end: the server sees neither its name nor its key.
async fn share_a_photo(story: &mut Story, site: &Site) -> Result<()> {
    let status = site.anna.status().await?;
    let photo = status.titles.iter().find(|t| t.kind == "image").context("a photograph was imported")?;
    let home = site.ben.status().await?.link.home.context("Ben's home")?;
    site.anna.done(&format!("/library/{}/push", photo.id), &[("home", &home)]).await?;
    site.ben.wait_ready(&photo.id, Duration::from_mins(2)).await?;
    story.step("pushed", &format!("\"{}\" from Anna to Ben, private and free", photo.name));
    Ok(())
}

async fn same_bytes(story: &mut Story, ben: &Household, clip: &str) -> Result<()> {
    let original = std::fs::read(media::clip()?)?;
    let received = ben.read_media(clip).await?;
    ensure!(blake3::hash(&received) == blake3::hash(&original), "Ben's copy differs from the camcorder's file");
    story.step("verified", "Ben's copy is byte for byte the camcorder's file");
    Ok(())
}

async fn no_plaintext(story: &mut Story, site: &Site, capture: Capture, folder: &Path) -> Result<()> {
    let file = folder.join("server.pcap");
    let summary = capture.stop().await?;
    ensure!(summary.dropped == 0, "tcpdump missed {} packets, so it proves nothing", summary.dropped);
    let mut pieces: Vec<Needle> = Vec::new();
    for file in media::all()? {
        pieces.extend(needles(&file, NEEDLES)?);
    }
    for place in [&file, &site.a.data, &site.b.data, &site.server_data] {
        let hits = contains_any(place, &pieces)?;
        ensure!(hits.is_empty(), "plaintext of the media was found: {hits:?}");
    }
    let packets = summary.packets;
    story.step(
        "sealed",
        &format!("none of {} known pieces in {packets} packets at the server, nor on any disk", pieces.len()),
    );
    Ok(())
}

fn print_urls(site: &Site) {
    println!("\nThe pages (password everywhere: {}):", site.anna.password);
    println!("  Anna's home     {}/", site.anna.base);
    println!("  Ben's home      {}/", site.ben.base);
    println!("  Ben's TV        {}/tv", site.ben.base);
    println!("  Support         {}/admin", site.ben.base);
    println!("  The operator    {}/console/  (its certificate is its own: accept it once)", site.operator.base());
}
