//! A sound card's output and input as streams of stereo frames: negotiation, writing, reading, and what the card's
//! errors mean. Blocking: used on threads of their own.

use std::collections::VecDeque;

use alsa::pcm::{Access, Format, Frames, HwParams, PCM, State};
use alsa::{Direction, ValueOr};

/// Sound between writing and hearing, in microseconds.
pub const BUFFER_US: u32 = 200_000;
/// One of the buffer's portions, in microseconds.
pub const PERIOD_US: u32 = 50_000;
/// Capture's buffer, in microseconds: a busy machine loses nothing for so long.
pub const CAPTURE_BUFFER_US: u32 = 1_000_000;
/// How long a card may take no frame before it counts as gone, in milliseconds.
const STUCK_MS: u32 = 5_000;
/// Samples of a stereo frame.
pub const STEREO: usize = 2;
/// Largest buffer believed, in frames: some plugins have none in earnest.
const MAX_BUFFER_FRAMES: u64 = 1 << 20;

// Linux error numbers (errno(3)), as ALSA passes them on.
const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EPIPE: i32 = 32;
const EBADFD: i32 = 77;
const ESTRPIPE: i32 = 86;

/// Why a card does not play or record.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SoundError {
    /// Another program has it.
    #[error("another program is using it; end that program, then try again")]
    Busy,
    /// It was unplugged, or there is none of that name.
    #[error("the sound card is not there; plug it in again or check its name in the settings")]
    Gone,
    /// It does not take this kind of sound.
    #[error("it does not take stereo sound at {rate} samples per second")]
    Rate {
        /// What was asked of it.
        rate: u32,
    },
    /// ALSA said no for another reason.
    #[error("the sound system refused ({0})")]
    Other(String),
}

