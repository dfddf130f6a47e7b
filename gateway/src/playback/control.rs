//! Playing on a renderer (F63): one task per device owns it while it plays, asks it once a second, and takes commands.

use super::follow::{Following, Verdict};
use super::session::{Addresses, Session};
use super::{Inner, MediaUrl, Playback, PlaybackError, PlayingOn};
use crate::devices::Player;
use crate::library::Title;
use mantel_peripherals::media::{
    self as peripheral, PlayRequest, RenderError, TransportState, Volume,
};
use mantel_protocol::ids::TitleId;
use mantel_protocol::manifest::MediaKind;
use mantel_runtime::logging::chain;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

/// How often a renderer is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Commands waiting for one renderer.
const COMMAND_QUEUE: usize = 8;

/// What a person presses.
#[derive(Debug, Clone, Copy)]
pub(super) enum Press {
    Pause,
    Resume,
    Stop,
    Seek(Duration),
    Volume(Volume),
}

type Reply = oneshot::Sender<Result<(), RenderError>>;
pub(super) type Commands = mpsc::Sender<(Press, Reply)>;

impl Playback {
    /// Plays a title on a device: loads our media URL into it and starts it.
    pub async fn play_on(&self, title: TitleId, device: &str) -> Result<(), PlaybackError> {
        let inner = &self.inner;
        let player = inner
            .devices
            .player(device)
            .ok_or(PlaybackError::NoPlayer)?;
        let found = self.playable(title).await?;
        let asset = found.main_asset().ok_or(PlaybackError::NotReady)?.clone();
        let own = own_address(&player.addresses).ok_or_else(|| PlaybackError::NoRoute {
            device: player.name.clone(),
        })?;
        let now = inner.clock.monotonic();
        let addresses = Addresses::Only(player.addresses.clone());
        let token = inner
            .sessions
            .add(Session::new(&found, &asset, addresses, now), now);
        let url = MediaUrl::of(&token, &found, &asset);
        let request = PlayRequest {
            url: format!(
                "http://{}{}",
                SocketAddr::new(own, inner.web_port),
                url.path
            ),
            title: found.name.clone(),
            kind: peripheral_kind(found.kind),
            mime: asset.mime.clone(),
            size_bytes: Some(asset.plain_bytes),
            duration: asset.duration_ms.map(Duration::from_millis),
        };
        self.forget(&player.id);
        let started = async {
            player.renderer.load(&request).await?;
            player.renderer.play().await
        };
        if let Err(error) = started.await {
            inner.sessions.end(&token);
            if matches!(error, RenderError::Unreachable { .. }) {
                inner.devices.recheck(&player.id).await;
            }
            tracing::warn!(
                device = player.name,
                error = chain(&error),
                "a title was not started"
            );
            return Err(error.into());
        }
        self.follow(player, &found, token, &url, request.duration);
        Ok(())
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

    fn follow(
        &self,
        player: Player,
        title: &Title,
        token: String,
        url: &MediaUrl,
        duration: Option<Duration>,
    ) {
        let (commands, presses) = mpsc::channel(COMMAND_QUEUE);
        self.inner
            .commands
            .lock()
            .expect("no holder of this lock panics")
            .insert(player.id.clone(), commands.clone());
        let row = PlayingOn {
            device: player.id.clone(),
            device_name: player.name.clone(),
            title: title.id,
            title_name: title.name.clone(),
            state: TransportState::Transitioning,
            position: None,
            duration,
            problem: None,
        };
        self.inner
            .rows
            .send_modify(|rows| Arc::make_mut(rows).push(row));
        let following = Following::new(url.path.split('.').next().unwrap_or(&url.path));
        let mut task = Task {
            inner: Arc::clone(&self.inner),
            player,
            token,
            following,
            own: commands.downgrade(),
        };
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

    /// Stops, and forgets a problem that is still shown.
    pub async fn stop(&self, device: &str) -> Result<(), PlaybackError> {
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
            Err(PlaybackError::NotPlaying) => {
                let player = self
                    .inner
                    .devices
                    .player(device)
                    .ok_or(PlaybackError::NoPlayer)?;
                Ok(player.renderer.set_volume(volume).await?)
            }
            other => other,
        }
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
        Ok(answer.await.map_err(|_| PlaybackError::NotPlaying)??)
    }
}

/// One title on one renderer.
struct Task {
    inner: Arc<Inner>,
    player: Player,
    token: String,
    following: Following,
    /// To tell our place in the table of commands from a successor's.
    own: mpsc::WeakSender<(Press, Reply)>,
}

impl Task {
    async fn run(&mut self, mut presses: mpsc::Receiver<(Press, Reply)>) {
        let mut every = tokio::time::interval(ASK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let press = tokio::select! {
                press = presses.recv() => press,
                _ = every.tick() => {
                    if self.ask().await {
                        continue;
                    }
                    break;
                }
            };
            // The place in the table is gone: another title was started here, or playing was stopped.
            let Some((press, reply)) = press else { break };
            let done = self.obey(press).await;
            let stopped = matches!(press, Press::Stop) && done.is_ok();
            // The presser may have gone away.
            let _ = reply.send(done);
            if stopped || !self.ask().await {
                break;
            }
        }
        self.inner.sessions.end(&self.token);
        self.leave();
    }

