//! The owner of one loudspeaker: a thread that takes commands, gets decoded blocks and writes them to the card, so
//! that a card that stalls holds up nothing but itself. The stream of samples runs on from one title into the next
//! (gapless) as long as their sample rates are the same.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::mix::{soften, to_stereo};
use super::pcm::{Output, STEREO, SoundError};
use super::track::{Fed, Opened, Track};
use crate::decode::{DecodeError, Decoder};
use crate::media::{PlayRequest, TransportState};

/// Commands waiting for one loudspeaker.
pub(super) const COMMAND_QUEUE: usize = 8;
/// How often the end of the sound is looked for.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How often at most: a card that never falls silent is closed.
const DRAIN_STEPS: u32 = 100;

/// How loud, in software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Level {
    /// 0 to 100; 100 leaves every sample as it is.
    pub percent: u8,
    /// Silenced.
    pub muted: bool,
}

impl Default for Level {
    fn default() -> Self {
        Self {
            percent: 100,
            muted: false,
        }
    }
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlayerError {
    #[error("nothing was loaded")]
    Nothing,
    #[error(transparent)]
    Sound(SoundError),
    #[error(transparent)]
    Decode(DecodeError),
    #[error("one cannot go to a place in this title")]
    Unseekable,
}

pub(super) type Reply = oneshot::Sender<Result<(), PlayerError>>;

/// What a renderer asks of the thread.
#[derive(Debug)]
pub(super) enum Command {
    Load(PlayRequest, oneshot::Sender<Opened>),
    LoadNext(PlayRequest, oneshot::Sender<Opened>),
    Play(Reply),
    Pause(Reply),
    Stop(Reply),
    Seek(Duration, Reply),
    /// Looks whether a card that was gone is back.
    Look(Reply),
}

/// What the loudspeaker does now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Now {
    pub(super) state: TransportState,
    pub(super) failed: bool,
    /// The card went while it played; the position is kept.
    pub(super) gone: bool,
    pub(super) position: Option<Duration>,
    pub(super) duration: Option<Duration>,
    pub(super) url: Option<String>,
}

