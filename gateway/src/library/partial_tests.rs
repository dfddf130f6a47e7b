//! Crashes while a blob arrives (F45): dropped without a sync at every write, and killed for real.

use super::super::tests::{Home, sealed_blob};
use super::*;
use mantel_protocol::blob::BlobError as Wrong;
use mantel_runtime::db::DbError;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const MIB: usize = CHUNK_BYTES as usize;
/// Names the data folder of the child that is killed.
const CHILD: &str = "MANTEL_TEST_PARTIAL_CHILD";

fn chunk(bytes: &[u8], index: u64) -> Vec<u8> {
    let start = index as usize * MIB;
    bytes[start..bytes.len().min(start + MIB)].to_vec()
}

/// The bitmap as it is on disk.
fn claimed(home: &Home, id: BlobId, size: u64) -> BTreeSet<u64> {
    let bytes = std::fs::read(home.library.blobs().inner.paths(id).map).expect("a bitmap");
    (0..chunk_count(size))
        .filter(|index| bit(&bytes[MAP_HEADER as usize..], *index))
        .collect()
}

#[tokio::test]
async fn wrong_bytes_lists_and_order_are_refused() {
    let home = Home::new().await;
    let (bytes, list) = sealed_blob(3 * MIB + 17, 1);
    let (_, other) = sealed_blob(3 * MIB + 17, 2);
    let store = home.library.blobs();
    let mut part = store.partial(list.id(), list.size()).await.expect("made");
    assert!(matches!(
        part.write(0, chunk(&bytes, 0)).await,
        Err(BlobError::NoHashes)
    ));
    assert!(matches!(
        part.set_hashes(other).await,
        Err(BlobError::WrongBytes(Wrong::WrongHashList))
    ));
    part.set_hashes(list.clone()).await.expect("its own list");
    assert!(matches!(
        part.write(1, chunk(&bytes, 0)).await,
        Err(BlobError::WrongBytes(Wrong::WrongBytes(1)))
    ));
    assert!(matches!(
        part.write(9, chunk(&bytes, 0)).await,
        Err(BlobError::WrongBytes(Wrong::NoSuchChunk(9)))
    ));
    assert_eq!((part.bytes_done(), part.missing().len()), (0, 1));
    assert!(matches!(
        store.partial(list.id(), list.size()).await,
        Err(BlobError::Busy(_))
    ));
    assert!(matches!(
        part.finish().await,
        Err(BlobError::Incomplete { missing: 4 })
    ));
    assert!(store.read(list.id()).await.expect("readable").is_none());
}

#[tokio::test]
async fn a_complete_blob_is_served_and_survives_a_lost_row() {
    let home = Home::new().await;
    let (bytes, list) = sealed_blob(2 * MIB + 5, 3);
    let store = home.library.blobs();
    let mut part = store.partial(list.id(), list.size()).await.expect("made");
    part.set_hashes(list.clone()).await.expect("its own list");
    for index in [2, 0, 1] {
        part.write(index, chunk(&bytes, index))
            .await
            .expect("right");
    }
    let reader = part.finish().await.expect("complete");
    assert_eq!(
        reader.read_at(MIB as u64 - 3, 9).await.expect("inside")[..],
        bytes[MIB - 3..MIB + 6]
    );
    assert!(matches!(
        reader.read_at(list.size() - 1, 2).await,
        Err(BlobError::NoSuchRange)
    ));
    // Power went between rename and row.
    let id = list.id();
    home.db
        .write(move |tx| Ok::<_, DbError>(tx.execute("DELETE FROM blobs", [])?))
        .await
        .expect("deleted");
    assert!(store.read(id).await.expect("readable").is_none());
    let again = store.partial(id, list.size()).await.expect("adopted");
    assert_eq!((again.missing(), again.bytes_done()), (vec![], list.size()));
    again.finish().await.expect("complete");
    assert!(store.read(id).await.expect("readable").is_some());
    // And a file that rotted is fetched anew.
    home.db
        .write(move |tx| Ok::<_, DbError>(tx.execute("DELETE FROM blobs", [])?))
        .await
        .expect("deleted");
    std::fs::write(store.inner.paths(id).blob, vec![0u8; list.size() as usize])
        .expect("overwritten");
    let anew = store.partial(id, list.size()).await.expect("made");
    assert_eq!(anew.bytes_done(), 0);
}

