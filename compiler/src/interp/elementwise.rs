//! Elementwise operations.

use super::{Device, Tensor};
use mesh::{
    DType, Name,
    ir::{Binary, Compare, Elementwise, Unary},
};
use ndarray::{ArrayD, Axis, IxDyn, Zip};

pub(super) fn eval(at: &Device<'_>, op: &Elementwise, args: &[&Tensor]) -> Tensor {
    let x = args[0];
    match op {
        Elementwise::Unary(op) => {
            let dtype = if *op == Unary::IsFinite { DType::Pred } else { x.dtype };
            let rounded = if *op == Unary::RoundBf16 { DType::Bf16 } else { dtype };
            map(x, dtype, |v| at.precision.store(rounded, unary(*op, x.dtype, v)))
        }
        Elementwise::Binary(op) => {
            zip(x, args[1], x.dtype, |a, b| at.precision.store(x.dtype, binary(*op, x.dtype, a, b)))
        }
        Elementwise::Compare(op) => zip(x, args[1], DType::Pred, |a, b| f64::from(compare(*op, a, b))),
        Elementwise::Select => select(x, args[1], args[2]),
        Elementwise::Cast(to) => map(x, *to, |v| at.precision.store(*to, cast(x.dtype, *to, v))),
        Elementwise::StopGradient | Elementwise::WithGradient => x.clone(),
    }
}

fn map(x: &Tensor, dtype: DType, f: impl Fn(f64) -> f64) -> Tensor {
    Tensor { dtype, names: x.names.clone(), data: x.data.mapv(f) }
}

fn zip(a: &Tensor, b: &Tensor, dtype: DType, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let (names, shape) = union(&[a, b]);
    let (a, b) = (stretch(a, &names, &shape), stretch(b, &names, &shape));
    Tensor { dtype, names, data: Zip::from(&a).and(&b).map_collect(|a, b| f(*a, *b)) }
}

fn select(p: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    let (names, shape) = union(&[a, b, p]);
    let [pd, ad, bd] = [p, a, b].map(|x| stretch(x, &names, &shape));
    let data = Zip::from(&pd).and(&ad).and(&bd).map_collect(|p, a, b| if *p != 0.0 { *a } else { *b });
    Tensor { dtype: a.dtype, names, data }
}

/// Names and sizes of all dims: those of the first, then what the others add.
fn union(args: &[&Tensor]) -> (Vec<Name>, Vec<usize>) {
    let (mut names, mut shape) = (Vec::new(), Vec::new());
    for x in args {
        for (name, size) in x.names.iter().zip(x.data.shape()) {
            if !names.contains(name) {
                names.push(name.clone());
                shape.push(*size);
            }
        }
    }
    (names, shape)
}

/// The array of `x`, repeated along the dims that it lacks.
fn stretch(x: &Tensor, names: &[Name], shape: &[usize]) -> ArrayD<f64> {
    let own: Vec<Name> = names.iter().filter(|n| x.names.contains(n)).cloned().collect();
    let mut data = x.by(&own);
    for (i, _) in names.iter().enumerate().filter(|(_, n)| !own.contains(n)) {
        data.insert_axis_inplace(Axis(i));
    }
    data.broadcast(IxDyn(shape)).expect("inference found equal sizes").to_owned()
}

/// A function of one number. Integers are held as whole `f64`s.
pub(crate) fn unary(op: Unary, dtype: DType, x: f64) -> f64 {
    match op {
        Unary::Neg => -x,
        Unary::Abs => x.abs(),
        // Zeros keep their sign, NaN stays NaN.
        Unary::Sign if x == 0.0 || x.is_nan() => x,
        Unary::Sign => x.signum(),
        Unary::Exp => x.exp(),
        Unary::Expm1 => x.exp_m1(),
        Unary::Log => x.ln(),
        Unary::Log1p => x.ln_1p(),
        Unary::Sqrt => x.sqrt(),
        Unary::Rsqrt => 1.0 / x.sqrt(),
        Unary::Sin => x.sin(),
        Unary::Cos => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Logistic => 1.0 / (1.0 + (-x).exp()),
        Unary::Relu => max(x, 0.0),
        Unary::Gelu => {
            let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Unary::Erf => libm::erf(x),
        Unary::Floor => x.floor(),
        Unary::Ceil => x.ceil(),
        Unary::Round => x.round_ties_even(),
        // The caller rounds, with its own precision.
        Unary::RoundBf16 => x,
        Unary::Not => match dtype {
            DType::Pred => 1.0 - x,
            // Two's complement.
            DType::S32 | DType::U32 | DType::Bf16 | DType::F32 => -1.0 - x,
        },
        Unary::IsFinite => f64::from(x.is_finite()),
    }
}

fn binary(op: Binary, dtype: DType, a: f64, b: f64) -> f64 {
    match dtype {
        DType::F32 | DType::Bf16 => float(op, a, b),
        DType::S32 | DType::U32 | DType::Pred => whole(op, a as i64, b as i64) as f64,
    }
}

fn float(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Rem => a % b,
        Binary::Pow => a.powf(b),
        Binary::Atan2 => a.atan2(b),
        Binary::Max => max(a, b),
        Binary::Min => min(a, b),
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => {
            unreachable!("inference lets no floats through to bits")
        }
    }
}

/// A function of two integers or booleans of 32 bits; the caller wraps the result.
fn whole(op: Binary, a: i64, b: i64) -> i64 {
    match op {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        // The low bits of a product depend on the low bits of the factors only.
        Binary::Mul => i64::from((a as u32).wrapping_mul(b as u32)),
        // As XLA: a division by zero gives all bits set, and its remainder is `a`.
        Binary::Div => a.checked_div(b).unwrap_or(-1),
        Binary::Rem => a.checked_rem(b).unwrap_or(a),
        Binary::Pow | Binary::Atan2 => unreachable!("inference lets no integers through"),
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
    }
}

fn compare(op: Compare, a: f64, b: f64) -> bool {
    match op {
        Compare::Eq => a == b,
        Compare::Ne => a != b,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
    }
}

/// The value before it is rounded or wrapped to `to`.
fn cast(from: DType, to: DType, x: f64) -> f64 {
    match to {
        // Rounds towards zero; what is out of range becomes the nearest integer, NaN becomes 0.
        DType::S32 if from.is_float() => f64::from(x as i32),
        DType::U32 if from.is_float() => f64::from(x as u32),
        DType::S32 | DType::U32 | DType::Pred | DType::Bf16 | DType::F32 => x,
    }
}

/// The larger; NaN if either is.
pub(super) fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// The smaller; NaN if either is.
pub(super) fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}
