//! `mantel-server`: the relaying server in one process.

use anyhow::Context;
use clap::Parser;
use mantel_runtime::clock::Clock;
use mantel_runtime::tasks::Tasks;
use mantel_runtime::{config, lifecycle, logging, tls};
use mantel_server::app;
use mantel_server::config::Config;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The relaying server of Mantel. It needs no configuration.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file; the commented default lists every key. Without it: systemd's credential
    /// mantel-server.toml, if there is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the database and the keys are.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where the HTTPS API and the console listen.
    #[arg(long, value_name = "ADDRESS:PORT")]
    api_listen: Option<SocketAddr>,
    /// Where the MQTT broker listens.
    #[arg(long, value_name = "ADDRESS:PORT")]
    mqtt_listen: Option<SocketAddr>,
    /// Where the relay listens.
    #[arg(long, value_name = "ADDRESS:PORT")]
    relay_listen: Option<SocketAddr>,
    /// Host name or address under which homes reach this server.
    #[arg(long, value_name = "HOST")]
    public_name: Option<String>,
}

impl Arguments {
    /// The configuration, with what the command line overrides.
    fn configuration(self) -> anyhow::Result<Config> {
        let file = self
            .config
            .or_else(|| config::credential("mantel-server.toml"));
        let mut config: Config = config::load(file.as_deref())?;
        let listen = [
            (self.api_listen, &mut config.api.listen),
            (self.mqtt_listen, &mut config.mqtt.listen),
            (self.relay_listen, &mut config.relay.listen),
        ];
        for (given, place) in listen {
            *place = given.unwrap_or(*place);
        }
        config.data_dir = self.data_dir.unwrap_or(config.data_dir);
        config.public_name = self.public_name.or(config.public_name);
        Ok(config)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The database holds passes and the household's orders: for the server's own user only.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    tls::install_provider();
    let config = Arguments::parse().configuration()?;
    logging::init(&config.log);
    let tasks = Tasks::root();
    let running = app::start(config, Clock::real(), tasks.clone())
        .await
        .context("mantel-server did not start")?;
    if let Some(link) = &running.setup_link {
        let mut terminal = std::io::stderr().lock();
        let _ = writeln!(
            terminal,
            "\nSet the operator's password here (the link works once):\n\n    {link}\n"
        );
    }
    lifecycle::notify_ready(&tasks);
    lifecycle::run_until_signal(&tasks).await?;
    running.finish().await;
    Ok(())
}
