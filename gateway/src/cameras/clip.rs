//! Access units as a Matroska stream (RFC 9559), written as they come: what the sandbox turns into an MP4. Each unit is a
//! cluster of its own, so nothing has to be known or changed afterwards. Pure.

use bytes::{BufMut, BytesMut};
use mantel_peripherals::live::{AccessUnit, Codec, Track, TrackKind};
use std::time::Duration;

/// Nanoseconds of one tick.
const TICK_NS: u64 = 100_000;

/// The head of a stream with these tracks; track numbers are their indexes plus 1.
pub(super) fn head(tracks: &[Track]) -> BytesMut {
    let mut out = BytesMut::new();
    let mut ebml = BytesMut::new();
    for (id, number) in [(0x4286, 1), (0x42f7, 1), (0x42f2, 4), (0x42f3, 8)] {
        unsigned(&mut ebml, id, number);
    }
    element(&mut ebml, 0x4282, b"matroska");
    unsigned(&mut ebml, 0x4287, 4);
    unsigned(&mut ebml, 0x4285, 2);
    element(&mut out, 0x1a45_dfa3, &ebml);
    // A segment of unknown size: it ends with the file.
    out.put_u32(0x1853_8067);
    out.put_slice(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let mut info = BytesMut::new();
    unsigned(&mut info, 0x2a_d7b1, TICK_NS);
    element(&mut info, 0x4d80, b"Mantel");
    element(&mut info, 0x5741, b"Mantel");
    element(&mut out, 0x1549_a966, &info);
    let mut entries = BytesMut::new();
    for (number, track) in (1..).zip(tracks) {
        element(&mut entries, 0xae, &entry(number, track));
    }
    element(&mut out, 0x1654_ae6b, &entries);
    out
}

/// One unit at `at` from the beginning of the clip.
pub(super) fn unit(unit: &AccessUnit, at: Duration) -> BytesMut {
    let ticks = u64::try_from(at.as_nanos() / u128::from(TICK_NS)).unwrap_or(u64::MAX);
    let mut block = BytesMut::with_capacity(unit.bytes.len() + 4);
    // Track number as a variable-length integer, no time relative to the cluster, flags.
    block.put_u8(0x80 | (unit.track as u8 + 1));
    block.put_u16(0);
    block.put_u8(if unit.key { 0x80 } else { 0 });
    block.put_slice(&unit.bytes);
    let mut cluster = BytesMut::with_capacity(block.len() + 32);
    unsigned(&mut cluster, 0xe7, ticks);
    element(&mut cluster, 0xa3, &block);
    let mut out = BytesMut::with_capacity(cluster.len() + 16);
    element(&mut out, 0x1f43_b675, &cluster);
    out
}

fn entry(number: u64, track: &Track) -> BytesMut {
    let mut out = BytesMut::new();
    unsigned(&mut out, 0xd7, number);
    unsigned(&mut out, 0x73c5, number);
    let mut details = BytesMut::new();
    let (kind, id) = match track.kind {
        TrackKind::Video { width, height } => {
            unsigned(&mut details, 0xb0, width.into());
            unsigned(&mut details, 0xba, height.into());
            if track.codec == Codec::Yuyv {
                element(&mut details, 0x2e_b524, b"YUY2");
            }
            (1, 0xe0)
        }
        TrackKind::Audio {
            sample_rate,
            channels,
        } => {
            element(&mut details, 0xb5, &f64::from(sample_rate).to_be_bytes());
            unsigned(&mut details, 0x9f, channels.into());
            if track.codec == Codec::PcmS16 {
                unsigned(&mut details, 0x6264, 16);
            }
            (2, 0xe1)
        }
    };
    unsigned(&mut out, 0x83, kind);
    let (codec, private) = coding(track);
    element(&mut out, 0x86, codec);
    if !private.is_empty() {
        element(&mut out, 0x63a2, &private);
    }
    element(&mut out, id, &details);
    out
}

/// A track's codec ID and private data (Matroska Codec Specifications).
fn coding(track: &Track) -> (&'static [u8], Vec<u8>) {
    match &track.codec {
        Codec::H264 { config } => (b"V_MPEG4/ISO/AVC", config.to_vec()),
        Codec::H265 { config } => (b"V_MPEGH/ISO/HEVC", config.to_vec()),
        Codec::Mjpeg => (b"V_MJPEG", Vec::new()),
        Codec::Yuyv => (b"V_UNCOMPRESSED", Vec::new()),
        Codec::Aac { config } => (b"A_AAC", config.to_vec()),
        Codec::Pcmu => (b"A_MS/ACM", wave_format(7, track)),
        Codec::Pcma => (b"A_MS/ACM", wave_format(6, track)),
        Codec::PcmS16 => (b"A_PCM/INT/LIT", Vec::new()),
    }
}

/// A WAVEFORMATEX of G.711: 8 bits per sample.
fn wave_format(tag: u16, track: &Track) -> Vec<u8> {
    let TrackKind::Audio {
        sample_rate,
        channels,
    } = track.kind
    else {
        return Vec::new();
    };
    let mut out = BytesMut::new();
    out.put_u16_le(tag);
    out.put_u16_le(channels);
    out.put_u32_le(sample_rate);
    out.put_u32_le(sample_rate.saturating_mul(channels.into()));
    out.put_u16_le(channels);
    out.put_u16_le(8);
    out.put_u16_le(0);
    out.to_vec()
}

/// An element: its ID as written, its size in eight bytes, its content.
fn element(out: &mut BytesMut, id: u32, content: &[u8]) {
    let bytes = id.to_be_bytes();
    out.put_slice(&bytes[id.leading_zeros() as usize / 8..]);
    out.put_u64(0x0100_0000_0000_0000 | content.len() as u64);
    out.put_slice(content);
}

fn unsigned(out: &mut BytesMut, id: u32, value: u64) {
    element(out, id, &value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn a_unit_is_a_cluster_with_its_time_and_its_bytes() {
        let coded = AccessUnit {
            track: 1,
            at: Duration::ZERO,
            key: true,
            bytes: Bytes::from_static(b"xyz"),
        };
        let written = unit(&coded, Duration::from_millis(1500));
        assert_eq!(written[..4], [0x1f, 0x43, 0xb6, 0x75]);
        assert!(written.ends_with(&[0x82, 0, 0, 0x80, b'x', b'y', b'z']));
        assert!(written.windows(8).any(|w| w == 15_000_u64.to_be_bytes()));
    }
}
