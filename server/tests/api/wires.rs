//! Broker and relay as the whole server wires them: a step of an order reaches the gateway by MQTT, its progress comes
//! back, and a real grant joins two homes at the relay until the server ends it (F8, F61).

use crate::lab::{Gateway, Lab};
use mantel_protocol::api::OrderEntry;
use mantel_protocol::bus::{Command, Event, cmd_topic, ev_topic};
use mantel_protocol::chunk::{decode, encode};
use mantel_protocol::relay::{Admission, GO, RELAY_ALPN, RELAY_PROTOCOL, RelayRefusal, Welcome};
use mantel_runtime::tasks::Tasks;
use mantel_runtime::tls::{any_name, pinned_client, raw_key_client};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event as ClientEvent, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

/// Longer than anything here takes; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_mins(1);

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.expect("in time")
}

/// A gateway on the broker: what it is told comes out of the receiver, once it has subscribed.
async fn on_bus(
    lab: &Lab,
    gateway: &Gateway,
    tasks: &Tasks,
) -> (AsyncClient, mpsc::Receiver<Command>) {
    let device = gateway.key.device_id();
    let mut options = MqttOptions::new(
        device.to_string(),
        "127.0.0.1",
        lab.running.mqtt_addr.port(),
    );
    let tls = pinned_client(lab.core().server.pin()).expect("a pin");
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
        Arc::new(tls),
    )));
    options
        .set_credentials(device.to_string(), gateway.login())
        .set_clean_start(true);
    let (client, mut events) = AsyncClient::new(options, 16);
    let (told, commands) = mpsc::channel(64);
    let (subscribed, ready) = tokio::sync::oneshot::channel();
    let mut subscribed = Some(subscribed);
    tasks.spawn("client", async move {
        while let Ok(event) = events.poll().await {
            match event {
                ClientEvent::Incoming(Packet::SubAck(_)) => {
                    if let Some(subscribed) = subscribed.take() {
                        let _ = subscribed.send(());
                    }
                }
                ClientEvent::Incoming(Packet::Publish(message)) => {
                    let command = serde_json::from_slice(&message.payload).expect("a command");
                    let _ = told.send(command).await;
                }
                _ => {}
            }
        }
    });
    client
        .subscribe(cmd_topic(&device), QoS::AtLeastOnce)
        .await
        .expect("sent");
    within(ready).await.expect("subscribed");
    (client, commands)
}

async fn until(commands: &mut mpsc::Receiver<Command>, wanted: Command) {
    while within(commands.recv()).await.expect("connected") != wanted {}
}

#[tokio::test]
async fn gateways_are_told_to_look_again_and_their_progress_is_shown() {
    let lab = Lab::start().await;
    let tasks = Tasks::root();
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 100).await);
    let (_anna_bus, mut to_anna) = on_bus(&lab, &anna, &tasks).await;
    let (ben_bus, mut to_ben) = on_bus(&lab, &ben, &tasks).await;
    let made = anna.offer("Film", 100).await;
    until(&mut to_ben, Command::Catalog).await;
    let order = ben.order(&made, 100).await.expect("ordered");
    until(&mut to_anna, Command::Deliveries).await;
    until(&mut to_ben, Command::Orders).await;
    ben.grant(&order, made.blobs[0]).await;
    let mut changes = lab.core().orders.changes();
    let report = Event::Progress {
        delivery: order.delivery,
        order: order.order,
        bytes_done: 77,
    };
    let report = serde_json::to_vec(&report).expect("JSON");
    let topic = ev_topic(&ben.key.device_id());
    ben_bus
        .publish(topic, QoS::AtMostOnce, false, report)
        .await
        .expect("sent");
    loop {
        let seen: OrderEntry = ben
            .get(&format!("/v1/orders/{}", order.order))
            .await
            .expect("read");
        if seen.bytes_done == 77 {
            break;
        }
        // The next change, or a look of one's own: progress is told at most four times a second.
        let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
    }
    assert!(
        lab.core()
            .directory
            .home(ben.home)
            .await
            .expect("read")
            .expect("there")
            .online
    );
    lab.core()
        .orders
        .operator_cancel(order.order, "enough")
        .await
        .expect("cancelled");
    until(
        &mut to_anna,
        Command::Revoked {
            delivery: order.delivery,
        },
    )
    .await;
    lab.core()
        .suspend(ben.customer, "late")
        .await
        .expect("suspended");
    until(&mut to_ben, Command::Restrictions).await;
    tasks.shut_down(Duration::from_secs(5)).await;
    lab.running.stop().await;
}

