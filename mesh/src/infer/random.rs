//! Result types of random numbers.

use super::{count, of};
use crate::{
    AxisSet, DType, Diagnostic, Type,
    ir::{Dist, Random},
};

pub(super) fn infer(op: &Random, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    count(args, 2, "random")?;
    for (x, what) in args.iter().zip(["seed", "counter"]) {
        if !x.matches(&Type::scalar(DType::U32)) {
            return Err(Diagnostic::new("random_n1", format!("the {what} of random is one replicated u32"))
                .help("cast it, and all-reduce it if it is a pending sum"));
        }
    }
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
    Ok(vec![of(op.dtype, op.dims.clone(), AxisSet::EMPTY)])
}
