//! The broker (MQTT 5 over pinned TLS): hears "look again", tells progress and presence (last will).
//!
//! Each connection is a new session with a fresh log-in as its password. Nothing is relied on to arrive: on every
//! connection, and every half minute, everything is looked at again by the API.

use super::api::jittered;
use super::store::Enrolment;
use super::{ApiClient, ApiError, Link};
use mantel_protocol::bus::{self, Command, Event, MAX_PAYLOAD, Presence};
use mantel_protocol::key::DeviceId;
use mantel_runtime::logging::chain;
use mantel_runtime::tls::pinned_client;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, Packet};
use rumqttc::v5::{AsyncClient, Event as MqttEvent, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info};

/// After so long without a word either side takes the other for gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a connection may take, seconds.
const CONNECT_LIMIT_S: u64 = 10;
/// The first wait after a lost connection; doubled up to the longest, jittered.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Messages waiting to be sent; progress beyond that is dropped (a newer one replaces it).
const SEND_QUEUE: usize = 32;
/// Room for MQTT's own fields around a payload, bytes.
const PACKET_OVERHEAD: u32 = 1024;

/// Tells the server how transfers go; best effort.
pub(super) struct Reporter {
    client: AsyncClient,
    topic: String,
}

impl Reporter {
    pub(super) fn report(&self, event: Event) {
        let payload = serde_json::to_vec(&event).expect("events are plain data");
        if self
            .client
            .try_publish(self.topic.as_str(), QoS::AtMostOnce, false, payload)
            .is_err()
        {
            debug!("a progress report was dropped: the queue to the broker is full");
        }
    }
}

/// Keeps a connection to the broker for as long as the process runs.
pub(super) async fn run(link: Link) {
    let mut enrolled = link.enrolments();
    let mut wait = FIRST_WAIT;
    loop {
        let Ok(enrolment) = enrolled
            .wait_for(Option::is_some)
            .await
            .map(|now| now.clone())
        else {
            return;
        };
        let Some(enrolment) = enrolment else { continue };
        let (connected, why) = match connect(&link, &enrolment) {
            Ok((client, events)) => converse(&link, client, events).await,
            Err(error) => (Connected::Never, error.to_string()),
        };
        *link
            .inner
            .reporter
            .lock()
            .expect("no holder of this lock panics") = None;
        debug!(why, "no connection to the broker");
        link.set_tie(|ties| {
            ties.broker = false;
            // The broker and the API are one server: what was true of it may be over.
            ties.api = false;
            "the server does not answer".clone_into(&mut ties.why);
        });
        if connected == Connected::Once {
            wait = FIRST_WAIT;
            link.inner.look_now.notify_one();
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

#[derive(PartialEq, Eq)]
enum Connected {
    Once,
    Never,
}

fn connect(link: &Link, enrolment: &Enrolment) -> Result<(AsyncClient, EventLoop), ApiError> {
    let device = link.device();
    let tls = pinned_client(enrolment.pin).map_err(|_| ApiError::Setup)?;
    let api: ApiClient = link.api()?;
    let mut options = MqttOptions::new(
        device.to_string(),
        &enrolment.host,
        enrolment.server.mqtt_port,
    );
    options
        .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(
            Arc::new(tls),
        )))
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_start(true)
        .set_connection_timeout(CONNECT_LIMIT_S)
        .set_max_packet_size(Some(MAX_PAYLOAD as u32 + PACKET_OVERHEAD))
        .set_credentials(device.to_string(), api.login())
        .set_last_will(LastWill::new(
            bus::st_topic(&device),
            presence(false),
            QoS::AtLeastOnce,
            false,
            None,
        ));
    Ok(AsyncClient::new(options, SEND_QUEUE))
}

fn presence(online: bool) -> Vec<u8> {
    serde_json::to_vec(&Presence { online }).expect("presence is plain data")
}

/// Listens until the connection ends; says whether there was one and why it ended.
async fn converse(link: &Link, client: AsyncClient, mut events: EventLoop) -> (Connected, String) {
    let device = link.device();
    let mut connected = Connected::Never;
    loop {
        match events.poll().await {
            Ok(MqttEvent::Incoming(Packet::ConnAck(_))) => {
                connected = Connected::Once;
                greet(link, &client, &device);
            }
            // Subscribed: from here nothing said is missed, so look at all that was said before.
            Ok(MqttEvent::Incoming(Packet::SubAck(_))) => {
                info!("connected to the server");
                link.set_tie(|ties| ties.broker = true);
                link.inner.look_now.notify_one();
            }
            Ok(MqttEvent::Incoming(Packet::Publish(message))) => hear(link, &message.payload),
            Ok(_) => {}
            Err(error) => return (connected, chain(&error)),
        }
    }
}

fn greet(link: &Link, client: &AsyncClient, device: &DeviceId) {
    let subscribed = client.try_subscribe(bus::cmd_topic(device), QoS::AtLeastOnce);
    let told = client.try_publish(
        bus::st_topic(device),
        QoS::AtLeastOnce,
        false,
        presence(true),
    );
    if subscribed.is_err() || told.is_err() {
        debug!("the queue to the broker is full");
    }
    let reporter = Reporter {
        client: client.clone(),
        topic: bus::ev_topic(device),
    };
    *link
        .inner
        .reporter
        .lock()
        .expect("no holder of this lock panics") = Some(reporter);
}

fn hear(link: &Link, payload: &[u8]) {
    if payload.len() > MAX_PAYLOAD {
        return;
    }
    match serde_json::from_slice::<Command>(payload) {
        Ok(command) => link.wake(command.into()),
        Err(error) => debug!(%error, "a command that this version does not know"),
    }
}
