//! Playing on one renderer: a task that owns it, hears and asks it, obeys presses, and brings on what waits.

use super::control::{Press, Reply};
use super::follow::{Following, Verdict};
use super::queue::{Queue, Waiting};
use super::{Playback, PlaybackError};
use crate::devices::Player;
use mantel_peripherals::Change;
use mantel_peripherals::media::{PlayRequest, PlaybackStatus, RenderError, TransportState};
use mantel_protocol::ids::TitleId;
use mantel_runtime::logging::chain;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// How often a renderer is asked; sooner when it tells of a change.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// So long before the end of a title the next one is given to the renderer: time to open it, and little time in which
/// the queue may change under it.
const NEXT_BEFORE: Duration = Duration::from_secs(30);
/// A title that stops this close to its end has ended; earlier, somebody stopped it at the renderer.
const END_WITHIN: Duration = Duration::from_secs(6);

/// A title with the media URL made for one renderer.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) title: TitleId,
    pub(super) name: String,
    /// The part of the URL that no renderer rewrites.
    pub(super) path: String,
    pub(super) token: String,
    pub(super) request: PlayRequest,
}

/// What the renderer was told to play after the current title.
enum Next {
    Nothing,
    Loaded {
        entry: u64,
        prepared: Box<Prepared>,
    },
    /// Not told of this one, which is started at the end of the current title.
    AtEnd {
        entry: u64,
    },
    /// It cannot be told.
    Unsupported,
}

/// One renderer while something of ours plays there.
pub(super) struct Task {
    playback: Playback,
    player: Player,
    current: Prepared,
    following: Following,
    next: Next,
    /// The path of a title that the renderer was given and that was taken out of the queue since.
    withdrawn: Option<String>,
    /// Whether the renderer says which URL it plays: without that, a change of title cannot be seen.
    tells_url: bool,
    /// Whether a stop was seen while the renderer had the next title: it may be between the two.
    between: bool,
    /// The last position heard while it played, and the length.
    last: (Option<Duration>, Option<Duration>),
    /// Whether the last title was skipped.
    over: bool,
    /// To tell our place in the table of commands from a successor's.
    own: mpsc::WeakSender<(Press, Reply)>,
}

impl Task {
    pub(super) fn new(
        playback: Playback,
        player: Player,
        current: Prepared,
        own: mpsc::WeakSender<(Press, Reply)>,
    ) -> Self {
        Self {
            following: Following::new(&current.path),
            last: (None, current.request.duration),
            playback,
            player,
            current,
            next: Next::Nothing,
            withdrawn: None,
            tells_url: false,
            between: false,
            over: false,
            own,
        }
    }

