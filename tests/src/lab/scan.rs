//! A search for plain media: do known pieces of a file appear in a recording or on a disk?
//!
//! A piece may straddle two packets of a recording and so be missed; that is why each file is
//! represented by many pieces. A recording with a plain file in it shows nearly all of them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use anyhow::{Context as _, Result, ensure};

/// The length of a needle in bytes.
pub const NEEDLE_LEN: usize = 64;
/// How many distinct bytes a needle has at least, so that it does not occur by accident.
const MIN_DISTINCT: usize = 40;
/// After so many hits the search ends: one would have been too many.
const MAX_HITS: usize = 32;

/// A piece of a file that must not be seen elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Needle {
    /// The file it is from.
    pub source: PathBuf,
    /// Where in that file it begins, in bytes.
    pub offset: usize,
    /// The piece.
    pub bytes: [u8; NEEDLE_LEN],
}

/// A needle found where it must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The file it was found in.
    pub file: PathBuf,
    /// Where in that file, in bytes.
    pub offset: usize,
    /// The file the needle is from.
    pub source: PathBuf,
}

/// Picks up to `count` pieces of `file`, spread over all of it, each rich in distinct bytes.
///
/// Fails where fewer than half of them can be had: such a file proves nothing.
pub fn needles(file: &Path, count: usize) -> Result<Vec<Needle>> {
    let content = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut seen = HashSet::new();
    let mut found = Vec::with_capacity(count);
    let stretch = (content.len() / count.max(1)).max(NEEDLE_LEN);
    for (index, window) in content.chunks(stretch).enumerate().take(count) {
        let best = window
            .windows(NEEDLE_LEN)
            .enumerate()
            .step_by(NEEDLE_LEN / 2)
            .take(64)
            .max_by_key(|(_, piece)| distinct(piece));
        let Some((at, piece)) = best else { continue };
        let bytes: [u8; NEEDLE_LEN] = piece.try_into().expect("windows() yields NEEDLE_LEN bytes");
        if distinct(&bytes) >= MIN_DISTINCT && seen.insert(bytes) {
            found.push(Needle {
                source: file.to_owned(),
                offset: index * stretch + at,
                bytes,
            });
        }
    }
    ensure!(
        found.len() * 2 >= count,
        "{} has only {} pieces worth looking for, wanted {count}",
        file.display(),
        found.len()
    );
    Ok(found)
}

/// Searches a file, or all files under a folder, for any of the needles.
///
/// Reads in a stream, so size does not matter. Files that vanish meanwhile are passed over; links
/// are not followed.
pub fn contains_any(place: &Path, needles: &[Needle]) -> Result<Vec<Hit>> {
    ensure!(
        !needles.is_empty(),
        "a search without needles finds nothing and proves nothing"
    );
    let automaton = AhoCorasick::new(needles.iter().map(|needle| needle.bytes.as_slice()))
        .context("preparing the search")?;
    let mut hits = Vec::new();
    let mut open = vec![place.to_owned()];
    while let Some(path) = open.pop() {
        let kind = match path.symlink_metadata() {
            Ok(found) => found.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound && path != place => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("looking at {}", path.display()));
            }
        };
        if kind.is_dir() {
            for entry in path
                .read_dir()
                .with_context(|| format!("listing {}", path.display()))?
            {
                open.push(
                    entry
                        .with_context(|| format!("listing {}", path.display()))?
                        .path(),
                );
            }
        } else if kind.is_file() {
            search_file(&path, &automaton, needles, &mut hits)?;
        }
        if hits.len() >= MAX_HITS {
            break;
        }
    }
    Ok(hits)
}

fn search_file(
    path: &Path,
    automaton: &AhoCorasick,
    needles: &[Needle],
    hits: &mut Vec<Hit>,
) -> Result<()> {
    let file = match File::open(path) {
        Ok(file) => BufReader::with_capacity(1 << 18, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    for found in automaton.stream_find_iter(file) {
        let found = found.with_context(|| format!("reading {}", path.display()))?;
        let needle = &needles[found.pattern().as_usize()];
        hits.push(Hit {
            file: path.to_owned(),
            offset: found.start(),
            source: needle.source.clone(),
        });
        if hits.len() >= MAX_HITS {
            break;
        }
    }
    Ok(())
}

fn distinct(piece: &[u8]) -> usize {
    let mut seen = [false; 256];
    for byte in piece {
        seen[usize::from(*byte)] = true;
    }
    seen.iter().filter(|seen| **seen).count()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Noise from a seed: BLAKE3's output stream.
    fn noise(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new()
            .update(&[seed])
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    #[test]
    fn finds_a_piece_across_read_buffers_and_not_one_that_is_absent() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let plain = folder.path().join("plain");
        std::fs::write(&plain, noise(1, 100_000)).expect("writing the source");
        let needles = needles(&plain, 8).expect("noise is rich");
        assert_eq!(needles.len(), 8);

        let clean = folder.path().join("disk/deep");
        std::fs::create_dir_all(&clean).expect("making folders");
        std::fs::write(clean.join("sealed"), noise(2, 2_000_000)).expect("writing noise");
        assert_eq!(
            contains_any(&folder.path().join("disk"), &needles).expect("a search"),
            []
        );

        // Planted so that it straddles the end of a read buffer.
        let at = (1 << 18) - 20;
        let mut dirty = File::create(clean.join("leak")).expect("creating the leak");
        dirty.write_all(&noise(3, at)).expect("writing noise");
        dirty
            .write_all(&needles[5].bytes)
            .expect("planting the needle");
        drop(dirty);
        let hits = contains_any(&folder.path().join("disk"), &needles).expect("a search");
        assert_eq!(
            hits,
            [Hit {
                file: clean.join("leak"),
                offset: at,
                source: plain
            }]
        );
    }

    #[test]
    fn a_dull_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let dull = folder.path().join("dull");
        std::fs::write(&dull, vec![0; 100_000]).expect("writing the source");
        assert!(needles(&dull, 8).is_err());
        assert!(contains_any(&dull, &[]).is_err());
    }
}
