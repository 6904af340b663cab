//! Indexing, sorting, and running sums.

use super::{Names, Tensor};
use crate::{
    DType, Dim, Name, Op, TensorDim,
    ir::{Extreme, Index, Outside},
};
use std::borrow::Borrow;

impl<'g> Tensor<'g> {
    /// Of an `s32` index: 1 where the position along the new last dim equals the index, else 0.
    #[track_caller]
    pub fn one_hot(self, dim: impl Borrow<Dim>, dtype: DType) -> Self {
        let dim = TensorDim { dim: dim.borrow().clone(), axes: Vec::new() };
        self.apply(Op::Index(Index::OneHot { dim, dtype }), &[], &self.graph.site())
    }

    /// The elements at `index` (`s32`) along `dim`; 0 for an index outside of `dim`. Dims of both are batch
    /// dims. The result has the dims of `index`, then the others.
    #[track_caller]
    pub fn gather(self, dim: impl Into<Name>, index: Tensor<'g>) -> Self {
        let op = Op::Index(Index::Gather { dim: dim.into(), outside: Outside::Zero });
        self.apply(op, &[index], &self.graph.site())
    }

    /// [`Tensor::gather`] that reads the nearest element for an index outside of `dim`.
    #[track_caller]
    pub fn gather_clamped(self, dim: impl Into<Name>, index: Tensor<'g>) -> Self {
        let op = Op::Index(Index::Gather { dim: dim.into(), outside: Outside::Clamp });
        self.apply(op, &[index], &self.graph.site())
    }

    /// Of an `s32` index: zeros along the new dim `dim`, plus every element of `updates` added at its index.
    /// The dims `over` of the index are summed.
    #[track_caller]
    pub fn scatter_add(self, dim: impl Borrow<Dim>, over: impl Names, updates: Tensor<'g>) -> Self {
        let dim = TensorDim { dim: dim.borrow().clone(), axes: Vec::new() };
        let op = Op::Index(Index::ScatterAdd { dim, over: over.names() });
        self.apply(op, &[updates], &self.graph.site())
    }

    /// The tensor, in which every element along `dim` is the largest of itself and of the `updates` whose
    /// `index` (`s32`) it is. The dims `over` of the index are removed, its other dims are batch dims. An
    /// update whose index is outside of `dim` is dropped.
    #[track_caller]
    pub fn scatter_max(
        self,
        dim: impl Into<Name>,
        index: Tensor<'g>,
        over: impl Names,
        updates: Tensor<'g>,
    ) -> Self {
        self.scatter_extreme(Extreme::Max, dim.into(), index, over.names(), updates)
    }

    /// [`Tensor::scatter_max`] of the smallest.
    #[track_caller]
    pub fn scatter_min(
        self,
        dim: impl Into<Name>,
        index: Tensor<'g>,
        over: impl Names,
        updates: Tensor<'g>,
    ) -> Self {
        self.scatter_extreme(Extreme::Min, dim.into(), index, over.names(), updates)
    }

    #[track_caller]
    fn scatter_extreme(
        self,
        kind: Extreme,
        dim: Name,
        index: Tensor<'g>,
        over: Vec<Name>,
        updates: Tensor<'g>,
    ) -> Self {
        let op = Op::Index(Index::ScatterExtreme { kind, dim, over });
        self.apply(op, &[index, updates], &self.graph.site())
    }

    /// The tensor, in which `updates` replace the elements along `dim` at `index`, as in
    /// [`Tensor::scatter_max`]. Of several updates with one index the last replaces the element, in the
    /// row-major order of the dims `over`; only this update has a gradient.
    #[track_caller]
    pub fn scatter_set(
        self,
        dim: impl Into<Name>,
        index: Tensor<'g>,
        over: impl Names,
        updates: Tensor<'g>,
    ) -> Self {
        let (dim, over, graph) = (dim.into(), over.names(), self.graph);
        let size = self.ty().and_then(|x| x.size(&dim));
        let is_known = index.ty().is_some_and(|ty| over.iter().all(|n| ty.has(n)));
        let Some(size) = size.filter(|_| is_known) else {
            // The operation reports what is missing.
            return self.scatter_max(dim, index, over, updates);
        };
        let (removed, batch): (Vec<Dim>, Vec<Dim>) =
            index.dims().into_iter().partition(|d| over.contains(&d.name));
        let removed: Vec<Dim> =
            over.iter().flat_map(|n| removed.iter().find(|d| d.name == *n).cloned()).collect();
        let all = Dim::new(format!("{dim}.updates"), removed.iter().map(|d| d.size).product());
        let number = graph.iota(&all, DType::S32).reshape(&all.name, &removed).broadcast(&batch);
        let places = [&batch[..], &[Dim::new(dim.clone(), size)]].concat();
        let last = graph.constant(-1, DType::S32).broadcast(&places).scatter_max(dim, index, &over, number);
        let taken = updates.merge(&over, &all.name).gather(&all.name, last);
        last.lt(0).select(self, taken)
    }

