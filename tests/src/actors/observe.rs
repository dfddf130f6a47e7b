//! Observers that count bytes where they pass: at a network interface and on a disk. What a test calls "0 media bytes"
//! is counted by these, not by the programs under test.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OpenFlags};

use super::Site;
use crate::lab::Place;

/// A disk's block as `stat` counts, bytes.
const BLOCK: u64 = 512;
/// How long a reader waits for a writer's lock.
const BUSY: Duration = Duration::from_secs(10);
/// What a gateway may have said to the server while nothing was to be delivered: less than one chunk.
const CHATTER: u64 = 512 * 1024;

/// How many bytes a place has sent since it was made, by its network interface.
pub fn sent_bytes(place: &Place) -> Result<u64> {
    let space = place
        .netns()
        .context("bytes are counted in a namespace only")?;
    let done = Command::new("ip")
        .args([
            "-n",
            space,
            "-s",
            "-j",
            "link",
            "show",
            "dev",
            place.interface(),
        ])
        .output()
        .context("starting ip")?;
    ensure!(
        done.status.success(),
        "ip: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let said: serde_json::Value =
        serde_json::from_slice(&done.stdout).context("reading what ip counted")?;
    said[0]["stats64"]["tx"]["bytes"]
        .as_u64()
        .context("ip told no bytes")
}

/// How many bytes of blobs, whole and in part, are on a gateway's disk: blocks that hold something.
pub fn stored_bytes(gateway_data: &Path) -> Result<u64> {
    fn walk(folder: &Path, sum: &mut u64) -> std::io::Result<()> {
        for entry in folder.read_dir()? {
            let path = entry?.path();
            let found = match path.symlink_metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                found => found?,
            };
            let ending = path.extension().and_then(|ending| ending.to_str());
            if found.is_dir() {
                walk(&path, sum)?;
            } else if matches!(ending, Some("blob" | "part")) {
                *sum += found.blocks() * BLOCK;
            }
        }
        Ok(())
    }
    let (blobs, mut sum) = (gateway_data.join("blobs"), 0);
    if blobs.is_dir() {
        walk(&blobs, &mut sum).with_context(|| format!("counting in {}", blobs.display()))?;
    }
    Ok(sum)
}

/// The file of a whole blob in a gateway's data directory.
pub fn blob_file(gateway_data: &Path, blob: &str) -> std::path::PathBuf {
    let folder = blob.get(..2).unwrap_or_default();
    gateway_data
        .join("blobs")
        .join(folder)
        .join(format!("{blob}.blob"))
}

/// When a title in a gateway's library was taken, as the gateway wrote it down.
pub fn recorded(gateway_data: &Path, title: &str) -> Result<Option<jiff::Timestamp>> {
    let file = gateway_data.join("gateway.db");
    let db = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("opening {}", file.display()))?;
    db.busy_timeout(BUSY)?;
    let query = "SELECT recorded_at_ms FROM titles WHERE id = ?1";
    let at: Option<i64> = db
        .query_row(query, [title], |row| row.get(0))
        .context("no such title")?;
    Ok(at.map(jiff::Timestamp::from_millisecond).transpose()?)
}

/// The observers' counts at one moment, where Anna sends and Ben receives.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// Bytes of blobs on Ben's disk.
    pub stored: u64,
    /// Bytes through the relay.
    pub relayed: i64,
    /// Bytes sent by Anna's gateway, whatever they were.
    pub sent: u64,
}

impl Counted {
    /// Asks all observers.
    pub fn now(site: &Site) -> Result<Self> {
        Ok(Self {
            stored: stored_bytes(&site.b.data)?,
            relayed: site.books().sums()?.relayed,
            sent: sent_bytes(site.a.place())?,
        })
    }

    /// Fails if a media byte moved since.
    pub fn nothing_moved(&self, site: &Site, what: &str) -> Result<String> {
        let now = Self::now(site)?;
        let (stored, relayed) = (now.stored - self.stored, now.relayed - self.relayed);
        let sent = now.sent - self.sent;
        ensure!(
            stored == 0 && relayed == 0,
            "{what}: {stored} bytes at the receiver, {relayed} at the relay"
        );
        ensure!(
            sent < CHATTER,
            "{what}: the sender's interface sent {sent} bytes"
        );
        Ok(format!(
            "{what}: 0 bytes stored, 0 relayed, {sent} bytes of talk at the sender's interface"
        ))
    }
}
