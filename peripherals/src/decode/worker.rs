//! The worker's side: runs in the gateway's sandbox, where media of unknown origin is parsed with symphonia. Knows
//! nothing but its two pipes. Whatever a file does to it, the gateway sees a refusal or a closed pipe.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::{Error, SeekErrorKind};
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, FormatReader, SeekMode, SeekTo, Track, TrackType};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;
use symphonia::core::units::{TimeBase, Timestamp};

use super::wire::{
    Answer, Ask, HEAD_BYTES, MAX_CHANNELS, MAX_FRAMES, MAX_RATE, MAX_WANT, MIN_RATE, PcmFormat,
    RefusalKind, head,
};

/// Packets in a row that may be undecodable before the file counts as damaged.
const MAX_BAD_PACKETS: u32 = 200;

/// The two pipes, shared by the conversation and by the demuxer's reads in the midst of it.
struct Pipes {
    input: Box<dyn Read + Send>,
    output: Box<dyn Write + Send>,
    /// The gateway could not give bytes.
    starved: bool,
}

impl Pipes {
    fn tell(&mut self, answer: &Answer) -> io::Result<()> {
        self.output.write_all(&answer.to_bytes())?;
        self.output.flush()
    }

    fn hear(&mut self) -> io::Result<Ask> {
        let mut start = [0; HEAD_BYTES];
        self.input.read_exact(&mut start)?;
        let (tag, size) = head(start).map_err(io::Error::other)?;
        let mut payload = vec![0; size];
        self.input.read_exact(&mut payload)?;
        Ask::parse(tag, &payload).map_err(io::Error::other)
    }
}

/// The file at the other end of the pipes.
struct Remote {
    pipes: Arc<Mutex<Pipes>>,
    size: Option<u64>,
    at: u64,
}

impl Read for Remote {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self
            .size
            .map_or(u64::MAX, |size| size.saturating_sub(self.at));
        let len = (into.len() as u64).min(u64::from(MAX_WANT)).min(left) as u32;
        if len == 0 {
            return Ok(0);
        }
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = self.at;
        pipes.tell(&Answer::Want { offset, len })?;
        match pipes.hear()? {
            Ask::Bytes(bytes) if bytes.len() <= len as usize => {
                into[..bytes.len()].copy_from_slice(&bytes);
                self.at += bytes.len() as u64;
                Ok(bytes.len())
            }
            Ask::NoBytes => {
                pipes.starved = true;
                Err(io::Error::other("the bytes cannot be had"))
            }
            _ => Err(io::Error::other("another question in the midst of one")),
        }
    }
}

impl Seek for Remote {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let base = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.and_then(|size| size.checked_add_signed(by)),
        };
        self.at = base.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

impl MediaSource for Remote {
    fn is_seekable(&self) -> bool {
        self.size.is_some()
    }

    fn byte_len(&self) -> Option<u64> {
        self.size
    }
}

type Refusal = (RefusalKind, String);

