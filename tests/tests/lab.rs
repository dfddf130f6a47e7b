//! The laboratory tests itself: what other tests rely on is shown here to hold.
#![allow(
    clippy::disallowed_methods,
    reason = "the laboratory watches real programs in real time; there is no clock to inject"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::lab::{
    Browser, Capture, MediaServer, Mode, Net, Place, Proc, Renderer, Session, contains_any,
    cpu_time, is_running, needles, program, until,
};
use mantel_tests::media;
use rustix::process::Signal;
use tokio::net::UdpSocket;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(1);
/// The port of the little web server of these tests.
const PORT: u16 = 8000;

/// A real web server, Python's own, that serves `folder` at `place`.
async fn web_server(place: &Place, folder: &Path, logs: &Path) -> Result<Proc> {
    let proc = place
        .run("python3")
        .args([
            "-u",
            "-m",
            "http.server",
            "--bind",
            &place.addr().to_string(),
            &PORT.to_string(),
        ])
        .folder(folder)
        .log(logs.join(format!("{}-web.log", place.name())))
        .spawn()
        .await?;
    proc.wait_port(PORT, LONG).await?;
    Ok(proc)
}

/// Whether a program at `from` can open a TCP connection to the web server at `to`.
async fn reaches(from: &Place, to: &Place, logs: &Path) -> Result<bool> {
    let script = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)";
    let attempt = from
        .run("python3")
        .args(["-c", script, &to.addr().to_string(), &PORT.to_string()])
        .log(logs.join("reaches.log"))
        .spawn()
        .await?;
    Ok(attempt.wait_exit(LONG).await?.success())
}

/// Asks for UPnP root devices by SSDP (UPnP Device Architecture 1.1 §1.3.2) from the network that
/// `from` is on, and says whether `wanted` answers within `deadline`.
async fn ssdp_finds(from: Ipv4Addr, wanted: Ipv4Addr, deadline: Duration) -> Result<bool> {
    let socket = UdpSocket::bind((from, 0))
        .await
        .context("binding for SSDP")?;
    rustix::net::sockopt::set_ip_multicast_if(&socket, &from).context("choosing the network")?;
    let question = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n\
                    MX: 1\r\nST: upnp:rootdevice\r\n\r\n";
    let mut answer = [0; 2048];
    let found = until("an answer by SSDP", deadline, async || {
        socket
            .send_to(question.as_bytes(), "239.255.255.250:1900")
            .await
            .ok()?;
        let listening = tokio::time::timeout(Duration::from_secs(2), async {
            loop {
                let (_, who) = socket.recv_from(&mut answer).await.ok()?;
                if who.ip() == wanted {
                    return Some(());
                }
            }
        });
        listening.await.ok()?
    });
    Ok(found.await.is_ok())
}

#[tokio::test]
async fn homes_reach_the_server_and_not_each_other() -> Result<()> {
    let mut net = Net::two_homes().mode(Mode::Namespaces).up()?;
    let logs = net.folder().to_owned();
    let server = net.server().clone();
    let (a, b) = (net.home("a")?.clone(), net.home("b")?.clone());
    let (gw_a, gw_b, tv) = (a.gateway(), b.gateway(), b.device("tv")?);
    let mut web = Vec::new();
    for place in [&server, gw_a, gw_b] {
        web.push(web_server(place, &logs, &logs).await?);
    }

    ensure!(
        reaches(gw_a, &server, &logs).await?,
        "home a does not reach the server"
    );
    ensure!(
        reaches(tv, &server, &logs).await?,
        "the TV does not reach the server"
    );
    ensure!(
        reaches(tv, gw_b, &logs).await?,
        "the TV does not reach its own gateway"
    );
    ensure!(!reaches(gw_a, gw_b, &logs).await?, "home a reaches home b");
    ensure!(!reaches(gw_b, gw_a, &logs).await?, "home b reaches home a");

    net.join_homes()?;
    ensure!(
        reaches(gw_a, gw_b, &logs).await?,
        "joined homes do not reach each other"
    );
    net.part_homes()?;
    ensure!(
        !reaches(gw_a, gw_b, &logs).await?,
        "parted homes reach each other"
    );

    net.unplug(&server)?;
    ensure!(
        !reaches(gw_a, &server, &logs).await?,
        "a server is reached without its cable"
    );
    net.plug(&server)?;
    ensure!(
        reaches(gw_a, &server, &logs).await?,
        "the server is not back"
    );
    net.limit_rate(&server, 100)?;

    for place in [&server, gw_a, gw_b] {
        let page = Session::new(&place.url(PORT))?.get("/").await?.ok()?;
        ensure!(
            page.body.contains("Directory listing"),
            "an odd page: {}",
            page.body
        );
    }
    drop(web);
    net.done()
}

