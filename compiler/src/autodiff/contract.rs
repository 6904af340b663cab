//! Gradients of einsum: two einsums, or products if nothing is summed.

use super::tape::{Bwd, Outcome, Tape};
use mesh::{Value, ir::Contract};

/// The cotangent of each operand is the einsum of `g` with the other operand. If the result is wider than the
/// operands (bf16 operands, float32 result), `g` is rounded to the operands' type first, so that the backward
/// einsums run in bf16 like the forward one.
pub(super) fn pull(t: &mut Tape, op: &Contract, args: &[Value], g: Bwd) -> Outcome {
    let Contract { out: _, dtype: _ } = op;
    let g = t.cast(g, t.forward_ty(args[0]).dtype)?;
    for (x, other) in [(args[0], args[1]), (args[1], args[0])] {
        if t.wants(x) {
            let other = t.primal(other);
            let ct = t.product(x, g, other)?;
            t.give(x, ct)?;
        }
    }
    Ok(())
}
