//! Gradients of reductions.

use super::tape::{Bwd, Outcome, Tape};
use mesh::{
    Name, Value,
    ir::{Binary, Compare, Reduce, ReduceKind, Unary},
};

pub(super) fn pull(t: &mut Tape, op: &Reduce, x: Value, y: Value, g: Bwd) -> Outcome {
    match op {
        Reduce::Over { kind, dims } => {
            let ct = fold(t, *kind, dims, x, y, g)?;
            t.give(x, ct)
        }
        Reduce::ArgMax { .. } => Ok(()),
    }
}

fn fold(t: &mut Tape, kind: ReduceKind, dims: &[Name], x: Value, y: Value, g: Bwd) -> Outcome<Bwd> {
    match kind {
        // The cotangent is constant along the reduced dims, which it therefore lacks.
        ReduceKind::Sum => Ok(g),
        ReduceKind::Mean => {
            let ty = t.forward_ty(x);
            let count: f64 = dims.iter().filter_map(|n| ty.size(n)).map(|n| n as f64).product();
            t.scale(g, 1.0 / count)
        }
        ReduceKind::Max | ReduceKind::Min => {
            let gone: Vec<_> =
                t.forward_ty(x).dims.iter().filter(|d| dims.contains(&d.dim.name)).cloned().collect();
            let dtype = t.forward_ty(x).dtype;
            let (x, y) = (t.primal(x), t.primal(y));
            let best = t.compare(Compare::Eq, x, y)?;
            let ones = t.cast(best, dtype)?;
            let count = t.sum_over(ones, &gone)?;
            let share = t.binary(Binary::Div, g, count)?;
            t.mul(ones, share)
        }
        ReduceKind::LogSumExp => {
            let weights = match t.softmax(x, y) {
                Some(known) => t.primal(known),
                None => {
                    let (x, y) = (t.primal(x), t.primal(y));
                    let difference = t.binary(Binary::Sub, x, y)?;
                    t.unary(Unary::Exp, difference)?
                }
            };
            t.mul(g, weights)
        }
    }
}
