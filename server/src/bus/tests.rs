//! The real broker on loopback, spoken to by real MQTT 5 clients over TLS (F8's signalling, DESIGN §1).

use super::*;
use mantel_protocol::bus::{Event, Presence as PresenceMessage, ev_topic, st_topic};
use mantel_protocol::key::SigningKey;
use mantel_protocol::token::DeviceLogin;
use mantel_runtime::tls;
use rumqttc::v5::mqttbytes::QoS as Quality;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, LastWill, Packet, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as ClientEvent, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use std::collections::HashSet;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Longer than anything here takes; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_mins(1);

struct Rig {
    bus: Bus,
    events: mpsc::Receiver<BusEvent>,
    tasks: Tasks,
    /// The clients' own, for they outlive the broker in a test.
    clients: Tasks,
    server: SigningKey,
    clock: Clock,
    pin: tls::Pin,
    enrolled: Arc<Mutex<HashSet<DeviceId>>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        tls::install_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made =
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
        let (certificate, key) = (
            folder.path().join("tls.crt.pem"),
            folder.path().join("tls.key.pem"),
        );
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let server = SigningKey::generate();
        let clock = Clock::real();
        let enrolled: Arc<Mutex<HashSet<DeviceId>>> = Arc::default();
        let known = Arc::clone(&enrolled);
        let tasks = Tasks::root();
        let config = BusConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificate,
            key,
            server: server.server_key(),
            clock: clock.clone(),
        };
        let admit = move |device| {
            let answer = known.lock().expect("not poisoned").contains(&device);
            std::future::ready(answer)
        };
        let (bus, events) = super::start(config, admit, &tasks)
            .await
            .expect("the bus starts");
        let pin = tls::pin_of(made.cert.der()).expect("a pin");
        Self {
            bus,
            events,
            tasks,
            clients: Tasks::root(),
            server,
            clock,
            pin,
            enrolled,
            _folder: folder,
        }
    }

    fn enrol(&self) -> SigningKey {
        let key = SigningKey::generate();
        self.enrolled
            .lock()
            .expect("not poisoned")
            .insert(key.device_id());
        key
    }

    /// What a gateway with this key says.
    fn options(&self, key: &SigningKey) -> MqttOptions {
        let login = DeviceLogin::sign(key, self.server.server_key(), self.clock.now());
        self.options_with(&key.device_id().to_string(), &login)
    }

    fn options_with(&self, client: &str, password: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client, "127.0.0.1", self.bus.local_addr().port());
        let config = tls::pinned_client(self.pin).expect("a TLS configuration");
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
            Arc::new(config),
        )));
        options
            .set_credentials(client, password)
            .set_clean_start(true);
        options.set_keep_alive(Duration::from_secs(15));
        options
    }

    async fn client(&self, options: MqttOptions) -> Client {
        let (client, mut events) = AsyncClient::new(options, 16);
        wait_for_connack(&mut events).await.expect("admitted");
        let (send, packets) = mpsc::channel(64);
        let drive = self.clients.spawn("client", async move {
            while let Ok(event) = events.poll().await {
                if let ClientEvent::Incoming(packet) = event {
                    let _ = send.send(packet).await;
                }
            }
        });
        Client {
            sender: client,
            packets,
            drive,
        }
    }

    /// A client that subscribed to its commands, as a gateway does.
    async fn gateway(&mut self, key: &SigningKey) -> Client {
        let mut client = self.client(self.options(key)).await;
        assert_eq!(
            client.subscribe(&cmd_topic(&key.device_id())).await,
            granted()
        );
        assert_eq!(self.event().await, BusEvent::Online(key.device_id()));
        client
    }

    async fn event(&mut self) -> BusEvent {
        within(self.events.recv()).await.expect("the bus runs")
    }
}

struct Client {
    sender: AsyncClient,
    packets: mpsc::Receiver<Packet>,
    drive: tokio::task::JoinHandle<()>,
}

