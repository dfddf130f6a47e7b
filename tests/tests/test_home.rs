//! A home with everything in it (F2, F3, F63): media servers of three makers, two UPnP players, a jukebox, a Cast
//! television and an ONVIF camera, all of them programs that this project did not write, found by one gateway. How soon
//! is printed: from the first packet that a device sent until it is in the gateway's list.
#![allow(clippy::print_stdout, reason = "the test says what it measured")]
#![allow(
    clippy::disallowed_methods,
    reason = "the test watches real programs in real time; there is no clock to inject"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use mantel_tests::actors::{GatewayHandle, Household, status};
use mantel_tests::lab::{
    Capture, CastTv, Gerbera, MediaServer, Mode, Mpd, Net, Place, Proc, Renderer, Rygel,
    onvif_service, rtsp_camera, snapshots,
};
use mantel_tests::media;

/// The longest a step may take on a busy machine.
const LONG: Duration = Duration::from_mins(2);
/// The password of the household; the laboratory has no secrets.
const PASSWORD: &str = "correct horse battery";
/// The log-in of the camera.
const LOGIN: [&str; 2] = ["admin", "tr0ub4dor & 3"];
/// Time between two looks at the list.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Gateways that find the home, one after another; the first is there before the devices.
const ROUNDS: usize = 3;

/// Place, name and class of each device as the household shall see it. The camera tells its name to nobody without a
/// log-in: it goes by its address.
const DEVICES: [(&str, &str, &str); 8] = [
    ("mini", "Camcorder", "camcorder"),
    ("gerb", "NAS", "media_server"),
    ("pc", "Study player", "television"),
    ("tv", "Living room TV", "television"),
    ("juke", "Kitchen jukebox", "jukebox"),
    ("cast", "Den television", "television"),
    ("cam", "Camera at", "camera"),
    ("amp", "Attic radio", "television"),
];

/// One row of [`DEVICES`] in this home.
struct Wanted {
    name: String,
    class: &'static str,
    address: Ipv4Addr,
}

impl Wanted {
    fn all(net: &Net) -> Result<Vec<Self>> {
        let row = |(place, name, class): (&str, &str, &'static str)| {
            let address = net.home("a")?.device(place)?.addr();
            let name = match name {
                "Camera at" => format!("{name} {address}"),
                _ => name.to_owned(),
            };
            Ok(Self {
                name,
                class,
                address,
            })
        };
        DEVICES.into_iter().map(row).collect()
    }
}

struct Home {
    _procs: Vec<Proc>,
    _minidlna: MediaServer,
    _gerbera: Gerbera,
    _rygel: Rygel,
    _players: [Renderer; 2],
    _mpd: Mpd,
    _cast: CastTv,
}

/// A folder with these files.
fn share(net: &Net, name: &str, files: &[PathBuf]) -> Result<PathBuf> {
    let folder = net.folder().join(format!("share-{name}"));
    std::fs::create_dir_all(&folder)?;
    for file in files {
        std::fs::copy(file, folder.join(file.file_name().context("a file name")?))?;
    }
    Ok(folder)
}

async fn furnish(net: &Net) -> Result<Home> {
    let (folder, photos) = (net.folder().to_owned(), media::photos()?);
    let home = net.home("a")?;
    let place = |name: &str| home.device(name).cloned();
    let films = share(net, "mini", &[media::clip()?, photos[0].clone()])?;
    let pictures = share(net, "gerb", &photos[1..3])?;
    let songs = share(net, "pc", &[media::song()?])?;
    let minidlna = MediaServer::start(&place("mini")?, &films, "Camcorder", &folder).await?;
    let gerbera = Gerbera::start(&place("gerb")?, &pictures, "NAS", &folder).await?;
    let rygel = Rygel::start(&place("pc")?, &songs, "Study PC", "Study player", &folder).await?;
    let players = [
        Renderer::start(&place("tv")?, "Living room TV", &folder).await?,
        Renderer::start(&place("amp")?, "Attic radio", &folder).await?,
    ];
    let mpd = Mpd::start(&place("juke")?, &songs, "Kitchen jukebox", &folder).await?;
    let cast = CastTv::start(&place("cast")?, "Den television", &folder).await?;
    let cam = place("cam")?;
    let stream = format!("rtsp://{}:8554/h264-aac", cam.addr());
    let snapshot = format!("http://{}:8080/snapshot.jpg", cam.addr());
    let procs = vec![
        snapshots(&cam, &photos[3], &LOGIN, &folder).await?,
        rtsp_camera(&cam, &LOGIN, &folder).await?.0,
        onvif_service(&cam, &stream, &snapshot, &LOGIN, &folder).await?,
    ];
    Ok(Home {
        _procs: procs,
        _minidlna: minidlna,
        _gerbera: gerbera,
        _rygel: rygel,
        _players: players,
        _mpd: mpd,
        _cast: cast,
    })
}

