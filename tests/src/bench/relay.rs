//! `mantel-bench relay`: the same bytes over loopback in several ways, each end and each relay a process of its own, in
//! turn and several times over. Reports medians.

use super::mantel::{self, RelaySpec, Sample};
use super::measure::{cpu_of, median};
use super::part::{Done, Ready, Spec};
use super::plain::{self, Buffers};
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use jiff::Timestamp;
use mantel_protocol::blob::{ChunkRange, chunk_count};
use mantel_protocol::grant::Grant;
use mantel_protocol::ids::{DeliveryId, GrantId, OrderId, TitleId};
use mantel_protocol::key::SigningKey;
use mantel_protocol::token::{self, Validity};
use mantel_tests::lab::until;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const SERVER: [u8; 32] = [1; 32];
const SENDER: [u8; 32] = [2; 32];
const RECEIVER: [u8; 32] = [3; 32];
const GB: f64 = 1e9;
const MB: f64 = 1e6;
/// The aims of DESIGN §5, as shares of what they are compared with.
const RELAY_AIM: f64 = 1.0 / 3.0;
const WHOLE_AIM: f64 = 1.5;

/// What may be chosen.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// MiB in each transfer.
    #[arg(long, default_value_t = 2_048)]
    mib: u64,
    /// How often each way is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where the sender's and the receiver's files lie (twice the bytes of a transfer).
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
}

/// A way that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tcp,
    Tls(Buffers),
    Direct(Kept),
    Relayed(Kept),
    /// Plain TLS through Mantel's relay: the rival's ends, our relay.
    Spliced,
    Syncthing,
}

/// Where the media lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Memory,
    File,
}

impl Way {
    const ALL: [Self; 9] = [
        Self::Tcp,
        Self::Tls(Buffers::Default),
        Self::Tls(Buffers::Large),
        Self::Direct(Kept::Memory),
        Self::Relayed(Kept::Memory),
        Self::Direct(Kept::File),
        Self::Relayed(Kept::File),
        Self::Spliced,
        Self::Syncthing,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "raw TCP (iperf3)",
            Self::Tls(Buffers::Default) => "plain TLS 1.3, nothing verified",
            Self::Tls(Buffers::Large) => "  the same with Mantel's read buffer",
            Self::Direct(Kept::Memory) => "Mantel direct, verified",
            Self::Direct(Kept::File) => "Mantel direct, verified, file to file",
            Self::Relayed(Kept::Memory) => "Mantel relay, verified",
            Self::Relayed(Kept::File) => "Mantel relay, verified, file to file",
            Self::Spliced => "plain TLS 1.3 in Mantel's relay",
            Self::Syncthing => "plain TLS 1.3 in Syncthing's relay",
        }
    }
}

/// CPU-seconds and speed of one transfer.
#[derive(Debug, Clone, Copy)]
struct Figures {
    bytes: u64,
    wall_s: f64,
    sender_s: f64,
    relay_s: Option<f64>,
    receiver_s: f64,
}

/// The medians of one way, per GB.
#[derive(Debug, Clone, Copy)]
struct Row {
    way: Way,
    speed: f64,
    sender: f64,
    relay: Option<f64>,
    receiver: f64,
    whole: f64,
}

/// What all transfers share.
struct Bench {
    options: Options,
    folder: tempfile::TempDir,
    sample: Sample,
    relay: Part,
    relay_port: u16,
    rival: Child,
    rival_port: u16,
}

/// Measures and prints.
pub async fn run(options: Options) -> Result<()> {
    ensure!(
        options.mib > 0 && options.rounds > 0,
        "at least 1 MiB and 1 round"
    );
    println!(
        "{} MiB over loopback, {} rounds, medians; {} CPUs. Preparing ...",
        options.mib,
        options.rounds,
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
    );
    let mut bench = Bench::prepare(options).await?;
    let mut measured: Vec<(Way, Figures)> = Vec::new();
    for round in 1..=bench.options.rounds {
        for way in Way::ALL {
            let figures = bench
                .measure(way)
                .await
                .with_context(|| format!("measuring: {}", way.name().trim()))?;
            let speed = figures.bytes as f64 / MB / figures.wall_s;
            println!(
                "  round {round}: {:<40} {speed:>6.0} MB/s",
                way.name().trim()
            );
            measured.push((way, figures));
        }
    }
    let rows = Way::ALL
        .into_iter()
        .map(|way| {
            let of_way: Vec<Figures> = measured
                .iter()
                .filter(|(of, _)| *of == way)
                .map(|(_, figures)| *figures)
                .collect();
            row(way, &of_way)
        })
        .collect::<Result<Vec<Row>>>()?;
    print_table(&rows);
    print_aims(&rows);
    bench.relay.finish().await?;
    bench.rival.kill().await.context("stopping strelaysrv")
}

