//! Benchmarks. They report figures and never judge them: a benchmark that ran ends with 0.
#![allow(clippy::print_stdout, reason = "a benchmark's figures are its output")]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

#[path = "../bench/mod.rs"]
mod bench;

use clap::{Parser, Subcommand};

/// Measures Mantel beside its rivals, on this machine, in one run.
#[derive(Parser)]
#[command(name = "mantel-bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// MB/s and CPU-seconds per GB of the relay and of both ends, beside raw TCP (iperf3), plain TLS and Syncthing's
    /// relay. Needs iperf3 and strelaysrv (Debian: iperf3, syncthing-relaysrv).
    Relay(bench::relay::Options),
    /// Browse, scan rate and memory of the media server, beside minidlna and gerbera. Needs root and both of them
    /// (Debian: minidlna, gerbera).
    Dlna(bench::dlna::Options),
    /// One process of a benchmark; started by the others.
    #[command(hide = true)]
    Part {
        /// What to be, as JSON.
        spec: String,
    },
}

fn main() -> anyhow::Result<()> {
    mantel_runtime::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match Arguments::parse().what {
        What::Relay(options) => runtime.block_on(bench::relay::run(options)),
        What::Dlna(options) => runtime.block_on(bench::dlna::run(options)),
        What::Part { spec } => runtime.block_on(bench::part::run(&spec)),
    }
}