impl SoundError {
    fn of(error: alsa::Error) -> Self {
        match error.errno() {
            EBUSY => Self::Busy,
            ENOENT | ENODEV => Self::Gone,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// How samples go over the wire to the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sample {
    S32,
    S16,
}

/// A card's output, open.
#[derive(Debug)]
pub struct Output {
    pcm: PCM,
    sample: Sample,
    rate: u32,
    buffer: u64,
    /// The frames written last, as many as may still be unheard.
    tail: VecDeque<i32>,
}

impl Output {
    /// Opens `name` for stereo at `rate`; 32-bit samples where it takes them, else 16-bit.
    pub fn open(name: &str, rate: u32) -> Result<Self, SoundError> {
        // Not blocking: opening a card that another program has would wait for that program.
        let pcm = open_pcm(name, Direction::Playback)?;
        let (sample, buffer) = {
            let params = HwParams::any(&pcm).map_err(SoundError::of)?;
            params
                .set_access(Access::RWInterleaved)
                .and_then(|()| params.set_channels(STEREO as u32))
                .map_err(|_| SoundError::Rate { rate })?;
            let sample = if params.set_format(Format::s32()).is_ok() {
                Sample::S32
            } else {
                params
                    .set_format(Format::s16())
                    .map_err(|_| SoundError::Rate { rate })?;
                Sample::S16
            };
            params
                .set_rate(rate, ValueOr::Nearest)
                .map_err(|_| SoundError::Rate { rate })?;
            // Wishes, not needs: a card with other sizes plays too.
            let _ = params.set_buffer_time_near(BUFFER_US, ValueOr::Nearest);
            let _ = params.set_period_time_near(PERIOD_US, ValueOr::Nearest);
            pcm.hw_params(&params).map_err(SoundError::of)?;
            let buffer = params.get_buffer_size().map_err(SoundError::of)?;
            (sample, buffer)
        };
        let buffer = u64::try_from(buffer)
            .unwrap_or(0)
            .clamp(1, MAX_BUFFER_FRAMES);
        {
            let params = pcm.sw_params_current().map_err(SoundError::of)?;
            // Sound starts with three quarters of a buffer behind it.
            let threshold = Frames::try_from(buffer * 3 / 4).unwrap_or(1).max(1);
            let _ = params.set_start_threshold(threshold);
            pcm.sw_params(&params).map_err(SoundError::of)?;
        }
        Ok(Self {
            pcm,
            sample,
            rate,
            buffer,
            tail: VecDeque::new(),
        })
    }

    /// Frames per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Writes whole stereo frames, waiting for room. An error comes with what was not written.
    pub fn write<'a>(&mut self, samples: &'a [i32]) -> Result<(), (SoundError, &'a [i32])> {
        let mut rest = samples;
        let mut waited = 0;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(frames) => {
                    let (done, left) = rest.split_at((frames * STEREO).min(rest.len()));
                    self.remember(done);
                    rest = left;
                    if frames > 0 {
                        waited = 0;
                    }
                }
                Err(error) => self
                    .overcome(error, &mut waited)
                    .map_err(|why| (why, rest))?,
            }
        }
        Ok(())
    }

    fn write_some(&self, samples: &[i32]) -> Result<usize, alsa::Error> {
        match self.sample {
            Sample::S32 => self.pcm.io_i32()?.writei(samples),
            Sample::S16 => {
                let short: Vec<i16> = samples.iter().map(|s| rounded(*s)).collect();
                self.pcm.io_i16()?.writei(&short)
            }
        }
    }

    fn overcome(&self, error: alsa::Error, waited: &mut u32) -> Result<(), SoundError> {
        const STEP_MS: u32 = 500;
        match error.errno() {
            EAGAIN => {
                if *waited >= STUCK_MS {
                    return Err(SoundError::Gone);
                }
                // False: no room in that time; an error shows again at the next write.
                if !matches!(self.pcm.wait(Some(STEP_MS)), Ok(true)) {
                    *waited += STEP_MS;
                }
                Ok(())
            }
            // Ran dry, or the machine slept.
            EPIPE | ESTRPIPE => {
                tracing::debug!("the loudspeaker ran dry");
                self.pcm.try_recover(error, true).map_err(SoundError::of)
            }
            EBADFD if self.pcm.state_raw() == State::Disconnected as i32 => Err(SoundError::Gone),
            _ => Err(SoundError::of(error)),
        }
    }

    fn remember(&mut self, samples: &[i32]) {
        let most = self.buffer as usize * STEREO;
        let samples = &samples[samples.len().saturating_sub(most)..];
        let over = (self.tail.len() + samples.len()).saturating_sub(most);
        self.tail.drain(..over);
        self.tail.extend(samples);
    }

    /// Frames written and not yet heard.
    pub fn unheard(&self) -> u64 {
        let delay = self.pcm.delay().map_or(0, |frames| frames.max(0));
        (delay.unsigned_abs()).min(self.tail.len() as u64 / STEREO as u64)
    }

    /// Falls silent at once; what was written and not heard comes back, to be written again later.
    pub fn halt(&mut self) -> Vec<i32> {
        let unheard = self.unheard() as usize * STEREO;
        // Fails when the card is gone: it is silent then.
        let _ = self.pcm.drop();
        let _ = self.pcm.prepare();
        let kept = self.tail.split_off(self.tail.len() - unheard);
        self.tail.clear();
        kept.into()
    }

    /// Lets sound begin that is too short to begin by itself.
    pub fn push(&self) {
        if self.pcm.state_raw() == State::Prepared as i32 && self.unheard() > 0 {
            // Fails when it just began.
            let _ = self.pcm.start();
        }
    }

    /// Whether everything written was heard.
    pub fn is_quiet(&self) -> bool {
        self.pcm.state_raw() != State::Running as i32 || self.unheard() == 0
    }
}

fn rounded(sample: i32) -> i16 {
    let up = sample.saturating_add(1 << 15) >> 16;
    i16::try_from(up).unwrap_or(i16::MAX)
}

