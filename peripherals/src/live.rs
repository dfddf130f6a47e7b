//! Live pictures and sound, in words that no protocol owns (F2, F4): what a network camera, a USB camera or a line-in
//! gives while it happens. Adapters translate to these; viewers and recorders read only these.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::media::Cause;
use crate::onvif::OnvifCamera;
use crate::picture::still_of;
use crate::rtsp::RtspCamera;
use crate::v4l2::V4l2Camera;

/// Largest access unit kept, in bytes: a key frame of a 4K camera at its best quality stays below it.
pub const MAX_ACCESS_UNIT_BYTES: usize = 8 << 20;
/// Largest still picture kept, in bytes.
pub const MAX_STILL_BYTES: usize = 32 << 20;
/// Most tracks of one live stream.
pub const MAX_TRACKS: usize = 8;

/// Longest user name or password, in characters.
pub const MAX_LOGIN_CHARS: usize = 128;
/// How long a first key frame is waited for: cameras send one every few seconds.
pub const FIRST_STILL_TIME: Duration = Duration::from_secs(25);

/// The household's user name and password at one device. Says nothing of itself in logs; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: Zeroizing<String>,
    password: Zeroizing<String>,
}

impl Login {
    /// A log-in; `None` when the user name is empty, or either is longer than [`MAX_LOGIN_CHARS`] or holds control
    /// characters.
    pub fn new(user: &str, password: &str) -> Option<Self> {
        let fits = |text: &str| {
            text.chars().count() <= MAX_LOGIN_CHARS && !text.chars().any(char::is_control)
        };
        (!user.is_empty() && fits(user) && fits(password)).then(|| Self {
            user: Zeroizing::new(user.to_owned()),
            password: Zeroizing::new(password.to_owned()),
        })
    }

    /// The user name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The password.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// A camera, by whatever it speaks. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub enum Camera {
    /// By ONVIF, which tells where its stream is.
    Onvif(OnvifCamera),
    /// By RTSP alone.
    Rtsp(RtspCamera),
    /// On a cable, by Video4Linux.
    V4l2(V4l2Camera),
}

impl Camera {
    /// Its name for people.
    pub fn name(&self) -> &str {
        match self {
            Self::Onvif(camera) => camera.name(),
            Self::Rtsp(camera) => camera.name(),
            Self::V4l2(camera) => camera.name(),
        }
    }

    /// One picture as the camera gives it: a JPEG, or a coded picture that a media tool can read (see
    /// [`crate::picture`]).
    pub async fn still(&self) -> Result<Still, LiveError> {
        match self {
            Self::Onvif(camera) => camera.still().await,
            Self::Rtsp(camera) => camera.still().await,
            Self::V4l2(camera) => camera.still().await,
        }
    }

    /// Picture and sound as they happen. Taking a stream up again after it broke is the caller's decision.
    pub async fn live(&self) -> Result<LiveStream, LiveError> {
        match self {
            Self::Onvif(camera) => camera.live().await,
            Self::Rtsp(camera) => camera.live().await,
            Self::V4l2(camera) => camera.live().await,
        }
    }
}

/// The first picture of a live stream at which decoding may begin, as a file.
pub(crate) async fn first_still(mut stream: LiveStream, device: &str) -> Result<Still, LiveError> {
    let bad = |source: &str| LiveError::BadStream {
        device: device.to_owned(),
        source: source.into(),
    };
    let find = async {
        while let Some(unit) = stream.next().await {
            let unit = unit?;
            let track = stream.tracks().get(unit.track);
            if let Some(track) = track.filter(|track| track.is_picture() && unit.key) {
                return still_of(track, &unit.bytes).ok_or_else(|| bad("a picture is damaged"));
            }
        }
        Err(bad("the stream ended before a picture came"))
    };
    timeout(FIRST_STILL_TIME, find)
        .await
        .unwrap_or_else(|_| Err(bad("no picture came that can be read alone")))
}

