//! What cameras on the network and on cables say.

use bytes::{Bytes, BytesMut};
use mantel_peripherals::Login;
use mantel_peripherals::device::MAX_LABEL_CHARS;
use mantel_peripherals::live::{Codec, Track, TrackKind};
use mantel_peripherals::onvif::{digest as http_digest, wire as onvif_wire};
use mantel_peripherals::picture;
use mantel_peripherals::rtsp::meter::MAX_SETUP_BYTES;
use mantel_peripherals::rtsp::{RtspUrl, udp};
use mantel_peripherals::v4l2::wire as cable;
use mantel_peripherals::xml;

use super::{OWNER, check_label, number};

/// The household's password at the hostile camera.
const PASSWORD: &str = "hunter2-and-more";

fn login() -> Login {
    Login::new("user", PASSWORD).expect("it fits")
}

pub fn onvif(data: &[u8]) {
    onvif_wire::parse_any(data);
    if let Ok(profiles) = onvif_wire::parse_profiles(data) {
        assert!((1..=onvif_wire::MAX_PROFILES).contains(&profiles.len()));
        for profile in profiles {
            assert!(profile.token.len() <= onvif_wire::MAX_TOKEN_BYTES);
            let question = onvif_wire::Question::StreamUri(&profile.token).envelope(None);
            assert!(xml::parse(&question).is_ok(), "a token may hold anything");
        }
    }
    if let Ok(told) = onvif_wire::parse_information(data) {
        for label in [told.maker, told.model, told.serial, told.firmware] {
            label.iter().for_each(|l| check_label(l, MAX_LABEL_CHARS));
        }
    }
}

pub fn digest(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let answer = http_digest::authorization(&text, &login(), "GET", "/snapshot.jpg");
    if let Some(answer) = answer {
        assert!(text.len() <= http_digest::MAX_CHALLENGE_BYTES);
        assert!(!answer.contains(PASSWORD) || text.contains(PASSWORD));
    }
}

pub fn rtsp_url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(url) = RtspUrl::parse(&text, OWNER) {
        assert_eq!(url.host(), OWNER, "no stream leaves its camera");
        check_stream(&url);
    }
    if let Ok(typed) = RtspUrl::typed(&text) {
        let host = typed.url.host();
        assert!(!host.is_loopback() && !host.is_unspecified() && !host.is_multicast());
        check_stream(&typed.url);
        let again = RtspUrl::typed(&typed.url.to_string());
        // Percent signs make it longer, at last too long.
        assert!(again.is_ok_and(|again| again.url == typed.url) || typed.url.target().len() > 1500);
    }
    if let Ok(url) = RtspUrl::at(OWNER, 554, &text) {
        assert_eq!(url.host(), OWNER);
        check_stream(&url);
    }
}

fn check_stream(url: &RtspUrl) {
    assert!(url.port() != 0 && url.target().starts_with('/'));
    assert!(url.target().bytes().all(|b| b.is_ascii_graphic()));
}

pub fn rtsp_message(data: &[u8]) {
    let mut bytes = BytesMut::from(data);
    let mut before = bytes.len();
    while let Ok(Some(message)) = udp::take_message(&mut bytes) {
        assert!(message.head.len() <= udp::MAX_HEAD_BYTES);
        assert!(message.body.len() as u64 <= MAX_SETUP_BYTES);
        assert_eq!(
            message.head.len() + message.body.len() + bytes.len(),
            before
        );
        before = bytes.len();
        if let Some((asked, _)) = udp::ask_for_udp(&message.head, 50_000) {
            assert!(asked.contains("client_port=50000-50001") && asked.ends_with("\r\n\r\n"));
        }
        if let Some((told, port)) = udp::as_interleaved(&message.head, 0) {
            assert!((1..u16::MAX).contains(&port) && told.contains("interleaved=0-1"));
        }
    }
}

/// A decoder configuration, its length in front, and a unit.
pub fn pictures(mut data: &[u8]) {
    let most = 3 * data.len() + 64;
    let [length, width, height] = number(&mut data);
    let (config, unit) = data.split_at(data.len().min(usize::from(length)));
    let (config, unit) = (Bytes::copy_from_slice(config), Bytes::copy_from_slice(unit));
    for sets in [
        picture::h264_parameter_sets(&config),
        picture::h265_parameter_sets(&config),
    ] {
        assert!(sets.is_none_or(|sets| sets.len() <= picture::MAX_PARAMETER_SETS));
    }
    let codecs = [
        Codec::H264 {
            config: config.clone(),
        },
        Codec::H265 { config },
        Codec::Mjpeg,
        Codec::Yuyv,
    ];
    for codec in codecs {
        let kind = TrackKind::Video {
            width: u32::from(width),
            height: u32::from(height),
        };
        if let Some(still) = picture::still_of(&Track { kind, codec }, &unit) {
            assert!(still.bytes.len() <= most, "a picture does not grow");
        }
    }
}

/// Three numbers for a raw picture, then modes' or pictures' bytes.
pub fn v4l2(mut data: &[u8]) {
    let [width, height, stride] = std::array::from_fn(|_| u32::from_le_bytes(number(&mut data)));
    if let Some(rows) = cable::packed_rows(data, width, height, stride) {
        assert_eq!(rows.len() as u64, 2 * u64::from(width) * u64::from(height));
        assert!(rows.len() <= data.len());
    }
    assert!(cable::nals(data).len() <= cable::MAX_NALS);
    if let Some(picture) = cable::h264_picture(data) {
        assert!(picture.bytes.len() <= 2 * data.len() + 4);
    }
    if let Some(config) = cable::h264_config(data) {
        assert!(
            picture::h264_parameter_sets(&config).is_some(),
            "we read what we write"
        );
    }
    let modes: Vec<cable::Mode> = data
        .as_chunks::<20>()
        .0
        .iter()
        .map(|bytes| {
            let mut bytes = bytes.as_slice();
            let mut next = || u32::from_le_bytes(number(&mut bytes));
            cable::Mode {
                code: next().to_le_bytes(),
                width: next(),
                height: next(),
                intervals: vec![(next(), next())],
            }
        })
        .collect();
    for purpose in [cable::Purpose::Still, cable::Purpose::Live] {
        if let Some((_, mode, (numerator, denominator))) = cable::choose(&modes, purpose) {
            assert!(mode.width <= cable::MAX_EDGE && mode.height <= cable::MAX_EDGE);
            assert!(numerator > 0 && denominator > 0);
            let _ = mode.to_string();
        }
    }
}
