//! Cameras of the home, played by real programs (F2, F4): an ONVIF camera found by WS-Discovery, with a snapshot behind
//! HTTP digest and an RTSP stream of gst-rtsp-server behind RTSP digest; cameras added by their address, of every coding;
//! a camera that points elsewhere.
#![allow(clippy::print_stdout, reason = "each test says what it measured")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{Household, SiteBuilder, status};
use mantel_tests::lab::{Mode, Net, Place, onvif_service, rtsp_camera, snapshots};
use mantel_tests::media;
use serde_json::Value;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// The household's log-in at its camera.
const USER: &str = "admin";
const PASSWORD: &str = "tr0ub4dor & 3";
/// Both, as the peers take them.
const LOGIN: [&str; 2] = [USER, PASSWORD];
/// What the streams' pictures measure.
const SIZE: (u64, u64) = (640, 360);

/// The device at this place that can be filmed with.
async fn camera_at(anna: &Household, place: &Place) -> Result<status::Device> {
    let address = place.addr().to_string();
    anna.wait(&format!("a camera at {address}"), LONG, |status| {
        let mut devices = status.devices.iter();
        let films = |device: &&status::Device| {
            device.capabilities.iter().any(|can| can == "live_stream")
                && device.addresses.contains(&address)
        };
        devices.find(films).cloned()
    })
    .await
}

fn path(device: &str, rest: &str) -> String {
    format!(
        "/devices/{}{rest}",
        device.replace(':', "%3A").replace('/', "%2F")
    )
}

/// What the page shows of a camera: a JPEG, or the words why not.
async fn still(anna: &Household, device: &str) -> Result<Result<Vec<u8>, String>> {
    let answer = anna
        .session()
        .request("GET".parse()?, &path(device, "/still"))?
        .header("accept", "application/json")
        .timeout(LONG)
        .send()
        .await?;
    let good = answer.status().is_success();
    let bytes = answer.bytes().await?;
    if good {
        return Ok(Ok(bytes.to_vec()));
    }
    let refusal: Value = serde_json::from_slice(&bytes)?;
    Ok(Err(refusal["what"]
        .as_str()
        .context("no words")?
        .to_owned()))
}

/// ffprobe's description of `bytes`, with its frames counted by decoding them all.
fn probed(bytes: &[u8]) -> Result<Value> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(bytes)?;
    let found = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-of", "json"])
        .args([
            "-show_entries",
            "stream=codec_name,width,height,nb_read_frames:format=duration",
        ])
        .arg(file.path())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(found.status.success(), "ffprobe cannot read it");
    Ok(serde_json::from_slice(&found.stdout)?)
}

fn size_of(probed: &Value) -> Option<(u64, u64)> {
    let streams = probed["streams"].as_array()?;
    streams
        .iter()
        .find_map(|stream| stream["width"].as_u64().zip(stream["height"].as_u64()))
}

fn codecs(probed: &Value) -> Vec<String> {
    let streams = probed["streams"].as_array().into_iter().flatten();
    streams
        .filter_map(|stream| stream["codec_name"].as_str().map(str::to_owned))
        .collect()
}

async fn ready(anna: &Household, title: &str) -> Result<status::Title> {
    anna.wait("the title to be ready", LONG, |status| {
        let mut titles = status.titles.iter();
        titles
            .find(|found| found.id == title && found.state == "ready")
            .cloned()
    })
    .await
}

/// Records a clip and returns its title.
async fn record(anna: &Household, device: &str, seconds: u32) -> Result<status::Title> {
    let known: Vec<String> = anna
        .status()
        .await?
        .titles
        .into_iter()
        .map(|t| t.id)
        .collect();
    let seconds = seconds.to_string();
    anna.done(&path(device, "/clip"), &[("seconds", &seconds)])
        .await?;
    let title = anna
        .wait("the clip", LONG, |status| {
            let mut titles = status.titles.iter();
            titles
                .find(|title| !known.contains(&title.id) && title.state == "ready")
                .cloned()
        })
        .await;
    match title {
        Ok(title) => Ok(title),
        Err(error) => {
            let page = anna.session().get(&path(device, "")).await?.body;
            let shown = page
                .split("data-clip")
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            Err(error.context(format!("the page says {shown:.400}")))
        }
    }
}

