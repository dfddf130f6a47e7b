//! One coded picture as a file of its own, so that a media tool can decode it outside of this process: access units and
//! parameter sets to an elementary stream, raw pictures to YUV4MPEG2. Pure.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::live::{Codec, Still, Track, TrackKind};

/// Most parameter sets taken from a decoder configuration.
pub const MAX_PARAMETER_SETS: usize = 64;
/// Largest edge of a raw picture, pixels.
pub const MAX_RAW_EDGE: u32 = 8192;
/// MIME type of H.264 with start codes (ITU-T H.264 Annex B).
pub const H264: &str = "video/h264";
/// MIME type of H.265 with start codes (ITU-T H.265 Annex B).
pub const H265: &str = "video/h265";
/// MIME type of YUV4MPEG2.
pub const YUV4MPEG: &str = "video/x-yuv4mpeg";
/// MIME type of JPEG.
pub const JPEG: &str = "image/jpeg";

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// One unit of a picture track as a file; `None`: the track has no pictures, or the unit is not of its coding.
pub fn still_of(track: &Track, unit: &Bytes) -> Option<Still> {
    let (mime, bytes) = match &track.codec {
        Codec::H264 { config } => (H264, annex_b(&h264_parameter_sets(config)?, unit)?),
        Codec::H265 { config } => (H265, annex_b(&h265_parameter_sets(config)?, unit)?),
        Codec::Mjpeg => {
            let jpeg = unit.starts_with(&[0xff, 0xd8]);
            (JPEG, jpeg.then(|| unit.clone())?)
        }
        Codec::Yuyv => {
            let TrackKind::Video { width, height } = track.kind else {
                return None;
            };
            (YUV4MPEG, yuv4mpeg(width, height, unit)?)
        }
        Codec::Aac { .. } | Codec::Pcmu | Codec::Pcma | Codec::PcmS16 => return None,
    };
    Some(Still {
        mime: mime.to_owned(),
        bytes,
    })
}

/// The parameter sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1).
pub fn h264_parameter_sets(config: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = config.get(5..)?;
    let mut sets = Vec::new();
    for mask in [0x1f, 0xff] {
        let (count, after) = rest.split_first()?;
        rest = after;
        for _ in 0..count & mask {
            sets.push(sized(&mut rest)?);
        }
    }
    (sets.len() <= MAX_PARAMETER_SETS).then_some(sets)
}

/// The parameter sets of an HEVCDecoderConfigurationRecord (ISO/IEC 14496-15 §8.3.3.1).
pub fn h265_parameter_sets(config: &[u8]) -> Option<Vec<&[u8]>> {
    let (arrays, mut rest) = config.get(22..)?.split_first()?;
    let mut sets = Vec::new();
    for _ in 0..*arrays {
        let head = rest.get(..3)?;
        let count = u16::from_be_bytes([head[1], head[2]]);
        rest = &rest[3..];
        for _ in 0..count {
            sets.push(sized(&mut rest)?);
            if sets.len() > MAX_PARAMETER_SETS {
                return None;
            }
        }
    }
    Some(sets)
}

/// Takes a 16-bit length and so many bytes.
fn sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(2)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (set, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(set)
}

/// Parameter sets and length-prefixed NAL units with start codes in front of each.
fn annex_b(sets: &[&[u8]], unit: &[u8]) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(unit.len() + 1024);
    for set in sets {
        out.put_slice(&START_CODE);
        out.put_slice(set);
    }
    let mut rest = unit;
    while !rest.is_empty() {
        let (length, after) = rest.split_at_checked(4)?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let (nal, after) = after.split_at_checked(length)?;
        out.put_slice(&START_CODE);
        out.put_slice(nal);
        rest = after;
    }
    Some(out.freeze())
}

/// A packed YUYV picture as a YUV4MPEG2 file of one frame: the same samples, plane by plane. Rows beyond `height`
/// are left out; a picture that is too short is none.
fn yuv4mpeg(width: u32, height: u32, packed: &[u8]) -> Option<Bytes> {
    let fits = |edge: u32| (2..=MAX_RAW_EDGE).contains(&edge);
    if !fits(width) || !fits(height) || !width.is_multiple_of(2) {
        return None;
    }
    let pixels = width as usize * height as usize;
    let packed = packed.get(..pixels * 2)?;
    let head = format!("YUV4MPEG2 W{width} H{height} F1:1 Ip A1:1 C422\nFRAME\n");
    let mut out = BytesMut::with_capacity(head.len() + packed.len());
    out.put_slice(head.as_bytes());
    out.extend(packed.iter().step_by(2));
    for plane in [1, 3] {
        out.extend(packed.iter().skip(plane).step_by(4));
    }
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn video(codec: Codec, width: u32, height: u32) -> Track {
        Track {
            kind: TrackKind::Video { width, height },
            codec,
        }
    }

    #[test]
    fn a_key_frame_becomes_an_elementary_stream() {
        let config = Bytes::from_static(&[
            1, 0x42, 0, 30, 0xff, 0xe1, 0, 2, 0x67, 0x42, 1, 0, 2, 0x68, 0xce,
        ]);
        let unit = Bytes::from_static(&[0, 0, 0, 3, 0x65, 1, 2, 0, 0, 0, 1, 0x65]);
        let still = still_of(&video(Codec::H264 { config }, 16, 16), &unit).expect("whole");
        assert_eq!(still.mime, H264);
        assert_eq!(
            still.bytes.as_ref(),
            [
                0, 0, 0, 1, 0x67, 0x42, 0, 0, 0, 1, 0x68, 0xce, 0, 0, 0, 1, 0x65, 1, 2, 0, 0, 0, 1,
                0x65
            ]
        );
    }

    #[test]
    fn a_raw_picture_becomes_planes_and_a_short_one_nothing() {
        let packed = Bytes::from_static(&[1, 101, 2, 201, 3, 102, 4, 202]);
        let still = still_of(&video(Codec::Yuyv, 2, 2), &packed).expect("whole");
        let planes = still
            .bytes
            .strip_prefix(b"YUV4MPEG2 W2 H2 F1:1 Ip A1:1 C422\nFRAME\n");
        assert_eq!(planes, Some(&[1, 2, 3, 4, 101, 102, 201, 202][..]));
        for (width, height) in [(2, 3), (3, 2), (0, 0), (u32::MAX, u32::MAX)] {
            assert_eq!(still_of(&video(Codec::Yuyv, width, height), &packed), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(config: Vec<u8>, unit: Vec<u8>, width: u32, height: u32) {
            let (config, unit) = (Bytes::from(config), Bytes::from(unit));
            for codec in [
                Codec::H264 { config: config.clone() },
                Codec::H265 { config },
                Codec::Mjpeg,
                Codec::Yuyv,
                Codec::Pcmu,
            ] {
                let _ = still_of(&video(codec, width, height), &unit);
            }
        }
    }
}
