//! Einsum: a matrix product for each element of the batch dims.

use super::{Device, Tensor};
use mesh::{Name, ir::Contract};
use ndarray::{Array3, Axis};

pub(super) fn eval(at: &Device<'_>, op: &Contract, a: &Tensor, b: &Tensor) -> Tensor {
    let shared = |n: &&Name| a.names.contains(n) && b.names.contains(n);
    let batch: Vec<Name> = op.out.iter().filter(shared).cloned().collect();
    let rows: Vec<Name> = op.out.iter().filter(|n| !b.names.contains(n)).cloned().collect();
    let columns: Vec<Name> = op.out.iter().filter(|n| !a.names.contains(n)).cloned().collect();
    let summed: Vec<Name> = a.names.iter().filter(|n| shared(n) && !op.out.contains(n)).cloned().collect();

    let left = reduced(a, &batch, &rows, &summed);
    let right = reduced(b, &batch, &summed, &columns);
    let mut out = Array3::zeros((left.shape()[0], left.shape()[1], right.shape()[2]));
    for (i, mut block) in out.axis_iter_mut(Axis(0)).enumerate() {
        block.assign(&left.index_axis(Axis(0), i).dot(&right.index_axis(Axis(0), i)));
    }
    out.mapv_inplace(|x| at.precision.store(op.dtype, x));

    let dims = [a.dims_of(&batch), a.dims_of(&rows), b.dims_of(&columns)].concat();
    Tensor::split(op.dtype, &dims, out)
}

/// The array with three merged axes; dims in none of them are of this operand alone and are summed first.
fn reduced(x: &Tensor, first: &[Name], second: &[Name], third: &[Name]) -> Array3<f64> {
    let kept = [first, second, third].concat();
    let alone = x.names_but(&kept);
    let sums = x.matrix(&kept, &alone).sum_axis(Axis(1));
    Tensor::split(x.dtype, &x.dims_of(&kept), sums).cube(first, second, third)
}
