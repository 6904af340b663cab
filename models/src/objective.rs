//! The encoder-decoder model and its training losses.
//!
//! The runtime prepares inputs and targets for the objective (the task contract): span corruption, prefix
//! language modelling, or language modelling. A row may pack several examples, numbered by segment for each
//! token: attention masks other segments, and each example starts with the start token. Positions need no
//! correction, since relative position biases depend only on distances within an example.

use crate::{
    Config, Context, Weights,
    attention::{padding_mask, segment_mask},
    embedding::Embedding,
    stack::{Stack, StackOutput},
    switch::{RouterMetrics, Switch, options::AuxReduction},
    tokens::PAD,
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Rng, State, Tensor, Tree},
};

/// An encoder and a decoder with a shared embedding.
#[derive(Clone, Debug)]
pub struct EncoderDecoder {
    config: Config,
    embedding: Embedding,
    encoder: Stack,
    decoder: Stack,
}

/// Inputs of a step: `s32` tokens, [`PAD`] where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Feeds<'g> {
    /// Tokens of the encoder, or of the prefix; `None` means a decoder-only model without prefix.
    pub inputs: Option<Tensor<'g>>,
    /// Tokens that the decoder predicts.
    pub targets: Tensor<'g>,
    /// Segments of inputs and targets: for each token the number of its example in the row, from 1; 0 for
    /// padding. Without inputs, both are those of targets. `None` means one example per row.
    pub segments: Option<[Tensor<'g>; 2]>,
    /// The largest logits of a teacher that ran before. `None` means there are none.
    pub teacher: Option<TopLogits<'g>>,
}

/// The largest logits of a teacher for every target token, with the dim [`TEACHER_TOP`].
#[derive(Clone, Copy, Debug)]
pub struct TopLogits<'g> {
    /// The tokens with the largest logits, `s32[batch, target_length, teacher_top]`.
    pub tokens: Tensor<'g>,
    /// Their logits, `f32` of the same dims.
    pub logits: Tensor<'g>,
}

/// The name of the dim of a teacher's largest logits.
pub const TEACHER_TOP: &str = "teacher_top";

impl<'g> Feeds<'g> {
    /// Declares the inputs of a step of the model `config`; with packing also `inputs_segments` and
    /// `targets_segments`.
    pub fn input(g: &'g Graph, config: &Config) -> Self {
        let batch = Dim::new("batch", config.batch);
        let length = Dim::new("length", config.input_length);
        let target_length = Dim::new("target_length", config.target_length);
        let of = |name, dim| g.input(name, DType::S32, [&batch, dim]);
        let inputs = (config.input_length > 0).then(|| of("inputs", &length));
        let targets = of("targets", &target_length);
        let segments = config.packing.then(|| {
            let of_targets = of("targets_segments", &target_length);
            let of_inputs = inputs.map_or(of_targets, |_| of("inputs_segments", &length));
            [of_inputs, of_targets]
        });
        Self { inputs, targets, segments, teacher: None }
    }

    /// Declares also the inputs `teacher_tokens` and `teacher_logits`, the `top` largest logits of a teacher.
    pub fn with_teacher(self, g: &'g Graph, top: usize) -> Self {
        let [batch, length] = [0, 1].map(|at| self.targets.dims()[at].clone());
        let dims = [&batch, &length, &Dim::new(TEACHER_TOP, top)];
        let tokens = g.input("teacher_tokens", DType::S32, dims);
        let logits = g.input("teacher_logits", DType::F32, dims);
        Self { teacher: Some(TopLogits { tokens, logits }), ..self }
    }

    /// Returns the facts about this batch that a microbatch of it needs, if it is `share` of the batch.
    pub fn part(&self, share: f64) -> Part<'g> {
        let count = |tokens: Tensor<'g>| tokens.ne(PAD).cast(DType::F32).sum_all().maximum(1.0);
        let inputs = self.inputs.map_or_else(|| self.targets.graph().constant(0.0, DType::F32), count);
        Part { inputs, targets: count(self.targets), share }
    }
}

