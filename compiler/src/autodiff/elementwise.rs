//! Gradients of elementwise operations.

use super::tape::{Bwd, Outcome, Tape};
use mesh::{
    DType, Value,
    ir::{Binary, Compare, Elementwise, Unary},
};

pub(super) fn pull(t: &mut Tape, op: &Elementwise, args: &[Value], y: Value, g: Bwd) -> Outcome {
    match op {
        Elementwise::Unary(op) => match unary(t, *op, args[0], y, g)? {
            Some(ct) => t.give(args[0], ct),
            None => Ok(()),
        },
        Elementwise::Binary(op) => binary(t, *op, args[0], args[1], y, g),
        Elementwise::Select => {
            let p = t.primal(args[0]);
            for (arg, holds) in [(args[1], true), (args[2], false)] {
                if t.wants(arg) {
                    let ct = t.keep(p, g, holds)?;
                    t.give_summed(arg, ct, y)?;
                }
            }
            Ok(())
        }
        Elementwise::Cast(_) => {
            let ct = t.cast(g, t.forward_ty(args[0]).dtype)?;
            t.give(args[0], ct)
        }
        Elementwise::WithGradient => t.give(args[1], g),
        Elementwise::Compare(_) | Elementwise::StopGradient => Ok(()),
    }
}

/// The cotangent of `x` in `y = op(x)`; `None` if the derivative is 0 everywhere. Where both would do, rules
/// use `y` instead of `x`, because the next operation is likely to save `y` anyway.
fn unary(t: &mut Tape, op: Unary, x: Value, y: Value, g: Bwd) -> Outcome<Option<Bwd>> {
    let ct = match op {
        Unary::Neg => t.unary(Unary::Neg, g)?,
        Unary::Abs => times(t, Unary::Sign, x, g)?,
        Unary::Exp => {
            let used = t.as_used(y)?;
            let ct = t.mul(g, used)?;
            t.rounded_as(y, ct)?
        }
        Unary::Expm1 => {
            let y = t.primal(y);
            let slope = t.shift(y, 1.0)?;
            t.mul(g, slope)?
        }
        Unary::Log => {
            let x = t.primal(x);
            t.binary(Binary::Div, g, x)?
        }
        Unary::Log1p => {
            let x = t.primal(x);
            let x = t.shift(x, 1.0)?;
            t.binary(Binary::Div, g, x)?
        }
        Unary::Sqrt => {
            let (half, y) = (t.scale(g, 0.5)?, t.primal(y));
            t.binary(Binary::Div, half, y)?
        }
        Unary::Rsqrt => rsqrt(t, y, g)?,
        Unary::Sin => times(t, Unary::Cos, x, g)?,
        Unary::Cos => {
            let minus = t.unary(Unary::Neg, g)?;
            times(t, Unary::Sin, x, minus)?
        }
        Unary::Tanh => {
            let y = t.primal(y);
            let rest = one_minus_square(t, y)?;
            t.mul(g, rest)?
        }
        Unary::Logistic => logistic(t, y, g)?,
        Unary::Relu => relu(t, y, g)?,
        Unary::Gelu => {
            let x = t.primal(x);
            let slope = gelu_slope(t, x)?;
            t.mul(g, slope)?
        }
        Unary::Erf => {
            let x = t.primal(x);
            let slope = erf_slope(t, x)?;
            t.mul(g, slope)?
        }
        Unary::RoundBf16 => g,
        Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Not | Unary::IsFinite => {
            return Ok(None);
        }
    };
    Ok(Some(ct))
}

/// `g · slope(x)`.
fn times(t: &mut Tape, slope: Unary, x: Value, g: Bwd) -> Outcome<Bwd> {
    let x = t.primal(x);
    let slope = t.unary(slope, x)?;
    t.mul(g, slope)
}

/// `2/√π · e^(-x²)`.
fn erf_slope(t: &mut Tape, x: Bwd) -> Outcome<Bwd> {
    let square = t.mul(x, x)?;
    let minus = t.unary(Unary::Neg, square)?;
    let bell = t.unary(Unary::Exp, minus)?;
    t.scale(bell, std::f64::consts::FRAC_2_SQRT_PI)
}

