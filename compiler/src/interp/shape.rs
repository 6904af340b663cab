//! Creation and movement.

use super::{Device, Tensor};
use mesh::{
    Dim, Name, TensorDim,
    ir::{Edge, Shape},
};
use ndarray::{ArrayD, Axis, IxDyn, Slice};

pub(super) fn eval(at: &Device<'_>, op: &Shape, args: &[&Tensor]) -> Tensor {
    match op {
        Shape::Constant { dtype, value } => Tensor::scalar(*dtype, at.precision.store(*dtype, *value)),
        Shape::Iota { dim, dtype } => {
            let first = at.offset(dim);
            let numbers = (first..first + at.local(dim)).map(|i| at.precision.store(*dtype, i as f64));
            Tensor::split(*dtype, &[local(at, dim)], numbers.collect::<ndarray::Array1<f64>>())
        }
        Shape::Rename { pairs } => {
            let renamed = |n: &Name| pairs.iter().find(|(from, _)| from == n).map_or(n, |(_, to)| to).clone();
            Tensor { names: args[0].names.iter().map(renamed).collect(), ..args[0].clone() }
        }
        Shape::Reshape { from, to } => {
            let kept = args[0].names_but(from);
            let mut dims = args[0].dims_of(&kept);
            dims.extend(to.iter().map(|d| local(at, d)));
            Tensor::split(args[0].dtype, &dims, args[0].matrix(&kept, from))
        }
        Shape::Broadcast { dims } => broadcast(at, args[0], dims),
        Shape::Slice { dim, start, limit, stride } => {
            let axis = Axis(args[0].known(dim));
            let step = isize::try_from(*stride).unwrap_or(isize::MAX);
            let taken = Slice::new(*start as isize, Some(*limit as isize), step);
            Tensor { data: args[0].data.slice_axis(axis, taken).to_owned(), ..args[0].clone() }
        }
        Shape::Pad { dim, low, high, value } => {
            let axis = args[0].known(dim);
            let size = args[0].data.shape()[axis];
            let mut shape = args[0].data.shape().to_vec();
            shape[axis] = low + size + high;
            let value = at.precision.store(args[0].dtype, *value);
            let mut data = ArrayD::from_elem(IxDyn(&shape), value);
            data.slice_axis_mut(Axis(axis), Slice::from(*low..low + size)).assign(&args[0].data);
            Tensor { data, ..args[0].clone() }
        }
        Shape::Concat { dim } => {
            let parts: Vec<ArrayD<f64>> = args.iter().map(|x| x.by(&args[0].names)).collect();
            let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
            let data = ndarray::concatenate(Axis(args[0].known(dim)), &views);
            Tensor { data: data.expect("inference found equal dims"), ..args[0].clone() }
        }
        Shape::Shift { dim, by, edge } => shift(at, args[0], dim, *by, *edge),
    }
}

fn shift(at: &Device<'_>, x: &Tensor, dim: &Name, by: isize, edge: Edge) -> Tensor {
    let axis = x.known(dim);
    let size = x.data.shape()[axis] as isize;
    let fill = match edge {
        Edge::Fill(value) => at.precision.store(x.dtype, value),
        Edge::Wrap => 0.0,
    };
    let data = ArrayD::from_shape_fn(x.data.raw_dim(), |mut place| {
        let from = place[axis] as isize - by;
        let inside = (0..size).contains(&from);
        place[axis] = from.rem_euclid(size) as usize;
        if inside || edge == Edge::Wrap { x.data[place] } else { fill }
    });
    Tensor { data, ..x.clone() }
}

fn broadcast(at: &Device<'_>, x: &Tensor, dims: &[TensorDim]) -> Tensor {
    let dims: Vec<Dim> = dims.iter().map(|d| local(at, d)).chain(x.dims()).collect();
    let shape: Vec<usize> = dims.iter().map(|d| d.size).collect();
    let data = x.data.broadcast(IxDyn(&shape)).expect("new dims stand first").to_owned();
    Tensor { dtype: x.dtype, names: dims.into_iter().map(|d| d.name).collect(), data }
}

/// The shard of a dim on a device.
pub(super) fn local(at: &Device<'_>, d: &TensorDim) -> Dim {
    d.dim.sized(at.local(d))
}
