//! Convolutions and pooling over windows, composed of shifts.
//!
//! The elements at one tap of all windows are the shifted tensor, so that a convolution is a sum over taps of
//! contractions, and pooling combines taps. Along a split dim, shifts exchange only the elements at the edges
//! of shards.

use super::{Names, Tensor, running};
use crate::{
    DType, Diagnostic, Dim, Name, Op, Site, Type,
    ir::{Binary, Contract, Edge},
};
use std::borrow::Borrow;

/// The windows along a dim: one for each `stride`-th element.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    dim: Name,
    taps: Dim,
    stride: usize,
    dilation: usize,
    edges: Edges,
}

/// The windows at the edges of a dim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edges {
    /// As many windows as elements divided by the stride, rounded up. Elements outside of the dim are divided
    /// among its start and its end, which gets one more if their number is odd.
    Same,
    /// Likewise, but the last tap of a window is at its element, and no window reaches later ones.
    Causal,
    /// All windows are inside of the dim.
    Inside,
}

impl Window {
    /// Windows along `dim` that have as many taps as `taps` has elements, with stride and dilation 1 and
    /// [`Edges::Same`]. In a convolution, `taps` is the dim of the kernel.
    pub fn new(dim: impl Into<Name>, taps: impl Borrow<Dim>) -> Self {
        Self { dim: dim.into(), taps: taps.borrow().clone(), stride: 1, dilation: 1, edges: Edges::Same }
    }

    /// Sets the distance of windows.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// Sets the distance of taps.
    pub fn dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// Sets the windows at the edges.
    pub fn edges(self, edges: Edges) -> Self {
        Self { edges, ..self }
    }
}

impl<'g> Tensor<'g> {
    /// Convolution: the sum over the taps of `windows` of the products of elements and the kernel at the tap,
    /// summed over the dims that are not in `out`, as in an einsum. Elements outside are 0. The dims of
    /// `windows` are in `out`; dims of both operands that are in `out` are those of a grouped convolution.
    /// (The kernel is not mirrored.) Of floats, products and sums are `f32`.
    #[track_caller]
    pub fn conv(self, kernel: Tensor<'g>, windows: &[Window], out: impl Names) -> Self {
        let site = self.graph.site();
        let contract = |dtype| Op::Contract(Contract { out: out.names(), dtype });
        let (Some(ty), Some(of_kernel)) = (self.ty(), kernel.ty()) else {
            return self.apply(contract(DType::F32), &[kernel], &site);
        };
        let sums = if ty.dtype.is_float() { DType::F32 } else { ty.dtype };
        let op = contract(sums);
        let mut taps = vec![(self, kernel)];
        for window in windows {
            let offsets = match window.offsets(&ty).and_then(|o| window.fits(&of_kernel).map(|()| o)) {
                Ok(offsets) => offsets,
                Err(diagnostic) => return self.wrong(diagnostic, &site),
            };
            let mut next = Vec::with_capacity(taps.len() * offsets.taps.len());
            for (x, kernel) in taps {
                for (i, tap) in offsets.taps.iter().enumerate() {
                    let row = kernel.row_at(&window.taps.name, i, &site);
                    next.push((x.tap(&window.dim, &offsets, *tap, 0.0, &site), row));
                }
            }
            taps = next;
        }
        let products = taps.into_iter().map(|(x, kernel)| x.apply(op.clone(), &[kernel], &site));
        let sum = products.reduce(|a, b| a.binary_at(Binary::Add, b, &site)).unwrap_or(self);
        sum.cast_at(ty.dtype, &site)
    }

    /// The largest element of each window.
    #[track_caller]
    pub fn max_pool(self, windows: &[Window]) -> Self {
        let site = self.graph.site();
        let least = running::least(self.dtype());
        self.pool(windows, least, Binary::Max, &site)
    }

    /// The mean of the elements of each window that are inside of the dims; 0 if there are none. Sums are
    /// `f32`.
    #[track_caller]
    pub fn mean_pool(self, windows: &[Window]) -> Self {
        let site = self.graph.site();
        let Some(ty) = self.ty() else { return self };
        let sum = self.cast_at(DType::F32, &site).pool(windows, 0.0, Binary::Add, &site);
        let dims: Vec<Dim> =
            ty.logical().filter(|d| windows.iter().any(|w| w.dim == d.name)).cloned().collect();
        let one = self.graph.constant_at(1.0, DType::F32, &site);
        let count = one.broadcast_at(&dims, &site).pool(windows, 0.0, Binary::Add, &site);
        let count = count.binary_at(Binary::Max, one, &site);
        sum.binary_at(Binary::Div, count, &site).cast_at(ty.dtype, &site)
    }

