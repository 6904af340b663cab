//! Movement by index, and operations that order elements. Most view their operands as a cube: batch dims, the
//! indexed dim, all other dims.

use super::elementwise::{max, min};
use super::reduce::{compare, descending};
use super::{Device, Tensor, shape};
use mesh::{
    DType, Diagnostic, Name, TensorDim, Type,
    ir::{Extreme, Index, Outside},
};
use ndarray::{Array2, Array3, Axis, Slice};

pub(super) fn eval(
    at: &Device<'_>,
    op: &Index,
    args: &[&Tensor],
    types: &[&Type],
) -> Result<Vec<Tensor>, Diagnostic> {
    let x = args[0];
    let one = |tensor| Ok(vec![tensor]);
    match op {
        Index::OneHot { dim, dtype } => one(one_hot(at, x, dim, *dtype)),
        Index::Gather { dim, outside } => {
            let dim = types[0].dim(dim).expect("inference found the dim");
            one(gather(at, x, args[1], dim, *outside))
        }
        Index::ScatterAdd { dim, over } => one(scatter_add(at, x, args[1], dim, over)),
        Index::ScatterExtreme { kind, dim, over } => {
            let dim = types[0].dim(dim).expect("inference found the dim");
            one(scatter_extreme(at, *kind, x, (args[1], args[2]), dim, over))
        }
        Index::Permute { dim, to } => one(permute(x, args[1], args[2], dim, to)?),
        Index::TopK { dim, to } => Ok(top_k(x, dim, to)),
        Index::Sort { dim, descending } => Ok(sort(args, dim, *descending)),
        Index::CumSum { dim, exclusive, reverse } => one(cumsum(at, x, dim, *exclusive, *reverse)),
        Index::DynamicSlice { dim, size } => {
            let (axis, start) = (Axis(x.known(dim)), clamped(x, dim, *size, args[1]));
            let data = x.data.slice_axis(axis, Slice::from(start..start + size)).to_owned();
            one(Tensor { data, ..x.clone() })
        }
        Index::DynamicUpdate { dim } => {
            let update = args[1].by(&x.names);
            let axis = x.known(dim);
            let size = update.shape()[axis];
            let start = clamped(x, dim, size, args[2]);
            let mut result = x.clone();
            result.data.slice_axis_mut(Axis(axis), Slice::from(start..start + size)).assign(&update);
            one(result)
        }
    }
}

/// The position of logical index `index` in a shard of `size` elements from `offset`; `None` if it is not in
/// the shard.
fn find(index: f64, offset: usize, size: usize) -> Option<usize> {
    let position = index - offset as f64;
    (0.0..size as f64).contains(&position).then_some(position as usize)
}

fn one_hot(at: &Device<'_>, index: &Tensor, dim: &TensorDim, dtype: DType) -> Tensor {
    let size = at.local(dim);
    let index_of = index.elements();
    let hot = |(i, j): (usize, usize)| f64::from(find(index_of[i], at.offset(dim), size) == Some(j));
    let mut dims = index.dims();
    dims.push(shape::local(at, dim));
    Tensor::split(dtype, &dims, Array2::from_shape_fn((index_of.len(), size), hot))
}

/// A device that has a shard of `dim` reads 0 for the rest, so that the result is a pending sum.
fn gather(at: &Device<'_>, x: &Tensor, index: &Tensor, dim: &TensorDim, outside: Outside) -> Tensor {
    let name = std::slice::from_ref(&dim.dim.name);
    let (batch, looked): (Vec<Name>, Vec<Name>) =
        index.names.iter().cloned().partition(|n| x.names.contains(n));
    let others = x.names_but(&[&batch[..], name].concat());
    let source = x.cube(&batch, name, &others);
    let indices = index.matrix(&batch, &looked);
    let size = source.shape()[1];
    let mut out = Array3::zeros((source.shape()[0], indices.shape()[1], source.shape()[2]));
    for ((b, i, o), value) in out.indexed_iter_mut() {
        let wanted = indices[(b, i)];
        let place = match outside {
            Outside::Zero => find(wanted, at.offset(dim), size),
            Outside::Clamp => Some(wanted.clamp(0.0, (size - 1) as f64) as usize),
        };
        *value = place.map_or(0.0, |j| source[(b, j, o)]);
    }
    let dims = [index.dims_of(&batch), index.dims_of(&looked), x.dims_of(&others)].concat();
    Tensor::split(x.dtype, &dims, out)
}

/// A device keeps what falls into its shard of `dim`.
fn scatter_add(at: &Device<'_>, index: &Tensor, updates: &Tensor, dim: &TensorDim, over: &[Name]) -> Tensor {
    let batch = index.names_but(over);
    let others = updates.names_but(&index.names);
    let source = updates.cube(&batch, over, &others);
    let indices = index.matrix(&batch, over);
    let mut out = Array3::zeros((source.shape()[0], at.local(dim), source.shape()[2]));
    for ((b, i, o), value) in source.indexed_iter() {
        if let Some(j) = find(indices[(b, i)], at.offset(dim), at.local(dim)) {
            out[(b, j, o)] = at.precision.partial(updates.dtype, out[(b, j, o)] + value);
        }
    }
    out.mapv_inplace(|x| at.precision.store(updates.dtype, x));
    let dims = [index.dims_of(&batch), vec![shape::local(at, dim)], updates.dims_of(&others)].concat();
    Tensor::split(updates.dtype, &dims, out)
}

