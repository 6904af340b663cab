//! Reductions. A sum over split dims stays pending, and a max or min is all-reduced at once. Reductions that
//! need whole dims are composed of these.

use super::walk::Walk;
use mesh::{
    AxisSet, DType, Diagnostic, Inst, Name, TensorDim, Type, Value,
    ir::{Binary, Compare, Elementwise, Op, Reduce, ReduceKind, Unary},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Reduce) -> Result<(), Diagnostic> {
    let x = inst.args[0];
    let form = walk.home(x);
    match op {
        Reduce::Over { kind, dims } => {
            let gone: AxisSet = dims.iter().flat_map(|n| form.axes_of(n).iter().copied()).collect();
            match kind {
                ReduceKind::Sum => {
                    let x = linear(walk, x, form)?;
                    walk.done(inst, Op::Reduce(op.clone()), &[x])
                }
                ReduceKind::Mean => {
                    let n: usize = dims.iter().filter_map(|n| form.size(n)).product();
                    let x = linear(walk, x, form)?;
                    if gone.is_empty() {
                        return walk.done(inst, Op::Reduce(op.clone()), &[x]);
                    }
                    let mean = mean(walk, x, dims, n)?;
                    walk.set(inst.results[0], mean);
                    Ok(())
                }
                ReduceKind::Max | ReduceKind::Min => {
                    let x = walk.get(x, &form)?;
                    let y = walk.emit(Op::Reduce(op.clone()), &[x])?;
                    let y = walk.reduce_pending(y)?;
                    walk.set(inst.results[0], y);
                    Ok(())
                }
                ReduceKind::LogSumExp => {
                    let x = walk.get(x, &form)?;
                    if gone.is_empty() {
                        return walk.done(inst, Op::Reduce(op.clone()), &[x]);
                    }
                    let y = log_sum_exp(walk, x, dims)?;
                    walk.set(inst.results[0], y);
                    Ok(())
                }
            }
        }
        Reduce::ArgMax { dim } => {
            let local = walk.get(x, &form)?;
            let split = form.dim(dim).filter(|d| !d.axes.is_empty());
            let Some(split) = split.cloned() else {
                return walk.done(inst, Op::Reduce(op.clone()), &[local]);
            };
            let y = arg_max(walk, local, split)?;
            walk.set(inst.results[0], y);
            Ok(())
        }
    }
}

/// The operand of a linear reduction, which may stay pending.
fn linear(walk: &mut Walk<'_>, x: Value, mut form: Type) -> Result<Value, Diagnostic> {
    form.sum = walk.lazy(x).minus(form.split());
    walk.get(x, &form)
}

/// `Σ x / n`, computed in float32 and rounded once.
fn mean(walk: &mut Walk<'_>, x: Value, dims: &[Name], n: usize) -> Result<Value, Diagnostic> {
    let dtype = walk.b.ty(x).dtype;
    let wide = walk.cast(DType::F32, x)?;
    let sum = walk.fold(ReduceKind::Sum, dims, wide)?;
    let n = walk.constant(DType::F32, n as f64)?;
    let mean = walk.binary(Binary::Div, sum, n)?;
    walk.cast(dtype, mean)
}

/// `m + ln Σ e^(x - m)`, where `m` is the maximum, or 0 where the maximum is infinite.
fn log_sum_exp(walk: &mut Walk<'_>, x: Value, dims: &[Name]) -> Result<Value, Diagnostic> {
    let dtype = walk.b.ty(x).dtype;
    let largest = walk.fold(ReduceKind::Max, dims, x)?;
    let largest = walk.reduce_pending(largest)?;
    let largest = walk.cast(DType::F32, largest)?;
    let finite = walk.unary(Unary::IsFinite, largest)?;
    let zero = walk.constant(DType::F32, 0.0)?;
    let m = walk.select(finite, largest, zero)?;
    let wide = walk.cast(DType::F32, x)?;
    let below = walk.binary(Binary::Sub, wide, m)?;
    let e = walk.unary(Unary::Exp, below)?;
    let sum = walk.fold(ReduceKind::Sum, dims, e)?;
    let sum = walk.reduce_pending(sum)?;
    let log = walk.unary(Unary::Log, sum)?;
    let y = walk.binary(Binary::Add, log, m)?;
    walk.cast(dtype, y)
}

/// The smallest position of the largest element.
fn arg_max(walk: &mut Walk<'_>, x: Value, dim: TensorDim) -> Result<Value, Diagnostic> {
    let dims = [dim.dim.name.clone()];
    let last = dim.dim.size - 1;
    let largest = walk.fold(ReduceKind::Max, &dims, x)?;
    let largest = walk.reduce_pending(largest)?;
    let here = walk.emit(Op::Elementwise(Elementwise::Compare(Compare::Eq)), &[x, largest])?;
    let position = walk.iota(dim)?;
    let beyond = walk.constant(DType::S32, last as f64)?;
    let candidate = walk.select(here, position, beyond)?;
    let first = walk.fold(ReduceKind::Min, &dims, candidate)?;
    walk.reduce_pending(first)
}
