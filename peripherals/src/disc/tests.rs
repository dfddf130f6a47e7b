//! With the real `cd-paranoia` and `cd-info` on an image of a disc (BIN/CUE), and the real `flac` to decode.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::StreamExt;

use super::*;

/// Sectors of each track.
const LENGTHS: [u32; 3] = [320, 301, 450];

/// A disc with three tracks of a sweep and noise; gives its sound.
fn burn(folder: &Path, with_text: bool) -> (PathBuf, Vec<u8>) {
    let mut sound = Vec::new();
    let mut noise = 1_u32;
    let total: u32 = LENGTHS.iter().sum();
    for n in 0..u64::from(total) * SECTOR_SAMPLES {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let sweep = ((n as f64 / 90.0) * (1.0 + n as f64 / 4e6)).sin() * 12_000.0;
        let left = sweep as i16;
        let right = (sweep / 2.0) as i16 + (noise >> 20) as i16;
        sound.extend(left.to_le_bytes());
        sound.extend(right.to_le_bytes());
    }
    fs::write(folder.join("disc.bin"), &sound).expect("written");
    let mut cue = String::new();
    if with_text {
        cue += "PERFORMER \"The Testers\"\nTITLE \"Songs of the Lab\"\n";
    }
    cue += "FILE \"disc.bin\" BINARY\n";
    let mut begin = 0;
    for (number, length) in (1..).zip(LENGTHS) {
        writeln!(cue, "  TRACK {number:02} AUDIO").expect("text");
        if with_text {
            writeln!(cue, "    TITLE \"Song {number}\"").expect("text");
        }
        let (minute, second, frame) = (begin / 4500, begin / 75 % 60, begin % 75);
        writeln!(cue, "    INDEX 01 {minute:02}:{second:02}:{frame:02}").expect("text");
        begin += length;
    }
    fs::write(folder.join("disc.cue"), cue).expect("written");
    (folder.join("disc.cue"), sound)
}

fn disc(drive: PathBuf) -> Disc {
    let access = DiscAccess {
        drive,
        medium: Medium::Audio,
    };
    Disc::new("CD drive".to_owned(), access)
}

async fn items(disc: &Disc) -> Vec<Item> {
    let page = disc.list(&ObjectId::root(), PageRequest::default()).await;
    let entries = page.expect("a disc").entries;
    let item = |entry| match entry {
        Entry::Item(item) => item,
        Entry::Container(folder) => panic!("{folder:?}"),
    };
    entries.into_iter().map(item).collect()
}

async fn rip(disc: &Disc, item: &Item) -> Vec<u8> {
    let request = FetchRequest::whole(1 << 30);
    let mut fetched = disc
        .fetch(&item.resources[0], request)
        .await
        .expect("begun");
    let mut bytes = Vec::new();
    while let Some(piece) = fetched.body.next().await {
        bytes.extend(piece.expect("a frame"));
    }
    bytes
}

fn decode(folder: &Path, flac: &[u8]) -> Vec<u8> {
    let (from, to) = (folder.join("track.flac"), folder.join("track.raw"));
    fs::write(&from, flac).expect("written");
    let flac = Command::new("flac")
        .args([
            "-d",
            "-f",
            "-s",
            "--force-raw-format",
            "--endian=little",
            "--sign=signed",
            "-o",
        ])
        .arg(&to)
        .arg(&from)
        .output()
        .expect("the program flac is installed");
    assert!(
        flac.status.success(),
        "{}",
        String::from_utf8_lossy(&flac.stderr)
    );
    fs::read(to).expect("decoded")
}

#[tokio::test]
async fn each_track_comes_as_flac_that_is_the_disc_bit_for_bit() {
    let folder = tempfile::tempdir().expect("a folder");
    let (cue, sound) = burn(folder.path(), true);
    let disc = disc(cue);
    let items = items(&disc).await;
    assert_eq!(items.len(), 3);
    let mut begin = 0;
    for (item, sectors) in items.iter().zip(LENGTHS) {
        let end = begin + sectors as usize * wire::SECTOR_BYTES as usize;
        let flac = rip(&disc, item).await;
        assert!(flac.len() < end - begin, "compressed");
        let decoded = decode(folder.path(), &flac);
        assert!(decoded == sound[begin..end], "{}", item.title);
        begin = end;
    }
    let tags = Command::new("metaflac")
        .arg("--export-tags-to=-")
        .arg(folder.path().join("track.flac"))
        .output()
        .expect("metaflac is installed");
    let tags = String::from_utf8_lossy(&tags.stdout).into_owned();
    for tag in [
        "TITLE=Song 3",
        "ALBUM=Songs of the Lab",
        "ARTIST=The Testers",
        "TRACKNUMBER=3",
    ] {
        assert!(tags.lines().any(|line| line == tag), "{tag} in {tags}");
    }
}

#[tokio::test]
async fn without_cd_text_tracks_are_numbered_and_the_key_is_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let named = items(&disc(burn(folder.path(), true).0)).await;
    let bare = items(&disc(burn(folder.path(), false).0)).await;
    assert_eq!(named[0].title, "Song 1");
    assert_eq!(named[0].album.as_deref(), Some("Songs of the Lab"));
    let disc_id = bare[1].id.as_str().strip_suffix("/2").expect("the second");
    assert_eq!(disc_id.len(), 28);
    assert_eq!(bare[1].title, format!("Audio CD {disc_id} - Track 2"));
    assert_eq!(named[1].id, bare[1].id);
}

#[tokio::test]
async fn another_disc_is_not_taken_for_the_one_that_was_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let disc = disc(burn(folder.path(), true).0);
    let mut item = items(&disc).await.remove(0);
    let foreign = ObjectId::new("AAAAAAAAAAAAAAAAAAAAAAAAAAA-/1").expect("valid");
    item.resources[0].location = Location::Object(foreign.clone());
    let request = FetchRequest::whole(1 << 30);
    let fetched = disc.fetch(&item.resources[0], request).await;
    assert!(matches!(fetched, Err(FetchError::Gone { .. })));
    assert!(matches!(
        disc.item(&foreign).await,
        Err(ListError::NotFound { .. })
    ));
}

#[tokio::test]
async fn no_disc_is_said_in_plain_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let listed = disc(folder.path().join("none.cue"))
        .list(&ObjectId::root(), PageRequest::default())
        .await;
    let error = listed.expect_err("there is none");
    assert!(
        matches!(error, ListError::NothingInside { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_rip_that_nobody_waits_for_ends_and_frees_the_drive() {
    let folder = tempfile::tempdir().expect("a folder");
    let disc = disc(burn(folder.path(), true).0);
    let items = items(&disc).await;
    let request = FetchRequest::whole(1 << 30);
    let mut fetched = disc
        .fetch(&items[0].resources[0], request)
        .await
        .expect("begun");
    fetched.body.next().await.expect("a head").expect("sound");
    // While it is read, what is on it is still told.
    assert_eq!(self::items(&disc).await.len(), 3);
    drop(fetched);
    assert!(!rip(&disc, &items[1]).await.is_empty());
}
