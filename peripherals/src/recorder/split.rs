//! Where tracks begin and end in a recording: pure, sample in, piece out.
//!
//! The recording is judged in windows of 20 ms. A window is *quiet* when the louder channel's power in it is below the
//! threshold. A track begins with the first window that is 3 dB above the threshold, preceded by
//! [`SplitRules::pre_roll`] of what was before it; it ends when quiet has lasted for [`SplitRules::min_silence`], and
//! keeps the first [`SplitRules::tail`] of that, so that music may fade. What lies between is cut.
//!
//! Every sample comes out exactly once, in order, as [`Piece::Samples`] or counted in [`Piece::Cut`]: the tracks one
//! after the other are the recording without the silence that was cut.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples of a frame: left and right.
const STEREO: usize = 2;
/// Windows per second.
const WINDOWS: u32 = 50;
/// How much louder than the threshold the first window of a track is, as power: 3 dB.
const HYSTERESIS: f64 = 2.0;

/// How a recording is split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitRules {
    /// What counts as quiet: decibels below full scale, −90 to −10.
    pub threshold_db: f64,
    /// Quiet of this length ends a track, 0.2 s to 60 s.
    pub min_silence: Duration,
    /// A track does not end before it is so long: a needle's click is no track. At most 10 minutes.
    pub min_track: Duration,
    /// Kept of the quiet before a track, at most a second.
    pub pre_roll: Duration,
    /// Kept of the quiet after a track, at most half of `min_silence`.
    pub tail: Duration,
    /// A track that is so long is ended and goes on as the next one, without a cut; at least a minute.
    pub max_track: Duration,
}

impl Default for SplitRules {
    fn default() -> Self {
        Self {
            threshold_db: -50.0,
            min_silence: Duration::from_secs(2),
            min_track: Duration::from_secs(10),
            pre_roll: Duration::from_millis(200),
            tail: Duration::from_millis(500),
            max_track: Duration::from_hours(2),
        }
    }
}

/// What becomes of the next samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A track begins.
    Begin,
    /// Samples of the track, left and right in turn.
    Samples(Vec<i16>),
    /// The track is over.
    End,
    /// So many frames between tracks were silence and are dropped.
    Cut(u64),
}

/// A recording being split.
#[derive(Debug)]
pub struct Splitter {
    /// Samples of a window.
    window: usize,
    /// Power of a quiet window, per sample of one channel.
    quiet_below: f64,
    min_silence: u64,
    min_track: u64,
    pre_roll: usize,
    tail: u64,
    max_track: u64,
    /// Less than a window, waiting for the rest of it.
    partial: Vec<i16>,
    /// Quiet windows whose fate is open.
    held: VecDeque<Vec<i16>>,
    track: Option<Running>,
}

/// A track under way; lengths in windows.
#[derive(Debug, Default)]
struct Running {
    length: u64,
    quiet: u64,
}

impl Splitter {
    /// A splitter for stereo at `rate` frames per second. Rules out of their ranges are brought into them.
    pub fn new(rate: u32, rules: SplitRules) -> Self {
        let windows = |time: Duration| {
            u64::try_from(time.as_millis() * u128::from(WINDOWS) / 1000).unwrap_or(u64::MAX)
        };
        let clamped = |time: Duration, low: u64, high: u64| {
            time.clamp(Duration::from_millis(low), Duration::from_millis(high))
        };
        let full_scale = f64::from(1 << 15);
        let threshold = if rules.threshold_db.is_nan() {
            SplitRules::default().threshold_db
        } else {
            rules.threshold_db.clamp(-90.0, -10.0)
        };
        let min_silence = windows(clamped(rules.min_silence, 200, 60_000));
        Self {
            window: ((rate / WINDOWS).max(1) as usize) * STEREO,
            quiet_below: full_scale * full_scale * 10_f64.powf(threshold / 10.0),
            min_silence,
            min_track: windows(clamped(rules.min_track, 0, 600_000)),
            pre_roll: windows(clamped(rules.pre_roll, 0, 1_000)) as usize,
            tail: windows(rules.tail).min(min_silence / 2),
            max_track: windows(rules.max_track.max(Duration::from_mins(1))),
            partial: Vec::new(),
            held: VecDeque::new(),
            track: None,
        }
    }

    /// Takes in the next samples, left and right in turn.
    pub fn push(&mut self, samples: &[i16]) -> Vec<Piece> {
        let mut pieces = Pieces::default();
        self.partial.extend_from_slice(samples);
        while self.partial.len() >= self.window {
            let rest = self.partial.split_off(self.window);
            let window = std::mem::replace(&mut self.partial, rest);
            self.judge(window, &mut pieces);
        }
        pieces.0
    }

