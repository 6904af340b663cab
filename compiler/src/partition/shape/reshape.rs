//! Reshape: which axes can stay on both sides, and what has to be resharded before and after.
//!
//! A reshape needs no communication if both sides are split over the same axes on their major dims
//! ([`flat_axes`]). Of all lists of axes for which that holds, the one with the cheapest resharding before
//! and after is taken.

use crate::partition::{reshard, walk::Walk};
use mesh::{AxisId, Diagnostic, Inst, Mesh, Name, TensorDim, Type, Value, infer::shape::flat_axes};

/// A part of a reshape that is a reshape by itself, with the same number of elements on both sides.
struct Segment {
    from: Vec<Name>,
    to: Vec<TensorDim>,
}

pub(super) fn partition(
    walk: &mut Walk<'_>,
    inst: &Inst,
    from: &[Name],
    to: &[TensorDim],
) -> Result<(), Diagnostic> {
    let (x, home) = (inst.args[0], walk.home(inst.results[0]));
    let old: Vec<TensorDim> = from.iter().filter_map(|n| walk.of(x).dim(n).cloned()).collect();
    let segments = segments(&old, to);
    // Dims that are not reshaped take the sharding of the result. The others are decided segment by segment.
    let mut before = walk.want(x, &home, walk.lazy(x).minus(home.split()));
    let mut after = Vec::new();
    for segment in &segments {
        let (front, back) = best(walk, x, &before, &home, segment);
        for (name, d) in segment.from.iter().zip(front) {
            before.dims.iter_mut().filter(|b| b.dim.name == *name).for_each(|b| b.axes.clone_from(&d.axes));
        }
        after.push(back);
    }
    let mut local = walk.get(x, &before)?;
    for (segment, to) in segments.into_iter().zip(after) {
        if segment.from.len() == 1 && to.len() == 1 && segment.from[0] == to[0].dim.name {
            continue;
        }
        local = walk.reshape(local, segment.from, to)?;
    }
    walk.set(inst.results[0], local);
    Ok(())
}

/// The cheapest way to split both sides of a segment, given the sharding of the other dims.
fn best(
    walk: &Walk<'_>,
    x: Value,
    before: &Type,
    home: &Type,
    segment: &Segment,
) -> (Vec<TensorDim>, Vec<TensorDim>) {
    let mesh = &walk.cx.env.mesh;
    let bare = |d: &TensorDim| TensorDim { dim: d.dim.clone(), axes: Vec::new() };
    let old: Vec<TensorDim> = segment.from.iter().filter_map(|n| before.dim(n)).map(bare).collect();
    let new: Vec<TensorDim> = segment.to.iter().map(bare).collect();
    let wanted: Vec<TensorDim> = new
        .iter()
        .map(|d| TensorDim { dim: d.dim.clone(), axes: home.axes_of(&d.dim.name).to_vec() })
        .collect();
    let mut lists = prefixes(mesh, &wanted);
    for form in walk.forms(x) {
        let has: Vec<TensorDim> = segment.from.iter().filter_map(|n| form.dim(n).cloned()).collect();
        lists.extend(prefixes(mesh, &has));
    }
    let elsewhere = before.dims.iter().filter(|d| !segment.from.contains(&d.dim.name));
    let taken: Vec<AxisId> = elsewhere.flat_map(|d| d.axes.iter().copied()).collect();
    let choices = lists.into_iter().filter_map(|axes| {
        if axes.iter().any(|a| taken.contains(a) || before.sum.contains(*a)) {
            return None;
        }
        let (front, back) = (place(mesh, &old, &axes)?, place(mesh, &new, &axes)?);
        let sent = walk.cost(x, &with(before, &front)) + resharded(walk, home, segment, &back);
        Some((sent, (front, back)))
    });
    choices.min_by_key(|(sent, _)| *sent).map_or((old.clone(), new.clone()), |(_, choice)| choice)
}

