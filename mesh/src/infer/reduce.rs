//! Result types of reductions.

use super::{complete, count, dtype, find, linear, of, whole};
use crate::{
    AxisSet, DType, Diagnostic, Env, Type,
    ir::{Reduce, ReduceKind},
};

pub(super) fn infer(env: &Env, op: &Reduce, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    count(args, 1, "a reduction")?;
    let x = args[0];
    match op {
        Reduce::Over { kind, dims } => {
            for (i, name) in dims.iter().enumerate() {
                find(x, name, "reduction")?;
                if dims[..i].contains(name) {
                    return Err(Diagnostic::new("reduce_r1", format!("reduction over dim `{name}` twice")));
                }
            }
            let kept = x.dims.iter().filter(|d| !dims.contains(&d.dim.name)).cloned().collect();
            let removed: AxisSet = dims.iter().flat_map(|n| x.axes_of(n).iter().copied()).collect();
            let number = |d: DType| d != DType::Pred;
            match kind {
                ReduceKind::Sum => {
                    dtype(x, number, "a number", "a sum")?;
                    linear(env, x, "a sum")?;
                    Ok(vec![of(x.dtype, kept, x.sum.union(removed))])
                }
                ReduceKind::Mean => {
                    dtype(x, |d| d.is_float(), "a float", "a mean")?;
                    linear(env, x, "a mean")?;
                    dims.iter().try_for_each(|n| whole(env, x, n, "a mean"))?;
                    Ok(vec![of(x.dtype, kept, x.sum)])
                }
                ReduceKind::Max | ReduceKind::Min => {
                    complete(env, x, "a max or min")?;
                    let mut ty = of(x.dtype, kept, AxisSet::EMPTY);
                    if *kind == ReduceKind::Max {
                        ty.max = removed;
                    } else {
                        ty.min = removed;
                    }
                    Ok(vec![ty])
                }
                ReduceKind::LogSumExp => {
                    dtype(x, |d| d.is_float(), "a float", "logsumexp")?;
                    complete(env, x, "logsumexp")?;
                    dims.iter().try_for_each(|n| whole(env, x, n, "logsumexp"))?;
                    Ok(vec![of(x.dtype, kept, AxisSet::EMPTY)])
                }
            }
        }
        Reduce::ArgMax { dim } => {
            dtype(x, |d| d != DType::Pred, "a number", "argmax")?;
            complete(env, x, "argmax")?;
            whole(env, x, dim, "argmax")?;
            let kept = x.dims.iter().filter(|d| d.dim.name != *dim).cloned().collect();
            Ok(vec![of(DType::S32, kept, AxisSet::EMPTY)])
        }
    }
}
