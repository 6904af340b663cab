//! Einsum. Both operands take the compute layout; a sum over split dims stays pending.

use super::walk::{Walk, set};
use mesh::{
    AxisSet, DType, Diagnostic, Inst, Name, Type, Value,
    ir::{Contract, Op, ReduceKind},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Contract) -> Result<(), Diagnostic> {
    let sums = pending_sums(walk, inst, op);
    let mut args = Vec::new();
    for (v, sum) in inst.args.iter().zip(sums) {
        let other = match args.first() {
            Some(first) => walk.b.ty(*first).clone(),
            None => walk.layout(inst.args[1]),
        };
        args.push(operand(walk, *v, &other, op, sum)?);
    }
    walk.done(inst, Op::Contract(op.clone()), &args)
}

/// The axes over which each operand may stay pending. Deferring the reduction must not increase traffic, and
/// an operand cannot be pending over an axis that splits the other operand.
fn pending_sums(walk: &Walk<'_>, inst: &Inst, op: &Contract) -> [AxisSet; 2] {
    let [a, b] = [inst.args[0], inst.args[1]];
    if a == b {
        return [AxisSet::EMPTY; 2];
    }
    let mesh = &walk.cx.env.mesh;
    let result = walk.layout(inst.results[0]);
    let mut taken = result.split();
    for v in [a, b] {
        let ty = walk.layout(v);
        let gone = ty.dims.iter().filter(|d| !op.out.contains(&d.dim.name));
        taken = gone.fold(taken, |taken, d| taken.union(set(&d.axes))).union(ty.split());
    }
    let lazy = |v: Value| {
        let sum = walk.lazy(v);
        let smaller = result.local_bytes(mesh) <= walk.layout(v).local_bytes(mesh);
        if smaller && sum.intersect(taken).is_empty() { sum } else { AxisSet::EMPTY }
    };
    let (a, b) = (lazy(a), lazy(b));
    [a, if b.intersect(a).is_empty() { b } else { AxisSet::EMPTY }]
}

/// Prepares one operand. A dim that is summed away and that the other operand lacks must not share an axis
/// with a dim of the other operand, or each device would see only its own pairs of shards. Such dims are
/// summed first; in bfloat16 the dim is gathered, because summing first would round.
fn operand(
    walk: &mut Walk<'_>,
    v: Value,
    other: &Type,
    op: &Contract,
    sum: AxisSet,
) -> Result<Value, Diagnostic> {
    let mut want = walk.layout(v);
    want.sum = sum;
    let clash = clashing(&want, other, op);
    if clash.is_empty() {
        return walk.get(v, &want);
    }
    if want.dtype != DType::Bf16 {
        want.sum = AxisSet::EMPTY;
        let x = walk.get(v, &want)?;
        let x = walk.fold(ReduceKind::Sum, &clash, x)?;
        return walk.reduce_pending(x);
    }
    for d in want.dims.iter_mut().filter(|d| clash.contains(&d.dim.name)) {
        d.axes.clear();
    }
    walk.get(v, &want)
}

fn clashing(ty: &Type, other: &Type, op: &Contract) -> Vec<Name> {
    let taken = other.split();
    let alone = ty.dims.iter().filter(|d| !op.out.contains(&d.dim.name) && !other.has(&d.dim.name));
    alone.filter(|d| !set(&d.axes).intersect(taken).is_empty()).map(|d| d.dim.name.clone()).collect()
}
