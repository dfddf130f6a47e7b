//! What a cable camera offers and gives, as plain data: which of its formats is used, H.264 with start codes as
//! length-prefixed units, rows without their padding. Pure.

use std::fmt;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Most formats looked at.
pub const MAX_FORMATS: usize = 64;
/// Most sizes of one format looked at.
pub const MAX_SIZES: usize = 128;
/// Most intervals of one size looked at.
pub const MAX_INTERVALS: usize = 64;
/// Largest edge used, pixels.
pub const MAX_EDGE: u32 = 4096;
/// Largest area of a live picture that comes raw: beyond it a cable and a recording fill up in seconds.
pub const MAX_RAW_LIVE_PIXELS: u64 = 640 * 480;
/// Largest area of a live picture that comes compressed.
pub const MAX_LIVE_PIXELS: u64 = 1920 * 1080;
/// Pictures per second wanted of a compressed stream.
pub const WANTED_RATE: u32 = 30;
/// Pictures per second wanted of a raw stream.
pub const WANTED_RAW_RATE: u32 = 10;
/// Most NAL units of one picture.
pub const MAX_NALS: usize = 1024;

/// A pixel format that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pixels {
    /// Whole JPEGs (`MJPG`, `JPEG`).
    Jpeg,
    /// H.264 with start codes (`H264`).
    H264,
    /// Packed 4:2:2 (`YUYV`).
    Yuyv,
}

impl Pixels {
    /// By the kernel's four-character code.
    pub fn of(code: [u8; 4]) -> Option<Self> {
        match &code {
            b"MJPG" | b"JPEG" => Some(Self::Jpeg),
            b"H264" => Some(Self::H264),
            b"YUYV" => Some(Self::Yuyv),
            _ => None,
        }
    }
}

/// One format and size, with the intervals that it can be had at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    /// The kernel's four-character code.
    pub code: [u8; 4],
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Seconds between pictures as fractions, as the driver lists them; empty: it does not tell.
    pub intervals: Vec<(u32, u32)>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = String::from_utf8_lossy(&self.code);
        write!(f, "{} {}x{}", code.escape_debug(), self.width, self.height)?;
        for (numerator, denominator) in &self.intervals {
            write!(f, " {numerator}/{denominator}s")?;
        }
        Ok(())
    }
}

/// What the picture is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One picture: the largest.
    Still,
    /// Many: as large as can be carried.
    Live,
}

/// The mode used, and the interval asked for. `None`: nothing of use is offered.
///
/// A still is taken raw or as JPEG, whichever is larger, JPEG at a tie. Live pictures come as JPEG, else as H.264, else
/// raw: many webcams' H.264 has its key frames far apart.
pub fn choose(modes: &[Mode], purpose: Purpose) -> Option<(Pixels, Mode, (u32, u32))> {
    let usable = modes.iter().filter_map(|mode| {
        let pixels = Pixels::of(mode.code)?;
        let fits = |edge: u32| (2..=MAX_EDGE).contains(&edge);
        (fits(mode.width) && fits(mode.height)).then_some((pixels, mode))
    });
    let area = |mode: &Mode| u64::from(mode.width) * u64::from(mode.height);
    let (pixels, mode) = match purpose {
        Purpose::Still => usable.max_by_key(|(pixels, mode)| {
            (
                *pixels != Pixels::H264,
                area(mode),
                std::cmp::Reverse(*pixels),
            )
        }),
        Purpose::Live => usable.max_by_key(|(pixels, mode)| {
            let most = match pixels {
                Pixels::Yuyv => MAX_RAW_LIVE_PIXELS,
                Pixels::Jpeg | Pixels::H264 => MAX_LIVE_PIXELS,
            };
            let size = area(mode);
            // Of those that are too large the smallest.
            let size = if size <= most {
                (true, size)
            } else {
                (false, u64::MAX - size)
            };
            (std::cmp::Reverse(*pixels), size)
        }),
    }?;
    let wanted = if pixels == Pixels::Yuyv {
        WANTED_RAW_RATE
    } else {
        WANTED_RATE
    };
    Some((pixels, mode.clone(), nearest(&mode.intervals, wanted)))
}

