//! One program for all fuzz targets: `MANTEL_FUZZ` names the one to run, so that everything is built and linked once.
//!
//! A target is a pure function over hostile bytes. It must neither panic nor overflow (debug assertions are on), nor use
//! more than the 64 MB that `./mantel fuzz` allows. A wire that is added gets a row in [`TARGETS`] and a seed corpus.
#![no_main]

mod targets;

use std::sync::OnceLock;

/// The function that this process was asked to feed.
fn chosen() -> fn(&[u8]) {
    static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("MANTEL_FUZZ").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|(name, _)| *name == wanted);
        let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
        found.unwrap_or_else(|| panic!("MANTEL_FUZZ must be one of {names:?}")).1
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| chosen()(data));
