//! Sums owed over the same axes by values that are added are settled together.

use super::Rewrite;
use mesh::{
    Diagnostic, Inst, Value,
    ir::{Binary, Elementwise, Op},
};

pub(super) fn run(rewrite: &mut Rewrite<'_>, inst: &Inst) -> Result<Option<Value>, Diagnostic> {
    if !adds(inst) {
        return Ok(None);
    }
    let [a, b] = [inst.args[0], inst.args[1]];
    if let Some(both) = pair(rewrite, inst, a, b)? {
        return Ok(Some(both));
    }
    // `(c + a) + b` with `a` and `b` owed is `c + (a + b)`.
    for (inner, other) in [(a, b), (b, a)] {
        let Some(maker) = rewrite.maker(inner).filter(|m| adds(m) && rewrite.uses[inner.0 as usize] == 1)
        else {
            continue;
        };
        for (owed, rest) in [(maker.args[0], maker.args[1]), (maker.args[1], maker.args[0])] {
            if let Some(both) = pair(rewrite, inst, owed, other)? {
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

/// The sum of two values, if both are all-reduced for it alone: added first, then all-reduced.
fn pair(rewrite: &mut Rewrite<'_>, at: &Inst, a: Value, b: Value) -> Result<Option<Value>, Diagnostic> {
    let (Some((x, owed)), Some((y, same))) = (rewrite.lone_sum(a), rewrite.lone_sum(b)) else {
        return Ok(None);
    };
    // What is broadcast in the addition is settled while it is small.
    let alike = rewrite.old.ty(x).matches(rewrite.old.ty(y));
    if owed != same || !alike {
        return Ok(None);
    }
    let args = [rewrite.new_of(x)?, rewrite.new_of(y)?];
    let sum = rewrite.emit(Op::Elementwise(Elementwise::Binary(Binary::Add)), &args, at)?;
    rewrite.all_reduce(sum, owed, a).map(Some)
}