#[tokio::test]
async fn a_home_that_is_removed_is_disconnected_at_once() {
    let lab = Lab::start().await;
    let tasks = Tasks::root();
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 0).await);
    let (_anna_bus, mut to_anna) = on_bus(&lab, &anna, &tasks).await;
    let (_ben_bus, mut to_ben) = on_bus(&lab, &ben, &tasks).await;
    lab.core().remove_home(anna.home).await.expect("removed");
    // Its connection ends without its doing; the other home's does not.
    while within(to_anna.recv()).await.is_some() {}
    until(&mut to_ben, Command::Catalog).await;
    assert!(lab.core().remove_home(anna.home).await.is_err(), "twice");
    tasks.shut_down(Duration::from_secs(5)).await;
    lab.running.stop().await;
}

async fn at_relay(lab: &Lab, gateway: &Gateway, token: &str) -> Result<TcpStream, RelayRefusal> {
    let config = raw_key_client(&gateway.key, gateway.card.key.0, RELAY_ALPN).expect("keys");
    let raw = TcpStream::connect(lab.running.relay_addr)
        .await
        .expect("the relay is there");
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(any_name(), raw)
        .await
        .expect("the server's key");
    let admission = Admission {
        version: RELAY_PROTOCOL,
        grant: token.to_owned(),
    };
    tls.write_all(&encode(&admission)).await.expect("sent");
    let len = tls.read_u32_le().await.expect("an answer") as usize;
    let mut frame = vec![0; len];
    tls.read_exact(&mut frame).await.expect("whole");
    match decode(&frame).expect("a welcome") {
        Welcome::Refused(refusal) => Err(refusal),
        Welcome::Joined => {
            let (mut raw, _) = tls.into_inner();
            raw.write_u8(GO).await.expect("sent");
            Ok(raw)
        }
    }
}

#[tokio::test]
async fn a_grant_joins_two_homes_at_the_relay_until_the_server_ends_it() {
    let lab = Lab::start().await;
    let (anna, ben) = (lab.home("Anna", 0).await, lab.home("Ben", 100).await);
    let carl = lab.home("Carl", 0).await;
    let made = anna.offer("Film", 100).await;
    let order = ben.order(&made, 100).await.expect("ordered");
    let (token, _) = ben.grant(&order, made.blobs[0]).await;
    assert_eq!(
        within(at_relay(&lab, &carl, &token)).await.err(),
        Some(RelayRefusal::NotYours)
    );
    let joined =
        async { tokio::join!(at_relay(&lab, &anna, &token), at_relay(&lab, &ben, &token)) };
    let (sender, receiver) = within(joined).await;
    let (mut sender, mut receiver) = (sender.expect("joined"), receiver.expect("joined"));
    sender.write_all(&vec![7; 100_000]).await.expect("sent");
    let mut arrived = vec![0; 100_000];
    within(receiver.read_exact(&mut arrived))
        .await
        .expect("relayed");
    let _: OrderEntry = ben
        .delete(&format!("/v1/orders/{}", order.order))
        .await
        .expect("cancelled");
    let ended = within(receiver.read(&mut arrived)).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "cut");
    assert_eq!(
        within(at_relay(&lab, &ben, &token)).await.err(),
        Some(RelayRefusal::Revoked)
    );
    let mut changes = lab.core().orders.changes();
    loop {
        lab.core().grants.flush().await;
        let view = lab
            .core()
            .orders
            .view(order.order)
            .await
            .expect("read")
            .expect("there");
        if view.row.relayed_bytes >= 100_000 {
            assert_eq!(view.grants[0].relayed_bytes, view.row.relayed_bytes);
            break;
        }
        let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
    }
    assert_eq!(
        lab.funds(&ben).await,
        (100, 0),
        "nothing is charged that did not arrive"
    );
    lab.running.stop().await;
}
