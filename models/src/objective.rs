//! What training makes small: the cross-entropy of the targets, and what is added to it.
//!
//! What inputs and targets are is the runtime's business: span corruption, a prefix and what follows it, or text
//! with nothing before it (the fact `task`). A row may have several examples, with the number of its example for
//! each token: attention keeps them segment_masks, and each begins with the start token. Nothing has to be done about their
//! positions, since biases go by distances within an example, which are those within the row.

use crate::{
    Config, Context, Weights,
    attention::{padding_mask, segment_mask},
    embedding::Embedding,
    stack::{Stack, StackOutput},
    switch::{RouterMetrics, options::AuxReduction},
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Rng, Tensor, Tree},
};

/// An encoder-decoder with its embedding.
#[derive(Clone, Debug)]
pub struct EncoderDecoder {
    config: Config,
    embedding: Embedding,
    encoder: Stack,
    decoder: Stack,
}

/// What a step is given: `s32` tokens, 0 where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Feeds<'g> {
    /// What the encoder reads.
    pub inputs: Tensor<'g>,
    /// What the decoder is to write.
    pub targets: Tensor<'g>,
    /// Which example of its row each token of inputs and targets belongs to, from 1; 0 for none. Nothing if every row
    /// is one example.
    pub segments: Option<[Tensor<'g>; 2]>,
}

impl<'g> Feeds<'g> {
    /// The inputs of a step of a model `config`; `inputs_segments` and `targets_segments` too if rows have several
    /// examples.
    pub fn input(g: &'g Graph, config: &Config) -> Self {
        let batch = Dim::new("batch", config.batch);
        let length = Dim::new("length", config.input_length);
        let target_length = Dim::new("target_length", config.target_length);
        let of = |name, dim| g.input(name, DType::S32, [&batch, dim]);
        let (inputs, targets) = (of("inputs", &length), of("targets", &target_length));
        let segments =
            config.packing.then(|| [of("inputs_segments", &length), of("targets_segments", &target_length)]);
        Self { inputs, targets, segments }
    }

    /// How many targets count, at least 1.
    pub fn counted(&self) -> Tensor<'g> {
        self.targets.ne(0).cast(DType::F32).sum_all().maximum(1.0)
    }
}

impl<'g> Tree<'g> for Feeds<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            inputs: f(self.inputs),
            targets: f(self.targets),
            segments: self.segments.map(|pair| Tree::map(pair, f)),
        }
    }
}

/// One pass through both stacks.
#[derive(Clone, Debug)]
pub struct ForwardPass<'g> {
    /// The encoder's part.
    pub encoder: StackOutput<'g>,
    /// The decoder's part.
    pub decoder: StackOutput<'g>,
    /// A logit for every position of the targets and every token, in `f32`.
    pub logits: Tensor<'g>,
}

/// Masks that keep the examples of a row segment_masks: in both self-attentions, and in the decoder's attention to the encoder.
#[derive(Clone, Copy)]
struct SegmentMasks<'g> {
    encoder: Tensor<'g>,
    decoder: Tensor<'g>,
    between: Tensor<'g>,
}

