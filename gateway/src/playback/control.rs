//! What a person does to a renderer (F63): start, queue, pause, seek, volume. One [`Task`](super::task) per device owns it
//! while it plays.

use super::queue::{Place, Queue, Waiting};
use super::session::{Addresses, Session};
use super::task::{Prepared, Task};
use super::{Inner, MediaUrl, Playback, PlaybackError, PlayingOn};
use crate::devices::Player;
use mantel_peripherals::media::{
    self as peripheral, Mute, PlayRequest, RenderError, TransportState, Volume,
};
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::MediaKind;
use mantel_runtime::logging::chain;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Commands waiting for one renderer.
const COMMAND_QUEUE: usize = 8;

/// What a person presses.
#[derive(Debug, Clone, Copy)]
pub(super) enum Press {
    Pause,
    Resume,
    Stop,
    Skip,
    Seek(Duration),
    Volume(Volume),
    Mute(Mute),
}

pub(super) type Reply = oneshot::Sender<Result<(), PlaybackError>>;
pub(super) type Commands = mpsc::Sender<(Press, Reply)>;

impl Playback {
    /// Plays a title on a device now: loads our media URL into it and starts it. What waits there goes on waiting.
    pub async fn play_on(&self, title: TitleId, device: &str) -> Result<(), PlaybackError> {
        let player = self
            .inner
            .devices
            .player(device)
            .ok_or(PlaybackError::NoPlayer)?;
        let prepared = self.prepare(&player, title).await?;
        self.forget(&player.id);
        self.start(&player, &prepared).await?;
        self.follow(player, prepared);
        Ok(())
    }

    /// Plays a title on a device after what plays there; at once where nothing does.
    pub async fn play_after(
        &self,
        title: TitleId,
        device: &str,
        place: Place,
    ) -> Result<(), PlaybackError> {
        let player = self
            .inner
            .devices
            .player(device)
            .ok_or(PlaybackError::NoPlayer)?;
        if !self.drives(&player.id) && self.waiting(&player.id).is_empty() {
            return self.play_on(title, device).await;
        }
        // Judged now, so that the person hears it, and again when its turn comes.
        let found = self.playable(title).await?;
        if !self.queue(&player.id, |queue| queue.add(title, &found.name, place)) {
            return Err(PlaybackError::QueueFull {
                device: player.name,
            });
        }
        Ok(())
    }

    /// Takes a title out of a device's queue.
    pub fn unqueue(&self, device: &str, entry: u64) {
        self.queue(&self.key_of(device), |queue| queue.remove(entry));
    }

    /// Has a title of a device's queue play before the others there.
    pub fn promote(&self, device: &str, entry: u64) {
        self.queue(&self.key_of(device), |queue| queue.promote(entry));
    }

    /// Empties a device's queue; what plays goes on.
    pub fn clear_queue(&self, device: &str) {
        self.queue(&self.key_of(device), |queue| *queue = Queue::default());
    }

    /// Ends the title that plays on a device and begins the next one there, if one waits.
    pub async fn skip(&self, device: &str) -> Result<(), PlaybackError> {
        match self.press(device, Press::Skip).await {
            Err(PlaybackError::NotPlaying) => {
                let key = self.key_of(device);
                let next = self
                    .queue(&key, Queue::take)
                    .ok_or(PlaybackError::NotPlaying)?;
                self.play_on(next.title, device).await
            }
            other => other,
        }
    }