    async fn obey(&self, press: Press) -> Result<(), RenderError> {
        let renderer = &self.player.renderer;
        match press {
            Press::Pause => renderer.pause().await,
            Press::Resume => renderer.play().await,
            Press::Stop => renderer.stop().await,
            Press::Seek(position) => renderer.seek(position).await,
            Press::Volume(volume) => renderer.set_volume(volume).await,
        }
    }

    /// Asks the renderer and shows what it says. `false`: it is over.
    async fn ask(&mut self) -> bool {
        let name = self.player.name.clone();
        let (verdict, status) = match self.player.renderer.status().await {
            Ok(status) => (self.following.heard(&status), Some(status)),
            Err(error @ RenderError::Unreachable { .. }) => {
                tracing::debug!(
                    device = name,
                    error = chain(&error),
                    "a renderer does not answer"
                );
                (self.following.missed(), None)
            }
            // An answer that says nothing: it is there, at least.
            Err(error) => {
                tracing::debug!(
                    device = name,
                    error = chain(&error),
                    "a renderer's report was refused"
                );
                (Verdict::On, None)
            }
        };
        if verdict == Verdict::Silent {
            self.inner.devices.recheck(&self.player.id).await;
        }
        let problem = match verdict {
            Verdict::On | Verdict::Over => None,
            Verdict::Silent => Some(format!(
                "{name} does not answer. It may have been switched off or left the network; playing goes on here when \
                 it answers again."
            )),
            Verdict::Taken => Some(format!(
                "{name} now plays something else. Play the title again to take it back."
            )),
            Verdict::Failed => Some(format!(
                "{name} did not play this title. It may not know the format, or it could not reach this gateway."
            )),
            Verdict::Gone => Some(format!(
                "{name} has not answered for a minute; playing was ended. Switch it on and play the title again."
            )),
        };
        let over = !matches!(verdict, Verdict::On | Verdict::Silent);
        self.update(|row| {
            if let Some(status) = status {
                row.state = status.state;
                row.position = status.position;
                row.duration = status.duration.or(row.duration);
            }
            if over {
                row.state = TransportState::Stopped;
            }
            row.problem = problem;
        });
        !over
    }

    fn update(&self, change: impl FnOnce(&mut PlayingOn)) {
        self.inner.rows.send_if_modified(|rows| {
            let mut now = (**rows).clone();
            let Some(row) = now.iter_mut().find(|row| row.device == self.player.id) else {
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

    /// Leaves the table and the list; a row with a problem stays until something else is played there.
    fn leave(&self) {
        let mut table = self
            .inner
            .commands
            .lock()
            .expect("no holder of this lock panics");
        let ours = match (table.get(&self.player.id), self.own.upgrade()) {
            (Some(there), Some(own)) => there.same_channel(&own),
            _ => false,
        };
        if ours {
            table.remove(&self.player.id);
            self.inner.rows.send_modify(|rows| {
                Arc::make_mut(rows)
                    .retain(|row| row.device != self.player.id || row.problem.is_some());
            });
        }
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
