//! What `./mantel test-disk` built before the tests: where it lies, and what it says of itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mantel_tests::lab::{built, run, text};
use rand::RngExt as _;
use rand::rngs::StdRng;

/// What the first image is.
pub const FIRST: &str = "1.0.0";
/// The update that works.
pub const SECOND: &str = "1.1.0";
/// A small bundle, rightly signed, to be spoilt.
pub const TINY: &str = "1.3.0";

/// Where `./mantel` puts what image/disk.sh makes for the tests.
pub fn image() -> Result<PathBuf> {
    built("trial")
}

/// The disk image of [`FIRST`].
pub fn first_image() -> Result<PathBuf> {
    built(&format!("trial/{FIRST}/mantel.img"))
}

pub fn number(name: &str, usual: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|n| n.parse().ok()).unwrap_or(usual)
}

pub fn seed() -> u64 {
    let seed = number("MANTEL_SEED", rand::random::<u32>().into());
    println!("MANTEL_SEED={seed}");
    seed
}

/// Where the root of slot A lies on the image, in bytes: after 1 MiB, ESP and boot partition (image/disk.sh).
pub const ROOT_A: u64 = (1 + 64 + 96) << 20;

/// The words of the slot's own configuration: (root hash, offset of the tree of hashes).
pub fn verity(image: &Path) -> Result<(String, u64)> {
    let boot = format!("{}@@{}", text(image)?, (1 + 64) << 20);
    let config = String::from_utf8(run("mtype", &["-i", &boot, "::slot.cfg"])?)?;
    let word = |name: &str| -> Result<String> {
        let (_, rest) = config
            .split_once(name)
            .with_context(|| format!("no {name}"))?;
        let end = rest.find([' ', ',', '\n']).unwrap_or(rest.len());
        Ok(rest[..end].to_owned())
    };
    Ok((word("roothash=")?, word("hash-offset=")?.parse()?))
}

/// Spoils a bundle in one of the ways that chance or malice has.
pub fn spoil(bundle: &mut Vec<u8>, random: &mut StdRng) {
    let end = bundle.len();
    let place = random.random_range(0..end);
    match random.random_range(0..6) {
        0 => bundle[place] ^= 1 << random.random_range(0..8),
        // Near the end, where the signature is.
        1 => {
            let place = end - 1 - random.random_range(0..3000.min(end));
            bundle[place] ^= 1 << random.random_range(0..8);
        }
        2 => bundle.truncate(place),
        3 => bundle.insert(place, random.random()),
        4 => drop(bundle.remove(place)),
        _ => {
            let length = random.random_range(1..64.min(end - place + 1).max(2));
            let stop = (place + length).min(end);
            random.fill(&mut bundle[place..stop]);
        }
    }
}

/// What the tests' bundles are signed with; boxes that are sold trust others.
pub fn keys() -> Result<PathBuf> {
    built("trial/keys")
}
