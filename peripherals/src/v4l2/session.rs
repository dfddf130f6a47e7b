//! Capturing from a cable camera. The kernel's calls block, so they run in a thread of their own and hand pictures over
//! through a short queue: a slow consumer loses pictures, never memory. A camera that is pulled out ends the stream with
//! a clear error; what panics in the binding does the same.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use v4l::buffer::Type;
use v4l::capability::Flags;
use v4l::format::FourCC;
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::io::mmap::Stream as Mapped;
use v4l::io::traits::CaptureStream as _;
use v4l::video::Capture as _;
use v4l::video::capture::Parameters;
use v4l::{Device, Format, Fraction};

use super::V4l2Access;
use super::wire::{
    MAX_FORMATS, MAX_INTERVALS, MAX_SIZES, Mode, Pixels, Purpose, choose, h264_config,
    h264_picture, packed_rows,
};
use crate::live::{
    AccessUnit, Codec, LiveError, LiveStream, MAX_ACCESS_UNIT_BYTES, MAX_STILL_BYTES, Still, Track,
    TrackKind,
};
use crate::media::Cause;

/// Pictures waiting for the consumer; further ones are dropped.
pub const PICTURE_QUEUE: usize = 4;
/// How long one picture is waited for.
pub const PICTURE_TIME: Duration = Duration::from_secs(5);
/// Buffers shared with the driver.
const BUFFERS: u32 = 4;
/// Pictures that a webcam needs to set its exposure before a still is taken.
const SETTLING_PICTURES: u32 = 5;
/// Most pictures looked at for H.264 parameter sets.
const MAX_PICTURES_WITHOUT_SETS: u32 = 300;

/// `EBUSY`.
const BUSY: i32 = 16;
/// `ENODEV`, `ENXIO`, `ENOENT`, `EIO`: pulled out.
const PULLED_OUT: [i32; 4] = [19, 6, 2, 5];

/// A camera on a cable; holds nothing open.
#[derive(Clone, Debug)]
pub struct V4l2Camera {
    name: String,
    access: V4l2Access,
}

