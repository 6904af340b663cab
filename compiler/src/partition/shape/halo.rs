//! Slices, paddings and concatenations along a split dim. A device receives the elements of its shard of the
//! result from a few neighbours, by collective-permutes of the parts of their shards that another device
//! needs. Shards of operand and result differ in size, so that each device takes other positions of what it
//! has then: it looks them up by index. If neighbours would send more than an all-gather does, the dim is
//! gathered instead.

use crate::partition::{
    parts::Parts,
    shape::shift::permuted,
    walk::{Walk, fresh, whole},
};
use mesh::{
    AxisSet, DType, Diagnostic, Dim, Inst, Name, TensorDim, Type, Value,
    ir::{Binary, Compare, Elementwise, Index, Op, Outside, Shape},
};
use std::collections::BTreeMap;

/// Positions of the operand that a result takes: element j is element `start + j · stride`, or 0 if that is
/// outside.
#[derive(Clone, Copy)]
struct Taken {
    start: isize,
    stride: usize,
}

/// The elements that each device needs, as parts of the shards from `first` to `last`, relative to its own.
#[derive(Debug, PartialEq, Eq)]
struct Halo {
    /// The first shard.
    first: isize,
    /// The last shard.
    last: isize,
    /// The first element of the first shard.
    low: usize,
    /// The end of the elements of the last shard.
    high: usize,
}

/// Partitions a slice, padding or concatenation along a dim that operands and result split. Returns false,
/// and does nothing, if an all-gather sends less, or if the result can stay pending over axes of `sum`.
pub(super) fn partition(
    walk: &mut Walk<'_>,
    inst: &Inst,
    op: &Shape,
    dim: &Name,
    home: &Type,
    sum: AxisSet,
) -> Result<bool, Diagnostic> {
    let Some(d) = home.dim(dim).filter(|d| !d.axes.is_empty()).cloned() else { return Ok(false) };
    let shards = walk.cx.env.mesh.product(&d.axes);
    if !sum.minus(home.split()).is_empty() {
        return Ok(false);
    }
    let mut before = 0;
    let (mut operands, mut near, mut far) = (Vec::new(), 0, 0);
    for v in &inst.args {
        let want = walk.want(*v, home, AxisSet::EMPTY);
        let size = want.size(dim).unwrap_or(1);
        let taken = taken(op, before);
        before += size;
        if !size.is_multiple_of(shards) || want.axes_of(dim) != d.axes {
            return Ok(false);
        }
        let own = size / shards;
        let Some(halo) = Halo::new(taken, own, shards, d.dim.size / shards) else { return Ok(false) };
        let bytes = want.local_bytes(&walk.cx.env.mesh) as u64 / own as u64;
        near += walk.cost(*v, &want) + bytes * halo.received(own) as u64;
        far += walk.cost(*v, &walk.want(*v, &whole(home, dim), AxisSet::EMPTY));
        operands.push((*v, want, taken, halo));
    }
    if near >= far {
        return Ok(false);
    }
    let mut parts = Vec::new();
    for (v, want, taken, halo) in operands {
        let x = walk.get(v, &want)?;
        parts.push((window(walk, x, &want, &d, taken, &halo)?, taken, want.size(dim).unwrap_or(1)));
    }
    let y = joined(walk, &parts, op, home, &d)?;
    walk.set(inst.results[0], y);
    Ok(true)
}

/// The positions that `op` takes of an operand; `before` is the size of the operands of a concatenation that
/// come first.
fn taken(op: &Shape, before: usize) -> Taken {
    match op {
        Shape::Slice { dim: _, start, limit: _, stride } => Taken { start: *start as isize, stride: *stride },
        Shape::Pad { dim: _, low, high: _, value: _ } => Taken { start: -(*low as isize), stride: 1 },
        Shape::Concat { dim: _ } => Taken { start: -(before as isize), stride: 1 },
        Shape::Constant { dtype: _, value: _ }
        | Shape::Iota { dim: _, dtype: _ }
        | Shape::Rename { pairs: _ }
        | Shape::Reshape { from: _, to: _ }
        | Shape::Broadcast { dims: _ }
        | Shape::Shift { dim: _, by: _, edge: _ } => Taken { start: 0, stride: 1 },
    }
}

impl Halo {
    /// The halo of `shards` shards of `own` elements, of which each result shard has `result`. `None` if the
    /// result takes no element.
    fn new(taken: Taken, own: usize, shards: usize, result: usize) -> Option<Self> {
        let mut spans: BTreeMap<isize, (usize, usize)> = BTreeMap::new();
        for i in 0..shards {
            let first = taken.start + (i * result * taken.stride) as isize;
            let last = first + ((result - 1) * taken.stride) as isize;
            if last < 0 || first >= (own * shards) as isize {
                continue;
            }
            let [first, last] = [first, last].map(|at| at.clamp(0, (own * shards) as isize - 1) as usize);
            for shard in first / own..=last / own {
                let low = if shard == first / own { first % own } else { 0 };
                let high = if shard == last / own { last % own + 1 } else { own };
                let span = spans.entry(shard as isize - i as isize).or_insert((low, high));
                *span = (span.0.min(low), span.1.max(high));
            }
        }
        let ((first, (low, _)), (last, (_, high))) = (spans.first_key_value()?, spans.last_key_value()?);
        Some(Self { first: *first, last: *last, low: *low, high: *high })
    }

    /// The part of the shard `at`.
    fn span(&self, at: isize, own: usize) -> (usize, usize) {
        (if at == self.first { self.low } else { 0 }, if at == self.last { self.high } else { own })
    }

