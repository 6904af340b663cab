//! Shifts along a split dim. Each shard of the result consists of elements of at most two neighbouring shards
//! of the operand, which arrive by collective-permutes.

use crate::partition::{parts::Parts, walk::Walk};
use mesh::{
    AxisSet, DType, Diagnostic, Inst, Name, Type, Value,
    ir::{Collective, Compare, Edge, Elementwise, Op, Shape, Unary},
};

pub(super) fn partition(
    walk: &mut Walk<'_>,
    inst: &Inst,
    dim: &Name,
    by: isize,
    edge: Edge,
    home: &Type,
) -> Result<(), Diagnostic> {
    let x = inst.args[0];
    // A permute fills with positive zeros.
    let linear = match edge {
        Edge::Wrap => true,
        Edge::Fill(value) => value.to_bits() == 0,
    };
    let sum = if linear { walk.lazy(x).minus(home.split()) } else { AxisSet::EMPTY };
    let want = walk.want(x, home, sum);
    let local = walk.get(x, &want)?;
    let Some(parts) = Parts::of(walk, &want, dim) else {
        let op = Shape::Shift { dim: dim.clone(), by, edge };
        return walk.done(inst, Op::Shape(op), &[local]);
    };
    let by = nearest(by, edge, want.size(dim).unwrap_or(1));
    let y = walk.reshape(local, vec![dim.clone()], parts.both())?;
    let y = moved(walk, y, &parts, by, edge == Edge::Wrap)?;
    let from = parts.both().into_iter().map(|d| d.dim.name).collect();
    let mut y = walk.reshape(y, from, want.dim(dim).cloned().into_iter().collect())?;
    if let Edge::Fill(value) = edge
        && !linear
    {
        y = filled(walk, y, dim, by, value)?;
    }
    walk.set(inst.results[0], y);
    Ok(())
}

/// The shift with the same result that moves elements by the fewest positions.
fn nearest(by: isize, edge: Edge, size: usize) -> isize {
    let size = size as isize;
    match edge {
        Edge::Fill(_) => by,
        Edge::Wrap => {
            let by = by.rem_euclid(size);
            if 2 * by > size { by - size } else { by }
        }
    }
}

/// Moves all elements by `by` positions. Zeros enter, unless `wrap` holds.
fn moved(walk: &mut Walk<'_>, x: Value, parts: &Parts, by: isize, wrap: bool) -> Result<Value, Diagnostic> {
    let (part, size) = (&parts.part.dim.name, parts.part.dim.size);
    let shards = by.div_euclid(size as isize);
    let rest = by.rem_euclid(size as isize) as usize;
    let slice = |start, limit| Op::Shape(Shape::Slice { dim: part.clone(), start, limit, stride: 1 });
    if rest == 0 {
        return permuted(walk, x, parts, shards, wrap);
    }
    // The last `rest` elements of a shard enter the next one.
    let last = walk.emit(slice(size - rest, size), &[x])?;
    let last = permuted(walk, last, parts, shards + 1, wrap)?;
    let first = walk.emit(slice(0, size - rest), &[x])?;
    let first = permuted(walk, first, parts, shards, wrap)?;
    walk.emit(Op::Shape(Shape::Concat { dim: part.clone() }), &[last, first])
}

/// Moves shards by `by` positions.
pub(super) fn permuted(
    walk: &mut Walk<'_>,
    x: Value,
    parts: &Parts,
    by: isize,
    wrap: bool,
) -> Result<Value, Diagnostic> {
    if by == 0 {
        return Ok(x);
    }
    let (dim, axes) = (parts.shard.dim.name.clone(), parts.shard.axes.clone());
    walk.emit(Op::Collective(Collective::Permute { dim, axes, by, wrap }), &[x])
}

/// Replaces the zeros that entered by `value`.
fn filled(walk: &mut Walk<'_>, x: Value, dim: &Name, by: isize, value: f64) -> Result<Value, Diagnostic> {
    let ty = walk.b.ty(x).clone();
    let Some(d) = ty.dim(dim) else { return Ok(x) };
    let size = d.dim.size as isize;
    let at = walk.iota(d.clone())?;
    let (compare, bound) = if by > 0 { (Compare::Lt, by) } else { (Compare::Ge, size + by) };
    let bound = walk.constant(DType::S32, bound as f64)?;
    let entered = walk.emit(Op::Elementwise(Elementwise::Compare(compare)), &[at, bound])?;
    let value = walk.constant(ty.dtype, value)?;
    // The first value of `select` decides the order of dims, and `x` has all of them.
    let kept = walk.unary(Unary::Not, entered)?;
    walk.select(kept, x, value)
}