impl Client {
    /// The next packet that is not a ping; `None` when the connection ended.
    async fn packet(&mut self) -> Option<Packet> {
        loop {
            match within(self.packets.recv()).await {
                Some(Packet::PingResp(_)) => {}
                other => return other,
            }
        }
    }

    async fn subscribe(&mut self, filter: &str) -> Vec<SubscribeReasonCode> {
        self.sender
            .subscribe(filter, Quality::AtLeastOnce)
            .await
            .expect("queued");
        match self.packet().await {
            Some(Packet::SubAck(ack)) => ack.return_codes,
            other => panic!("a SUBACK was expected: {other:?}"),
        }
    }

    async fn publish(&self, topic: &str, quality: Quality, retain: bool, payload: Vec<u8>) {
        self.sender
            .publish(topic, quality, retain, payload)
            .await
            .expect("queued");
    }

    /// Waits until the broker ends the connection.
    async fn ended(&mut self) {
        while self.packet().await.is_some() {}
    }

    /// Breaks the connection without a word.
    fn vanish(self) {
        self.drive.abort();
    }
}

fn granted() -> Vec<SubscribeReasonCode> {
    vec![SubscribeReasonCode::Success(Quality::AtLeastOnce)]
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it happens in time")
}

async fn wait_for_connack(events: &mut EventLoop) -> Result<(), ConnectionError> {
    loop {
        if let ClientEvent::Incoming(Packet::ConnAck(_)) = within(events.poll()).await? {
            return Ok(());
        }
    }
}

async fn is_refused(options: MqttOptions) -> bool {
    let (_client, mut events) = AsyncClient::new(options, 16);
    matches!(
        wait_for_connack(&mut events).await,
        Err(ConnectionError::ConnectionRefused(
            ConnectReturnCode::NotAuthorized
        ))
    )
}

fn progress(bytes_done: u64) -> (Event, Vec<u8>) {
    let event = Event::Progress {
        delivery: DeliveryId::generate(),
        order: OrderId::generate(),
        bytes_done,
    };
    (event, serde_json::to_vec(&event).expect("plain data"))
}

