//! This machine's loudspeakers as renderers (F63): the same commands as for a television, carried out here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::SoundPort;
use super::mixer::Knob;
use super::pcm::SoundError;
use super::player::{COMMAND_QUEUE, Command, Level, Now, Player, PlayerError, Reply};
use super::track::Opened;
use crate::changes::{Change, Changes};
use crate::decode::{DecodeError, Decoder};
use crate::media::{Mute, PlayRequest, PlaybackStatus, RenderError, Volume};

/// Most loudspeakers driven at the same time.
pub const MAX_PLAYERS: usize = 32;

/// What the decoder knows.
static FORMATS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let known = [
        "audio/aac",
        "audio/aiff",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "audio/x-aiff",
        "audio/x-flac",
        "audio/x-matroska",
        "audio/x-wav",
    ];
    known.map(str::to_owned).to_vec()
});

/// Loudness per PCM, as far as it is made in software.
pub type Levels = BTreeMap<String, Level>;

/// All loudspeakers of this machine; cheap to clone. Owns their players, one per PCM, from the first use until
/// cancellation.
#[derive(Clone)]
pub struct Speakers {
    inner: Arc<Inner>,
}

struct Inner {
    decoder: Decoder,
    levels: watch::Sender<Levels>,
    players: Mutex<HashMap<String, Driven>>,
    cancel: CancellationToken,
    runtime: Handle,
}

impl fmt::Debug for Speakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Speakers")
    }
}

/// A player's ends.
#[derive(Clone, Debug)]
struct Driven {
    commands: mpsc::Sender<Command>,
    now: watch::Receiver<Now>,
    level: watch::Sender<Level>,
}

impl Speakers {
    /// Loudspeakers that decode with `decoder`, as loud as `levels` says. Players end at `cancel`. Must be called
    /// within a tokio runtime.
    pub fn new(decoder: Decoder, levels: Levels, cancel: CancellationToken) -> Self {
        Self {
            inner: Arc::new(Inner {
                decoder,
                levels: watch::Sender::new(levels),
                players: Mutex::default(),
                cancel,
                runtime: Handle::current(),
            }),
        }
    }

    /// The loudness of each, to be kept over a restart; changes with each command.
    pub fn levels(&self) -> watch::Receiver<Levels> {
        self.inner.levels.subscribe()
    }

    /// A loudspeaker as a renderer. `name`: for messages.
    pub fn open(&self, name: &str, port: &SoundPort) -> Speaker {
        Speaker {
            name: name.to_owned(),
            port: port.clone(),
            speakers: self.clone(),
        }
    }

    /// The player of a PCM; `None`: there are too many, or the system gives no thread.
    fn driven(&self, pcm: &str) -> Option<Driven> {
        let mut players = self
            .inner
            .players
            .lock()
            .expect("no holder of this lock panics");
        if let Some(there) = players.get(pcm) {
            return Some(there.clone());
        }
        if players.len() >= MAX_PLAYERS {
            return None;
        }
        let level = self.inner.levels.borrow().get(pcm).copied();
        let (level, heard) = watch::channel(level.unwrap_or_default());
        let (commands, orders) = mpsc::channel(COMMAND_QUEUE);
        let started = Player::start(
            pcm,
            self.inner.decoder.clone(),
            heard,
            orders,
            self.inner.cancel.clone(),
            self.inner.runtime.clone(),
        );
        let driven = Driven {
            commands,
            now: started.ok()?,
            level,
        };
        players.insert(pcm.to_owned(), driven.clone());
        Some(driven)
    }
}

/// A loudspeaker of this machine as a renderer.
#[derive(Clone, Debug)]
pub struct Speaker {
    name: String,
    port: SoundPort,
    speakers: Speakers,
}

/// The player's thread is not there (any more): the gateway stops.
#[derive(Debug, thiserror::Error)]
#[error("the loudspeaker's player has ended; restart the gateway")]
struct NoPlayer;

