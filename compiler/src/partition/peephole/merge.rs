//! Adds two pending sums first and reduces them once.

use super::Rewrite;
use mesh::{
    Diagnostic, Inst, Value,
    arena::Id,
    ir::{Binary, Collective, Elementwise, Op, Pending},
};

pub(crate) fn run(rewrite: &mut Rewrite<'_>, inst: &Inst) -> Result<Option<Value>, Diagnostic> {
    if !adds(inst) {
        return Ok(None);
    }
    let [a, b] = [inst.args[0], inst.args[1]];
    if let Some(both) = pair(rewrite, inst, a, b)? {
        return Ok(Some(both));
    }
    // `(c + a) + b` with pending `a` and `b` is `c + (a + b)`.
    for (inner, other) in [(a, b), (b, a)] {
        let Some(maker) = rewrite.maker(inner).filter(|m| adds(m) && rewrite.uses[inner.0 as usize] == 1)
        else {
            continue;
        };
        for (pending_axes, rest) in [(maker.args[0], maker.args[1]), (maker.args[1], maker.args[0])] {
            if let Some(both) = pair(rewrite, inst, pending_axes, other)? {
                let rest = rewrite.new_of(rest)?;
                return rewrite.emit(inst.op.clone(), &[rest, both], inst).map(Some);
            }
        }
    }
    Ok(None)
}

fn adds(inst: &Inst) -> bool {
    inst.op == Op::Elementwise(Elementwise::Binary(Binary::Add))
}

/// The sum of two values that are reduced in the same way for this addition only: added first, then reduced.
fn pair(rewrite: &mut Rewrite<'_>, at: &Inst, a: Value, b: Value) -> Result<Option<Value>, Diagnostic> {
    let (Some((x, reduction)), Some((y, same))) = (lone(rewrite, a), lone(rewrite, b)) else {
        return Ok(None);
    };
    // A value that the addition broadcasts is reduced while it is small.
    let alike = rewrite.old.ty(x).matches(rewrite.old.ty(y));
    if reduction != same || !alike {
        return Ok(None);
    }
    let args = [rewrite.new_of(x)?, rewrite.new_of(y)?];
    let sum = rewrite.emit(Op::Elementwise(Elementwise::Binary(Binary::Add)), &args, at)?;
    let site = rewrite.maker(a).map(|inst| inst.site.clone()).unwrap_or_default();
    rewrite.b.emit1(Op::Collective(reduction.clone()), &[sum], &site).map(Some)
}

/// The operand of the all-reduce or reduce-scatter that makes `v` if `v` has one use, and the collective.
fn lone<'r>(rewrite: &Rewrite<'r>, v: Value) -> Option<(Value, &'r Collective)> {
    if rewrite.uses[v.index()] != 1 {
        return None;
    }
    let (x, reduction) = rewrite.collective(v)?;
    match reduction {
        Collective::AllReduce { kind: Pending::Sum, axes: _ }
        | Collective::ReduceScatter { dim: _, axes: _ } => Some((x, reduction)),
        Collective::AllReduce { kind: Pending::Max | Pending::Min, axes: _ }
        | Collective::AllGather { dim: _, axes: _ }
        | Collective::AllToAll { from: _, to: _, axes: _ }
        | Collective::Permute { dim: _, axes: _, by: _, wrap: _ }
        | Collective::Shard { dim: _, axes: _ }
        | Collective::AsPending { axes: _ } => None,
    }
}
