//! Stateless random numbers and permutations: functions of a key.

/// A random number generator seeded by a key (SplitMix64: Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Creates the generator of a key. Different keys give independent numbers.
    pub fn keyed(key: &[u64]) -> Self {
        // The length is absorbed first, so that [a] and [a, 0] differ.
        let absorb =
            |state: u64, part: u64| mix(state.wrapping_mul(5).wrapping_add(part).wrapping_add(GOLDEN));
        Self(key.iter().fold(absorb(0, key.len() as u64), |state, part| absorb(state, *part)))
    }

    /// Returns the next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Returns a uniform number below `n`. `n` is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Rejects the last, incomplete range of 0..n, which would bias small numbers.
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let bits = self.bits();
            if bits < limit {
                return bits % n;
            }
        }
    }
}

/// A pseudo-random permutation of `0..len`, computed element by element: a Feistel network over the next
/// power of four with cycle walking (Black and Rogaway 2002).
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

const ROUNDS: usize = 8;

impl Permutation {
    /// Creates the permutation of a key.
    pub fn new(len: u64, key: &[u64]) -> Self {
        let mut rng = Rng::keyed(key);
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.bits()) }
    }

    /// Returns the image of `index`, which is below the length.
    pub fn at(&self, index: u64) -> u64 {
        let mut at = index;
        loop {
            at = self.shuffle(at);
            // Terminates: the cycle of an index in the range returns to the range, at the latest to the index
            // itself.
            if at < self.len {
                return at;
            }
        }
    }

    fn shuffle(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A bijection of 64 bits in which every bit depends on all (the finalizer of SplitMix64).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_permuted_differently_by_every_key() {
        for len in (1..70).chain([255, 256, 257, 5000]) {
            let of = |key| {
                let p = Permutation::new(len, &[3, key]);
                (0..len).map(|i| p.at(i)).collect::<Vec<_>>()
            };
            let (a, b) = (of(0), of(1));
            let mut sorted = a.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..len).collect::<Vec<_>>());
            assert_eq!(a, of(0));
            assert!(len < 8 || a != b);
        }
    }

    #[test]
    fn a_permutation_leaves_no_order_behind() {
        let len = 4096;
        let p = Permutation::new(len, &[7]);
        // The mean distance of neighbours is that of random positions: a third of the range.
        let apart = (1..len).map(|i| p.at(i).abs_diff(p.at(i - 1)) as f64).sum::<f64>() / (len - 1) as f64;
        assert!((apart / len as f64 - 1.0 / 3.0).abs() < 0.02, "{apart}");
        let fixed = (0..len).filter(|i| p.at(*i) == *i).count();
        assert!(fixed < 8, "{fixed} fixed points; 1 is expected");
    }

    #[test]
    fn numbers_are_even_and_keys_independent() {
        let mut counts = [0; 10];
        let mut rng = Rng::keyed(&[1, 2]);
        for _ in 0..10_000 {
            counts[rng.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (880..1120).contains(c)), "{counts:?}");
        let first: std::collections::BTreeSet<u64> =
            [&[1][..], &[1, 0], &[0, 1], &[2, 0], &[0, 0], &[0], &[]]
                .into_iter()
                .map(|key| Rng::keyed(key).bits())
                .collect();
        assert_eq!(first.len(), 7);
    }
}
