//! Operations that order or number the elements of a dim. Running sums and top-k are computed shard by shard
//! first; sorting and dynamic slices gather the dim.

use crate::partition::{
    parts::Parts,
    walk::{Walk, fresh, whole},
};
use mesh::{
    AxisSet, DType, Diagnostic, Dim, Inst, Name, TensorDim, Value,
    ir::{Binary, Index, Op, Outside, ReduceKind},
};

/// The running sum of a split dim: the running sum of each shard, plus the sum of the shards before it.
pub(super) fn cumsum(
    walk: &mut Walk<'_>,
    inst: &Inst,
    op: &Index,
    dim: &Name,
    exclusive: bool,
    reverse: bool,
) -> Result<(), Diagnostic> {
    let x = inst.args[0];
    let mut form = walk.home(x);
    form.sum = walk.lazy(x).minus(form.split());
    let local = walk.get(x, &form)?;
    let Some(parts) = Parts::of(walk, &form, dim) else {
        return walk.done(inst, Op::Index(op.clone()), &[local]);
    };
    // bfloat16 sums are rounded once, at the end.
    let dtype = form.dtype;
    let wide = if dtype == DType::Bf16 { DType::F32 } else { dtype };
    let y = walk.cast(wide, local)?;
    let y = walk.reshape(y, vec![dim.clone()], parts.both())?;
    let inside = walk.cumsum(y, &parts.part.dim.name, exclusive, reverse)?;
    let totals = walk.fold(ReduceKind::Sum, std::slice::from_ref(&parts.part.dim.name), y)?;
    let totals = walk.gather(totals, &parts.shard.dim.name, &parts.shard.axes)?;
    let before = walk.cumsum(totals, &parts.shard.dim.name, true, reverse)?;
    let mine =
        mesh::ir::Collective::Shard { dim: parts.shard.dim.name.clone(), axes: parts.shard.axes.clone() };
    let before = walk.emit(Op::Collective(mine), &[before])?;
    let y = walk.binary(Binary::Add, inside, before)?;
    let from = vec![parts.shard.dim.name.clone(), parts.part.dim.name.clone()];
    let split = form.dim(dim).cloned().into_iter().collect();
    let y = walk.reshape(y, from, split)?;
    let y = walk.cast(dtype, y)?;
    walk.set(inst.results[0], y);
    Ok(())
}

/// The k largest elements of a split dim are among the k largest of each shard.
pub(super) fn top_k(
    walk: &mut Walk<'_>,
    inst: &Inst,
    op: &Index,
    dim: &Name,
    to: &Dim,
) -> Result<(), Diagnostic> {
    let x = inst.args[0];
    let form = walk.layout(x);
    let parts = Parts::of(walk, &form, dim).filter(|p| to.size <= p.part.dim.size);
    let Some(parts) = parts else {
        let local = walk.get(x, &whole(&form, dim))?;
        return walk.done(inst, Op::Index(op.clone()), &[local]);
    };
    let local = walk.get(x, &form)?;
    let y = walk.reshape(local, vec![dim.clone()], parts.both())?;
    // The k largest of each shard, with their positions in the whole dim.
    let some = Dim::new(fresh(&form, dim, "top"), to.size);
    let per_shard = Index::TopK { dim: parts.part.dim.name.clone(), to: some.clone() };
    let best = walk.b.emit(Op::Index(per_shard), &[y], &walk.site)?;
    let shard = walk.iota(parts.shard.clone())?;
    let length = walk.constant(DType::S32, parts.part.dim.size as f64)?;
    let start = walk.binary(Binary::Mul, shard, length)?;
    let positions = walk.binary(Binary::Add, best[1], start)?;
    // The candidates of all shards, with equal elements in the order of the dim, and the k largest of these.
    let shard_name = &parts.shard.dim.name;
    let merged = TensorDim {
        dim: Dim::new(fresh(&form, dim, "all"), parts.shard.dim.size * to.size),
        axes: Vec::new(),
    };
    let from = vec![shard_name.clone(), some.name.clone()];
    let values = walk.gather(best[0], shard_name, &parts.shard.axes)?;
    let values = walk.reshape(values, from.clone(), vec![merged.clone()])?;
    let positions = walk.gather(positions, shard_name, &parts.shard.axes)?;
    let positions = walk.reshape(positions, from, vec![merged.clone()])?;
    let final_k = Index::TopK { dim: merged.dim.name.clone(), to: to.clone() };
    let top = walk.b.emit(Op::Index(final_k), &[values], &walk.site)?;
    let pick = Index::Gather { dim: merged.dim.name, outside: Outside::Zero };
    let at = walk.emit(Op::Index(pick), &[positions, top[1]])?;
    walk.set(inst.results[0], top[0]);
    walk.set(inst.results[1], at);
    Ok(())
}

/// Sorting needs the whole dim.
pub(super) fn sort(walk: &mut Walk<'_>, inst: &Inst, op: &Index, dim: &Name) -> Result<(), Diagnostic> {
    let form = whole(&walk.layout(inst.results[0]), dim);
    let args = walk.reduced_operands(inst, &form)?;
    walk.done(inst, Op::Index(op.clone()), &args)
}

/// Slices at positions known only at run time need the whole dim.
pub(super) fn dynamic(walk: &mut Walk<'_>, inst: &Inst, op: &Index, dim: &Name) -> Result<(), Diagnostic> {
    let form = whole(&walk.home(inst.results[0]), dim);
    let tensors = inst.args.len() - 1;
    let sum = match tensors {
        1 => walk.lazy(inst.args[0]).minus(form.split()),
        _ => AxisSet::EMPTY,
    };
    let mut args: Vec<Value> = Vec::new();
    for v in &inst.args[..tensors] {
        let want = walk.want(*v, &form, sum);
        args.push(walk.get(*v, &want)?);
    }
    args.push(walk.get_layout(inst.args[tensors])?);
    walk.done(inst, Op::Index(op.clone()), &args)
}