/// `g · (-1/2) y³` with `y = x^(-1/2)`.
fn rsqrt(t: &mut Tape, y: Value, g: Bwd) -> Outcome<Bwd> {
    let (half, y) = (t.scale(g, -0.5)?, t.primal(y));
    let square = t.mul(y, y)?;
    let cube = t.mul(square, y)?;
    t.mul(half, cube)
}

/// `g · y (1 - y)`.
fn logistic(t: &mut Tape, y: Value, g: Bwd) -> Outcome<Bwd> {
    let y = t.primal(y);
    let one = t.constant(t.ty(y).dtype, 1.0)?;
    let rest = t.binary(Binary::Sub, one, y)?;
    let slope = t.mul(y, rest)?;
    t.mul(g, slope)
}

/// `g` where `y` is positive.
fn relu(t: &mut Tape, y: Value, g: Bwd) -> Outcome<Bwd> {
    let y = t.primal(y);
    let zero = t.constant(t.ty(y).dtype, 0.0)?;
    let positive = t.compare(Compare::Gt, y, zero)?;
    t.keep(positive, g, true)
}

fn one_minus_square(t: &mut Tape, y: Bwd) -> Outcome<Bwd> {
    let square = t.mul(y, y)?;
    let one = t.constant(t.ty(y).dtype, 1.0)?;
    t.binary(Binary::Sub, one, square)
}

/// With `u = √(2/π) (x + 0.044715 x³)` and `h = tanh u`: `(1 + h)/2 + x/2 · (1 - h²) · u'`. Computed in
/// float32, because the terms cancel for negative `x`.
fn gelu_slope(t: &mut Tape, x: Bwd) -> Outcome<Bwd> {
    let dtype = t.ty(x).dtype;
    let x = t.cast(x, DType::F32)?;
    let (root, cubic) = ((2.0 / std::f64::consts::PI).sqrt(), 0.044715);
    let square = t.mul(x, x)?;
    let factor = t.scale(square, root * cubic)?;
    let factor = t.shift(factor, root)?;
    let u = t.mul(x, factor)?;
    let h = t.unary(Unary::Tanh, u)?;
    let slope = t.scale(square, 3.0 * root * cubic)?;
    let slope = t.shift(slope, root)?;
    let half = t.scale(x, 0.5)?;
    let slope = t.mul(half, slope)?;
    let rest = one_minus_square(t, h)?;
    let second = t.mul(slope, rest)?;
    let first = t.scale(h, 0.5)?;
    let first = t.shift(first, 0.5)?;
    let sum = t.binary(Binary::Add, first, second)?;
    t.cast(sum, dtype)
}

fn binary(t: &mut Tape, op: Binary, a: Value, b: Value, y: Value, g: Bwd) -> Outcome {
    match op {
        Binary::Add => {
            t.give_summed(a, g, y)?;
            t.give_summed(b, g, y)
        }
        Binary::Sub => {
            t.give_summed(a, g, y)?;
            if !t.wants(b) {
                return Ok(());
            }
            // Sum before negating: the sum is the smaller of the two.
            minus_summed(t, b, g, y)
        }
        Binary::Mul => product(t, a, b, g),
        Binary::Div => quotient(t, a, b, y, g),
        Binary::Rem => remainder(t, a, b, y, g),
        Binary::Pow => power(t, a, b, y, g),
        Binary::Atan2 => angle(t, a, b, g),
        Binary::Max => extremum(t, Compare::Ge, a, b, y, g),
        Binary::Min => extremum(t, Compare::Le, a, b, y, g),
        Binary::And | Binary::Or | Binary::Xor | Binary::Shl | Binary::Shr => Ok(()),
    }
}

/// `y = a · b`.
fn product(t: &mut Tape, a: Value, b: Value, g: Bwd) -> Outcome {
    if a == b {
        // `g` is the first operand because it may still be small.
        let (twice, x) = (t.scale(g, 2.0)?, t.primal(a));
        let ct = t.mul(twice, x)?;
        return t.give(a, ct);
    }
    for (x, other) in [(a, b), (b, a)] {
        if t.wants(x) {
            let other = t.primal(other);
            let ct = t.product(x, g, other)?;
            t.give(x, ct)?;
        }
    }
    Ok(())
}

