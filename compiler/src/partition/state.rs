//! State lies over the mesh as the state layout says; values come from it and go to it that way.

use super::walk::Walk;
use mesh::{
    Diagnostic, Inst,
    ir::{Op, StateOp},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &StateOp) -> Result<(), Diagnostic> {
    let args = match op {
        StateOp::Read(_) => Vec::new(),
        StateOp::Write(id) => {
            let want = walk.cx.env.states[*id].ty.clone();
            vec![walk.get(inst.args[0], &want)?]
        }
    };
    walk.done(inst, Op::State(op.clone()), &args)
}
