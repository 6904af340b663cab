//! Result types of elementwise operations.

use super::{agree, complete, count, dtype, linear, of, union};
use crate::{
    AxisSet, DType, Diagnostic, Env, Type,
    ir::{Binary, Elementwise, Unary},
};

pub(super) fn infer(env: &Env, op: &Elementwise, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    match op {
        Elementwise::Unary(op) => {
            count(args, 1, "this operation")?;
            unary(env, *op, args[0])
        }
        Elementwise::Binary(op) => {
            count(args, 2, "this operation")?;
            binary(env, *op, args[0], args[1])
        }
        Elementwise::Compare(_) => {
            count(args, 2, "a comparison")?;
            same_dtype(args[0], args[1], "a comparison")?;
            agree(env, args[0], args[1], "comparison")?;
            complete(env, args[0], "a comparison")?;
            complete(env, args[1], "a comparison")?;
            Ok(vec![of(DType::Pred, union(args[0], args[1]), AxisSet::EMPTY)])
        }
        Elementwise::Select => {
            count(args, 3, "select")?;
            select(env, args)
        }
        Elementwise::Cast(to) => {
            count(args, 1, "cast")?;
            linear(env, args[0], "cast")?;
            if !(to.is_float() && args[0].dtype.is_float()) {
                complete(env, args[0], "a cast to or from a whole number")?;
            }
            Ok(vec![args[0].with_dtype(*to)])
        }
        Elementwise::StopGradient => {
            count(args, 1, "stop_gradient")?;
            linear(env, args[0], "stop_gradient")?;
            Ok(vec![args[0].clone()])
        }
        Elementwise::WithGradient => {
            count(args, 2, "with_gradient")?;
            with_gradient(env, args[0], args[1])
        }
    }
}

fn unary(env: &Env, op: Unary, x: &Type) -> Result<Vec<Type>, Diagnostic> {
    let float = |d: DType| d.is_float();
    let number = |d: DType| d != DType::Pred;
    let signed = |d: DType| d.is_float() || d == DType::S32;
    match op {
        Unary::Neg => {
            dtype(x, number, "a number", "negation")?;
            linear(env, x, "negation")?;
        }
        Unary::Abs | Unary::Sign => {
            dtype(x, signed, "a signed number", "abs or sign")?;
            complete(env, x, "abs or sign")?;
        }
        Unary::Not => {
            dtype(x, |d| !d.is_float(), "a pred or a whole number", "not")?;
            complete(env, x, "not")?;
        }
        Unary::IsFinite => {
            dtype(x, float, "a float", "is_finite")?;
            complete(env, x, "is_finite")?;
            return Ok(vec![x.with_dtype(DType::Pred)]);
        }
        Unary::Relu => {
            dtype(x, signed, "a signed number", "relu")?;
            complete(env, x, "relu")?;
        }
        Unary::Exp
        | Unary::Expm1
        | Unary::Log
        | Unary::Log1p
        | Unary::Sqrt
        | Unary::Rsqrt
        | Unary::Sin
        | Unary::Cos
        | Unary::Tanh
        | Unary::Logistic
        | Unary::Gelu
        | Unary::Erf
        | Unary::Floor
        | Unary::Ceil
        | Unary::Round
        | Unary::RoundBf16 => {
            dtype(x, float, "a float", "this function")?;
            complete(env, x, "this function")?;
        }
    }
    Ok(vec![x.clone()])
}

fn binary(env: &Env, op: Binary, a: &Type, b: &Type) -> Result<Vec<Type>, Diagnostic> {
    let what = name(op);
    same_dtype(a, b, what)?;
    agree(env, a, b, what)?;
    let number = |d: DType| d != DType::Pred;
    let sum = match op {
        Binary::Add | Binary::Sub => {
            dtype(a, number, "numbers", what)?;
            same_sum(env, a, b, what)?
        }
        Binary::Mul => {
            dtype(a, number, "numbers", what)?;
            product_sum(env, a, b, what)?
        }
        Binary::Div => {
            dtype(a, number, "numbers", what)?;
            linear(env, a, what)?;
            complete(env, b, "a division by it")?;
            if a.dtype.is_int() {
                complete(env, a, "a division of whole numbers")?;
            }
            a.sum
        }
        Binary::Rem | Binary::Max | Binary::Min => {
            dtype(a, number, "numbers", what)?;
            complete(env, a, what)?;
            complete(env, b, what)?;
            AxisSet::EMPTY
        }
        Binary::Pow | Binary::Atan2 => {
            dtype(a, |d| d.is_float(), "floats", what)?;
            complete(env, a, what)?;
            complete(env, b, what)?;
            AxisSet::EMPTY
        }
        Binary::And | Binary::Or | Binary::Xor => {
            dtype(a, |d| !d.is_float(), "preds or whole numbers", what)?;
            complete(env, a, what)?;
            complete(env, b, what)?;
            AxisSet::EMPTY
        }
        Binary::Shl | Binary::Shr => {
            dtype(a, |d| d == DType::U32, "u32", what)?;
            complete(env, a, what)?;
            complete(env, b, what)?;
            AxisSet::EMPTY
        }
    };
    Ok(vec![of(a.dtype, union(a, b), sum)])
}