#[tokio::test]
async fn an_onvif_camera_is_found_seen_photographed_and_recorded() -> Result<()> {
    let net = Net::builder()
        .home("a", &["cam"])
        .home("b", &["tv"])
        .mode(Mode::Namespaces)
        .up()?;
    let site = SiteBuilder::on(net).up().await?;
    let (anna, folder) = (&site.anna, site.net.folder().to_owned());
    let cam = site.net.home("a")?.device("cam")?.clone();
    let picture = media::photos()?.remove(0);
    let _snapshots = snapshots(&cam, &picture, &LOGIN, &folder).await?;
    let (_rtsp, _) = rtsp_camera(&cam, &LOGIN, &folder).await?;
    let (stream, snapshot) = (
        format!("rtsp://{}:8554/h264-aac", cam.addr()),
        format!("http://{}:8080/snapshot.jpg", cam.addr()),
    );
    let service = onvif_service(&cam, &stream, &snapshot, &LOGIN, &folder).await?;

    let device = camera_at(anna, &cam).await?;
    println!("found \"{}\" [{}] {}", device.name, device.class, device.id);
    ensure!(device.class == "camera", "{device:?}");
    anna.admit(&device).await?;

    // Without a log-in and with a wrong one it says so; the right one is never shown again.
    let words = still(anna, &device.id)
        .await?
        .err()
        .context("a picture without a log-in")?;
    ensure!(words.contains("user name and a password"), "{words}");
    let login = path(&device.id, "/login");
    anna.done(&login, &[("user", USER), ("password", "wrong")])
        .await?;
    let words = still(anna, &device.id)
        .await?
        .err()
        .context("a picture with a wrong password")?;
    ensure!(words.contains("user name and a password"), "{words}");
    let page = anna.session().get(&path(&device.id, "")).await?.ok()?.body;
    ensure!(
        page.contains(&words.replace('"', "&#34;")),
        "the page does not say why"
    );
    println!("wrong password: \"{words}\"");
    anna.done(&login, &[("user", USER), ("password", PASSWORD)])
        .await?;
    let page = anna.session().get(&path(&device.id, "")).await?.ok()?.body;
    ensure!(
        !page.contains(PASSWORD) && page.contains("are kept, sealed"),
        "the log-in's form"
    );

    let seen = still(anna, &device.id).await?.map_err(anyhow::Error::msg)?;
    ensure!(seen == std::fs::read(&picture)?, "the snapshot differs");
    let taken = anna.done(&path(&device.id, "/picture"), &[]).await?;
    let title = ready(anna, taken["title"].as_str().context("a title")?).await?;
    ensure!(
        title.kind == "image" && title.name.starts_with(&device.name),
        "{title:?}"
    );
    let imported = anna.read_media(&title.id).await?;
    let (here, there) = (
        blake3::hash(&imported),
        blake3::hash(&std::fs::read(&picture)?),
    );
    ensure!(here == there, "the picture differs");
    println!(
        "picture \"{}\": {} bytes, {here}",
        title.name,
        imported.len()
    );

    let clip = record(anna, &device.id, 5).await?;
    let bytes = anna.read_media(&clip.id).await?;
    let probed = probed(&bytes)?;
    println!("clip \"{}\": {} bytes {probed}", clip.name, bytes.len());
    ensure!(
        clip.kind == "video" && size_of(&probed) == Some(SIZE),
        "{clip:?}"
    );
    ensure!(codecs(&probed) == ["h264", "aac"], "{probed}");
    let seconds: f64 = probed["format"]["duration"]
        .as_str()
        .context("a length")?
        .parse()?;
    ensure!((4.0..6.0).contains(&seconds), "{seconds} s");

    // Nothing of the password on the disk, in the log, or in the answers.
    let log = std::fs::read_to_string(folder.join("gateway-a.log")).unwrap_or_default();
    ensure!(!log.contains(PASSWORD), "the password is in the log");
    service.kill9().await?;
    site.done().await
}