/// The listed interval nearest to `rate` pictures per second; that rate itself where none is listed.
fn nearest(intervals: &[(u32, u32)], rate: u32) -> (u32, u32) {
    let off = |(numerator, denominator): &(u32, u32)| {
        let theirs = f64::from(*denominator) / f64::from(*numerator);
        ((theirs - f64::from(rate)).abs() * 1000.0) as u64
    };
    intervals
        .iter()
        .filter(|(numerator, denominator)| *numerator > 0 && *denominator > 0)
        .min_by_key(|interval| off(interval))
        .copied()
        .unwrap_or((1, rate))
}

/// Rows of `width` YUYV pixels without the driver's padding; `None`: the buffer is too short.
pub fn packed_rows(buffer: &[u8], width: u32, height: u32, stride: u32) -> Option<Bytes> {
    let row = width as usize * 2;
    let stride = (stride as usize).max(row);
    let before = stride.checked_mul(height.checked_sub(1)? as usize)?;
    let needed = before.checked_add(row)?;
    let buffer = buffer.get(..needed)?;
    if stride == row {
        return Some(Bytes::copy_from_slice(buffer));
    }
    let mut out = BytesMut::with_capacity(row * height as usize);
    for line in buffer.chunks(stride) {
        out.put_slice(line.get(..row)?);
    }
    Some(out.freeze())
}

/// The NAL units of a buffer with start codes (ITU-T H.264 §B.1), at most [`MAX_NALS`], empty ones left out.
pub fn nals(buffer: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    let mut begin = None;
    let mut at = 0;
    while at + 3 <= buffer.len() && found.len() < MAX_NALS {
        if buffer[at..at + 3] == [0, 0, 1] {
            if let Some(begin) = begin {
                found.push(trimmed(&buffer[begin..at]));
            }
            at += 3;
            begin = Some(at);
        } else {
            at += 1;
        }
    }
    if let Some(begin) = begin {
        found.push(trimmed(&buffer[begin..]));
    }
    found.retain(|nal| !nal.is_empty());
    found.truncate(MAX_NALS);
    found
}

/// Without zero bytes at its end, which belong to the next start code.
fn trimmed(nal: &[u8]) -> &[u8] {
    let end = nal
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    &nal[..end]
}

/// A picture of H.264 as length-prefixed units, without its parameter sets and delimiters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The units.
    pub bytes: Bytes,
    /// Whether decoding may begin here.
    pub key: bool,
}

/// Takes a buffer with start codes apart; `None`: no picture is in it.
pub fn h264_picture(buffer: &[u8]) -> Option<Picture> {
    let mut bytes = BytesMut::with_capacity(buffer.len() + 64);
    let mut key = false;
    for nal in nals(buffer) {
        let kind = nal[0] & 0x1f;
        // Parameter sets are in the configuration; delimiters and padding carry nothing.
        if matches!(kind, 7..=9 | 12) {
            continue;
        }
        key |= kind == 5;
        bytes.put_u32(u32::try_from(nal.len()).ok()?);
        bytes.put_slice(nal);
    }
    (!bytes.is_empty()).then(|| Picture {
        bytes: bytes.freeze(),
        key,
    })
}