/// A card's input, open: 16-bit stereo.
#[derive(Debug)]
pub struct Input {
    pcm: PCM,
    rate: u32,
    lost: u64,
}

/// What reading brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// So many samples.
    Samples(usize),
    /// Nothing yet.
    Nothing,
    /// Its end: only files have one.
    End,
}

impl Input {
    /// Opens `name` for 16-bit stereo at 44 100 samples per second, or what is nearest to that.
    pub fn open(name: &str) -> Result<Self, SoundError> {
        const RATE: u32 = 44_100;
        let pcm = open_pcm(name, Direction::Capture)?;
        let rate = {
            let params = HwParams::any(&pcm).map_err(SoundError::of)?;
            params
                .set_access(Access::RWInterleaved)
                .and_then(|()| params.set_channels(STEREO as u32))
                .and_then(|()| params.set_format(Format::s16()))
                .map_err(|_| SoundError::Rate { rate: RATE })?;
            let rate = params
                .set_rate_near(RATE, ValueOr::Nearest)
                .map_err(|_| SoundError::Rate { rate: RATE })?;
            let _ = params.set_buffer_time_near(CAPTURE_BUFFER_US, ValueOr::Nearest);
            let _ = params.set_period_time_near(PERIOD_US, ValueOr::Nearest);
            pcm.hw_params(&params).map_err(SoundError::of)?;
            rate
        };
        pcm.prepare()
            .and_then(|()| pcm.start())
            .map_err(SoundError::of)?;
        Ok(Self { pcm, rate, lost: 0 })
    }

    /// Frames per second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// How often sound was lost because it was not read in time.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Reads what there is, waiting at most half a second.
    pub fn read(&mut self, into: &mut [i16]) -> Result<Heard, SoundError> {
        const STEP_MS: u32 = 500;
        match self.pcm.io_i16().and_then(|io| io.readi(into)) {
            Ok(0) => Ok(Heard::End),
            Ok(frames) => Ok(Heard::Samples(frames * STEREO)),
            Err(error) => match error.errno() {
                EAGAIN => {
                    let _ = self.pcm.wait(Some(STEP_MS));
                    Ok(Heard::Nothing)
                }
                EPIPE | ESTRPIPE => {
                    self.lost += 1;
                    self.pcm
                        .try_recover(error, true)
                        .and_then(|()| self.pcm.start())
                        .map_err(SoundError::of)?;
                    Ok(Heard::Nothing)
                }
                EBADFD if self.pcm.state_raw() == State::Disconnected as i32 => {
                    Err(SoundError::Gone)
                }
                _ => Err(SoundError::of(error)),
            },
        }
    }
}

fn open_pcm(name: &str, direction: Direction) -> Result<PCM, SoundError> {
    let name = std::ffi::CString::new(name).map_err(|_| SoundError::Gone)?;
    super::hush();
    PCM::open(&name, direction, true).map_err(SoundError::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_rounded_and_sixteen_bits_stay_exact() {
        for short in [i16::MIN, -1, 0, 1, 12_345, i16::MAX] {
            assert_eq!(rounded(i32::from(short) << 16), short);
        }
        assert_eq!(rounded(i32::MAX), i16::MAX);
        assert_eq!(rounded(0x7fff), 0);
        assert_eq!(rounded(0x8000), 1);
    }

    #[test]
    fn a_card_that_is_not_there_is_gone() {
        assert!(matches!(
            Output::open("hw:CARD=NoSuchCard", 44_100),
            Err(SoundError::Gone)
        ));
        assert!(matches!(Input::open("no\0name"), Err(SoundError::Gone)));
    }

    #[test]
    fn silence_goes_into_the_null_device() {
        let mut output = Output::open("null", 44_100).expect("ALSA's own null device");
        output.write(&vec![0; 2 * 44_100]).expect("written");
        output.push();
        assert_eq!(output.unheard() as usize * STEREO, output.halt().len());
    }
}