/// Facts about the whole batch that a microbatch needs.
#[derive(Clone, Copy, Debug)]
pub struct Part<'g> {
    /// Number of input tokens of the whole batch that are not padding, at least 1; 0 without inputs.
    pub inputs: Tensor<'g>,
    /// Number of target tokens of the whole batch that are not padding, at least 1.
    pub targets: Tensor<'g>,
    /// The microbatch's share of the batch.
    pub share: f64,
}

impl<'g> Part<'g> {
    /// Returns random numbers for this microbatch.
    pub fn random(&self, rng: Rng<'g>) -> Rng<'g> {
        if self.share < 1.0 { rng.fold(self.targets.graph().iteration()) } else { rng }
    }

    /// Returns the mean numbers of input and target tokens of a microbatch that are not padding.
    pub(crate) fn per_part(&self) -> [Tensor<'g>; 2] {
        [self.inputs, self.targets].map(|count| if self.share < 1.0 { count * self.share } else { count })
    }
}

impl<'g> Tree<'g> for Feeds<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            inputs: self.inputs.map(&mut *f),
            targets: f(self.targets),
            segments: self.segments.map(|pair| Tree::map(pair, f)),
            teacher: self.teacher.map(|top| TopLogits { tokens: f(top.tokens), logits: f(top.logits) }),
        }
    }
}

/// Result of a forward pass through both stacks.
#[derive(Clone, Debug)]
pub struct ForwardPass<'g> {
    /// Output of the encoder.
    pub encoder: StackOutput<'g>,
    /// Output of the decoder.
    pub decoder: StackOutput<'g>,
    /// Logits, `f32[batch, target_length, vocab]`.
    pub logits: Tensor<'g>,
}

/// Logits of a teacher.
#[derive(Clone, Copy, Debug)]
pub enum TeacherLogits<'g> {
    /// All of them, `f32[batch, target_length, vocab]`.
    All(Tensor<'g>),
    /// The largest ones; the other tokens have the probability 0.
    Top(TopLogits<'g>),
}

/// A teacher's logits, and their part in the loss.
#[derive(Clone, Copy, Debug)]
pub struct SoftTargets<'g> {
    /// Logits of the teacher.
    pub logits: TeacherLogits<'g>,
    /// The weight of the soft loss; the loss of the targets has the rest.
    pub share: f64,
    /// The logits of both models are divided by it before the softmax.
    pub temperature: f64,
}

/// Losses against a teacher.
#[derive(Clone, Copy, Debug)]
pub struct Distilled<'g> {
    /// Mean cross-entropy of the teacher's probabilities and the student's, times the square of the
    /// temperature, which keeps the size of its gradient (Hinton et al. 2015).
    pub soft: Tensor<'g>,
    /// The teacher's own cross-entropy of the target tokens. `None` if not all of its logits are known.
    pub teacher: Option<Tensor<'g>>,
    /// The weight of `soft`.
    pub share: f64,
}

/// Masks that separate the examples of a row, in both self-attentions and in cross-attention.
#[derive(Clone, Copy)]
struct SegmentMasks<'g> {
    encoder: Tensor<'g>,
    decoder: Tensor<'g>,
    between: Tensor<'g>,
}

/// Losses and metrics of a step.
#[derive(Clone, Debug)]
pub struct Losses<'g> {
    /// Mean cross-entropy of the target tokens in nats; for a microbatch, its share of the mean.
    pub cross_entropy: Tensor<'g>,
    /// The share of each sequence in it: `[batch]`.
    pub rows: Tensor<'g>,
    /// Mean squared log-normalizer of the output, weighted.
    pub z_loss: Tensor<'g>,
    /// Weighted load-balancing and router z-losses of all layers; `None` means no sparse layers.
    pub aux_loss: Option<Tensor<'g>>,
    /// Fraction of target tokens that have the highest logit.
    pub accuracy: Tensor<'g>,
    /// Number of target tokens.
    pub tokens: Tensor<'g>,
    /// Metrics of the routers, by stack.
    pub routers: [(&'static str, Vec<RouterMetrics<'g>>); 2],
    /// Losses against a teacher; `None` means no teacher.
    pub distilled: Option<Distilled<'g>>,
}

