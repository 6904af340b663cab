//! Random numbers: a function of seed, counter, stream and logical position.

use super::{Device, Tensor, shape};
use mesh::{
    Dim,
    ir::{Dist, Random},
    random,
};
use ndarray::{ArrayD, Dimension, IxDyn};

pub(super) fn eval(at: &Device<'_>, op: &Random, seed: &Tensor, counter: &Tensor) -> Tensor {
    let seed = seed.number() as u32;
    let sizes: Vec<usize> = op.dims.iter().map(|d| d.dim.size).collect();
    let dims: Vec<Dim> = op.dims.iter().map(|d| shape::local(at, d)).collect();
    let outer = counter.data.ndim();
    let local: Vec<usize> = counter.data.shape().iter().copied().chain(dims.iter().map(|d| d.size)).collect();
    let data = ArrayD::from_shape_fn(IxDyn(&local), |index| {
        let (own, index) = index.slice().split_at(outer);
        let logical: Vec<usize> = op.dims.iter().enumerate().map(|(i, d)| at.offset(d) + index[i]).collect();
        let counter = counter.data[IxDyn(own)] as u32;
        let bits = random::bits(seed, counter, op.stream, random::position(&sizes, &logical));
        at.precision.store(op.dtype, number(op.dist, bits))
    });
    let names = counter.names.iter().cloned().chain(dims.into_iter().map(|d| d.name)).collect();
    Tensor { dtype: op.dtype, names, data }
}

fn number(dist: Dist, bits: u32) -> f64 {
    match dist {
        Dist::Bits => f64::from(bits),
        Dist::Uniform => f64::from(random::uniform(bits)),
        Dist::Normal => f64::from(random::normal(bits)),
        Dist::TruncatedNormal => f64::from(random::truncated_normal(bits)),
        Dist::Bernoulli(p) => f64::from(random::bernoulli(bits, p)),
    }
}
