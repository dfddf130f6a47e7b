//! Jukeboxes, Cast televisions, discs, sound cards, and the worker that decodes.

use std::time::Duration;

use mantel_peripherals::alsa;
use mantel_peripherals::cast::wire as cast_wire;
use mantel_peripherals::decode::wire as worker;
use mantel_peripherals::device::{MAX_KEY_BYTES, MAX_LABEL_CHARS};
use mantel_peripherals::disc::wire as disc_wire;
use mantel_peripherals::flac::FlacStream;
use mantel_peripherals::mpd::wire as mpd_wire;
use mantel_peripherals::recorder::split::{Piece, SplitRules, Splitter};
use mantel_peripherals::url::MAX_URL_BYTES;

use super::{check_label, lines, number};

/// No time is believed to be longer.
const MONTH: Duration = Duration::from_hours(30 * 24);

pub fn mpd(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let fields = || text.lines().filter_map(|line| line.split_once(": "));
    if let Some(status) = mpd_wire::status(fields()) {
        assert!(status.volume.is_none_or(|percent| percent <= 100));
        let times = status.elapsed.into_iter().chain(status.duration);
        assert!(times.into_iter().all(|time| time <= MONTH));
        let back = mpd_wire::Back::of(&status);
        let marked = back.mark("http://10.0.0.1/a");
        let read = mpd_wire::Back::read(&marked).expect("ours");
        assert_eq!((read.0, read.1.song), ("http://10.0.0.1/a", back.song));
    }
    let rows = mpd_wire::rows(fields());
    assert!(rows.rows.len() <= mpd_wire::MAX_ENTRIES);
    for song in rows.songs() {
        assert!(song.file.len() <= mpd_wire::MAX_FILE_BYTES);
        check_label(&song.shown(), mpd_wire::MAX_TEXT_CHARS);
        if let Some((url, back)) = mpd_wire::Back::read(&song.file) {
            assert!(back.elapsed <= MONTH);
            assert_eq!(mpd_wire::Back::read(&back.mark(url)), Some((url, back)));
        }
    }
    let (albums, _) = mpd_wire::albums(fields());
    assert!(albums.len() <= mpd_wire::MAX_ENTRIES);
    for (artist, album) in albums {
        assert!(artist.len().max(album.len()) <= mpd_wire::MAX_NAME_BYTES);
    }
    assert!(mpd_wire::outputs(fields()).len() <= mpd_wire::MAX_OUTPUTS);
}

pub fn cast(mut data: &[u8]) {
    let namespaces = [
        cast_wire::RECEIVER,
        cast_wire::MEDIA,
        cast_wire::CONNECTION,
        cast_wire::HEARTBEAT,
    ];
    let [which] = number(&mut data);
    let namespace = namespaces[usize::from(which) % namespaces.len()];
    match cast_wire::heard(namespace, &String::from_utf8_lossy(data)) {
        cast_wire::Heard::Receiver { status, .. } => {
            assert!(
                status
                    .level
                    .is_none_or(|level| (0.0..=1.0).contains(&level))
            );
            let _ = status.default_app();
            for app in &status.apps {
                for id in [&app.id, &app.session, &app.transport] {
                    assert!((1..=cast_wire::MAX_ID_BYTES).contains(&id.len()));
                }
            }
        }
        cast_wire::Heard::Media {
            status: Some(status),
            ..
        } => {
            let mut times = status.position.into_iter().chain(status.duration);
            assert!(times.all(|time| time <= MONTH));
            assert!(status.url.is_none_or(|url| url.len() <= MAX_URL_BYTES));
        }
        _ => {}
    }
}

/// One byte: the channels; then tag, length and payload as they come through the pipe.
pub fn decode(mut data: &[u8]) {
    let [channels] = number(&mut data);
    let Ok((tag, size)) = worker::head(number(&mut data)) else {
        return;
    };
    assert!(size <= worker::MAX_PAYLOAD);
    let channels = (channels > 0).then_some(u16::from(channels) % worker::MAX_CHANNELS + 1);
    if let Ok(ask) = worker::Ask::parse(tag, data) {
        let (tag, payload) = reread(&ask.to_bytes());
        assert_eq!(worker::Ask::parse(tag, &payload), Ok(ask));
    }
    if let Ok(answer) = worker::Answer::parse(tag, data, channels) {
        match &answer {
            worker::Answer::Want { len, .. } => assert!((1..=worker::MAX_WANT).contains(len)),
            worker::Answer::Pcm(samples) => {
                let channels = usize::from(channels.expect("known"));
                assert!(!samples.is_empty() && samples.len() % channels == 0);
                assert!(samples.len() / channels <= worker::MAX_FRAMES);
            }
            worker::Answer::Refused(_, reason) => {
                assert!(reason.len() <= worker::MAX_REASON_BYTES);
            }
            _ => {}
        }
        let (tag, payload) = reread(&answer.to_bytes());
        assert_eq!(worker::Answer::parse(tag, &payload, channels), Ok(answer));
    }
}

