//! Random numbers: the results of `random` instructions, bit for bit. The interpreter calls these
//! functions. The HLO emitter writes the same arithmetic as instructions, with the constants of this file.
//!
//! The generator is Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
//! a keyed bijection of pairs of words. An element's number therefore depends only on the key and the
//! element's position. The key is (seed, counter). The position is the element's logical row-major position
//! over all dims, so the numbers are the same under every layout.

/// Rounds of Threefry-2x32; 13 are enough to pass every test of BigCrush (section 5 of the paper).
pub const THREEFRY_ROUNDS: u32 = 13;

/// Rotations of Threefry-2x32, used in turn (the paper's table 4).
pub const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];

/// The parity word of the key schedule: the third key word is this, xor both key words.
pub const PARITY: u32 = 0x1BD1_1BDA;

/// Multiplied with the high part of a position before it enters the first input word, to keep it apart
/// from small stream numbers there (2^32 divided by the golden ratio).
pub const HIGH_FACTOR: u32 = 0x9E37_79B9;

/// `erf(√2)`: the fraction of a normal distribution within two standard deviations.
pub const ERF_SQRT_2: f32 = 0.954_499_7;

/// Threefry-2x32 with `rounds` rounds. A key word is added after every fourth.
pub fn threefry2x32(rounds: u32, key: [u32; 2], input: [u32; 2]) -> [u32; 2] {
    let key = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let [mut x0, mut x1] = [input[0].wrapping_add(key[0]), input[1].wrapping_add(key[1])];
    for (round, rotation) in (1..=rounds).zip(ROTATIONS.into_iter().cycle()) {
        x0 = x0.wrapping_add(x1);
        x1 = x1.rotate_left(rotation) ^ x0;
        if round % 4 == 0 {
            let s = round / 4;
            x0 = x0.wrapping_add(key[s as usize % 3]);
            x1 = x1.wrapping_add(key[(s as usize + 1) % 3]).wrapping_add(s);
        }
    }
    [x0, x1]
}

/// The number of leading dims of `sizes` that form the high part of a position. The other dims, the longest
/// suffix of at most 2^32 elements, form the low part.
pub fn high_dims(sizes: &[usize]) -> usize {
    let mut low = 1u64;
    let mut first = sizes.len();
    while first > 0 {
        let Some(product) = low.checked_mul(sizes[first - 1] as u64).filter(|n| *n <= 1 << 32) else { break };
        low = product;
        first -= 1;
    }
    first
}

/// The (high, low) words of the position `index` in a tensor of `sizes`. High words wrap.
pub fn position(sizes: &[usize], index: &[usize]) -> (u32, u32) {
    let split = high_dims(sizes);
    let row_major = |from: usize, to: usize| {
        (from..to).fold(0u32, |p, i| p.wrapping_mul(sizes[i] as u32).wrapping_add(index[i] as u32))
    };
    (row_major(0, split), row_major(split, sizes.len()))
}

/// The 32 random bits of the element at position (`high`, `low`).
pub fn bits(seed: u32, counter: u32, stream: u32, (high, low): (u32, u32)) -> u32 {
    threefry2x32(THREEFRY_ROUNDS, [seed, counter], [stream ^ high.wrapping_mul(HIGH_FACTOR), low])[0]
}

/// Uniform in [0, 1): the top 24 bits.
pub fn uniform(bits: u32) -> f32 {
    (bits >> 8) as f32 * f32::powi(2.0, -24)
}

/// Uniform in the open interval (-1, 1), and symmetric: `(bits >> 8) + 1/2` steps of 2^-23 above -1. The
/// integer is centred before it becomes a float, so that every step is exact.
pub fn symmetric(bits: u32) -> f32 {
    (((bits >> 8) as i32 - (1 << 23)) as f32 + 0.5) * f32::powi(2.0, -23)
}

/// Normal with mean 0 and standard deviation 1, by the inverse of the distribution function.
pub fn normal(bits: u32) -> f32 {
    std::f32::consts::SQRT_2 * erfinv(symmetric(bits))
}

/// The normal distribution within two standard deviations.
pub fn truncated_normal(bits: u32) -> f32 {
    (std::f32::consts::SQRT_2 * erfinv(symmetric(bits) * ERF_SQRT_2)).clamp(-2.0, 2.0)
}

/// The threshold below which bits mean `true` with probability `p`. `None` means that all bits do.
pub fn bernoulli_threshold(p: f64) -> Option<u32> {
    let threshold = (p * f64::powi(2.0, 32)).round();
    (threshold < f64::powi(2.0, 32)).then_some(threshold as u32)
}

/// True with probability `p`.
pub fn bernoulli(bits: u32, p: f64) -> bool {
    bernoulli_threshold(p).is_none_or(|threshold| bits < threshold)
}

