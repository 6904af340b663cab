//! What every layer needs to know when it runs.

use crate::{Config, config::Precision};
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
    /// Random numbers; nothing in evaluation, where there is no noise.
    pub rng: Option<Rng<'g>>,
    /// Share of elements dropped in training.
    pub dropout: f64,
    /// Whether tokens share dropout masks.
    pub dropout_broadcast: bool,
    /// The schedule of the model.
    pub schedule: Schedule,
    /// Which tokens are no padding, as `pred[batch, length]`, if a layer is to know.
    pub non_padding: Option<Tensor<'g>>,
    /// What is added to logits of self-attention so that examples of one row do not see each other, if there are
    /// several in a row.
    pub segment_mask: Option<Tensor<'g>>,
}

impl<'g> Context<'g> {
    /// For a model; training if there are random numbers.
    pub fn new(g: &'g Graph, config: &Config, rng: Option<Rng<'g>>) -> Self {
        Self {
            g,
            precision: config.precision,
            rng,
            dropout: config.dropout,
            dropout_broadcast: config.dropout_broadcast,
            schedule: config.schedule,
            non_padding: None,
            segment_mask: None,
        }
    }

    /// For layers over `tokens`, of which 0 is padding.
    #[track_caller]
    pub fn with_tokens(&self, tokens: Tensor<'g>) -> Self {
        Self { non_padding: Some(tokens.ne(0)), ..*self }
    }

    /// For layers whose self-attention has this mask besides its own.
    pub fn with_segment_mask(&self, mask: Option<Tensor<'g>>) -> Self {
        Self { segment_mask: mask, ..*self }
    }

    /// Whether this is a training step.
    pub fn train(&self) -> bool {
        self.rng.is_some()
    }

    /// For the current iteration of a scan: the same, with random numbers of its own.
    #[track_caller]
    pub fn iteration(&self) -> Self {
        Self { rng: self.rng.map(|rng| rng.fold(self.g.iteration())), ..*self }
    }

    /// Element type of activations.
    pub fn dtype(&self) -> DType {
        self.precision.activations()
    }

    /// In training, a share of the elements of `x` set to 0 and the others enlarged to make up for it. The
    /// dims `shared` (those of positions in a sequence) share a mask, as in T5.
    #[track_caller]
    pub fn drop(&self, x: Tensor<'g>, shared: &[&Dim]) -> Tensor<'g> {
        self.drop_at(self.dropout, x, shared)
    }

    /// [`Context::drop`] with another rate.
    #[track_caller]
    pub fn drop_at(&self, rate: f64, x: Tensor<'g>, shared: &[&Dim]) -> Tensor<'g> {
        self.mask_at(rate, x, shared).map_or(x, |mask| x * mask)
    }

    /// What [`Context::drop_at`] multiplies with, if it does anything: 0 or 1/(1-rate), so that the backward pass is the
    /// same product.
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
