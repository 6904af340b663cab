//! Movement by index. One-hots, gathers and scatter-adds work on shards: each device handles the indices that
//! fall into its shard, and a split indexed dim leaves a pending sum. The other operations are in [`whole`].

mod whole;

use super::walk::{Walk, set, whole};
use crate::cost::wire::wire_bytes;
use mesh::{
    AxisId, AxisSet, DType, Diagnostic, Inst, Name, TensorDim, Type, Value,
    ir::{Binary, Collective, Elementwise, Index, Op, Outside, Pending},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Index) -> Result<(), Diagnostic> {
    match op {
        Index::OneHot { dim, dtype } => {
            let home = walk.home(inst.results[0]);
            let args = walk.reduced_operands(inst, &home)?;
            let dim = TensorDim { dim: dim.dim.clone(), axes: home.axes_of(&dim.dim.name).to_vec() };
            walk.done(inst, Op::Index(Index::OneHot { dim, dtype: *dtype }), &args)
        }
        Index::Gather { dim, outside } => gather(walk, inst, dim, *outside),
        Index::ScatterAdd { dim, over } => scatter(walk, inst, dim, over),
        Index::ScatterExtreme { kind: _, dim: _, over } => scatter_extreme(walk, inst, op, over),
        Index::Permute { dim, to } => permute(walk, inst, op, dim, to),
        Index::TopK { dim, to } => whole::top_k(walk, inst, op, dim, to),
        Index::Sort { dim, descending: _ } => whole::sort(walk, inst, op, dim),
        Index::CumSum { dim, exclusive, reverse } => whole::cumsum(walk, inst, op, dim, *exclusive, *reverse),
        Index::DynamicSlice { dim, size: _ } | Index::DynamicUpdate { dim } => {
            whole::dynamic(walk, inst, op, dim)
        }
    }
}

/// Gathers from a split dim: every device reads what it holds and 0 for the rest, which makes a pending sum.
/// If it sends less, the dim is gathered first.
fn gather(walk: &mut Walk<'_>, inst: &Inst, dim: &Name, outside: Outside) -> Result<(), Diagnostic> {
    let (x, index) = (inst.args[0], inst.args[1]);
    let form = walk.layout(inst.results[0]);
    let mesh = &walk.cx.env.mesh;
    let smaller = form.local_bytes(mesh) <= walk.layout(x).local_bytes(mesh);
    let gathered = whole(&walk.want(x, &form, AxisSet::EMPTY), dim);
    let mut want = walk.want(x, &form, AxisSet::EMPTY);
    let free: Vec<AxisId> = walk.layout(x).axes_of(dim).to_vec();
    let free: Vec<AxisId> = free.into_iter().take_while(|a| !form.split().contains(*a)).collect();
    want.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.axes.clone_from(&free));
    let to_reduce = Collective::AllReduce { kind: Pending::Sum, axes: set(&free) };
    let native = walk.cost(x, &want) + wire_bytes(mesh, &to_reduce, &form);
    if free.is_empty() || form.dtype == DType::Pred || walk.cost(x, &gathered) <= native {
        want = gathered;
    }
    let split = !want.axes_of(dim).is_empty();
    if smaller {
        want.sum = walk.lazy(x).minus(form.split()).minus(want.split());
    }
    let size = want.size(dim).unwrap_or(1);
    let x = walk.get(x, &want)?;
    let place = walk.want(index, &form, AxisSet::EMPTY);
    let mut index = walk.get(index, &place)?;
    let mut outside = outside;
    if split && outside == Outside::Clamp {
        index = clamp(walk, index, size - 1)?;
        outside = Outside::Zero;
    }
    walk.done(inst, Op::Index(Index::Gather { dim: dim.clone(), outside }), &[x, index])
}

fn clamp(walk: &mut Walk<'_>, index: Value, last: usize) -> Result<Value, Diagnostic> {
    let zero = walk.constant(DType::S32, 0.0)?;
    let last = walk.constant(DType::S32, last as f64)?;
    let max = Op::Elementwise(Elementwise::Binary(Binary::Max));
    let min = Op::Elementwise(Elementwise::Binary(Binary::Min));
    let index = walk.emit(max, &[index, zero])?;
    walk.emit(min, &[index, last])
}