/// A device applies what falls into its shard of `dim`.
fn scatter_extreme(
    at: &Device<'_>,
    kind: Extreme,
    x: &Tensor,
    (index, updates): (&Tensor, &Tensor),
    dim: &TensorDim,
    over: &[Name],
) -> Tensor {
    let name = std::slice::from_ref(&dim.dim.name);
    let batch = index.names_but(over);
    let others = updates.names_but(&index.names);
    let source = updates.cube(&batch, over, &others);
    let indices = index.matrix(&batch, over);
    let mut out = x.cube(&batch, name, &others).to_owned();
    for ((b, i, o), value) in source.indexed_iter() {
        if let Some(j) = find(indices[(b, i)], at.offset(dim), at.local(dim)) {
            out[(b, j, o)] = match kind {
                Extreme::Max => max(out[(b, j, o)], *value),
                Extreme::Min => min(out[(b, j, o)], *value),
            };
        }
    }
    let dims = [x.dims_of(&batch), x.dims_of(name), x.dims_of(&others)].concat();
    Tensor::split(x.dtype, &dims, out)
}

fn permute(
    x: &Tensor,
    forward: &Tensor,
    inverse: &Tensor,
    dim: &Name,
    to: &Name,
) -> Result<Tensor, Diagnostic> {
    let batch = forward.names_but(std::slice::from_ref(to));
    let others = x.names_but(&[&batch[..], std::slice::from_ref(dim)].concat());
    let source = x.cube(&batch, std::slice::from_ref(dim), &others);
    let forward_of = forward.matrix(&batch, std::slice::from_ref(to));
    let inverse_of = inverse.matrix(&batch, std::slice::from_ref(dim));
    agree(&forward_of, &inverse_of, "forward", "inverse")?;
    agree(&inverse_of, &forward_of, "inverse", "forward")?;
    let mut out = Array3::zeros((source.shape()[0], forward_of.shape()[1], source.shape()[2]));
    for ((b, j, o), value) in out.indexed_iter_mut() {
        *value = find(forward_of[(b, j)], 0, source.shape()[1]).map_or(0.0, |i| source[(b, i, o)]);
    }
    let to = forward.dims_of(std::slice::from_ref(to));
    Ok(Tensor::split(x.dtype, &[forward.dims_of(&batch), to, x.dims_of(&others)].concat(), out))
}

/// Checks that `b` is the inverse of `a` wherever `a` points inside.
fn agree(a: &Array2<f64>, b: &Array2<f64>, name_a: &str, name_b: &str) -> Result<(), Diagnostic> {
    for ((batch, j), target) in a.indexed_iter() {
        let Some(i) = find(*target, 0, b.shape()[1]) else { continue };
        let back = b[(batch, i)];
        if back != j as f64 {
            return Err(Diagnostic::new(
                "",
                format!(
                    "permute: the {name_a} index leads from {j} to {i}, but the {name_b} index leads from {i} to \
                     {back} (batch element {batch})"
                ),
            )
            .help("both indices must describe one partial permutation: write -1 where nothing moves"));
        }
    }
    Ok(())
}

fn top_k(x: &Tensor, dim: &Name, to: &mesh::Dim) -> Vec<Tensor> {
    let rest = x.names_but(std::slice::from_ref(dim));
    let rows = x.matrix(&rest, std::slice::from_ref(dim));
    let shape = (rows.shape()[0], to.size);
    let orders: Vec<Vec<usize>> = rows.rows().into_iter().map(|row| descending(row.to_vec())).collect();
    let values = Array2::from_shape_fn(shape, |(b, k)| rows[(b, orders[b][k])]);
    let positions = Array2::from_shape_fn(shape, |(b, k)| orders[b][k] as f64);
    let mut dims = x.dims_of(&rest);
    dims.push(to.clone());
    vec![Tensor::split(x.dtype, &dims, values), Tensor::split(DType::S32, &dims, positions)]
}

fn sort(args: &[&Tensor], dim: &Name, falling: bool) -> Vec<Tensor> {
    let rest = args[0].names_but(std::slice::from_ref(dim));
    let keys = args[0].matrix(&rest, std::slice::from_ref(dim));
    let order = |row: ndarray::ArrayView1<'_, f64>| {
        if falling {
            return descending(row.to_vec());
        }
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|i, j| compare(row[*i], row[*j]));
        order
    };
    let orders: Vec<Vec<usize>> = keys.rows().into_iter().map(order).collect();
    let sorted = |x: &&Tensor| {
        let rows = x.matrix(&rest, std::slice::from_ref(dim));
        let moved = Array2::from_shape_fn(rows.raw_dim(), |(b, k)| rows[(b, orders[b][k])]);
        let mut dims = x.dims_of(&rest);
        dims.extend(x.dims_of(std::slice::from_ref(dim)));
        Tensor::split(x.dtype, &dims, moved)
    };
    args.iter().map(sorted).collect()
}

fn cumsum(at: &Device<'_>, x: &Tensor, dim: &Name, exclusive: bool, reverse: bool) -> Tensor {
    let mut result = x.clone();
    for mut lane in result.data.lanes_mut(Axis(x.known(dim))) {
        let mut total = 0.0;
        for step in 0..lane.len() {
            let i = if reverse { lane.len() - 1 - step } else { step };
            let (before, after) = (total, at.precision.partial(x.dtype, total + lane[i]));
            lane[i] = at.precision.store(x.dtype, if exclusive { before } else { after });
            total = after;
        }
    }
    result
}

/// The start of `size` elements of `dim`, clamped so that they lie inside.
fn clamped(x: &Tensor, dim: &Name, size: usize, start: &Tensor) -> usize {
    let last = x.data.shape()[x.known(dim)] - size;
    start.number().clamp(0.0, last as f64) as usize
}
