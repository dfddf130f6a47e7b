//! The conversation between the gateway and a decoding worker, as bytes: strictly question and answer, so that neither
//! side ever has more than one message of the other's to hold. Pure; what comes from the worker has been touched by
//! hostile media and is believed only within these limits.
//!
//! A message is a tag, a little-endian 32-bit length and so many bytes. The gateway asks [`Ask::Open`], [`Ask::Decode`]
//! or [`Ask::Seek`]; the worker first has any number of [`Answer::Want`]s served by [`Ask::Bytes`], then answers.

/// Largest payload of a message, in bytes.
pub const MAX_PAYLOAD: usize = 256 * 1024;
/// Most bytes of the file that are asked for at once.
pub const MAX_WANT: u32 = 64 * 1024;
/// Most channels.
pub const MAX_CHANNELS: u16 = 8;
/// Slowest sample rate, per second.
pub const MIN_RATE: u32 = 1_000;
/// Fastest sample rate, per second.
pub const MAX_RATE: u32 = 768_000;
/// Most frames (one sample per channel) of one answer.
pub const MAX_FRAMES: usize = 4096;
/// Longest MIME type sent to the worker, in bytes.
pub const MAX_MIME_BYTES: usize = 100;
/// Longest reason kept of a refusal, in bytes.
pub const MAX_REASON_BYTES: usize = 200;
/// Bytes of tag and length.
pub const HEAD_BYTES: usize = 5;

/// How the samples of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcmFormat {
    /// Frames per second, [`MIN_RATE`] to [`MAX_RATE`].
    pub rate: u32,
    /// 1 to [`MAX_CHANNELS`].
    pub channels: u16,
    /// Significant bits of a sample, 1 to 32; they are the upper ones of an `i32`.
    pub bits: u8,
    /// Frames in all, without the encoder's delay and padding, where the file tells.
    pub frames: Option<u64>,
}

/// Why a worker gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// A container or codec that it does not know.
    Unsupported,
    /// Damaged, or against the rules of its format.
    Damaged,
    /// The gateway could not give the bytes.
    Unreachable,
}

/// From the gateway to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What is this? The first message.
    Open {
        /// The file's size, where known; without it there is no seeking.
        size: Option<u64>,
        /// Its MIME type, a hint.
        mime: String,
    },
    /// The bytes that were wanted: fewer are allowed, none means the end of the file.
    Bytes(Vec<u8>),
    /// The bytes cannot be had.
    NoBytes,
    /// The next samples, please.
    Decode,
    /// Go to this frame.
    Seek(u64),
}

/// From the worker to the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Give me these bytes first.
    Want {
        /// From here.
        offset: u64,
        /// At most so many, at most [`MAX_WANT`].
        len: u32,
    },
    /// To `Open`.
    Format(PcmFormat),
    /// To `Decode`: interleaved samples, whole frames, at most [`MAX_FRAMES`]; never empty.
    Pcm(Vec<i32>),
    /// To `Decode`: that was all.
    End,
    /// To `Seek`: samples now come from this frame on.
    Sought(u64),
    /// To any of them; the worker ends.
    Refused(RefusalKind, String),
}

/// A message that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No such tag.
    #[error("a message of unknown kind {0}")]
    Tag(u8),
    /// Longer than allowed.
    #[error("a message of {0} bytes")]
    Length(u32),
    /// Shorter or longer than its kind is.
    #[error("a message of the wrong form")]
    Form,
    /// A value out of range.
    #[error("a value out of range")]
    Range,
}

const OPEN: u8 = 1;
const BYTES: u8 = 2;
const NO_BYTES: u8 = 3;
const DECODE: u8 = 4;
const SEEK: u8 = 5;
const WANT: u8 = 65;
const FORMAT: u8 = 66;
const PCM: u8 = 67;
const END: u8 = 68;
const SOUGHT: u8 = 69;
const REFUSED: u8 = 70;

/// Tag and length of the message that follows.
pub fn head(bytes: [u8; HEAD_BYTES]) -> Result<(u8, usize), WireError> {
    let [tag, length @ ..] = bytes;
    let length = u32::from_le_bytes(length);
    let size = usize::try_from(length).map_err(|_| WireError::Length(length))?;
    if size > MAX_PAYLOAD {
        return Err(WireError::Length(length));
    }
    Ok((tag, size))
}

fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.push(tag);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn u64_of(bytes: &[u8]) -> Result<u64, WireError> {
    Ok(u64::from_le_bytes(
        bytes.try_into().map_err(|_| WireError::Form)?,
    ))
}

fn u32_of(bytes: &[u8]) -> Result<u32, WireError> {
    Ok(u32::from_le_bytes(
        bytes.try_into().map_err(|_| WireError::Form)?,
    ))
}

