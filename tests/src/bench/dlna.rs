//! `mantel-bench dlna`: this gateway as a media server beside minidlna and gerbera. The same files, each server on a
//! machine of its own in one home, the same client, in turn and several times over.
//!
//! What is compared, and what is not: the rivals read files where they lie and note them; Mantel copies each file, seals
//! it and makes it durable, so its scan rate pays for more. With its media tools Mantel also looks into each file in a
//! sandbox; that rate is measured on a sample, and the many files are taken in without, as where the tools are missing.

use super::measure::{cpu_of, median};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use futures_util::{StreamExt as _, stream};
use mantel_gateway::app::SCHEMAS;
use mantel_gateway::library::{Enclosure, ImportSource, Library, LibraryOptions};
use mantel_gateway::link::Identity;
use mantel_runtime::clock::Clock;
use mantel_runtime::db::Db;
use mantel_runtime::tasks::Tasks;
use mantel_tests::actors::Household;
use mantel_tests::lab::{MediaServer, Mode, Net, Place, Proc, program, until};
use rand::RngExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Objects asked for at a time: what a television shows, and what a player fetches at once.
const PAGES: [u32; 2] = [30, 5_000];
/// Files imported with all that Mantel does to one.
const SAMPLE: usize = 60;
/// Imports that are begun at once.
const AT_ONCE: usize = 64;
/// MP3 frames of a made file.
const FRAMES: usize = 77;
/// The longest that one page may take.
const LIMIT: Duration = Duration::from_mins(1);
/// How long a server may take to start.
const START: Duration = Duration::from_mins(1);
/// Gerbera takes only ports from 49152.
const GERBERA_PORT: u16 = 49_152;
const WEB_PORT: u16 = 8080;
const DIRECTORY: &str = "urn:schemas-upnp-org:service:ContentDirectory:1";
/// The aim: so many times faster than the better rival.
const AIM: f64 = 3.0;

/// What may be chosen.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How many titles; several after commas are measured one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000])]
    titles: Vec<usize>,
    /// How often each page size is asked for at each server.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// The longest that a rival may take to find all files, seconds; then it is left out.
    #[arg(long, default_value_t = 3_600)]
    patience: u64,
    /// Where files lie: about 30 KB for each title.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
}

/// A server under measurement.
struct Server {
    name: &'static str,
    proc: Proc,
    control: String,
    /// The container with all music.
    container: String,
    /// Files per second until all were found.
    scan: f64,
    /// Milliseconds of each request, by page size.
    times: [Vec<f64>; 2],
    /// Bytes of the last answer, by page size.
    bytes: [usize; 2],
    cpu: Duration,
}

/// Measures and prints.
pub async fn run(options: Options) -> Result<()> {
    ensure!(options.rounds > 0, "at least 1 round");
    for titles in &options.titles {
        ensure!(
            *titles > PAGES[1] as usize,
            "more than {} titles, so that a page can be full",
            PAGES[1]
        );
        Box::pin(measure(&options, *titles)).await?;
    }
    Ok(())
}

async fn measure(options: &Options, titles: usize) -> Result<()> {
    println!(
        "\n{titles} titles, {} rounds. Preparing ...",
        options.rounds
    );
    let folder = tempfile::Builder::new()
        .prefix("mantel-dlna-")
        .tempdir_in(&options.folder)?;
    let music = folder.path().join("music");
    make_files(&music, titles)?;
    let net = Net::builder()
        .home("a", &["mini", "gerb"])
        .mode(Mode::Namespaces)
        .up()?;
    let home = net.home("a")?;
    let patience = Duration::from_secs(options.patience);
    let mut servers = Vec::new();
    servers.push(mantel(home.gateway(), &music, titles, folder.path()).await?);
    let rivals = [
        minidlna(
            home.device("mini")?,
            &music,
            titles,
            folder.path(),
            patience,
        )
        .await,
        gerbera(
            home.device("gerb")?,
            &music,
            titles,
            folder.path(),
            patience,
        )
        .await,
    ];
    for rival in rivals {
        match rival {
            Ok(server) => servers.push(server),
            Err(error) => println!("left out: {error:#}"),
        }
    }
    compare(options, titles, &mut servers).await?;
    report(titles, &servers)?;
    drop(servers);
    net.done()
}