impl<'g> Losses<'g> {
    /// Returns the losses of a microbatch with the load-balancing loss over the whole batch: `choices` are
    /// the shares of choices over it of each router ([`crate::microbatch::Batch::choices`]). Without them,
    /// the losses stay the same.
    pub(crate) fn over_batch(self, switch: Option<&Switch>, choices: Option<&[Tensor<'g>]>) -> Self {
        let Some((switch, choices)) = switch.zip(choices) else { return self };
        let mut choices = choices.iter();
        let mut of_batch = |m: &RouterMetrics<'g>| m.over_batch(choices.next().copied());
        let routers = self.routers.map(|(stack, all)| (stack, all.iter().map(&mut of_batch).collect()));
        let aux_loss = router_loss(switch, &aux_and_z(&routers));
        Self { routers, aux_loss, ..self }
    }

    /// Returns the loss that training minimizes, for a microbatch that is the `share` of a batch: router
    /// losses are means, so they are scaled by `share`; the other losses are shares already.
    pub fn total(&self, share: f64) -> Tensor<'g> {
        let mixed = |d: Distilled<'g>| self.cross_entropy * (1.0 - d.share) + d.soft * d.share;
        let own = self.distilled.map_or(self.cross_entropy, mixed) + self.z_loss;
        self.aux_loss.map_or(own, |aux| own + if share < 1.0 { aux * share } else { aux })
    }
}

impl EncoderDecoder {
    /// Declares all parameters.
    pub fn new(w: &Weights<'_>, config: &Config) -> Self {
        Self::with_decoder(w, config, config)
    }

    /// Declares all parameters, with a decoder of the same sizes but other options, such as other capacities.
    pub fn with_decoder(w: &Weights<'_>, config: &Config, decoder: &Config) -> Self {
        Self {
            config: config.clone(),
            embedding: Embedding::new(w, config),
            encoder: Stack::encoder(w, config),
            decoder: Stack::decoder(w, decoder),
        }
    }

    /// Returns the biases for the choice of each router, in the order of its metrics, by segment.
    pub fn balance_biases(&self) -> Vec<Vec<State>> {
        [&self.encoder, &self.decoder].into_iter().flat_map(Stack::balance_biases).collect()
    }