#[tokio::test]
async fn a_blob_that_does_not_fit_is_refused_before_a_byte_comes() {
    let home = Home::new().await;
    let free = home.library.free_bytes().await;
    let (_, list) = sealed_blob(10, 4);
    let refused = home
        .library
        .blobs()
        .partial(list.id(), free + (1 << 30))
        .await;
    let Err(BlobError::DiskFull { needed, .. }) = refused else {
        panic!("refused for want of room")
    };
    assert_eq!(needed, free + (1 << 30));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Writes in any order, with a crash (drop without sync, then the unsynced bytes damaged or kept) after any write:
    /// the bitmap never claims a chunk that is wrong on disk, and the blob always completes with the right bytes.
    #[test]
    fn resumes_after_a_crash_at_any_write(
        order in Just((0u64..40).collect::<Vec<_>>()).prop_shuffle(),
        crashes in proptest::collection::btree_set(0usize..40, 0..6),
        damage: bool,
        seed in 0u8..250,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (bytes, list) = sealed_blob(39 * MIB + 1000, seed);
            let (id, size) = (list.id(), list.size());
            let home = Home::new().await;
            let store = home.library.blobs();
            let mut part = store.partial(id, size).await.expect("made");
            part.set_hashes(list.clone()).await.expect("its own list");
            let mut sent = 0;
            for (step, index) in order.iter().enumerate() {
                if !part.has(*index) {
                    part.write(*index, chunk(&bytes, *index)).await.expect("right");
                    sent += 1;
                }
                if crashes.contains(&step) {
                    drop(part);
                    let durable = claimed(&home, id, size);
                    if damage {
                        // Power loss: what was not synced is anything.
                        let file = open_rw(&store.inner.paths(id).part).expect("a part");
                        for lost in (0..40).filter(|index| !durable.contains(index)) {
                            file.write_all_at(&[0xAA; 512], lost * CHUNK_BYTES + 77).expect("damaged");
                        }
                    }
                    part = store.partial(id, size).await.expect("resumed");
                    for index in claimed(&home, id, size) {
                        let file = File::open(store.inner.paths(id).part).expect("a part");
                        assert!(chunk_is_right(&file, &list, index), "the bitmap claims chunk {index} wrongly");
                    }
                }
            }
            for run in part.missing() {
                for index in run.start..run.end() {
                    part.write(index, chunk(&bytes, index)).await.expect("right");
                    sent += 1;
                }
            }
            if !damage {
                assert_eq!(sent, 40, "a crash of the process alone costs no chunk");
            }
            let reader = part.finish().await.expect("complete");
            for index in 0..40 {
                let got = reader.read_at(index * CHUNK_BYTES, chunk(&bytes, index).len()).await.expect("readable");
                assert_eq!(list.verify_chunk(index, &got), Ok(()));
            }
        });
    }
}

/// The child of the next test: receives until it is killed. Does nothing in an ordinary run.
#[tokio::test]
#[allow(clippy::print_stdout, reason = "the parent reads how far it is")]
async fn child_that_receives_until_killed() {
    let Ok(folder) = std::env::var(CHILD) else {
        return;
    };
    let home = Home::at(Path::new(&folder)).await;
    let (bytes, list) = sealed_blob(60 * MIB + 9, 7);
    let mut part = home
        .library
        .blobs()
        .partial(list.id(), list.size())
        .await
        .expect("resumed");
    part.set_hashes(list.clone()).await.expect("its own list");
    println!("\nbegin {}", part.bytes_done());
    for run in part.missing() {
        for index in run.start..run.end() {
            part.write(index, chunk(&bytes, index))
                .await
                .expect("right");
            println!("\nwrote {index}");
        }
    }
    part.finish().await.expect("complete");
    println!("\nfinished");
}

/// kill -9 at many points: every chunk whose write returned is there again.
#[tokio::test]
async fn survives_kill_9_of_the_receiving_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, list) = sealed_blob(60 * MIB + 9, 7);
    let mut written = 0u64;
    for patience in [1, 5, 17, 3, 30, 100] {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "library::partial::tests::child_that_receives_until_killed",
                "--nocapture",
            ])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut left = patience;
        for line in lines.map_while(Result::ok) {
            if let Some(done) = line.strip_prefix("begin ") {
                let done: u64 = done.parse().expect("a number");
                assert!(
                    done >= (written * CHUNK_BYTES).min(list.size()),
                    "{written} chunks were written, {done} bytes were resumed"
                );
            }
            if line.starts_with("wrote ") {
                written += 1;
                left -= 1;
                if left == 0 {
                    child.kill().expect("killed");
                }
            }
        }
        child.wait().expect("ended");
    }
    let home = Home::at(folder.path()).await;
    let reader = home
        .library
        .blobs()
        .read(list.id())
        .await
        .expect("readable")
        .expect("complete");
    for index in 0..chunk_count(list.size()) {
        let len = chunk_len(list.size(), index).expect("inside") as usize;
        let got = reader
            .read_at(index * CHUNK_BYTES, len)
            .await
            .expect("readable");
        assert_eq!(list.verify_chunk(index, &got), Ok(()));
    }
}
