//! Uploads broken off everywhere and taken up again, over restarts of the library too.

use super::tests::{Home, noise};
use super::*;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mantel_protocol::key::SigningKey;
use std::io;

fn pieces(bytes: &[u8]) -> SourceStream {
    let pieces: Vec<Result<Bytes, SourceError>> = bytes
        .chunks(50_021)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    stream::iter(pieces).boxed()
}

/// A connection that breaks after these bytes.
fn breaking(bytes: &[u8]) -> SourceStream {
    let broken = stream::once(async { Err(SourceError::from(io::Error::other("unplugged"))) });
    pieces(bytes).chain(broken).boxed()
}

async fn plain_of(home: &Home, title: TitleId) -> Vec<u8> {
    let library = &home.library;
    let found = library
        .title(title)
        .await
        .expect("readable")
        .expect("there");
    let asset = found.main_asset().expect("an asset");
    let key = library
        .own_key(title, asset.blob)
        .await
        .expect("readable")
        .expect("a key");
    let plain = library
        .plaintext(asset.blob, key)
        .await
        .expect("opens")
        .expect("complete");
    let (mut all, total) = (Vec::new(), plain.plain_bytes());
    while (all.len() as u64) < total {
        let len = (total - all.len() as u64).min(1 << 20) as usize;
        all.extend_from_slice(&plain.read_at(all.len() as u64, len).await.expect("read"));
    }
    all
}

#[tokio::test]
async fn an_upload_survives_broken_connections_and_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = || LibraryOptions::new(SigningKey::generate().device_id());
    let open = || {
        Home::open(
            folder.path(),
            options(),
            mantel_runtime::clock::Clock::real(),
            &[],
        )
    };
    let bytes = noise(3_000_000, 5);
    let mut home = open().await;
    let id = home
        .library
        .begin_upload("DCIM/IMG 1.JPG", Some("image/jpeg"), bytes.len() as u64)
        .await
        .expect("begun");
    let mut acknowledged = 0u64;
    for cut in [10u64, 65_536, 200_000, 1_048_576 + 7, 2_900_000] {
        let from = home.library.upload_state(id).await.expect("known").offset;
        assert!(
            from >= acknowledged,
            "{from} of {acknowledged} acknowledged bytes"
        );
        let part = &bytes[from as usize..cut.max(from) as usize];
        let broke = home.library.append_upload(id, from, breaking(part)).await;
        let Err(UploadError::BrokenOff { offset, .. }) = broke else {
            panic!("{broke:?}")
        };
        acknowledged = offset;
        assert_eq!(
            acknowledged,
            cut / 65_536 * 65_536,
            "whole records are kept"
        );
        // As after kill -9: nothing is closed in order.
        home = open().await;
    }
    let wrong = home.library.append_upload(id, 7, pieces(b"x")).await;
    assert!(
        matches!(wrong, Err(UploadError::Offset { offset }) if offset == acknowledged),
        "{wrong:?}"
    );
    for (path, stored) in home.files() {
        let shows = stored.windows(64).any(|w| w == &bytes[70_000..70_064]);
        assert!(!shows, "plaintext in {}", path.display());
    }
    let rest = pieces(&bytes[acknowledged as usize..]);
    let state = home
        .library
        .append_upload(id, acknowledged, rest)
        .await
        .expect("whole");
    let title = state.title.expect("a title");
    assert!(!state.was_there);
    assert_eq!(plain_of(&home, title).await, bytes);
    assert_eq!(home.library.upload_state(id).await.expect("known"), state);
    let home = open().await;
    let name = home
        .library
        .title(title)
        .await
        .expect("readable")
        .expect("there")
        .name;
    assert_eq!(name, "IMG 1");
    let left = home
        .files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "part" || e == "tmp"));
    assert_eq!(left.count(), 0);

    let again = home
        .library
        .begin_upload("copy.jpg", None, bytes.len() as u64)
        .await
        .expect("begun");
    let state = home
        .library
        .append_upload(again, 0, pieces(&bytes))
        .await
        .expect("whole");
    assert!(state.was_there && state.title == Some(title), "{state:?}");
    assert_eq!(home.library.list().await.expect("a list").len(), 1);
}