fn row(way: Way, all: &[Figures]) -> Result<Row> {
    let per_gb =
        |cpu: fn(&Figures) -> f64| median(all.iter().map(|one| cpu(one) / (one.bytes as f64 / GB)));
    let relayed = all.iter().all(|one| one.relay_s.is_some());
    Ok(Row {
        way,
        speed: median(all.iter().map(|one| one.bytes as f64 / MB / one.wall_s))?,
        sender: per_gb(|one| one.sender_s)?,
        relay: relayed
            .then(|| per_gb(|one| one.relay_s.unwrap_or(0.0)))
            .transpose()?,
        receiver: per_gb(|one| one.receiver_s)?,
        whole: per_gb(|one| one.sender_s + one.relay_s.unwrap_or(0.0) + one.receiver_s)?,
    })
}

fn print_table(rows: &[Row]) {
    let plain = find(rows, Way::Tls(Buffers::Default)).map(|row| row.whole);
    println!(
        "\n{:<40} {:>6}   CPU-seconds per GB (10^9 bytes)",
        "", "MB/s"
    );
    println!(
        "{:<40} {:>6} {:>8} {:>7} {:>9} {:>6}  {:>10}",
        "", "", "sender", "relay", "receiver", "all", "/plain TLS"
    );
    for row in rows {
        let relay = row
            .relay
            .map_or_else(|| "-".to_owned(), |relay| format!("{relay:.3}"));
        let share = plain.map_or_else(String::new, |plain| format!("{:.2}", row.whole / plain));
        println!(
            "{:<40} {:>6.0} {:>8.3} {:>7} {:>9.3} {:>6.3}  {:>10}",
            row.way.name(),
            row.speed,
            row.sender,
            relay,
            row.receiver,
            row.whole,
            share
        );
    }
    println!(
        "\"verified\": every chunk against the BLAKE3 tree, in the receiver's figures. Without \"file to file\" the sender\n\
         reads from memory and the receiver drops what it verified; with it the sender reads a file (in the page cache)\n\
         and the receiver writes and syncs one, as its store does; disk writes by the kernel's own threads are not counted."
    );
}

fn find(rows: &[Row], way: Way) -> Option<&Row> {
    rows.iter().find(|row| row.way == way)
}

fn print_aims(rows: &[Row]) {
    let word = |share: f64, aim: f64| if share <= aim { "met" } else { "NOT met" };
    println!();
    let relay = |way| find(rows, way).and_then(|row| row.relay);
    for (what, way) in [
        ("the same plain TLS", Way::Spliced),
        ("Mantel's transfer", Way::Relayed(Kept::Memory)),
    ] {
        let (Some(ours), Some(theirs)) = (relay(way), relay(Way::Syncthing)) else {
            continue;
        };
        let share = ours / theirs;
        println!(
            "relay alone, {what}: {ours:.3} against Syncthing's {theirs:.3} CPU-s/GB: {share:.2} (aim: at most \
             {RELAY_AIM:.2}): {}",
            word(share, RELAY_AIM)
        );
    }
    for (what, way) in [
        ("memory to memory", Way::Relayed(Kept::Memory)),
        ("file to file", Way::Relayed(Kept::File)),
    ] {
        for (base, buffers) in [
            ("plain TLS", Buffers::Default),
            ("plain TLS and the same read buffer", Buffers::Large),
        ] {
            let (Some(ours), Some(plain)) = (find(rows, way), find(rows, Way::Tls(buffers))) else {
                continue;
            };
            let share = ours.whole / plain.whole;
            println!(
                "ends and relay, verified, {what}: {:.3} against {:.3} with {base}: {share:.2} (aim: at most \
                 {WHOLE_AIM:.1}): {}",
                ours.whole,
                plain.whole,
                word(share, WHOLE_AIM)
            );
        }
    }
}

