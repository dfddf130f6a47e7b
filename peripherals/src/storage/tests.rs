//! Against real folders. A temporary folder stands for a volume: what matters is the kernel's path resolution.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use futures_util::StreamExt;

use rustix::fs::Mode;

use super::*;
use crate::MediaSource;
use crate::media::WalkLimits;

/// The smallest thing that the first bytes call a JPEG.
const JPEG: &[u8] = &[0xff, 0xd8, 0xff, 0xe0, 0, 0x10, b'J', b'F', b'I', b'F', 0];

fn storage(top: &Path) -> Storage {
    let device = fs::metadata(top).expect("a folder").dev();
    let volume = Volume {
        id: "card".to_owned(),
        name: "Card".to_owned(),
        point: top.to_owned(),
        device: format!(
            "{}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device)
        ),
    };
    Storage::new(
        "Card".to_owned(),
        StorageAccess {
            volumes: vec![volume],
            partitions: Vec::new(),
        },
    )
}

fn put(top: &Path, path: &str, bytes: &[u8]) {
    let path = top.join(path);
    fs::create_dir_all(path.parent().expect("inside")).expect("made");
    fs::write(path, bytes).expect("written");
}

async fn titles(storage: &Storage, id: &str) -> Vec<String> {
    let page = PageRequest {
        start: 0,
        count: 200,
    };
    let id = ObjectId::new(id).expect("valid");
    let page = storage.list(&id, page).await.expect("listed");
    let title = |entry: Entry| match entry {
        Entry::Container(container) => format!("{}/", container.title),
        Entry::Item(item) => item.title,
    };
    page.entries.into_iter().map(title).collect()
}