#[tokio::test]
async fn torn_and_damaged_ends_are_sent_again_but_never_with_other_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = Home::at(folder.path()).await;
    let bytes = noise(400_000, 6);
    let id = home
        .library
        .begin_upload("a.bin", None, 400_000)
        .await
        .expect("begun");
    let cut = home
        .library
        .append_upload(id, 0, breaking(&bytes[..200_000]))
        .await;
    assert!(
        matches!(
            cut,
            Err(UploadError::BrokenOff {
                offset: 196_608,
                ..
            })
        ),
        "{cut:?}"
    );
    let file = folder.path().join(format!("blobs/upload-{id}.part"));
    let whole = std::fs::read(&file).expect("there");
    // The last record is cut in the middle, as a lost power supply may do.
    std::fs::write(&file, &whole[..whole.len() - 9_000]).expect("written");
    let home = Home::at(folder.path()).await;
    assert_eq!(
        home.library.upload_state(id).await.expect("known").offset,
        131_072
    );
    let other = noise(400_000, 7);
    let changed = home
        .library
        .append_upload(id, 131_072, pieces(&other[131_072..]))
        .await;
    assert!(matches!(changed, Err(UploadError::Changed)), "{changed:?}");

    let state = home.library.upload_state(id).await;
    assert!(matches!(state, Err(UploadError::NoSuchUpload)), "{state:?}");

    let id = home
        .library
        .begin_upload("a.bin", None, 400_000)
        .await
        .expect("begun");
    let cut = home
        .library
        .append_upload(id, 0, breaking(&bytes[..200_000]))
        .await;
    assert!(matches!(cut, Err(UploadError::BrokenOff { .. })), "{cut:?}");
    let file = folder.path().join(format!("blobs/upload-{id}.part"));
    let mut torn = std::fs::read(&file).expect("there");
    let end = torn.len();
    torn.truncate(end - 9_000);
    torn.resize(end, 0); // a length that was durable before its bytes
    std::fs::write(&file, &torn).expect("written");
    let home = Home::at(folder.path()).await;
    let wrong = home.library.append_upload(id, 196_608, pieces(b"x")).await;
    assert!(
        matches!(wrong, Err(UploadError::Offset { offset: 131_072 })),
        "{wrong:?}"
    );
    let state = home
        .library
        .append_upload(id, 131_072, pieces(&bytes[131_072..]))
        .await
        .expect("whole");
    assert_eq!(plain_of(&home, state.title.expect("a title")).await, bytes);
}

#[tokio::test]
async fn limits_are_told_before_a_byte_is_sent() {
    let mut options = LibraryOptions::new(SigningKey::generate().device_id());
    options.max_import_bytes = 1_000_000;
    let home = Home::with(options).await;
    for size in [0, 1_000_001, u64::MAX] {
        let refused = home.library.begin_upload("x", None, size).await;
        assert!(refused.is_err(), "{size}");
    }
    let id = home
        .library
        .begin_upload("x.bin", None, 3)
        .await
        .expect("begun");
    let state = home
        .library
        .append_upload(id, 0, pieces(b"abcd"))
        .await
        .expect("what was announced");
    assert_eq!(plain_of(&home, state.title.expect("a title")).await, b"abc");
    let id = home
        .library
        .begin_upload("y.bin", None, 9)
        .await
        .expect("begun");
    home.library.drop_upload(id).await.expect("dropped");
    let gone = home.library.append_upload(id, 0, pieces(b"abcd")).await;
    assert!(matches!(gone, Err(UploadError::NoSuchUpload)));
}

#[tokio::test]
async fn a_phone_that_comes_back_takes_over_from_its_dead_connection() {
    let home = Home::new().await;
    let bytes = noise(300_000, 9);
    let id = home
        .library
        .begin_upload("a.bin", None, 300_000)
        .await
        .expect("begun");
    let hanging = pieces(&bytes[..150_000]).chain(stream::pending()).boxed();
    let library = home.library.clone();
    let dead = home.tasks.child();
    let (told, ended) = tokio::sync::oneshot::channel();
    dead.spawn("dead connection", async move {
        let _ = told.send(library.append_upload(id, 0, hanging).await.is_err());
    });
    // Wherever the first one is: the second one goes on from what is durable.
    let state = loop {
        let from = home.library.upload_state(id).await.expect("known").offset;
        match home
            .library
            .append_upload(id, from, pieces(&bytes[from as usize..]))
            .await
        {
            Ok(state) => break state,
            // Or the first one came only now, and was itself the one that took over.
            Err(UploadError::Offset { .. } | UploadError::BrokenOff { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert!(
        ended.await.expect("it ended"),
        "the dead connection was told"
    );
    assert_eq!(plain_of(&home, state.title.expect("a title")).await, bytes);
}
