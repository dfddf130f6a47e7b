//! The test media: a film clip, camera photographs and a piece of music, none drawn by this project.
//!
//! `./mantel media` assembles them in `target/media`; `tests/MEDIA.md` names authors and licences.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// The folder that holds the media, shaped as a media server would share it.
pub fn folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/media");
    folder
        .join(".version")
        .is_file()
        .then_some(())
        .with_context(|| {
            format!(
                "the test media are not in {}; run ./mantel media",
                folder.display()
            )
        })?;
    folder
        .canonicalize()
        .context("resolving the folder of test media")
}

/// The film clip: H.264 and AAC in MP4, 1280 × 720, 42 s, 8 MB.
pub fn clip() -> Result<PathBuf> {
    Ok(folder()?.join("video/Big Buck Bunny.mp4"))
}

/// The piece of music: MP3, 324 s, 3 MB.
pub fn song() -> Result<PathBuf> {
    Ok(folder()?.join("music/Time to Strike.mp3"))
}

/// The photographs: four JPEGs of four cameras with their Exif data, 0.5 to 1.2 MB each.
pub fn photos() -> Result<Vec<PathBuf>> {
    let folder = folder()?.join("photos");
    Ok(["Blinds.jpg", "Dune.jpg", "Storm.jpg", "Wood.jpg"]
        .map(|name| folder.join(name))
        .to_vec())
}

/// Every medium: the clip, the photographs and the piece of music.
pub fn all() -> Result<Vec<PathBuf>> {
    let mut files = photos()?;
    files.push(clip()?);
    files.push(song()?);
    Ok(files)
}

/// Writes the clip over and over into one MP4 of at least `min_bytes` at `to`, coding nothing anew.
///
/// For tests that need a transfer to last. The pictures repeat, so do not seal it by content.
pub fn long_clip(min_bytes: u64, to: &Path) -> Result<()> {
    let clip = clip()?;
    let once = std::fs::metadata(&clip)
        .context("reading the size of the clip")?
        .len();
    // The tables of an MP4 shrink a little per second when joined: one more round covers it.
    let rounds = min_bytes.div_ceil(once) + 1;
    let done = Command::new("ffmpeg")
        .args([
            "-nostdin",
            "-v",
            "error",
            "-y",
            "-stream_loop",
            &rounds.to_string(),
            "-i",
        ])
        .arg(&clip)
        .args(["-c", "copy", "-movflags", "+faststart"])
        .arg(to)
        .output()
        .context("starting ffmpeg")?;
    if !done.status.success() {
        bail!(
            "ffmpeg could not lengthen the clip: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    let size = std::fs::metadata(to)
        .context("reading the size of the long clip")?
        .len();
    ensure!(
        size >= min_bytes,
        "the long clip has {size} bytes, wanted {min_bytes}"
    );
    Ok(())
}

/// Bytes that anyone can make again from the same seed, of no known format: BLAKE3's output stream.
pub fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("mantel tests: noise")
        .update(seed.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}
