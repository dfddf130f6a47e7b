//! Two gateways and a real server on loopback: a priced title goes from one home to the other, directly and through the
//! relay, is paid once, licensed and opened; a stopped receiver goes on where it was; a private title is pushed
//! (F8, F10, F12, F14, F22, F24, F25, F61, F64, F67).

mod common;

use common::{
    Home, MIB, PATIENCE, Ways, all_relayed, balance, media, offer, place, start_gateway,
    start_gateway_keeping, start_server, start_server_at,
};
use mantel_gateway::exchange::{ExchangeError, OrderRow};
use mantel_gateway::rights::Standing;
use mantel_protocol::api::{OrderState, ProblemCode};
use mantel_protocol::receipt::Path;
use std::path::Path as FilePath;

async fn a_priced_title_arrives(ways: Ways) {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_server(folder.path(), None).await;
    let a = Home::new(&server, "Alder", 0, ways).await;
    let b = Home::new(&server, "Birch", 1_000, ways).await;
    let original = media(5 * MIB + 321, 1);
    let title = a.import(&original).await;
    offer(&a, title, 250).await;
    b.sees(title).await;
    let order = place(&b, title).await;
    let row = b
        .row("ready", |row| row.entry.order == order && row.ready)
        .await;
    assert_eq!(row.entry.state, OrderState::Settled);

    assert_eq!(
        blake3::hash(&b.opened(title).await),
        blake3::hash(&original)
    );
    let standing = b
        .gateway
        .state
        .rights
        .standing(title)
        .await
        .expect("readable");
    assert!(
        matches!(standing, Standing::Licensed { .. }),
        "{standing:?}"
    );
    assert_eq!(
        b.gateway
            .state
            .rights
            .begin_play(title)
            .await
            .expect("may play"),
        None
    );

    assert_eq!(
        balance(&server, b.customer).await,
        (750, 0),
        "paid once, nothing held"
    );
    assert_eq!(
        balance(&server, a.customer).await,
        (250, 0),
        "captured once"
    );
    assert!(server.core.ledger.balanced().await.expect("readable"));
    let view = server
        .core
        .orders
        .view(order)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(view.receipts.len(), 1);
    let path = if ways == Ways::All {
        Path::Direct
    } else {
        Path::Relay
    };
    assert_eq!(view.receipts[0].path, path);
    a.row("the seller sees it", |row| {
        row.entry.order == order && row.entry.state == OrderState::Settled
    })
    .await;

    b.gateway.stop().await;
    a.gateway.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priced_title_arrives_directly() {
    a_priced_title_arrives(Ways::All).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priced_title_arrives_through_the_relay() {
    a_priced_title_arrives(Ways::RelayOnly).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_receiver_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_server(folder.path(), Some(8_000_000)).await;
    let a = Home::new(&server, "Alder", 0, Ways::RelayOnly).await;
    let mut b = Home::new(&server, "Birch", 1_000, Ways::RelayOnly).await;
    let original = media(40 * MIB, 2);
    let title = a.import(&original).await;
    offer(&a, title, 100).await;
    b.sees(title).await;
    let order = place(&b, title).await;
    let half = |row: &OrderRow| row.entry.order == order && row.bytes_done >= 20 * MIB as u64;
    let before = b.row("the half", half).await.bytes_done;

    b.gateway.stop().await;
    b.gateway = start_gateway(b.folder.path(), Ways::RelayOnly).await;
    b.online().await;
    b.row("ready", |row| row.entry.order == order && row.ready)
        .await;

    assert_eq!(
        blake3::hash(&b.opened(title).await),
        blake3::hash(&original)
    );
    assert_eq!(balance(&server, b.customer).await, (900, 0));
    let view = tokio::time::timeout(PATIENCE, all_relayed(&server, order))
        .await
        .expect("the relay reports its bytes");
    let total = view.row.total_bytes;
    assert!(
        view.row.relayed_bytes < total + before,
        "what had arrived was fetched again: {} for {total}, {before} before the stop",
        view.row.relayed_bytes
    );
    assert!(view.grants.len() >= 2, "a new grant for the rest");

    b.gateway.stop().await;
    a.gateway.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_survives_restarts_of_server_and_sender() {
    let folder = tempfile::tempdir().expect("a folder");
    let rate = Some(6_000_000);
    let server = start_server(folder.path(), rate).await;
    let mut a = Home::new(&server, "Alder", 0, Ways::RelayOnly).await;
    let b = Home::new(&server, "Birch", 1_000, Ways::RelayOnly).await;
    let original = media(24 * MIB, 5);
    let title = a.import(&original).await;
    offer(&a, title, 100).await;
    b.sees(title).await;
    let order = place(&b, title).await;
    let past = |mib: usize| {
        move |row: &OrderRow| row.entry.order == order && row.bytes_done >= (mib * MIB) as u64
    };

    b.row("a quarter", past(6)).await;
    let at = [server.api_addr, server.mqtt_addr, server.relay_addr];
    server.stop().await;
    let server = start_server_at(folder.path(), rate, at).await;

    b.row("more than a half", past(14)).await;
    a.gateway.stop().await;
    a.gateway = start_gateway(a.folder.path(), Ways::RelayOnly).await;

    b.row("ready", |row| row.entry.order == order && row.ready)
        .await;
    assert_eq!(
        blake3::hash(&b.opened(title).await),
        blake3::hash(&original)
    );
    assert_eq!(balance(&server, b.customer).await, (900, 0), "paid once");
    assert_eq!(balance(&server, a.customer).await, (100, 0));

    b.gateway.stop().await;
    a.gateway.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_order_stops_is_paid_back_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_server(folder.path(), Some(4_000_000)).await;
    let a = Home::new(&server, "Alder", 0, Ways::RelayOnly).await;
    let b = Home::new(&server, "Birch", 1_000, Ways::RelayOnly).await;
    let title = a.import(&media(40 * MIB, 6)).await;
    offer(&a, title, 100).await;
    b.sees(title).await;
    let order = place(&b, title).await;
    b.row("some bytes", |row| {
        row.entry.order == order && row.bytes_done >= 4 * MIB as u64
    })
    .await;
    assert_eq!(
        balance(&server, b.customer).await,
        (900, 100),
        "held, not taken"
    );
    b.gateway
        .state
        .exchange
        .cancel(order)
        .await
        .expect("cancelled");
    let row = b
        .row("the end", |row| {
            row.entry.order == order && row.entry.state.is_final()
        })
        .await;
    assert_eq!(row.entry.state, OrderState::Cancelled);
    assert_eq!(balance(&server, b.customer).await, (1_000, 0));
    let library = &b.gateway.state.library;
    loop {
        let mut changes = library.changes();
        if library.title(title).await.expect("readable").is_none() {
            break;
        }
        tokio::time::timeout(PATIENCE, changes.changed())
            .await
            .expect("the title leaves")
            .expect("the gateway runs");
    }
    let revoked = tokio::time::timeout(PATIENCE, async {
        while !a.gateway.state.exchange.sending().is_empty() {
            tokio::task::yield_now().await;
        }
    });
    revoked.await.expect("the sender stops");

    b.gateway.stop().await;
    a.gateway.stop().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_waits_and_wrong_bytes_are_neither_kept_nor_paid() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_server(folder.path(), None).await;
    let a = Home::new(&server, "Alder", 0, Ways::All).await;
    let mut b = Home::new(&server, "Birch", 1_000, Ways::All).await;
    b.gateway.stop().await;
    b.gateway = start_gateway_keeping(b.folder.path(), Ways::All, 1 << 40).await;
    b.online().await;
    let original = media(3 * MIB, 7);
    let title = a.import(&original).await;
    offer(&a, title, 100).await;
    b.sees(title).await;
    let order = place(&b, title).await;
    let full = |row: &OrderRow| {
        row.problem
            .as_ref()
            .is_some_and(|text| text.contains("disk is full"))
    };
    b.row("the problem", full).await;
    assert_eq!(
        balance(&server, b.customer).await,
        (900, 100),
        "held, not taken"
    );
    b.gateway.stop().await;
    b.gateway = start_gateway(b.folder.path(), Ways::All).await;
    b.row("ready", |row| row.entry.order == order && row.ready)
        .await;
    assert_eq!(b.opened(title).await, original);

    let second = a.import(&media(2 * MIB, 8)).await;
    offer(&a, second, 100).await;
    b.sees(second).await;
    let asset = a
        .gateway
        .state
        .library
        .title(second)
        .await
        .expect("readable")
        .expect("there")
        .assets[0]
        .clone();
    spoil(&a.folder.path().join("blobs"), asset.sealed_bytes);
    let order = place(&b, second).await;
    let wrong = |row: &OrderRow| {
        row.problem
            .as_ref()
            .is_some_and(|text| text.contains("wrong bytes"))
    };
    b.row("the problem", wrong).await;
    assert_eq!(
        balance(&server, b.customer).await,
        (800, 100),
        "held, not taken"
    );
    b.gateway
        .state
        .exchange
        .cancel(order)
        .await
        .expect("cancelled");
    assert_eq!(balance(&server, b.customer).await, (900, 0), "given back");

    b.gateway.stop().await;
    a.gateway.stop().await;
    server.stop().await;
}

/// Flips a byte of the stored file that has this size.
fn spoil(folder: &FilePath, size: u64) {
    use std::os::unix::fs::FileExt;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = path.metadata().expect("readable");
            if meta.is_dir() {
                folders.push(path);
            } else if meta.len() == size {
                let file = std::fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .expect("opens");
                let mut byte = [0];
                file.read_exact_at(&mut byte, 1_000_000).expect("reads");
                file.write_all_at(&[byte[0] ^ 1], 1_000_000)
                    .expect("writes");
                return;
            }
        }
    }
    panic!("no file of {size} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_title_is_pushed_free_and_without_credit_nothing_is_ordered() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_server(folder.path(), None).await;
    let a = Home::new(&server, "Alder", 0, Ways::All).await;
    let b = Home::new(&server, "Birch", 0, Ways::All).await;
    let original = media(MIB + 7, 3);
    let title = a.import(&original).await;
    a.gateway
        .state
        .exchange
        .push(title, b.home())
        .await
        .expect("pushed");
    let row = b
        .row("ready", |row| row.entry.title == title && row.ready)
        .await;
    assert_eq!(row.entry.price.minor, 0);
    assert_eq!(row.entry.pass, None);
    assert_eq!(b.opened(title).await, original);
    assert_eq!(
        b.gateway
            .state
            .rights
            .standing(title)
            .await
            .expect("readable"),
        Standing::Shared
    );

    let priced = a.import(&media(MIB, 4)).await;
    offer(&a, priced, 250).await;
    b.sees(priced).await;
    let refused = b
        .gateway
        .state
        .exchange
        .order(priced, None, None)
        .await
        .expect_err("no credit");
    let ExchangeError::Api(refused) = refused else {
        panic!("{refused}")
    };
    assert_eq!(
        refused.code(),
        Some(ProblemCode::InsufficientFunds),
        "{refused}"
    );
    assert!(
        b.gateway.state.exchange.waiting().borrow().is_empty(),
        "a refused order does not wait"
    );
    assert!(
        b.gateway
            .state
            .library
            .title(priced)
            .await
            .expect("readable")
            .is_none()
    );

    b.gateway.stop().await;
    a.gateway.stop().await;
    server.stop().await;
}
