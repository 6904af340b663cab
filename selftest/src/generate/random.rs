//! Random-number operations in random programs.

use super::program::{Facts, Gen};
use super::shape::unsplit;
use mesh::{
    DType,
    ir::{Dist, Random},
};

impl Gen<'_, '_> {
    pub(super) fn random(&mut self) -> Option<()> {
        let word = |g: &Self, v| g.ty(v).dtype == DType::U32 && g.ty(v).dims.is_empty();
        let (seed, counter) = (self.value(word)?, self.value(word)?);
        let float = self.rng.one_of([DType::F32, DType::F32, DType::Bf16]);
        let p = self.rng.one_of([0.0, 0.1, 0.5, 1.0]);
        let (dist, dtype, facts) = match self.rng.below(5) {
            0 => (Dist::Bits, DType::U32, Facts::exact(f64::from(u32::MAX))),
            // bf16 does not represent the 24 bits of a uniform number.
            1 => (Dist::Uniform, float, Facts { exact: float == DType::F32, ..Facts::exact(1.0) }),
            2 => (Dist::Normal, float, Facts::rounded(6.0)),
            3 => (Dist::TruncatedNormal, float, Facts::rounded(2.0)),
            _ => (Dist::Bernoulli(p), DType::Pred, Facts::exact(1.0)),
        };
        let mut dims = self.rng.shuffled(self.pool);
        dims.truncate(self.rng.below(4));
        let dims = dims.into_iter().map(unsplit).collect();
        let stream = self.rng.below(1000) as u32;
        self.emit1(Random { dist, dims, dtype, stream }, &[seed, counter], facts).map(drop)
    }
}
