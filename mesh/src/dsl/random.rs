//! Random numbers: counter-based, so that they are the same under every layout.

use super::{Dims, Graph, Tensor, stream::hash};
use crate::{
    DType, Dim, Op, Site, TensorDim,
    ir::{Binary, Dist, Random},
};

/// A source of random numbers: a seed and a counter. Every call of a method draws from a stream of its
/// own, named by the scope and by how many calls the scope has seen, so that a change in one layer does
/// not change the numbers of another. What must vary from step to step or from iteration to iteration
/// goes into the counter, by [`Rng::fold`].
#[derive(Clone, Copy, Debug)]
pub struct Rng<'g> {
    seed: Tensor<'g>,
    counter: Tensor<'g>,
}

impl<'g> Rng<'g> {
    /// From two numbers without dims; `u32` both.
    pub fn new(seed: Tensor<'g>, counter: Tensor<'g>) -> Self {
        Self { seed, counter }
    }

    /// A source for the part `x` (an integer without dims) of what this one serves: one iteration of a
    /// scan, say. Counter and `x` are mixed so that neighbouring ones do not meet.
    #[track_caller]
    pub fn fold(self, x: Tensor<'g>) -> Self {
        let site = self.seed.graph.site();
        let part = if x.dtype() == DType::U32 { x } else { x.cast(DType::U32) };
        // 2^32 / golden ratio, odd: multiples of it by small numbers lie far apart.
        let factor = self.seed.graph.number(f64::from(0x9E37_79B9u32), DType::U32, &site);
        let counter = self.counter.times(factor, &site);
        Self { counter: counter.binary_at(Binary::Add, part, &site), ..self }
    }

    /// Even in [0, 1).
    #[track_caller]
    pub fn uniform(self, dims: impl Dims, dtype: DType) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::Uniform, &dims.dims(), dtype, self.seed.graph.stream(), &site)
    }

    /// Mean 0, deviation 1.
    #[track_caller]
    pub fn normal(self, dims: impl Dims, dtype: DType) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::Normal, &dims.dims(), dtype, self.seed.graph.stream(), &site)
    }

    /// Mean 0, deviation 1, drawn again while beyond two deviations.
    #[track_caller]
    pub fn truncated_normal(self, dims: impl Dims, dtype: DType) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::TruncatedNormal, &dims.dims(), dtype, self.seed.graph.stream(), &site)
    }

    /// A `pred`, true with probability `p`.
    #[track_caller]
    pub fn bernoulli(self, p: f64, dims: impl Dims) -> Tensor<'g> {
        let site = self.seed.graph.site();
        self.draw(Dist::Bernoulli(p), &dims.dims(), DType::Pred, self.seed.graph.stream(), &site)
    }

    /// All 32 bits.
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
    /// A stream that no random operation of this function has yet.
    fn stream(&self) -> u32 {
        let path = self.scope_path();
        let (counts, taken) = &mut self.inner.borrow_mut().streams;
        let count = counts.entry(path.clone()).or_default();
        loop {
            let stream = hash(&format!("{path}#{count}"));
            *count += 1;
            if taken.insert(stream) {
                return stream;
            }
        }
    }
}