impl Bench {
    async fn prepare(options: Options) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("mantel-bench")
            .tempdir_in(&options.folder)?;
        let (hashes, file) = (folder.path().join("hashes"), folder.path().join("blob"));
        let bytes = options.mib << 20;
        let sample =
            tokio::task::spawn_blocking(move || Sample::make(bytes, &hashes, &file)).await??;
        let (relay, ready) = Part::start(&Spec::Relay(RelaySpec { key: SERVER })).await?;
        let rival_port = free_port().await?;
        let rival = start_rival(rival_port, folder.path()).await?;
        Ok(Self {
            options,
            folder,
            sample,
            relay,
            relay_port: ready.port,
            rival,
            rival_port,
        })
    }

    async fn measure(&mut self, way: Way) -> Result<Figures> {
        match way {
            Way::Tcp => iperf(self.options.mib << 20).await,
            Way::Tls(buffers) => self.plain(buffers, plain::Way::Direct { port: 0 }).await,
            Way::Syncthing => {
                let way = plain::Way::Syncthing {
                    port: self.rival_port,
                    peer: [0; 32],
                };
                self.plain(Buffers::Default, way).await
            }
            Way::Spliced => {
                let server = SigningKey::from_seed(&SERVER)?;
                let grant = token::sign(&server, &self.grant()?);
                let way = plain::Way::Mantel {
                    port: self.relay_port,
                    server: server.server_key().0,
                    grant,
                };
                self.plain(Buffers::Default, way).await
            }
            Way::Direct(kept) => self.mantel(kept, mantel::Way::Direct { port: 0 }).await,
            Way::Relayed(kept) => {
                self.mantel(
                    kept,
                    mantel::Way::Relay {
                        port: self.relay_port,
                    },
                )
                .await
            }
        }
    }

    async fn plain(&self, buffers: Buffers, way: plain::Way) -> Result<Figures> {
        let bytes = self.options.mib << 20;
        let relay = match way {
            plain::Way::Direct { .. } => None,
            plain::Way::Syncthing { .. } => self.rival.id(),
            plain::Way::Mantel { .. } => self.relay.child.id(),
        };
        let before = relay.map(cpu_of).transpose()?;
        let send = plain::Send {
            key: SENDER,
            bytes,
            buffers,
            way: way.clone(),
        };
        let (sender, ready) = Part::start(&Spec::PlainSend(send)).await?;
        let way = match way {
            plain::Way::Direct { .. } => plain::Way::Direct { port: ready.port },
            plain::Way::Syncthing { port, .. } => {
                let peer = ready.id.context("the sender told no name")?;
                plain::Way::Syncthing { port, peer }
            }
            mantel @ plain::Way::Mantel { .. } => mantel,
        };
        let server = mantel::device(&SENDER)?.0;
        let receive = plain::Receive {
            key: RECEIVER,
            sender: server,
            bytes,
            buffers,
            way,
        };
        let (receiver, _) = Part::start(&Spec::PlainReceive(receive)).await?;
        finish(sender, receiver, relay, before).await
    }

    async fn mantel(&self, kept: Kept, way: mantel::Way) -> Result<Figures> {
        let relay = match way {
            mantel::Way::Direct { .. } => None,
            mantel::Way::Relay { .. } => self.relay.child.id(),
        };
        let before = relay.map(cpu_of).transpose()?;
        let server = SigningKey::from_seed(&SERVER)?;
        let grant = token::sign(&server, &self.grant()?);
        let of_round = tempfile::tempdir_in(self.folder.path())?;
        let path = |name: &str| self.folder.path().join(name);
        let send = mantel::Send {
            key: SENDER,
            server: server.server_key().0,
            grant: grant.clone(),
            hashes: path("hashes"),
            file: (kept == Kept::File).then(|| path("blob")),
            folder: of_round.path().to_owned(),
            way: way.clone(),
        };
        let (sender, ready) = Part::start(&Spec::ChunkSend(send)).await?;
        let way = match way {
            mantel::Way::Direct { .. } => mantel::Way::Direct { port: ready.port },
            relay @ mantel::Way::Relay { .. } => relay,
        };
        let receive = mantel::Receive {
            key: RECEIVER,
            server: server.server_key().0,
            grant,
            file: (kept == Kept::File).then(|| of_round.path().join("received")),
            way,
        };
        let (receiver, _) = Part::start(&Spec::ChunkReceive(receive)).await?;
        finish(sender, receiver, relay, before).await
    }

    fn grant(&self) -> Result<Grant> {
        let hashes = &self.sample.hashes;
        Ok(Grant {
            id: GrantId::generate(),
            order: OrderId::generate(),
            delivery: DeliveryId::generate(),
            title: TitleId::generate(),
            blob: hashes.id(),
            blob_bytes: hashes.size(),
            sender: mantel::device(&SENDER)?,
            receiver: mantel::device(&RECEIVER)?,
            chunks: vec![ChunkRange {
                start: 0,
                count: chunk_count(hashes.size()),
            }],
            validity: Validity::from_now(Timestamp::now(), 3_600),
        })
    }
}