/// Coefficients of [`erfinv`] for `w < 5`, highest power first.
pub const ERFINV_NEAR: [f32; 9] = [
    2.810_226_4e-8,
    3.432_739_4e-7,
    -3.523_387_7e-6,
    -4.391_506_5e-6,
    0.000_218_580_87,
    -0.001_253_725,
    -0.004_177_681_6,
    0.246_640_73,
    1.501_409_4,
];

/// Coefficients of [`erfinv`] for `w >= 5`, highest power first.
pub const ERFINV_FAR: [f32; 9] = [
    -0.000_200_214_26,
    0.000_100_950_56,
    0.001_349_343_2,
    -0.003_673_428_4,
    0.005_739_507_7,
    -0.007_622_461_3,
    0.009_438_870_5,
    1.001_674,
    2.832_976_8,
];

/// The inverse of the error function (Giles, "Approximating the erfinv function", GPU Computing Gems 2,
/// 2010, the single-precision polynomials).
pub fn erfinv(x: f32) -> f32 {
    let w = -(-x * x).ln_1p();
    let (t, coefficients) = if w < 5.0 { (w - 2.5, ERFINV_NEAR) } else { (w.sqrt() - 3.0, ERFINV_FAR) };
    x * coefficients.into_iter().fold(0.0, |p, c| p * t + c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threefry_gives_the_known_answers_of_its_authors() {
        #[track_caller]
        fn check(key: [u32; 2], input: [u32; 2], expect: [u32; 2]) {
            assert_eq!(threefry2x32(20, key, input), expect);
        }
        check([0, 0], [0, 0], [0x6b20_0159, 0x99ba_4efe]);
        check([u32::MAX; 2], [u32::MAX; 2], [0x1cb9_96fc, 0xbb00_2be7]);
        check([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3], [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn positions_split_at_two_to_the_32() {
        assert_eq!(high_dims(&[3, 4]), 0);
        assert_eq!(high_dims(&[1 << 16, 1 << 16]), 0);
        assert_eq!(high_dims(&[2, 1 << 16, 1 << 16]), 1);
        assert_eq!(high_dims(&[5, 3, (1 << 32) + 1]), 3);
        assert_eq!(position(&[3, 4, 5], &[2, 1, 3]), (0, 2 * 20 + 5 + 3));
        assert_eq!(position(&[7, 5, 1 << 16, 1 << 16], &[6, 4, 1, 2]), (34, (1 << 16) + 2));
    }

    #[test]
    fn numbers_stay_inside_their_ranges() {
        assert_eq!(uniform(0), 0.0);
        assert_eq!(uniform(u32::MAX), 1.0 - f32::powi(2.0, -24));
        assert_eq!(symmetric(0), -1.0 + f32::powi(2.0, -24));
        assert_eq!(symmetric(u32::MAX), 1.0 - f32::powi(2.0, -24));
        for bits in [0, 0xff, 1 << 31, u32::MAX - 0x100, u32::MAX] {
            assert_eq!(normal(bits), -normal(!bits), "the distribution is symmetric");
            assert!(normal(bits).abs() < 6.0);
            assert!(truncated_normal(bits).abs() <= 2.0);
        }
        assert!(truncated_normal(u32::MAX) > 1.999, "{}", truncated_normal(u32::MAX));
        assert!(bernoulli(u32::MAX, 1.0) && !bernoulli(0, 0.0));
        assert!(bernoulli((1 << 30) - 1, 0.25) && !bernoulli(1 << 30, 0.25));
    }

    #[test]
    fn erfinv_inverts_erf() {
        // Values of erf from Abramowitz and Stegun, table 7.1.
        for (x, erf) in [(0.1, 0.112_462_92), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3)] {
            assert!((erfinv(erf) / x - 1.0f32).abs() < 1e-5, "{} is not {x}", erfinv(erf));
        }
        assert!((erfinv(ERF_SQRT_2) - std::f32::consts::SQRT_2).abs() < 1e-5);
    }

    #[test]
    fn numbers_have_the_moments_of_their_distribution() {
        let n = 1 << 16;
        let bits: Vec<u32> = (0..n).map(|low| bits(7, 3, 1, (0, low))).collect();
        let moments = |f: fn(u32) -> f32| {
            let sum = |g: &dyn Fn(f64) -> f64| bits.iter().map(|b| g(f64::from(f(*b)))).sum::<f64>();
            let mean = sum(&|x| x) / f64::from(n);
            (mean, sum(&|x| (x - mean).powi(2)) / f64::from(n))
        };
        let near = |a: f64, b: f64| (a - b).abs() < 0.015;
        let (mean, variance) = moments(uniform);
        assert!(near(mean, 0.5) && near(variance, 1.0 / 12.0), "{mean} {variance}");
        let (mean, variance) = moments(normal);
        assert!(near(mean, 0.0) && near(variance, 1.0), "{mean} {variance}");
        // 1 - 2·2·φ(2) / erf(√2)
        let (mean, variance) = moments(truncated_normal);
        assert!(near(mean, 0.0) && near(variance, 0.773_7), "{mean} {variance}");
    }
}
