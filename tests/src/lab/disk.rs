//! What `./mantel` built for emulated machines, and disks for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The disk of a box: image, slot B and data.
const DISK: &str = "6G";

/// Runs a program of this machine to its end; what it printed.
pub fn run(program: &str, words: &[&str]) -> Result<Vec<u8>> {
    let done = Command::new(program).args(words).output();
    let done = done.with_context(|| format!("{program} is missing (./mantel setup)"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    let all = words.join(" ");
    ensure!(done.status.success(), "{program} {all}: {}", said.trim());
    Ok(done.stdout)
}

/// A path as a word for [`run`].
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a readable path")
}

/// What image/rootfs.sh and image/disk.sh made, by its path in `target/image`.
pub fn built(path: &str) -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding the running program")?;
    let debug = this.ancestors().find(|folder| folder.ends_with("debug"));
    let target = debug.and_then(Path::parent).context("no target folder")?;
    let built = target.join("image").join(path);
    let there = built.exists();
    ensure!(there, "{} is missing: ./mantel builds it", built.display());
    Ok(built)
}

/// A new box in `folder`: an empty disk on which the image `base` was written.
pub fn new_disk(folder: &Path, base: &Path) -> Result<PathBuf> {
    let disk = folder.join("disk.qcow2");
    let _gone = std::fs::remove_file(&disk);
    let create = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"];
    let words = [&create[..], &[text(base)?, text(&disk)?, DISK]].concat();
    run("qemu-img", &words)?;
    Ok(disk)
}
