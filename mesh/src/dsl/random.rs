//! Random numbers. They are counter-based, so that they are the same under every layout.

use super::{Dims, Graph, Tensor};
use crate::{
    DType, Dim, Op, Site, TensorDim,
    ir::{Binary, Dist, Random},
};

/// The scope of operations that are computed again later ([`Graph::rehearse`]); reports count them apart.
pub const REHEARSAL: &str = "rehearsal";

/// A source of random numbers: a seed and a counter. Every call of a method uses a separate stream, which
/// depends only on the scope and on the number of earlier calls in it. A change in one layer therefore does
/// not change the numbers of another. Fold the step and the iteration into the counter with [`Rng::fold`].
#[derive(Clone, Copy, Debug)]
pub struct Rng<'g> {
    seed: Tensor<'g>,
    counter: Tensor<'g>,
}

impl<'g> Rng<'g> {
    /// Creates a source from two `u32` without dims.
    pub fn new(seed: Tensor<'g>, counter: Tensor<'g>) -> Self {
        Self { seed, counter }
    }

    /// Returns a source with the integer `x`, such as the number of an iteration, folded into the counter
    /// (`fold_in` in JAX). The counter is multiplied first, so that nearby counters and `x` do not collide.
    #[track_caller]
    pub fn fold(self, x: Tensor<'g>) -> Self {
        let site = self.seed.graph.site();
        let part = if x.dtype() == DType::U32 { x } else { x.cast(DType::U32) };
        // 2^32 / golden ratio, odd: its small multiples are far from each other.
        let factor = self.seed.graph.number(f64::from(0x9E37_79B9u32), DType::U32, &site);
        let counter = self.counter.times(factor, &site);
        Self { counter: counter.binary_at(Binary::Add, part, &site), ..self }
    }

    /// Draws uniform numbers in [0, 1).
    #[track_caller]
    pub fn uniform(self, dims: impl Dims, dtype: DType) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::Uniform, &dims.dims(), dtype, self.seed.graph.stream(), &site)
    }

    /// Draws normal numbers with mean 0 and standard deviation 1.
    #[track_caller]
    pub fn normal(self, dims: impl Dims, dtype: DType) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::Normal, &dims.dims(), dtype, self.seed.graph.stream(), &site)
    }

    /// Draws normal numbers with mean 0 and standard deviation 1, truncated at two standard deviations.
    #[track_caller]
    pub fn truncated_normal(self, dims: impl Dims, dtype: DType) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::TruncatedNormal, &dims.dims(), dtype, self.seed.graph.stream(), &site)
    }

    /// Draws `pred`s that are true with probability `p`.
    #[track_caller]
    pub fn bernoulli(self, p: f64, dims: impl Dims) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::Bernoulli(p), &dims.dims(), DType::Pred, self.seed.graph.stream(), &site)
    }

    /// Draws `u32`s with 32 random bits.
    #[track_caller]
    pub fn bits(self, dims: impl Dims) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::Bits, &dims.dims(), DType::U32, self.seed.graph.stream(), &site)
    }

    pub(super) fn draw(self, dist: Dist, dims: &[Dim], dtype: DType, stream: u32, site: &Site) -> Tensor<'g> {
        let dims = dims.iter().map(|dim| TensorDim { dim: dim.clone(), axes: Vec::new() }).collect();
        let op = Op::Random(Random { dist, dims, dtype, stream });
        self.seed.apply(op, &[self.counter], site)
    }
}

impl Graph {
    /// Runs `f` in the scope [`REHEARSAL`], and then lets operations draw the random numbers that those in
    /// `f` drew: for code that computes something twice.
    pub fn rehearse<T>(&self, f: impl FnOnce() -> T) -> T {
        let before = self.inner.borrow().streams.clone();
        let made = self.scope(REHEARSAL, f);
        self.inner.borrow_mut().streams = before;
        made
    }

    /// Returns a stream that no random operation of this function uses yet.
    fn stream(&self) -> u32 {
        let path: Vec<String> =
            self.scope_path().split('/').filter(|s| *s != REHEARSAL).map(str::to_owned).collect();
        let path = path.join("/");
        self.inner.borrow_mut().streams.next(&path)
    }
}
