//! Replaces an all-reduce of which each device uses a shard by a reduce-scatter.

use super::Rewrite;
use mesh::{
    AxisSet, Diagnostic, Inst, Value,
    ir::{Collective, Op},
};

pub(crate) fn run(rewrite: &mut Rewrite<'_>, inst: &Inst) -> Result<Option<Value>, Diagnostic> {
    let Op::Collective(Collective::Shard { dim, axes }) = &inst.op else { return Ok(None) };
    let Some((x, pending_axes)) = rewrite.lone_sum(inst.args[0]) else { return Ok(None) };
    let cut: AxisSet = axes.iter().copied().collect();
    if !cut.minus(pending_axes).is_empty() {
        return Ok(None);
    }
    let x = rewrite.new_of(x)?;
    let op = Collective::ReduceScatter { dim: dim.clone(), axes: axes.clone() };
    let scattered = rewrite.emit(Op::Collective(op), &[x], inst)?;
    let rest = pending_axes.minus(cut);
    if rest.is_empty() {
        return Ok(Some(scattered));
    }
    rewrite.all_reduce(scattered, rest, inst.args[0]).map(Some)
}
