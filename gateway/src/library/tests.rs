//! The library on real files: sealed import, what is found inside, and what is left behind when it fails (F2, F3, F26).

use super::*;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mantel_protocol::blob::{BlobHasher, CHUNK_BYTES, HashList};
use mantel_protocol::key::SigningKey;
use mantel_protocol::seal::{Cipher, sealed_len};
use std::io::{self, Read};
use tokio::process::Command;

/// A library in a folder of its own, with a database of its own.
pub(crate) struct Home {
    pub(crate) library: Library,
    pub(crate) db: Db,
    pub(crate) clock: Clock,
    pub(crate) tasks: Tasks,
    pub(crate) folder: PathBuf,
    #[allow(dead_code, reason = "the folder goes when it is dropped")]
    kept: Option<tempfile::TempDir>,
}

impl Home {
    pub(crate) async fn new() -> Self {
        Self::with(LibraryOptions::new(SigningKey::generate().device_id())).await
    }

    pub(crate) async fn with(options: LibraryOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut home = Self::open(folder.path(), options, Clock::real(), &[]).await;
        home.kept = Some(folder);
        home
    }

    pub(crate) async fn at(folder: &Path) -> Self {
        Self::open(
            folder,
            LibraryOptions::new(SigningKey::generate().device_id()),
            Clock::real(),
            &[],
        )
        .await
    }

    pub(crate) async fn open(
        folder: &Path,
        options: LibraryOptions,
        clock: Clock,
        more: &[Schema],
    ) -> Self {
        let schemas = [&[SCHEMA, crate::devices::SCHEMA][..], more].concat();
        let db = Db::open(&folder.join("gateway.db"), &schemas).expect("a database");
        let key = ContentKey::from_bytes(&[7; 32]).expect("32 bytes");
        let tasks = Tasks::root();
        let library = Library::open(folder, db.clone(), key, clock.clone(), &tasks, options)
            .await
            .expect("a library");
        Self {
            library,
            db,
            clock,
            tasks,
            folder: folder.to_owned(),
            kept: None,
        }
    }

    /// All files below the data folder with their content.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let (mut found, mut folders) = (Vec::new(), vec![self.folder.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let mut bytes = Vec::new();
                    std::fs::File::open(&path)
                        .and_then(|mut f| f.read_to_end(&mut bytes))
                        .expect("readable");
                    found.push((path, bytes));
                }
            }
        }
        found
    }

    fn blob_files(&self) -> Vec<PathBuf> {
        self.files()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| path.starts_with(self.folder.join("blobs")))
            .collect()
    }
}

/// Bytes as a blob holds them, with their hashes.
pub(crate) fn sealed_blob(len: usize, seed: u8) -> (Vec<u8>, HashList) {
    let bytes = noise(len, u64::from(seed) + 1);
    let mut hasher = BlobHasher::new();
    hasher.update(&bytes);
    (bytes, hasher.finish().expect("not empty"))
}

/// Bytes without repetition, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

pub(crate) fn upload(name: &str, mime: Option<&str>, bytes: &[u8]) -> ImportSource {
    let pieces: Vec<io::Result<Bytes>> = bytes
        .chunks(70_001)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    ImportSource::upload(name, mime, Some(bytes.len() as u64), stream::iter(pieces))
}

/// A film, a photo or a song, made by ffmpeg.
pub(crate) async fn media(arguments: &[&str], name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(name);
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(arguments)
        .arg(&path)
        .output()
        .await;
    let made = made.expect("ffmpeg is installed");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    std::fs::read(path).expect("made")
}

pub(crate) async fn film() -> Vec<u8> {
    let arguments = [
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=640x360:rate=15:duration=4",
        "-f",
        "lavfi",
        "-i",
        "sine=duration=4",
        "-c:v",
        "mpeg4",
        "-q:v",
        "3",
        "-c:a",
        "aac",
        "-metadata",
        "creation_time=2019-07-02T10:22:18Z",
    ];
    media(&arguments, "film.mp4").await
}

async fn photo() -> Vec<u8> {
    media(
        &[
            "-f",
            "lavfi",
            "-i",
            "mandelbrot=size=1200x800",
            "-frames:v",
            "1",
        ],
        "photo.jpg",
    )
    .await
}