    pub(super) async fn run(mut self, mut presses: mpsc::Receiver<(Press, Reply)>) {
        let mut every = tokio::time::interval(ASK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.player.renderer.changes();
        let mut told = true;
        loop {
            let press = tokio::select! {
                press = presses.recv() => press,
                change = changes.next(), if told => {
                    match change {
                        Some(Change::Loudness) => self.ask_loudness().await,
                        Some(Change::Playing) => {
                            if !self.ask().await {
                                break;
                            }
                        }
                        Some(Change::Media(_)) => {}
                        None => told = false,
                    }
                    continue;
                }
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
            if stopped || self.over || !self.ask().await {
                break;
            }
            if matches!(press, Press::Volume(_) | Press::Mute(_)) {
                self.ask_loudness().await;
            }
        }
        self.leave();
        changes.end().await;
    }

    async fn obey(&mut self, press: Press) -> Result<(), PlaybackError> {
        let renderer = &self.player.renderer;
        match press {
            Press::Pause => renderer.pause().await?,
            Press::Resume => renderer.play().await?,
            Press::Stop => renderer.stop().await?,
            Press::Seek(position) => renderer.seek(position).await?,
            Press::Volume(volume) => renderer.set_volume(volume).await?,
            Press::Mute(mute) => renderer.set_mute(mute).await?,
            Press::Skip => {
                if !self.advance().await {
                    self.player.renderer.stop().await?;
                    self.over = true;
                }
            }
        }
        Ok(())
    }

    /// Shows how loud the renderer is.
    async fn ask_loudness(&self) {
        let renderer = &self.player.renderer;
        let (volume, mute) = (renderer.volume().await.ok(), renderer.mute().await.ok());
        self.playback.update(&self.player.id, |row| {
            row.volume = volume.or(row.volume);
            row.mute = mute.or(row.mute);
        });
    }

    /// Asks the renderer and shows what it says. `false`: it is over.
    async fn ask(&mut self) -> bool {
        let name = self.player.name.clone();
        let (verdict, status) = match self.player.renderer.status().await {
            Ok(status) => (self.judge(&status), Some(status)),
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
            self.playback.inner.devices.recheck(&self.player.id).await;
        }
        let mut problem = words(verdict, &name);
        let unwanted = status.as_ref().is_some_and(|now| self.is_unwanted(now));
        let ended = verdict == Verdict::Over && (unwanted || self.ended_by_itself());
        if (ended || verdict == Verdict::Failed) && self.advance().await {
            problem = (verdict == Verdict::Failed)
                .then(|| format!("A title that {name} could not play was left out."));
            self.playback
                .update(&self.player.id, |row| row.problem = problem);
            return true;
        }
        if verdict == Verdict::Over && self.first().is_some() {
            problem = Some(format!(
                "{name} was stopped there. What waits can be started here."
            ));
        }
        if unwanted {
            // Where it does not stop, its media URL has ended.
            let _ = self.player.renderer.stop().await;
        }
        let over = !matches!(verdict, Verdict::On | Verdict::Silent);
        let playing = status
            .as_ref()
            .is_some_and(|status| status.state == TransportState::Playing);
        if let Some(status) = &status
            && playing
        {
            self.last = (status.position, status.duration.or(self.last.1));
        }
        self.playback.update(&self.player.id, |row| {
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
        if playing && !over {
            self.give_next().await;
        }
        !over
    }

    /// Whether it plays what was taken out of the queue after it was given to it.
    fn is_unwanted(&self, status: &PlaybackStatus) -> bool {
        let of = |path: &String| status.url.as_ref().is_some_and(|url| url.contains(path));
        self.withdrawn.as_ref().is_some_and(of)
    }

    /// What a report means; a change to the next title is taken in first.
    fn judge(&mut self, status: &PlaybackStatus) -> Verdict {
        let plays = |path: &str| status.url.as_ref().is_some_and(|url| url.contains(path));
        self.tells_url |= plays(&self.current.path);
        if self.is_unwanted(status) {
            // As good as the end.
            return Verdict::Over;
        }
        let moved = match &self.next {
            Next::Loaded { prepared, .. } => plays(&prepared.path),
            Next::Nothing | Next::AtEnd { .. } | Next::Unsupported => false,
        };
        if moved
            && let Next::Loaded { entry, prepared } =
                std::mem::replace(&mut self.next, Next::Nothing)
        {
            self.playback
                .queue(&self.player.id, |queue| queue.remove(entry));
            self.take_over(*prepared);
        }
        let stopped = matches!(
            status.state,
            TransportState::Stopped | TransportState::NoMedia
        );
        if stopped && matches!(self.next, Next::Loaded { .. }) && !self.between {
            self.between = true;
            return Verdict::On;
        }
        self.between = stopped;
        self.following.heard(status)
    }

    /// `prepared` is what plays now.
    fn take_over(&mut self, prepared: Prepared) {
        let before = std::mem::replace(&mut self.current, prepared);
        self.playback.inner.sessions.end(&before.token);
        self.following = Following::new(&self.current.path);
        self.withdrawn = None;
        self.between = false;
        self.last = (None, self.current.request.duration);
        self.playback.update(&self.player.id, |row| {
            row.title = self.current.title;
            row.title_name.clone_from(&self.current.name);
            row.position = None;
            row.duration = self.current.request.duration;
            row.problem = None;
        });
    }

    /// Whether the title came to its end, rather than being stopped at the renderer.
    fn ended_by_itself(&self) -> bool {
        match self.last {
            (Some(position), Some(duration)) => position + END_WITHIN >= duration,
            (None, _) | (_, None) => true,
        }
    }

    /// What comes next.
    fn first(&self) -> Option<Waiting> {
        self.playback.waiting(&self.player.id).into_iter().next()
    }

    /// Starts the next title that can be started; those that cannot are left out. `false`: none.
    async fn advance(&mut self) -> bool {
        self.withdraw_next();
        while let Some(waiting) = self.playback.queue(&self.player.id, Queue::take) {
            let started = match self.playback.prepare(&self.player, waiting.title).await {
                Ok(prepared) => self
                    .playback
                    .start(&self.player, &prepared)
                    .await
                    .map(|()| prepared),
                Err(refused) => Err(refused),
            };
            match started {
                Ok(prepared) => {
                    self.take_over(prepared);
                    return true;
                }
                Err(error) => {
                    tracing::info!(
                        device = self.player.name,
                        title = waiting.name,
                        error = chain(&error),
                        "a title was left out"
                    );
                    if matches!(
                        error,
                        PlaybackError::Render(RenderError::Unreachable { .. })
                    ) {
                        return false;
                    }
                }
            }
        }
        false
    }

    /// Gives the renderer what comes next, in time to go on without a gap.
    async fn give_next(&mut self) {
        let first = self.first();
        match (&self.next, &first) {
            (Next::Unsupported, _) => return,
            (Next::Loaded { entry, .. } | Next::AtEnd { entry }, Some(first))
                if *entry == first.entry =>
            {
                return;
            }
            _ => self.withdraw_next(),
        }
        let near = match self.last {
            (Some(position), Some(duration)) => position + NEXT_BEFORE >= duration,
            (None, _) | (_, None) => true,
        };
        let Some(first) = first.filter(|_| near && self.tells_url) else {
            return;
        };
        // One that may not be played any more is told and left out when its turn comes.
        let Ok(prepared) = self.playback.prepare(&self.player, first.title).await else {
            return;
        };
        // From a film to a song gmediarender waits for ever for a picture that does not come.
        if prepared.request.kind != self.current.request.kind {
            self.playback.inner.sessions.end(&prepared.token);
            self.next = Next::AtEnd { entry: first.entry };
            return;
        }
        match self.player.renderer.load_next(&prepared.request).await {
            Ok(()) => {
                self.next = Next::Loaded {
                    entry: first.entry,
                    prepared: Box::new(prepared),
                };
            }
            Err(error) => {
                tracing::debug!(
                    device = self.player.name,
                    error = chain(&error),
                    "the next title is started at the end of this one"
                );
                self.playback.inner.sessions.end(&prepared.token);
                self.next = Next::Unsupported;
            }
        }
    }

    /// Takes back what the renderer was given to play next: its media URL ends.
    fn withdraw_next(&mut self) {
        match &self.next {
            Next::Loaded { prepared, .. } => {
                self.playback.inner.sessions.end(&prepared.token);
                self.withdrawn = Some(prepared.path.clone());
                self.next = Next::Nothing;
            }
            Next::AtEnd { .. } => self.next = Next::Nothing,
            Next::Nothing | Next::Unsupported => {}
        }
    }

    /// Leaves the table and the list; a row with a problem or a queue stays until something else is played there.
    fn leave(&mut self) {
        self.withdraw_next();
        let inner = &self.playback.inner;
        inner.sessions.end(&self.current.token);
        let mut table = inner
            .commands
            .lock()
            .expect("no holder of this lock panics");
        let ours = match (table.get(&self.player.id), self.own.upgrade()) {
            (Some(there), Some(own)) => there.same_channel(&own),
            _ => false,
        };
        if ours {
            table.remove(&self.player.id);
            inner.rows.send_modify(|rows| {
                std::sync::Arc::make_mut(rows).retain(|row| {
                    row.device != self.player.id || row.problem.is_some() || !row.queue.is_empty()
                });
            });
        }
    }
}

/// What a person reads of a verdict.
fn words(verdict: Verdict, name: &str) -> Option<String> {
    match verdict {
        Verdict::On | Verdict::Over => None,
        Verdict::Silent => Some(format!(
            "{name} does not answer. It may have been switched off, unplugged, or have left the network; playing goes on \
             here when it answers again."
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
    }
}
