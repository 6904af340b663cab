//! Folding rules for elementwise operations.

use super::{Folder, number};
use mesh::{
    DType, Name, Op, Type, Value,
    ir::{Binary, Elementwise, Shape, Unary},
};

pub(super) fn rewrite(f: &mut Folder, op: &Elementwise, args: &[Value], result: Value) -> Option<Value> {
    let ty = f.ty(result).clone();
    let simpler = match op {
        Elementwise::Unary(op) => unary(f, *op, args[0], &ty),
        Elementwise::Binary(op) => binary(f, *op, args[0], args[1], &ty),
        Elementwise::Compare(op) => {
            let (a, b) = (f.splat(args[0])?, f.splat(args[1])?);
            f.full(&ty, f64::from(number::compare(*op, a, b)))
        }
        Elementwise::Select => select(f, args, &ty),
        Elementwise::Cast(to) => cast(f, *to, args[0], &ty),
        Elementwise::StopGradient | Elementwise::WithGradient if f.gradients => None,
        Elementwise::StopGradient | Elementwise::WithGradient => Some(args[0]),
    };
    simpler.or_else(|| without_broadcast(f, op, args, &ty))
}

/// Binary operations and selects broadcast their operands: an operand needs no broadcast along dims that
/// another operand has.
fn without_broadcast(f: &mut Folder, op: &Elementwise, args: &[Value], ty: &Type) -> Option<Value> {
    if *op == Elementwise::WithGradient {
        return None;
    }
    for (i, arg) in args.iter().enumerate() {
        let Some((Op::Shape(Shape::Broadcast { dims }), inner)) = f.def(*arg) else { continue };
        let others = || args.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, v)| *v);
        if !dims.iter().all(|d| others().any(|v| f.ty(v).has(&d.dim.name))) {
            continue;
        }
        let mut bare = args.to_vec();
        bare[i] = inner[0];
        // The order of dims follows from the operands; a select takes it from its second and third.
        let order = if bare.len() == 3 { vec![bare[1], bare[2], bare[0]] } else { bare.clone() };
        let mut names: Vec<&Name> = Vec::new();
        for v in order {
            let fresh: Vec<&Name> = f.ty(v).names().filter(|n| !names.contains(n)).collect();
            names.extend(fresh);
        }
        if ty.names().eq(names) {
            return f.emit1(Op::Elementwise(op.clone()), &bare);
        }
    }
    None
}

fn unary(f: &mut Folder, op: Unary, x: Value, ty: &Type) -> Option<Value> {
    if let Some(number) = f.splat(x) {
        let dtype = f.ty(x).dtype;
        let value = number::unary(op, dtype, number)?;
        return f.full(ty, value);
    }
    let (Op::Elementwise(Elementwise::Unary(inner)), args) = f.def(x)? else { return None };
    match (op, inner) {
        (Unary::Neg, Unary::Neg) | (Unary::Not, Unary::Not) => Some(args[0]),
        (Unary::Abs, Unary::Abs) | (Unary::Relu, Unary::Relu) | (Unary::Floor, Unary::Floor) => Some(x),
        (Unary::Sign, Unary::Sign) => Some(x),
        (Unary::Abs, Unary::Neg) => {
            let x = args[0];
            f.emit1(Op::Elementwise(Elementwise::Unary(Unary::Abs)), &[x])
        }
        _ => None,
    }
}

fn binary(f: &mut Folder, op: Binary, a: Value, b: Value, ty: &Type) -> Option<Value> {
    match (f.splat(a), f.splat(b)) {
        (Some(x), Some(y)) => {
            let value = number::binary(op, ty.dtype, x, y)?;
            f.full(ty, value)
        }
        (Some(x), None) => with_left(f, op, x, b, ty),
        (None, Some(y)) => with_right(f, op, a, y, ty),
        (None, None) => match op {
            Binary::Max | Binary::Min | Binary::And | Binary::Or if a == b => Some(a),
            Binary::Add => {
                // a + (-b) is a - b.
                let (Op::Elementwise(Elementwise::Unary(Unary::Neg)), args) = f.def(b)? else { return None };
                let b = args[0];
                f.emit1(Op::Elementwise(Elementwise::Binary(Binary::Sub)), &[a, b])
            }
            Binary::Sub => {
                let (Op::Elementwise(Elementwise::Unary(Unary::Neg)), args) = f.def(b)? else { return None };
                let b = args[0];
                f.emit1(Op::Elementwise(Elementwise::Binary(Binary::Add)), &[a, b])
            }
            Binary::Mul
            | Binary::Div
            | Binary::Rem
            | Binary::Pow
            | Binary::Atan2
            | Binary::Max
            | Binary::Min
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr => None,
        },
    }
}

/// The number whose bits are all ones.
fn all_ones(dtype: DType) -> f64 {
    match dtype {
        DType::Pred => 1.0,
        DType::U32 => f64::from(u32::MAX),
        DType::S32 | DType::Bf16 | DType::F32 => -1.0,
    }
}