/// What a step gives.
#[derive(Clone, Debug)]
pub struct Losses<'g> {
    /// Mean cross-entropy of the targets that count, in nats; of a part of a batch, its share of the mean.
    pub cross_entropy: Tensor<'g>,
    /// What each sequence adds to it.
    pub rows: Tensor<'g>,
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
    /// What training makes small, if this is the `share` of a batch: the routers' part is a mean, the others add
    /// up to one.
    pub fn total(&self, share: f64) -> Tensor<'g> {
        let own = self.cross_entropy + self.z_loss;
        self.aux_loss.map_or(own, |aux| own + if share < 1.0 { aux * share } else { aux })
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

    /// The losses for one batch, or for a part of one in which `counted` targets count; of a training step if
    /// there are random numbers.
    pub fn losses<'g>(
        &self,
        g: &'g Graph,
        feeds: Feeds<'g>,
        counted: Tensor<'g>,
        rng: Option<Rng<'g>>,
    ) -> Losses<'g> {
        let (batch, _, target_length) = self.dims();
        let ForwardPass { encoder, decoder, logits } = self.run(&Context::new(g, &self.config, rng), feeds);
        let routers = [("encoder", encoder.routers()), ("decoder", decoder.routers())];
        g.scope("loss", || self.of_logits(logits, feeds.targets, counted, [&batch, &target_length], routers))
    }

    /// Both stacks, over what a step is given.
    pub fn run<'g>(&self, cx: &Context<'g>, feeds: Feeds<'g>) -> ForwardPass<'g> {
        let (_, length, target_length) = self.dims();
        let Feeds { inputs, targets, segments } = feeds;
        // Each target is predicted from those before it; the first from the start token, 0.
        let before = targets.shift_right(&target_length, 1);
        let padding = padding_mask(inputs, &length);
        let Some([of_inputs, of_targets]) = segments else {
            return self.pass(cx, inputs, padding, before, targets);
        };
        let first = of_targets.ne(of_targets.shift_right(&target_length, 1));
        let before = first.select(cx.g.constant(0, DType::S32), before);
        // Padding is in segment 0, which no token that counts is in.
        let segment_masks = cx.g.scope("segments", || SegmentMasks {
            encoder: segment_mask(of_inputs, of_inputs, &length),
            decoder: segment_mask(of_targets, of_targets, &target_length),
            between: segment_mask(of_targets, of_inputs, &length),
        });
        self.stacks(cx, inputs, (padding, Some(segment_masks)), before, targets)
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
    ) -> ForwardPass<'g> {
        self.stacks(cx, inputs, (padding, None), before, targets)
    }

    fn stacks<'g>(
        &self,
        cx: &Context<'g>,
        inputs: Tensor<'g>,
        (padding, segment_masks): (Tensor<'g>, Option<SegmentMasks<'g>>),
        before: Tensor<'g>,
        targets: Tensor<'g>,
    ) -> ForwardPass<'g> {
        let (batch, length, target_length) = self.dims();
        let g = cx.g;
        let x = g.scope("embedding", || self.embedding.lookup(cx, inputs));
        let of_encoder = cx.with_tokens(inputs).with_segment_mask(segment_masks.map(|a| a.encoder));
        let encoder = self.encoder.forward(&of_encoder, x, &length, None, padding);
        let memory = encoder.x.rename(&length, "memory_length");
        let y = g.scope("embedding", || self.embedding.lookup(cx, before));
        let of_decoder = cx.with_tokens(targets).with_segment_mask(segment_masks.map(|a| a.decoder));
        let seen = segment_masks.map_or(padding, |a| a.between);
        let decoder = self.decoder.forward(&of_decoder, y, &target_length, Some(memory), seen);
        let logits = g.scope("logits", || self.embedding.logits(cx, decoder.x, &batch, &target_length));
        ForwardPass { encoder, decoder, logits }
    }

    fn of_logits<'g>(
        &self,
        logits: Tensor<'g>,
        targets: Tensor<'g>,
        counted: Tensor<'g>,
        positions: [&Dim; 2],
        routers: [(&'static str, Vec<RouterMetrics<'g>>); 2],
    ) -> Losses<'g> {
        let vocab = self.embedding.vocab();
        let counts = targets.ne(0).cast(DType::F32);
        let weight = counts / counted;
        let normalizer = logits.logsumexp(vocab);
        // By comparison and not by lookup: every shard of the vocabulary adds its part, and the gradient
        // is no scatter.
        let wanted = (logits * targets.one_hot(vocab, DType::F32)).sum(vocab);
        let right = logits.stop_gradient().argmax(vocab).eq(targets).cast(DType::F32);
        let each = (normalizer - wanted) * weight;
        Losses {
            cross_entropy: each.sum(positions),
            rows: each.sum(positions[1]),
            z_loss: (normalizer.square() * weight).sum(positions) * self.config.z_loss,
            aux_loss: self.aux_loss(&routers),
            accuracy: (right * weight).sum(positions),
            tokens: counts.sum(positions),
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
            AuxReduction::Sum => sum,
            AuxReduction::Mean => sum / layers.max(1) as f64,
        })
    }
}