fn reread(message: &[u8]) -> (u8, Vec<u8>) {
    let (head, payload) = message.split_at(worker::HEAD_BYTES);
    let (tag, size) = worker::head(head.try_into().expect("five bytes")).expect("our own");
    assert_eq!(size, payload.len());
    (tag, payload.to_vec())
}

pub fn disc(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(toc) = disc_wire::Toc::parse(&text) {
        assert!((1..=disc_wire::MAX_TRACKS).contains(&toc.tracks().len()));
        assert_eq!(toc.disc_id().len(), 28);
        let whole: u64 = toc.tracks().iter().map(disc_wire::Track::bytes).sum();
        assert!(whole <= 2 * u64::from(disc_wire::MAX_SECTORS) * disc_wire::SECTOR_BYTES);
    }
    for (track, words) in disc_wire::parse_cd_text(&text) {
        assert!(usize::from(track) <= disc_wire::MAX_TRACKS);
        for label in words.title.iter().chain(&words.performer) {
            check_label(label, MAX_LABEL_CHARS);
        }
    }
}

/// Rate and channels, then names (from a disc or a device) and samples.
pub fn flac(mut data: &[u8]) {
    let rate = u32::from(u16::from_le_bytes(number(&mut data)));
    let [channels] = number(&mut data);
    let Ok(mut stream) = FlacStream::new(rate, u16::from(channels % 12)) else {
        return;
    };
    let text = String::from_utf8_lossy(data);
    let comments = [("TITLE", text.to_string()), ("ARTIST", text.to_string())];
    let head = stream.head(data.len() as u64, &comments);
    // `fLaC`, a block of STREAMINFO, and one comment that is the last block and ends where it says.
    assert!(head.starts_with(b"fLaC\0\0\0\x22") && head[42] == 0x84);
    let length = u32::from_be_bytes([0, head[43], head[44], head[45]]) as usize;
    assert_eq!(head.len(), 46 + length);
    if let Ok(frame) = stream.frame(data) {
        assert!(frame.len() <= 2 * data.len() + 64, "sound does not grow");
    }
}

/// Every sample comes out once, in a track or counted as silence.
pub fn split(mut data: &[u8]) {
    let [rate, silence, track, tail] = number(&mut data);
    let rules = SplitRules {
        min_silence: Duration::from_millis(10 * u64::from(silence)),
        min_track: Duration::from_millis(10 * u64::from(track)),
        tail: Duration::from_millis(10 * u64::from(tail)),
        ..SplitRules::default()
    };
    let samples: Vec<i16> = data
        .as_chunks()
        .0
        .iter()
        .map(|two| i16::from_le_bytes(*two))
        .collect();
    let whole = samples.len() / 2 * 2;
    let mut splitter = Splitter::new(u32::from(rate), rules);
    let mut pieces = Vec::new();
    for some in samples[..whole].chunks(100) {
        pieces.extend(splitter.push(some));
    }
    pieces.extend(splitter.finish());
    let (mut heard, mut open) = (0, false);
    for piece in pieces {
        match piece {
            Piece::Begin | Piece::End => {
                assert_eq!(open, piece == Piece::End, "tracks follow each other");
                open = !open;
            }
            Piece::Samples(samples) => {
                assert!(open);
                heard += samples.len() as u64;
            }
            Piece::Cut(frames) => {
                assert!(!open);
                heard += 2 * frames;
            }
        }
    }
    assert!(!open && heard == whole as u64, "{heard} of {whole}");
}

pub fn alsa(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let [id, card, pcm] = lines(&text);
    for seen in alsa::cards::parse_any(id, card, pcm) {
        assert!(seen.key.as_str().len() <= MAX_KEY_BYTES);
        check_label(&seen.name, MAX_LABEL_CHARS);
    }
    if let Some(port) = alsa::SoundPort::named(&text) {
        assert!((1..=alsa::MAX_PCM_NAME_BYTES).contains(&port.pcm.len()));
    }
}
