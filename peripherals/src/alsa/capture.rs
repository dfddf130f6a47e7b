//! A sound card's input as a live stream (F2): a thread reads it, so that the card is served whatever the gateway does.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};

use super::SoundPort;
use super::pcm::{Heard, Input, STEREO, SoundError};
use crate::live::{AccessUnit, Codec, LiveError, LiveStream, Track, TrackKind};

/// Samples read at once: a twentieth of a second.
const BLOCK_SAMPLES: usize = 44_100 / 20 * STEREO;
/// Blocks waiting for the gateway: ten seconds, some 2 MiB. Then the card's own buffer of a second fills, and after
/// that sound is lost, which is logged.
const QUEUE: usize = 200;

/// A line-in or microphone of this machine.
#[derive(Clone, Debug)]
pub struct LineIn {
    name: String,
    port: SoundPort,
}

impl LineIn {
    /// The input `port`, shown as `name`.
    pub fn new(name: String, port: SoundPort) -> Self {
        Self { name, port }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins to record 16-bit stereo. The stream ends with an error when the card goes; what came before it counts.
    pub async fn open(&self) -> Result<LiveStream, LiveError> {
        let (units, arriving) = mpsc::channel(QUEUE);
        let (opened, known) = oneshot::channel();
        let (device, pcm) = (self.name.clone(), self.port.pcm.clone());
        let thread = std::thread::Builder::new()
            .name("line-in".to_owned())
            .spawn(move || match Input::open(&pcm) {
                Ok(input) => {
                    let rate = input.rate();
                    if opened.send(Ok(rate)).is_ok() {
                        read(input, rate, &device, &units);
                    }
                }
                // Whoever asked may have gone away.
                Err(error) => drop(opened.send(Err(error))),
            });
        let no_thread = |error: std::io::Error| LiveError::Unreachable {
            device: self.name.clone(),
            source: Box::new(error),
        };
        thread.map_err(no_thread)?;
        let rate = match known.await {
            Ok(Ok(rate)) => rate,
            Ok(Err(error)) => return Err(refused(&self.name, error)),
            Err(_) => return Err(refused(&self.name, SoundError::Gone)),
        };
        let track = Track {
            kind: TrackKind::Audio {
                sample_rate: rate,
                channels: STEREO as u16,
            },
            codec: Codec::PcmS16,
        };
        let units = stream::unfold(arriving, |mut arriving| async {
            Some((arriving.recv().await?, arriving))
        });
        Ok(LiveStream::new(vec![track], units))
    }
}

fn refused(device: &str, error: SoundError) -> LiveError {
    let device = device.to_owned();
    match error {
        SoundError::Busy => LiveError::Busy { device },
        SoundError::Rate { .. } => LiveError::Unsupported { device },
        SoundError::Gone | SoundError::Other(_) => LiveError::Unreachable {
            device,
            source: Box::new(error),
        },
    }
}

fn read(
    mut input: Input,
    rate: u32,
    device: &str,
    units: &mpsc::Sender<Result<AccessUnit, LiveError>>,
) {
    let mut block = vec![0_i16; BLOCK_SAMPLES];
    let (mut frames, mut lost) = (0_u64, 0);
    while !units.is_closed() {
        let unit = match input.read(&mut block) {
            Ok(Heard::Nothing) => continue,
            Ok(Heard::End) => return,
            Ok(Heard::Samples(count)) => {
                let bytes: Vec<u8> = block[..count]
                    .iter()
                    .flat_map(|s| s.to_le_bytes())
                    .collect();
                let at = u128::from(frames) * 1_000_000_000 / u128::from(rate);
                frames += (count / STEREO) as u64;
                Ok(AccessUnit {
                    track: 0,
                    at: Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX)),
                    key: true,
                    bytes: Bytes::from(bytes),
                })
            }
            Err(error) => Err(refused(device, error)),
        };
        if input.lost() > lost {
            lost = input.lost();
            tracing::warn!(
                device,
                times = lost,
                "recorded sound was lost: this machine is too busy"
            );
        }
        let over = unit.is_err();
        if units.blocking_send(unit).is_err() || over {
            return;
        }
    }
}