#[tokio::test]
async fn cameras_added_by_their_address_give_every_coding() -> Result<()> {
    let net = Net::builder()
        .home("a", &["cam"])
        .home("b", &["tv"])
        .mode(Mode::Namespaces)
        .up()?;
    let site = SiteBuilder::on(net).up().await?;
    let (anna, folder) = (&site.anna, site.net.folder().to_owned());
    let cam = site.net.home("a")?.device("cam")?.clone();
    let (_rtsp, kinds) = rtsp_camera(&cam, &LOGIN, &folder).await?;
    for address in [
        "rtsp://8.8.8.8/x",
        "http://10.0.0.1/x",
        "rtsp://camera/x",
        "rtsp://127.0.0.1/x",
    ] {
        let refused = anna.post("/devices/camera", &[("url", address)]).await?;
        ensure!(
            !refused.ok && refused.status == 409,
            "{address}: {refused:?}"
        );
        println!("{address}: \"{}\"", refused.what());
    }
    for kind in kinds.iter().filter(|kind| *kind != "pcmu") {
        let url = format!("rtsp://{}:8554/{kind}", cam.addr());
        let fields = [
            ("url", url.as_str()),
            ("name", kind),
            ("user", USER),
            ("password", PASSWORD),
        ];
        let added = anna.done("/devices/camera", &fields).await?;
        let device = added["device"].as_str().context("a key")?.to_owned();
        let seen = still(anna, &device).await?.map_err(anyhow::Error::msg)?;
        ensure!(size_of(&probed(&seen)?) == Some(SIZE), "{kind}: the still");
        let clip = record(anna, &device, 3).await?;
        let bytes = anna.read_media(&clip.id).await?;
        let probed = probed(&bytes)?;
        println!(
            "{kind}: still {} bytes, clip {} bytes {probed}",
            seen.len(),
            bytes.len()
        );
        ensure!(size_of(&probed) == Some(SIZE), "{kind}: {probed}");
        let wanted = match kind.as_str() {
            "h265" => "hevc",
            _ => "h264",
        };
        ensure!(
            codecs(&probed).first().map(String::as_str) == Some(wanted),
            "{kind}: {probed}"
        );
        if kind != "h265" {
            ensure!(
                codecs(&probed).get(1).map(String::as_str) == Some("aac"),
                "{kind}: {probed}"
            );
        }
        anna.done(&path(&device, "/camera/remove"), &[]).await?;
        anna.wait("the camera to leave the list", LONG, |status| {
            let mut devices = status.devices.iter();
            devices.all(|found| found.id != device).then_some(())
        })
        .await?;
    }
    site.done().await
}

#[tokio::test]
async fn a_camera_that_points_elsewhere_is_not_followed() -> Result<()> {
    let net = Net::builder()
        .home("a", &["cam", "other"])
        .home("b", &["tv"])
        .mode(Mode::Namespaces)
        .up()?;
    let site = SiteBuilder::on(net).up().await?;
    let (anna, folder) = (&site.anna, site.net.folder().to_owned());
    let home = site.net.home("a")?;
    let (cam, victim) = (home.device("cam")?.clone(), home.device("other")?.clone());
    let picture = media::photos()?.remove(0);
    let watched = snapshots(&victim, &picture, &LOGIN, &folder).await?;
    let stream = format!("rtsp://{}:8080/x", victim.addr());
    let snapshot = format!("http://{}:8080/snapshot.jpg", victim.addr());
    let _service = onvif_service(&cam, &stream, &snapshot, &LOGIN, &folder).await?;
    let device = camera_at(anna, &cam).await?;
    anna.admit(&device).await?;
    let fields = [("user", USER), ("password", PASSWORD)];
    anna.done(&path(&device.id, "/login"), &fields).await?;
    let words = still(anna, &device.id)
        .await?
        .err()
        .context("it was followed")?;
    println!("points elsewhere: \"{words}\"");
    let asked = watched.output();
    ensure!(!asked.contains("GET"), "another device was asked: {asked}");
    site.done().await
}
