//! FLAC as a stream (RFC 9639): 16-bit samples in, frames out, nothing kept. What a player needs to know stands in the
//! head, so that the bytes can be sealed while they come; the checksum of all samples is not known then and is left
//! out (all zero, RFC 9639 §8.2). Each frame has its own.

use flacenc::bitsink::MemSink;
use flacenc::component::{BitRepr, StreamInfo};
use flacenc::config;
use flacenc::error::{Verified, Verify};
use flacenc::source::{Fill, FrameBuf};

/// Samples of one channel in a frame: eight sectors of a CD.
pub const BLOCK: usize = 4704;
/// Longest comment kept, bytes.
const MAX_COMMENT: usize = 1024;

/// Samples that cannot be encoded: an odd number of bytes, or a format that FLAC does not know.
#[derive(Debug, thiserror::Error)]
#[error("the sound cannot be encoded as FLAC: {0}")]
pub struct FlacError(String);

/// One stream being encoded.
pub struct FlacStream {
    config: Verified<config::Encoder>,
    info: StreamInfo,
    channels: usize,
    frames: usize,
}

impl FlacStream {
    /// A stream of `channels` times 16 bits at `sample_rate`.
    pub fn new(sample_rate: u32, channels: u16) -> Result<Self, FlacError> {
        let mut config = config::Encoder::default();
        // Frames are encoded on the caller's thread, one after another.
        config.multithread = false;
        let config = config
            .into_verified()
            .map_err(|(_, error)| FlacError(error.to_string()))?;
        let info = StreamInfo::new(sample_rate as usize, usize::from(channels), 16)
            .map_err(|error| FlacError(error.to_string()))?;
        Ok(Self {
            config,
            info,
            channels: usize::from(channels),
            frames: 0,
        })
    }

    /// Bytes of samples that make one frame.
    pub fn frame_bytes(&self) -> usize {
        BLOCK * self.channels * 2
    }

    /// The head: `fLaC`, STREAMINFO (§8.2) with the number of samples per channel where it is known (0: not), and a
    /// Vorbis comment (§8.6) with `comments` such as `("TITLE", "…")`.
    pub fn head(&self, samples: u64, comments: &[(&str, String)]) -> Vec<u8> {
        let mut head = b"fLaC".to_vec();
        head.extend([0, 0, 0, 34]);
        head.extend((BLOCK as u16).to_be_bytes());
        head.extend((BLOCK as u16).to_be_bytes());
        head.extend([0; 6]);
        let format = (self.info.sample_rate() as u64) << 44
            | (self.channels as u64 - 1) << 41
            | 15 << 36
            | samples & 0xf_ffff_ffff;
        head.extend(format.to_be_bytes());
        head.extend([0; 16]);
        let mut block = text(crate::USER_AGENT);
        block.extend((comments.len() as u32).to_le_bytes());
        for (name, value) in comments {
            block.extend(text(&format!("{name}={value}")));
        }
        // 0x84: a Vorbis comment, and the last block of metadata.
        head.push(0x84);
        head.extend(&(block.len() as u32).to_be_bytes()[1..]);
        head.extend(block);
        head
    }

    /// The next frame: little-endian samples, channels interleaved; as many bytes as [`FlacStream::frame_bytes`], less
    /// only at the end of the stream.
    pub fn frame(&mut self, samples: &[u8]) -> Result<Vec<u8>, FlacError> {
        let fault = |error: &dyn std::fmt::Display| FlacError(error.to_string());
        let count = samples.len() / (self.channels * 2);
        if count == 0
            || samples.len() > self.frame_bytes()
            || count * self.channels * 2 != samples.len()
        {
            return Err(FlacError(format!(
                "{} bytes are no whole samples",
                samples.len()
            )));
        }
        let mut buffer = FrameBuf::with_size(self.channels, count).map_err(|e| fault(&e))?;
        buffer.fill_le_bytes(samples, 2).map_err(|e| fault(&e))?;
        let frame =
            flacenc::encode_fixed_size_frame(&self.config, &buffer, self.frames, &self.info)
                .map_err(|e| fault(&e))?;
        self.frames += 1;
        let mut sink = MemSink::<u8>::new();
        frame.write(&mut sink).map_err(|e| fault(&e))?;
        Ok(sink.into_inner())
    }
}

/// A string of a Vorbis comment, cut to [`MAX_COMMENT`].
fn text(text: &str) -> Vec<u8> {
    let mut end = text.len().min(MAX_COMMENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = (end as u32).to_le_bytes().to_vec();
    bytes.extend(&text.as_bytes()[..end]);
    bytes
}
