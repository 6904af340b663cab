//! Moves an all-reduce behind a linear operation that makes its operand smaller.

use super::Rewrite;
use crate::facts::shrinks;
use mesh::{Diagnostic, Inst, Type, Value, infer::infer};

pub(crate) fn run(rewrite: &mut Rewrite<'_>, inst: &Inst) -> Result<Option<Value>, Diagnostic> {
    if !shrinks(&inst.op) {
        return Ok(None);
    }
    let Some((i, (x, pending_axes))) =
        inst.args.iter().enumerate().find_map(|(i, a)| Some((i, rewrite.lone_sum(*a)?)))
    else {
        return Ok(None);
    };
    let mesh = &rewrite.b.env.mesh;
    let mut types: Vec<&Type> = inst.args.iter().map(|a| rewrite.old.ty(*a)).collect();
    let size = types[i].local_bytes(mesh);
    types[i] = rewrite.old.ty(x);
    // Type inference decides whether the operation takes the pending operand.
    let Ok(results) = infer(rewrite.b.env, &inst.op, &types) else { return Ok(None) };
    let result = rewrite.old.ty(inst.results[0]);
    if results[0].sum != pending_axes.union(result.sum) || result.local_bytes(mesh) >= size {
        return Ok(None);
    }
    let mut args = Vec::new();
    for (j, a) in inst.args.iter().enumerate() {
        args.push(rewrite.new_of(if i == j { x } else { *a })?);
    }
    let small = rewrite.emit(inst.op.clone(), &args, inst)?;
    rewrite.all_reduce(small, pending_axes, inst.args[i]).map(Some)
}
