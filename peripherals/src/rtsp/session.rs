//! Playing a stream of an RTSP camera. retina runs in a task of its own, behind the [`meter`]: should it panic on what
//! a camera sends, the stream ends with a clear error and nothing else does.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use retina::client::{
    Credentials, Demuxed, InitialTimestampPolicy, PlayOptions, Session, SessionOptions,
    SetupOptions, TeardownPolicy,
};
use retina::codec::{CodecItem, FrameFormat, ParametersRef};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::meter::{self, Ended, Meter};
use super::{RtspAccess, Transport};
use crate::live::{
    AccessUnit, Codec, LiveError, LiveStream, Login, MAX_ACCESS_UNIT_BYTES, Still, Track, TrackKind,
};
use crate::media::Cause;

/// Time for a connection to the camera.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Time from the first request to the first picture.
pub const START_TIME: Duration = Duration::from_secs(20);
/// Time between two units.
pub const UNIT_TIME: Duration = Duration::from_secs(10);
/// Units waiting for the consumer; a slow one slows the camera down.
pub const UNIT_QUEUE: usize = 8;
/// Most streams of one description that are looked at.
pub const MAX_STREAMS: usize = 16;

/// An RTSP camera; holds no connection.
#[derive(Clone, Debug)]
pub struct RtspCamera {
    name: String,
    access: RtspAccess,
    login: Option<Login>,
}