    /// The recording is over: a track under way is kept to its last sample.
    pub fn finish(mut self) -> Vec<Piece> {
        let mut pieces = Pieces::default();
        let last = std::mem::take(&mut self.partial);
        if !last.is_empty() {
            self.judge(last, &mut pieces);
        }
        let held = std::mem::take(&mut self.held);
        if self.track.is_some() {
            for window in held {
                pieces.samples(window);
            }
            pieces.0.push(Piece::End);
        } else {
            for window in &held {
                pieces.cut(window);
            }
        }
        pieces.0
    }

    fn judge(&mut self, window: Vec<i16>, pieces: &mut Pieces) {
        let power = power(&window);
        match &mut self.track {
            None if power < self.quiet_below * HYSTERESIS => {
                self.held.push_back(window);
                self.drop_before_pre_roll(pieces);
            }
            None => {
                pieces.0.push(Piece::Begin);
                self.track = Some(Running {
                    length: self.held.len() as u64 + 1,
                    quiet: 0,
                });
                self.release(pieces);
                pieces.samples(window);
            }
            Some(track) => {
                track.length += 1;
                if power >= self.quiet_below {
                    track.quiet = 0;
                    self.release(pieces);
                    pieces.samples(window);
                } else {
                    track.quiet += 1;
                    if track.quiet <= self.tail {
                        pieces.samples(window);
                    } else {
                        self.held.push_back(window);
                    }
                }
                self.end_if_due(pieces);
            }
        }
    }

    fn end_if_due(&mut self, pieces: &mut Pieces) {
        let Some(track) = &self.track else { return };
        if track.quiet >= self.min_silence && track.length >= self.min_track {
            pieces.0.push(Piece::End);
            self.track = None;
            self.drop_before_pre_roll(pieces);
        } else if track.length >= self.max_track {
            let quiet = track.quiet;
            self.release(pieces);
            pieces.0.extend([Piece::End, Piece::Begin]);
            self.track = Some(Running { length: 0, quiet });
        }
    }

    fn release(&mut self, pieces: &mut Pieces) {
        for window in self.held.drain(..) {
            pieces.samples(window);
        }
    }

    fn drop_before_pre_roll(&mut self, pieces: &mut Pieces) {
        while self.held.len() > self.pre_roll {
            if let Some(window) = self.held.pop_front() {
                pieces.cut(&window);
            }
        }
    }
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn samples(&mut self, window: Vec<i16>) {
        match self.0.last_mut() {
            Some(Piece::Samples(samples)) => samples.extend(window),
            _ => self.0.push(Piece::Samples(window)),
        }
    }

    fn cut(&mut self, window: &[i16]) {
        let frames = (window.len() / STEREO) as u64;
        match self.0.last_mut() {
            Some(Piece::Cut(cut)) => *cut += frames,
            _ => self.0.push(Piece::Cut(frames)),
        }
    }
}

