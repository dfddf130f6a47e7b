//! The gateway of a home: finds devices, keeps media sealed, exchanges it with other homes, plays it.

use clap::Parser;
use mantel_gateway::app;
use mantel_gateway::config::Config;
use mantel_runtime::{config, lifecycle, logging};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

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
}

/// Where the configuration is looked for when no flag names one.
const USUAL_CONFIG: &str = "/etc/mantel/gateway.toml";

fn main() -> ExitCode {
    match run(Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mantel-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let usual = PathBuf::from(USUAL_CONFIG);
    let path = flags.config.or_else(|| usual.exists().then_some(usual));
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
    if flags.interface.is_some() {
        config.devices.interface = flags.interface;
    }
    let log = logging::init(&config.log);
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
