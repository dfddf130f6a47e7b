//! A Cast device as a player: hands orders to its thread and waits for the result.

use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::session::{CastError, Done, LOAD_TIME, Order, Reply, start};
use super::wire::{Failure, ReceiverStatus};
use super::{CastAccess, Screen};
use crate::changes::Changes;
use crate::media::{MediaKind, Mute, PlayRequest, PlaybackStatus, RenderError, Volume};

/// Longest time for an order: starting the application, loading, and connecting anew before it.
const ORDER_TIME: Duration = LOAD_TIME.saturating_mul(3);

/// How often it is asked what changed at the device itself.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// What the default media receiver plays from a file on every generation of devices (Google Cast, "Supported Media").
static WITH_SCREEN: LazyLock<Vec<String>> = LazyLock::new(|| {
    let own = [
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "video/mp4",
        "video/webm",
    ];
    let mut all: Vec<String> = own.map(str::to_owned).to_vec();
    all.extend(SOUND.iter().cloned());
    all.sort();
    all
});
/// The same for loudspeakers.
static SOUND: LazyLock<Vec<String>> = LazyLock::new(|| {
    [
        "audio/aac",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
    ]
    .map(str::to_owned)
    .to_vec()
});

/// Where the thread of a device takes orders.
type Orders = SyncSender<(Order, Reply)>;

/// One Cast device. Cheap to clone; clones share one connection, which is made when first needed and ends with the
/// last clone.
#[derive(Clone, Debug)]
pub struct CastPlayer {
    name: String,
    access: CastAccess,
    thread: Arc<Mutex<Option<Orders>>>,
}

impl CastPlayer {
    /// A device that was found; `name` is for messages.
    pub fn new(name: String, access: CastAccess) -> Self {
        Self {
            name,
            access,
            thread: Arc::default(),
        }
    }

    /// The name that it gives itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// MIME types that such devices play.
    pub fn formats(&self) -> &[String] {
        match self.access.screen {
            Screen::Yes => WITH_SCREEN.as_slice(),
            Screen::No => SOUND.as_slice(),
        }
    }

    /// A Cast device tells by itself, but on the thread's connection, which is read only while an answer is waited for:
    /// so it is asked.
    pub fn changes(&self) -> Changes {
        Changes::every(ASK_EVERY)
    }

    /// Starts the default media receiver if need be and loads `what`, paused at its beginning.
    pub async fn load(&self, what: &PlayRequest) -> Result<(), RenderError> {
        self.playable(what)?;
        self.order(|| Order::Load(what.clone())).await.map(drop)
    }

    /// Puts `what` behind what plays, in the device's queue.
    pub async fn load_next(&self, what: &PlayRequest) -> Result<(), RenderError> {
        self.playable(what)?;
        self.order(|| Order::LoadNext(what.clone())).await.map(drop)
    }

    /// Starts or resumes.
    pub async fn play(&self) -> Result<(), RenderError> {
        self.order(|| Order::Play).await.map(drop)
    }

    /// Pauses.
    pub async fn pause(&self) -> Result<(), RenderError> {
        self.order(|| Order::Pause).await.map(drop)
    }

    /// Stops and ends the application: the screen shows what it showed before.
    pub async fn stop(&self) -> Result<(), RenderError> {
        self.order(|| Order::Stop).await.map(drop)
    }

    /// Goes to `position`.
    pub async fn seek(&self, position: Duration) -> Result<(), RenderError> {
        self.order(|| Order::Seek(position)).await.map(drop)
    }

    /// What it does now.
    pub async fn status(&self) -> Result<PlaybackStatus, RenderError> {
        match self.order(|| Order::Status).await? {
            Done::Status(status) => Ok(status),
            Done::Nothing | Done::Receiver(_) => Err(self.silent()),
        }
    }

    /// How loud it is.
    pub async fn volume(&self) -> Result<Volume, RenderError> {
        let level = self.receiver().await?.level;
        level
            .map(|level| Volume::percent((level * 100.0).round() as u8))
            .ok_or_else(|| RenderError::Unsupported {
                device: self.name.clone(),
            })
    }

    /// Sets how loud it is.
    pub async fn set_volume(&self, volume: Volume) -> Result<(), RenderError> {
        self.order(|| Order::SetVolume(volume)).await.map(drop)
    }

    /// Whether it is silenced.
    pub async fn mute(&self) -> Result<Mute, RenderError> {
        Ok(if self.receiver().await?.muted {
            Mute::On
        } else {
            Mute::Off
        })
    }

    /// Silences it or not.
    pub async fn set_mute(&self, mute: Mute) -> Result<(), RenderError> {
        self.order(|| Order::SetMute(mute)).await.map(drop)
    }

    async fn receiver(&self) -> Result<ReceiverStatus, RenderError> {
        match self.order(|| Order::Receiver).await? {
            Done::Receiver(status) => Ok(status),
            Done::Nothing | Done::Status(_) => Err(self.silent()),
        }
    }

    fn playable(&self, what: &PlayRequest) -> Result<(), RenderError> {
        let seen = matches!(what.kind, MediaKind::Image | MediaKind::Video);
        if seen && self.access.screen == Screen::No {
            return Err(RenderError::Format {
                device: self.name.clone(),
                source: "a loudspeaker shows no pictures".into(),
            });
        }
        Ok(())
    }

    async fn order(&self, order: impl Fn() -> Order) -> Result<Done, RenderError> {
        // A thread that ended just now, with the order in its queue, is replaced once.
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            self.enqueue((order(), reply))
                .map_err(|error| self.render_error(error))?;
            match timeout(ORDER_TIME, answer).await {
                Ok(Ok(done)) => return done.map_err(|error| self.render_error(error)),
                Ok(Err(_)) => {}
                Err(_) => return Err(self.silent()),
            }
        }
        Err(self.silent())
    }

    fn enqueue(&self, order: (Order, Reply)) -> Result<(), CastError> {
        let mut thread = self.thread.lock().expect("no holder of this lock panics");
        let order = match thread.as_ref() {
            Some(orders) => match orders.try_send(order) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err(CastError::Busy),
                Err(TrySendError::Disconnected(order)) => order,
            },
            None => order,
        };
        let orders = start(self.access.address).map_err(|source| CastError::Connect {
            to: self.access.address,
            source,
        })?;
        orders.try_send(order).map_err(|_| CastError::Busy)?;
        *thread = Some(orders);
        Ok(())
    }

    fn silent(&self) -> RenderError {
        self.render_error(CastError::TimedOut)
    }

    fn render_error(&self, error: CastError) -> RenderError {
        let device = self.name.clone();
        match error {
            CastError::Refused(Failure::Network) => RenderError::MediaUnreachable {
                device,
                source: error.into(),
            },
            CastError::Refused(Failure::Media) => RenderError::Format {
                device,
                source: error.into(),
            },
            CastError::Refused(Failure::NotNow) | CastError::NothingLoaded | CastError::Busy => {
                RenderError::NotNow {
                    device,
                    source: error.into(),
                }
            }
            CastError::Refused(Failure::Other(ref words)) => RenderError::Refused {
                device,
                source: words.clone().into(),
            },
            CastError::NoApp | CastError::TooMuch => RenderError::Refused {
                device,
                source: error.into(),
            },
            CastError::Connect { .. } | CastError::Broken(_) | CastError::TimedOut => {
                RenderError::Unreachable {
                    device,
                    source: error.into(),
                }
            }
        }
    }
}