/// The names in a folder that begin with `prefix`.
fn names_in(folder: &str, prefix: &str) -> Vec<String> {
    Path::new(folder)
        .read_dir()
        .map(|entries| {
            entries
                .flatten()
                .filter_map(|e| e.file_name().into_string().ok())
        })
        .map(|names| names.filter(|name| name.starts_with(prefix)).collect())
        .unwrap_or_default()
}

/// The network interfaces that begin with `prefix`.
fn links(prefix: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = table.lines().filter_map(|line| line.trim().split_once(':'));
    names
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[tokio::test]
async fn nothing_is_left_behind() -> Result<()> {
    let net = Net::two_homes().mode(Mode::Namespaces).up()?;
    let prefix = net.prefix().to_owned();
    let names = |folder: &str| -> Vec<String> {
        Path::new(folder)
            .read_dir()
            .map(|entries| {
                entries
                    .flatten()
                    .filter_map(|e| e.file_name().into_string().ok())
            })
            .map(|names| names.filter(|name| name.starts_with(&prefix)).collect())
            .unwrap_or_default()
    };
    ensure!(
        names("/run/netns").len() == 9,
        "namespaces: {:?}",
        names("/run/netns")
    );
    ensure!(links(&prefix).len() == 3, "legs: {:?}", links(&prefix));
    let proc = net
        .server()
        .run("sleep")
        .arg("1000")
        .log(net.folder().join("sleep"))
        .spawn()
        .await?;
    let pid = proc.pid();
    let folder = net.folder().to_owned();
    net.done()?;
    ensure!(
        names("/run/netns").is_empty(),
        "left: {:?}",
        names("/run/netns")
    );
    ensure!(links(&prefix).is_empty(), "left: {:?}", links(&prefix));
    ensure!(!folder.exists(), "left: {}", folder.display());
    proc.wait_exit(LONG).await?;
    ensure!(!is_running(pid), "process {pid} is left");
    Ok(())
}

/// Starts `mantel-lab`, which holds a net of its own; returns it with that net's prefix and the
/// process ID of a program running inside.
async fn another_run(net: &Net) -> Result<(Proc, String, u32)> {
    let run = net
        .server()
        .run(program("mantel-lab")?)
        .arg("--no-devices")
        .log(net.folder().join("run.log"))
        .spawn()
        .await?;
    let prefix = run.wait_map("its prefix", LONG, |line| {
        line.strip_prefix("prefix ").map(str::to_owned)
    });
    let prefix = prefix.await?;
    let inside = run.wait_map("the program inside", LONG, |line| {
        line.strip_prefix("inside ")
            .and_then(|pid| pid.parse().ok())
    });
    let inside = inside.await?;
    ensure!(is_running(inside), "nothing runs inside");
    ensure!(names_in("/run/netns", &prefix).len() == 9, "no whole net");
    Ok((run, prefix, inside))
}

#[tokio::test]
async fn a_signal_cleans_up() -> Result<()> {
    let net = Net::builder().mode(Mode::Loopback).up()?;
    let (run, prefix, inside) = another_run(&net).await?;
    let status = run.stop().await?;
    ensure!(status.code() == Some(128 + 15), "it ended with {status}");
    ensure!(
        names_in("/run/netns", &prefix).is_empty(),
        "namespaces are left"
    );
    ensure!(links(&prefix).is_empty(), "legs are left");
    gone(inside).await?;
    net.done()
}

#[tokio::test]
async fn the_next_run_cleans_up_after_one_that_was_killed() -> Result<()> {
    let net = Net::builder().mode(Mode::Loopback).up()?;
    let (run, prefix, inside) = another_run(&net).await?;
    run.kill9().await?;
    gone(inside).await?;
    let next = Net::builder().mode(Mode::Loopback).up()?;
    ensure!(
        names_in("/run/netns", &prefix).is_empty(),
        "namespaces are left"
    );
    ensure!(links(&prefix).is_empty(), "legs are left");
    next.done()?;
    net.done()
}

/// Waits until a process has ended.
async fn gone(pid: u32) -> Result<()> {
    until("a program to end with its run", LONG, async || {
        (!is_running(pid)).then_some(())
    })
    .await
}

#[tokio::test]
async fn programs_are_watched_killed_and_started_again() -> Result<()> {
    let net = Net::builder().mode(Mode::Loopback).up()?;
    let script = "echo ready; trap 'echo bye; exit 7' TERM; while :; do sleep 0.05; done";
    let log = net.folder().join("shell.log");
    let proc = net
        .server()
        .run("sh")
        .args(["-c", script])
        .log(&log)
        .spawn()
        .await?;
    proc.wait_line("ready", LONG).await?;
    ensure!(
        cpu_time(proc.pid()).is_ok(),
        "no CPU time of a living program"
    );
    let killed = proc.kill9().await?;
    ensure!(killed.code().is_none(), "killed, yet it says {killed}");
    ensure!(
        proc.signal(Signal::TERM).is_err(),
        "a signal reached the dead"
    );

    let proc = proc.restart().await?;
    // Its own output: the line of its former life does not count.
    proc.wait_line("ready", LONG).await?;
    ensure!(
        proc.output().matches("ready").count() == 1,
        "output: {}",
        proc.output()
    );
    ensure!(
        proc.stop().await?.code() == Some(7),
        "it did not end by itself"
    );

    let missing = net
        .server()
        .run("no-such-program")
        .log(&log)
        .spawn()
        .await?;
    let error = missing
        .wait_line("ready", LONG)
        .await
        .expect_err("it cannot be ready");
    ensure!(
        format!("{error:?}").contains("no-such-program"),
        "unhelpful: {error:?}"
    );
    net.done()
}

#[tokio::test]
async fn media_server_and_renderer_answer_in_their_home_only() -> Result<()> {
    let net = Net::two_homes().mode(Mode::Namespaces).up()?;
    let (a, b) = (net.home("a")?, net.home("b")?);
    let (cam, tv) = (a.device("cam")?, b.device("tv")?);
    let server = MediaServer::start(cam, &media::folder()?, "Camcorder", net.folder()).await?;
    let renderer = Renderer::start(tv, "Living-room TV", net.folder()).await?;
    server.wait_files(media::all()?.len(), LONG).await?;

    let page = Session::new(&server.url())?
        .get(&server.url())
        .await?
        .ok()?;
    ensure!(
        page.body.contains("<friendlyName>Camcorder</friendlyName>"),
        "{}",
        page.body
    );
    let page = Session::new(&renderer.url())?
        .get(&renderer.url())
        .await?
        .ok()?;
    ensure!(
        page.body
            .contains("<friendlyName>Living-room TV</friendlyName>"),
        "{}",
        page.body
    );

    ensure!(
        ssdp_finds(cam.lab_addr(), cam.addr(), LONG).await?,
        "the camcorder does not answer SSDP"
    );
    ensure!(
        ssdp_finds(tv.lab_addr(), tv.addr(), LONG).await?,
        "the TV does not answer SSDP"
    );
    // Both have just answered their own home, so a few rounds are enough to see that one does not.
    let rounds = Duration::from_secs(5);
    ensure!(
        !ssdp_finds(cam.lab_addr(), tv.addr(), rounds).await?,
        "the TV answers in the other home"
    );
    drop((server, renderer));
    net.done()
}

#[tokio::test]
async fn a_recording_of_plain_media_is_recognised() -> Result<()> {
    let net = Net::two_homes().mode(Mode::Namespaces).up()?;
    let server = net.server();
    let pcap = net.folder().join("server.pcap");
    let files = [media::clip()?, media::photos()?.remove(0)];
    let [plain, absent] = [needles(&files[0], 32)?, needles(&files[1], 32)?];
    let web = web_server(server, &media::folder()?, net.folder()).await?;

    let capture = Capture::start(server, &pcap).await?;
    let fetched = net.folder().join("fetched");
    let fetch = net
        .home("a")?
        .gateway()
        .run("python3")
        .args([
            "-c",
            "import sys,urllib.request as r; r.urlretrieve(*sys.argv[1:])",
        ])
        .arg(format!("{}/video/Big%20Buck%20Bunny.mp4", server.url(PORT)))
        .arg(&fetched)
        .log(net.folder().join("fetch.log"))
        .spawn()
        .await?;
    ensure!(
        fetch.wait_exit(LONG).await?.success(),
        "fetching: {}",
        fetch.tail()
    );
    let summary = capture.stop().await?;
    ensure!(
        summary.captured > 0 && summary.dropped == 0,
        "a poor recording: {summary:?}"
    );

    ensure!(
        !contains_any(&pcap, &plain)?.is_empty(),
        "plain media went unnoticed"
    );
    ensure!(
        !contains_any(&fetched, &plain)?.is_empty(),
        "a plain file went unnoticed"
    );
    let hits = contains_any(net.folder(), &absent)?;
    ensure!(hits.is_empty(), "found what was never sent: {hits:?}");
    drop(web);
    net.done()
}

#[tokio::test]
async fn a_browser_plays_a_clip_from_a_namespace() -> Result<()> {
    let net = Net::two_homes().mode(Mode::Namespaces).up()?;
    let home = net.home("b")?;
    let site = net.folder().join("site");
    std::fs::create_dir(&site).context("creating the site")?;
    std::fs::copy(media::clip()?, site.join("clip.mp4")).context("copying the clip")?;
    let page = "<!doctype html><title>Lab</title><h1>Hello, home</h1>\
                <video src=clip.mp4 autoplay width=320></video>";
    std::fs::write(site.join("index.html"), page).context("writing the page")?;
    let web = web_server(home.gateway(), &site, net.folder()).await?;

    let browser = Browser::start(home.device("pc")?, 1280, 720, net.folder()).await?;
    browser.open(&home.gateway().url(PORT)).await?;
    let title = browser.wait_for("document.title", LONG).await?;
    ensure!(title == "Lab", "the title is {title}");
    browser
        .wait_for("document.querySelector('video').currentTime > 0.5", LONG)
        .await?;
    let png = net.folder().join("shots/lab.png");
    browser.screenshot(&png).await?;
    let head = std::fs::read(&png).context("reading the screenshot")?;
    // The IHDR chunk: width and height as big-endian numbers (PNG, third edition, §11.2.1).
    ensure!(
        head.get(16..20) == Some(&1280u32.to_be_bytes()),
        "the screenshot is not 1280 wide"
    );
    browser.close().await?;
    drop(web);
    net.done()
}

#[tokio::test]
async fn loopback_serves_where_there_is_no_root() -> Result<()> {
    let net = Net::two_homes().mode(Mode::Loopback).up()?;
    let site = net.folder().to_owned();
    let gateway = net.home("a")?.gateway().clone();
    ensure!(
        SocketAddr::from((gateway.addr(), PORT)).ip().is_loopback(),
        "{:?}",
        gateway.addr()
    );
    let web = web_server(&gateway, &site, &site).await?;
    Session::new(&gateway.url(PORT))?.get("/").await?.ok()?;
    let browser = Browser::start(net.home("b")?.device("pc")?, 800, 600, net.folder()).await?;
    browser.open(&gateway.url(PORT)).await?;
    ensure!(
        browser.run("return 6 * 7").await? == 42,
        "the browser cannot count"
    );
    browser.close().await?;
    drop(web);
    net.done()
}

#[tokio::test]
async fn a_long_clip_is_long() -> Result<()> {
    let net = Net::builder().mode(Mode::Loopback).up()?;
    let file = net.folder().join("long.mp4");
    media::long_clip(200_000_000, &file)?;
    let size = file
        .metadata()
        .context("reading the size of the long clip")?
        .len();
    ensure!(
        (200_000_000..260_000_000).contains(&size),
        "it has {size} bytes"
    );
    net.done()
}