/// How the access units of a track are coded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codec {
    /// H.264; units are length-prefixed NAL units (ISO/IEC 14496-15 §5.3), `config` is the AVCDecoderConfigurationRecord.
    H264 {
        /// `avcC`.
        config: Bytes,
    },
    /// H.265; units are length-prefixed NAL units, `config` is the HEVCDecoderConfigurationRecord.
    H265 {
        /// `hvcC`.
        config: Bytes,
    },
    /// Each unit is a whole JPEG.
    Mjpeg,
    /// Each unit is a packed YUYV 4:2:2 picture.
    Yuyv,
    /// AAC; `config` is the AudioSpecificConfig (ISO/IEC 14496-3 §1.6.2.1).
    Aac {
        /// AudioSpecificConfig.
        config: Bytes,
    },
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// Signed 16-bit little-endian samples, channels interleaved.
    PcmS16,
}

/// What a track carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackKind {
    /// Pictures.
    Video {
        /// Pixels; 0 where the device has not told yet.
        width: u32,
        /// Pixels; 0 where the device has not told yet.
        height: u32,
    },
    /// Sound.
    Audio {
        /// Samples per second and channel.
        sample_rate: u32,
        /// Channels.
        channels: u16,
    },
}

/// One track of a live stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Pictures or sound.
    pub kind: TrackKind,
    /// Its coding.
    pub codec: Codec,
}

impl Track {
    /// Whether it carries pictures.
    pub fn is_picture(&self) -> bool {
        matches!(self.kind, TrackKind::Video { .. })
    }
}

/// One picture, or one packet of sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// Index into [`LiveStream::tracks`].
    pub track: usize,
    /// Presentation time since the stream's start.
    pub at: Duration,
    /// Whether decoding may begin here.
    pub key: bool,
    /// The coded bytes.
    pub bytes: Bytes,
}

/// A live stream: its tracks are known, its units follow. Dropping it ends it at the device.
pub struct LiveStream {
    tracks: Vec<Track>,
    units: Pin<Box<dyn Stream<Item = Result<AccessUnit, LiveError>> + Send>>,
}

impl LiveStream {
    /// A stream of at most [`MAX_TRACKS`] tracks.
    pub fn new(
        mut tracks: Vec<Track>,
        units: impl Stream<Item = Result<AccessUnit, LiveError>> + Send + 'static,
    ) -> Self {
        tracks.truncate(MAX_TRACKS);
        Self {
            tracks,
            units: Box::pin(units),
        }
    }

    /// Its tracks.
    pub fn tracks(&self) -> &[Track] {
        &self.tracks
    }
}

impl fmt::Debug for LiveStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveStream")
            .field("tracks", &self.tracks)
            .finish_non_exhaustive()
    }
}

impl Stream for LiveStream {
    type Item = Result<AccessUnit, LiveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.units.as_mut().poll_next(cx)
    }
}

/// A still picture as the device gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Still {
    /// MIME type, such as `image/jpeg`.
    pub mime: String,
    /// The file.
    pub bytes: Bytes,
}

/// Why a live picture or sound could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The device asks for a user name and a password, or refuses those given.
    #[error("{device} asks for a user name and a password. Enter them on its page.")]
    LogIn {
        /// The device's name.
        device: String,
    },
    /// It does not answer, or broke off.
    #[error(
        "{device} does not answer. Check that it is switched on and connected, then try again."
    )]
    Unreachable {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// It sends something unusable.
    #[error("{device} sends a picture or sound that cannot be read. Restart or update it.")]
    BadStream {
        /// The device's name.
        device: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// Another program uses it.
    #[error("{device} is in use by another program. End that program, then try again.")]
    Busy {
        /// The device's name.
        device: String,
    },
    /// It cannot do this at all.
    #[error("{device} does not offer this function.")]
    Unsupported {
        /// The device's name.
        device: String,
    },
}
