//! State that all layers share while a function is built.

use crate::{precision::Precision, tokens::PAD};
use mesh::{
    DType, Dim, Schedule,
    dsl::{Graph, Rng, Tensor},
};

/// The function under construction, the element types, and the source of random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Context<'g> {
    /// The function.
    pub g: &'g Graph,
    /// Element types.
    pub precision: Precision,
    /// Random numbers; `None` in evaluation, which draws none.
    pub rng: Option<Rng<'g>>,
    /// Dropout rate in training.
    pub dropout: f64,
    /// True if the tokens of a sequence share dropout masks.
    pub dropout_broadcast: bool,
    /// The schedule of the model.
    pub schedule: Schedule,
    /// Mask of the tokens that are not padding, `pred[batch, length]`; `None` means that all count.
    pub non_padding: Option<Tensor<'g>>,
    /// The tokens that the layers read, `s32[batch, length]`; `None` means that no layer needs them.
    pub tokens: Option<Tensor<'g>>,
    /// Mean numbers of input and target tokens of a microbatch that are not padding, at least 1 in a batch;
    /// `None` means that the batch is not divided.
    pub counts: Option<[Tensor<'g>; 2]>,
    /// The one of `counts` for the tokens of these layers, by which sums over them are divided; `None` means
    /// that they are divided by the number of these tokens.
    pub routed: Option<Tensor<'g>>,
    /// Added to the logits of self-attention so that examples packed into one row do not attend to each
    /// other; `None` means one example per row.
    pub segment_mask: Option<Tensor<'g>>,
    /// Positions for rotary attention, `s32[batch, positions]`; `None` means that they count from 0.
    pub positions: Option<Tensor<'g>>,
    /// The number of first positions that all positions of causal self-attention see.
    pub visible_prefix: usize,
    /// The number of last positions, with its own, that a position of causal self-attention sees; 0 means
    /// all.
    pub window: usize,
    /// True if routers record the choices of every token ([`crate::routes`]).
    pub records_routes: bool,
}

impl<'g> Context<'g> {
    /// Returns the context for layers that read `tokens`, with the mask of those that are not padding.
    #[track_caller]
    pub fn with_tokens(&self, tokens: Tensor<'g>) -> Self {
        Self { non_padding: Some(tokens.ne(PAD)), tokens: Some(tokens), ..*self }
    }

    /// Returns the context for layers that read `tokens`; those that count as padding stay the same.
    pub fn reading(&self, tokens: Tensor<'g>) -> Self {
        Self { tokens: Some(tokens), ..*self }
    }

    /// Returns the mean of `x` over the dims `positions` of all tokens that are not padding. If the tokens
    /// are part of a batch, it is the share of the batch's mean, so that the mean over microbatches does not
    /// depend on their number.
    #[track_caller]
    pub fn mean_without_padding(
        &self,
        x: Tensor<'g>,
        non_padding: Tensor<'g>,
        positions: [&Dim; 2],
    ) -> Tensor<'g> {
        let non_padding = non_padding.cast(DType::F32);
        let count = self.routed.unwrap_or_else(|| non_padding.sum(positions).maximum(1.0));
        (x * non_padding).sum(positions) / count
    }

    /// Returns the context for layers whose self-attention also adds `mask` to its logits.
    pub fn with_segment_mask(&self, mask: Option<Tensor<'g>>) -> Self {
        Self { segment_mask: mask, ..*self }
    }

    /// True in a training step.
    pub fn train(&self) -> bool {
        self.rng.is_some()
    }

    /// Returns the context for the current iteration of a scan, with random numbers that depend on the
    /// iteration.
    #[track_caller]
    pub fn iteration(&self) -> Self {
        Self { rng: self.rng.map(|rng| rng.fold(self.g.iteration())), ..*self }
    }

    /// Returns the element type of activations.
    pub fn dtype(&self) -> DType {
        self.precision.activations()
    }

    /// Applies dropout to `x` in training. The dims `shared` (positions of a sequence) share a mask, as in
    /// T5.
    #[track_caller]
    pub fn drop(&self, x: Tensor<'g>, shared: &[&Dim]) -> Tensor<'g> {
        self.drop_at(self.dropout, x, shared)
    }

    /// [`Context::drop`] with the given rate.
    #[track_caller]
    pub fn drop_at(&self, rate: f64, x: Tensor<'g>, shared: &[&Dim]) -> Tensor<'g> {
        self.mask_at(rate, x, shared).map_or(x, |mask| x * mask)
    }

    /// Returns the factor of [`Context::drop_at`], 0 or `1/(1-rate)` per element, so that the backward pass
    /// is the same product. `None` means no dropout.
    #[track_caller]
    pub fn mask_at(&self, rate: f64, x: Tensor<'g>, shared: &[&Dim]) -> Option<Tensor<'g>> {
        let rng = self.rng.filter(|_| rate > 0.0 && !x.is_poison())?;
        let all = x.dims();
        let of_mask = |d: &&Dim| !self.dropout_broadcast || shared.iter().all(|s| s.name != d.name);
        let dims: Vec<&Dim> = all.iter().filter(of_mask).collect();
        let keep = rng.bernoulli(1.0 - rate, dims);
        Some(keep.cast(x.dtype()) * (1.0 / (1.0 - rate)))
    }
}
