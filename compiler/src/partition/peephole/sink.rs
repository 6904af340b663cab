//! An all-reduce followed by a linear operation that makes its operand smaller is done after it.

use super::Rewrite;
use mesh::{
    Diagnostic, Inst, Type, Value,
    infer::infer,
    ir::{Elementwise, Index, Op, Reduce, ReduceKind, Shape},
};

pub(crate) fn run(rewrite: &mut Rewrite<'_>, inst: &Inst) -> Result<Option<Value>, Diagnostic> {
    if !shrinks(&inst.op) {
        return Ok(None);
    }
    let Some((i, (x, owed))) =
        inst.args.iter().enumerate().find_map(|(i, a)| Some((i, rewrite.lone_sum(*a)?)))
    else {
        return Ok(None);
    };
    let mesh = &rewrite.b.env.mesh;
    let mut types: Vec<&Type> = inst.args.iter().map(|a| rewrite.old.ty(*a)).collect();
    let size = types[i].local_bytes(mesh);
    types[i] = rewrite.old.ty(x);
    // The rules of the language say whether the operation takes what is owed.
    let Ok(results) = infer(rewrite.b.env, &inst.op, &types) else { return Ok(None) };
    let result = rewrite.old.ty(inst.results[0]);
    if results[0].sum != owed.union(result.sum) || result.local_bytes(mesh) >= size {
        return Ok(None);
    }
    let mut args = Vec::new();
    for (j, a) in inst.args.iter().enumerate() {
        args.push(rewrite.new_of(if i == j { x } else { *a })?);
    }
    let small = rewrite.emit(inst.op.clone(), &args, inst)?;
    rewrite.all_reduce(small, owed, inst.args[i]).map(Some)
}

/// Whether the result of an operation can be smaller than an operand in which it is linear.
fn shrinks(op: &Op) -> bool {
    match op {
        Op::Elementwise(Elementwise::Cast(_)) | Op::Contract(_) => true,
        Op::Reduce(Reduce::Over { kind: ReduceKind::Sum | ReduceKind::Mean, dims: _ }) => true,
        Op::Shape(Shape::Slice { dim: _, start: _, limit: _, stride: _ }) => true,
        Op::Index(Index::DynamicSlice { dim: _, size: _ } | Index::Gather { dim: _, outside: _ }) => true,
        Op::Index(Index::Permute { dim: _, to: _ }) => true,
        Op::Reduce(Reduce::Over {
            kind: ReduceKind::Max | ReduceKind::Min | ReduceKind::LogSumExp,
            dims: _,
        })
        | Op::Reduce(Reduce::ArgMax { dim: _ })
        | Op::Elementwise(
            Elementwise::Unary(_)
            | Elementwise::Binary(_)
            | Elementwise::Compare(_)
            | Elementwise::Select
            | Elementwise::StopGradient,
        )
        | Op::Shape(
            Shape::Constant { dtype: _, value: _ }
            | Shape::Iota { dim: _, dtype: _ }
            | Shape::Rename { pairs: _ }
            | Shape::Reshape { from: _, to: _ }
            | Shape::Broadcast { dims: _ }
            | Shape::Pad { dim: _, low: _, high: _, value: _ }
            | Shape::Concat { dim: _ },
        )
        | Op::Index(
            Index::OneHot { dim: _, dtype: _ }
            | Index::ScatterAdd { dim: _, over: _ }
            | Index::TopK { dim: _, to: _ }
            | Index::Sort { dim: _, descending: _ }
            | Index::CumSum { dim: _, exclusive: _, reverse: _ }
            | Index::DynamicUpdate { dim: _ },
        )
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_)
        | Op::Collective(_) => false,
    }
}