impl RtspCamera {
    /// A camera by its name for people, the way to reach it, and the household's log-in to it.
    pub fn new(name: String, access: RtspAccess, login: Option<Login>) -> Self {
        Self {
            name,
            access,
            login,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first picture of its stream, as the camera coded it.
    pub async fn still(&self) -> Result<Still, LiveError> {
        let stream = self.live().await?;
        crate::live::first_still(stream, &self.name).await
    }

    /// Picture and sound as they happen.
    pub async fn live(&self) -> Result<LiveStream, LiveError> {
        let at = SocketAddr::new(self.access.url.host(), self.access.url.port());
        let camera = match timeout(CONNECT_TIME, TcpStream::connect(at)).await {
            Ok(Ok(camera)) => camera,
            Ok(Err(error)) => return Err(self.unreachable(error)),
            Err(late) => return Err(self.unreachable(late)),
        };
        let (listener, port) = meter::listen()
            .await
            .map_err(|error| self.unreachable(error))?;
        let meter = Arc::new(Meter::new());
        let tasks = TaskTracker::new();
        let (counted, transport) = (Arc::clone(&meter), self.access.transport);
        // Both tasks end by themselves: the relay with its connections, the player with its receiver.
        tasks.spawn(async move { meter::relay(listener, camera, transport, &counted).await });
        let (opened, tracks) = oneshot::channel();
        let (units, received) = mpsc::channel(UNIT_QUEUE);
        let player = Player {
            camera: self.clone(),
            meter,
            units,
        };
        let played = tasks.spawn(player.run(port, opened));
        match tracks.await {
            Ok(Ok(tracks)) => Ok(LiveStream::new(
                tracks,
                follow(received, played, self.clone()),
            )),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.bad("the stream could not be taken apart")),
        }
    }

    fn unreachable(&self, source: impl Into<Cause>) -> LiveError {
        LiveError::Unreachable {
            device: self.name.clone(),
            source: source.into(),
        }
    }

    fn bad(&self, source: impl Into<Cause>) -> LiveError {
        LiveError::BadStream {
            device: self.name.clone(),
            source: source.into(),
        }
    }

    /// What went wrong, from retina's error and from how the connection ended.
    fn failed(&self, error: retina::Error, ended: Option<Ended>) -> LiveError {
        match (error.status_code(), ended) {
            (Some(401 | 403), _) => LiveError::LogIn {
                device: self.name.clone(),
            },
            (_, Some(ended @ (Ended::TooMuch(_) | Ended::NoRtsp))) => self.bad(ended),
            (None, Some(Ended::ByCamera)) => self.unreachable(error),
            _ => self.bad(error),
        }
    }
}

type Unit = Result<AccessUnit, LiveError>;

/// The units, and after the last one whether the task that made them broke.
fn follow(
    received: mpsc::Receiver<Unit>,
    played: tokio::task::JoinHandle<()>,
    camera: RtspCamera,
) -> impl futures_util::Stream<Item = Unit> + Send {
    let state = (received, Some(played), camera);
    stream::unfold(state, |(mut received, mut played, camera)| async move {
        if let Some(unit) = received.recv().await {
            return Some((unit, (received, played, camera)));
        }
        let broke = played.take()?.await.err()?;
        let error = camera.bad(broke);
        Some((Err(error), (received, None, camera)))
    })
}

/// The task that plays.
struct Player {
    camera: RtspCamera,
    meter: Arc<Meter>,
    units: mpsc::Sender<Unit>,
}

/// A stream being played, and which of its streams is which track.
struct Playing {
    demuxed: Demuxed,
    tracks: Vec<Option<Track>>,
    order: Vec<usize>,
}

impl Player {
    async fn run(self, port: u16, opened: oneshot::Sender<Result<Vec<Track>, LiveError>>) {
        let begun = timeout(START_TIME, Box::pin(self.begin(port))).await;
        let begun = match begun {
            Ok(begun) => begun,
            Err(late) => Err(self.camera.unreachable(late)),
        };
        let (playing, first) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // Nobody waits when the caller was dropped.
                let _ = opened.send(Err(error));
                return;
            }
        };
        let tracks = playing.tracks.iter().flatten().cloned().collect();
        if opened.send(Ok(tracks)).is_ok() && self.units.send(Ok(first)).await.is_ok() {
            self.play(playing).await;
        }
    }

    /// Describes, sets up, plays, and waits until the coding of every track is known.
    async fn begin(&self, port: u16) -> Result<(Playing, AccessUnit), LiveError> {
        let failed = |error| self.camera.failed(error, self.meter.ended());
        let target = self.camera.access.url.target();
        let url = format!("rtsp://127.0.0.1:{port}{target}")
            .parse()
            .map_err(|error: url::ParseError| self.camera.bad(error))?;
        let login = self.camera.login.as_ref().map(|login| Credentials {
            username: login.user().to_owned(),
            password: login.password().to_owned(),
        });
        let options = SessionOptions::default()
            .creds(login)
            .user_agent(crate::USER_AGENT.to_owned())
            .teardown(match self.camera.access.transport {
                // Closing the connection ends an interleaved stream.
                Transport::Interleaved => TeardownPolicy::Never,
                Transport::Udp => TeardownPolicy::Auto,
            });
        let mut session = Session::describe(url, options).await.map_err(failed)?;
        let order = chosen(session.streams());
        if order.is_empty() {
            return Err(self
                .camera
                .bad("it offers no picture and no sound that can be read"));
        }
        for index in &order {
            let setup = SetupOptions::default().frame_format(FrameFormat::MP4);
            session.setup(*index, setup).await.map_err(failed)?;
        }
        let play = PlayOptions::default().initial_timestamp(InitialTimestampPolicy::Permissive);
        let demuxed = session
            .play(play)
            .await
            .and_then(Session::demuxed)
            .map_err(failed)?;
        self.meter.playing();
        let tracks = vec![None; order.len()];
        let mut playing = Playing {
            demuxed,
            tracks,
            order,
        };
        loop {
            let item = self.item(&mut playing).await?;
            playing.learn();
            if playing.tracks.iter().all(Option::is_some)
                && let Some(unit) = self.unit(&playing, item)?
            {
                return Ok((playing, unit));
            }
        }
    }

    async fn play(self, mut playing: Playing) {
        loop {
            let next = tokio::select! {
                // The consumer has gone.
                () = self.units.closed() => return,
                next = timeout(UNIT_TIME, self.item(&mut playing)) => next,
            };
            let unit = match next {
                Ok(Ok(item)) => self.unit(&playing, item).transpose(),
                Ok(Err(error)) => Some(Err(error)),
                Err(late) => Some(Err(self.camera.unreachable(late))),
            };
            let Some(unit) = unit else { continue };
            let over = unit.is_err();
            if self.units.send(unit).await.is_err() || over {
                return;
            }
        }
    }

    async fn item(&self, playing: &mut Playing) -> Result<CodecItem, LiveError> {
        match playing.demuxed.next().await {
            Some(Ok(item)) => {
                let pictures = playing.has_pictures();
                let whole = match &item {
                    CodecItem::VideoFrame(_) => true,
                    CodecItem::AudioFrame(_) => !pictures,
                    _ => false,
                };
                if whole {
                    self.meter.progress();
                }
                Ok(item)
            }
            Some(Err(error)) => Err(self.camera.failed(error, self.meter.ended())),
            None => Err(match self.meter.ended() {
                Some(ended @ (Ended::TooMuch(_) | Ended::NoRtsp)) => self.camera.bad(ended),
                _ => self.camera.unreachable(Ended::ByCamera),
            }),
        }
    }

    /// The access unit in an item; `None` when it holds none.
    fn unit(&self, playing: &Playing, item: CodecItem) -> Result<Option<AccessUnit>, LiveError> {
        let (stream, at, key, bytes) = match item {
            CodecItem::VideoFrame(frame) => {
                let stream = frame.stream_id();
                if frame.has_new_parameters() && playing.differs(stream) {
                    return Err(self
                        .camera
                        .bad("its picture changed its coding; open it again"));
                }
                let at = frame.timestamp().elapsed_secs();
                let jpeg = playing.is(stream, &Codec::Mjpeg);
                let key = jpeg || frame.is_random_access_point();
                (stream, at, key, Bytes::from(frame.into_data()))
            }
            CodecItem::AudioFrame(frame) => {
                let bytes = Bytes::copy_from_slice(frame.data());
                (
                    frame.stream_id(),
                    frame.timestamp().elapsed_secs(),
                    true,
                    bytes,
                )
            }
            _ => return Ok(None),
        };
        if bytes.len() > MAX_ACCESS_UNIT_BYTES {
            return Err(self
                .camera
                .bad(Ended::TooMuch(MAX_ACCESS_UNIT_BYTES as u64)));
        }
        let Some(track) = playing.order.iter().position(|index| *index == stream) else {
            return Ok(None);
        };
        Ok(Some(AccessUnit {
            track,
            // What came before the stream's declared beginning is at its beginning.
            at: Duration::try_from_secs_f64(at).unwrap_or_default(),
            key,
            bytes,
        }))
    }
}

