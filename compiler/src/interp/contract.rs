//! Einsum: a matrix product for each element of the batch dims. Whole numbers wrap.

use super::{Device, Precision, Tensor};
use mesh::{DType, Name, ir::Contract};
use ndarray::{Array2, Array3, ArrayView1, ArrayView2, Axis};

pub(super) fn eval(at: &Device<'_>, op: &Contract, a: &Tensor, b: &Tensor) -> Tensor {
    let shared = |n: &&Name| a.names.contains(n) && b.names.contains(n);
    let batch: Vec<Name> = op.out.iter().filter(shared).cloned().collect();
    let rows: Vec<Name> = op.out.iter().filter(|n| !b.names.contains(n)).cloned().collect();
    let columns: Vec<Name> = op.out.iter().filter(|n| !a.names.contains(n)).cloned().collect();
    let summed: Vec<Name> = a.names.iter().filter(|n| shared(n) && !op.out.contains(n)).cloned().collect();

    let left = reduced(at, a, &batch, &rows, &summed);
    let right = reduced(at, b, &batch, &summed, &columns);
    let mut out = Array3::zeros((left.shape()[0], left.shape()[1], right.shape()[2]));
    for (i, mut block) in out.axis_iter_mut(Axis(0)).enumerate() {
        let (left, right) = (left.index_axis(Axis(0), i), right.index_axis(Axis(0), i));
        let product = match op.dtype.is_float() {
            true => product(at, op.dtype, &left, &right),
            false => whole_product(&left, &right),
        };
        block.assign(&product);
    }
    out.mapv_inplace(|x| at.precision.store(op.dtype, x));

    let dims = [a.dims_of(&batch), a.dims_of(&rows), b.dims_of(&columns)].concat();
    Tensor::split(op.dtype, &dims, out)
}

/// The matrix product of two blocks.
fn product(
    at: &Device<'_>,
    dtype: DType,
    left: &ArrayView2<'_, f64>,
    right: &ArrayView2<'_, f64>,
) -> Array2<f64> {
    match at.precision {
        Precision::Normal | Precision::Wide => left.dot(right),
        Precision::Harsh => Array2::from_shape_fn((left.nrows(), right.ncols()), |(i, j)| {
            at.precision.sum(dtype, left.row(i).iter().zip(right.column(j)).map(|(a, b)| a * b))
        }),
    }
}

/// The matrix product of two blocks of whole numbers, modulo 2^64. Their sums are exact in an `f64`.
fn whole_product(left: &ArrayView2<'_, f64>, right: &ArrayView2<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((left.nrows(), right.ncols()), |(i, j)| {
        let terms = left.row(i).into_iter().zip(right.column(j));
        let sum = terms.fold(0i64, |sum, (a, b)| sum.wrapping_add((*a as i64).wrapping_mul(*b as i64)));
        // The low 32 bits are those of the result.
        f64::from(sum as u32)
    })
}

/// The array with three merged axes. Dims in none of them are dims of this operand alone, and are summed
/// first.
fn reduced(at: &Device<'_>, x: &Tensor, first: &[Name], second: &[Name], third: &[Name]) -> Array3<f64> {
    let kept = [first, second, third].concat();
    let alone = x.names_but(&kept);
    let sum = |row: ArrayView1<'_, f64>| at.precision.sum(x.dtype, row.iter().copied());
    let sums = x.matrix(&kept, &alone).map_axis(Axis(1), sum);
    Tensor::split(x.dtype, &x.dims_of(&kept), sums).cube(first, second, third)
}