/// Asks every server in turn, each time at another place of the list. A server that takes longer than [`LIMIT`] for a page
/// counts as that, and is asked for such pages no more.
async fn compare(options: &Options, titles: usize, servers: &mut [Server]) -> Result<()> {
    let client = client()?;
    let mut rng = rand::rng();
    let limit_ms = LIMIT.as_secs_f64() * 1_000.0;
    for (index, count) in PAGES.into_iter().enumerate() {
        // The first answer of each server warms its caches and is not counted.
        for round in 0..=options.rounds {
            let start = rng.random_range(0..=(titles - count as usize)) as u32;
            for server in &mut *servers {
                if server.times[index].last() == Some(&limit_ms) {
                    continue;
                }
                let before = cpu_of(server.proc.pid())?;
                let page = browse(&client, server, start, count);
                let Ok(page) = tokio::time::timeout(LIMIT, page).await else {
                    server.times[index] = vec![limit_ms];
                    continue;
                };
                let (ms, bytes) = page?;
                if round > 0 {
                    server.times[index].push(ms);
                    server.bytes[index] = bytes;
                    server.cpu += cpu_of(server.proc.pid())?.saturating_sub(before);
                }
            }
        }
    }
    Ok(())
}

/// So many titles from `start` on, the answers read whole; milliseconds and bytes. A server that gives fewer than were
/// asked for (minidlna's answers have 2 MB at most) is asked for the rest, as a player would.
async fn browse(
    client: &reqwest::Client,
    server: &Server,
    start: u32,
    count: u32,
) -> Result<(f64, usize)> {
    let begun = Instant::now();
    let (mut got, mut bytes) = (0, 0);
    while got < count {
        let body = envelope(&server.container, start + got, count - got);
        let text = ask(client, &server.control, body).await;
        let text = text.with_context(|| format!("{} did not answer", server.name))?;
        let returned = between(&text, "<NumberReturned>", "</NumberReturned>").unwrap_or("");
        let returned: u32 = returned.parse().unwrap_or(0);
        ensure!(
            (1..=count - got).contains(&returned),
            "{} returned {returned} of {count} titles: {text:.300}",
            server.name,
        );
        got += returned;
        bytes += text.len();
    }
    Ok((begun.elapsed().as_secs_f64() * 1000.0, bytes))
}

/// A connection for each question, as televisions do: gerbera closes them by itself.
fn client() -> Result<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy();
    Ok(client.pool_max_idle_per_host(0).build()?)
}

async fn ask(client: &reqwest::Client, control: &str, body: String) -> Result<String> {
    let request = client
        .post(control)
        .header("SOAPACTION", format!("\"{DIRECTORY}#Browse\""))
        .header("content-type", "text/xml; charset=\"utf-8\"")
        .body(body);
    let answer = request.send().await?.bytes().await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn envelope(container: &str, start: u32, count: u32) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:Browse xmlns:u=\"{DIRECTORY}\">\
         <ObjectID>{container}</ObjectID><BrowseFlag>BrowseDirectChildren</BrowseFlag><Filter>*</Filter>\
         <StartingIndex>{start}</StartingIndex><RequestedCount>{count}</RequestedCount><SortCriteria></SortCriteria>\
         </u:Browse></s:Body></s:Envelope>"
    )
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?
        .1
        .split_once(to)
        .map(|(inside, _)| inside)
}