/// `y = a / b`: `g / b` in `a`, `-y · g / b` in `b`.
fn quotient(t: &mut Tape, a: Value, b: Value, y: Value, g: Bwd) -> Outcome {
    let divisor = t.primal(b);
    let ct = t.binary(Binary::Div, g, divisor)?;
    t.give_summed(a, ct, y)?;
    if t.wants(b) {
        let y = t.primal(y);
        let ct = t.product(b, ct, y)?;
        let ct = t.unary(Unary::Neg, ct)?;
        t.give(b, ct)?;
    }
    Ok(())
}

/// `y = a rem b = a - b · trunc(a / b)`.
fn remainder(t: &mut Tape, a: Value, b: Value, y: Value, g: Bwd) -> Outcome {
    t.give_summed(a, g, y)?;
    if t.wants(b) {
        let (x, divisor, rest) = (t.primal(a), t.primal(b), t.primal(y));
        let whole = t.binary(Binary::Sub, x, rest)?;
        let quotient = t.binary(Binary::Div, whole, divisor)?;
        let ct = t.product(b, g, quotient)?;
        let ct = t.unary(Unary::Neg, ct)?;
        t.give(b, ct)?;
    }
    Ok(())
}

/// `y` is `a` where `a first b`, else `b`: maximum and minimum.
fn extremum(t: &mut Tape, first: Compare, a: Value, b: Value, y: Value, g: Bwd) -> Outcome {
    let (x, z) = (t.primal(a), t.primal(b));
    let chosen = t.compare(first, x, z)?;
    for (arg, holds) in [(a, true), (b, false)] {
        if t.wants(arg) {
            let ct = t.keep(chosen, g, holds)?;
            t.give_summed(arg, ct, y)?;
        }
    }
    Ok(())
}

fn minus_summed(t: &mut Tape, value: Value, g: Bwd, y: Value) -> Outcome {
    let operand = t.forward_ty(value);
    let extra: Vec<_> = t.forward_ty(y).dims.iter().filter(|d| !operand.has(&d.dim.name)).cloned().collect();
    let sum = t.sum_over(g, &extra)?;
    let ct = t.unary(Unary::Neg, sum)?;
    t.give(value, ct)
}

/// `y = atan2(a, b)`: `b / (a² + b²)` in `a`, `-a / (a² + b²)` in `b`.
fn angle(t: &mut Tape, a: Value, b: Value, g: Bwd) -> Outcome {
    let (rise, run) = (t.primal(a), t.primal(b));
    let (rise2, run2) = (t.mul(rise, rise)?, t.mul(run, run)?);
    let radius2 = t.binary(Binary::Add, rise2, run2)?;
    let share = t.binary(Binary::Div, g, radius2)?;
    if t.wants(a) {
        let ct = t.product(a, share, run)?;
        t.give(a, ct)?;
    }
    if t.wants(b) {
        let ct = t.product(b, share, rise)?;
        let ct = t.unary(Unary::Neg, ct)?;
        t.give(b, ct)?;
    }
    Ok(())
}

/// `y = a^b`: `b · a^(b-1)` in `a`; `y · ln a` in `b`, which is 0 where `a` is 0.
fn power(t: &mut Tape, a: Value, b: Value, y: Value, g: Bwd) -> Outcome {
    if t.wants(a) {
        let (base, exponent) = (t.primal(a), t.primal(b));
        let less = t.shift(exponent, -1.0)?;
        let power = t.binary(Binary::Pow, base, less)?;
        let slope = t.mul(exponent, power)?;
        let ct = t.product(a, g, slope)?;
        t.give(a, ct)?;
    }
    if t.wants(b) {
        let (base, power) = (t.primal(a), t.primal(y));
        let zero = t.constant(t.ty(base).dtype, 0.0)?;
        let is_zero = t.compare(Compare::Eq, base, zero)?;
        let one = t.constant(t.ty(base).dtype, 1.0)?;
        let safe = t.emit1(Elementwise::Select, &[is_zero, one, base])?;
        let log = t.unary(Unary::Log, safe)?;
        let slope = t.mul(power, log)?;
        let ct = t.product(b, g, slope)?;
        t.give(b, ct)?;
    }
    Ok(())
}
