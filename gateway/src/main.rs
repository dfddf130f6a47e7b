//! The gateway of a home: finds devices, keeps media sealed, exchanges it with other homes, plays it.

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mantel_gateway::app;
use mantel_gateway::config::Config;
use mantel_gateway::library::{DECODE_COMMAND, WORKER_COMMAND, serve_as_worker};
use mantel_peripherals::Device;
use mantel_peripherals::capture::{self, Titles};
use mantel_peripherals::decode::worker;
use mantel_peripherals::discovery::{Discovery, DiscoveryConfig, Loopback};
use mantel_runtime::{config, lifecycle, logging};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Gives memory back to the kernel soon after a large answer: the C library's allocator keeps it in each thread's arena.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The gateway of a home. Flags override the configuration file.
#[derive(Parser)]
#[command(version, about)]
struct Flags {
    /// Configuration file (TOML); without it, /etc/mantel/gateway.toml where there is one, else the defaults.
    #[arg(long, env = "MANTEL_GATEWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Keys, database and sealed media.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where the household's pages are served, e.g. 0.0.0.0:8080.
    #[arg(long)]
    web_listen: Option<SocketAddr>,
    /// Where other homes connect directly, e.g. 0.0.0.0:8445.
    #[arg(long)]
    exchange_listen: Option<SocketAddr>,
    /// Look for devices on this network interface only.
    #[arg(long)]
    interface: Option<String>,
    /// The socket of media workers in units of their own.
    #[arg(long, env = "MANTEL_MEDIA_WORKERS")]
    media_workers: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do instead of running the gateway.
#[derive(Subcommand)]
enum Command {
    /// Records what a device says about itself, without secrets, for a report about a device that does not work.
    Capture {
        /// Its address, or a part of its name.
        device: String,
        /// The file to write.
        #[arg(long, default_value = "capture.json")]
        out: PathBuf,
        /// Keeps names, titles, artists and albums.
        #[arg(long)]
        with_titles: bool,
    },
}

/// How long a device to be captured is looked for.
const LOOK: Duration = Duration::from_secs(12);

/// Where the configuration is looked for when no flag names one.
const USUAL_CONFIG: &str = "/etc/mantel/gateway.toml";

fn main() -> ExitCode {
    // Workers in a sandbox: they know no configuration.
    let worker = match std::env::args_os().nth(1) {
        Some(word) if word == DECODE_COMMAND => {
            Some(worker::serve(std::io::stdin(), std::io::stdout()))
        }
        Some(word) if word == WORKER_COMMAND => {
            let connection = std::io::stdin().as_fd().try_clone_to_owned();
            Some(connection.and_then(|connection| serve_as_worker(connection.into())))
        }
        _ => None,
    };
    if let Some(served) = worker {
        return if served.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mantel-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Finds a device and writes its capture.
async fn record(wanted: &str, out: &Path, titles: Titles, loopback: bool) -> anyhow::Result<()> {
    let mut config = DiscoveryConfig::default();
    if loopback {
        config.ssdp.loopback = Loopback::Searched;
    }
    let cancel = CancellationToken::new();
    let (mut devices, discovery) = Discovery::start(config, cancel.clone());
    let is_wanted = |device: &Device| {
        device.name.contains(wanted) || device.addresses.iter().any(|a| a.to_string() == wanted)
    };
    let found = tokio::time::timeout(LOOK, async {
        loop {
            let now = devices.borrow_and_update().clone();
            if let Some(device) = now.iter().find(|device| is_wanted(device)) {
                return Some(device.clone());
            }
            devices.changed().await.ok()?;
        }
    });
    let found = found.await.ok().flatten().with_context(|| {
        format!(
            "no device \"{wanted}\" answers on this network; give its address or a part of its name"
        )
    })?;
    let capture = capture::capture(&found, titles).await;
    cancel.cancel();
    discovery.finished().await;
    std::fs::write(out, serde_json::to_string_pretty(&capture)?)
        .with_context(|| format!("cannot write {}", out.display()))?;
    eprintln!(
        "{} records of \"{}\" are in {}. Look it through before you send it to anybody.",
        capture.records.len(),
        found.name,
        out.display()
    );
    Ok(())
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let usual = PathBuf::from(USUAL_CONFIG);
    let given = flags
        .config
        .or_else(|| config::credential("mantel-gateway.toml"));
    let path = given.or_else(|| usual.exists().then_some(usual));
    let mut config: Config = config::load(path.as_deref())?;
    if let Some(data_dir) = flags.data_dir {
        config.data_dir = data_dir;
    }
    if let Some(listen) = flags.web_listen {
        config.web.listen = listen;
    }
    if let Some(listen) = flags.exchange_listen {
        config.exchange.listen = listen;
    }
    if flags.media_workers.is_some() {
        config.library.media_workers = flags.media_workers;
    }
    if flags.interface.is_some() {
        config.devices.interface = flags.interface;
    }
    // The FTP crate writes whole sessions into its spans; what matters of them is told by `uploads`.
    let log = logging::init(&format!("{},libunftp=off", config.log));
    if let Some(Command::Capture {
        device,
        out,
        with_titles,
    }) = flags.command
    {
        let titles = if with_titles {
            Titles::Kept
        } else {
            Titles::Removed
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(record(&device, &out, titles, config.devices.loopback));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let running = app::start(config, log).await?;
        lifecycle::notify_ready(running.tasks());
        lifecycle::run_until_signal(running.tasks()).await?;
        running.stop().await;
        Ok(())
    })
}