/// Serves one file, from the first question to the end of `input`.
pub fn serve(
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> io::Result<()> {
    let pipes = Arc::new(Mutex::new(Pipes {
        input: Box::new(input),
        output: Box::new(output),
        starved: false,
    }));
    let tell = |answer: &Answer| {
        let mut pipes = pipes.lock().unwrap_or_else(PoisonError::into_inner);
        pipes.tell(answer)
    };
    let hear = || pipes.lock().unwrap_or_else(PoisonError::into_inner).hear();
    let refuse = |(kind, reason): Refusal| {
        let starved = pipes.lock().unwrap_or_else(PoisonError::into_inner).starved;
        let kind = if starved {
            RefusalKind::Unreachable
        } else {
            kind
        };
        tell(&Answer::Refused(kind, reason))
    };
    let Ask::Open { size, mime } = hear()? else {
        return Err(io::Error::other(
            "the first question must be what the file is",
        ));
    };
    let remote = Remote {
        pipes: Arc::clone(&pipes),
        size,
        at: 0,
    };
    let mut file = match File::open(remote, &mime) {
        Ok(file) => file,
        Err(refusal) => return refuse(refusal),
    };
    tell(&Answer::Format(file.format))?;
    loop {
        let ask = match hear() {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            ask => ask?,
        };
        let answer = match ask {
            Ask::Decode => file.next(),
            Ask::Seek(frame) => file.seek(frame),
            _ => return Err(io::Error::other("an answer to no question")),
        };
        match answer {
            Ok(answer) => tell(&answer)?,
            Err(refusal) => return refuse(refusal),
        }
    }
}

/// A file being decoded.
struct File {
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    time_base: TimeBase,
    /// The timestamp of frame 0.
    start: i64,
    format: PcmFormat,
    /// Decoded and not yet given out, interleaved.
    ready: Vec<i32>,
    given: usize,
    /// A seek went past the end.
    over: bool,
    /// The gateway's bytes ran out in the midst of decoding.
    pipes_starved: Box<dyn Fn() -> bool>,
}

impl File {
    fn open(remote: Remote, mime: &str) -> Result<Self, Refusal> {
        let pipes = Arc::clone(&remote.pipes);
        let stream = MediaSourceStream::new(Box::new(remote), MediaSourceStreamOptions::default());
        let mut hint = Hint::new();
        hint.mime_type(mime);
        let reader = symphonia::default::get_probe()
            .probe(
                &hint,
                stream,
                FormatOptions::default(),
                MetadataOptions::default(),
            )
            .map_err(|error| refusal(&error))?;
        let track = reader
            .first_track_known_codec(TrackType::Audio)
            .or_else(|| reader.first_track(TrackType::Audio))
            .ok_or_else(|| no_sound("there is no sound in it"))?;
        let Some(CodecParameters::Audio(params)) = &track.codec_params else {
            return Err(no_sound("its sound is not described"));
        };
        let decoder = symphonia::default::get_codecs()
            .make_audio_decoder(params, &AudioDecoderOptions::default())
            .map_err(|error| refusal(&error))?;
        let bits = params
            .bits_per_sample
            .and_then(|bits| u8::try_from(bits).ok())
            .filter(|bits| (1..=32).contains(bits))
            .unwrap_or(24);
        let time_base = track
            .time_base
            .or_else(|| params.sample_rate.and_then(TimeBase::try_from_recip))
            .ok_or_else(|| no_sound("it has no clock"))?;
        let start = track.start_ts.get().max(0);
        let (id, told) = (track.id, told_frames(track, time_base));
        let mut file = Self {
            track: id,
            time_base,
            start,
            format: PcmFormat {
                rate: 0,
                channels: 0,
                bits,
                frames: None,
            },
            ready: Vec::new(),
            given: 0,
            over: false,
            pipes_starved: Box::new(move || {
                pipes.lock().unwrap_or_else(PoisonError::into_inner).starved
            }),
            reader,
            decoder,
        };
        // The container may be wrong or silent about rate and channels: the first samples are not.
        if file.decode()?.is_none() {
            return Err(no_sound("there is no sound in it"));
        }
        let per_second = u64::from(file.format.rate);
        file.format.frames = told.map(|told| match told {
            Told::Frames(frames) => frames,
            Told::Nanos(nanos) => u64::try_from(nanos * u128::from(per_second) / 1_000_000_000)
                .unwrap_or(u64::MAX - 1),
        });
        Ok(file)
    }

    /// Fills `ready`; the frame number of its first sample, or `None` at the end.
    fn decode(&mut self) -> Result<Option<u64>, Refusal> {
        let mut bad = 0;
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) | Err(Error::ResetRequired) => return Ok(None),
                // A file that was cut off plays as far as it goes.
                Err(Error::IoError(error))
                    if error.kind() == io::ErrorKind::UnexpectedEof && !(self.pipes_starved)() =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(refusal(&error)),
            };
            if packet.track_id != self.track {
                continue;
            }
            let first = packet
                .pts
                .get()
                .saturating_add_unsigned(packet.trim_start.get());
            match self.decoder.decode(&packet) {
                Ok(samples) if samples.frames() == 0 => {}
                Ok(samples) => {
                    let (rate, channels) = (
                        samples.spec().rate(),
                        samples.spec().channels().count() as u16,
                    );
                    let fits = (MIN_RATE..=MAX_RATE).contains(&rate)
                        && (1..=MAX_CHANNELS).contains(&channels);
                    if !fits {
                        return Err((
                            RefusalKind::Unsupported,
                            format!("{channels} channels at {rate} Hz"),
                        ));
                    }
                    let known = self.format.rate != 0;
                    if known && (rate, channels) != (self.format.rate, self.format.channels) {
                        return Err(no_sound("its rate or channels change in the midst of it"));
                    }
                    (self.format.rate, self.format.channels) = (rate, channels);
                    samples.copy_to_vec_interleaved(&mut self.ready);
                    self.given = 0;
                    return Ok(Some(self.frame_of(first)));
                }
                Err(Error::DecodeError(_) | Error::IoError(_)) if bad < MAX_BAD_PACKETS => bad += 1,
                Err(error) => return Err(refusal(&error)),
            }
        }
    }

    fn frame_of(&self, timestamp: i64) -> u64 {
        let since = u128::from((timestamp.max(self.start) - self.start).unsigned_abs());
        let (numer, denom) = (self.time_base.numer.get(), self.time_base.denom.get());
        let frames = since * u128::from(numer) * u128::from(self.format.rate) / u128::from(denom);
        u64::try_from(frames).unwrap_or(u64::MAX)
    }

    fn timestamp_of(&self, frame: u64) -> i64 {
        let (numer, denom) = (self.time_base.numer.get(), self.time_base.denom.get());
        let units = u128::from(frame) * u128::from(denom)
            / u128::from(numer)
            / u128::from(self.format.rate);
        i64::try_from(units)
            .unwrap_or(i64::MAX)
            .saturating_add(self.start)
    }

    fn next(&mut self) -> Result<Answer, Refusal> {
        if self.given >= self.ready.len() && (self.over || self.decode()?.is_none()) {
            return Ok(Answer::End);
        }
        let most = MAX_FRAMES * usize::from(self.format.channels);
        let end = self.ready.len().min(self.given + most);
        let piece = self.ready[self.given..end].to_vec();
        self.given = end;
        Ok(Answer::Pcm(piece))
    }

    /// Goes to the exact frame, or to the nearest later one that the file has.
    fn seek(&mut self, frame: u64) -> Result<Answer, Refusal> {
        self.ready.clear();
        self.given = 0;
        self.over = false;
        let to = SeekTo::Timestamp {
            ts: Timestamp::from(self.timestamp_of(frame)),
            track_id: self.track,
        };
        match self.reader.seek(SeekMode::Accurate, to) {
            Ok(_) => self.decoder.reset(),
            // Past its end there is nothing more to hear.
            Err(Error::SeekError(SeekErrorKind::OutOfRange)) => {
                self.over = true;
                return Ok(Answer::Sought(frame));
            }
            Err(Error::SeekError(_)) => {
                return Err((
                    RefusalKind::Unsupported,
                    "one cannot go to a place in it".to_owned(),
                ));
            }
            Err(error) => return Err(refusal(&error)),
        }
        loop {
            let Some(first) = self.decode()? else {
                self.over = true;
                return Ok(Answer::Sought(frame));
            };
            let channels = usize::from(self.format.channels);
            let here = (self.ready.len() / channels) as u64;
            if first + here > frame {
                let skipped = frame.saturating_sub(first);
                self.given = skipped as usize * channels;
                return Ok(Answer::Sought(first + skipped));
            }
        }
    }
}

enum Told {
    Frames(u64),
    Nanos(u128),
}

fn told_frames(track: &Track, time_base: TimeBase) -> Option<Told> {
    if let Some(frames) = track.num_frames {
        return Some(Told::Frames(frames));
    }
    let time = time_base.calc_duration(track.duration?)?;
    u128::try_from(time.as_nanos()).ok().map(Told::Nanos)
}

fn no_sound(reason: &str) -> Refusal {
    (RefusalKind::Damaged, reason.to_owned())
}

fn refusal(error: &Error) -> Refusal {
    let kind = match error {
        Error::Unsupported(_) => RefusalKind::Unsupported,
        _ => RefusalKind::Damaged,
    };
    (kind, error.to_string())
}
