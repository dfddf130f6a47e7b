//! A release's bundle on disk, named by its hash: a file that has its name is whole. Blocking functions.

use mantel_protocol::blob::{BlobHasher, BlobId, HashList};
use mantel_protocol::update::MAX_BUNDLE_BYTES;
use mantel_runtime::files::sync_folder;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The ending of a bundle that is arriving.
const ARRIVING: &str = "part";

/// Where a bundle lies.
pub fn path_of(folder: &Path, bundle: BlobId) -> PathBuf {
    folder.join(format!("{bundle}.raucb"))
}

/// Makes the folder and deletes what no release needs: bundles that were arriving when the server ended, and those that
/// are not among `needed`.
pub fn clear(folder: &Path, needed: &BTreeSet<BlobId>) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let arriving = path.extension().is_some_and(|ending| ending == ARRIVING);
        let name = path.file_stem().and_then(|name| name.to_str());
        let bundle = name.and_then(|name| name.parse::<BlobId>().ok());
        if arriving || bundle.is_some_and(|bundle| !needed.contains(&bundle)) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// A bundle that is arriving; dropped before [`Arriving::keep`], nothing is kept.
pub struct Arriving {
    file: File,
    path: PathBuf,
    folder: PathBuf,
    hasher: BlobHasher,
    size: u64,
}

impl Arriving {
    /// Begins a file.
    pub fn begin(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!("{:032x}.{ARRIVING}", rand::random::<u128>()));
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(&path)?;
        Ok(Self {
            file,
            path,
            folder: folder.to_owned(),
            hasher: BlobHasher::new(),
            size: 0,
        })
    }

    /// Takes bytes; `FileTooLarge` past [`MAX_BUNDLE_BYTES`].
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        if self.size > MAX_BUNDLE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Ends the file and gives it its name, durably. `InvalidData`: it is empty.
    pub fn keep(mut self) -> io::Result<HashList> {
        let hasher = std::mem::take(&mut self.hasher);
        let hashes = hasher.finish().map_err(|_| io::ErrorKind::InvalidData)?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, path_of(&self.folder, hashes.id()))?;
        sync_folder(&self.folder)?;
        Ok(hashes)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // After `keep` there is no such file any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads `count` bytes from `start`; all of them, or an error.
pub fn read(folder: &Path, bundle: BlobId, start: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    File::open(path_of(folder, bundle))?.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).expect("a folder").count()
    }

    #[test]
    fn only_a_whole_bundle_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        clear(folder.path(), &BTreeSet::new()).expect("clean");
        let mut cut_off = Arriving::begin(folder.path()).expect("begun");
        cut_off.write(b"half").expect("written");
        drop(cut_off);
        let empty = Arriving::begin(folder.path()).expect("begun").keep();
        assert_eq!(
            empty.expect_err("refused").kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(files(folder.path()), 0);

        let mut whole = Arriving::begin(folder.path()).expect("begun");
        whole.write(b"a whole ").expect("written");
        whole.write(b"bundle").expect("written");
        let hashes = whole.keep().expect("kept");
        assert_eq!(hashes.id().0, *blake3::hash(b"a whole bundle").as_bytes());
        let read = |start, count| read(folder.path(), hashes.id(), start, count);
        assert_eq!(read(2, 5).expect("read"), b"whole");
        assert!(read(10, 9).is_err(), "past the end");

        std::fs::write(folder.path().join("left.part"), "x").expect("written");
        clear(folder.path(), &BTreeSet::from([hashes.id()])).expect("clean");
        assert_eq!(files(folder.path()), 1);
        clear(folder.path(), &BTreeSet::new()).expect("clean");
        assert_eq!(files(folder.path()), 0, "no release needs it");
    }
}
