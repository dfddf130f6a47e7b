//! Holds a laboratory for experiments by hand: two homes, a server, a camcorder and a TV.
//!
//! `target/debug/mantel-lab` prints where everything is and stays until Ctrl-C. Programs are then
//! put into a place with `ip netns exec`.
#![allow(clippy::print_stdout, reason = "a tool for the terminal")]

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use mantel_tests::lab::{MediaServer, Net, Place, Renderer};
use mantel_tests::media;

/// Two homes and a server in network namespaces, held until Ctrl-C.
#[derive(Debug, Parser)]
struct Args {
    /// Leave the homes empty: no camcorder, no TV.
    #[arg(long)]
    no_devices: bool,
    /// Let the homes reach one another.
    #[arg(long)]
    joined: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let builder = Net::two_homes();
    let net = if args.joined {
        builder.joined()
    } else {
        builder
    }
    .up()?;
    println!("prefix {}", net.prefix());
    println!("folder {}", net.folder().display());
    let (a, b) = (net.home("a")?, net.home("b")?);
    let (cam, tv) = (a.device("cam")?, b.device("tv")?);
    for place in [
        net.server(),
        a.gateway(),
        cam,
        b.gateway(),
        tv,
        b.device("pc")?,
    ] {
        tell(place);
    }
    let devices = if args.no_devices {
        None
    } else {
        let server = MediaServer::start(cam, &media::folder()?, "Camcorder", net.folder()).await?;
        let renderer = Renderer::start(tv, "Living-room TV", net.folder()).await?;
        println!("camcorder {}", server.url());
        println!("tv {}", renderer.url());
        Some((server, renderer))
    };
    let log = net.folder().join("inside.log");
    let inside = net
        .server()
        .run("sleep")
        .arg("infinity")
        .log(log)
        .spawn()
        .await?;
    println!("inside {}", inside.pid());
    // SIGINT and SIGTERM end this process from the laboratory's own thread, everything removed.
    let ended = inside.wait_exit(Duration::from_hours(7 * 24)).await;
    drop(devices);
    ended.map(drop)
}

fn tell(place: &Place) {
    let netns = place.netns().unwrap_or("none");
    println!("place {} {} namespace {netns}", place.name(), place.addr());
}
