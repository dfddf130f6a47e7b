//! Tones made and looked for: PCM WAV files and a step of the Fourier transform.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Samples per second of what is made here.
const RATE: u32 = 44_100;
/// Parts of a second that are looked at by themselves.
const PARTS: u32 = 50;

/// Sound as samples of one channel, -1 to 1.
pub struct Sound {
    rate: u32,
    samples: Vec<f64>,
}

impl Sound {
    /// How long it lasts.
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.rate)
    }
}

/// A WAV file (RIFF, 16-bit PCM, stereo) with a sine tone of `hertz` at half amplitude.
pub fn tone_wav(hertz: f64, seconds: u32) -> Vec<u8> {
    let frames = RATE * seconds;
    let bytes = frames * 4;
    let mut wav = Vec::with_capacity(bytes as usize + 44);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + bytes).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&16_u32.to_le_bytes());
    wav.extend_from_slice(&[1, 0, 2, 0]);
    wav.extend_from_slice(&RATE.to_le_bytes());
    wav.extend_from_slice(&(RATE * 4).to_le_bytes());
    wav.extend_from_slice(&[4, 0, 16, 0]);
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&bytes.to_le_bytes());
    for frame in 0..frames {
        let phase = std::f64::consts::TAU * hertz * f64::from(frame) / f64::from(RATE);
        let sample = (phase.sin() * 16_000.0) as i16;
        wav.extend_from_slice(&sample.to_le_bytes());
        wav.extend_from_slice(&sample.to_le_bytes());
    }
    wav
}

/// Reads a 16-bit PCM WAV file; the channels' mean. A header that was never completed is read to the file's end.
pub fn read_wav(file: &Path) -> Result<Sound> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    ensure!(
        bytes.len() > 44 && bytes.starts_with(b"RIFF"),
        "not a WAV file: {} bytes",
        bytes.len()
    );
    let channels = usize::from(u16::from_le_bytes([bytes[22], bytes[23]]));
    let rate = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
    ensure!(
        bytes[34] == 16 && (1..=2).contains(&channels),
        "not 16-bit PCM"
    );
    let samples = bytes[44..]
        .chunks_exact(2 * channels)
        .map(|frame| {
            let sum: f64 = frame
                .chunks_exact(2)
                .map(|pair| f64::from(i16::from_le_bytes([pair[0], pair[1]])))
                .sum();
            sum / (32_768.0 * channels as f64)
        })
        .collect();
    Ok(Sound { rate, samples })
}

/// How long a tone of `hertz`, and nothing else, is heard, in seconds. Measured in fiftieths of a second, each by
/// itself: a player that starves for a moment breaks the tone, and what is whole between the breaks still counts.
pub fn seconds_of(sound: &Sound, hertz: f64) -> f64 {
    parts(sound, hertz).count() as f64 / f64::from(PARTS)
}

/// The loudness of a tone of `hertz` in its first and in its last second, 0 to 1 (root mean square).
pub fn loudness(sound: &Sound, hertz: f64) -> Option<(f64, f64)> {
    let loud: Vec<f64> = parts(sound, hertz)
        .map(|part| {
            let power: f64 = part.iter().map(|sample| sample * sample).sum();
            (power / part.len() as f64).sqrt()
        })
        .collect();
    let second = PARTS as usize;
    let mean = |parts: &[f64]| parts.iter().sum::<f64>() / parts.len() as f64;
    (loud.len() >= 2 * second).then(|| (mean(&loud[..second]), mean(&loud[loud.len() - second..])))
}

/// The parts of a sound that are a tone of `hertz`.
fn parts(sound: &Sound, hertz: f64) -> impl Iterator<Item = &[f64]> {
    let length = (sound.rate / PARTS) as usize;
    sound
        .samples
        .chunks_exact(length)
        .filter(move |part| share(part, sound.rate, hertz) > 0.9)
}

/// How much of the power of `part` is a tone of `hertz`, 0 to 1 (one step of a discrete Fourier transform).
fn share(part: &[f64], rate: u32, hertz: f64) -> f64 {
    let power: f64 = part.iter().map(|sample| sample * sample).sum();
    if power < 0.001 * part.len() as f64 {
        return 0.0;
    }
    let (mut sine, mut cosine) = (0.0, 0.0);
    for (n, sample) in part.iter().enumerate() {
        let phase = std::f64::consts::TAU * hertz * n as f64 / f64::from(rate);
        sine += sample * phase.sin();
        cosine += sample * phase.cos();
    }
    2.0 * (sine * sine + cosine * cosine) / (part.len() as f64 * power)
}

#[test]
fn a_tone_is_told_from_another_and_from_silence() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tone.wav");
    std::fs::write(&file, tone_wav(997.0, 2)).expect("written");
    let sound = read_wav(&file).expect("readable");
    assert!((sound.seconds() - 2.0).abs() < 0.01);
    assert!(seconds_of(&sound, 997.0) > 1.9);
    assert!(seconds_of(&sound, 500.0) < 0.1);
    let silence = Sound {
        rate: RATE,
        samples: vec![0.0; 90_000],
    };
    assert!(seconds_of(&silence, 997.0) < 0.1);
}