    /// A media URL for a device, with what it needs to know about it.
    pub(super) async fn prepare(
        &self,
        player: &Player,
        title: TitleId,
    ) -> Result<Prepared, PlaybackError> {
        let inner = &self.inner;
        let found = self.playable(title).await?;
        let asset = found.main_asset().ok_or(PlaybackError::NotReady)?.clone();
        let own = inner
            .own_address(&player.addresses)
            .ok_or_else(|| PlaybackError::NoRoute {
                device: player.name.clone(),
            })?;
        let now = inner.clock.monotonic();
        // A loudspeaker of this machine fetches over this machine's own address.
        let addresses = Addresses::Only(if player.addresses.is_empty() {
            vec![own]
        } else {
            player.addresses.clone()
        });
        let token = inner
            .sessions
            .add(Session::new(&found, &asset, addresses, now), now);
        let url = MediaUrl::of(&token, &found, &asset);
        let request = PlayRequest {
            url: format!(
                "http://{}{}",
                SocketAddr::new(own, inner.web.port()),
                url.path
            ),
            title: found.name.clone(),
            kind: peripheral_kind(found.kind),
            mime: asset.mime.clone(),
            size_bytes: Some(asset.plain_bytes),
            duration: asset.duration_ms.map(Duration::from_millis),
        };
        Ok(Prepared {
            title: found.id,
            name: found.name,
            path: url.path.split('.').next().unwrap_or(&url.path).to_owned(),
            token,
            request,
        })
    }

    /// Loads and starts what was prepared; its media URL ends where that fails.
    pub(super) async fn start(
        &self,
        player: &Player,
        prepared: &Prepared,
    ) -> Result<(), PlaybackError> {
        let started = async {
            player.renderer.load(&prepared.request).await?;
            player.renderer.play().await
        };
        let Err(error) = started.await else {
            return Ok(());
        };
        self.inner.sessions.end(&prepared.token);
        if matches!(error, RenderError::Unreachable { .. }) {
            self.inner.devices.recheck(&player.id).await;
        }
        tracing::warn!(
            device = player.name,
            error = chain(&error),
            "a title was not started"
        );
        Err(error.into())
    }

    /// Whether something of ours plays on a device.
    fn drives(&self, device: &str) -> bool {
        let commands = self.inner.commands.lock();
        commands
            .expect("no holder of this lock panics")
            .contains_key(device)
    }

    /// Changes a device's queue and shows it.
    pub(super) fn queue<T>(&self, device: &str, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queues = self
            .inner
            .queues
            .lock()
            .expect("no holder of this lock panics");
        let queue = queues.entry(device.to_owned()).or_default();
        let done = change(queue);
        let all = queue.all();
        if all.is_empty() {
            queues.remove(device);
        }
        drop(queues);
        self.update(device, |row| row.queue = all);
        done
    }

    /// What waits for a device, in order.
    pub(super) fn waiting(&self, device: &str) -> Vec<Waiting> {
        let queues = self
            .inner
            .queues
            .lock()
            .expect("no holder of this lock panics");
        queues.get(device).map(Queue::all).unwrap_or_default()
    }

    /// Changes a device's row, if it has one.
    pub(super) fn update(&self, device: &str, change: impl FnOnce(&mut PlayingOn)) {
        self.inner.rows.send_if_modified(|rows| {
            let mut now = (**rows).clone();
            let Some(row) = now.iter_mut().find(|row| row.device == device) else {
                return false;
            };
            change(row);
            let changed = now != **rows;
            if changed {
                *rows = Arc::new(now);
            }
            changed
        });
    }

    /// Ends what this gateway plays on a device, without telling the device.
    fn forget(&self, device: &str) {
        self.inner
            .commands
            .lock()
            .expect("no holder of this lock panics")
            .remove(device);
        self.inner
            .rows
            .send_modify(|rows| Arc::make_mut(rows).retain(|row| row.device != device));
    }

    fn follow(&self, player: Player, prepared: Prepared) {
        let (commands, presses) = mpsc::channel(COMMAND_QUEUE);
        self.inner
            .commands
            .lock()
            .expect("no holder of this lock panics")
            .insert(player.id.clone(), commands.clone());
        let row = PlayingOn {
            device: player.id.clone(),
            device_name: player.name.clone(),
            title: prepared.title,
            title_name: prepared.name.clone(),
            state: TransportState::Transitioning,
            position: None,
            duration: prepared.request.duration,
            problem: None,
            volume: None,
            mute: None,
            queue: self.waiting(&player.id),
        };
        self.inner
            .rows
            .send_modify(|rows| Arc::make_mut(rows).push(row));
        let task = Task::new(self.clone(), player, prepared, commands.downgrade());
        drop(commands);
        self.inner
            .tasks
            .spawn("playing", async move { task.run(presses).await });
    }