/// Scatters onto a split dim: every device adds what falls into its shard. If an axis splits both the new dim
/// and dims that are summed away, either the updates are gathered or the sum is scattered later, whichever
/// sends less.
fn scatter(walk: &mut Walk<'_>, inst: &Inst, dim: &TensorDim, over: &[Name]) -> Result<(), Diagnostic> {
    let (index, updates) = (inst.args[0], inst.args[1]);
    let mesh = &walk.cx.env.mesh;
    let mut form = walk.layout(inst.results[0]);
    let name = &dim.dim.name;
    let mut from = walk.want(updates, &form, AxisSet::EMPTY);
    let elsewhere: AxisSet =
        form.dims.iter().filter(|d| d.dim.name != *name).flat_map(|d| d.axes.iter().copied()).collect();
    // Dims whose axes are needed by other dims of the result must be whole in any case.
    strip(&mut from, over, elsewhere);
    let gathered = {
        let mut gathered = from.clone();
        strip(&mut gathered, over, form.split());
        gathered
    };
    let gone: AxisSet = over.iter().flat_map(|n| from.axes_of(n).iter().copied()).collect();
    let onto: Vec<AxisId> = form.axes_of(name).iter().copied().take_while(|a| !gone.contains(*a)).collect();
    if onto.len() < form.axes_of(name).len() {
        let mut pending = form.clone();
        pending.dims.iter_mut().filter(|d| d.dim.name == *name).for_each(|d| d.axes.clone_from(&onto));
        let later = Collective::ReduceScatter { dim: name.clone(), axes: form.axes_of(name).to_vec() };
        let later = walk.cost(updates, &from) + wire_bytes(mesh, &later, &pending);
        if later < walk.cost(updates, &gathered) {
            form = pending;
        } else {
            from = gathered;
        }
    }
    if form.local_bytes(mesh) <= from.local_bytes(mesh) {
        from.sum = walk.lazy(updates).minus(form.split()).minus(from.split());
    }
    let mut place = walk.layout(index);
    place.dims.iter_mut().for_each(|d| d.axes = from.axes_of(&d.dim.name).to_vec());
    let args = [walk.get(index, &place)?, walk.get(updates, &from)?];
    let dim = TensorDim { dim: dim.dim.clone(), axes: form.axes_of(name).to_vec() };
    walk.done(inst, Op::Index(Index::ScatterAdd { dim, over: over.to_vec() }), &args)
}

/// Every device applies its updates to what it holds; an all-reduce finds the extreme of all devices. Dims
/// that are removed and share an axis with a dim of the result are gathered.
fn scatter_extreme(walk: &mut Walk<'_>, inst: &Inst, op: &Index, over: &[Name]) -> Result<(), Diagnostic> {
    let (x, index, updates) = (inst.args[0], inst.args[1], inst.args[2]);
    let form = walk.layout(inst.results[0]);
    let mut from = walk.want(updates, &form, AxisSet::EMPTY);
    strip(&mut from, over, form.split());
    let mut place = walk.layout(index);
    place.dims.iter_mut().for_each(|d| d.axes = from.axes_of(&d.dim.name).to_vec());
    let to = walk.want(x, &form, AxisSet::EMPTY);
    let args = [walk.get(x, &to)?, walk.get(index, &place)?, walk.get(updates, &from)?];
    let y = walk.emit(Op::Index(op.clone()), &args)?;
    let y = walk.reduce_pending(y)?;
    walk.set(inst.results[0], y);
    Ok(())
}

/// Removes from `dims` their axes from the first one in `axes` on.
fn strip(ty: &mut Type, dims: &[Name], axes: AxisSet) {
    for d in ty.dims.iter_mut().filter(|d| dims.contains(&d.dim.name)) {
        let keep = d.axes.iter().take_while(|a| !axes.contains(**a)).count();
        d.axes.truncate(keep);
    }
}

/// A permutation needs both of its dims whole; the other dims stay split.
fn permute(walk: &mut Walk<'_>, inst: &Inst, op: &Index, dim: &Name, to: &Name) -> Result<(), Diagnostic> {
    let form = whole(&walk.home(inst.results[0]), to);
    let mesh = &walk.cx.env.mesh;
    let mut want = whole(&walk.want(inst.args[0], &form, AxisSet::EMPTY), dim);
    if form.local_bytes(mesh) <= want.local_bytes(mesh) {
        want.sum = walk.lazy(inst.args[0]).minus(form.split());
    }
    let x = walk.get(inst.args[0], &want)?;
    let mut args = vec![x];
    for v in &inst.args[1..] {
        let want = whole(&walk.want(*v, &form, AxisSet::EMPTY), dim);
        args.push(walk.get(*v, &want)?);
    }
    walk.done(inst, Op::Index(op.clone()), &args)
}
