//! Collectives: computes what each device holds afterwards from what the devices of its group held.

use super::{Precision, Spread, Tensor};
use mesh::{
    AxisId, Mesh, Name,
    ir::{Collective, Pending},
};
use ndarray::{Axis, Slice};

pub(super) fn eval(mesh: &Mesh, precision: Precision, op: &Collective, x: &Spread) -> Spread {
    match op {
        Collective::AllReduce { kind, axes } => {
            let axes: Vec<AxisId> = axes.iter().collect();
            by_group(mesh, &axes, |group| {
                let total = fold(precision, *kind, &members(x, group));
                vec![total; group.len()]
            })
        }
        Collective::AllGather { dim, axes } => by_group(mesh, axes, |group| {
            let whole = join(&members(x, group), dim);
            vec![whole; group.len()]
        }),
        Collective::ReduceScatter { dim, axes } => by_group(mesh, axes, |group| {
            let total = fold(precision, Pending::Sum, &members(x, group));
            (0..group.len()).map(|i| piece(&total, dim, i, group.len())).collect()
        }),
        Collective::AllToAll { from, to, axes } => by_group(mesh, axes, |group| {
            let whole = join(&members(x, group), from);
            (0..group.len()).map(|i| piece(&whole, to, i, group.len())).collect()
        }),
        Collective::Permute { dim: _, axes, by, wrap } => by_group(mesh, axes, |group| {
            let parts = members(x, group);
            (0..parts.len()).map(|i| moved(&parts, i, *by, *wrap)).collect()
        }),
        Collective::Shard { dim, axes } => by_group(mesh, axes, |group| {
            let parts = members(x, group).into_iter().enumerate();
            parts.map(|(i, part)| piece(part, dim, i, group.len())).collect()
        }),
        Collective::AsPending { axes } => {
            let axes: Vec<AxisId> = axes.iter().collect();
            by_group(mesh, &axes, |group| {
                let mut parts: Vec<Tensor> = members(x, group).into_iter().cloned().collect();
                parts[1..].iter_mut().for_each(|part| part.data.fill(0.0));
                parts
            })
        }
    }
}

/// Runs `f` for each group of devices along `axes`; it returns what each member holds afterwards.
fn by_group(mesh: &Mesh, axes: &[AxisId], f: impl Fn(&[usize]) -> Vec<Tensor>) -> Spread {
    let mut parts: Vec<Option<Tensor>> = vec![None; mesh.devices()];
    for group in mesh.groups(axes) {
        for (device, part) in group.iter().zip(f(&group)) {
            parts[*device] = Some(part);
        }
    }
    parts.into_iter().map(|part| part.expect("every device is in one group")).collect()
}

fn members<'x>(x: &'x Spread, group: &[usize]) -> Vec<&'x Tensor> {
    group.iter().map(|device| &x[*device]).collect()
}

/// The shard that position `i` holds after all shards have moved by `by` positions.
fn moved(parts: &[&Tensor], i: usize, by: isize, wrap: bool) -> Tensor {
    let from = i as isize - by;
    let count = parts.len() as isize;
    let mut part = parts[from.rem_euclid(count) as usize].clone();
    if !wrap && !(0..count).contains(&from) {
        part.data.fill(0.0);
    }
    part
}

fn fold(precision: Precision, kind: Pending, parts: &[&Tensor]) -> Tensor {
    let mut total = parts[0].clone();
    for part in &parts[1..] {
        total.data.zip_mut_with(&part.data, |a, b| {
            *a = match kind {
                Pending::Sum => *a + b,
                Pending::Max => super::elementwise::max(*a, *b),
                Pending::Min => super::elementwise::min(*a, *b),
            }
        });
    }
    total.data.mapv_inplace(|x| precision.store(total.dtype, x));
    total
}

/// Concatenates the shards of `dim`.
fn join(parts: &[&Tensor], dim: &Name) -> Tensor {
    let axis = Axis(parts[0].known(dim));
    let views: Vec<_> = parts.iter().map(|part| part.data.view()).collect();
    let data = ndarray::concatenate(axis, &views).expect("shards of a value have one shape");
    Tensor { data, ..parts[0].clone() }
}

/// Shard `i` of `of` equal shards along `dim`.
fn piece(x: &Tensor, dim: &Name, i: usize, of: usize) -> Tensor {
    let axis = x.known(dim);
    let size = x.data.shape()[axis] / of;
    let data = x.data.slice_axis(Axis(axis), Slice::from(i * size..(i + 1) * size)).to_owned();
    Tensor { data, ..x.clone() }
}