/// Puts an EXIF segment (EXIF 2.3 §4.5) with DateTimeOriginal and an orientation into a JPEG.
fn with_exif(jpeg: &[u8], date: &[u8; 19], orientation: u8) -> Vec<u8> {
    let mut tiff = b"II*\0\x08\0\0\0".to_vec();
    tiff.extend_from_slice(b"\x02\0");
    tiff.extend_from_slice(&[0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0]);
    tiff.extend_from_slice(&[0x69, 0x87, 4, 0, 1, 0, 0, 0, 38, 0, 0, 0]);
    tiff.extend_from_slice(&[0, 0, 0, 0]);
    tiff.extend_from_slice(&[1, 0, 0x03, 0x90, 2, 0, 20, 0, 0, 0, 56, 0, 0, 0, 0, 0, 0, 0]);
    tiff.extend_from_slice(date);
    tiff.push(0);
    let mut out = vec![0xff, 0xd8, 0xff, 0xe1];
    out.extend_from_slice(&(tiff.len() as u16 + 8).to_be_bytes());
    out.extend_from_slice(b"Exif\0\0");
    out.extend_from_slice(&tiff);
    out.extend_from_slice(&jpeg[2..]);
    out
}

/// Width and height of a JPEG, from its frame header (ITU-T T.81 §B.2.2).
fn jpeg_size(jpeg: &[u8]) -> (u16, u16) {
    let mut at = 2;
    loop {
        let (marker, len) = (
            jpeg[at + 1],
            u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]),
        );
        if matches!(marker, 0xc0..=0xc2) {
            let word = |i: usize| u16::from_be_bytes([jpeg[at + i], jpeg[at + i + 1]]);
            return (word(7), word(5));
        }
        at += 2 + len as usize;
    }
}

#[tokio::test]
async fn a_film_is_sealed_described_and_never_on_disk_in_the_clear() {
    let home = Home::new().await;
    let film = film().await;
    let id = home
        .library
        .import(upload("Summer at the sea.mp4", None, &film))
        .await
        .expect("imported");
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (title.name.as_str(), title.kind, title.state),
        ("Summer at the sea", MediaKind::Video, TitleState::Ready)
    );
    assert_eq!(title.note, None);
    let asset = title.main_asset().expect("one");
    assert_eq!((asset.width, asset.height), (Some(640), Some(360)));
    assert_eq!(asset.codecs.as_deref(), Some("mpeg4, aac"));
    assert!((3900..4200).contains(&asset.duration_ms.expect("known")));
    assert_eq!(
        title.recorded.map(|t| t.to_string()).as_deref(),
        Some("2019-07-02T10:22:18Z")
    );
    assert_eq!(
        (asset.plain_bytes, asset.sealed_bytes),
        (film.len() as u64, sealed_len(film.len() as u64))
    );
    let thumbnail = home
        .library
        .thumbnail(id)
        .await
        .expect("readable")
        .expect("one");
    assert_eq!(jpeg_size(&thumbnail), (320, 180));
    // The same bytes come out, by range.
    let key = home
        .library
        .own_key(id, asset.blob)
        .await
        .expect("readable")
        .expect("stored");
    let plain = home
        .library
        .plaintext(asset.blob, key)
        .await
        .expect("opens")
        .expect("complete");
    for (from, len) in [
        (0, film.len()),
        (65_530, 20),
        (film.len() - 1, 1),
        (70_000, 70_000),
    ] {
        assert_eq!(
            plain.read_at(from as u64, len).await.expect("inside")[..],
            film[from..from + len]
        );
    }
    assert!(plain.read_at(film.len() as u64, 1).await.is_err());
    // And no 32-byte piece of film or thumbnail is in any file.
    for needle in [
        &film[film.len() / 2..][..32],
        &film[..32],
        &film[film.len() - 32..],
        &thumbnail[100..132],
    ] {
        for (path, bytes) in home.files() {
            assert!(
                !bytes.windows(32).any(|window| window == needle),
                "plaintext in {}",
                path.display()
            );
        }
    }
    assert_eq!(home.blob_files().len(), 2, "the blob and its hashes");
}

#[tokio::test]
async fn a_photo_keeps_its_date_and_stands_upright() {
    let home = Home::new().await;
    let plain = photo().await;
    let turned = with_exif(&plain, b"2013:04:13 10:22:18", 6);
    let id = home
        .library
        .import(upload("DSC01.JPG", Some("image/jpeg"), &turned))
        .await
        .expect("imported");
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (title.kind, title.note.as_deref()),
        (MediaKind::Image, None)
    );
    let wanted = probe::local_time("2013-04-13T10:22:18".parse().expect("a time"));
    assert_eq!(title.recorded, wanted);
    let asset = title.main_asset().expect("one");
    assert_eq!(
        (asset.width, asset.height, asset.duration_ms),
        (Some(1200), Some(800), None)
    );
    let thumbnail = home
        .library
        .thumbnail(id)
        .await
        .expect("readable")
        .expect("one");
    let (width, height) = jpeg_size(&thumbnail);
    assert!(
        width <= 320 && height <= 320 && width > 100 && height > 100,
        "{width}x{height}"
    );
}

