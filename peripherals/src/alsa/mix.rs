//! Arithmetic on samples: any number of channels to stereo, and loudness in software. Pure.

use super::pcm::STEREO;

/// How a sample is weighted; 32 fractional bits.
type Weight = i64;
const ONE: Weight = 1 << 32;
/// −3 dB.
const HALF_POWER: Weight = 3_037_000_500;

/// Left and right weights of each channel, in the order of WAVE files (FL FR FC LFE BL BR SL SR).
fn weights(channels: u16) -> &'static [(Weight, Weight)] {
    const FL: (Weight, Weight) = (ONE, 0);
    const FR: (Weight, Weight) = (0, ONE);
    const MID: (Weight, Weight) = (HALF_POWER, HALF_POWER);
    const LOW: (Weight, Weight) = (0, 0);
    const L: (Weight, Weight) = (HALF_POWER, 0);
    const R: (Weight, Weight) = (0, HALF_POWER);
    match channels {
        1 => &[(ONE, ONE)],
        2 => &[FL, FR],
        3 => &[FL, FR, MID],
        4 => &[FL, FR, L, R],
        5 => &[FL, FR, MID, L, R],
        6 => &[FL, FR, MID, LOW, L, R],
        7 => &[FL, FR, MID, LOW, MID, L, R],
        _ => &[FL, FR, MID, LOW, L, R, L, R],
    }
}

/// Interleaved samples of `channels` channels (1 to 8) as stereo. Mono and stereo stay exact; more are mixed down so
/// that nothing can clip.
pub fn to_stereo(samples: Vec<i32>, channels: u16) -> Vec<i32> {
    if channels == 2 {
        return samples;
    }
    let weights = weights(channels);
    let loudest = weights
        .iter()
        .fold((0, 0), |sum, w| (sum.0 + w.0, sum.1 + w.1));
    let loudest = i128::from(loudest.0.max(loudest.1).max(ONE));
    let mixed = |frame: &[i32], side: fn(&(Weight, Weight)) -> Weight| {
        let sum: i128 = frame
            .iter()
            .zip(weights)
            .map(|(sample, weight)| i128::from(*sample) * i128::from(side(weight)))
            .sum();
        i32::try_from(sum / loudest).unwrap_or(if sum < 0 { i32::MIN } else { i32::MAX })
    };
    let mut stereo = Vec::with_capacity(samples.len() / weights.len() * STEREO);
    for frame in samples.chunks_exact(weights.len()) {
        stereo.push(mixed(frame, |w| w.0));
        stereo.push(mixed(frame, |w| w.1));
    }
    stereo
}

/// Makes samples as loud as `percent` says: 100 leaves them exact, 0 is silence; in between the third power, which is
/// about how loudness is felt.
pub fn soften(samples: &mut [i32], percent: u8) {
    let percent = i64::from(percent.min(100));
    if percent == 100 {
        return;
    }
    let cubed = percent * percent * percent;
    for sample in samples {
        *sample = i32::try_from(i64::from(*sample) * cubed / 1_000_000)
            .expect("a sample times at most one is a sample");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mono_is_heard_on_both_sides_and_stereo_is_untouched() {
        assert_eq!(to_stereo(vec![1, i32::MIN], 1), [1, 1, i32::MIN, i32::MIN]);
        assert_eq!(to_stereo(vec![1, 2, 3, 4], 2), [1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn nothing_clips(channels in 1_u16..=8, full in prop_oneof![Just(i32::MAX), Just(i32::MIN)]) {
            let frame = vec![full; usize::from(channels)];
            for side in to_stereo(frame, channels) {
                prop_assert!(i64::from(side).abs() <= i64::from(full).abs());
                prop_assert_eq!(side.signum(), full.signum());
            }
        }

        #[test]
        fn softer_is_never_louder(sample in any::<i32>(), percent in 0_u8..=100) {
            let mut one = [sample];
            soften(&mut one, percent);
            prop_assert!(i64::from(one[0]).abs() <= i64::from(sample).abs());
            if percent == 100 { prop_assert_eq!(one[0], sample); }
            if percent == 0 { prop_assert_eq!(one[0], 0); }
        }
    }
}