/// Browses a container until it holds all titles; files per second since `begun`.
async fn found_all(
    control: &str,
    container: &str,
    titles: usize,
    begun: Instant,
    patience: Duration,
) -> Result<f64> {
    let client = client()?;
    until(&format!("{titles} titles"), patience, async || {
        let text = ask(&client, control, envelope(container, 0, 1))
            .await
            .ok()?;
        let total: usize = between(&text, "<TotalMatches>", "</TotalMatches>")?
            .parse()
            .ok()?;
        (total >= titles).then_some(())
    })
    .await?;
    Ok(titles as f64 / begun.elapsed().as_secs_f64())
}

/// Small valid MP3 files with tags of their own: 50 artists, 500 albums and more.
fn make_files(folder: &Path, titles: usize) -> Result<()> {
    for n in 0..titles {
        let album = n / 20;
        let place = folder
            .join(format!("{:03}", album / 100))
            .join(format!("{album:05}"));
        if n % 20 == 0 {
            std::fs::create_dir_all(&place)?;
        }
        std::fs::write(place.join(format!("{n:06}.mp3")), mp3(n, album))?;
    }
    Ok(())
}

/// An ID3v2.3 tag and two seconds of silence (MPEG-1 layer III, 32 kbit/s, 44.1 kHz). minidlna refuses files below 4 KB.
fn mp3(n: usize, album: usize) -> Vec<u8> {
    let frame = |id: &[u8; 4], text: &str| {
        let mut out = id.to_vec();
        out.extend_from_slice(&(text.len() as u32 + 1).to_be_bytes());
        out.extend_from_slice(&[0, 0, 0]);
        out.extend_from_slice(text.as_bytes());
        out
    };
    let tags = [
        frame(b"TIT2", &format!("Song number {n:06}")),
        frame(b"TPE1", &format!("Artist {:03}", album / 10 % 500)),
        frame(b"TALB", &format!("Album {album:05}")),
        frame(b"TRCK", &format!("{}", n % 20 + 1)),
    ]
    .concat();
    let size = tags.len();
    let mut out = b"ID3\x03\x00\x00".to_vec();
    out.extend(
        [
            size >> 21 & 0x7f,
            size >> 14 & 0x7f,
            size >> 7 & 0x7f,
            size & 0x7f,
        ]
        .map(|b| b as u8),
    );
    out.extend(tags);
    for _ in 0..FRAMES {
        out.extend_from_slice(&[0xff, 0xfb, 0x10, 0xc4]);
        // 144 * 32000 / 44100 bytes in all.
        out.resize(out.len() + 100, 0);
    }
    out
}

async fn minidlna(
    place: &Place,
    music: &Path,
    titles: usize,
    folder: &Path,
    patience: Duration,
) -> Result<Server> {
    let begun = Instant::now();
    let server = MediaServer::start(place, music, "minidlna", folder).await?;
    let control = format!("{}/ctl/ContentDir", place.url(8200));
    // "All Music" of minidlna.
    let container = "1$4".to_owned();
    let scan = found_all(&control, &container, titles, begun, patience)
        .await
        .context("minidlna")?;
    Ok(Server::new(
        "minidlna",
        server.proc,
        control,
        container,
        scan,
    ))
}

