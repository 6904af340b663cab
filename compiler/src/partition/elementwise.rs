//! Element by element: all operands lie as the result does. Linear operations pass a pending sum on when
//! the result is no larger than the operand that owes it.

use super::walk::Walk;
use mesh::{
    AxisSet, Diagnostic, Inst, Type, Value,
    ir::{Binary, Elementwise, Op, Unary},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Elementwise) -> Result<(), Diagnostic> {
    let form = form(walk, inst, op);
    let sums = owing(walk, inst, op, &form);
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

/// How the result lies: as it is to lie between operations, but where what is owed over axes that split it then is
/// less to send afterwards (two sums added to one, or a sum made narrow), as the compute layout says.
fn form(walk: &Walk<'_>, inst: &Inst, op: &Elementwise) -> Type {
    let home = walk.home(inst.results[0]);
    let shrinks = match op {
        Elementwise::Binary(Binary::Add | Binary::Sub) => inst.args[0] != inst.args[1],
        Elementwise::Cast(to) => to.is_float() && to.bytes() < walk.of(inst.args[0]).dtype.bytes(),
        Elementwise::Unary(_)
        | Elementwise::Binary(_)
        | Elementwise::Compare(_)
        | Elementwise::Select
        | Elementwise::StopGradient => false,
    };
    let owes = |v: &Value| {
        let (sum, ty) = (walk.lazy(*v), walk.of(*v));
        !sum.intersect(home.split()).is_empty() && ty.dims.len() == home.dims.len()
    };
    if shrinks && inst.args.iter().all(owes) { walk.layout(inst.results[0]) } else { home }
}

/// The sum that each operand may still owe when the operation is applied.
fn owing(walk: &Walk<'_>, inst: &Inst, op: &Elementwise, form: &Type) -> Vec<AxisSet> {
    let none = vec![AxisSet::EMPTY; inst.args.len()];
    // An operand smaller than the result is settled while it is small; and an axis that splits the result
    // cannot be owed too.
    let covers = |v: Value| walk.of(v).dims.len() == form.dims.len();
    let lazy = |v: Value| match covers(v) {
        true => walk.lazy(v).minus(form.split()),
        false => AxisSet::EMPTY,
    };
    match op {
        Elementwise::Unary(Unary::Neg) | Elementwise::StopGradient => vec![lazy(inst.args[0])],
        Elementwise::Unary(
            Unary::Abs
            | Unary::Sign
            | Unary::Exp
            | Unary::Log
            | Unary::Log1p
            | Unary::Sqrt
            | Unary::Rsqrt
            | Unary::Sin
            | Unary::Cos
            | Unary::Tanh
            | Unary::Logistic
            | Unary::Relu
            | Unary::Gelu
            | Unary::Floor
            | Unary::RoundBf16
            | Unary::Not
            | Unary::IsFinite,
        )
        | Elementwise::Compare(_) => none,
        Elementwise::Cast(to) => {
            let from = walk.of(inst.args[0]).dtype;
            // To a wider type: what is sent is to be the narrow one, unless it is sent with others.
            let cheap = to.bytes() <= from.bytes() || walk.added.contains(&inst.results[0]);
            if from.is_float() && to.is_float() && cheap { vec![lazy(inst.args[0])] } else { none }
        }
        Elementwise::Binary(Binary::Add | Binary::Sub) => {
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

/// Two operands that have to owe the same sum, if any.
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
    // What one of them does not owe yet it can be made to owe for nothing; but then the sum is settled
    // later than it could be, which pays only if the other is pending anyway, or nothing.
    let pending = |i: usize| !sums[i].is_empty() || walk.can_owe(args[i]);
    if pending(0) && pending(1) { [both; 2] } else { [AxisSet::EMPTY; 2] }
}

/// Of two factors at most one may owe; the one that the result is no larger than.
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

/// Whether the result is 0 where the one operand is.
fn keeps_zero(op: &Elementwise) -> bool {
    matches!(op, Elementwise::Unary(Unary::Neg) | Elementwise::StopGradient | Elementwise::Cast(_))
}
