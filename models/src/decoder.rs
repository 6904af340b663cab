//! The decoder-only model: language modelling, and prefix language modelling with inputs and targets in one
//! row.
//!
//! A row has the inputs, if the objective makes any, and then the targets, each read one position after it is
//! predicted. In language modelling a position sees those before it; the positions of inputs (the prefix) see
//! all inputs, as T5's prefix language model does. Padding behind short inputs is hidden, and rotary
//! positions do not count it.

use crate::{
    Config, Context, Weights,
    attention::{MASKED, segment_mask},
    config::Positions,
    embedding::Embedding,
    objective::{self, Feeds, Losses, Part},
    stack::{Stack, StackOutput},
    tokens::PAD,
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Rng, State, Tensor, concat},
    task::Objective,
};

/// The name of the dim of the positions of inputs and targets in one row.
const ROW: &str = "row_length";

/// A decoder without encoder.
#[derive(Clone, Debug)]
pub struct Decoder {
    config: Config,
    embedding: Embedding,
    stack: Stack,
}

/// The row that the decoder reads.
struct Row<'g> {
    /// Its dim of positions.
    length: Dim,
    /// The tokens that are read, `s32[batch, length]`.
    tokens: Tensor<'g>,
    /// Mask of the positions that are not padding.
    non_padding: Tensor<'g>,
    /// Positions without padding, `s32[batch, length]`; `None` means that they count from 0.
    positions: Option<Tensor<'g>>,
    /// The mask added to the logits of attention, in addition to the causal one.
    hidden: Option<Tensor<'g>>,
}

impl Decoder {
    /// Declares all parameters.
    pub fn new(w: &Weights<'_>, config: &Config) -> Self {
        let (embedding, stack) = (Embedding::new(w, config), Stack::decoder(w, config));
        Self { config: config.clone(), embedding, stack }
    }

    /// Returns the losses of a batch, or of a microbatch that is a `part` of it. With `rng` this is a
    /// training step.
    pub fn losses<'g>(
        &self,
        g: &'g Graph,
        feeds: Feeds<'g>,
        part: Part<'g>,
        rng: Option<Rng<'g>>,
    ) -> Losses<'g> {
        self.losses_in(&Context::new(g, &self.config, rng), feeds, part)
    }

    /// [`Decoder::losses`] of a whole batch in evaluation, with the choices of all routers.
    pub fn recorded<'g>(&self, g: &'g Graph, feeds: Feeds<'g>) -> Losses<'g> {
        let cx = Context { records_routes: true, ..Context::new(g, &self.config, None) };
        self.losses_in(&cx, feeds, feeds.part(1.0))
    }

    /// Returns the biases for the choice of each router, in the order of its metrics, by segment.
    pub fn balance_biases(&self) -> Vec<Vec<State>> {
        self.stack.balance_biases()
    }

    fn losses_in<'g>(&self, cx: &Context<'g>, feeds: Feeds<'g>, part: Part<'g>) -> Losses<'g> {
        let [inputs, targets] = part.per_part();
        let cx = Context { routed: Some((inputs + targets).maximum(1.0)), ..*cx };
        let (stack, logits) = self.run(&cx, feeds);
        let batch = Dim::new("batch", self.config.batch);
        let positions = [&batch, &self.targets()];
        let routers = [("encoder", Vec::new()), ("decoder", stack.routers())];
        let vocab = self.embedding.vocab();
        cx.g.scope("loss", || {
            objective::of_logits(
                &self.config,
                vocab,
                (logits, feeds.targets),
                part.targets,
                positions,
                routers,
            )
        })
    }

    /// Runs the stack on the inputs of a step; returns its output and the logits, `f32[batch, target_length,
    /// vocab]`.
    pub fn run<'g>(&self, cx: &Context<'g>, feeds: Feeds<'g>) -> (StackOutput<'g>, Tensor<'g>) {
        let (g, targets) = (cx.g, self.targets());
        let row = self.row(cx, feeds);
        let x = g.scope("embedding", || self.embedding.lookup(cx, row.tokens));
        let own = Context {
            non_padding: Some(row.non_padding),
            tokens: Some(row.tokens),
            positions: row.positions,
            visible_prefix: self.prefix(),
            segment_mask: row.hidden,
            ..*cx
        };
        let stack = self.stack.forward(&own, x, &row.length, None, None);
        let x = match row.length.name == targets.name {
            true => stack.x,
            false => stack.x.slice(ROW, self.config.input_length..).rename(ROW, &targets),
        };
        let batch = Dim::new("batch", self.config.batch);
        let logits = g.scope("logits", || self.embedding.logits(cx, x, &batch, &targets));
        (stack, logits)
    }

    fn targets(&self) -> Dim {
        Dim::new("target_length", self.config.target_length)
    }

    /// Returns the number of first positions that every position sees.
    fn prefix(&self) -> usize {
        match self.config.objective {
            Objective::Lm => 0,
            Objective::PrefixLm | Objective::SpanCorruption => self.config.input_length,
        }
    }

    fn row<'g>(&self, cx: &Context<'g>, feeds: Feeds<'g>) -> Row<'g> {
        let length = self.targets();
        let before = feeds.targets.shift_right(&length, 1);
        let real = feeds.targets.ne(PAD);
        let Some(inputs) = feeds.inputs else {
            let Some([_, of_targets]) = feeds.segments else {
                return Row { length, tokens: before, non_padding: real, positions: None, hidden: None };
            };
            // Each example starts with the start token. Distances within an example need no correction.
            let first = of_targets.ne(of_targets.shift_right(&length, 1));
            let tokens = first.select(cx.g.constant(PAD, DType::S32), before);
            let hidden = Some(segment_mask(of_targets, of_targets, &length));
            return Row { length, tokens, non_padding: real, positions: None, hidden };
        };
        let row = Dim::new(ROW, self.config.input_length + self.config.target_length);
        let together =
            |a: Tensor<'g>, b: Tensor<'g>| concat([a.rename("length", ROW), b.rename(&length, ROW)], ROW);
        let read = inputs.ne(PAD);
        // The start token is read where the first target is predicted, so all positions of targets count.
        let seen = together(read.cast(DType::S32), cx.g.full(1, DType::S32, feeds.targets.dims()));
        let rotary = self.config.positions == Positions::Rope;
        Row {
            tokens: together(inputs, before),
            non_padding: together(read.cast(DType::S32), real.cast(DType::S32)).ne(0),
            positions: rotary.then(|| seen.cumsum_exclusive(ROW)),
            hidden: Some((seen.eq(0).cast(DType::F32) * MASKED).rename(ROW, "memory_length")),
            length: row,
        }
    }
}
