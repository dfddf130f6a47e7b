//! The bundle's way to disk, chunk by chunk, each verified before it is written.
//!
//! `bundle.raucb.part` is written from its beginning. How far it is, is not noted anywhere: when fetching goes on, what
//! is there is checked against the hashes, and the first chunk that is not right, or not there, is the next to be
//! fetched. So neither kill -9 nor a lost power supply can leave a wrong byte, and at most the last seconds are lost.

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use mantel_protocol::blob::{BlobError, CHUNK_BYTES, HashList, chunk_count, chunk_len};
use mantel_runtime::files::sync_folder;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Written bytes after which the file is synced, so that the disk is not left with all of it at the end.
const SYNC_EVERY: u64 = 32 * 1024 * 1024;

/// Where the bundle lies when it is whole; the system takes it from here.
pub fn bundle_in(folder: &Path) -> PathBuf {
    folder.join("bundle.raucb")
}

fn part_in(folder: &Path) -> PathBuf {
    folder.join("bundle.raucb.part")
}

/// Deletes what is there.
pub fn clear(folder: &Path) -> io::Result<()> {
    for path in [bundle_in(folder), part_in(folder)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Why a chunk was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Not the bytes that the hashes name.
    #[error("wrong bytes")]
    Wrong(#[source] BlobError),
    /// The disk refused.
    #[error("the disk refused")]
    Disk(#[source] io::Error),
}

/// The SHA-256 of the bundle that is here, in hexadecimal digits; `None`: it is not what the hashes name, any more. Blocks.
pub fn sum(folder: &Path, hashes: &HashList) -> io::Result<Option<String>> {
    let file = File::open(bundle_in(folder))?;
    if file.metadata()?.len() != hashes.size() {
        return Ok(None);
    }
    let mut sum = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK_BYTES as usize];
    for index in 0..chunk_count(hashes.size()) {
        let count = chunk_len(hashes.size(), index).unwrap_or_default();
        let bytes = &mut chunk[..count as usize];
        file.read_exact_at(bytes, index * CHUNK_BYTES)?;
        if hashes.verify_chunk(index, bytes).is_err() {
            return Ok(None);
        }
        sum.update(bytes);
    }
    Ok(Some(HEXLOWER.encode(sum.finish().as_ref())))
}

/// A bundle on its way. Its functions block.
pub struct Fetch {
    folder: PathBuf,
    file: File,
    hashes: Arc<HashList>,
    next: u64,
}

impl Fetch {
    /// Begins, or goes on where it was.
    pub fn open(folder: &Path, hashes: Arc<HashList>) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)?;
        let (bundle, part) = (bundle_in(folder), part_in(folder));
        // Whole when the gateway ended before it noted it; or another version's, which the hashes tell.
        match fs::rename(&bundle, &part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut fetch = Self {
            folder: folder.to_owned(),
            file: options.mode(0o640).open(part)?,
            hashes,
            next: 0,
        };
        fetch.find_next()?;
        fetch.file.set_len(fetch.bytes_done())?;
        Ok(fetch)
    }

    fn find_next(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES as usize];
        while let Some((start, count)) = self.missing() {
            let bytes = &mut chunk[..count as usize];
            match self.file.read_exact_at(bytes, start) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                read => read?,
            }
            if self.hashes.verify_chunk(self.next, bytes).is_err() {
                break;
            }
            self.next += 1;
        }
        Ok(())
    }

    /// The hashes that it is checked against.
    pub fn hashes(&self) -> &HashList {
        &self.hashes
    }

    /// Bytes that are here and right.
    pub fn bytes_done(&self) -> u64 {
        (self.next * CHUNK_BYTES).min(self.hashes.size())
    }

    /// The next piece to fetch, its first byte and how many; `None`: all are here.
    pub fn missing(&self) -> Option<(u64, u64)> {
        let count = chunk_len(self.hashes.size(), self.next)?;
        Some((self.next * CHUNK_BYTES, count))
    }

    /// Takes the bytes of the missing piece; nothing is kept of wrong ones.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), TakeError> {
        self.hashes
            .verify_chunk(self.next, bytes)
            .map_err(TakeError::Wrong)?;
        let start = self.next * CHUNK_BYTES;
        self.file
            .write_all_at(bytes, start)
            .map_err(TakeError::Disk)?;
        self.next += 1;
        if self.bytes_done().is_multiple_of(SYNC_EVERY) {
            self.file.sync_data().map_err(TakeError::Disk)?;
        }
        Ok(())
    }

    /// Gives the whole bundle its name, durably.
    pub fn keep(self) -> io::Result<()> {
        debug_assert_eq!(self.next, chunk_count(self.hashes.size()), "it is whole");
        self.file.sync_all()?;
        fs::rename(part_in(&self.folder), bundle_in(&self.folder))?;
        sync_folder(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mantel_protocol::blob::BlobHasher;

    fn bundle() -> (Vec<u8>, Arc<HashList>) {
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES + 77)
            .map(|i| (i * 7 % 251) as u8)
            .collect();
        let mut hasher = BlobHasher::new();
        hasher.update(&bytes);
        (bytes, Arc::new(hasher.finish().expect("not empty")))
    }

    fn feed(fetch: &mut Fetch, bytes: &[u8], chunks: usize) {
        for _ in 0..chunks {
            let (start, count) = fetch.missing().expect("something is missing");
            fetch
                .take(&bytes[start as usize..(start + count) as usize])
                .expect("right bytes");
        }
    }

    #[test]
    fn goes_on_where_it_was_and_refuses_wrong_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (bytes, hashes) = bundle();
        let open = || Fetch::open(folder.path(), Arc::clone(&hashes)).expect("opens");
        let mut fetch = open();
        feed(&mut fetch, &bytes, 2);
        let (start, count) = fetch.missing().expect("two are missing");
        let mut wrong = bytes[start as usize..(start + count) as usize].to_vec();
        wrong[5] ^= 1;
        assert!(matches!(fetch.take(&wrong), Err(TakeError::Wrong(_))));
        assert!(matches!(fetch.take(&wrong[1..]), Err(TakeError::Wrong(_))));
        assert_eq!(fetch.bytes_done(), 2 * CHUNK_BYTES);
        drop(fetch);

        let mut fetch = open();
        assert_eq!(
            fetch.bytes_done(),
            2 * CHUNK_BYTES,
            "nothing is fetched twice"
        );
        feed(&mut fetch, &bytes, 2);
        assert_eq!(fetch.missing(), None);
        fetch.keep().expect("kept");
        assert_eq!(fs::read(bundle_in(folder.path())).expect("there"), bytes);
        assert!(!part_in(folder.path()).exists());
        let all = digest::digest(&digest::SHA256, &bytes);
        let found = sum(folder.path(), &hashes).expect("readable");
        assert_eq!(found, Some(HEXLOWER.encode(all.as_ref())));
        let mut spoilt = bytes.clone();
        spoilt[CHUNK_BYTES as usize + 1] ^= 4;
        fs::write(bundle_in(folder.path()), &spoilt).expect("written");
        assert_eq!(sum(folder.path(), &hashes).expect("readable"), None);
        spoilt.pop();
        fs::write(bundle_in(folder.path()), &spoilt).expect("written");
        assert_eq!(sum(folder.path(), &hashes).expect("readable"), None);
        fs::write(bundle_in(folder.path()), &bytes).expect("written");

        // The gateway ended before it noted that the bundle is whole.
        assert_eq!(open().missing(), None);
    }

    #[test]
    fn what_the_disk_lost_is_fetched_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (bytes, hashes) = bundle();
        let open = || Fetch::open(folder.path(), Arc::clone(&hashes)).expect("opens");
        feed(&mut open(), &bytes, 3);
        let part = part_in(folder.path());
        let mut kept = fs::read(&part).expect("there");
        kept[CHUNK_BYTES as usize + 9] = 0xff;
        fs::write(&part, &kept).expect("written");
        let mut fetch = open();
        assert_eq!(
            fetch.bytes_done(),
            CHUNK_BYTES,
            "from the first wrong chunk"
        );
        feed(&mut fetch, &bytes, 3);
        fetch.keep().expect("kept");
        assert_eq!(fs::read(bundle_in(folder.path())).expect("there"), bytes);
    }

    #[test]
    fn another_versions_bundle_is_not_taken_for_this_one() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(bundle_in(folder.path()), vec![3; CHUNK_BYTES as usize * 5]).expect("written");
        let (_, hashes) = bundle();
        let fetch = Fetch::open(folder.path(), hashes).expect("opens");
        assert_eq!(fetch.bytes_done(), 0);
        assert!(!bundle_in(folder.path()).exists());
        clear(folder.path()).expect("cleared");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