/// A number that may be missing: all ones.
fn maybe(value: Option<u64>) -> [u8; 8] {
    value.unwrap_or(u64::MAX).to_le_bytes()
}

fn maybe_of(bytes: &[u8]) -> Result<Option<u64>, WireError> {
    Ok(Some(u64_of(bytes)?).filter(|value| *value != u64::MAX))
}

fn text_of(bytes: &[u8], limit: usize) -> Result<String, WireError> {
    if bytes.len() > limit {
        return Err(WireError::Range);
    }
    let mut text: String = String::from_utf8_lossy(bytes)
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    // Each broken byte became three.
    text.truncate(text.floor_char_boundary(limit));
    Ok(text)
}

fn cut(text: &str, limit: usize) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(limit)]
}

impl Ask {
    /// The message as bytes. A longer MIME type than [`MAX_MIME_BYTES`] is cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Open { size, mime } => {
                let mut payload = maybe(*size).to_vec();
                payload.extend_from_slice(cut(mime, MAX_MIME_BYTES));
                message(OPEN, &payload)
            }
            Self::Bytes(bytes) => message(BYTES, bytes),
            Self::NoBytes => message(NO_BYTES, &[]),
            Self::Decode => message(DECODE, &[]),
            Self::Seek(frame) => message(SEEK, &frame.to_le_bytes()),
        }
    }

    /// The message from its tag and payload.
    pub fn parse(tag: u8, payload: &[u8]) -> Result<Self, WireError> {
        match tag {
            OPEN => {
                let (size, mime) = payload.split_at_checked(8).ok_or(WireError::Form)?;
                Ok(Self::Open {
                    size: maybe_of(size)?,
                    mime: text_of(mime, MAX_MIME_BYTES)?,
                })
            }
            BYTES if payload.len() <= MAX_WANT as usize => Ok(Self::Bytes(payload.to_vec())),
            BYTES => Err(WireError::Range),
            NO_BYTES | DECODE if !payload.is_empty() => Err(WireError::Form),
            NO_BYTES => Ok(Self::NoBytes),
            DECODE => Ok(Self::Decode),
            SEEK => Ok(Self::Seek(u64_of(payload)?)),
            other => Err(WireError::Tag(other)),
        }
    }
}

impl Answer {
    /// The message as bytes. A longer reason than [`MAX_REASON_BYTES`] is cut.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Want { offset, len } => {
                let mut payload = offset.to_le_bytes().to_vec();
                payload.extend_from_slice(&len.to_le_bytes());
                message(WANT, &payload)
            }
            Self::Format(format) => {
                let mut payload = format.rate.to_le_bytes().to_vec();
                payload.extend_from_slice(&format.channels.to_le_bytes());
                payload.push(format.bits);
                payload.extend_from_slice(&maybe(format.frames));
                message(FORMAT, &payload)
            }
            Self::Pcm(samples) => {
                let payload: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
                message(PCM, &payload)
            }
            Self::End => message(END, &[]),
            Self::Sought(frame) => message(SOUGHT, &frame.to_le_bytes()),
            Self::Refused(kind, reason) => {
                let mut payload = vec![match kind {
                    RefusalKind::Unsupported => 0,
                    RefusalKind::Damaged => 1,
                    RefusalKind::Unreachable => 2,
                }];
                payload.extend_from_slice(cut(reason, MAX_REASON_BYTES));
                message(REFUSED, &payload)
            }
        }
    }

    /// The message from its tag and payload. `channels`: of the format that the worker told; samples come in whole
    /// frames of it.
    pub fn parse(tag: u8, payload: &[u8], channels: Option<u16>) -> Result<Self, WireError> {
        match tag {
            WANT => {
                let (offset, len) = payload.split_at_checked(8).ok_or(WireError::Form)?;
                let (offset, len) = (u64_of(offset)?, u32_of(len)?);
                if len == 0 || len > MAX_WANT {
                    return Err(WireError::Range);
                }
                Ok(Self::Want { offset, len })
            }
            FORMAT => format_of(payload).map(Self::Format),
            PCM => {
                let channels = usize::from(channels.ok_or(WireError::Form)?);
                if payload.is_empty()
                    || !payload.len().is_multiple_of(4 * channels)
                    || payload.len() / (4 * channels) > MAX_FRAMES
                {
                    return Err(WireError::Form);
                }
                let (samples, _) = payload.as_chunks::<4>();
                Ok(Self::Pcm(
                    samples.iter().map(|s| i32::from_le_bytes(*s)).collect(),
                ))
            }
            END if payload.is_empty() => Ok(Self::End),
            END => Err(WireError::Form),
            SOUGHT => Ok(Self::Sought(u64_of(payload)?)),
            REFUSED => {
                let (kind, reason) = payload.split_first().ok_or(WireError::Form)?;
                let kind = match kind {
                    0 => RefusalKind::Unsupported,
                    1 => RefusalKind::Damaged,
                    2 => RefusalKind::Unreachable,
                    _ => return Err(WireError::Range),
                };
                Ok(Self::Refused(kind, text_of(reason, MAX_REASON_BYTES)?))
            }
            other => Err(WireError::Tag(other)),
        }
    }
}