async fn gerbera(
    place: &Place,
    music: &Path,
    titles: usize,
    folder: &Path,
    patience: Duration,
) -> Result<Server> {
    let folder = folder.join("gerbera");
    std::fs::create_dir_all(&folder)?;
    let usual = std::fs::read_to_string("/etc/gerbera/config.xml")
        .context("reading the configuration that comes with gerbera")?;
    let home = between(&usual, "<home>", "</home>").context("an unknown configuration")?;
    let config = usual.replace(
        &format!("<home>{home}</home>"),
        &format!("<home>{}</home>", folder.display()),
    );
    let config = config.replace(
        "<udn/>",
        "<udn>uuid:6d616e74-656c-4000-8000-62656e636801</udn>",
    );
    let file = folder.join("config.xml");
    std::fs::write(&file, config)?;
    let begun = Instant::now();
    let proc = place
        .run("sh")
        // libupnp binds to the IPv6 addresses too, and gives up while the kernel still tries them.
        .args([
            "-c",
            "until [ -z \"$(ip -6 addr show tentative 2>/dev/null)\" ]; do sleep 0.1; done; exec \"$@\"",
            "sh",
            "gerbera",
            "-c",
        ])
        .arg(&file)
        .args(["-e", place.interface(), "-p", &GERBERA_PORT.to_string(), "-a"])
        .arg(music)
        .log(folder.join("out.log"))
        .spawn()
        .await?;
    proc.wait_port(GERBERA_PORT, START).await?;
    let control = format!("{}/upnp/control/cds", place.url(GERBERA_PORT));
    let container = child(&control, "0", "Audio", patience).await?;
    let container = child(&control, &container, "All Audio", patience).await?;
    let scan = found_all(&control, &container, titles, begun, patience)
        .await
        .context("gerbera")?;
    Ok(Server::new("gerbera", proc, control, container, scan))
}

/// The id of a container by its name.
async fn child(control: &str, parent: &str, name: &str, patience: Duration) -> Result<String> {
    let client = client()?;
    until(&format!("the container {name}"), patience, async || {
        let text = ask(&client, control, envelope(parent, 0, 100)).await.ok()?;
        let text = text.replace("&quot;", "\"");
        text.split("&lt;container ").skip(1).find_map(|part| {
            let title = between(part, "title&gt;", "&lt;/dc:title")?;
            (title == name).then(|| between(part, "id=\"", "\"").map(str::to_owned))?
        })
    })
    .await
}

/// Imports all files, then starts the gateway on them and lets this client in.
async fn mantel(place: &Place, music: &Path, titles: usize, folder: &Path) -> Result<Server> {
    let data = folder.join("gateway");
    std::fs::create_dir_all(&data)?;
    let looked = import(&folder.join("sample"), music, SAMPLE, "bwrap").await?;
    let scan = import(&data, music, titles, "/nonexistent/bwrap").await?;
    println!(
        "Mantel seals and stores {scan:.0} files/s; {looked:.1} files/s where it also looks into each one in its sandbox"
    );
    let config = folder.join("gateway.toml");
    let ip = place.addr();
    std::fs::write(
        &config,
        format!(
            "data_dir = {:?}\n[web]\nlisten = \"{ip}:{WEB_PORT}\"\n[exchange]\nlisten = \"{ip}:8445\"\n[devices]\n\
             interface = {:?}\n",
            data.display().to_string(),
            place.interface()
        ),
    )?;
    let proc = place
        .run(program("mantel-gateway")?)
        .arg("--config")
        .arg(&config)
        .log(folder.join("gateway.log"))
        .spawn()
        .await?;
    proc.wait_port(WEB_PORT, START).await?;
    let home = Household::move_in("Bench", &place.url(WEB_PORT), "correct horse battery").await?;
    let control = format!("{}/upnp/directory/control", place.url(WEB_PORT));
    let server = Server::new("Mantel", proc, control, "music.all".to_owned(), scan);
    let client = client()?;
    // The first request puts this client on the list of players that asked.
    let _ = browse(&client, &server, 0, 30).await;
    let status = home.session().get("/devices").await?.ok()?;
    let id = between(&status.body, "data-player-id=\"", "\"").context("the client asked")?;
    home.done(
        &format!("/devices/players/{}/admit", id.replace(':', "%3A")),
        &[],
    )
    .await?;
    Ok(server)
}

