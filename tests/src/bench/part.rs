//! One process under measurement: a sender, a receiver or a relay, told by its parent in JSON what to be. It prints a
//! line of JSON when it is ready, and another, with its CPU time since, when it is done.

use super::{mantel, measure, plain};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::time::Duration;

/// What to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Spec {
    /// The sending end of a plain TLS stream.
    PlainSend(plain::Send),
    /// Its receiving end.
    PlainReceive(plain::Receive),
    /// A sending gateway.
    ChunkSend(mantel::Send),
    /// A receiving gateway.
    ChunkReceive(mantel::Receive),
    /// Mantel's relay.
    Relay(mantel::RelaySpec),
}

/// A process is ready to be measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ready {
    /// Where it listens, if it does.
    pub port: u16,
    /// Its name at Syncthing's relay, if it has one.
    pub id: Option<[u8; 32]>,
}

/// What a process used.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// CPU-seconds since it was ready.
    pub cpu_s: f64,
    /// Seconds that receiving took; 0 for others.
    pub wall_s: f64,
    /// Bytes of payload received; 0 for others.
    pub bytes: u64,
}

/// Measures from its making to [`Meter::done`].
pub struct Meter(Duration);

impl Meter {
    /// Says that this process is ready, and measures from now on.
    pub fn start(ready: &Ready) -> Result<Self> {
        say(ready)?;
        Ok(Self(measure::own_cpu()))
    }

    /// Says what was used.
    pub fn done(self, wall: Duration, bytes: u64) -> Result<()> {
        let cpu_s = measure::own_cpu().saturating_sub(self.0).as_secs_f64();
        say(&Done {
            cpu_s,
            wall_s: wall.as_secs_f64(),
            bytes,
        })
    }
}

fn say(what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(what)?;
    line.push('\n');
    let mut out = std::io::stdout();
    out.write_all(line.as_bytes())?;
    out.flush().context("telling the parent")
}

/// Waits until the parent closes this process's input: then the receiver has all.
pub async fn told_to_stop() -> Result<()> {
    let listening = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(listening)
        .await?
        .context("listening to the parent")?;
    Ok(())
}

/// Is what `spec` says.
pub async fn run(spec: &str) -> Result<()> {
    match serde_json::from_str(spec).context("reading what to be")? {
        Spec::PlainSend(it) => plain::send(it).await,
        Spec::PlainReceive(it) => plain::receive(it).await,
        Spec::ChunkSend(it) => mantel::send(it).await,
        Spec::ChunkReceive(it) => mantel::receive(it).await,
        Spec::Relay(it) => mantel::relay(it).await,
    }
}
