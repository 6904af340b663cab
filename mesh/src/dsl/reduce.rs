//! Reductions over dims, and operations built from them.

use super::{Names, Tensor};
use crate::{
    DType, Name, Op, Site,
    ir::{Elementwise, Reduce, ReduceKind, Unary},
};

impl<'g> Tensor<'g> {
    /// Sum over `dims`.
    #[track_caller]
    pub fn sum(self, dims: impl Names) -> Self {
        self.reduce_at(ReduceKind::Sum, dims.names(), &self.graph.site())
    }

    /// Sum over all dims.
    #[track_caller]
    pub fn sum_all(self) -> Self {
        let dims = self.dims().into_iter().map(|d| d.name).collect();
        self.reduce_at(ReduceKind::Sum, dims, &self.graph.site())
    }

    /// Mean over `dims`.
    #[track_caller]
    pub fn mean(self, dims: impl Names) -> Self {
        self.reduce_at(ReduceKind::Mean, dims.names(), &self.graph.site())
    }

    /// Mean over all dims.
    #[track_caller]
    pub fn mean_all(self) -> Self {
        let dims = self.dims().into_iter().map(|d| d.name).collect();
        self.reduce_at(ReduceKind::Mean, dims, &self.graph.site())
    }

    /// Maximum over `dims`; for `pred`: logical or.
    #[track_caller]
    pub fn max(self, dims: impl Names) -> Self {
        self.reduce_at(ReduceKind::Max, dims.names(), &self.graph.site())
    }

    /// Minimum over `dims`; for `pred`: logical and.
    #[track_caller]
    pub fn min(self, dims: impl Names) -> Self {
        self.reduce_at(ReduceKind::Min, dims.names(), &self.graph.site())
    }

    /// `ln Σ e^x` over `dims`, without overflow.
    #[track_caller]
    pub fn logsumexp(self, dims: impl Names) -> Self {
        self.reduce_at(ReduceKind::LogSumExp, dims.names(), &self.graph.site())
    }

    /// The `s32` position of the largest along `dim`, the first of equals.
    #[track_caller]
    pub fn argmax(self, dim: impl Into<Name>) -> Self {
        self.apply(Op::Reduce(Reduce::ArgMax { dim: dim.into() }), &[], &self.graph.site())
    }

    /// `e^x / Σ e^x` over `dims`, without overflow.
    #[track_caller]
    pub fn softmax(self, dims: impl Names) -> Self {
        let (dims, site) = (dims.names(), self.graph.site());
        // The shift cancels, so its gradient is 0 and need not be computed.
        let largest = self.reduce_at(ReduceKind::Max, dims.clone(), &site);
        let largest = largest.apply(Op::Elementwise(Elementwise::StopGradient), &[], &site);
        let e = self.minus(largest, &site);
        let e = e.apply(Op::Elementwise(Elementwise::Unary(Unary::Exp)), &[], &site);
        e.over(e.reduce_at(ReduceKind::Sum, dims, &site), &site)
    }

    /// True if any element of a `pred` along `dims` is true.
    #[track_caller]
    pub fn any(self, dims: impl Names) -> Self {
        let site = self.graph.site();
        self.pred_only("any", &site).reduce_at(ReduceKind::Max, dims.names(), &site)
    }

    /// True if all elements of a `pred` along `dims` are true.
    #[track_caller]
    pub fn all(self, dims: impl Names) -> Self {
        let site = self.graph.site();
        self.pred_only("all", &site).reduce_at(ReduceKind::Min, dims.names(), &site)
    }

    fn pred_only(self, what: &str, site: &Site) -> Self {
        if self.is_poison() || self.dtype() == DType::Pred {
            return self;
        }
        let message = format!("{what} takes a pred, not {}", self.dtype());
        self.wrong(crate::Diagnostic::new("op_o7", message).help("compare it with something"), site)
    }

    pub(super) fn reduce_at(self, kind: ReduceKind, dims: Vec<Name>, site: &Site) -> Self {
        self.apply(Op::Reduce(Reduce::Over { kind, dims }), &[], site)
    }
}