#[tokio::test]
async fn a_song_and_what_is_no_media_are_taken_too() {
    let home = Home::new().await;
    let song = media(
        &["-f", "lavfi", "-i", "sine=duration=3", "-c:a", "flac"],
        "song.flac",
    )
    .await;
    let id = home
        .library
        .import(upload("song.flac", None, &song))
        .await
        .expect("imported");
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (title.kind, title.main_asset().expect("one").mime.as_str()),
        (MediaKind::Audio, "audio/flac")
    );
    assert_eq!(home.library.thumbnail(id).await.expect("readable"), None);
    let broken = noise(200_000, 3);
    let id = home
        .library
        .import(upload("broken.mp4", Some("video/mp4"), &broken))
        .await
        .expect("kept");
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (title.kind, title.state),
        (MediaKind::Data, TitleState::Ready)
    );
    assert!(
        title
            .note
            .expect("a word about it")
            .contains("could not be read as media")
    );
}

#[tokio::test]
async fn a_large_file_is_looked_into_by_its_edges() {
    let home = Home::new().await;
    // The index (moov) at the end, as cameras write it, and 90 MiB before it that no frame is in.
    let film = film().await;
    let index = film
        .windows(4)
        .rposition(|word| word == b"moov")
        .expect("an index")
        - 4;
    let gap = 90u32 << 20;
    let mut padded = film[..index].to_vec();
    padded.extend_from_slice(&gap.to_be_bytes());
    padded.extend_from_slice(b"free");
    padded.resize(index + gap as usize, 0x5A);
    padded.extend_from_slice(&film[index..]);
    let pieces: Vec<io::Result<Bytes>> = padded
        .chunks(1 << 20)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let id = home
        .library
        .import(ImportSource::upload(
            "large.mp4",
            None,
            None,
            stream::iter(pieces),
        ))
        .await
        .expect("imported");
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(title.plain_bytes(), padded.len() as u64);
    let asset = title.main_asset().expect("one");
    assert_eq!(
        (title.kind, asset.width, title.note.as_deref()),
        (MediaKind::Video, Some(640), None)
    );
    assert!(
        home.library
            .thumbnail(id)
            .await
            .expect("readable")
            .is_some()
    );
    let key = home
        .library
        .own_key(id, asset.blob)
        .await
        .expect("readable")
        .expect("stored");
    let plain = home
        .library
        .plaintext(asset.blob, key)
        .await
        .expect("opens")
        .expect("complete");
    let memory = plain.to_memory().expect("in memory");
    assert!(!memory.whole);
    let used = rustix::fs::fstat(&*memory.file).expect("known").st_blocks as u64 * 512;
    // Whole pages: the edges need not begin at one.
    assert!(
        used <= 2 * plain::EDGE_BYTES + 64 * 1024,
        "{used} bytes of memory"
    );
    assert!(
        rustix::io::write(&*memory.file, b"x").is_err(),
        "it cannot be written"
    );
}

#[tokio::test]
async fn the_same_content_is_one_title_and_goes_when_removed() {
    let home = Home::new().await;
    let mut changes = home.library.changes();
    let bytes = noise(300_000, 1);
    let first = home
        .library
        .import(upload("a.bin", None, &bytes))
        .await
        .expect("imported");
    assert!(changes.has_changed().expect("open"));
    changes.mark_unchanged();
    let second = home
        .library
        .import(upload("b.bin", None, &bytes))
        .await
        .expect("recognised");
    assert_eq!(first, second);
    assert_eq!(
        (
            home.library.list().await.expect("readable").len(),
            home.blob_files().len()
        ),
        (1, 2)
    );
    home.library
        .rename(first, " New\nname ")
        .await
        .expect("renamed");
    assert_eq!(
        home.library.list().await.expect("readable")[0].name,
        "New name"
    );
    home.library.remove(first).await.expect("removed");
    assert_eq!(
        (
            home.library.list().await.expect("readable").len(),
            home.blob_files().len()
        ),
        (0, 0)
    );
    assert!(matches!(
        home.library.rename(first, "x").await,
        Err(LibraryError::NoSuchTitle)
    ));
    let third = home
        .library
        .import(upload("a.bin", None, &bytes))
        .await
        .expect("imported again");
    assert_ne!(first, third);
}

