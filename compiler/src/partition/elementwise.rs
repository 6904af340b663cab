//! Elementwise operations: all operands take the sharding of the result. Linear operations keep a sum pending
//! when the result is no larger than the pending operand.

use super::walk::Walk;
use crate::facts;
use mesh::{
    AxisSet, Diagnostic, Inst, Type, Value,
    ir::{Binary, Elementwise, Op},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Elementwise) -> Result<(), Diagnostic> {
    let form = form(walk, inst, op);
    let sums = pending_sums(walk, inst, op, &form);
    let mut args = Vec::new();
    for (a, sum) in inst.args.iter().zip(&sums) {
        let want = walk.want(*a, &form, *sum);
        args.push(walk.get(*a, &want)?);
    }
    if keeps_zero(op) && walk.is_zero(inst.args[0]) {
        walk.mark_zero(inst.results[0]);
    }
    walk.done(inst, Op::Elementwise(op.clone()), &args)
}

/// The sharding of the result: its sharding between operations. If the operands are pending over axes that
/// split it and reducing afterwards sends less (two sums added into one, or a sum cast to a narrower type),
/// the compute layout.
fn form(walk: &Walk<'_>, inst: &Inst, op: &Elementwise) -> Type {
    let home = walk.home(inst.results[0]);
    let shrinks = match op {
        Elementwise::Binary(Binary::Add | Binary::Sub) => inst.args[0] != inst.args[1],
        Elementwise::Cast(to) => to.is_float() && to.bytes() < walk.of(inst.args[0]).dtype.bytes(),
        Elementwise::Unary(_)
        | Elementwise::Binary(_)
        | Elementwise::Compare(_)
        | Elementwise::Select
        | Elementwise::StopGradient
        | Elementwise::WithGradient => false,
    };
    let is_pending = |v: &Value| {
        let (sum, ty) = (walk.lazy(*v), walk.of(*v));
        !sum.intersect(home.split()).is_empty() && ty.dims.len() == home.dims.len()
    };
    if shrinks && inst.args.iter().all(is_pending) { walk.layout(inst.results[0]) } else { home }
}

/// The axes over which each operand may stay pending.
fn pending_sums(walk: &Walk<'_>, inst: &Inst, op: &Elementwise, form: &Type) -> Vec<AxisSet> {
    let none = vec![AxisSet::EMPTY; inst.args.len()];
    // An operand smaller than the result is reduced while it is small, and a value that an axis splits cannot
    // be pending over it.
    let covers = |v: Value| walk.of(v).dims.len() == form.dims.len();
    let lazy = |v: Value| if covers(v) { walk.lazy(v).minus(form.split()) } else { AxisSet::EMPTY };
    match op {
        Elementwise::Unary(op) if facts::unary(*op).linear => vec![lazy(inst.args[0])],
        Elementwise::StopGradient => vec![lazy(inst.args[0])],
        Elementwise::Unary(_) | Elementwise::Compare(_) => none,
        Elementwise::Cast(to) => {
            let from = walk.of(inst.args[0]).dtype;
            // A cast to a wider type is applied after the reduction, so that the narrow type is sent, unless
            // the sum is reduced together with others.
            let cheap = to.bytes() <= from.bytes() || walk.added.contains(&inst.results[0]);
            if from.is_float() && to.is_float() && cheap { vec![lazy(inst.args[0])] } else { none }
        }
        Elementwise::Binary(Binary::Add | Binary::Sub) | Elementwise::WithGradient => {
            together(walk, [inst.args[0], inst.args[1]], covers, lazy).to_vec()
        }
        Elementwise::Select => {
            let [a, b] = together(walk, [inst.args[1], inst.args[2]], covers, lazy);
            vec![AxisSet::EMPTY, a, b]
        }
        Elementwise::Binary(Binary::Mul) => product(inst, lazy),
        Elementwise::Binary(Binary::Div) => {
            let float = walk.of(inst.args[0]).dtype.is_float() && inst.args[0] != inst.args[1];
            vec![if float { lazy(inst.args[0]) } else { AxisSet::EMPTY }, AxisSet::EMPTY]
        }
        Elementwise::Binary(
            Binary::Rem
            | Binary::Pow
            | Binary::Atan2
            | Binary::Max
            | Binary::Min
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr,
        ) => none,
    }
}

/// The axes for two operands that must be pending over the same ones.
fn together(
    walk: &Walk<'_>,
    args: [Value; 2],
    covers: impl Fn(Value) -> bool,
    lazy: impl Fn(Value) -> AxisSet,
) -> [AxisSet; 2] {
    let sums = args.map(&lazy);
    let both = sums[0].union(sums[1]);
    if both.is_empty() || !args.iter().all(|a| covers(*a) || walk.can_owe(*a)) {
        return [AxisSet::EMPTY; 2];
    }
    // An operand that is not pending can be made so at no cost. But this delays the reduction, which pays
    // only if the other operand is pending anyway or both can be made so.
    let pending = |i: usize| !sums[i].is_empty() || walk.can_owe(args[i]);
    if pending(0) && pending(1) { [both; 2] } else { [AxisSet::EMPTY; 2] }
}

/// At most one of two factors may be pending: the one that the result is no larger than.
fn product(inst: &Inst, lazy: impl Fn(Value) -> AxisSet) -> Vec<AxisSet> {
    let [a, b] = [inst.args[0], inst.args[1]];
    if a == b {
        return vec![AxisSet::EMPTY; 2];
    }
    match (lazy(a), lazy(b)) {
        (sum, _) if !sum.is_empty() => vec![sum, AxisSet::EMPTY],
        (_, sum) => vec![AxisSet::EMPTY, sum],
    }
}

/// True if the result is 0 where the operand is: the operation is linear in its one operand.
fn keeps_zero(op: &Elementwise) -> bool {
    match op {
        Elementwise::Unary(op) => facts::unary(*op).linear,
        Elementwise::StopGradient | Elementwise::Cast(_) => true,
        Elementwise::Binary(_)
        | Elementwise::Compare(_)
        | Elementwise::Select
        | Elementwise::WithGradient => false,
    }
}