/// Imports the first `count` files into a library of its own; files per second, each durable.
async fn import(data: &Path, music: &Path, count: usize, bubblewrap: &str) -> Result<f64> {
    std::fs::create_dir_all(data)?;
    let tasks = Tasks::root();
    let identity = Arc::new(Identity::load_or_create(data)?);
    let db = Db::open(&data.join("gateway.db"), SCHEMAS)?;
    let options = LibraryOptions {
        enclosure: Enclosure::Bubblewrap(bubblewrap.into()),
        ..LibraryOptions::new(identity.device.device_id())
    };
    let library = Library::open(
        data,
        db,
        identity.store.clone(),
        Clock::real(),
        &tasks,
        options,
    )
    .await?;
    let begun = Instant::now();
    let mut imports = stream::iter(files(music, count)?)
        .map(|path| {
            let library = library.clone();
            async move { anyhow::Ok(library.import(ImportSource::file(&path).await?).await?) }
        })
        .buffer_unordered(AT_ONCE);
    while let Some(done) = imports.next().await {
        done?;
    }
    drop(imports);
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    tasks.shut_down(Duration::from_secs(10)).await;
    Ok(rate)
}

fn files(folder: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found.truncate(count);
    if found.len() < count {
        bail!("only {} files were made", found.len());
    }
    Ok(found)
}

impl Server {
    fn new(name: &'static str, proc: Proc, control: String, container: String, scan: f64) -> Self {
        Self {
            name,
            proc,
            control,
            container,
            scan,
            times: [Vec::new(), Vec::new()],
            bytes: [0; 2],
            cpu: Duration::ZERO,
        }
    }

    /// Memory that it holds now and at most, MB: of the whole process.
    fn memory(&self) -> Result<(f64, f64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.proc.pid()))?;
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_ascii_whitespace().nth(1)?.parse::<f64>().ok()
        };
        let mb = |name| of(name).map(|kib| kib * 1024.0 / 1e6).context("its memory");
        Ok((mb("VmRSS:")?, mb("VmHWM:")?))
    }
}

fn percentile(times: &[f64], share: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len());
    times[at - 1]
}

fn report(titles: usize, servers: &[Server]) -> Result<()> {
    println!(
        "\n{titles} titles   {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "files/s",
        "30: p50",
        "p99 ms",
        "5000: p50",
        "p99 ms",
        "answers",
        "KB",
        "CPU s",
        "RSS MB",
        "peak"
    );
    for server in servers {
        let (rss, peak) = server.memory()?;
        println!(
            "{:<14} {:>9.0} {:>9.2} {:>9.2} {:>9.1} {:>9.1} {:>9} {:>9} {:>9.2} {:>8.1} {:>8.1}",
            server.name,
            server.scan,
            median(server.times[0].iter().copied())?,
            percentile(&server.times[0], 0.99),
            median(server.times[1].iter().copied())?,
            percentile(&server.times[1], 0.99),
            server.times[1].len(),
            server.bytes[1] / 1000,
            server.cpu.as_secs_f64(),
            rss,
            peak
        );
    }
    let Some((ours, rivals)) = servers.split_first() else {
        return Ok(());
    };
    for (index, count) in PAGES.into_iter().enumerate() {
        let mut best: Option<(f64, &str)> = None;
        for rival in rivals {
            let time = median(rival.times[index].iter().copied())?;
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, rival.name));
            }
        }
        if let Some((time, name)) = best {
            let ratio = time / median(ours.times[index].iter().copied())?;
            println!(
                "Browse of {count}: {ratio:.1} times as fast as {name}, the better rival (aim: {AIM:.0})"
            );
        }
    }
    for rival in rivals {
        println!(
            "Memory: {:.2} of that of {}",
            ours.memory()?.0 / rival.memory()?.0,
            rival.name
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_what_was_measured() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        assert!((percentile(&times, 0.99) - 99.0).abs() < 1e-9);
        assert!((percentile(&times, 0.5) - 50.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 0.99) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_made_file_has_tags_and_frames() {
        let file = mp3(123, 6);
        assert!(file.starts_with(b"ID3"));
        let text = String::from_utf8_lossy(&file);
        assert!(text.contains("Song number 000123") && text.contains("Album 00006"));
        assert_eq!(
            file.windows(2).filter(|pair| *pair == [0xff, 0xfb]).count(),
            FRAMES
        );
    }
}