/// Looks at the gateway's list until all devices are on it under their names; when each was there first.
async fn watch(anna: &Household, wanted: &[Wanted]) -> Result<BTreeMap<String, SystemTime>> {
    let (mut seen, began) = (BTreeMap::new(), SystemTime::now());
    while seen.len() < wanted.len() {
        let status = anna.status().await?;
        for Wanted { name, class, .. } in wanted {
            let mut rows = status.devices.iter();
            if rows.any(|row| row.name == *name && row.class == *class) {
                seen.entry(name.clone()).or_insert_with(SystemTime::now);
            }
        }
        ensure!(
            began.elapsed()? < LONG,
            "there are only {:?}",
            status.devices
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(seen)
}

/// When the first datagram in which an address announces itself or answers is in the recording, seconds of Unix time.
/// Of mDNS that is the first answer with the service: its host asks and announces its own name before.
fn first_words(file: &Path) -> Result<BTreeMap<Ipv4Addr, f64>> {
    let read = Command::new("tcpdump")
        .args(["-n", "-tt", "-r"])
        .arg(file)
        .arg("udp")
        .output()?;
    let mut first = BTreeMap::new();
    for line in String::from_utf8_lossy(&read.stdout).lines() {
        let told = |service| line.contains("*-") && line.contains(service);
        if line.contains(".5353") && !told("_mpd._tcp") && !told("_googlecast._tcp") {
            continue;
        }
        let time = line
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<f64>().ok());
        let from = line.split(" IP ").nth(1).and_then(|rest| {
            let (address, _port) = rest.split_whitespace().next()?.rsplit_once('.')?;
            address.parse::<Ipv4Addr>().ok()
        });
        if let (Some(time), Some(from)) = (time, from) {
            first.entry(from).or_insert(time);
        }
    }
    Ok(first)
}

/// Each device once, with its class, and nothing else.
async fn listed_once(anna: &Household, wanted: &[Wanted]) -> Result<Vec<status::Device>> {
    let devices = anna.status().await?.devices;
    let mut rows: Vec<(&str, &str)> = devices
        .iter()
        .map(|row| (row.name.as_str(), row.class.as_str()))
        .collect();
    let mut wanted: Vec<(&str, &str)> = wanted.iter().map(|w| (w.name.as_str(), w.class)).collect();
    rows.sort_unstable();
    wanted.sort_unstable();
    ensure!(rows == wanted, "listed are {rows:?}");
    Ok(devices)
}

/// Plays a title until its position advances, and turns the volume.
async fn plays(anna: &Household, device: &status::Device, title: &str) -> Result<()> {
    anna.play_on(title, device).await?;
    let row = |status: &status::Status| {
        let mut rows = status.playing.iter();
        rows.find(|row| row.device == device.id).cloned()
    };
    let position = anna
        .wait(&format!("{} to play", device.name), LONG, |status| {
            let now = row(status)?;
            (now.state == "playing" && now.position_s >= 2.0).then_some(now.position_s)
        })
        .await?;
    anna.wait(&format!("{} to go on", device.name), LONG, |status| {
        (row(status)?.position_s >= position + 1.0).then_some(())
    })
    .await?;
    anna.player(device, &[("action", "volume"), ("volume", "40")])
        .await?;
    let volume = anna
        .wait(&format!("the volume of {}", device.name), LONG, |status| {
            row(status)?
                .volume
                .filter(|volume| (39..=41).contains(volume))
        })
        .await?;
    anna.player(device, &[("action", "stop")]).await?;
    println!(
        "{}: plays on from {position:.1} s, volume {volume} % read back",
        device.name
    );
    Ok(())
}

/// Imports what a device has, and compares it with the files.
async fn gives(
    anna: &Household,
    device: &status::Device,
    known: &mut Vec<String>,
    files: &[PathBuf],
) -> Result<Vec<status::Title>> {
    let all = anna.import_all(device, known.len() + files.len()).await?;
    let new: Vec<status::Title> = all
        .into_iter()
        .filter(|title| !known.contains(&title.id))
        .collect();
    let mut wanted: Vec<String> = Vec::new();
    for file in files {
        wanted.push(blake3::hash(&std::fs::read(file)?).to_hex().to_string());
    }
    let mut got = Vec::new();
    for title in &new {
        got.push(
            blake3::hash(&anna.read_media(&title.id).await?)
                .to_hex()
                .to_string(),
        );
        known.push(title.id.clone());
    }
    wanted.sort_unstable();
    got.sort_unstable();
    ensure!(got == wanted, "{} gave {new:?}", device.name);
    println!(
        "{}: {} files imported, BLAKE3 equal",
        device.name,
        new.len()
    );
    Ok(new)
}

/// A picture of the camera, decoded.
async fn photographs(anna: &Household, camera: &status::Device) -> Result<()> {
    let path = |rest: &str| format!("/devices/{}{rest}", camera.id.replace(':', "%3A"));
    anna.done(
        &path("/login"),
        &[("user", LOGIN[0]), ("password", LOGIN[1])],
    )
    .await?;
    let answer = anna
        .session()
        .request("GET".parse()?, &path("/still"))?
        .timeout(LONG)
        .send()
        .await?;
    ensure!(
        answer.status().is_success(),
        "the picture: {}",
        answer.status()
    );
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&answer.bytes().await?)?;
    let probed = Command::new("ffprobe")
        .args(["-v", "error", "-count_frames", "-of", "csv=p=0"])
        .args([
            "-show_entries",
            "stream=codec_name,width,height,nb_read_frames",
        ])
        .arg(file.path())
        .output()?;
    let said = String::from_utf8_lossy(&probed.stdout).trim().to_owned();
    ensure!(
        said.starts_with("mjpeg,") && said.ends_with(",1"),
        "ffprobe: {said}"
    );
    println!("{}: a picture decoded: {said}", camera.name);
    Ok(())
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_home_with_everything_is_found_and_used() -> Result<()> {
    let places: Vec<&str> = DEVICES.iter().map(|(place, ..)| *place).collect();
    let net = Net::builder()
        .home("a", &places)
        .mode(Mode::Namespaces)
        .up()?;
    let gateway: Place = net.home("a")?.gateway().clone();
    let wanted = Wanted::all(&net)?;
    let (mut home, mut times) = (None, Vec::new());
    for round in 0..ROUNDS {
        let file = net.folder().join(format!("round-{round}.pcap"));
        let capture = Capture::start(&gateway, &file).await?;
        let handle = GatewayHandle::lone(&net, "a", "", None).await?;
        let anna = Household::move_in("Anna", &handle.url(), PASSWORD).await?;
        let seen = if home.is_none() {
            let (furnished, seen) = tokio::join!(furnish(&net), watch(&anna, &wanted));
            home = Some(furnished?);
            seen?
        } else {
            watch(&anna, &wanted).await?
        };
        capture.stop().await?;
        let first = first_words(&file)?;
        for Wanted { name, address, .. } in &wanted {
            let spoke = first
                .get(address)
                .with_context(|| format!("{name} said nothing"))?;
            let listed = seen[name]
                .duration_since(SystemTime::UNIX_EPOCH)?
                .as_secs_f64();
            println!(
                "round {round}: {name} listed {:.2} s after its first word",
                listed - spoke
            );
            times.push(listed - spoke);
        }
        let devices = listed_once(&anna, &wanted).await?;
        if round + 1 == ROUNDS {
            used(&anna, &devices).await?;
        }
        handle.clear().await?;
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{} devices in {ROUNDS} rounds: listed p50 {:.2} s, p95 {:.2} s after the first word",
        DEVICES.len(),
        percentile(&times, 50),
        percentile(&times, 95)
    );
    drop(home);
    net.done()
}

/// Every capability, for real.
async fn used(anna: &Household, devices: &[status::Device]) -> Result<()> {
    for device in devices {
        anna.admit(device).await?;
    }
    let device = |name: &str| {
        let mut rows = devices.iter();
        rows.find(|row| row.name == name).context("a device")
    };
    let (photos, mut known) = (media::photos()?, Vec::new());
    let films = [media::clip()?, photos[0].clone()];
    let film = gives(anna, device("Camcorder")?, &mut known, &films).await?;
    let film = film.iter().find(|title| title.kind == "video");
    let film = film.context("the film")?.id.clone();
    gives(anna, device("NAS")?, &mut known, &photos[1..3]).await?;
    let song = gives(anna, device("Study player")?, &mut known, &[media::song()?]).await?;
    let song = song[0].id.clone();
    plays(anna, device("Living room TV")?, &film).await?;
    plays(anna, device("Attic radio")?, &song).await?;
    plays(anna, device("Study player")?, &film).await?;
    plays(anna, device("Kitchen jukebox")?, &song).await?;
    plays(anna, device("Den television")?, &film).await?;
    let camera = devices.iter().find(|row| row.class == "camera");
    photographs(anna, camera.context("the camera")?).await
}