fn will(topic: String) -> LastWill {
    LastWill::new(
        topic,
        r#"{"online":false}"#,
        Quality::AtLeastOnce,
        false,
        None,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_device_is_admitted_by_its_key_and_hears_commands() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let device = key.device_id();
    let mut gateway = rig.gateway(&key).await;
    let command = Command::Revoked {
        delivery: DeliveryId::generate(),
    };
    rig.bus.send(device, command).await;
    match gateway.packet().await {
        Some(Packet::Publish(message)) => {
            assert_eq!(message.topic, cmd_topic(&device));
            assert_eq!(
                serde_json::from_slice::<Command>(&message.payload).expect("a command"),
                command
            );
        }
        other => panic!("a command was expected: {other:?}"),
    }
    let (event, payload) = progress(4_096);
    gateway
        .publish(&ev_topic(&device), Quality::AtLeastOnce, false, payload)
        .await;
    let Event::Progress {
        delivery,
        order,
        bytes_done,
    } = event;
    assert_eq!(
        rig.event().await,
        BusEvent::Progress {
            device,
            delivery,
            order,
            bytes_done
        }
    );
    // A command to a device that is not there is nobody's harm.
    rig.bus
        .send(SigningKey::generate().device_id(), Command::Orders)
        .await;
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_that_is_not_the_devices_own_is_refused() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let other = rig.enrol();
    let id = key.device_id().to_string();
    let server = rig.server.server_key();
    let now = rig.clock.now();
    let sign = |key: &SigningKey, at| DeviceLogin::sign(key, server, at);
    assert!(
        is_refused(rig.options_with(&id, &sign(&other, now))).await,
        "another device's key"
    );
    assert!(
        is_refused(rig.options_with(&other.device_id().to_string(), &sign(&key, now))).await,
        "another id"
    );
    let stale = now
        .checked_sub(jiff::SignedDuration::from_mins(10))
        .expect("in range");
    assert!(
        is_refused(rig.options_with(&id, &sign(&key, stale))).await,
        "an expired log-in"
    );
    let elsewhere = DeviceLogin::sign(&key, SigningKey::generate().server_key(), now);
    assert!(
        is_refused(rig.options_with(&id, &elsewhere)).await,
        "a log-in for another server"
    );
    assert!(
        is_refused(rig.options_with(&id, "password")).await,
        "no token"
    );
    assert!(
        is_refused(rig.options_with("gateway", &sign(&key, now))).await,
        "no device id"
    );
    assert!(
        is_refused(rig.options(&SigningKey::generate())).await,
        "not enrolled"
    );
    let mut anonymous = MqttOptions::new(id.clone(), "127.0.0.1", rig.bus.local_addr().port());
    anonymous
        .set_transport(rig.options(&key).transport())
        .set_clean_start(true);
    assert!(is_refused(anonymous).await, "nobody");
    let mut lasting = rig.options(&key);
    lasting.set_clean_start(false);
    assert!(is_refused(lasting).await, "an old session");
    let mut kept = rig.options(&key);
    kept.set_session_expiry_interval(Some(3_600));
    assert!(is_refused(kept).await, "a session to be kept");
    for topic in [
        st_topic(&other.device_id()),
        cmd_topic(&key.device_id()),
        ev_topic(&key.device_id()),
    ] {
        let mut options = rig.options(&key);
        options.set_last_will(will(topic.clone()));
        assert!(is_refused(options).await, "a last will on {topic}");
    }
    let mut options = rig.options(&key);
    options.set_last_will(LastWill {
        retain: true,
        ..will(st_topic(&key.device_id()))
    });
    let (_client, mut events) = AsyncClient::new(options, 16);
    assert!(
        wait_for_connack(&mut events).await.is_err(),
        "a retained last will"
    );
    rig.gateway(&key).await;
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listens_to_anothers_commands() {
    let mut rig = Rig::start().await;
    let (key, victim) = (rig.enrol(), rig.enrol());
    let mut heard = rig.gateway(&victim).await;
    let mut spy = rig.client(rig.options(&key)).await;
    let own = cmd_topic(&victim.device_id());
    for filter in [
        "#",
        "+/+/cmd",
        "mantel/+/cmd",
        "mantel/#",
        "$SYS/#",
        &own,
        &ev_topic(&key.device_id()),
    ] {
        assert_eq!(
            spy.subscribe(filter).await,
            [SubscribeReasonCode::NotAuthorized],
            "{filter}"
        );
    }
    let shared = spy.subscribe(&format!("$share/x/{own}")).await;
    assert!(
        !shared.contains(&SubscribeReasonCode::Success(Quality::AtLeastOnce)),
        "{shared:?}"
    );
    assert_eq!(spy.subscribe(&cmd_topic(&key.device_id())).await, granted());
    assert_eq!(rig.event().await, BusEvent::Online(key.device_id()));
    rig.bus.send(victim.device_id(), Command::Orders).await;
    assert!(matches!(heard.packet().await, Some(Packet::Publish(_))));
    rig.bus.send(key.device_id(), Command::Catalog).await;
    match spy.packet().await {
        Some(Packet::Publish(message)) => assert_eq!(message.topic, cmd_topic(&key.device_id())),
        other => panic!("its own command comes first: {other:?}"),
    }
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_in_anothers_name() {
    let mut rig = Rig::start().await;
    let (key, victim) = (rig.enrol(), rig.enrol());
    let mut heard = rig.gateway(&victim).await;
    let (forged, payload) = progress(1);
    let stopped = serde_json::to_vec(&Command::Orders).expect("plain data");
    let offline = serde_json::to_vec(&PresenceMessage { online: false }).expect("plain data");
    let other = victim.device_id();
    for (topic, payload) in [
        (cmd_topic(&other), stopped.clone()),
        (cmd_topic(&key.device_id()), stopped),
        (ev_topic(&other), payload),
        (st_topic(&other), offline),
        ("$SYS/brokers".into(), b"x".to_vec()),
    ] {
        let mut liar = rig.client(rig.options(&key)).await;
        liar.publish(&topic, Quality::AtLeastOnce, false, payload)
            .await;
        liar.ended().await;
    }
    // The victim heard nothing, and the first event is its own.
    let (own, payload) = progress(2);
    assert_ne!(own, forged);
    heard
        .publish(&ev_topic(&other), Quality::AtMostOnce, false, payload)
        .await;
    assert!(
        matches!(rig.event().await, BusEvent::Progress { device, bytes_done: 2, .. } if device == other)
    );
    rig.bus.send(other, Command::Restrictions).await;
    match heard.packet().await {
        Some(Packet::Publish(message)) => {
            assert_eq!(
                serde_json::from_slice::<Command>(&message.payload).ok(),
                Some(Command::Restrictions)
            );
        }
        other => panic!("the server's command comes first: {other:?}"),
    }
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_retained_and_exactly_once_messages_are_refused() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let topic = ev_topic(&key.device_id());
    for (quality, retain, bytes) in [
        (Quality::AtLeastOnce, false, MAX_PAYLOAD + 1),
        (Quality::AtMostOnce, false, 4 * 1024 * 1024),
        (Quality::AtMostOnce, true, 10),
        (Quality::ExactlyOnce, false, 10),
    ] {
        let mut options = rig.options(&key);
        // The client shall not hold back what the broker is to refuse.
        options.set_max_packet_size(Some(u32::MAX));
        let mut client = rig.client(options).await;
        client
            .publish(&topic, quality, retain, vec![b' '; bytes])
            .await;
        client.ended().await;
    }
    // What is not understood, but allowed, is left alone.
    let gateway = rig.gateway(&key).await;
    gateway
        .publish(&topic, Quality::AtLeastOnce, false, vec![b'{'; MAX_PAYLOAD])
        .await;
    let (_, payload) = progress(3);
    gateway
        .publish(&topic, Quality::AtLeastOnce, false, payload)
        .await;
    assert!(matches!(
        rig.event().await,
        BusEvent::Progress { bytes_done: 3, .. }
    ));
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_breaks_off_or_says_goodbye_is_offline() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let device = key.device_id();
    let mut options = rig.options(&key);
    options.set_last_will(will(st_topic(&device)));
    let mut client = rig.client(options).await;
    assert_eq!(client.subscribe(&cmd_topic(&device)).await, granted());
    assert_eq!(rig.event().await, BusEvent::Online(device));
    client.vanish();
    assert_eq!(rig.event().await, BusEvent::Offline(device));
    let gateway = rig.gateway(&key).await;
    let goodbye = serde_json::to_vec(&PresenceMessage { online: false }).expect("plain data");
    gateway
        .publish(&st_topic(&device), Quality::AtLeastOnce, false, goodbye)
        .await;
    assert_eq!(rig.event().await, BusEvent::Offline(device));
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_falls_silent_is_offline() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let device = key.device_id();
    let mut options = rig.options(&key);
    // The least that this client library allows.
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, 16);
    wait_for_connack(&mut events).await.expect("admitted");
    client
        .subscribe(cmd_topic(&device), Quality::AtLeastOnce)
        .await
        .expect("queued");
    while !matches!(
        within(events.poll()).await,
        Ok(ClientEvent::Incoming(Packet::SubAck(_)))
    ) {}
    assert_eq!(rig.event().await, BusEvent::Online(device));
    // From here the client is not driven: no pings, yet the connection stays open.
    assert_eq!(rig.event().await, BusEvent::Offline(device));
    drop(events);
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_device_takes_its_session_over() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let device = key.device_id();
    let mut options = rig.options(&key);
    options.set_last_will(will(st_topic(&device)));
    let mut old = rig.client(options).await;
    assert_eq!(old.subscribe(&cmd_topic(&device)).await, granted());
    assert_eq!(rig.event().await, BusEvent::Online(device));
    let mut new = rig.client(rig.options(&key)).await;
    assert_eq!(new.subscribe(&cmd_topic(&device)).await, granted());
    old.ended().await;
    rig.bus.send(device, Command::Orders).await;
    assert!(matches!(new.packet().await, Some(Packet::Publish(_))));
    // No Offline for the old connection came between.
    let (_, payload) = progress(5);
    new.publish(&ev_topic(&device), Quality::AtLeastOnce, false, payload)
        .await;
    assert!(matches!(
        rig.event().await,
        BusEvent::Progress { bytes_done: 5, .. }
    ));
    new.vanish();
    assert_eq!(rig.event().await, BusEvent::Offline(device));
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_taken_over_by_one_that_never_listens_is_offline() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let mut old = rig.gateway(&key).await;
    let _new = rig.client(rig.options(&key)).await;
    old.ended().await;
    assert_eq!(rig.event().await, BusEvent::Offline(key.device_id()));
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_shut_out_is_disconnected_and_stays_out() {
    let mut rig = Rig::start().await;
    let (key, neighbour) = (rig.enrol(), rig.enrol());
    let mut gateway = rig.gateway(&key).await;
    let mut other = rig.gateway(&neighbour).await;
    rig.enrolled
        .lock()
        .expect("not poisoned")
        .remove(&key.device_id());
    rig.bus.disconnect(key.device_id()).await;
    gateway.ended().await;
    assert_eq!(rig.event().await, BusEvent::Offline(key.device_id()));
    assert!(is_refused(rig.options(&key)).await);
    rig.bus.send(neighbour.device_id(), Command::Orders).await;
    assert!(
        matches!(other.packet().await, Some(Packet::Publish(_))),
        "the neighbour stays"
    );
    rig.bus.disconnect(SigningKey::generate().device_id()).await;
    rig.tasks.shut_down(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_lets_the_clients_go_and_frees_the_port() {
    let mut rig = Rig::start().await;
    let key = rig.enrol();
    let mut gateway = rig.gateway(&key).await;
    let address = rig.bus.local_addr();
    rig.tasks.shut_down(DEADLINE).await;
    gateway.ended().await;
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_on_the_port_do_no_harm() {
    let mut rig = Rig::start().await;
    let connector = TlsConnector::from(Arc::new(
        tls::pinned_client(rig.pin).expect("a TLS configuration"),
    ));
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[0]
    };
    let connect = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x0f\x00\x00\x00";
    for round in 0..60_usize {
        let mut noise: Vec<u8> = (0..round * 37).map(|_| random()).collect();
        match round % 5 {
            // A CONNECT with damaged bytes behind a good beginning.
            1 => noise
                .splice(0..0, connect[..(round % connect.len())].iter().copied())
                .for_each(drop),
            2 => noise
                .splice(0..0, *b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05")
                .for_each(drop),
            3 => noise
                .splice(0..0, *b"\x10\x80\x80\x80\x80\x80\x00")
                .for_each(drop),
            4 => noise
                .splice(0..0, *b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00")
                .for_each(drop),
            _ => {}
        }
        let mut plain = TcpStream::connect(rig.bus.local_addr())
            .await
            .expect("connected");
        if round % 2 == 0 {
            let _ = plain.write_all(&noise).await;
            let _ = plain.shutdown().await;
        } else if let Ok(mut stream) = connector.connect(tls::any_name(), plain).await {
            let _ = stream.write_all(&noise).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = within(stream.read_to_end(&mut answer)).await;
        }
    }
    let key = rig.enrol();
    rig.gateway(&key).await;
    rig.tasks.shut_down(DEADLINE).await;
}