/// An AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1) from the parameter sets in a buffer; `None`: they are
/// not in it.
pub fn h264_config(buffer: &[u8]) -> Option<Bytes> {
    let nals = nals(buffer);
    let first = |kind| nals.iter().find(|nal| nal[0] & 0x1f == kind);
    let (sps, pps) = (first(7)?, first(8)?);
    let length = |nal: &[u8]| u16::try_from(nal.len()).ok();
    let mut config = BytesMut::with_capacity(16 + sps.len() + pps.len());
    config.put_u8(1);
    config.put_slice(sps.get(1..4)?);
    config.put_slice(&[0xff, 0xe1]);
    config.put_u16(length(sps)?);
    config.put_slice(sps);
    config.put_u8(1);
    config.put_u16(length(pps)?);
    config.put_slice(pps);
    Some(config.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mode(code: [u8; 4], width: u32, height: u32, intervals: &[(u32, u32)]) -> Mode {
        Mode {
            code,
            width,
            height,
            intervals: intervals.to_vec(),
        }
    }

    #[test]
    fn stills_are_large_and_live_pictures_can_be_carried() {
        let modes = [
            mode(*b"YUYV", 640, 480, &[(1, 30), (1, 10), (1, 5)]),
            mode(*b"YUYV", 1920, 1080, &[(1, 5)]),
            mode(*b"MJPG", 1280, 720, &[(1, 60), (1, 30)]),
            mode(*b"MJPG", 3840, 2160, &[(1, 30)]),
            mode(*b"H264", 4096, 4096, &[]),
            mode(*b"BGR3", 4000, 4000, &[]),
        ];
        let (pixels, still, _) = choose(&modes, Purpose::Still).expect("one");
        assert_eq!((pixels, still.width), (Pixels::Jpeg, 3840));
        let (pixels, live, interval) = choose(&modes, Purpose::Live).expect("one");
        assert_eq!(
            (pixels, live.width, interval),
            (Pixels::Jpeg, 1280, (1, 30))
        );
        let (_, live, interval) = choose(&modes[..2], Purpose::Live).expect("one");
        assert_eq!((live.width, interval), (640, (1, 10)));
        let (_, live, interval) = choose(&modes[1..2], Purpose::Live).expect("one");
        assert_eq!((live.width, interval), (1920, (1, 5)));
        assert_eq!(choose(&modes[5..], Purpose::Live), None);
    }

    #[test]
    fn units_with_start_codes_become_length_prefixed() {
        let buffer = [
            0, 0, 0, 1, 0x67, 0x42, 0, 30, 0, 0, 0, 1, 0x68, 0xce, 0, 0, 1, 0x65, 9, 8, 0,
        ];
        let picture = h264_picture(&buffer).expect("a picture");
        assert!(picture.key);
        assert_eq!(picture.bytes.as_ref(), [0, 0, 0, 3, 0x65, 9, 8]);
        let config = h264_config(&buffer).expect("both sets");
        let sets = crate::picture::h264_parameter_sets(&config).expect("a record");
        assert_eq!(sets, [&[0x67, 0x42, 0, 30][..], &[0x68, 0xce]]);
        assert_eq!(h264_picture(&buffer[..16]), None);
        assert_eq!(h264_config(&[0, 0, 1, 0x67]), None);
    }

    #[test]
    fn padding_is_taken_off_rows() {
        let buffer = [1, 2, 3, 4, 0, 0, 5, 6, 7, 8];
        let rows = packed_rows(&buffer, 2, 2, 6).expect("long enough");
        assert_eq!(rows.as_ref(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(packed_rows(&buffer, 2, 3, 6), None);
        assert_eq!(packed_rows(&buffer, u32::MAX, u32::MAX, u32::MAX), None);
        // The rows before the last one just fit into 64 bits.
        assert_eq!(packed_rows(&buffer, u32::MAX, 1 << 31 | 1, 0), None);
    }

    proptest! {
        #[test]
        fn arbitrary_buffers_never_panic(
            buffer: Vec<u8>, width: u32, height: u32, stride: u32,
            intervals in proptest::collection::vec(any::<(u32, u32)>(), 0..4),
        ) {
            let _ = packed_rows(&buffer, width, height, stride);
            let _ = h264_config(&buffer);
            if let Some(picture) = h264_picture(&buffer) {
                prop_assert!(picture.bytes.len() <= 2 * buffer.len() + 4);
            }
            let modes = [mode(*b"MJPG", width, height, &intervals), mode(*b"YUYV", height, width, &intervals)];
            let _ = choose(&modes, Purpose::Live);
            let _ = choose(&modes, Purpose::Still);
        }
    }
}
