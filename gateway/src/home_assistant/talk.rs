//! The connection to the household's broker (MQTT 3.1.1): connects with growing waits, tells everything anew on each
//! connection and then what changed, and carries out commands. One task speaks MQTT, one tells, so that neither can
//! make the other wait; what does not fit the queue to the broker is told at the next round.

use super::discovery::{Command, Topics, player_id};
use super::{Inner, Settings, Status};
use crate::devices::{DeviceRow, DeviceStanding};
use crate::exchange::Direction;
use crate::library::ImportPhase;
use crate::link::LinkStatus;
use crate::playback::PlayingOn;
use mantel_peripherals::media::TransportState;
use mantel_peripherals::{Capability, DeviceState};
use mantel_runtime::logging::chain;
use mantel_runtime::tasks::Tasks;
use rumqttc::{
    AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, QoS, TlsConfiguration, Transport,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};

/// The first wait after a lost connection; doubled up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(2);
/// Either side takes the other for gone after one and a half of it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Changes are told at most this often.
const REST: Duration = Duration::from_secs(1);
/// Free space is looked at this often.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Messages waiting for the broker.
const QUEUE: usize = 512;
/// The largest message taken from the broker, and given to it, bytes.
const MAX_IN: usize = 4 * 1024;
const MAX_OUT: usize = 64 * 1024;
/// Commands waiting, and carried out at once.
const COMMANDS: usize = 16;
/// Players told of.
const MAX_PLAYERS: usize = 64;
/// Arrivals told in one round; the others are not told.
const MAX_ARRIVALS: usize = 20;

/// TLS towards a broker that is known by these certificates; `None`: they cannot be used.
pub(super) fn tls(pem: &str) -> Option<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    if roots.is_empty() {
        return None;
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    Some(config.with_no_client_auth())
}

/// Connects as tasks of `tasks`.
pub(super) fn start(inner: &Arc<Inner>, settings: &Settings, tasks: &Tasks) {
    let topics = Topics::new(&settings.prefix, &inner.parts.link.device().to_string());
    let (client, events) = connect(settings, &topics);
    let (connected, watching) = watch::channel(0u64);
    let (give, commands) = mpsc::channel(COMMANDS);
    let (listener, teller, doer) = (Arc::clone(inner), Arc::clone(inner), Arc::clone(inner));
    let (heard, told) = (topics.clone(), topics);
    let subscriber = client.clone();
    tasks.spawn("home-assistant-listen", async move {
        listen(&listener, &heard, subscriber, events, connected, give).await;
    });
    tasks.spawn("home-assistant-tell", async move {
        let mut telling = Telling {
            inner: teller,
            topics: told,
            client,
            told: BTreeMap::new(),
            players: BTreeSet::new(),
            arrived: None,
        };
        telling.run(watching).await;
    });
    let node = tasks.clone();
    tasks.spawn("home-assistant-do", async move {
        obey(doer, commands, &node).await;
    });
}

fn connect(settings: &Settings, topics: &Topics) -> (AsyncClient, EventLoop) {
    let id = topics.own("client").replace('/', "-");
    let mut options = MqttOptions::new(id, &settings.host, settings.port);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_clean_session(true)
        .set_max_packet_size(MAX_IN, MAX_OUT)
        .set_last_will(LastWill::new(
            topics.own("availability"),
            "offline",
            QoS::AtLeastOnce,
            true,
        ));
    if !settings.user.is_empty() {
        options.set_credentials(settings.user.as_str(), settings.password.as_str());
    }
    if let Some(tls) = tls(&settings.authority) {
        let tls = TlsConfiguration::Rustls(Arc::new(tls));
        options.set_transport(Transport::tls_with_config(tls));
    }
    AsyncClient::new(options, QUEUE)
}