/// The pending sum of a product: at most one of its factors has one.
fn product_sum(env: &Env, a: &Type, b: &Type, what: &str) -> Result<AxisSet, Diagnostic> {
    linear(env, a, what)?;
    linear(env, b, what)?;
    if a.sum.is_empty() || b.sum.is_empty() {
        return Ok(a.sum.union(b.sum));
    }
    Err(Diagnostic::new(
        "elementwise_e2",
        format!(
            "a product of two pending sums is not a pending sum: {} and {}",
            a.display(&env.mesh),
            b.display(&env.mesh)
        ),
    )
    .help("all-reduce one of the two first"))
}

fn select(env: &Env, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    let (p, a, b) = (args[0], args[1], args[2]);
    dtype(p, |d| d == DType::Pred, "a pred first", "select")?;
    complete(env, p, "the predicate of select")?;
    same_dtype(a, b, "select")?;
    agree(env, a, b, "select")?;
    agree(env, p, a, "select")?;
    agree(env, p, b, "select")?;
    let sum = same_sum(env, a, b, "select")?;
    let branches = of(a.dtype, union(a, b), sum);
    Ok(vec![of(a.dtype, union(&branches, p), sum)])
}

fn with_gradient(env: &Env, x: &Type, y: &Type) -> Result<Vec<Type>, Diagnostic> {
    dtype(x, DType::is_float, "a float", "with_gradient")?;
    same_dtype(x, y, "with_gradient")?;
    agree(env, x, y, "with_gradient")?;
    same_sum(env, x, y, "with_gradient")?;
    if x.dims.len() == y.dims.len() && x.names().all(|n| y.has(n)) {
        return Ok(vec![x.clone()]);
    }
    let (x, y) = (x.display(&env.mesh), y.display(&env.mesh));
    Err(Diagnostic::new(
        "elementwise_e4",
        format!("with_gradient: the operands have different dims: {x} and {y}"),
    )
    .help("broadcast or reduce one of the two"))
}

fn same_dtype(a: &Type, b: &Type, what: &str) -> Result<(), Diagnostic> {
    if a.dtype == b.dtype {
        return Ok(());
    }
    Err(Diagnostic::new(
        "elementwise_e1",
        format!("{what}: one operand is {}, the other {}", a.dtype, b.dtype),
    )
    .help("cast one of the two; there are no implicit conversions"))
}

fn same_sum(env: &Env, a: &Type, b: &Type, what: &str) -> Result<AxisSet, Diagnostic> {
    linear(env, a, what)?;
    linear(env, b, what)?;
    if a.sum == b.sum {
        return Ok(a.sum);
    }
    Err(Diagnostic::new(
        "elementwise_e3",
        format!(
            "{what}: the operands have different pending sums: {} and {}",
            a.display(&env.mesh),
            b.display(&env.mesh)
        ),
    )
    .help("all-reduce the pending one first, or both"))
}

fn name(op: Binary) -> &'static str {
    match op {
        Binary::Add => "addition",
        Binary::Sub => "subtraction",
        Binary::Mul => "multiplication",
        Binary::Div => "division",
        Binary::Rem => "remainder",
        Binary::Pow => "power",
        Binary::Atan2 => "atan2",
        Binary::Max => "maximum",
        Binary::Min => "minimum",
        Binary::And => "and",
        Binary::Or => "or",
        Binary::Xor => "xor",
        Binary::Shl => "shift left",
        Binary::Shr => "shift right",
    }
}