    /// Declares the inputs of a step without packing: `s32` inputs and targets.
    pub fn inputs<'g>(&self, g: &'g Graph) -> (Tensor<'g>, Tensor<'g>) {
        let (batch, length, target_length) = self.dims();
        let inputs = g.input("inputs", DType::S32, [&batch, &length]);
        (inputs, g.input("targets", DType::S32, [&batch, &target_length]))
    }

    /// Returns the dims of sequences, input tokens and target tokens.
    pub fn dims(&self) -> (Dim, Dim, Dim) {
        let Config { batch, input_length, target_length, .. } = self.config;
        (Dim::new("batch", batch), Dim::new("length", input_length), Dim::new("target_length", target_length))
    }

    /// Returns the losses of a batch, or of a microbatch that is a `part` of it. With `rng` this is a
    /// training step; with `soft` also the losses against a teacher.
    pub fn losses<'g>(
        &self,
        g: &'g Graph,
        feeds: Feeds<'g>,
        part: Part<'g>,
        rng: Option<Rng<'g>>,
        soft: Option<SoftTargets<'g>>,
    ) -> Losses<'g> {
        let cx = Context { counts: Some(part.per_part()), ..Context::new(g, &self.config, rng) };
        self.losses_in(&cx, feeds, part, soft)
    }

    /// [`EncoderDecoder::losses`] of a whole batch in evaluation, with the choices of all routers.
    pub fn recorded<'g>(&self, g: &'g Graph, feeds: Feeds<'g>) -> Losses<'g> {
        let part = feeds.part(1.0);
        let cx = Context::new(g, &self.config, None);
        let cx = Context { counts: Some(part.per_part()), records_routes: true, ..cx };
        self.losses_in(&cx, feeds, part, None)
    }

    fn losses_in<'g>(
        &self,
        cx: &Context<'g>,
        feeds: Feeds<'g>,
        part: Part<'g>,
        soft: Option<SoftTargets<'g>>,
    ) -> Losses<'g> {
        let (g, (batch, _, target_length)) = (cx.g, self.dims());
        let ForwardPass { encoder, decoder, logits } = self.run(cx, feeds);
        let routers = [("encoder", encoder.routers()), ("decoder", decoder.routers())];
        let positions = [&batch, &target_length];
        g.scope("loss", || Losses {
            distilled: soft.map(|soft| self.distilled(logits, soft, feeds.targets, part.targets, positions)),
            ..of_logits(
                &self.config,
                self.embedding.vocab(),
                (logits, feeds.targets),
                part.targets,
                positions,
                routers,
            )
        })
    }

    fn distilled<'g>(
        &self,
        logits: Tensor<'g>,
        soft: SoftTargets<'g>,
        targets: Tensor<'g>,
        counted: Tensor<'g>,
        positions: [&Dim; 2],
    ) -> Distilled<'g> {
        let vocab = self.embedding.vocab();
        let weight = targets.ne(PAD).cast(DType::F32) / counted;
        let ours = logits / soft.temperature;
        let (wanted, teacher) = match soft.logits {
            TeacherLogits::All(all) => {
                let [normalizer, wanted] = normalizer_and_wanted(all, targets, vocab);
                let theirs = (all / soft.temperature).softmax(vocab);
                (theirs, Some((normalizer - wanted) * weight))
            }
            TeacherLogits::Top(top) => (probabilities(top, soft.temperature, positions, vocab), None),
        };
        let each = (ours.logsumexp(vocab) - (ours * wanted).sum(vocab)) * weight * soft.temperature.powi(2);
        let teacher = teacher.map(|each| each.sum(positions));
        Distilled { soft: each.sum(positions), teacher, share: soft.share }
    }

    /// Runs both stacks on the inputs of a step.
    pub fn run<'g>(&self, cx: &Context<'g>, feeds: Feeds<'g>) -> ForwardPass<'g> {
        let (_, length, target_length) = self.dims();
        let Feeds { inputs, targets, segments, teacher: _ } = feeds;
        let inputs = inputs.expect("validation requires inputs of an encoder");
        // Each target is predicted from those before it, the first one from the start token.
        let before = targets.shift_right(&target_length, 1);
        let padding = padding_mask(inputs, &length);
        let Some([of_inputs, of_targets]) = segments else {
            return self.pass(cx, inputs, padding, before, targets);
        };
        let first = of_targets.ne(of_targets.shift_right(&target_length, 1));
        let before = first.select(cx.g.constant(PAD, DType::S32), before);
        // Padding is in segment 0, which holds no other tokens.
        let segment_masks = cx.g.scope("segments", || SegmentMasks {
            encoder: segment_mask(of_inputs, of_inputs, &length),
            decoder: segment_mask(of_targets, of_targets, &target_length),
            between: segment_mask(of_targets, of_inputs, &length),
        });
        self.stacks(cx, inputs, (padding, Some(segment_masks)), before, targets)
    }

    /// Runs both stacks: `padding` is the mask added to logits of attention over `inputs`, `before` holds
    /// the decoder's input tokens, and `targets` is [`PAD`] at positions that do not count.
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
        let [of_inputs, of_targets] = cx.counts.map_or([None; 2], |counts| counts.map(Some));
        let of_encoder = cx.with_tokens(inputs).with_segment_mask(segment_masks.map(|a| a.encoder));
        let of_encoder = Context { routed: of_inputs, ..of_encoder };
        let encoder = self.encoder.forward(&of_encoder, x, &length, None, Some(padding));
        let memory_length = length.renamed("memory_length");
        let memory = Some((encoder.x.rename(&length, &memory_length), &memory_length));
        let y = g.scope("embedding", || self.embedding.lookup(cx, before));
        let of_decoder =
            cx.with_tokens(targets).reading(before).with_segment_mask(segment_masks.map(|a| a.decoder));
        let of_decoder = Context { routed: of_targets, ..of_decoder };
        let seen = segment_masks.map_or(padding, |a| a.between);
        let decoder = self.decoder.forward(&of_decoder, y, &target_length, memory, Some(seen));
        let logits = g.scope("logits", || self.embedding.logits(cx, decoder.x, &batch, &target_length));
        ForwardPass { encoder, decoder, logits }
    }
}