impl Now {
    pub(super) fn nothing() -> Self {
        Self {
            state: TransportState::NoMedia,
            failed: false,
            gone: false,
            position: None,
            duration: None,
            url: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stopped,
    Playing,
    Paused,
    /// All was written; so many looks are left until it must have been heard.
    Ending(u32),
}

pub(super) struct Player {
    pcm: String,
    decoder: Decoder,
    level: watch::Receiver<Level>,
    now: watch::Sender<Now>,
    state: State,
    output: Option<Output>,
    current: Option<Track>,
    next: Option<Track>,
    /// The frame of the current title after the last one written or held.
    at: u64,
    /// Written before, not heard: to be written again.
    held: Vec<i32>,
    failed: bool,
    gone: bool,
}

/// What happened.
enum Step {
    Obey(Command),
    Fed(Fed),
    Look,
}

impl Player {
    /// Runs the loudspeaker `pcm` on a thread of its own until `cancel` or until nobody holds `commands`' sender.
    pub(super) fn start(
        pcm: &str,
        decoder: Decoder,
        level: watch::Receiver<Level>,
        mut commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
        runtime: Handle,
    ) -> std::io::Result<watch::Receiver<Now>> {
        let (now, told) = watch::channel(Now::nothing());
        let mut player = Self {
            pcm: pcm.to_owned(),
            decoder,
            level,
            now,
            state: State::Stopped,
            output: None,
            current: None,
            next: None,
            at: 0,
            held: Vec::new(),
            failed: false,
            gone: false,
        };
        std::thread::Builder::new()
            .name("loudspeaker".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let _ = cancel.run_until_cancelled(player.run(&mut commands)).await;
                });
            })?;
        Ok(told)
    }

    async fn run(&mut self, commands: &mut mpsc::Receiver<Command>) {
        loop {
            self.publish();
            let playing = self.state == State::Playing;
            let ending = matches!(self.state, State::Ending(_));
            let step = tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => Step::Obey(command),
                    None => return,
                },
                fed = next_of(&mut self.current), if playing => Step::Fed(fed),
                () = sleep(DRAIN_STEP), if ending => Step::Look,
            };
            match step {
                Step::Obey(command) => self.obey(command).await,
                Step::Fed(fed) => self.take(fed).await,
                Step::Look => self.look_for_end(),
            }
        }
    }

    fn publish(&self) {
        let state = match (&self.current, self.state) {
            (None, _) => TransportState::NoMedia,
            (_, State::Stopped) => TransportState::Stopped,
            (_, State::Paused) => TransportState::Paused,
            (Some(track), State::Playing) if track.format.is_none() => {
                TransportState::Transitioning
            }
            (_, State::Playing | State::Ending(_)) => TransportState::Playing,
        };
        let format = self.current.as_ref().and_then(|track| track.format);
        let time = |frames: u64, rate: u32| {
            Duration::from_millis(
                u64::try_from(u128::from(frames) * 1000 / u128::from(rate)).unwrap_or(u64::MAX),
            )
        };
        let unheard =
            self.output.as_ref().map_or(0, Output::unheard) + (self.held.len() / STEREO) as u64;
        let now = Now {
            state,
            failed: self.failed,
            gone: self.gone,
            position: format.map(|format| time(self.at.saturating_sub(unheard), format.rate)),
            duration: format
                .and_then(|format| Some(time(format.frames?, format.rate)))
                .or_else(|| self.current.as_ref()?.request.duration),
            url: self.current.as_ref().map(|track| track.request.url.clone()),
        };
        self.now.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    async fn obey(&mut self, command: Command) {
        // A caller that went away needs no answer.
        match command {
            Command::Load(request, reply) => {
                let _ = reply.send(self.load(request));
            }
            Command::LoadNext(request, reply) => {
                let _ = reply.send(self.load_next(request));
            }
            Command::Play(reply) => {
                let done = self.play().await;
                // The caller's next look at the status shows it already.
                self.publish();
                let _ = reply.send(done);
            }
            Command::Pause(reply) => {
                let done = self.pause();
                self.publish();
                let _ = reply.send(done);
            }
            Command::Stop(reply) => {
                self.stop();
                self.publish();
                let _ = reply.send(Ok(()));
            }
            Command::Seek(position, reply) => {
                let done = self.seek(position).await;
                self.publish();
                let _ = reply.send(done);
            }
            Command::Look(reply) => {
                let done = self.look_for_card();
                self.publish();
                let _ = reply.send(done);
            }
        }
    }

    fn load(&mut self, request: PlayRequest) -> Opened {
        self.silence();
        self.next = None;
        let (track, opened) = Track::begin(&self.decoder, request);
        self.current = Some(track);
        self.state = State::Stopped;
        opened
    }

    fn load_next(&mut self, request: PlayRequest) -> Opened {
        let (track, opened) = Track::begin(&self.decoder, request);
        self.next = Some(track);
        if matches!(self.state, State::Ending(_)) {
            self.go_on();
        }
        opened
    }

    /// From the end of one title into the next.
    fn go_on(&mut self) -> bool {
        let Some(next) = self.next.take() else {
            return false;
        };
        self.current = Some(next);
        self.at = 0;
        self.state = State::Playing;
        true
    }

    /// Closes the card and forgets what was not heard.
    fn silence(&mut self) {
        if let Some(mut output) = self.output.take() {
            output.halt();
        }
        self.held.clear();
        self.at = 0;
        (self.failed, self.gone) = (false, false);
    }

    async fn play(&mut self) -> Result<(), PlayerError> {
        if self.state == State::Playing {
            return Ok(());
        }
        let track = self.current.as_mut().ok_or(PlayerError::Nothing)?;
        let format = track.known_format().await.map_err(PlayerError::Decode)?;
        if track.ended && self.held.is_empty() && self.state != State::Paused {
            self.at = track.seek(0).await.ok_or(PlayerError::Unseekable)?;
        }
        self.open(format.rate).map_err(PlayerError::Sound)?;
        (self.failed, self.gone) = (false, false);
        self.state = State::Playing;
        let held = std::mem::take(&mut self.held);
        self.write(held);
        if self.state == State::Playing && self.current.as_ref().is_some_and(|track| track.ended) {
            self.finish();
        }
        Ok(())
    }

    fn open(&mut self, rate: u32) -> Result<(), SoundError> {
        if self
            .output
            .as_ref()
            .is_none_or(|output| output.rate() != rate)
        {
            self.output = None;
            self.output = Some(Output::open(&self.pcm, rate)?);
        }
        Ok(())
    }

    fn pause(&mut self) -> Result<(), PlayerError> {
        match self.state {
            State::Playing | State::Ending(_) => {
                if let Some(output) = &mut self.output {
                    self.held = output.halt();
                }
                self.state = State::Paused;
                Ok(())
            }
            State::Paused => Ok(()),
            State::Stopped => Err(PlayerError::Nothing),
        }
    }

    fn stop(&mut self) {
        self.silence();
        self.next = None;
        self.state = State::Stopped;
        if let Some(track) = &mut self.current {
            // The next "play" begins at the beginning.
            track.ended = true;
        }
    }

    async fn seek(&mut self, position: Duration) -> Result<(), PlayerError> {
        let track = self.current.as_mut().ok_or(PlayerError::Nothing)?;
        let format = track.known_format().await.map_err(PlayerError::Decode)?;
        let frame = position.as_millis() * u128::from(format.rate) / 1000;
        let frame = u64::try_from(frame).unwrap_or(u64::MAX);
        let frame = format.frames.map_or(frame, |frames| frame.min(frames));
        self.at = track.seek(frame).await.ok_or(PlayerError::Unseekable)?;
        self.held.clear();
        if let Some(output) = &mut self.output {
            output.halt();
        }
        if matches!(self.state, State::Ending(_)) {
            self.state = State::Playing;
        }
        Ok(())
    }

    fn look_for_card(&mut self) -> Result<(), PlayerError> {
        let rate = self.current.as_ref().and_then(|track| track.format);
        if let (true, Some(format)) = (self.gone, rate) {
            self.open(format.rate).map_err(PlayerError::Sound)?;
            self.gone = false;
        }
        Ok(())
    }

    async fn take(&mut self, fed: Fed) {
        match fed {
            Fed::Format(format) => {
                if self
                    .output
                    .as_ref()
                    .is_some_and(|o| o.rate() != format.rate)
                {
                    self.hear_out().await;
                }
                if let Err(error) = self.open(format.rate) {
                    self.lose(&error);
                }
            }
            Fed::Block { epoch, samples } => {
                let Some(track) = &self.current else { return };
                let (Some(format), true) = (track.format, epoch == track.epoch) else {
                    return;
                };
                self.at += samples.len() as u64 / u64::from(format.channels);
                let mut samples = to_stereo(samples, format.channels);
                let level = *self.level.borrow();
                soften(&mut samples, if level.muted { 0 } else { level.percent });
                self.write(samples);
            }
            Fed::End { epoch } => {
                let here = self
                    .current
                    .as_ref()
                    .is_some_and(|track| track.epoch == epoch);
                if here && !self.go_on() {
                    self.finish();
                }
            }
            Fed::Failed(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a title broke off on the loudspeaker"
                );
                // What plays next is not to blame.
                if !self.go_on() {
                    self.silence();
                    self.current = self.current.take().map(|mut track| {
                        track.ended = true;
                        track
                    });
                    self.failed = true;
                    self.state = State::Stopped;
                }
            }
        }
    }

    fn write(&mut self, samples: Vec<i32>) {
        let Some(output) = &mut self.output else {
            self.held = samples;
            return;
        };
        if let Err((error, rest)) = output.write(&samples) {
            let mut held = output.halt();
            held.extend_from_slice(rest);
            self.held = held;
            self.lose(&error);
        }
    }

    /// The card does not play: the title waits where it is.
    fn lose(&mut self, error: &SoundError) {
        tracing::warn!(pcm = self.pcm, %error, "the loudspeaker does not play");
        self.output = None;
        self.gone = true;
        self.state = State::Paused;
    }

    fn finish(&mut self) {
        if let Some(output) = &self.output {
            output.push();
        }
        self.state = State::Ending(DRAIN_STEPS);
    }

    fn look_for_end(&mut self) {
        let State::Ending(left) = self.state else {
            return;
        };
        let quiet = self.output.as_ref().is_none_or(Output::is_quiet);
        if quiet || left == 0 {
            // Closing lets other programs have the card.
            self.output = None;
            self.state = State::Stopped;
        } else {
            self.state = State::Ending(left - 1);
        }
    }

    /// Waits until what was written was heard, before the card is opened at another rate.
    async fn hear_out(&mut self) {
        let Some(output) = &self.output else { return };
        output.push();
        for _ in 0..DRAIN_STEPS {
            if output.is_quiet() {
                return;
            }
            sleep(DRAIN_STEP).await;
        }
    }
}

async fn next_of(track: &mut Option<Track>) -> Fed {
    match track {
        Some(track) => track.next().await,
        None => std::future::pending().await,
    }
}