impl V4l2Camera {
    /// A camera by its name for people and the way to reach it.
    pub fn new(name: String, access: V4l2Access) -> Self {
        Self { name, access }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All that it offers, whether used or not.
    pub async fn modes(&self) -> Result<Vec<Mode>, LiveError> {
        let camera = self.clone();
        let listed = spawn_blocking(move || camera.open().map(|device| list(&device))).await;
        listed.unwrap_or_else(|broke| Err(self.bad(broke)))
    }

    /// One picture of the largest size.
    pub async fn still(&self) -> Result<Still, LiveError> {
        let stream = self.stream(Purpose::Still, SETTLING_PICTURES).await?;
        crate::live::first_still(stream, &self.name).await
    }

    /// Pictures as they happen.
    pub async fn live(&self) -> Result<LiveStream, LiveError> {
        self.stream(Purpose::Live, 0).await
    }

    async fn stream(&self, purpose: Purpose, skip: u32) -> Result<LiveStream, LiveError> {
        let (opened, track) = oneshot::channel();
        let (units, received) = mpsc::channel(PICTURE_QUEUE);
        let camera = self.clone();
        let capturing = spawn_blocking(move || {
            if let Err(error) = camera.capture(purpose, skip, opened, &units) {
                // Nobody listens any more when this fails.
                let _ = units.blocking_send(Err(error));
            }
        });
        match track.await {
            Ok(track) => Ok(LiveStream::new(
                vec![track],
                follow(received, capturing, self.clone()),
            )),
            // It ended before it had a track: the reason is in the queue, or it broke.
            Err(_) => Err(self.why(received, capturing).await),
        }
    }

    async fn why(&self, mut units: mpsc::Receiver<Unit>, task: JoinHandle<()>) -> LiveError {
        match units.recv().await {
            Some(Err(error)) => error,
            Some(Ok(_)) | None => match task.await {
                Err(broke) => self.bad(broke),
                Ok(()) => self.bad("no picture came"),
            },
        }
    }

    fn open(&self) -> Result<Device, LiveError> {
        let failed = |error| self.failed(error);
        let device = Device::with_path(&self.access.node).map_err(failed)?;
        let capabilities = device.query_caps().map_err(failed)?.capabilities;
        if !capabilities.contains(Flags::VIDEO_CAPTURE | Flags::STREAMING) {
            return Err(self.unsupported());
        }
        Ok(device)
    }

    /// Runs until the receiver of `units` is gone or the camera fails.
    fn capture(
        &self,
        purpose: Purpose,
        skip: u32,
        opened: oneshot::Sender<Track>,
        units: &mpsc::Sender<Unit>,
    ) -> Result<(), LiveError> {
        let failed = |error| self.failed(error);
        let device = self.open()?;
        let (pixels, mode, (numerator, denominator)) =
            choose(&list(&device), purpose).ok_or_else(|| self.unsupported())?;
        let wanted = Format::new(mode.width, mode.height, FourCC::new(&mode.code));
        let format = device.set_format(&wanted).map_err(failed)?;
        if Pixels::of(format.fourcc.repr) != Some(pixels) {
            return Err(self.unsupported());
        }
        let interval = Parameters::new(Fraction::new(numerator, denominator));
        // A driver without a choice of intervals refuses this and goes on at its own.
        if let Err(error) = device.set_params(&interval) {
            tracing::debug!(%error, camera = self.name, "interval not set");
        }
        let mut mapped =
            Mapped::with_buffers(&device, Type::VideoCapture, BUFFERS).map_err(failed)?;
        mapped.set_timeout(PICTURE_TIME);
        let largest = match purpose {
            Purpose::Still => MAX_STILL_BYTES,
            Purpose::Live => MAX_ACCESS_UNIT_BYTES,
        };
        let mut opened = Some(opened);
        let (mut begun, mut taken) = (None, 0_u32);
        while !units.is_closed() {
            let (buffer, told) = mapped.next().map_err(failed)?;
            taken = taken.saturating_add(1);
            let time = Duration::new(
                u64::try_from(told.timestamp.sec).unwrap_or_default(),
                u32::try_from(told.timestamp.usec).unwrap_or_default() % 1_000_000 * 1000,
            );
            let used = (told.bytesused as usize).min(buffer.len());
            let buffer = &buffer[..used];
            if taken <= skip || buffer.is_empty() {
                continue;
            }
            if buffer.len() > largest {
                return Err(self.bad("a picture is too large"));
            }
            if let Some(waiting) = opened.take() {
                match codec(pixels, buffer) {
                    Some(codec) => {
                        if waiting.send(track(codec, &format)).is_err() {
                            // Nobody waits any more.
                            return Ok(());
                        }
                    }
                    None if taken > MAX_PICTURES_WITHOUT_SETS => {
                        return Err(self.bad("its H.264 has no parameter sets"));
                    }
                    None => {
                        opened = Some(waiting);
                        continue;
                    }
                }
            }
            let Some((bytes, key)) = picture(pixels, buffer, &format) else {
                continue;
            };
            let at = time.saturating_sub(*begun.get_or_insert(time));
            let unit = AccessUnit {
                track: 0,
                at,
                key,
                bytes,
            };
            // A full queue: the consumer is slow, this picture is lost.
            let _ = units.try_send(Ok(unit));
        }
        Ok(())
    }

    fn unsupported(&self) -> LiveError {
        LiveError::Unsupported {
            device: self.name.clone(),
        }
    }

    fn bad(&self, source: impl Into<Cause>) -> LiveError {
        LiveError::BadStream {
            device: self.name.clone(),
            source: source.into(),
        }
    }

    fn failed(&self, error: io::Error) -> LiveError {
        let device = self.name.clone();
        match error.raw_os_error() {
            Some(BUSY) => LiveError::Busy { device },
            Some(code) if !PULLED_OUT.contains(&code) => LiveError::BadStream {
                device,
                source: error.into(),
            },
            _ => LiveError::Unreachable {
                device,
                source: error.into(),
            },
        }
    }
}

type Unit = Result<AccessUnit, LiveError>;

/// The pictures, and after the last one whether the thread that took them broke.
fn follow(
    received: mpsc::Receiver<Unit>,
    capturing: JoinHandle<()>,
    camera: V4l2Camera,
) -> impl futures_util::Stream<Item = Unit> + Send {
    let state = (received, Some(capturing), camera);
    stream::unfold(state, |(mut received, mut task, camera)| async move {
        if let Some(unit) = received.recv().await {
            return Some((unit, (received, task, camera)));
        }
        let broke = task.take()?.await.err()?;
        let error = camera.bad(broke);
        Some((Err(error), (received, None, camera)))
    })
}

fn codec(pixels: Pixels, buffer: &[u8]) -> Option<Codec> {
    match pixels {
        Pixels::Jpeg => Some(Codec::Mjpeg),
        Pixels::Yuyv => Some(Codec::Yuyv),
        Pixels::H264 => h264_config(buffer).map(|config| Codec::H264 { config }),
    }
}

fn track(codec: Codec, format: &Format) -> Track {
    Track {
        kind: TrackKind::Video {
            width: format.width,
            height: format.height,
        },
        codec,
    }
}

fn picture(pixels: Pixels, buffer: &[u8], format: &Format) -> Option<(Bytes, bool)> {
    match pixels {
        Pixels::Jpeg => buffer
            .starts_with(&[0xff, 0xd8])
            .then(|| (Bytes::copy_from_slice(buffer), true)),
        Pixels::Yuyv => {
            let rows = packed_rows(buffer, format.width, format.height, format.stride)?;
            Some((rows, true))
        }
        Pixels::H264 => h264_picture(buffer).map(|picture| (picture.bytes, picture.key)),
    }
}

/// All formats, sizes and intervals, within the limits of [`super::wire`].
fn list(device: &Device) -> Vec<Mode> {
    let mut modes = Vec::new();
    let formats = device.enum_formats().unwrap_or_default();
    for format in formats.into_iter().take(MAX_FORMATS) {
        let sizes = device.enum_framesizes(format.fourcc).unwrap_or_default();
        for size in sizes.into_iter().take(MAX_SIZES) {
            let edges = match size.size {
                FrameSizeEnum::Discrete(size) => vec![(size.width, size.height)],
                // Any size between: two that people know. The driver rounds to what it can.
                FrameSizeEnum::Stepwise(range) => [(1920, 1080), (640, 480)]
                    .map(|(width, height)| {
                        (range.max_width.min(width), range.max_height.min(height))
                    })
                    .to_vec(),
            };
            for (width, height) in edges {
                modes.push(Mode {
                    code: format.fourcc.repr,
                    width,
                    height,
                    intervals: intervals(device, format.fourcc, width, height),
                });
            }
        }
    }
    modes
}

fn intervals(device: &Device, code: FourCC, width: u32, height: u32) -> Vec<(u32, u32)> {
    let listed = device.enum_frameintervals(code, width, height);
    let fraction = |fraction: Fraction| (fraction.numerator, fraction.denominator);
    listed
        .unwrap_or_default()
        .into_iter()
        .take(MAX_INTERVALS)
        .flat_map(|interval| match interval.interval {
            FrameIntervalEnum::Discrete(one) => vec![fraction(one)],
            FrameIntervalEnum::Stepwise(range) => vec![fraction(range.min), fraction(range.max)],
        })
        .collect()
}