    /// A partial permutation of `dim` to `to`. Element `j` of the result is element `forward[j]`, or 0 if
    /// that is outside of `dim`. No element may be named twice. The inverse, which the gradient needs, is
    /// computed from `forward` by a scatter of whole numbers; [`Tensor::permute_with_inverse`] takes one that
    /// the program has anyway.
    #[track_caller]
    pub fn permute(self, dim: impl Into<Name>, to: impl Into<Name>, forward: Tensor<'g>) -> Self {
        let (dim, to) = (dim.into(), to.into());
        let sizes = self.ty().and_then(|x| x.size(&dim)).zip(forward.ty().and_then(|f| f.size(&to)));
        // The operation itself reports a dim that is missing.
        let Some((size, places)) = sizes else { return self.permute_with_inverse(dim, to, forward, forward) };
        let batch: Vec<Dim> = forward.dims().into_iter().filter(|d| d.name != to).collect();
        let places = self.graph.iota(Dim::new(to.clone(), places), DType::S32) + 1;
        let from = Dim::new(dim.clone(), size);
        let inverse = forward.scatter_add(&from, &to, places.broadcast(batch)) - 1;
        self.permute_with_inverse(dim, to, forward, inverse)
    }

    /// [`Tensor::permute`] with a given inverse: `inverse[i]` is the position of element `i` in the result,
    /// or -1. The gradient is the same operation with the two exchanged, and therefore wrong if they do not
    /// agree. The reference interpreter checks that they do; devices do not.
    #[track_caller]
    pub fn permute_with_inverse(
        self,
        dim: impl Into<Name>,
        to: impl Into<Name>,
        forward: Tensor<'g>,
        inverse: Tensor<'g>,
    ) -> Self {
        let op = Op::Index(Index::Permute { dim: dim.into(), to: to.into() });
        self.apply(op, &[forward, inverse], &self.graph.site())
    }

    /// The largest elements along `dim` in descending order, and their `s32` positions. `to` replaces `dim`;
    /// its size is the number of elements.
    #[track_caller]
    pub fn top_k(self, dim: impl Into<Name>, to: impl Borrow<Dim>) -> (Self, Self) {
        let op = Op::Index(Index::TopK { dim: dim.into(), to: to.borrow().clone() });
        match self.graph.emit(op, &[self], &self.graph.site()).as_deref() {
            Some([values, positions]) => (*values, *positions),
            Some(_) | None => (self.graph.poison(), self.graph.poison()),
        }
    }

    /// Running sum along `dim`, each element included.
    #[track_caller]
    pub fn cumsum(self, dim: impl Into<Name>) -> Self {
        let op = Op::Index(Index::CumSum { dim: dim.into(), exclusive: false, reverse: false });
        self.apply(op, &[], &self.graph.site())
    }

    /// Running sum along `dim`, each element excluded.
    #[track_caller]
    pub fn cumsum_exclusive(self, dim: impl Into<Name>) -> Self {
        let op = Op::Index(Index::CumSum { dim: dim.into(), exclusive: true, reverse: false });
        self.apply(op, &[], &self.graph.site())
    }

    /// Running sum along `dim` from the end.
    #[track_caller]
    pub fn cumsum_reverse(self, dim: impl Into<Name>, exclusive: bool) -> Self {
        let op = Op::Index(Index::CumSum { dim: dim.into(), exclusive, reverse: true });
        self.apply(op, &[], &self.graph.site())
    }

    /// `size` elements along `dim` from `start`, an `s32` without dims, clamped so that all are in `dim`.
    #[track_caller]
    pub fn dynamic_slice(self, dim: impl Into<Name>, start: Tensor<'g>, size: usize) -> Self {
        let op = Op::Index(Index::DynamicSlice { dim: dim.into(), size });
        self.apply(op, &[start], &self.graph.site())
    }

    /// The tensor with `update` in place of its elements along `dim` from `start`, clamped likewise.
    #[track_caller]
    pub fn dynamic_update(self, dim: impl Into<Name>, update: Tensor<'g>, start: Tensor<'g>) -> Self {
        let op = Op::Index(Index::DynamicUpdate { dim: dim.into() });
        self.apply(op, &[update, start], &self.graph.site())
    }
}

/// Sorts the first operand along `dim`, and the others in the same order. The sort is stable.
#[track_caller]
pub fn sort<'g, const N: usize>(
    operands: [Tensor<'g>; N],
    dim: impl Into<Name>,
    descending: bool,
) -> [Tensor<'g>; N] {
    const { assert!(N > 0, "sort takes at least one tensor") };
    let graph = operands[0].graph;
    let op = Op::Index(Index::Sort { dim: dim.into(), descending });
    let results = graph.emit(op, &operands, &graph.site());
    results.and_then(|r| r.try_into().ok()).unwrap_or([graph.poison(); N])
}