fn format_of(payload: &[u8]) -> Result<PcmFormat, WireError> {
    let [rate @ .., _, _, _, _, _, _, _, _, _, _, _] = payload else {
        return Err(WireError::Form);
    };
    let rate = u32_of(rate)?;
    let channels = u16::from_le_bytes([payload[4], payload[5]]);
    let bits = payload[6];
    let frames = maybe_of(&payload[7..])?;
    if !(MIN_RATE..=MAX_RATE).contains(&rate)
        || !(1..=MAX_CHANNELS).contains(&channels)
        || !(1..=32).contains(&bits)
    {
        return Err(WireError::Range);
    }
    Ok(PcmFormat {
        rate,
        channels,
        bits,
        frames,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(bytes: &[u8]) -> Result<Ask, WireError> {
        let (start, rest) = bytes.split_at(HEAD_BYTES);
        let (tag, size) = head(start.try_into().expect("five bytes"))?;
        assert_eq!(size, rest.len());
        Ask::parse(tag, rest)
    }

    fn answer(bytes: &[u8], channels: u16) -> Result<Answer, WireError> {
        let (start, rest) = bytes.split_at(HEAD_BYTES);
        let (tag, size) = head(start.try_into().expect("five bytes"))?;
        assert_eq!(size, rest.len());
        Answer::parse(tag, rest, Some(channels))
    }

    #[test]
    fn messages_come_back_as_they_went() {
        for message in [
            Ask::Open {
                size: Some(7),
                mime: "audio/flac".to_owned(),
            },
            Ask::Open {
                size: None,
                mime: String::new(),
            },
            Ask::Bytes(vec![1, 2, 3]),
            Ask::Bytes(Vec::new()),
            Ask::NoBytes,
            Ask::Decode,
            Ask::Seek(44_100),
        ] {
            assert_eq!(ask(&message.to_bytes()), Ok(message));
        }
        let format = PcmFormat {
            rate: 44_100,
            channels: 2,
            bits: 16,
            frames: Some(99),
        };
        for message in [
            Answer::Want { offset: 9, len: 4 },
            Answer::Format(format),
            Answer::Pcm(vec![1, -1, i32::MIN, i32::MAX]),
            Answer::End,
            Answer::Sought(12),
            Answer::Refused(RefusalKind::Damaged, "no sound".to_owned()),
        ] {
            assert_eq!(answer(&message.to_bytes(), 2), Ok(message));
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let format = |rate, channels, bits| {
            let format = PcmFormat {
                rate,
                channels,
                bits,
                frames: None,
            };
            answer(&Answer::Format(format).to_bytes(), 2)
        };
        for bad in [
            format(44_100, 0, 16),
            format(44_100, 9, 16),
            format(0, 2, 16),
            format(44_100, 2, 0),
            format(44_100, 2, 33),
            answer(&Answer::Want { offset: 0, len: 0 }.to_bytes(), 2),
        ] {
            assert_eq!(bad, Err(WireError::Range));
        }
        for samples in [0, 3, 2 * MAX_FRAMES + 2] {
            let pcm = Answer::Pcm(vec![0; samples]).to_bytes();
            assert_eq!(answer(&pcm, 2), Err(WireError::Form), "{samples}");
        }
        // Broken UTF-8 becomes longer as text.
        let mut broken = vec![0xff; MAX_REASON_BYTES + 1];
        broken[0] = 1;
        let Ok(Answer::Refused(RefusalKind::Damaged, reason)) =
            Answer::parse(REFUSED, &broken, None)
        else {
            panic!("a refusal");
        };
        assert_eq!(reason.len(), MAX_REASON_BYTES / 3 * 3);
        assert_eq!(Answer::parse(PCM, &[0; 8], None), Err(WireError::Form));
        let huge = [PCM, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(head(huge), Err(WireError::Length(u32::MAX)));
        assert_eq!(Answer::parse(OPEN, &[], Some(2)), Err(WireError::Tag(OPEN)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(tag in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..64), channels in 1_u16..=8) {
            let _ = Ask::parse(tag, &payload);
            let _ = Answer::parse(tag, &payload, Some(channels));
        }
    }
}
