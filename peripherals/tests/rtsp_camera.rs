//! Cameras by RTSP, played by gst-rtsp-server on loopback: each coding is streamed, its units are counted, and its first
//! key frame is decoded by ffmpeg.
#![allow(clippy::print_stdout, reason = "the test says what it measured")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use mantel_peripherals::Login;
use mantel_peripherals::live::{Codec, LiveError, Still, TrackKind};
use mantel_peripherals::rtsp::{RtspAccess, RtspCamera, RtspUrl, Transport};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// What the peer's pictures measure.
const SIZE: (u32, u32) = (640, 360);
/// Units of each track that are counted.
const UNITS: u32 = 20;

/// The peer; ends when dropped.
struct Peer {
    child: Child,
    port: u16,
    kinds: Vec<String>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended when this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn peer(login: &[&str]) -> Result<Peer> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/rtsp_camera.py");
    let free = std::net::TcpListener::bind((LOOPBACK, 0))?;
    let port = free.local_addr()?.port();
    drop(free);
    let mut child = Command::new("/usr/bin/python3")
        .arg(script)
        .args(["127.0.0.1", &port.to_string()])
        .args(login)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    let stdout = child.stdout.take().context("piped")?;
    BufReader::new(stdout).read_line(&mut said)?;
    let kinds = said
        .strip_prefix("ready ")
        .context("the RTSP peer did not start")?;
    let kinds = kinds.split_whitespace().map(str::to_owned).collect();
    Ok(Peer { child, port, kinds })
}

fn camera(peer: &Peer, kind: &str, login: Option<Login>) -> Result<RtspCamera> {
    camera_by(peer, kind, login, Transport::Interleaved)
}

fn camera_by(
    peer: &Peer,
    kind: &str,
    login: Option<Login>,
    transport: Transport,
) -> Result<RtspCamera> {
    let url = RtspUrl::parse(&format!("rtsp://127.0.0.1:{}/{kind}", peer.port), LOOPBACK)?;
    let access = RtspAccess { url, transport };
    Ok(RtspCamera::new(kind.to_owned(), access, login))
}

/// Width and height of the picture that ffmpeg decodes from `still`.
fn decoded(still: &Still) -> Result<(u32, u32)> {
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-v", "error", "-i", "pipe:0", "-frames:v", "1"])
        .args(["-f", "image2pipe", "-c:v", "ppm", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    ffmpeg
        .stdin
        .take()
        .context("piped")?
        .write_all(&still.bytes)?;
    let ppm = ffmpeg.wait_with_output()?.stdout;
    let head = String::from_utf8_lossy(ppm.get(..20).context("no picture")?).into_owned();
    let mut words = head.split_whitespace().skip(1);
    let mut edge = || words.next()?.parse().ok();
    edge().zip(edge()).context("no picture")
}

#[tokio::test]
async fn every_coding_is_streamed_and_its_first_key_frame_decodes() -> Result<()> {
    let peer = peer(&["admin", "right"])?;
    let login = Login::new("admin", "right").context("fits")?;
    for kind in &peer.kinds {
        let camera = camera(&peer, kind, Some(login.clone()))?;
        let mut live = camera.live().await?;
        let tracks = live.tracks().to_vec();
        let mut counted = vec![(0_u32, 0_u32, 0_usize); tracks.len()];
        let mut latest = vec![std::time::Duration::ZERO; tracks.len()];
        while counted.iter().any(|(units, ..)| *units < UNITS) {
            let unit = live.next().await.context("it ended")??;
            let (units, keys, bytes) = &mut counted[unit.track];
            *units += 1;
            *keys += u32::from(unit.key);
            *bytes += unit.bytes.len();
            ensure!(unit.at >= latest[unit.track], "{kind}: time ran backwards");
            latest[unit.track] = unit.at;
        }
        drop(live);
        let codecs: Vec<_> = tracks.iter().map(|track| name(&track.codec)).collect();
        println!("{kind}: {codecs:?}, units, keys, bytes: {counted:?}");
        for (track, (_, keys, _)) in tracks.iter().zip(&counted) {
            ensure!(*keys > 0, "{kind}: no key frame");
            if let TrackKind::Video { width, height } = track.kind {
                ensure!((width, height) == SIZE, "{kind}: {width} x {height}");
            }
        }
        if tracks
            .iter()
            .any(mantel_peripherals::live::Track::is_picture)
        {
            let still = camera.still().await?;
            ensure!(decoded(&still)? == SIZE, "{kind}: {:?}", decoded(&still));
            println!(
                "{kind}: still {} of {} bytes",
                still.mime,
                still.bytes.len()
            );
        }
    }
    ensure!(
        peer.kinds.iter().any(|kind| kind == "h264-aac"),
        "{:?}",
        peer.kinds
    );
    Ok(())
}

#[tokio::test]
async fn packets_come_by_udp_where_the_household_chooses_it() -> Result<()> {
    let peer = peer(&["admin", "right"])?;
    let login = Login::new("admin", "right");
    let camera = camera_by(&peer, "h264-aac", login, Transport::Udp)?;
    let mut live = camera.live().await?;
    let mut counted = vec![0_u32; live.tracks().len()];
    ensure!(counted.len() == 2, "{:?}", live.tracks());
    while counted.iter().any(|units| *units < UNITS) {
        let unit = live.next().await.context("it ended")??;
        counted[unit.track] += 1;
    }
    drop(live);
    ensure!(decoded(&camera.still().await?)? == SIZE, "the still");
    println!("by UDP: units {counted:?}");
    Ok(())
}

#[tokio::test]
async fn a_missing_or_wrong_password_is_told_and_a_missing_stream_too() -> Result<()> {
    let peer = peer(&["admin", "right"])?;
    for login in [
        None,
        Login::new("admin", "wrong"),
        Login::new("eve", "right"),
    ] {
        let refused = camera(&peer, "h264-aac", login)?.live().await;
        ensure!(
            matches!(refused, Err(LiveError::LogIn { .. })),
            "{refused:?}"
        );
    }
    let missing = camera(&peer, "nothing", Login::new("admin", "right"))?
        .live()
        .await;
    ensure!(missing.is_err(), "{missing:?}");
    println!("missing stream: {}", missing.err().context("an error")?);
    Ok(())
}

fn name(codec: &Codec) -> &'static str {
    match codec {
        Codec::H264 { .. } => "H.264",
        Codec::H265 { .. } => "H.265",
        Codec::Mjpeg => "JPEG",
        Codec::Yuyv => "YUYV",
        Codec::Aac { .. } => "AAC",
        Codec::Pcmu => "G.711 u-law",
        Codec::Pcma => "G.711 A-law",
        Codec::PcmS16 => "PCM",
    }
}
