//! Reproducible random values: a BLAKE3 stream, keyed by a seed and a name.

/// A random stream.
pub struct Random(blake3::OutputReader);

impl Random {
    /// Returns the stream of a seed and a name.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("mesh checkpoint conversion");
        hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
        Self(hasher.finalize_xof())
    }

    /// Returns a normal value with mean 0 and standard deviation 1.
    pub fn normal(&mut self) -> f64 {
        // The Box-Muller transform; the argument of the logarithm is above 0.
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Returns a normal value, redrawn until it is within two standard deviations.
    pub fn truncated(&mut self) -> f64 {
        loop {
            let x = self.normal();
            if x.abs() <= 2.0 {
                return x;
            }
        }
    }

    /// Returns a whole number below `bound`, which is above 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((self.uniform() * bound as f64) as usize).min(bound - 1)
    }

    /// Returns a uniform value in [0, 1).
    fn uniform(&mut self) -> f64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_moments_they_should_have() {
        let draw = |f: fn(&mut Random) -> f64, name| {
            let mut random = Random::new(1, name);
            let x: Vec<f64> = (0..20_000).map(|_| f(&mut random)).collect();
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            (mean, (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt(), x)
        };
        let (mean, deviation, _) = draw(Random::normal, "a");
        assert!(mean.abs() < 0.03 && (deviation - 1.0).abs() < 0.03, "{mean} {deviation}");
        // A normal distribution cut at two deviations has 0.8796 of the deviation.
        let (mean, deviation, x) = draw(Random::truncated, "b");
        assert!(mean.abs() < 0.03 && (deviation - 0.8796).abs() < 0.03, "{mean} {deviation}");
        assert!(x.iter().all(|x| x.abs() <= 2.0));
        assert_eq!(draw(Random::normal, "a").2, draw(Random::normal, "a").2);
        assert_ne!(draw(Random::normal, "a").2[0], draw(Random::normal, "c").2[0]);
    }
}