/// The cost of resharding the result to `home` if the new dims are split as in `back`.
fn resharded(walk: &Walk<'_>, home: &Type, segment: &Segment, back: &[TensorDim]) -> u64 {
    let mut made = with(home, back);
    // An axis that another new dim will get is not there yet.
    made.dims.iter_mut().filter(|d| !segment.to.iter().any(|t| t.dim.name == d.dim.name)).for_each(|d| {
        d.axes.retain(|a| !back.iter().any(|b| b.axes.contains(a)));
    });
    let mesh = &walk.cx.env.mesh;
    reshard::cost(mesh, &made, &reshard::plan(mesh, &made, home)).0
}

fn with(ty: &Type, dims: &[TensorDim]) -> Type {
    let mut ty = ty.clone();
    for d in &mut ty.dims {
        if let Some(found) = dims.iter().find(|f| f.dim.name == d.dim.name) {
            d.axes.clone_from(&found.axes);
        }
    }
    ty
}

/// The axes over which the merged `dims` are split into contiguous pieces, and all shorter lists, longest
/// first.
fn prefixes(mesh: &Mesh, dims: &[TensorDim]) -> Vec<Vec<AxisId>> {
    let mut dims = dims.to_vec();
    while flat_axes(mesh, &dims).is_none() {
        // The last split dim is behind a dim of which a device holds several elements.
        let Some(last) = dims.iter_mut().rev().find(|d| !d.axes.is_empty()) else { break };
        last.axes.pop();
    }
    let axes = flat_axes(mesh, &dims).unwrap_or_default();
    (0..=axes.len()).rev().map(|n| axes[..n].to_vec()).collect()
}

/// Splits `dims` over `axes`, major dim first. `None` if the pieces are not contiguous.
fn place(mesh: &Mesh, dims: &[TensorDim], axes: &[AxisId]) -> Option<Vec<TensorDim>> {
    let mut dims = dims.to_vec();
    let mut rest = axes;
    for d in &mut dims {
        while let Some((axis, tail)) = rest.split_first()
            && d.dim.size.is_multiple_of(mesh.product(&d.axes) * mesh.size(*axis))
        {
            d.axes.push(*axis);
            rest = tail;
        }
        if d.dim.size != mesh.product(&d.axes) {
            break;
        }
    }
    rest.is_empty().then_some(dims)
}

/// Divides a reshape into the smallest segments, in order. There is one segment if names of the two sides
/// would conflict.
fn segments(from: &[TensorDim], to: &[TensorDim]) -> Vec<Segment> {
    let name = |d: &TensorDim| d.dim.name.clone();
    let all = || vec![Segment { from: from.iter().map(name).collect(), to: to.to_vec() }];
    let mut parts = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < from.len() && j < to.len() {
        let (start_i, start_j) = (i, j);
        let (mut a, mut b) = (from[i].dim.size, to[j].dim.size);
        (i, j) = (i + 1, j + 1);
        while a != b {
            match a < b {
                true if i < from.len() => {
                    a *= from[i].dim.size;
                    i += 1;
                }
                false if j < to.len() => {
                    b *= to[j].dim.size;
                    j += 1;
                }
                true | false => return all(),
            }
        }
        parts.push((start_i..i, start_j..j));
    }
    // Dims of size 1 that remain on either side go to the last segment.
    match parts.last_mut() {
        Some((a, b)) => (a.end, b.end) = (from.len(), to.len()),
        None => return all(),
    }
    let clash = parts.iter().enumerate().any(|(p, (_, news))| {
        parts.iter().enumerate().any(|(q, (olds, _))| {
            p != q && to[news.clone()].iter().any(|t| from[olds.clone()].iter().any(|f| name(f) == name(t)))
        })
    });
    if clash {
        return all();
    }
    let part = |(olds, news): (std::ops::Range<usize>, std::ops::Range<usize>)| Segment {
        from: from[olds].iter().map(name).collect(),
        to: to[news].to_vec(),
    };
    parts.into_iter().map(part).collect()
}
