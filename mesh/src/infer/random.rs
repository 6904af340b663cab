//! Result types of random numbers.

use super::{absent, count, of};
use crate::{
    AxisSet, DType, Diagnostic, Type,
    ir::{Dist, Random},
};

pub(super) fn infer(op: &Random, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    count(args, 2, "random")?;
    if !args[0].matches(&Type::scalar(DType::U32)) {
        return Err(Diagnostic::new("random_n1", "the seed of random is one replicated u32")
            .help("cast it, and all-reduce it if it is a pending sum"));
    }
    let counter = args[1];
    if counter.dtype != DType::U32 || !counter.pending().is_empty() {
        return Err(Diagnostic::new("random_n1", "the counter of random is a complete u32")
            .help("cast it, and all-reduce it if it is a pending sum"));
    }
    op.dims.iter().try_for_each(|d| absent(counter, &d.dim.name, "random"))?;
    let ok = match op.dist {
        Dist::Bits => op.dtype == DType::U32,
        Dist::Uniform | Dist::Normal | Dist::TruncatedNormal => op.dtype.is_float(),
        Dist::Bernoulli(_) => op.dtype == DType::Pred,
    };
    if !ok {
        return Err(Diagnostic::new(
            "random_n2",
            format!("random numbers of this distribution cannot be {}", op.dtype),
        )
        .help("`bits` are u32, `bernoulli` is pred, the others are floats"));
    }
    if let Dist::Bernoulli(p) = op.dist
        && !(0.0..=1.0).contains(&p)
    {
        return Err(Diagnostic::new("random_n3", format!("{p} is not a probability"))
            .help("a probability is between 0 and 1"));
    }
    let dims = counter.dims.iter().chain(&op.dims).cloned().collect();
    Ok(vec![of(op.dtype, dims, AxisSet::EMPTY)])
}