/// Speaks MQTT until the node ends.
async fn listen(
    inner: &Inner,
    topics: &Topics,
    client: AsyncClient,
    mut events: EventLoop,
    connected: watch::Sender<u64>,
    give: mpsc::Sender<(String, Command)>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                wait = FIRST_WAIT;
                tracing::info!("connected to the household's broker");
                for topic in topics.commands() {
                    let _ = client.try_subscribe(topic, QoS::AtMostOnce);
                }
                inner.status.send_replace(Status::Connected);
                connected.send_modify(|n| *n += 1);
            }
            // A retained command is an old one: it is not carried out.
            Ok(Event::Incoming(Packet::Publish(message))) if !message.retain => {
                if let Some(command) = topics.command(&message.topic, &message.payload) {
                    drop(give.try_send(command));
                } else {
                    tracing::debug!(topic = message.topic, "a message was not a command");
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(
                    error = chain(&error),
                    "no connection to the household's broker"
                );
                inner.status.send_replace(Status::Away(error.to_string()));
                // What waited would be told late; everything is told anew.
                events.clean();
                events.pending.clear();
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Carries out commands.
async fn obey(inner: Arc<Inner>, mut commands: mpsc::Receiver<(String, Command)>, tasks: &Tasks) {
    let places = Arc::new(Semaphore::new(COMMANDS));
    while let Some((player, command)) = commands.recv().await {
        let device = {
            let rows = inner.parts.devices.snapshot();
            let rows = rows.borrow();
            players(&rows)
                .find(|row| player_id(&row.id) == player)
                .map(|row| row.id.clone())
        };
        let (Some(device), Ok(place)) = (device, Arc::clone(&places).try_acquire_owned()) else {
            continue;
        };
        let inner = Arc::clone(&inner);
        tasks.spawn("home-assistant-command", async move {
            let playback = &inner.parts.playback;
            let done = match command {
                Command::Play => playback.resume(&device).await,
                Command::Pause => playback.pause(&device).await,
                Command::Stop => playback.stop(&device).await,
                Command::Volume(percent) => playback.volume(&device, percent).await,
            };
            if let Err(error) = done {
                tracing::info!(
                    device,
                    ?command,
                    error = chain(&error),
                    "a command from Home Assistant was not done"
                );
            }
            drop(place);
        });
    }
}

/// The players that are told of: those that the household let in.
fn players(rows: &[DeviceRow]) -> impl Iterator<Item = &DeviceRow> {
    rows.iter()
        .filter(|row| row.standing == DeviceStanding::Admitted)
        .filter(|row| row.capabilities.contains(&Capability::Render))
        .take(MAX_PLAYERS)
}

/// What was told on this connection.
struct Telling {
    inner: Arc<Inner>,
    topics: Topics,
    client: AsyncClient,
    told: BTreeMap<String, String>,
    players: BTreeSet<String>,
    /// Titles whose arrival needs no telling; `None`: nothing was looked at yet.
    arrived: Option<BTreeSet<String>>,
}

impl Telling {
    async fn run(&mut self, mut connected: watch::Receiver<u64>) {
        let parts = &self.inner.parts;
        let (mut devices, mut playing) = (parts.devices.snapshot(), parts.playback.sessions());
        let (mut orders, mut imports) = (parts.exchange.orders(), parts.library.imports());
        let mut link = parts.link.status();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let up = *self.inner.status.borrow() == Status::Connected;
            if up {
                self.tell().await;
            }
            tokio::time::sleep(REST).await;
            let alive = tokio::select! {
                changed = connected.changed() => {
                    self.told.clear();
                    changed.is_ok()
                }
                changed = devices.changed() => changed.is_ok(),
                changed = playing.changed() => changed.is_ok(),
                changed = orders.changed() => changed.is_ok(),
                changed = imports.changed() => changed.is_ok(),
                changed = link.changed() => changed.is_ok(),
                _ = look.tick() => true,
            };
            if !alive {
                return;
            }
        }
    }

    /// Tells what is not told yet. What the queue does not take is told at the next round.
    fn say(&mut self, topic: String, payload: String, retain: bool) {
        if retain && self.told.get(&topic) == Some(&payload) {
            return;
        }
        let sent = self
            .client
            .try_publish(&topic, QoS::AtLeastOnce, retain, payload.as_bytes());
        if sent.is_ok() && retain {
            self.told.insert(topic, payload);
        }
    }

    async fn tell(&mut self) {
        let at = self.topics.clone();
        let enrolment = self.inner.parts.link.enrolment();
        let name = enrolment.map_or_else(|| "Mantel".to_owned(), |at| at.home_name.clone());
        self.say(at.config(), at.gateway(&name, None).to_string(), true);
        self.say(at.own("availability"), "online".to_owned(), true);
        let online = *self.inner.parts.link.status().borrow() == LinkStatus::Online;
        self.say(
            at.own("server"),
            if online { "ON" } else { "OFF" }.to_owned(),
            true,
        );
        let library = &self.inner.parts.library;
        let (free, used) = (
            library.free_bytes().await,
            library.used_bytes().await.unwrap_or(0),
        );
        self.say(
            at.own("storage"),
            json!({ "free": free, "used": used }).to_string(),
            true,
        );
        self.tell_transfers();
        self.tell_players();
    }

    fn tell_transfers(&mut self) {
        let (mut count, mut done, mut total) = (0u64, 0u64, 0u64);
        let mut here: Vec<(String, &str, String)> = Vec::new();
        let orders = self.inner.parts.exchange.orders();
        for row in orders.borrow().iter() {
            if !row.entry.state.is_final() {
                count += 1;
                done += row.bytes_done;
                total += row.entry.total_bytes;
            } else if row.direction == Direction::In && row.ready {
                here.push((
                    row.entry.title.to_string(),
                    "arrived",
                    row.title_name.clone().unwrap_or_default(),
                ));
            }
        }
        let imports = self.inner.parts.library.imports();
        for row in imports
            .borrow()
            .iter()
            .filter(|row| row.phase == ImportPhase::Done)
        {
            here.push((row.title.to_string(), "imported", row.name.clone()));
        }
        let percent = (done * 100).checked_div(total).unwrap_or(0).min(100);
        let state = json!({ "count": count, "percent": percent }).to_string();
        self.say(self.topics.own("transfers"), state, true);
        let known = self
            .arrived
            .get_or_insert_with(|| here.iter().map(|(title, ..)| title.clone()).collect());
        let new: Vec<_> = here
            .iter()
            .filter(|(title, ..)| known.insert(title.clone()))
            .cloned()
            .collect();
        let now: BTreeSet<&String> = here.iter().map(|(title, ..)| title).collect();
        known.retain(|title| now.contains(title));
        for (title, event, name) in new.into_iter().take(MAX_ARRIVALS) {
            let event = json!({ "event_type": event, "title": title, "name": name });
            self.say(self.topics.own("arrived"), event.to_string(), false);
        }
    }

    fn tell_players(&mut self) {
        let at = self.topics.clone();
        let rows = self.inner.parts.devices.snapshot().borrow().clone();
        let playing = self.inner.parts.playback.sessions().borrow().clone();
        let mut there = BTreeSet::new();
        for row in players(&rows) {
            let id = player_id(&row.id);
            let more = (row.maker.as_deref(), row.model.as_deref());
            let device = at.player_device(&id, &row.name, more);
            self.say(at.player_config(&id), device.to_string(), true);
            let online = if row.state == DeviceState::Online {
                "online"
            } else {
                "offline"
            };
            self.say(at.player(&id, "availability"), online.to_owned(), true);
            let plays = playing.iter().find(|plays| plays.device == row.id);
            self.say(at.player(&id, "state"), state(plays), true);
            there.insert(id);
        }
        for gone in self.players.difference(&there) {
            // Empty and retained: Home Assistant takes the device away, and the broker forgets it.
            for topic in [
                at.player_config(gone),
                at.player(gone, "availability"),
                at.player(gone, "state"),
            ] {
                let _ = self
                    .client
                    .try_publish(&topic, QoS::AtLeastOnce, true, Vec::new());
                self.told.remove(&topic);
            }
        }
        self.players = there;
    }
}

fn state(plays: Option<&PlayingOn>) -> String {
    let Some(plays) = plays else {
        return json!({ "state": "idle" }).to_string();
    };
    let state = match plays.state {
        TransportState::Playing => "playing",
        TransportState::Paused => "paused",
        TransportState::Transitioning => "starting",
        TransportState::Stopped | TransportState::NoMedia => "idle",
        TransportState::Recording | TransportState::Other => "busy",
    };
    json!({
        "state": state, "title": plays.title_name,
        "duration_s": plays.duration.map(|duration| duration.as_secs()),
    })
    .to_string()
}
