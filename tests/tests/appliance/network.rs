//! The appliance in its home's network: its open ports are the documented ones, it answers to its name, and what it has
//! reaches another home.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::lab::{Session, until};
use tokio::net::UdpSocket;

use super::bench::{Bench, STEP};

/// The ports that image/README.md names.
const README: &str = include_str!("../../../image/README.md");
/// From here on the kernel gives ports to whoever asks for any: sockets that wait for answers to their own questions.
const ANY_PORT: u16 = 32_768;
/// Where and how a name is asked for without a server (RFC 6762 §5.1: a one-shot query from a port that is not 5353).
const MDNS: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
const PRICE: &str = "0.50";

/// The rows `| 8080/tcp | … |` of the table, of one protocol; what is open only sometimes says so with "once".
fn documented(protocol: &str) -> BTreeSet<u16> {
    let rows = README.lines().filter(|row| !row.contains("once"));
    let first = rows.filter_map(|row| row.strip_prefix("| ")?.split(" |").next());
    let ports = first.filter_map(|cell| cell.strip_suffix(protocol)?.parse().ok());
    ports.collect()
}

/// TCP as nmap sees it from another device of the home, all 65,535 ports; UDP as the appliance's kernel says.
pub async fn ports(bench: &Bench) -> Result<()> {
    let home = bench.site.net.home("h")?;
    let log = bench.site.net.folder().join("nmap.log");
    let scan = home
        .device("pc")?
        .run("nmap")
        .args(["-n", "-Pn", "-sS", "-p-", "--open", "-T4", "-oG", "-"])
        .arg(home.gateway().addr().to_string())
        .log(&log)
        .spawn()
        .await?;
    let ended = scan.wait_exit(STEP).await?;
    let said = scan.output();
    ensure!(ended.success(), "nmap: {said}");
    let open = said.split("Ports: ").nth(1).unwrap_or("");
    let open: BTreeSet<u16> = open
        .split(", ")
        .filter_map(|port| port.trim().split("/open/tcp").next()?.parse().ok())
        .collect();
    let udp = bench
        .guest
        .shell("ss -Hlun | awk '$4 !~ /^(127\\.|\\[::1\\])/ { sub(/.*:/, \"\", $4); print $4 }' | sort -un")
        .await?;
    let udp: BTreeSet<u16> = udp.lines().filter_map(|port| port.parse().ok()).collect();
    let udp: BTreeSet<u16> = udp.into_iter().filter(|port| *port < ANY_PORT).collect();
    println!("    open: TCP {open:?}, UDP {udp:?}");
    ensure!(open == documented("/tcp"), "TCP: {open:?}");
    ensure!(udp == documented("/udp"), "UDP: {udp:?}");
    Ok(())
}

/// `mantel.local` is the appliance's address.
pub async fn name(bench: &Bench) -> Result<()> {
    let place = bench.site.net.home("h")?.gateway();
    let socket = UdpSocket::bind((place.lab_addr(), 0)).await?;
    // Header with one question; mantel.local, A, IN.
    let question = b"\0\x2a\0\0\0\x01\0\0\0\0\0\0\x06mantel\x05local\0\0\x01\0\x01";
    let address = until("mantel.local", STEP, async || {
        socket.send_to(question, MDNS).await.ok()?;
        let mut answer = [0_u8; 1500];
        let heard = socket.recv_from(&mut answer);
        let (len, from) = tokio::time::timeout(Duration::from_secs(2), heard)
            .await
            .ok()?
            .ok()?;
        let answer = answer.get(..len)?;
        let known = answer.windows(4).any(|w| w == place.addr().octets());
        (known && answer.starts_with(&[0, 0x2a])).then_some(from)
    })
    .await?;
    println!("    mantel.local answers from {address}");
    Ok(())
}

/// A picture of the appliance's camera is bought by another home, and arrives through the server's relay.
pub async fn another_home(bench: &Bench, picture: &str) -> Result<()> {
    let (site, home) = (&bench.site, &bench.home);
    let link = site.operator.new_customer("Hanna").await?;
    home.enrol(&link).await?;
    home.wait_online().await?;
    site.operator.credit("Ben", "2.00").await?;
    home.offer(picture, PRICE).await?;
    site.ben.listing(picture).await?;
    let ordered = site.ben.order(picture).await?;
    ensure!(ordered.ok, "the order was refused: {}", ordered.body);
    let ready = site.ben.wait_ready(picture, STEP).await?;
    let there = site.ben.read_media(picture).await?;
    let here = home.read_media(picture).await?;
    ensure!(there == here, "another picture arrived");
    let books = site.ledger(&ready.order).await?;
    ensure!(books.count("capture") == 1, "{books:?}");
    let path = books.path.as_deref().context("how it went")?;
    println!("    {} bytes arrived, by way of: {path}", there.len());
    Ok(())
}

/// Where the gateway cannot start, a page in its place says so; afterwards the gateway is back.
pub async fn safe_mode(bench: &Bench) -> Result<()> {
    let guest = &bench.guest;
    guest.shell("systemctl start mantel-safe.socket").await?;
    let visitor = Session::new(&guest.url())?;
    let page = visitor.get("/library").await?;
    ensure!(page.status == 503, "{} {}", page.status, page.body);
    for words in [
        "safe mode",
        "media and settings lie untouched",
        "gateway   inactive",
    ] {
        ensure!(page.body.contains(words), "no \"{words}\": {}", page.body);
    }
    let stray = guest
        .shell("systemctl is-active mantel-gateway || true")
        .await?;
    ensure!(stray == "inactive", "the gateway is {stray}");
    guest
        .shell("systemctl stop mantel-safe.socket && systemctl start mantel-gateway")
        .await?;
    guest.wait_up().await
}
