//! Random numbers depend on the logical position: each device generates its own shard, also of stored
//! tensors.

use super::walk::Walk;
use mesh::{
    Diagnostic, Inst,
    ir::{Op, Random},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Random) -> Result<(), Diagnostic> {
    let args = inst.args.iter().map(|a| walk.get_layout(*a)).collect::<Result<Vec<_>, _>>()?;
    let dims = walk.home(inst.results[0]).dims;
    walk.done(inst, Op::Random(Random { dims, ..op.clone() }), &args)
}
