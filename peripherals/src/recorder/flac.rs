//! Tracks as FLAC (RFC 9639), encoded frame by frame as they are recorded. The samples are our own, so this runs in the
//! gateway itself.

use flacenc::bitsink::ByteSink;
use flacenc::component::{BitRepr, StreamInfo};
use flacenc::config;
use flacenc::error::{Verified, Verify};
use flacenc::source::{Context, Fill, FrameBuf};

/// Frames of samples in a FLAC frame.
const BLOCK: usize = 4096;
/// 16-bit samples.
const BITS: usize = 16;
/// Left and right.
const CHANNELS: usize = 2;

/// The encoder did not take the samples: a defect, not the recording's fault.
#[derive(Debug, thiserror::Error)]
#[error("the recording could not be encoded ({0})")]
pub struct FlacError(String);

impl FlacError {
    fn of(error: impl std::fmt::Debug) -> Self {
        Self(format!("{error:?}"))
    }
}

/// One track being encoded.
pub struct FlacEncoder {
    config: Verified<config::Encoder>,
    info: StreamInfo,
    rate: u32,
    buffer: FrameBuf,
    context: Context,
    waiting: Vec<i32>,
    frames: usize,
    sizes: Option<(u32, u32)>,
}

impl std::fmt::Debug for FlacEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlacEncoder")
            .field("rate", &self.rate)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl FlacEncoder {
    /// An encoder of 16-bit stereo at `rate` samples per second.
    pub fn new(rate: u32) -> Result<Self, FlacError> {
        let mut config = config::Encoder::default();
        config.multithread = false;
        config.block_size = BLOCK;
        Ok(Self {
            config: config.into_verified().map_err(|(_, e)| FlacError::of(e))?,
            info: StreamInfo::new(rate as usize, CHANNELS, BITS).map_err(FlacError::of)?,
            rate,
            buffer: FrameBuf::with_size(CHANNELS, BLOCK).map_err(FlacError::of)?,
            context: Context::new(BITS, CHANNELS),
            waiting: Vec::new(),
            frames: 0,
            sizes: None,
        })
    }

    /// Takes samples, left and right in turn; gives the FLAC frames that became full.
    pub fn push(&mut self, samples: &[i16]) -> Result<Vec<u8>, FlacError> {
        self.waiting.extend(samples.iter().map(|s| i32::from(*s)));
        let mut encoded = Vec::new();
        while self.waiting.len() >= BLOCK * CHANNELS {
            let rest = self.waiting.split_off(BLOCK * CHANNELS);
            let block = std::mem::replace(&mut self.waiting, rest);
            encoded.extend(self.encode(&block)?);
        }
        Ok(encoded)
    }

    /// The last, shorter frame.
    pub fn finish(&mut self) -> Result<Vec<u8>, FlacError> {
        let mut block = std::mem::take(&mut self.waiting);
        block.truncate(block.len() / CHANNELS * CHANNELS);
        if block.is_empty() {
            return Ok(Vec::new());
        }
        self.encode(&block)
    }

    fn encode(&mut self, block: &[i32]) -> Result<Vec<u8>, FlacError> {
        self.buffer.fill_interleaved(block).map_err(FlacError::of)?;
        self.context
            .fill_interleaved(block)
            .map_err(FlacError::of)?;
        let frame =
            flacenc::encode_fixed_size_frame(&self.config, &self.buffer, self.frames, &self.info)
                .map_err(FlacError::of)?;
        let mut sink = ByteSink::new();
        frame.write(&mut sink).map_err(FlacError::of)?;
        let bytes = sink.as_slice().to_vec();
        self.frames += 1;
        let size = bytes.len() as u32;
        let (least, most) = self.sizes.unwrap_or((size, size));
        self.sizes = Some((least.min(size), most.max(size)));
        Ok(bytes)
    }

    /// Samples per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Frames of samples taken, without those that wait for a full block.
    pub fn encoded_frames(&self) -> u64 {
        self.context.total_samples() as u64
    }

    /// What stands before the first frame, true for all that was encoded: after [`FlacEncoder::finish`] it tells
    /// length and checksum.
    pub fn header(&self) -> Vec<u8> {
        let (least, most) = self.sizes.unwrap_or_default();
        header(
            self.rate,
            least,
            most,
            self.encoded_frames(),
            self.context.md5_digest(),
        )
    }

    /// What stands before the first frame of a track whose length is not known yet (RFC 9639 §8.2 allows it).
    pub fn open_header(&self) -> Vec<u8> {
        header(self.rate, 0, 0, 0, [0; 16])
    }
}

/// `fLaC` and the STREAMINFO block (RFC 9639 §8.2).
fn header(rate: u32, least: u32, most: u32, total: u64, md5: [u8; 16]) -> Vec<u8> {
    let block = (BLOCK as u16).to_be_bytes();
    let mut bytes = b"fLaC".to_vec();
    // The last metadata block, of kind 0, 34 bytes.
    bytes.extend([0x80, 0, 0, 34]);
    bytes.extend(block);
    bytes.extend(block);
    bytes.extend(&least.to_be_bytes()[1..]);
    bytes.extend(&most.to_be_bytes()[1..]);
    let packed = u64::from(rate) << 44
        | (CHANNELS as u64 - 1) << 41
        | (BITS as u64 - 1) << 36
        | (total & ((1 << 36) - 1));
    bytes.extend(packed.to_be_bytes());
    bytes.extend(md5);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::source::ByteSource;
    use crate::decode::{Decoder, Decoding, Worker, worker};
    use tokio::net::unix::pipe;

    fn music(frames: usize) -> Vec<i16> {
        let mut state = 1_u32;
        (0..frames * CHANNELS)
            .map(|n| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let tone = ((n as f64 / 60.0).sin() * 12_000.0) as i16;
                tone.wrapping_add((state >> 22) as i16)
            })
            .collect()
    }

    async fn decoded(file: Vec<u8>) -> (Option<u64>, Vec<i16>) {
        let decoder = Decoder::new(|| {
            let (theirs_in, ours_in) = std::io::pipe()?;
            let (ours_out, theirs_out) = std::io::pipe()?;
            std::thread::spawn(move || worker::serve(theirs_in, theirs_out));
            Ok(Worker {
                input: Box::new(pipe::Sender::from_owned_fd(ours_in.into())?),
                output: Box::new(pipe::Receiver::from_owned_fd(ours_out.into())?),
                guard: Box::new(()),
            })
        });
        let source = ByteSource::memory(file);
        let mut decoding = Decoding::open(&decoder, source, "audio/flac")
            .await
            .expect("a FLAC file");
        let mut samples = Vec::new();
        while let Some(block) = decoding.next().await.expect("decodes") {
            samples.extend(block.iter().map(|s| (s >> 16) as i16));
        }
        (decoding.format().frames, samples)
    }

    #[tokio::test]
    async fn what_was_recorded_comes_back() {
        for frames in [1, 100, BLOCK, BLOCK + 1, 5 * BLOCK - 3] {
            let music = music(frames);
            let mut encoder = FlacEncoder::new(44_100).expect("an encoder");
            let mut body = Vec::new();
            for portion in music.chunks(882) {
                body.extend(encoder.push(portion).expect("encoded"));
            }
            body.extend(encoder.finish().expect("encoded"));
            let whole = [encoder.header(), body.clone()].concat();
            assert_eq!(
                decoded(whole).await,
                (Some(frames as u64), music.clone()),
                "{frames}"
            );
            let (told, same) = decoded([encoder.open_header(), body].concat()).await;
            assert!(
                told.is_none_or(|told| told == 0) && same == music,
                "{frames}"
            );
        }
    }
}