#[tokio::test]
async fn a_failed_import_leaves_nothing_behind() {
    let home = Home::new().await;
    let broken = stream::iter(vec![
        Ok(Bytes::from(noise(3 << 20, 2))),
        Err(io::Error::other("cable pulled")),
    ]);
    let failed = home
        .library
        .import(ImportSource::upload("x.mp4", None, None, broken))
        .await;
    assert!(matches!(failed, Err(ImportError::Upload { .. })));
    let empty = home.library.import(upload("x.mp4", None, b"")).await;
    assert!(matches!(empty, Err(ImportError::Empty { .. })));
    // A person gives up in the middle.
    let endless = stream::iter(vec![Ok::<_, io::Error>(Bytes::from(noise(3 << 20, 2)))])
        .chain(stream::pending());
    let mut imports = home.library.imports();
    let import = home
        .library
        .import(ImportSource::upload("y.mp4", None, None, endless));
    // The guard that `wait_for` gives must be gone before the import's last word on its row.
    let copied = async {
        imports
            .wait_for(|rows| {
                rows.iter()
                    .any(|row| row.name == "y" && row.bytes_done >= 2 << 20)
            })
            .await
            .map(drop)
    };
    tokio::select! {
        _ = import => panic!("it never ends"),
        _ = copied => {}
    }
    let rows = home.library.imports().borrow().clone();
    let phases: Vec<_> = rows
        .iter()
        .map(|row| matches!(row.phase, ImportPhase::Failed(_)))
        .collect();
    assert_eq!(phases, [true, true, true]);
    // What was being written when it was dropped goes with the thread that writes it.
    wait_until(|| home.blob_files().is_empty()).await;
    assert!(home.library.list().await.expect("readable").is_empty());
}

/// Polls with a deadline: some work ends on threads of its own.
pub(crate) async fn wait_until(mut done: impl FnMut() -> bool) {
    let polled = async {
        while !done() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), polled)
        .await
        .expect("it happens");
}

#[tokio::test]
async fn a_full_disk_and_a_file_too_large_are_refused_in_words() {
    let publisher = SigningKey::generate().device_id();
    let full = LibraryOptions {
        min_free_bytes: u64::MAX / 2,
        ..LibraryOptions::new(publisher)
    };
    let home = Home::with(full).await;
    let error = home
        .library
        .import(upload("Film.mp4", None, &noise(100_000, 1)))
        .await
        .expect_err("no room");
    assert!(
        matches!(error, ImportError::DiskFull { free: 0, .. }),
        "{error:?}"
    );
    insta::assert_snapshot!(error, @r#""Film" was not imported: the gateway's disk has 0 bytes left for media and 100.1 KB are needed. Nothing of it was kept. Remove titles or attach a larger disk, then import it again"#);
    let small = LibraryOptions {
        max_import_bytes: 99_999,
        ..LibraryOptions::new(publisher)
    };
    let home = Home::with(small).await;
    for told in [Some(100_000), None] {
        let pieces = vec![Ok::<_, io::Error>(Bytes::from(noise(100_000, 1)))];
        let source = ImportSource::upload("x", None, told, stream::iter(pieces));
        assert!(matches!(
            home.library.import(source).await,
            Err(ImportError::TooLarge { .. })
        ));
    }
    assert!(home.blob_files().is_empty());
}

#[tokio::test]
async fn without_a_sandbox_nothing_is_looked_into_and_the_page_can_say_so() {
    let options = LibraryOptions {
        enclosure: Enclosure::Bubblewrap("/nonexistent/bwrap".into()),
        ..LibraryOptions::new(SigningKey::generate().device_id())
    };
    let home = Home::with(options).await;
    let MediaTools::Missing(why) = home.library.media_tools().await else {
        panic!("there is none")
    };
    assert!(why.contains("bubblewrap"));
    let id = home
        .library
        .import(upload("photo.jpg", None, &photo().await))
        .await
        .expect("imported");
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (title.kind, title.note.as_ref()),
        (MediaKind::Image, Some(&why))
    );
    assert_eq!(title.main_asset().expect("one").width, None);
    assert_eq!(home.library.thumbnail(id).await.expect("readable"), None);
}

