//! Result types of einsum.

use super::{agree, count, dtype, linear, of, with_hint};
use crate::{AxisSet, DType, Diagnostic, Env, Type, ir::Contract};

pub(super) fn infer(env: &Env, op: &Contract, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    count(args, 2, "einsum")?;
    let (a, b) = (args[0], args[1]);
    dtype(a, |d| d != DType::Pred, "numbers", "einsum")?;
    if a.dtype != b.dtype {
        return Err(Diagnostic::new("contract_c1", format!("einsum of {} and {}", a.dtype, b.dtype))
            .help("cast one of the two; there are no implicit conversions"));
    }
    if !(a.dtype == op.dtype || a.dtype.is_float() && op.dtype.is_float()) {
        let expected = if a.dtype.is_float() { "a float" } else { a.dtype.name() };
        let message = format!("the result of einsum of {} is {expected}, not {}", a.dtype, op.dtype);
        return Err(Diagnostic::new("contract_c2", message).help("cast the result"));
    }
    agree(env, a, b, "einsum")?;
    linear(env, a, "einsum")?;
    linear(env, b, "einsum")?;
    let mut dims = Vec::new();
    for name in &op.out {
        let Some(d) = a.dim(name).or_else(|| b.dim(name)) else {
            return Err(Diagnostic::new(
                "contract_c3",
                format!("einsum: the result's dim `{name}` is in neither operand"),
            )
            .help(with_hint(
                name,
                a.names().chain(b.names()),
                &format!("operands: {} and {}", a.display(&env.mesh), b.display(&env.mesh)),
            )));
        };
        dims.push(d.clone());
    }
    check_shards(env, op, a, b)?;
    let summed = a.dims.iter().chain(&b.dims).filter(|d| !op.out.contains(&d.dim.name));
    let summed: AxisSet = summed.flat_map(|d| d.axes.iter().copied()).collect();
    Ok(vec![of(op.dtype, dims, a.sum.union(b.sum).union(summed))])
}

/// Checks that the shards of both operands on one device belong together.
fn check_shards(env: &Env, op: &Contract, a: &Type, b: &Type) -> Result<(), Diagnostic> {
    for (x, y) in [(a, b), (b, a)] {
        // Each device would multiply one shard of `x` with one of `y`: most pairs of shards would be missing.
        let alone = x.dims.iter().filter(|d| !y.has(&d.dim.name) && !op.out.contains(&d.dim.name));
        if let Some(d) = alone.into_iter().find(|d| d.axes.iter().any(|axis| y.split().contains(*axis))) {
            return Err(Diagnostic::new(
                "contract_c5",
                format!(
                    "einsum: dim `{}` of one operand is summed and split over an axis that splits the other operand: \
                     {} and {}",
                    d.dim.name,
                    a.display(&env.mesh),
                    b.display(&env.mesh)
                ),
            )
            .help(format!("gather `{}`, or sum over it, first", d.dim.name)));
        }
        if !x.sum.intersect(y.sum.union(y.split())).is_empty() {
            return Err(Diagnostic::new(
                "contract_c4",
                format!(
                    "einsum: one operand is a pending sum over an axis along which the other is not replicated: \
                     {} and {}",
                    a.display(&env.mesh),
                    b.display(&env.mesh)
                ),
            )
            .help("all-reduce the pending one first"));
        }
    }
    Ok(())
}