/// Mean power of the louder channel.
fn power(window: &[i16]) -> f64 {
    let mut sums = [0.0; STEREO];
    for frame in window.chunks_exact(STEREO) {
        for (sum, sample) in sums.iter_mut().zip(frame) {
            *sum += f64::from(*sample) * f64::from(*sample);
        }
    }
    let frames = (window.len() / STEREO).max(1) as f64;
    sums[0].max(sums[1]) / frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: u32 = 1_000;

    fn tone(seconds: f64, amplitude: i16) -> Vec<i16> {
        let frames = (seconds * f64::from(RATE)) as usize;
        (0..frames)
            .flat_map(|n| {
                let sample = if n % 2 == 0 { amplitude } else { -amplitude };
                [sample, sample / 2]
            })
            .collect()
    }

    fn quick() -> SplitRules {
        SplitRules {
            min_silence: Duration::from_secs(1),
            min_track: Duration::from_secs(2),
            ..SplitRules::default()
        }
    }

    /// All pieces of a recording that comes in portions of `step` samples.
    fn split(rules: SplitRules, recording: &[i16], step: usize) -> Vec<Piece> {
        let mut splitter = Splitter::new(RATE, rules);
        let mut pieces: Vec<Piece> = recording
            .chunks(step)
            .flat_map(|portion| splitter.push(portion))
            .collect();
        pieces.extend(splitter.finish());
        pieces
    }

    /// The tracks' samples; checks that begin and end alternate and that all adds up to the recording.
    fn tracks(pieces: &[Piece], recording: &[i16]) -> Vec<Vec<i16>> {
        let (mut tracks, mut open, mut at) = (Vec::new(), None, 0);
        for piece in pieces {
            match piece {
                Piece::Begin => assert!(open.replace(Vec::new()).is_none(), "begun twice"),
                Piece::Samples(samples) => {
                    assert_eq!(recording[at..at + samples.len()], samples[..]);
                    at += samples.len();
                    let track: &mut Vec<i16> = open.as_mut().expect("within a track");
                    track.extend(samples);
                }
                Piece::End => tracks.push(open.take().expect("begun")),
                Piece::Cut(frames) => {
                    assert!(open.is_none(), "cut within a track");
                    at += *frames as usize * STEREO;
                }
            }
        }
        assert!(open.is_none(), "ended");
        assert_eq!(at, recording.len(), "each sample once");
        tracks
    }

    #[test]
    fn three_songs_with_pauses_become_three_tracks() {
        let songs = [3.0, 4.0, 2.5].map(|seconds| tone(seconds, 8_000));
        let mut recording = tone(1.5, 10);
        for song in &songs {
            recording.extend(song);
            recording.extend(tone(1.6, 10));
        }
        let tracks = tracks(&split(quick(), &recording, 77), &recording);
        assert_eq!(tracks.len(), 3);
        for (track, song) in tracks.iter().zip(&songs) {
            // Pre-roll and tail around it, and nothing else.
            let extra = (track.len() - song.len()) / STEREO;
            assert!((1..=800).contains(&extra), "{extra}");
            assert!(track.windows(song.len()).any(|part| part == &song[..]));
        }
    }

    #[test]
    fn a_short_pause_splits_nothing_and_is_kept() {
        let mut recording = tone(3.0, 8_000);
        recording.extend(tone(0.9, 0));
        recording.extend(tone(3.0, 8_000));
        let tracks = tracks(&split(quick(), &recording, 500), &recording);
        assert_eq!(tracks, [recording]);
    }

    #[test]
    fn a_click_before_the_music_is_no_track_of_its_own() {
        let mut recording = tone(0.04, 20_000);
        recording.extend(tone(1.2, 0));
        recording.extend(tone(3.0, 8_000));
        assert_eq!(tracks(&split(quick(), &recording, 64), &recording).len(), 1);
    }

    #[test]
    fn silence_alone_is_no_track() {
        let recording = tone(30.0, 20);
        assert!(tracks(&split(quick(), &recording, 64), &recording).is_empty());
    }

    #[test]
    fn an_endless_track_goes_on_as_the_next() {
        let rules = SplitRules {
            max_track: Duration::from_mins(1),
            ..quick()
        };
        let recording = tone(150.0, 8_000);
        let tracks = tracks(&split(rules, &recording, 4_000), &recording);
        let frames: Vec<_> = tracks.iter().map(|t| t.len() / STEREO).collect();
        assert_eq!(frames, [60_000, 60_000, 30_000]);
    }

    proptest! {
        #[test]
        fn each_sample_comes_out_once_however_it_comes_in(
            parts in proptest::collection::vec((0.0_f64..4.0, 0_i16..2_000), 0..12),
            step in 1_usize..5_000,
            threshold_db in -95.0_f64..-5.0,
            silence_ms in 0_u64..3_000,
            track_ms in 0_u64..5_000,
        ) {
            let recording: Vec<i16> = parts.iter().flat_map(|(s, a)| tone(*s, *a)).collect();
            let rules = SplitRules {
                threshold_db,
                min_silence: Duration::from_millis(silence_ms),
                min_track: Duration::from_millis(track_ms),
                ..SplitRules::default()
            };
            let pieces = split(rules, &recording, step);
            let whole = tracks(&pieces, &recording);
            prop_assert_eq!(whole, tracks(&split(rules, &recording, recording.len().max(1)), &recording));
            // Nothing loud is ever cut.
            let loud = f64::from(1 << 15) * 10_f64.powf(threshold_db.clamp(-90.0, -10.0) / 20.0) * 1.5;
            let mut at = 0;
            for piece in pieces {
                match piece {
                    Piece::Samples(samples) => at += samples.len(),
                    Piece::Cut(frames) => {
                        let cut = &recording[at..at + frames as usize * STEREO];
                        let quiet = cut.chunks(RATE as usize / WINDOWS as usize * STEREO)
                            .all(|w| power(w) <= loud * loud);
                        prop_assert!(quiet);
                        at += cut.len();
                    }
                    Piece::Begin | Piece::End => {}
                }
            }
        }
    }
}