#[tokio::test]
async fn a_restart_clears_what_a_crash_left_and_keeps_the_rest() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = noise(400_000, 5);
    let (_, list) = sealed_blob(CHUNK_BYTES as usize, 9);
    let id = {
        let home = Home::at(folder.path()).await;
        let id = home
            .library
            .import(upload("kept.bin", None, &bytes))
            .await
            .expect("imported");
        home.library
            .blobs()
            .partial(list.id(), list.size())
            .await
            .expect("begun");
        id
    };
    let blobs = folder.path().join("blobs");
    std::fs::write(blobs.join("import-1.tmp"), b"half").expect("written");
    let orphan = blobs.join("aa").join(format!("{}.blob", "aa".repeat(32)));
    std::fs::create_dir_all(blobs.join("aa")).expect("made");
    std::fs::write(&orphan, b"no title names it").expect("written");
    let home = Home::at(folder.path()).await;
    let names: Vec<String> = home
        .blob_files()
        .iter()
        .map(|p| p.extension().expect("one").to_string_lossy().into_owned())
        .collect();
    assert!(
        !orphan.exists() && !names.iter().any(|name| name == "tmp"),
        "{names:?}"
    );
    assert!(
        names.iter().any(|name| name == "part"),
        "an arriving blob is kept"
    );
    let title = home
        .library
        .title(id)
        .await
        .expect("readable")
        .expect("there");
    let key = home
        .library
        .own_key(id, title.assets[0].blob)
        .await
        .expect("readable")
        .expect("stored");
    let plain = home
        .library
        .plaintext(title.assets[0].blob, key)
        .await
        .expect("opens")
        .expect("complete");
    assert_eq!(
        plain.read_at(0, bytes.len()).await.expect("readable")[..],
        bytes[..]
    );
}

#[tokio::test]
async fn an_arriving_title_becomes_ready_when_its_bytes_are_here() {
    let sender = Home::new().await;
    let film = film().await;
    let own = sender
        .library
        .import(upload("film.mp4", None, &film))
        .await
        .expect("imported");
    let title = sender
        .library
        .title(own)
        .await
        .expect("readable")
        .expect("there");
    let blob = title.assets[0].blob;
    let key = sender
        .library
        .own_key(own, blob)
        .await
        .expect("readable")
        .expect("stored");
    let manifest = Manifest {
        title: own,
        name: title.name.clone(),
        kind: title.kind,
        recorded: title.recorded,
        publisher: title.publisher,
        assets: title.assets.clone(),
    };
    let home = Home::new().await;
    let from = (HomeId::generate(), "Grandma".to_owned());
    for _ in 0..2 {
        home.library
            .add_arriving(&manifest, "token".into(), from.clone())
            .await
            .expect("idempotent");
    }
    let hostile = Manifest {
        publisher: SigningKey::generate().device_id(),
        ..manifest.clone()
    };
    let refused = home
        .library
        .add_arriving(&hostile, "token".into(), from.clone())
        .await;
    assert!(matches!(refused, Err(LibraryError::BadManifest)));
    assert!(matches!(
        home.library.set_ready(own).await,
        Err(LibraryError::Incomplete { missing: 1 })
    ));
    let reader = sender
        .library
        .blobs()
        .read(blob)
        .await
        .expect("readable")
        .expect("complete");
    let mut part = home
        .library
        .blobs()
        .partial(blob, reader.size())
        .await
        .expect("made");
    part.set_hashes(reader.hashes().clone())
        .await
        .expect("its own");
    for run in part.missing() {
        for index in run.start..run.end() {
            let at = index * CHUNK_BYTES;
            let len = (reader.size() - at).min(CHUNK_BYTES) as usize;
            part.write(
                index,
                reader.read_at(at, len).await.expect("readable").to_vec(),
            )
            .await
            .expect("right");
        }
    }
    part.finish().await.expect("complete");
    home.library.set_ready(own).await.expect("ready");
    assert_eq!(
        home.library
            .own_key(own, blob)
            .await
            .expect("readable")
            .map(|_| ()),
        None,
        "no key came yet"
    );
    home.library
        .make_thumbnail(own, key.clone())
        .await
        .expect("made");
    assert!(
        home.library
            .thumbnail(own)
            .await
            .expect("readable")
            .is_some()
    );
    home.library
        .store_keys(own, &TitleKeys::new([(blob, &key)]))
        .await
        .expect("stored");
    assert!(home.library.own_key(own, blob).await.expect("readable") == Some(key));
    let here = home
        .library
        .title(own)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (here.state, here.manifest.as_deref()),
        (TitleState::Ready, Some("token"))
    );
    assert_eq!(here.assets[0].cipher, Cipher::default());
    assert_eq!(
        here.origin,
        Origin::Home {
            home: from.0,
            name: from.1
        }
    );
}
