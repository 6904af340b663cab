//! Creation and movement. Created tensors are created in shards. Renames and reshapes move axes between dims
//! before the operation, which is where all-to-alls come from.

mod halo;
mod reshape;
mod shift;

use super::walk::{Walk, whole};
use crate::cost::wire::wire_bytes;
use mesh::{
    AxisSet, Diagnostic, Inst, Name, TensorDim, Type, Value,
    ir::{Collective, Edge, Op, Pending, Shape},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Shape) -> Result<(), Diagnostic> {
    if makes_zero(walk, inst, op) {
        walk.mark_zero(inst.results[0]);
    }
    let home = walk.home(inst.results[0]);
    let lies = |d: &TensorDim| TensorDim { dim: d.dim.clone(), axes: home.axes_of(&d.dim.name).to_vec() };
    match op {
        Shape::Constant { dtype: _, value: _ } => walk.done(inst, Op::Shape(op.clone()), &[]),
        Shape::Iota { dim, dtype } => {
            let op = Shape::Iota { dim: lies(dim), dtype: *dtype };
            walk.done(inst, Op::Shape(op), &[])
        }
        Shape::Rename { pairs } => {
            let want = renamed(walk, inst.args[0], pairs, &home);
            let x = walk.get(inst.args[0], &want)?;
            walk.done(inst, Op::Shape(op.clone()), &[x])
        }
        Shape::Reshape { from, to } => reshape::partition(walk, inst, from, to),
        Shape::Broadcast { dims } => {
            // An operand is reduced before it is repeated, unless it is repeated once.
            let grows = dims.iter().any(|d| d.dim.size > 1);
            let sum = if grows { AxisSet::EMPTY } else { walk.lazy(inst.args[0]).minus(home.split()) };
            let want = walk.want(inst.args[0], &home, sum);
            let x = walk.get(inst.args[0], &want)?;
            let op = Shape::Broadcast { dims: dims.iter().map(lies).collect() };
            walk.done(inst, Op::Shape(op), &[x])
        }
        Shape::Slice { dim, start: _, limit: _, stride: _ } => {
            along(walk, inst, op, dim, &home, walk.lazy(inst.args[0]))
        }
        Shape::Pad { dim, low: _, high: _, value } => {
            let sum = if *value == 0.0 { walk.lazy(inst.args[0]) } else { AxisSet::EMPTY };
            along(walk, inst, op, dim, &home, sum)
        }
        Shape::Concat { dim } => {
            let pending = |v: &Value| walk.lazy(*v).union(if walk.can_owe(*v) { all() } else { none() });
            let both = inst.args.iter().map(pending).fold(all(), AxisSet::intersect);
            let pending_axes = inst.args.iter().map(|v| walk.lazy(*v)).fold(none(), AxisSet::union);
            let sum = if pending_axes.minus(both).is_empty() { pending_axes } else { none() };
            along(walk, inst, op, dim, &home, sum)
        }
        Shape::Shift { dim, by, edge } => shift::partition(walk, inst, dim, *by, *edge, &home),
    }
}

fn all() -> AxisSet {
    AxisSet(u32::MAX)
}

fn none() -> AxisSet {
    AxisSet::EMPTY
}

/// Applies an operation along `dim`: on shards with elements of their neighbours, or on the whole dim if that
/// sends less. The result is sharded again if that is asked for.
fn along(
    walk: &mut Walk<'_>,
    inst: &Inst,
    op: &Shape,
    dim: &Name,
    home: &Type,
    sum: AxisSet,
) -> Result<(), Diagnostic> {
    if halo::partition(walk, inst, op, dim, home, sum)? {
        return Ok(());
    }
    let form = whole(home, dim);
    let sum = sum.minus(form.split());
    let mut args = Vec::new();
    for v in &inst.args {
        let want = walk.want(*v, &form, sum);
        args.push(walk.get(*v, &want)?);
    }
    walk.done(inst, Op::Shape(op.clone()), &args)
}

/// The sharding that the operand of a rename needs for the result to have sharding `home`.
fn renamed(walk: &Walk<'_>, x: Value, pairs: &[(Name, Name)], home: &Type) -> Type {
    let mut want = walk.layout(x);
    for d in &mut want.dims {
        let to = pairs.iter().find(|(from, _)| *from == d.dim.name).map_or(&d.dim.name, |(_, to)| to);
        d.axes = home.axes_of(to).to_vec();
    }
    let pending_axes = walk.lazy(x).minus(home.split());
    if pending_axes.is_empty() {
        return want;
    }
    let mut pending = want.clone();
    pending.sum = pending_axes;
    // If the rename is an all-to-all, a pending operand is exchanged as it is and reduced later.
    let mesh = &walk.cx.env.mesh;
    let later = wire_bytes(mesh, &Collective::AllReduce { kind: Pending::Sum, axes: pending_axes }, &pending);
    if walk.cost(x, &want) < walk.cost(x, &pending) + later { want } else { pending }
}

/// True if an instruction makes nothing but zeros.
fn makes_zero(walk: &Walk<'_>, inst: &Inst, op: &Shape) -> bool {
    match op {
        Shape::Constant { dtype: _, value } => *value == 0.0,
        Shape::Broadcast { dims: _ }
        | Shape::Rename { pairs: _ }
        | Shape::Reshape { from: _, to: _ }
        | Shape::Slice { dim: _, start: _, limit: _, stride: _ }
        | Shape::Shift { dim: _, by: _, edge: Edge::Wrap } => walk.is_zero(inst.args[0]),
        Shape::Shift { dim: _, by: _, edge: Edge::Fill(value) } => {
            *value == 0.0 && walk.is_zero(inst.args[0])
        }
        Shape::Iota { dim: _, dtype: _ }
        | Shape::Pad { dim: _, low: _, high: _, value: _ }
        | Shape::Concat { dim: _ } => false,
    }
}