/// `x op b` for a constant `x`.
fn with_left(f: &mut Folder, op: Binary, x: f64, b: Value, ty: &Type) -> Option<Value> {
    match op {
        Binary::Add | Binary::Mul | Binary::And | Binary::Or | Binary::Xor => with_right(f, op, b, x, ty),
        Binary::Sub if x == 0.0 => negated(f, b),
        Binary::Div | Binary::Rem if x == 0.0 && ty.dtype.is_int() => None,
        Binary::Shl | Binary::Shr if x == 0.0 => f.full(ty, 0.0),
        Binary::Sub
        | Binary::Div
        | Binary::Rem
        | Binary::Pow
        | Binary::Atan2
        | Binary::Max
        | Binary::Min
        | Binary::Shl
        | Binary::Shr => None,
    }
}

/// `a op y` for a constant `y`.
fn with_right(f: &mut Folder, op: Binary, a: Value, y: f64, ty: &Type) -> Option<Value> {
    match op {
        Binary::Add | Binary::Sub | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr if y == 0.0 => {
            Some(a)
        }
        Binary::Mul | Binary::Div | Binary::Pow if y == 1.0 => Some(a),
        Binary::Mul | Binary::Div if y == -1.0 => negated(f, a),
        Binary::Mul if y == 0.0 && ty.dtype.is_int() => f.full(ty, 0.0),
        Binary::Mul if ty.dtype.is_float() => scaled_twice(f, a, y, ty),
        Binary::Pow if y == 2.0 => f.emit1(Op::Elementwise(Elementwise::Binary(Binary::Mul)), &[a, a]),
        Binary::And if y == 0.0 => f.full(ty, 0.0),
        Binary::And if y == all_ones(ty.dtype) => Some(a),
        Binary::Or if y == all_ones(ty.dtype) => f.full(ty, y),
        Binary::Add
        | Binary::Sub
        | Binary::Mul
        | Binary::Div
        | Binary::Rem
        | Binary::Pow
        | Binary::Atan2
        | Binary::Max
        | Binary::Min
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::Shl
        | Binary::Shr => None,
    }
}

/// `(x · z) · y` is `x · (z · y)` if one of the two is a power of two, which changes the exponent only.
fn scaled_twice(f: &mut Folder, a: Value, y: f64, ty: &Type) -> Option<Value> {
    let (Op::Elementwise(Elementwise::Binary(Binary::Mul)), args) = f.def(a)? else { return None };
    let (x, z) = match (f.splat(args[0]), f.splat(args[1])) {
        (None, Some(z)) => (args[0], z),
        (Some(z), None) => (args[1], z),
        (Some(_), Some(_)) | (None, None) => return None,
    };
    // Far from overflow and from loss of bits.
    let moderate = |x: f64| (1e-6..1e6).contains(&x.abs());
    let power = |x: f64| x.to_bits() << 12 == 0;
    let y = number::round(ty.dtype, y);
    if !(moderate(y) && moderate(z) && (power(y) || power(z))) {
        return None;
    }
    let dtype = ty.dtype;
    let factor = f.emit1(Op::Shape(Shape::Constant { dtype, value: y * z }), &[])?;
    f.emit1(Op::Elementwise(Elementwise::Binary(Binary::Mul)), &[x, factor])
}

fn negated(f: &mut Folder, x: Value) -> Option<Value> {
    f.emit1(Op::Elementwise(Elementwise::Unary(Unary::Neg)), &[x])
}

fn select(f: &mut Folder, args: &[Value], ty: &Type) -> Option<Value> {
    let (p, a, b) = (args[0], args[1], args[2]);
    if let Some(holds) = f.splat(p) {
        let chosen = if holds != 0.0 { a } else { b };
        return spread(f, chosen, ty);
    }
    if a == b {
        return spread(f, a, ty);
    }
    if let (Some(x), Some(y)) = (f.splat(a), f.splat(b)) {
        if x.to_bits() == y.to_bits() {
            return f.full(ty, x);
        }
        if ty.dtype == DType::Pred && x != 0.0 {
            return Some(p);
        }
    }
    let (Op::Elementwise(Elementwise::Unary(Unary::Not)), inner) = f.def(p)? else { return None };
    let p = inner[0];
    f.emit1(Op::Elementwise(Elementwise::Select), &[p, b, a])
}

/// `x` broadcast to the dims of `ty`. The caller checks the order of dims.
fn spread(f: &mut Folder, x: Value, ty: &Type) -> Option<Value> {
    let have = f.ty(x);
    let dims: Vec<_> = ty.dims.iter().filter(|d| !have.has(&d.dim.name)).cloned().collect();
    if dims.is_empty() { Some(x) } else { f.emit1(Op::Shape(Shape::Broadcast { dims }), &[x]) }
}

fn cast(f: &mut Folder, to: DType, x: Value, ty: &Type) -> Option<Value> {
    if f.ty(x).dtype == to {
        return Some(x);
    }
    if let Some(number) = f.splat(x) {
        let value = number::cast(to, number)?;
        return f.full(ty, value);
    }
    let (Op::Elementwise(Elementwise::Cast(middle)), args) = f.def(x)? else { return None };
    let (middle, x) = (*middle, args[0]);
    let from = f.ty(x).dtype;
    // The first cast loses nothing, so that the second alone does the same.
    if !number::holds(middle, from) {
        return None;
    }
    if from == to { Some(x) } else { f.emit1(Op::Elementwise(Elementwise::Cast(to)), &[x]) }
}
