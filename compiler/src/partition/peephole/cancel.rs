//! Removes pairs of collectives of which the second undoes the first.

use super::Rewrite;
use mesh::{
    Diagnostic, Inst, Value,
    ir::{Collective, Op, Pending},
};

pub(crate) fn run(rewrite: &mut Rewrite<'_>, inst: &Inst) -> Result<Option<Value>, Diagnostic> {
    let Op::Collective(second) = &inst.op else { return Ok(None) };
    match rewrite.collective(inst.args[0]) {
        Some((x, first)) if undoes(first, second) => rewrite.new_of(x).map(Some),
        Some(_) | None => Ok(None),
    }
}

fn undoes(first: &Collective, second: &Collective) -> bool {
    match (first, second) {
        (Collective::AllGather { dim, axes }, Collective::Shard { dim: d, axes: a })
        | (Collective::Shard { dim, axes }, Collective::AllGather { dim: d, axes: a }) => {
            dim == d && axes == a
        }
        (
            Collective::AllToAll { from, to, axes },
            Collective::AllToAll { from: from2, to: to2, axes: axes2 },
        ) => from == to2 && to == from2 && axes == axes2,
        (
            Collective::Permute { dim, axes, by, wrap: true },
            Collective::Permute { dim: d, axes: a, by: b, wrap: true },
        ) => dim == d && axes == a && *by == -b,
        (Collective::AsPending { axes }, Collective::AllReduce { kind: Pending::Sum, axes: a }) => axes == a,
        (
            Collective::AllReduce { kind: _, axes: _ }
            | Collective::AllGather { dim: _, axes: _ }
            | Collective::ReduceScatter { dim: _, axes: _ }
            | Collective::AllToAll { from: _, to: _, axes: _ }
            | Collective::Permute { dim: _, axes: _, by: _, wrap: _ }
            | Collective::Shard { dim: _, axes: _ }
            | Collective::AsPending { axes: _ },
            Collective::AllReduce { kind: _, axes: _ }
            | Collective::AllGather { dim: _, axes: _ }
            | Collective::ReduceScatter { dim: _, axes: _ }
            | Collective::AllToAll { from: _, to: _, axes: _ }
            | Collective::Permute { dim: _, axes: _, by: _, wrap: _ }
            | Collective::Shard { dim: _, axes: _ }
            | Collective::AsPending { axes: _ },
        ) => false,
    }
}