async fn fetch(storage: &Storage, id: &str, request: FetchRequest) -> Result<Vec<u8>, FetchError> {
    let item = storage.item(&ObjectId::new(id).expect("valid")).await;
    let item = item.expect("an item");
    let mut fetched = storage.fetch(&item.resources[0], request).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = fetched.body.next().await {
        bytes.extend(piece?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_cameras_card_is_one_list_in_the_order_of_its_numbers() {
    let top = tempfile::tempdir().expect("a folder");
    for path in [
        "DCIM/101CANON/IMG_0002.JPG",
        "DCIM/100CANON/IMG_0010.JPG",
        "DCIM/100CANON/IMG_0009.JPG",
    ] {
        put(top.path(), path, JPEG);
    }
    put(top.path(), "DCIM/100CANON/.hidden.jpg", JPEG);
    put(top.path(), "notes.txt", b"private");
    put(top.path(), "System Volume Information/x.jpg", JPEG);
    let storage = storage(top.path());
    assert_eq!(titles(&storage, "0").await, ["DCIM/"]);
    assert_eq!(
        titles(&storage, "card/DCIM").await,
        ["IMG_0009", "IMG_0010", "IMG_0002"]
    );
}

#[tokio::test]
async fn a_source_that_cannot_search_is_looked_through_page_by_page() {
    let top = tempfile::tempdir().expect("a folder");
    for path in [
        "a/Storm 1.jpg",
        "b/c/storm 2.jpg",
        "b/Calm.jpg",
        "STORM.jpg",
    ] {
        put(top.path(), path, JPEG);
    }
    let source = MediaSource::Storage(storage(top.path()));
    let (mut names, mut next) = (Vec::new(), Some(0));
    while let Some(start) = next {
        let page = source.search("storm", PageRequest { start, count: 2 });
        let page = page.await.expect("searched");
        assert!(page.entries.len() <= 2);
        names.extend(page.entries.into_iter().map(|entry| match entry {
            Entry::Item(item) => item.title,
            Entry::Container(container) => panic!("a container: {container:?}"),
        }));
        next = page.next;
    }
    names.sort_unstable();
    assert_eq!(names, ["STORM", "Storm 1", "storm 2"]);
    let nothing = source.search("\"no\\", PageRequest::default()).await;
    assert_eq!(nothing.expect("searched"), Page::default());
}

#[tokio::test]
async fn what_a_file_is_decides_and_not_what_it_is_called() {
    let top = tempfile::tempdir().expect("a folder");
    put(top.path(), "film.jpg", b"\0\0\0\x18ftypmp42\0\0\0\0");
    put(top.path(), "page.jpg", b"<html></html>");
    put(top.path(), "empty.jpg", b"");
    let storage = storage(top.path());
    let page = storage
        .list(&ObjectId::root(), PageRequest::default())
        .await;
    let page = page.expect("listed");
    assert_eq!(page.refused, 2);
    let [Entry::Item(film)] = page.entries.as_slice() else {
        panic!("one item: {:?}", page.entries);
    };
    assert_eq!(
        (film.kind, film.resources[0].mime.as_str()),
        (MediaKind::Video, "video/mp4")
    );
}

#[tokio::test]
async fn links_pipes_and_devices_are_never_opened() {
    let outside = tempfile::tempdir().expect("a folder");
    put(outside.path(), "secret.jpg", JPEG);
    let top = tempfile::tempdir().expect("a folder");
    put(top.path(), "good.jpg", JPEG);
    let link = std::os::unix::fs::symlink::<std::path::PathBuf, std::path::PathBuf>;
    link(
        outside.path().join("secret.jpg"),
        top.path().join("leak.jpg"),
    )
    .expect("linked");
    link(outside.path().to_owned(), top.path().join("away")).expect("linked");
    link("good.jpg".into(), top.path().join("inside.jpg")).expect("linked");
    rustix::fs::mkfifoat(rustix::fs::CWD, top.path().join("pipe.jpg"), Mode::RUSR).expect("made");
    let storage = storage(top.path());
    assert_eq!(titles(&storage, "0").await, ["good"]);
    for path in [
        "card/leak.jpg",
        "card/away",
        "card/away/secret.jpg",
        "card/inside.jpg",
        "card/pipe.jpg",
        "card/../secret.jpg",
        "other/good.jpg",
    ] {
        let item = storage.item(&ObjectId::new(path).expect("valid")).await;
        assert!(
            matches!(item, Err(ListError::NotFound { .. })),
            "{path}: {item:?}"
        );
    }
    let away = ObjectId::new("card/away").expect("valid");
    let away = storage.list(&away, PageRequest::default()).await;
    assert!(matches!(away, Err(ListError::NotFound { .. })));
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_broke_off_unless_the_file_changed() {
    let top = tempfile::tempdir().expect("a folder");
    let mut bytes = JPEG.to_vec();
    bytes.extend((0..700_000_u32).map(|n| n as u8));
    put(top.path(), "a.jpg", &bytes);
    let storage = storage(top.path());
    let whole = fetch(&storage, "card/a.jpg", FetchRequest::whole(1 << 20)).await;
    assert_eq!(whole.expect("fetched"), bytes);
    let item = storage
        .item(&ObjectId::new("card/a.jpg").expect("valid"))
        .await
        .expect("there");
    let first = storage
        .fetch(&item.resources[0], FetchRequest::whole(1 << 20))
        .await
        .expect("opened");
    let again = FetchRequest {
        from: 300_000,
        validator: first.validator,
        max_bytes: 1 << 20,
    };
    let rest = fetch(&storage, "card/a.jpg", again.clone())
        .await
        .expect("fetched");
    assert!(rest == bytes[300_000..]);
    bytes.push(1);
    put(top.path(), "a.jpg", &bytes);
    let item = storage
        .item(&ObjectId::new("card/a.jpg").expect("valid"))
        .await
        .expect("there");
    let changed = storage
        .fetch(&item.resources[0], again)
        .await
        .expect("opened");
    assert_eq!(changed.offset, 0);
    let small = fetch(&storage, "card/a.jpg", FetchRequest::whole(1000)).await;
    assert!(matches!(small, Err(FetchError::TooLarge { .. })));
}

#[tokio::test]
async fn a_volume_that_was_let_go_is_not_there() {
    let top = tempfile::tempdir().expect("a folder");
    put(top.path(), "a.jpg", JPEG);
    let mut access = (*storage(top.path()).access).clone();
    access.volumes[0].device = "8:999".to_owned();
    let storage = Storage::new("Card".to_owned(), access);
    let listed = storage
        .list(&ObjectId::root(), PageRequest::default())
        .await;
    assert!(
        matches!(listed, Err(ListError::Unreachable { .. })),
        "{listed:?}"
    );
}

#[tokio::test]
async fn a_folder_of_a_hundred_thousand_files_and_more_is_walked_within_its_bounds() {
    let top = tempfile::tempdir().expect("a folder");
    for n in 0..MAX_FOLDER_NAMES + 10 {
        let name = top.path().join(format!("{n}.jpg"));
        // Links are quicker to make than files; a file system allows one file so many.
        if n % 10_000 == 0 {
            fs::write(name, JPEG).expect("written");
        } else {
            let file = top.path().join(format!("{}.jpg", n / 10_000 * 10_000));
            fs::hard_link(file, name).expect("linked");
        }
    }
    let storage = storage(top.path());
    let page = PageRequest {
        start: 99_900,
        count: 200,
    };
    let page = storage.list(&ObjectId::root(), page).await.expect("listed");
    assert_eq!((page.total as usize, page.next), (MAX_FOLDER_NAMES, None));
    let limits = WalkLimits {
        items: 500,
        ..WalkLimits::default()
    };
    let mut walk = MediaSource::Storage(storage).walk(limits);
    let mut count = 0;
    while walk.next().await.expect("walked").is_some() {
        count += 1;
    }
    assert_eq!((count, walk.summary().cut), (500, true));
}

#[tokio::test]
async fn folders_without_end_come_to_an_end() {
    let top = tempfile::tempdir().expect("a folder");
    let deep = vec!["d"; 60].join("/");
    put(top.path(), &format!("{deep}/a.jpg"), JPEG);
    put(top.path(), "d/b.jpg", JPEG);
    let limits = WalkLimits {
        depth: 200,
        ..WalkLimits::default()
    };
    let mut walk = MediaSource::Storage(storage(top.path())).walk(limits);
    let mut count = 0;
    while walk.next().await.expect("walked").is_some() {
        count += 1;
    }
    assert_eq!(count, 1);
    assert!(walk.summary().containers as usize <= wire::MAX_DEPTH + 1);
}