    /// Pauses.
    pub async fn pause(&self, device: &str) -> Result<(), PlaybackError> {
        self.press(device, Press::Pause).await
    }

    /// Goes on.
    pub async fn resume(&self, device: &str) -> Result<(), PlaybackError> {
        self.press(device, Press::Resume).await
    }

    /// Stops, and forgets a problem that is still shown and what waits.
    pub async fn stop(&self, device: &str) -> Result<(), PlaybackError> {
        self.clear_queue(device);
        let result = self.press(device, Press::Stop).await;
        self.forget(&self.key_of(device));
        match result {
            Err(PlaybackError::NotPlaying) => Ok(()),
            other => other,
        }
    }

    /// Goes to a place in the title.
    pub async fn seek(&self, device: &str, position: Duration) -> Result<(), PlaybackError> {
        self.press(device, Press::Seek(position)).await
    }

    /// Sets the loudness, percent; also where nothing is playing.
    pub async fn volume(&self, device: &str, percent: u8) -> Result<(), PlaybackError> {
        let volume = Volume::percent(percent);
        match self.press(device, Press::Volume(volume)).await {
            Err(PlaybackError::NotPlaying) => Ok(self.renderer(device)?.set_volume(volume).await?),
            other => other,
        }
    }

    /// Silences a device or not; also where nothing is playing.
    pub async fn mute(&self, device: &str, mute: Mute) -> Result<(), PlaybackError> {
        match self.press(device, Press::Mute(mute)).await {
            Err(PlaybackError::NotPlaying) => Ok(self.renderer(device)?.set_mute(mute).await?),
            other => other,
        }
    }

    fn renderer(&self, device: &str) -> Result<mantel_peripherals::Renderer, PlaybackError> {
        let renderer = self.inner.devices.renderer(device);
        renderer.ok_or(PlaybackError::NoPlayer)
    }

    /// The key under which a device plays here; it may be asked for by any of its keys.
    fn key_of(&self, device: &str) -> String {
        self.inner
            .devices
            .player(device)
            .map_or_else(|| device.to_owned(), |player| player.id)
    }

    async fn press(&self, device: &str, press: Press) -> Result<(), PlaybackError> {
        let key = self.key_of(device);
        let commands = self
            .inner
            .commands
            .lock()
            .expect("no holder of this lock panics")
            .get(&key)
            .cloned();
        let (reply, answer) = oneshot::channel();
        let commands = commands.ok_or(PlaybackError::NotPlaying)?;
        commands
            .send((press, reply))
            .await
            .map_err(|_| PlaybackError::NotPlaying)?;
        answer.await.map_err(|_| PlaybackError::NotPlaying)?
    }
}

impl Inner {
    /// This gateway's address as the player sees it: a device on a cable sees the loopback interface, or the only
    /// address that the pages are served at.
    fn own_address(&self, addresses: &[IpAddr]) -> Option<IpAddr> {
        if !addresses.is_empty() {
            return own_address(addresses);
        }
        let served = self.web.ip();
        Some(if served.is_unspecified() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            served
        })
    }
}

fn peripheral_kind(kind: MediaKind) -> peripheral::MediaKind {
    match kind {
        MediaKind::Audio => peripheral::MediaKind::Audio,
        MediaKind::Image => peripheral::MediaKind::Image,
        MediaKind::Video => peripheral::MediaKind::Video,
        MediaKind::Data => peripheral::MediaKind::Data,
    }
}

/// This gateway's address as a device at one of `addresses` sees it: the source address of a route there. No packet
/// is sent.
pub(super) fn own_address(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().find_map(|address| {
        let any: SocketAddr = if address.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((*address, 9)).ok()?;
        socket
            .local_addr()
            .ok()
            .map(|own| own.ip())
            .filter(|own| !own.is_unspecified())
    })
}
