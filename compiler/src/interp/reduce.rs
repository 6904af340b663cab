//! Reductions over dims.

use super::elementwise::{max, min};
use super::{Device, Tensor};
use mesh::{
    DType, Name,
    ir::{Reduce, ReduceKind},
};
use ndarray::{ArrayView1, Axis};

pub(super) fn eval(at: &Device<'_>, op: &Reduce, x: &Tensor) -> Tensor {
    match op {
        Reduce::Over { kind, dims } => {
            fold_rows(x, dims, x.dtype, |row| at.precision.store(x.dtype, fold(at, *kind, x.dtype, row)))
        }
        Reduce::ArgMax { dim } => {
            fold_rows(x, std::slice::from_ref(dim), DType::S32, |row| descending(row.to_vec())[0] as f64)
        }
    }
}

fn fold_rows(x: &Tensor, dims: &[Name], dtype: DType, f: impl Fn(ArrayView1<'_, f64>) -> f64) -> Tensor {
    let kept = x.names_but(dims);
    let rows = x.matrix(&kept, dims);
    Tensor::split(dtype, &x.dims_of(&kept), rows.map_axis(Axis(1), f))
}

fn fold(at: &Device<'_>, kind: ReduceKind, dtype: DType, row: ArrayView1<'_, f64>) -> f64 {
    let sum = |f: &dyn Fn(f64) -> f64| at.precision.sum(dtype, row.iter().map(|x| f(*x)));
    match kind {
        ReduceKind::Sum => sum(&|x| x),
        ReduceKind::Mean => sum(&|x| x) / row.len() as f64,
        ReduceKind::Max => row.iter().copied().reduce(max).expect("a dim has at least one element"),
        ReduceKind::Min => row.iter().copied().reduce(min).expect("a dim has at least one element"),
        ReduceKind::LogSumExp => {
            let largest = fold(at, ReduceKind::Max, dtype, row);
            // Infinities would compute ∞ - ∞ below.
            if !largest.is_finite() {
                return largest;
            }
            largest + sum(&|x| (x - largest).exp()).ln()
        }
    }
}

/// Positions from the largest element to the smallest; among equal elements, the first comes first. NaN is
/// the largest.
pub(super) fn descending(row: Vec<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|i, j| compare(row[*j], row[*i]));
    order
}

/// Numeric order with NaN above everything; both zeros are equal.
pub(super) fn compare(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