impl Playing {
    /// Reads the coding of tracks that are not known yet.
    fn learn(&mut self) {
        for (track, index) in self.tracks.iter_mut().zip(&self.order) {
            if track.is_none() {
                *track = self.demuxed.streams().get(*index).and_then(track_of);
            }
        }
    }

    fn has_pictures(&self) -> bool {
        let streams = self.demuxed.streams();
        let picture = |stream: &retina::client::Stream| stream.media() != "audio";
        self.order
            .iter()
            .any(|index| streams.get(*index).is_some_and(picture))
    }

    fn track(&self, stream: usize) -> Option<&Track> {
        let track = self.order.iter().position(|index| *index == stream)?;
        self.tracks.get(track)?.as_ref()
    }

    fn is(&self, stream: usize, codec: &Codec) -> bool {
        self.track(stream)
            .is_some_and(|track| track.codec == *codec)
    }

    fn differs(&self, stream: usize) -> bool {
        let now = self.demuxed.streams().get(stream).and_then(track_of);
        let known = self.track(stream);
        // Pictures in JPEG tell their size with each one.
        known.is_some_and(|known| known.codec != Codec::Mjpeg) && known != now.as_ref()
    }
}

/// The first picture stream and the first sound stream that can be taken apart, by index.
fn chosen(streams: &[retina::client::Stream]) -> Vec<usize> {
    let first = |readable: fn(&retina::client::Stream) -> bool| {
        streams.iter().take(MAX_STREAMS).position(readable)
    };
    let picture = first(|stream| {
        matches!(stream.media(), "video" | "image")
            && matches!(stream.encoding_name(), "h264" | "h265" | "jpeg")
    });
    let sound = first(|stream| {
        stream.media() == "audio"
            && match stream.encoding_name() {
                "mpeg4-generic" => stream.parameters().is_some(),
                "pcmu" | "pcma" => true,
                _ => false,
            }
    });
    picture.into_iter().chain(sound).collect()
}

fn track_of(stream: &retina::client::Stream) -> Option<Track> {
    let extra = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    match stream.parameters()? {
        ParametersRef::Video(video) => {
            let (width, height) = video.pixel_dimensions();
            let config = extra(video.extra_data());
            let codec = match stream.encoding_name() {
                "h264" => Codec::H264 { config },
                "h265" => Codec::H265 { config },
                "jpeg" => Codec::Mjpeg,
                _ => return None,
            };
            let kind = TrackKind::Video { width, height };
            Some(Track { kind, codec })
        }
        ParametersRef::Audio(audio) => {
            let codec = match stream.encoding_name() {
                "mpeg4-generic" => Codec::Aac {
                    config: extra(audio.extra_data()),
                },
                "pcmu" => Codec::Pcmu,
                "pcma" => Codec::Pcma,
                _ => return None,
            };
            let kind = TrackKind::Audio {
                sample_rate: NonZeroU32::new(audio.clock_rate())?.get(),
                channels: audio.channels().get(),
            };
            Some(Track { kind, codec })
        }
        ParametersRef::Message(_) => None,
    }
}