impl Speaker {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it plays.
    #[allow(
        clippy::unused_self,
        reason = "the same as other renderers, whose formats differ"
    )]
    pub fn formats(&self) -> &[String] {
        &FORMATS
    }

    /// Loads `what`; refuses what cannot be decoded.
    pub async fn load(&self, what: &PlayRequest) -> Result<(), RenderError> {
        self.begin(|reply| Command::Load(what.clone(), reply)).await
    }

    /// Tells when it plays something else, or otherwise, than before.
    pub fn changes(&self) -> Changes {
        let driven = self.speakers.driven(&self.port.pcm);
        Changes::by(move |teller, stop| async move {
            let Some(Driven { mut now, .. }) = driven else {
                return stop.cancelled().await;
            };
            let what = |now: &Now| (now.state, now.url.clone(), now.failed, now.gone);
            let mut before = what(&now.borrow());
            while let Some(Ok(())) = stop.run_until_cancelled(now.changed()).await {
                let after = what(&now.borrow_and_update());
                // A position that moves is no news.
                if after != before {
                    before = after;
                    teller.tell(Change::Playing);
                }
            }
        })
    }

    /// What plays after the present title, without a gap where both have the same sample rate.
    pub async fn load_next(&self, what: &PlayRequest) -> Result<(), RenderError> {
        self.begin(|reply| Command::LoadNext(what.clone(), reply))
            .await
    }

    /// Starts, or goes on where it was.
    pub async fn play(&self) -> Result<(), RenderError> {
        self.command(Command::Play).await
    }

    /// Pauses at once; nothing is skipped.
    pub async fn pause(&self) -> Result<(), RenderError> {
        self.command(Command::Pause).await
    }

    /// Stops and lets other programs have the card.
    pub async fn stop(&self) -> Result<(), RenderError> {
        self.command(Command::Stop).await
    }

    /// Goes to `position`, exactly.
    pub async fn seek(&self, position: Duration) -> Result<(), RenderError> {
        self.command(|reply| Command::Seek(position, reply)).await
    }

    /// What it does now. A card that was unplugged is looked for again; when it is back, the title is paused where it
    /// was.
    pub async fn status(&self) -> Result<PlaybackStatus, RenderError> {
        let driven = self.driven()?;
        let gone = driven.now.borrow().gone;
        if gone {
            self.command(Command::Look).await?;
        }
        let now = driven.now.borrow().clone();
        Ok(PlaybackStatus {
            state: now.state,
            failed: now.failed,
            position: now.position,
            duration: now.duration,
            url: now.url,
        })
    }

    /// How loud it is: the card's mixer, where it has one.
    pub async fn volume(&self) -> Result<Volume, RenderError> {
        let set = self.level()?.percent;
        let percent = self.at_mixer(Knob::percent).await;
        Ok(Volume::percent(percent.unwrap_or(set)))
    }

    /// Sets how loud it is.
    pub async fn set_volume(&self, volume: Volume) -> Result<(), RenderError> {
        let percent = volume.as_percent();
        if self
            .at_mixer(move |knob| knob.set_percent(percent))
            .await
            .is_some()
        {
            return Ok(());
        }
        self.set_level(|level| level.percent = percent)
    }

    /// Whether it is silenced.
    pub async fn mute(&self) -> Result<Mute, RenderError> {
        let set = self.level()?.muted;
        let muted = self.at_mixer(Knob::muted).await.unwrap_or(false) || set;
        Ok(if muted { Mute::On } else { Mute::Off })
    }

    /// Silences it or not.
    pub async fn set_mute(&self, mute: Mute) -> Result<(), RenderError> {
        let muted = mute == Mute::On;
        let by_mixer = self.at_mixer(move |knob| knob.set_muted(muted)).await;
        if by_mixer.is_some() && muted {
            return Ok(());
        }
        self.set_level(|level| level.muted = muted)
    }

    fn driven(&self) -> Result<Driven, RenderError> {
        self.speakers
            .driven(&self.port.pcm)
            .ok_or_else(|| self.ended())
    }

    fn ended(&self) -> RenderError {
        RenderError::NotNow {
            device: self.name.clone(),
            source: Box::new(NoPlayer),
        }
    }

    async fn begin(
        &self,
        command: impl FnOnce(oneshot::Sender<Opened>) -> Command,
    ) -> Result<(), RenderError> {
        let (reply, answer) = oneshot::channel();
        let driven = self.driven()?;
        let sent = driven.commands.send(command(reply)).await;
        sent.map_err(|_| self.ended())?;
        let opened = answer.await.map_err(|_| self.ended())?;
        match opened.await {
            Ok(Err(error)) => Err(self.refused(PlayerError::Decode(error))),
            // No word: another title was loaded in its place meanwhile.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    async fn command(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), RenderError> {
        let (reply, answer) = oneshot::channel();
        let driven = self.driven()?;
        let sent = driven.commands.send(command(reply)).await;
        sent.map_err(|_| self.ended())?;
        let done = answer.await.map_err(|_| self.ended())?;
        done.map_err(|error| self.refused(error))
    }

    fn refused(&self, error: PlayerError) -> RenderError {
        let device = self.name.clone();
        let source = Box::new(error);
        match *source {
            PlayerError::Nothing => RenderError::NotNow { device, source },
            PlayerError::Sound(SoundError::Gone) => RenderError::Unreachable { device, source },
            PlayerError::Unseekable | PlayerError::Sound(_) => {
                RenderError::Refused { device, source }
            }
            PlayerError::Decode(DecodeError::NoWorker(_)) => {
                RenderError::NoDecoder { device, source }
            }
            PlayerError::Decode(DecodeError::Unreachable(_)) => {
                RenderError::MediaUnreachable { device, source }
            }
            PlayerError::Decode(_) => RenderError::Format { device, source },
        }
    }

    fn level(&self) -> Result<Level, RenderError> {
        Ok(*self.driven()?.level.borrow())
    }

    fn set_level(&self, change: impl FnOnce(&mut Level)) -> Result<(), RenderError> {
        let driven = self.driven()?;
        let mut level = *driven.level.borrow();
        change(&mut level);
        driven.level.send_replace(level);
        self.speakers.inner.levels.send_modify(|levels| {
            levels.insert(self.port.pcm.clone(), level);
        });
        Ok(())
    }

    /// Asks the card's mixer; `None`: it has none, or no such control.
    async fn at_mixer<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Knob) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let card = self.port.mixer.clone()?;
        tokio::task::spawn_blocking(move || ask(&Knob::find(&card)?))
            .await
            .ok()?
    }
}
