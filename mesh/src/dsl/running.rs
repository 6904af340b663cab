//! Running products, extremes, and other associative functions along a dim.
//!
//! They are built from shifts: after step k, every element holds the combination of the 2^k elements up to
//! it. A dim of n elements takes log₂ n steps over the whole tensor, under every layout.

use super::Tensor;
use crate::{DType, Name};

impl<'g> Tensor<'g> {
    /// Running product along `dim`, each element included. Of bf16, products are float32, and the result is
    /// rounded once.
    #[track_caller]
    pub fn cumprod(self, dim: impl Into<Name>) -> Self {
        let is_narrow = self.ty().is_some_and(|ty| ty.dtype == DType::Bf16);
        let x = if is_narrow { self.cast(DType::F32) } else { self };
        let [y] = associative_scan([(x, 1.0)], dim, |[a], [b]| [a * b]);
        if is_narrow { y.cast(DType::Bf16) } else { y }
    }

    /// Running maximum along `dim`, each element included.
    #[track_caller]
    pub fn cummax(self, dim: impl Into<Name>) -> Self {
        let [y] = associative_scan([(self, least(self.dtype()))], dim, |[a], [b]| [a.maximum(b)]);
        y
    }

    /// Running minimum along `dim`, each element included.
    #[track_caller]
    pub fn cummin(self, dim: impl Into<Name>) -> Self {
        let most = match self.ty().map(|ty| ty.dtype) {
            Some(DType::S32) => f64::from(i32::MAX),
            Some(DType::U32) => f64::from(u32::MAX),
            Some(DType::Pred) => 1.0,
            Some(DType::F32 | DType::Bf16) | None => f64::INFINITY,
        };
        let [y] = associative_scan([(self, most)], dim, |[a], [b]| [a.minimum(b)]);
        y
    }
}

/// Returns the number below all others of a type.
pub(super) fn least(dtype: DType) -> f64 {
    match dtype {
        DType::S32 => f64::from(i32::MIN),
        DType::U32 | DType::Pred => 0.0,
        DType::F32 | DType::Bf16 => f64::NEG_INFINITY,
    }
}

/// Returns, for every position along `dim`, the combination of all elements up to it, itself included.
///
/// An element consists of one element of each operand. `combine(earlier, later)` combines two of them
/// position by position, is associative, and leaves `later` as it is if `earlier` consists of the numbers
/// beside the operands. A recurrence `h = a · h + b` is one of the elements (a, b):
///
/// ```
/// # use mesh::{DType, Dim, dsl::{Program, associative_scan}};
/// # let p = Program::new("recurrence");
/// # let time = Dim::new("time", 8);
/// # p.function("f", |g| {
/// # let (a, b) = (g.input("a", DType::F32, [&time]), g.input("b", DType::F32, [&time]));
/// let [_, h] = associative_scan([(a, 1.0), (b, 0.0)], "time", |[a, b], [next_a, next_b]| {
///     [a * next_a, next_a * b + next_b]
/// });
/// # g.output("h", h);
/// # });
/// # p.finish().unwrap();
/// ```
#[track_caller]
pub fn associative_scan<'g, const N: usize>(
    operands: [(Tensor<'g>, f64); N],
    dim: impl Into<Name>,
    mut combine: impl FnMut([Tensor<'g>; N], [Tensor<'g>; N]) -> [Tensor<'g>; N],
) -> [Tensor<'g>; N] {
    const { assert!(N > 0, "associative_scan takes at least one tensor") };
    let dim = dim.into();
    let (mut all, identities) = (operands.map(|(x, _)| x), operands.map(|(_, identity)| identity));
    // An unknown dim has one step here; the shift reports it.
    let size = all[0].ty().map_or(1, |ty| ty.size(&dim).unwrap_or(2));
    let mut step = 1;
    while step < size {
        let mut earlier = all;
        for (x, identity) in earlier.iter_mut().zip(identities) {
            *x = x.shift(&dim, step as isize, identity);
        }
        all = combine(earlier, all);
        step *= 2;
    }
    all
}
