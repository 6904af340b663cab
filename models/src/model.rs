//! Models of both kinds: an encoder with a decoder, and a decoder alone.

use crate::{
    Config, Context, Decoder, Weights,
    objective::{EncoderDecoder, Feeds, Losses, Part, SoftTargets},
};
use mesh::dsl::{Graph, Rng, State, Tensor};

/// A model of either kind.
#[derive(Clone, Debug)]
pub enum Model {
    /// An encoder and a decoder.
    EncoderDecoder(Box<EncoderDecoder>),
    /// A decoder alone.
    Decoder(Box<Decoder>),
}

impl Model {
    /// Declares all parameters.
    pub fn new(w: &Weights<'_>, config: &Config) -> Self {
        match config.is_decoder_only() {
            true => Self::Decoder(Box::new(Decoder::new(w, config))),
            false => Self::EncoderDecoder(Box::new(EncoderDecoder::new(w, config))),
        }
    }

    /// Returns the losses of a batch, or of a microbatch that is a `part` of it. With `rng` this is a
    /// training step; with `soft` also the losses against a teacher, which an encoder-decoder can have.
    pub fn losses<'g>(
        &self,
        g: &'g Graph,
        feeds: Feeds<'g>,
        part: Part<'g>,
        rng: Option<Rng<'g>>,
        soft: Option<SoftTargets<'g>>,
    ) -> Losses<'g> {
        match self {
            Self::EncoderDecoder(model) => model.losses(g, feeds, part, rng, soft),
            Self::Decoder(model) => model.losses(g, feeds, part, rng),
        }
    }

    /// [`Model::losses`] of a whole batch in evaluation, with the choices of all routers.
    pub fn recorded<'g>(&self, g: &'g Graph, feeds: Feeds<'g>) -> Losses<'g> {
        match self {
            Self::EncoderDecoder(model) => model.recorded(g, feeds),
            Self::Decoder(model) => model.recorded(g, feeds),
        }
    }

    /// Returns the logits of a batch, `f32[batch, target_length, vocab]`.
    pub fn logits<'g>(&self, cx: &Context<'g>, feeds: Feeds<'g>) -> Tensor<'g> {
        match self {
            Self::EncoderDecoder(model) => model.run(cx, feeds).logits,
            Self::Decoder(model) => model.run(cx, feeds).1,
        }
    }

    /// Returns the biases for the choice of each router, in the order of its metrics, by segment.
    pub fn balance_biases(&self) -> Vec<Vec<State>> {
        match self {
            Self::EncoderDecoder(model) => model.balance_biases(),
            Self::Decoder(model) => model.balance_biases(),
        }
    }
}
