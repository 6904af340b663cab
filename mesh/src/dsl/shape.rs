//! Movement without arithmetic: renames, reshapes, slices, padding, concatenation.

use super::{Dims, Graph, Names, Tensor};
use crate::{
    Diagnostic, Dim, Name, Op, Site, TensorDim,
    ir::{Edge, Shape},
};
use std::ops::{Bound, RangeBounds};

impl<'g> Tensor<'g> {
    /// Renames one dim.
    #[track_caller]
    pub fn rename(self, from: impl Into<Name>, to: impl Into<Name>) -> Self {
        let pairs = vec![(from.into(), to.into())];
        self.apply(Op::Shape(Shape::Rename { pairs }), &[], &self.graph.site())
    }

    /// Renames several dims at once, so that names can be swapped.
    #[track_caller]
    pub fn rename_all<A: Into<Name>, B: Into<Name>>(self, pairs: impl IntoIterator<Item = (A, B)>) -> Self {
        let pairs = pairs.into_iter().map(|(a, b)| (a.into(), b.into())).collect();
        self.apply(Op::Shape(Shape::Rename { pairs }), &[], &self.graph.site())
    }

    /// Reshapes the dims `from`, row-major, to the dims `to`, row-major.
    #[track_caller]
    pub fn reshape(self, from: impl Names, to: impl Dims) -> Self {
        self.reshape_at(from.names(), to.dims(), &self.graph.site())
    }

    /// Splits one dim into several, the first of them the major one.
    #[track_caller]
    pub fn split(self, from: impl Into<Name>, to: impl Dims) -> Self {
        self.reshape_at(vec![from.into()], to.dims(), &self.graph.site())
    }

    /// Merges several dims into one, the first of them the major one.
    #[track_caller]
    pub fn merge(self, from: impl Names, to: impl Into<Name>) -> Self {
        let (from, site) = (from.names(), self.graph.site());
        let Some(ty) = self.ty() else { return self.reshape_at(from, Vec::new(), &site) };
        // An unknown dim counts as 1 here; the reshape reports it.
        let size = from.iter().map(|n| ty.size(n).unwrap_or(1)).product();
        self.reshape_at(from, vec![Dim::new(to, size)], &site)
    }

    /// Removes a dim of size 1.
    #[track_caller]
    pub fn squeeze(self, dim: impl Into<Name>) -> Self {
        self.reshape_at(vec![dim.into()], Vec::new(), &self.graph.site())
    }

    /// Repeats along new dims. (Binary operations broadcast implicitly.)
    #[track_caller]
    pub fn broadcast(self, dims: impl Dims) -> Self {
        self.broadcast_at(&dims.dims(), &self.graph.site())
    }

    /// Takes the elements `range` along `dim`.
    #[track_caller]
    pub fn slice(self, dim: impl Into<Name>, range: impl RangeBounds<usize>) -> Self {
        self.slice_at(dim.into(), range, 1, &self.graph.site())
    }

    /// Takes every `stride`-th of the elements `range` along `dim`.
    #[track_caller]
    pub fn slice_by(self, dim: impl Into<Name>, range: impl RangeBounds<usize>, stride: usize) -> Self {
        self.slice_at(dim.into(), range, stride, &self.graph.site())
    }

    /// Adds `low` elements of `value` before and `high` after, along `dim`.
    #[track_caller]
    pub fn pad(self, dim: impl Into<Name>, low: usize, high: usize, value: impl Into<f64>) -> Self {
        let op = Op::Shape(Shape::Pad { dim: dim.into(), low, high, value: value.into() });
        self.apply(op, &[], &self.graph.site())
    }

    /// Moves element `i` along `dim` to position `i + by`, or towards lower positions if `by` is negative.
    /// `value` enters at one end, and elements at the other are dropped.
    #[track_caller]
    pub fn shift(self, dim: impl Into<Name>, by: isize, value: impl Into<f64>) -> Self {
        self.shift_at(dim.into(), by, Edge::Fill(value.into()), &self.graph.site())
    }

    /// Moves element `i` along `dim` to position `i + by`; elements that leave at one end enter at the other.
    #[track_caller]
    pub fn roll(self, dim: impl Into<Name>, by: isize) -> Self {
        self.shift_at(dim.into(), by, Edge::Wrap, &self.graph.site())
    }

    /// Shifts the elements by `by` positions along `dim`. The first become 0, the last are dropped.
    #[track_caller]
    pub fn shift_right(self, dim: impl Into<Name>, by: usize) -> Self {
        let by = isize::try_from(by).unwrap_or(isize::MAX);
        self.shift_at(dim.into(), by, Edge::Fill(0.0), &self.graph.site())
    }

    pub(super) fn shift_at(self, dim: Name, by: isize, edge: Edge, site: &Site) -> Self {
        self.apply(Op::Shape(Shape::Shift { dim, by, edge }), &[], site)
    }

    pub(super) fn reshape_at(self, from: Vec<Name>, to: Vec<Dim>, site: &Site) -> Self {
        self.apply(Op::Shape(Shape::Reshape { from, to: whole(&to) }), &[], site)
    }

    pub(super) fn broadcast_at(self, dims: &[Dim], site: &Site) -> Self {
        if dims.is_empty() {
            return self;
        }
        self.apply(Op::Shape(Shape::Broadcast { dims: whole(dims) }), &[], site)
    }

    pub(super) fn slice_at(
        self,
        dim: Name,
        range: impl RangeBounds<usize>,
        stride: usize,
        site: &Site,
    ) -> Self {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let limit = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(limit) => *limit,
            // An unknown dim: the slice reports it.
            Bound::Unbounded => self.ty().and_then(|ty| ty.size(&dim)).unwrap_or(1),
        };
        self.apply(Op::Shape(Shape::Slice { dim, start, limit, stride }), &[], site)
    }
}

impl Graph {
    /// `concat` of a slice of tensors.
    #[track_caller]
    pub fn concat<'g>(&'g self, parts: &[Tensor<'g>], dim: impl Into<Name>) -> Tensor<'g> {
        concat_at(self, parts, dim.into(), &self.site())
    }
}

/// Concatenates tensors along `dim`.
#[track_caller]
pub fn concat<'g, const N: usize>(parts: [Tensor<'g>; N], dim: impl Into<Name>) -> Tensor<'g> {
    const { assert!(N > 0, "concat takes at least one tensor") };
    concat_at(parts[0].graph, &parts, dim.into(), &parts[0].graph.site())
}

fn concat_at<'g>(graph: &'g Graph, parts: &[Tensor<'g>], dim: Name, site: &Site) -> Tensor<'g> {
    let lacks = |x: &&Tensor<'g>| x.ty().is_some_and(|ty| !ty.has(&dim));
    if let Some(x) = parts.iter().find(lacks) {
        let known: Vec<String> = x.dims().iter().map(|d| d.name.to_string()).collect();
        let diagnostic = Diagnostic::new("op_o2", format!("concat: the tensor has no dim `{dim}`"));
        return x.wrong(diagnostic.help(format!("its dims are {}", known.join(", "))), site);
    }
    graph.emit1(Op::Shape(Shape::Concat { dim }), parts, site)
}

/// Returns dims that are not split, as all dims are before partitioning.
pub(super) fn whole(dims: &[Dim]) -> Vec<TensorDim> {
    dims.iter().map(|dim| TensorDim { dim: dim.clone(), axes: Vec::new() }).collect()
}
