//! State has the sharding of the state layout; reads and writes use it.

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
