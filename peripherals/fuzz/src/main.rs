//! One program for all fuzz targets: `MANTEL_FUZZ` names the one to run, so that everything is built and linked once.
//! `MANTEL_FUZZ=list` prints the table that `./mantel fuzz` works from.
//!
//! A target is a pure function over hostile bytes. It must neither panic nor overflow (debug assertions are on), nor use
//! more than the 64 MB that `./mantel fuzz` allows, and it asserts what its module promises: limits, round trips, that
//! no address leaves the device it came from. A wire that is added gets a row in [`targets::TARGETS`] and a seed corpus.
#![no_main]

mod library;
mod media_server;
mod targets;

use std::sync::OnceLock;

use targets::Target;

/// The target that this process was asked to feed.
fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let wanted = std::env::var("MANTEL_FUZZ").unwrap_or_default();
        let names: Vec<&str> = targets::TARGETS.iter().map(|target| target.name).collect();
        let found = targets::TARGETS.iter().find(|target| target.name == wanted);
        found.unwrap_or_else(|| panic!("MANTEL_FUZZ must be one of {names:?}"))
    })
}

/// Name, longest input in bytes, executions of the long form in millions.
fn list_and_leave() {
    if std::env::var("MANTEL_FUZZ").is_ok_and(|wanted| wanted == "list") {
        for target in targets::TARGETS {
            println!("{} {} {}", target.name, target.longest, target.millions);
        }
        std::process::exit(0);
    }
}

libfuzzer_sys::fuzz_target!(init: list_and_leave(), |data: &[u8]| (chosen().run)(data));
