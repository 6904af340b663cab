//! Random numbers as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
};
use crate::ir::{Dist, Random};

pub(super) const NAME: &str = "random";

/// The word of a distribution. The probability of `bernoulli` is a separate attribute.
fn dist(x: Dist) -> &'static str {
    match x {
        Dist::Bits => "bits",
        Dist::Uniform => "uniform",
        Dist::Normal => "normal",
        Dist::TruncatedNormal => "truncated_normal",
        Dist::Bernoulli(_) => "bernoulli",
    }
}

pub(super) fn attributes(op: &Random, a: &mut AttrWriter<'_>) {
    a.name("dist", dist(op.dist));
    match op.dist {
        Dist::Bernoulli(p) => a.float("p", p),
        Dist::Bits | Dist::Uniform | Dist::Normal | Dist::TruncatedNormal => {}
    }
    a.dims("dims", &op.dims);
    a.name("dtype", op.dtype.name());
    a.size("stream", op.stream as usize);
}

pub(super) fn build(a: &mut Attrs<'_, '_>) -> Parsed<Random> {
    let plain = [Dist::Bits, Dist::Uniform, Dist::Normal, Dist::TruncatedNormal, Dist::Bernoulli(0.0)];
    let dist = match a.choice("dist", &plain.map(|d| (dist(d), d)))? {
        Dist::Bernoulli(_) => Dist::Bernoulli(a.float("p")?),
        plain @ (Dist::Bits | Dist::Uniform | Dist::Normal | Dist::TruncatedNormal) => plain,
    };
    Ok(Random { dist, dims: a.dims("dims")?, dtype: a.dtype("dtype")?, stream: a.u32("stream")? })
}