/// Waits for the receiver, then ends the sender. The relay is looked at in between.
async fn finish(
    sender: Part,
    receiver: Part,
    relay: Option<u32>,
    before: Option<Duration>,
) -> Result<Figures> {
    let received = receiver.finish().await.context("the receiver")?;
    let sent = sender.finish().await.context("the sender")?;
    let relay_s = match (relay.map(cpu_of).transpose()?, before) {
        (Some(after), Some(before)) => Some(after.saturating_sub(before).as_secs_f64()),
        _ => None,
    };
    Ok(Figures {
        bytes: received.bytes,
        wall_s: received.wall_s,
        sender_s: sent.cpu_s,
        relay_s,
        receiver_s: received.cpu_s,
    })
}

/// A process of this benchmark. Killed when dropped.
struct Part {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Part {
    async fn start(spec: &Spec) -> Result<(Self, Ready)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["part", &serde_json::to_string(spec)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a part of the benchmark")?;
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut part = Self {
            child,
            input,
            lines,
        };
        let ready = part.line().await?;
        Ok((part, ready))
    }

    /// Lets it stop, and takes what it used.
    async fn finish(mut self) -> Result<Done> {
        drop(self.input.take());
        let done = self.line().await?;
        ensure!(
            self.child.wait().await?.success(),
            "a part of the benchmark failed"
        );
        Ok(done)
    }

    async fn line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self
            .lines
            .next_line()
            .await?
            .context("a part of the benchmark failed")?;
        serde_json::from_str(&line).with_context(|| format!("reading \"{line}\""))
    }
}

async fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

/// Syncthing's relay, without any limit of rate, and contacting nobody.
async fn start_rival(port: u16, folder: &Path) -> Result<Child> {
    let child = Command::new("strelaysrv")
        .arg(format!("-listen=127.0.0.1:{port}"))
        .arg(format!("-keys={}", folder.display()))
        .args([
            "-pools=",
            "-status-srv=",
            "-global-rate=0",
            "-per-session-rate=0",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("starting strelaysrv (Debian: syncthing-relaysrv)")?;
    until(
        "strelaysrv to listen",
        Duration::from_secs(20),
        async || TcpStream::connect(("127.0.0.1", port)).await.ok(),
    )
    .await?;
    Ok(child)
}

/// Raw TCP by iperf3, which reports the CPU time of both its ends as shares of the time.
async fn iperf(bytes: u64) -> Result<Figures> {
    let port = free_port().await?.to_string();
    let mut server = Command::new("iperf3")
        .args([
            "--server",
            "--one-off",
            "--forceflush",
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
        ])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting iperf3")?;
    let mut lines = BufReader::new(server.stdout.take().context("its output")?).lines();
    while !lines
        .next_line()
        .await?
        .context("iperf3 ended")?
        .contains("listening")
    {}
    let client = Command::new("iperf3")
        .args([
            "--client",
            "127.0.0.1",
            "--port",
            &port,
            "--json",
            "--bytes",
            &bytes.to_string(),
        ])
        .kill_on_drop(true)
        .output()
        .await?;
    let report: serde_json::Value = serde_json::from_slice(&client.stdout)?;
    let number = |pointer: &str| {
        report
            .pointer(pointer)
            .and_then(serde_json::Value::as_f64)
            .with_context(|| format!("iperf3 reports no {pointer}"))
    };
    let seconds = number("/end/sum_received/seconds")?;
    let figures = Figures {
        bytes: number("/end/sum_received/bytes")? as u64,
        wall_s: seconds,
        sender_s: number("/end/cpu_utilization_percent/host_total")? / 100.0 * seconds,
        relay_s: None,
        receiver_s: number("/end/cpu_utilization_percent/remote_total")? / 100.0 * seconds,
    };
    // It ends by itself; its output is read so that it can.
    while lines.next_line().await?.is_some() {}
    server.wait().await?;
    Ok(figures)
}