    /// Elements along the dim that a device receives.
    fn received(&self, own: usize) -> usize {
        let spans = (self.first..=self.last).filter(|at| *at != 0).map(|at| self.span(at, own));
        spans.map(|(low, high)| high - low).sum()
    }
}

/// The taken elements of `x`, which is split as `ty`, with 0 where there is none. `d` is the dim of the
/// result.
fn window(
    walk: &mut Walk<'_>,
    x: Value,
    ty: &Type,
    d: &TensorDim,
    taken: Taken,
    halo: &Halo,
) -> Result<Value, Diagnostic> {
    let dim = &d.dim.name;
    let Some(parts) = Parts::of(walk, ty, dim) else { return Ok(x) };
    let (shard, part, own) = (&parts.shard, &parts.part.dim.name, parts.part.dim.size);
    let y = walk.reshape(x, vec![dim.clone()], parts.both())?;
    let mut pieces = Vec::new();
    for at in halo.first..=halo.last {
        let (start, limit) = halo.span(at, own);
        let cut = Op::Shape(Shape::Slice { dim: part.clone(), start, limit, stride: 1 });
        let piece = if limit - start < own { walk.emit(cut, &[y])? } else { y };
        pieces.push(permuted(walk, piece, &parts, -at, false)?);
    }
    let y = match pieces.as_slice() {
        [only] => *only,
        _ => walk.emit(Op::Shape(Shape::Concat { dim: part.clone() }), &pieces)?,
    };
    // The position in the window of element j of the shard i of the result.
    let own_result = Dim::new(fresh(ty, dim, "taken"), d.dim.size / shard.dim.size);
    let step = (own_result.size * taken.stride) as isize - own as isize;
    let base = halo.first * own as isize + halo.low as isize;
    let i = walk.iota(shard.clone())?;
    let i = scaled(walk, i, step, taken.start - base)?;
    let j = walk.iota(TensorDim { dim: own_result.clone(), axes: Vec::new() })?;
    let j = scaled(walk, j, taken.stride as isize, 0)?;
    let index = walk.binary(Binary::Add, i, j)?;
    let look_up = Index::Gather { dim: part.clone(), outside: Outside::Zero };
    let y = walk.emit(Op::Index(look_up), &[y, index])?;
    walk.reshape(y, vec![shard.dim.name.clone(), own_result.name], vec![d.clone()])
}

/// `x · factor + more`.
fn scaled(walk: &mut Walk<'_>, x: Value, factor: isize, more: isize) -> Result<Value, Diagnostic> {
    let factor = walk.constant(DType::S32, factor as f64)?;
    let more = walk.constant(DType::S32, more as f64)?;
    let x = walk.binary(Binary::Mul, x, factor)?;
    walk.binary(Binary::Add, x, more)
}

/// Chooses for each position along `d` the operand that has it, or the value of a padding. The result has the
/// dims of `home`, in this order.
fn joined(
    walk: &mut Walk<'_>,
    parts: &[(Value, Taken, usize)],
    op: &Shape,
    home: &Type,
    d: &TensorDim,
) -> Result<Value, Diagnostic> {
    let value = match op {
        Shape::Pad { dim: _, low: _, high: _, value } => *value,
        Shape::Slice { dim: _, start: _, limit: _, stride: _ }
        | Shape::Concat { dim: _ }
        | Shape::Constant { dtype: _, value: _ }
        | Shape::Iota { dim: _, dtype: _ }
        | Shape::Rename { pairs: _ }
        | Shape::Reshape { from: _, to: _ }
        | Shape::Broadcast { dims: _ }
        | Shape::Shift { dim: _, by: _, edge: _ } => 0.0,
    };
    // The first value of `select` decides the order of dims, which an index has changed.
    let value = walk.constant(home.dtype, value)?;
    let mut y = walk.emit(Op::Shape(Shape::Broadcast { dims: home.dims.clone() }), &[value])?;
    for (x, taken, size) in parts {
        let low = -taken.start;
        let end = (*size as isize + low).max(0).cast_unsigned().div_ceil(taken.stride) as isize;
        let outside = bound(walk, d, Compare::Ge, end)?;
        let outside = if low > 0 {
            let before = bound(walk, d, Compare::Lt, low)?;
            walk.binary(Binary::Or, before, outside)?
        } else {
            outside
        };
        y = walk.select(outside, y, *x)?;
    }
    Ok(y)
}

/// Compares positions along `d` with `bound`.
fn bound(walk: &mut Walk<'_>, d: &TensorDim, compare: Compare, bound: isize) -> Result<Value, Diagnostic> {
    let at = walk.iota(d.clone())?;
    let bound = walk.constant(DType::S32, bound as f64)?;
    walk.emit(Op::Elementwise(Elementwise::Compare(compare)), &[at, bound])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `start`, stride, and sizes of shards of the operand and the result, on four devices.
    #[track_caller]
    fn check(start: isize, stride: usize, own: usize, result: usize, halo: (isize, isize, usize, usize)) {
        let (first, last, low, high) = halo;
        let want = Halo { first, last, low, high };
        assert_eq!(Halo::new(Taken { start, stride }, own, 4, result), Some(want));
    }

    #[test]
    fn neighbours_send_what_the_result_takes() {
        // All but the first four of sixteen elements: shards of four become shards of three.
        check(4, 1, 4, 3, (0, 1, 1, 3));
        // Two before and two after sixteen elements: shards of five.
        check(-2, 1, 4, 5, (-1, 1, 3, 1));
        // Every second element, of which a device has its own.
        check(0, 2, 4, 2, (0, 0, 0, 3));
    }
}
