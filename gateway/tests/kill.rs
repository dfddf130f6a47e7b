//! Gateways as processes, killed with SIGKILL in the middle of a transfer, again and again: it goes on by itself, the hash
//! is right, the title is paid once (F22, F45, F67).

mod common;

use common::{
    Home, MIB, PATIENCE, Ways, balance, media, offer, place, start_gateway, start_server,
};
use mantel_protocol::api::OrderState;
use mantel_protocol::ids::OrderId;
use mantel_server::app::Running as Server;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How often a gateway is killed in one transfer.
const KILLS: u64 = 8;

fn spawn(data_dir: &Path) -> Child {
    let config = data_dir.join("lab.toml");
    let text = "[web]\nlisten = \"127.0.0.1:0\"\n[exchange]\nlisten = \"127.0.0.1:0\"\ndirect = false\n\
                [library]\nkeep_free_mib = 1\n[devices]\ninterface = \"no-devices-here\"\n";
    std::fs::write(&config, text).expect("written");
    Command::new(env!("CARGO_BIN_EXE_mantel-gateway"))
        .arg("--config")
        .arg(&config)
        .arg("--data-dir")
        .arg(data_dir)
        .stderr(Stdio::null())
        .spawn()
        .expect("the gateway starts")
}

fn kill(child: &mut Child) {
    child.kill().expect("SIGKILL is sent");
    child.wait().expect("it is gone");
}

/// Waits until so many bytes went through the relay, or the order is settled.
async fn relayed(server: &Server, order: OrderId, bytes: u64) -> bool {
    let reached = tokio::time::timeout(PATIENCE, async {
        loop {
            server.core.grants.flush().await;
            let row = server
                .core
                .orders
                .view(order)
                .await
                .expect("readable")
                .expect("there")
                .row;
            if row.state.is_final() || row.relayed_bytes >= bytes {
                return row.state.is_final();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    reached.await.expect("bytes move")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateways_go_on_and_the_title_is_paid_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_server(folder.path(), Some(10_000_000)).await;
    let a = Home::new(&server, "Alder", 0, Ways::RelayOnly).await;
    let b = Home::new(&server, "Birch", 1_000, Ways::RelayOnly).await;
    let original = media(48 * MIB, 9);
    let title = a.import(&original).await;
    offer(&a, title, 100).await;
    b.sees(title).await;
    let order = place(&b, title).await;
    let (a_customer, b_customer) = (a.customer, b.customer);
    let (a_folder, b_folder) = (a.folder, b.folder);
    b.gateway.stop().await;
    a.gateway.stop().await;

    let mut sender = spawn(a_folder.path());
    let mut receiver = spawn(b_folder.path());
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut at = 0;
    for round in 0..KILLS {
        // Between 1 and 7 MiB on: in the middle of a chunk, of a batch, or during a greeting.
        let step = 1 + (seed >> (round * 8)) % 6;
        at += step * MIB as u64 + (seed >> round) % MIB as u64;
        if relayed(&server, order, at).await {
            break;
        }
        if round % 2 == 0 {
            kill(&mut receiver);
            receiver = spawn(b_folder.path());
        } else {
            kill(&mut sender);
            sender = spawn(a_folder.path());
        }
    }
    assert!(relayed(&server, order, u64::MAX).await);
    kill(&mut receiver);
    kill(&mut sender);

    let gateway = start_gateway(b_folder.path(), Ways::RelayOnly).await;
    let b = Home {
        gateway,
        customer: b_customer,
        folder: b_folder,
    };
    let row = b
        .row("ready", |row| row.entry.order == order && row.ready)
        .await;
    assert_eq!(row.entry.state, OrderState::Settled);
    assert_eq!(
        blake3::hash(&b.opened(title).await),
        blake3::hash(&original),
        "seed {seed}"
    );
    assert_eq!(
        balance(&server, b_customer).await,
        (900, 0),
        "paid once; seed {seed}"
    );
    assert_eq!(balance(&server, a_customer).await, (100, 0), "seed {seed}");

    b.gateway.stop().await;
    server.stop().await;
}