    /// Combines the elements of each window by `op`, one dim after the other. Elements outside are `outside`.
    fn pool(self, windows: &[Window], outside: f64, op: Binary, site: &Site) -> Self {
        let mut x = self;
        for window in windows {
            let Some(ty) = x.ty() else { return x };
            let offsets = match window.offsets(&ty) {
                Ok(offsets) => offsets,
                Err(diagnostic) => return self.wrong(diagnostic, site),
            };
            let taps = offsets.taps.iter().map(|tap| x.tap(&window.dim, &offsets, *tap, outside, site));
            x = taps.reduce(|a, b| a.binary_at(op, b, site)).unwrap_or(x);
        }
        x
    }

    /// Returns element `i` along `dim`, without the dim.
    fn row_at(self, dim: &Name, i: usize, site: &Site) -> Self {
        self.slice_at(dim.clone(), i..=i, 1, site).reshape_at(vec![dim.clone()], Vec::new(), site)
    }

    /// Returns the elements at one tap of all windows, which is `tap` after the start of the first window.
    fn tap(self, dim: &Name, offsets: &Offsets, tap: usize, outside: f64, site: &Site) -> Self {
        let Offsets { size, before, windows, stride, .. } = *offsets;
        let last = (windows - 1) * stride;
        if offsets.is_inside {
            return self.slice_at(dim.clone(), tap..=tap + last, stride, site);
        }
        let by = (before as isize - tap as isize).clamp(-(size as isize), size as isize);
        let x = if by == 0 { self } else { self.shift_at(dim.clone(), by, Edge::Fill(outside), site) };
        if stride == 1 {
            return x;
        }
        if !size.is_multiple_of(stride) {
            return x.slice_at(dim.clone(), 0..=last, stride, site);
        }
        // Along a split dim, this needs no elements of other shards.
        let mut phase = format!("{dim}.phase");
        while self.has(phase.as_str()) {
            phase.push('_');
        }
        let to = vec![Dim::new(dim.clone(), windows), Dim::new(phase.as_str(), stride)];
        x.reshape_at(vec![dim.clone()], to, site).row_at(&phase.into(), 0, site)
    }
}

/// The positions of windows along a dim.
#[derive(Debug)]
struct Offsets {
    /// The size of the dim.
    size: usize,
    /// The number of windows.
    windows: usize,
    stride: usize,
    /// Positions from the start of the first window to the start of the dim.
    before: usize,
    /// The position of each tap in its window.
    taps: Vec<usize>,
    /// True if all windows are inside of the dim.
    is_inside: bool,
}

impl Window {
    /// Returns the positions of windows in a tensor of type `ty`.
    fn offsets(&self, ty: &Type) -> Result<Offsets, Diagnostic> {
        let Self { dim, taps, stride, dilation, edges } = self;
        let size = size(ty, dim, "the tensor")?;
        let reach = (taps.size.max(1) - 1).saturating_mul(*dilation).saturating_add(1);
        let wrong = |message: String, help: &str| Err(Diagnostic::new("", message).help(help));
        if *stride == 0 || *dilation == 0 || taps.size == 0 {
            let message = format!(
                "a window along `{dim}` with {} taps, stride {stride} and dilation {dilation}",
                taps.size
            );
            return wrong(message, "each is at least 1");
        }
        if *edges == Edges::Inside && reach > size {
            let message = format!("a window of {reach} elements along `{dim}`, which has {size}");
            return wrong(message, "use fewer taps, or `Edges::Same`");
        }
        let windows = match edges {
            Edges::Same | Edges::Causal => size.div_ceil(*stride),
            Edges::Inside => (size - reach) / stride + 1,
        };
        let before = match edges {
            Edges::Same => ((windows - 1) * stride + reach).saturating_sub(size) / 2,
            Edges::Causal => reach - 1,
            Edges::Inside => 0,
        };
        let taps = (0..taps.size).map(|i| i * dilation).collect();
        let is_inside = *edges == Edges::Inside;
        Ok(Offsets { size, windows, stride: *stride, before, taps, is_inside })
    }

    /// Checks that a kernel has the taps of this window.
    fn fits(&self, kernel: &Type) -> Result<(), Diagnostic> {
        let Dim { name, size: taps } = &self.taps;
        let found = size(kernel, name, "the kernel")?;
        if found == *taps {
            return Ok(());
        }
        let message = format!("the window along `{}` has {taps} taps, and the kernel {found}", self.dim);
        Err(Diagnostic::new("op_o9", message).help(format!("`{name}` has one size in both")))
    }
}

/// Returns the size of `dim` in `ty`, the type of `what`.
fn size(ty: &Type, dim: &Name, what: &str) -> Result<usize, Diagnostic> {
    ty.size(dim).ok_or_else(|| {
        let known: Vec<String> = ty.names().map(ToString::to_string).collect();
        let help = format!("its dims are {}", known.join(", "));
        let help = crate::infer::with_hint(dim, ty.names(), &help);
        Diagnostic::new("op_o2", format!("a window along `{dim}`: {what} has no such dim")).help(help)
    })
}
