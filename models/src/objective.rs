//! Span corruption: the cross-entropy of the targets, and what is added to it.

use crate::{
    Config, Context, Weights,
    attention::padding_mask,
    embedding::Embedding,
    stack::{Passed, Stack},
    switch::{RouterMetrics, options::Over},
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Rng, Tensor},
};

/// An encoder-decoder with its embedding.
#[derive(Clone, Debug)]
pub struct EncoderDecoder {
    config: Config,
    embedding: Embedding,
    encoder: Stack,
    decoder: Stack,
}

/// One pass through both stacks.
#[derive(Clone, Debug)]
pub struct Pass<'g> {
    /// The encoder's part.
    pub encoder: Passed<'g>,
    /// The decoder's part.
    pub decoder: Passed<'g>,
    /// A logit for every position of the targets and every token, in `f32`.
    pub logits: Tensor<'g>,
}

/// What a step gives.
#[derive(Clone, Debug)]
pub struct Losses<'g> {
    /// Mean cross-entropy of the targets that count, in nats.
    pub cross_entropy: Tensor<'g>,
    /// Mean squared log-normalizer of the output, weighted.
    pub z_loss: Tensor<'g>,
    /// Load-balancing and router losses of all layers, weighted; nothing without sparse layers.
    pub aux_loss: Option<Tensor<'g>>,
    /// Share of the targets that count which have the highest logit.
    pub accuracy: Tensor<'g>,
    /// How many targets count.
    pub tokens: Tensor<'g>,
    /// Metrics of the routers, by stack.
    pub routers: [(&'static str, Vec<RouterMetrics<'g>>); 2],
}

impl<'g> Losses<'g> {
    /// What training makes small.
    pub fn total(&self) -> Tensor<'g> {
        let total = self.cross_entropy + self.z_loss;
        self.aux_loss.map_or(total, |aux| total + aux)
    }
}

impl EncoderDecoder {
    /// Declares all parameters.
    pub fn new(w: &Weights<'_>, config: &Config) -> Self {
        Self::with_decoder(w, config, config)
    }

    /// With a decoder that has other options: of the same sizes, but with other numbers of slots, say.
    pub fn with_decoder(w: &Weights<'_>, config: &Config, decoder: &Config) -> Self {
        Self {
            config: config.clone(),
            embedding: Embedding::new(w, config),
            encoder: Stack::encoder(w, config),
            decoder: Stack::decoder(w, decoder),
        }
    }

    /// The inputs of a step: `s32` tokens, 0 where there is none.
    pub fn inputs<'g>(&self, g: &'g Graph) -> (Tensor<'g>, Tensor<'g>) {
        let (batch, length, target_length) = self.dims();
        let inputs = g.input("inputs", DType::S32, [&batch, &length]);
        (inputs, g.input("targets", DType::S32, [&batch, &target_length]))
    }

    /// Sequences, tokens of an input, tokens of a target.
    pub fn dims(&self) -> (Dim, Dim, Dim) {
        let Config { batch, input_length, target_length, .. } = self.config;
        (Dim::new("batch", batch), Dim::new("length", input_length), Dim::new("target_length", target_length))
    }

    /// The losses for one batch; of a training step if there are random numbers.
    pub fn losses<'g>(
        &self,
        g: &'g Graph,
        inputs: Tensor<'g>,
        targets: Tensor<'g>,
        rng: Option<Rng<'g>>,
    ) -> Losses<'g> {
        let (batch, length, target_length) = self.dims();
        let cx = &Context::new(g, &self.config, rng);
        // Each target is predicted from those before it; the first from the start token, 0.
        let before = targets.shift_right(&target_length, 1);
        let padding = padding_mask(inputs, &length);
        let Pass { encoder, decoder, logits } = self.pass(cx, inputs, padding, before, targets);
        let routers = [("encoder", encoder.routers()), ("decoder", decoder.routers())];
        g.scope("loss", || self.of_logits(logits, targets, [&batch, &target_length], routers))
    }

    /// Both stacks: `padding` is what is added to logits of attention over `inputs`, `before` are the tokens
    /// that the decoder sees; `targets` is 0 where none counts.
    pub fn pass<'g>(
        &self,
        cx: &Context<'g>,
        inputs: Tensor<'g>,
        padding: Tensor<'g>,
        before: Tensor<'g>,
        targets: Tensor<'g>,
    ) -> Pass<'g> {
        let (batch, length, target_length) = self.dims();
        let g = cx.g;
        let x = g.scope("embedding", || self.embedding.lookup(cx, inputs));
        let encoder = self.encoder.forward(&cx.over(inputs), x, &length, None, padding);
        let memory = encoder.x.rename(&length, "memory_length");
        let y = g.scope("embedding", || self.embedding.lookup(cx, before));
        let decoder = self.decoder.forward(&cx.over(targets), y, &target_length, Some(memory), padding);
        let logits = g.scope("logits", || self.embedding.logits(cx, decoder.x, &batch, &target_length));
        Pass { encoder, decoder, logits }
    }

    fn of_logits<'g>(
        &self,
        logits: Tensor<'g>,
        targets: Tensor<'g>,
        positions: [&Dim; 2],
        routers: [(&'static str, Vec<RouterMetrics<'g>>); 2],
    ) -> Losses<'g> {
        let vocab = self.embedding.vocab();
        let counts = targets.ne(0).cast(DType::F32);
        let tokens = counts.sum(positions);
        let weight = counts / tokens.maximum(1.0);
        let normalizer = logits.logsumexp(vocab);
        // By comparison and not by lookup: every shard of the vocabulary adds its part, and the gradient
        // is no scatter.
        let wanted = (logits * targets.one_hot(vocab, DType::F32)).sum(vocab);
        let right = logits.stop_gradient().argmax(vocab).eq(targets).cast(DType::F32);
        Losses {
            cross_entropy: ((normalizer - wanted) * weight).sum(positions),
            z_loss: (normalizer.square() * weight).sum(positions) * self.config.z_loss,
            aux_loss: self.aux_loss(&routers),
            accuracy: (right * weight).sum(positions),
            tokens,
            routers,
        }
    }

    /// The sum over all sparse layers, or the mean, as the options say.
    fn aux_loss<'g>(&self, routers: &[(&'static str, Vec<RouterMetrics<'g>>); 2]) -> Option<Tensor<'g>> {
        let switch = self.config.switch.as_ref()?;
        let all = routers.iter().flat_map(|(_, metrics)| metrics);
        let layers: usize = all.clone().flat_map(|m| m.aux.dims()).map(|layers| layers.size).sum();
        let of = |m: &RouterMetrics<'g>| {
            let aux = m.aux.sum("layers") * switch.aux_loss;
            match switch.z_weight() {
                0.0 => aux,
                weight => aux + m.z.sum("layers") * weight,
            }
        };
        let sum = all.map(of).reduce(|a, b| a + b)?;
        Some(match switch.aux_layers {
            Over::Sum => sum,
            Over::Mean => sum / layers.max(1) as f64,
        })
    }
}
