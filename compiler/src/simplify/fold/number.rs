//! Arithmetic on single numbers, bit by bit as a device computes it. Numbers are held as `f64`; sums,
//! differences, products and quotients of two float32 numbers, computed in `f64` and rounded, are those of
//! float32.

use crate::{facts, interp};
use half::bf16;
use mesh::{
    DType,
    ir::{Binary, Compare, Unary},
};

/// `x` as a number of type `dtype`; floats are rounded to nearest even.
pub(super) fn round(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => f64::from(x as f32),
        DType::Bf16 => bf16::from_f32(x as f32).to_f64(),
        DType::Pred | DType::S32 | DType::U32 => x,
    }
}

/// An integer wrapped to `dtype`.
fn wrap(dtype: DType, x: i64) -> f64 {
    match dtype {
        DType::S32 => f64::from(x as i32),
        DType::U32 => f64::from(x as u32),
        DType::Pred => f64::from(x != 0),
        DType::Bf16 | DType::F32 => x as f64,
    }
}

/// `op(x)`, if it is exact on every device. The interpreter computes it.
pub(super) fn unary(op: Unary, dtype: DType, x: f64) -> Option<f64> {
    if !facts::unary(op).exact {
        return None;
    }
    let exact = interp::unary(op, dtype, x);
    let whole = dtype.is_int() && op != Unary::IsFinite;
    // A NaN has many encodings.
    Some(if whole { wrap(dtype, exact as i64) } else { exact }).filter(|x| !x.is_nan())
}

/// `op(a, b)`, if it is exact on every device.
pub(super) fn binary(op: Binary, dtype: DType, a: f64, b: f64) -> Option<f64> {
    if dtype.is_float() {
        let exact = match op {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            Binary::Max if !a.is_nan() && !b.is_nan() => a.max(b),
            Binary::Min if !a.is_nan() && !b.is_nan() => a.min(b),
            Binary::Max
            | Binary::Min
            | Binary::Rem
            | Binary::Pow
            | Binary::Atan2
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr => return None,
        };
        // A NaN has many encodings.
        return Some(round(dtype, exact)).filter(|x| !x.is_nan());
    }
    let (a, b) = (a as i64, b as i64);
    let exact = match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a.wrapping_mul(b),
        Binary::Div if b != 0 => a / b,
        Binary::Rem if b != 0 => a % b,
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Shl => {
            if b < 32 {
                a << b
            } else {
                0
            }
        }
        Binary::Shr => {
            if b < 32 {
                a >> b
            } else {
                0
            }
        }
        Binary::Div | Binary::Rem | Binary::Pow | Binary::Atan2 => return None,
    };
    Some(wrap(dtype, exact))
}

/// `a op b`.
pub(super) fn compare(op: Compare, a: f64, b: f64) -> bool {
    match op {
        Compare::Eq => a == b,
        Compare::Ne => a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
    }
}

/// `x` cast to `to`; `None` for a float outside of the range of an integer type.
pub(super) fn cast(to: DType, x: f64) -> Option<f64> {
    match to {
        DType::F32 | DType::Bf16 => Some(round(to, x)),
        DType::Pred => Some(f64::from(x != 0.0)),
        DType::S32 => (x.abs() < 2_147_483_648.0).then_some(x.trunc() + 0.0),
        DType::U32 => (0.0..4_294_967_296.0).contains(&x).then_some(x.trunc() + 0.0),
    }
}

/// True if every number of type `from` is a number of type `to`.
pub(super) fn holds(to: DType, from: DType) -> bool {
    match (from, to) {
        (DType::Pred, _) | (DType::Bf16, DType::F32) => true,
        (DType::Bf16 | DType::F32 | DType::S32 | DType::U32, _) => from == to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_and_wrap() {
        let one_third = binary(Binary::Div, DType::F32, 1.0, 3.0).unwrap();
        assert_eq!(one_third, f64::from(1f32 / 3f32));
        assert_eq!(binary(Binary::Add, DType::Bf16, 256.0, 1.0), Some(256.0));
        assert_eq!(binary(Binary::Mul, DType::U32, 4294967295.0, 4294967295.0), Some(1.0));
        assert_eq!(binary(Binary::Add, DType::S32, 2147483647.0, 1.0), Some(-2147483648.0));
        assert_eq!(binary(Binary::Div, DType::S32, -7.0, 2.0), Some(-3.0));
        assert_eq!(binary(Binary::Div, DType::S32, 7.0, 0.0), None);
        assert_eq!(unary(Unary::Not, DType::U32, 0.0), Some(4294967295.0));
        assert_eq!(unary(Unary::Neg, DType::S32, -2147483648.0), Some(-2147483648.0));
        assert_eq!(cast(DType::S32, -2.9), Some(-2.0));
        assert_eq!(cast(DType::S32, 3e9), None);
        assert_eq!(cast(DType::Bf16, 1.01), Some(1.0078125));
    }
}