/// Returns the losses of `logits` and `targets`, of which the batch counts `counted`.
pub(crate) fn of_logits<'g>(
    config: &Config,
    vocab: &Dim,
    (logits, targets): (Tensor<'g>, Tensor<'g>),
    counted: Tensor<'g>,
    positions: [&Dim; 2],
    routers: [(&'static str, Vec<RouterMetrics<'g>>); 2],
) -> Losses<'g> {
    let counts = targets.ne(PAD).cast(DType::F32);
    let weight = counts / counted;
    let routers = routers.map(|(stack, all)| (stack, all.iter().map(|m| m.over_batch(None)).collect()));
    let [normalizer, wanted] = normalizer_and_wanted(logits, targets, vocab);
    let right = logits.stop_gradient().argmax(vocab).eq(targets).cast(DType::F32);
    let each = (normalizer - wanted) * weight;
    Losses {
        cross_entropy: each.sum(positions),
        rows: each.sum(positions[1]),
        z_loss: (normalizer.square() * weight).sum(positions) * config.z_loss,
        aux_loss: config.switch.as_ref().and_then(|switch| router_loss(switch, &aux_and_z(&routers))),
        accuracy: (right * weight).sum(positions),
        tokens: counts.sum(positions),
        routers,
        distilled: None,
    }
}

/// Returns the load-balancing loss and the z-loss of each router, without their weights.
fn aux_and_z<'g>(routers: &[(&'static str, Vec<RouterMetrics<'g>>); 2]) -> Vec<[Tensor<'g>; 2]> {
    routers.iter().flat_map(|(_, metrics)| metrics).map(|m| [m.aux, m.z]).collect()
}

/// Returns the weighted sum or mean of the router losses over all sparse layers, as `aux_layers` says; `all`
/// has the load-balancing loss and the z-loss of each router, `f32[layers]`. `None` means no routers.
pub(crate) fn router_loss<'g>(switch: &Switch, all: &[[Tensor<'g>; 2]]) -> Option<Tensor<'g>> {
    let layers: usize = all.iter().flat_map(|[aux, _]| aux.dims()).map(|layers| layers.size).sum();
    let of = |[aux, z]: &[Tensor<'g>; 2]| {
        let aux = aux.sum("layers") * switch.aux_loss;
        match switch.z_weight() {
            0.0 => aux,
            weight => aux + z.sum("layers") * weight,
        }
    };
    let sum = all.iter().map(of).reduce(|a, b| a + b)?;
    Some(match switch.aux_layers {
        AuxReduction::Sum => sum,
        AuxReduction::Mean => sum / layers.max(1) as f64,
    })
}

/// Returns the log-normalizer of the logits of each position and the logit of its target, both without the
/// dim `vocab`. Their difference is the cross-entropy of the target in nats.
pub(crate) fn normalizer_and_wanted<'g>(
    logits: Tensor<'g>,
    targets: Tensor<'g>,
    vocab: &Dim,
) -> [Tensor<'g>; 2] {
    // A product with a one-hot mask instead of a gather: each shard of the vocabulary adds its part, and the
    // gradient is not a scatter.
    [logits.logsumexp(vocab), (logits * targets.one_hot(vocab, DType::F32)).sum(vocab)]
}

/// Returns the probabilities of all tokens, `f32[batch, target_length, vocab]`, whose largest logits are
/// `top`.
///
/// One of the largest logits is added after another, so that no tensor has both dims `teacher_top` and
/// `vocab`.
fn probabilities<'g>(top: TopLogits<'g>, temperature: f64, positions: [&Dim; 2], vocab: &Dim) -> Tensor<'g> {
    let g = top.logits.graph();
    let dim = top.logits.dims().into_iter().find(|dim| dim.name == *TEACHER_TOP);
    let dim = dim.expect("`Feeds::with_teacher` declares the dim");
    let shares = (top.logits / temperature).softmax(&dim);
    let zeros = g.full(0.0, DType::F32, [positions[0], positions[1], vocab]);
    let add = |sum: Tensor<'g>, (token, share): (Tensor<'g>, Tensor<'g>)| {
        (sum + token.one_hot(vocab, DType::F32) * share, ())
    };
    g.scan(&dim, zeros, (top.tokens, shares), add).0.stop_gradient()
}
