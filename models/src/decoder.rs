//! The decoder-only model: language modelling, and prefix language modelling with inputs and targets in one
//! row.
//!
//! A row has the inputs (the prefix), if there are any, and then the targets, each read one position after it
//! is predicted. In language modelling a position sees those before it; with the other objectives the
//! positions of inputs see all inputs, as in T5's prefix language model. Padding of short inputs is hidden,
//! and rotary positions do not count it.
//!
//! Training for language modelling has no inputs. Generation and scoring have: the beginning of the text,
//! whose padding is moved to the front, so that the distances in a row are those in the text.

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
#[derive(Clone, Debug)]
pub(crate) struct Row<'g> {
    /// Its dim of positions.
    pub(crate) length: Dim,
    /// The tokens that are read, `s32[batch, length]`.
    tokens: Tensor<'g>,
    /// Mask of the positions that are not padding.
    non_padding: Tensor<'g>,
    /// Positions without padding, `s32[batch, length]`; `None` means that they count from 0.
    positions: Option<Tensor<'g>>,
    /// The mask added to the logits of attention, in addition to the causal one.
    hidden: Option<Tensor<'g>>,
    /// The number of first positions that every position sees.
    visible: usize,
}

/// The positions of the inputs, before those of the targets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix<'g> {
    /// The tokens that are read, `s32[batch, length]`.
    tokens: Tensor<'g>,
    /// True at positions that are not padding, `pred[batch, length]`.
    read: Tensor<'g>,
    /// The token that is read where the first target is predicted, `s32[batch]`; `None` means the start
    /// token.
    next: Option<Tensor<'g>>,
}

impl<'g> Prefix<'g> {
    /// Returns the prefix of `inputs`, `s32[batch, length]` with padding at the end.
    pub(crate) fn new(config: &Config, inputs: Tensor<'g>, length: &Dim) -> Self {
        match config.objective {
            Objective::PrefixLm | Objective::SpanCorruption => {
                Self { tokens: inputs, read: inputs.ne(PAD), next: None }
            }
            Objective::Lm => {
                let g = inputs.graph();
                let slots = length.renamed("slots");
                let count = inputs.ne(PAD).cast(DType::S32).sum(length);
                // The position in the text, which starts with the start token; negative for padding.
                let place = g.iota(&slots, DType::S32) + count - length.size as u32;
                // Outside of the inputs, a gather gives 0, which is padding.
                let tokens = inputs.gather(length, place - 1);
                let tokens = match config.start_token {
                    PAD => tokens,
                    start => place.eq(0).select(g.constant(start, DType::S32), tokens),
                };
                let back = |x: Tensor<'g>| x.rename(&slots, length);
                let last = inputs.gather(length, count - 1);
                // A row without tokens only fills up a batch, or has no inputs.
                let next = count.eq(0).select(g.constant(config.start_token, DType::S32), last);
                Self { tokens: back(tokens), read: back(place.ge(0)), next: Some(next) }
            }
        }
    }

    /// Returns the row of these positions alone, whose dim is `length`.
    pub(crate) fn row(&self, config: &Config, length: &Dim) -> Row<'g> {
        let rotary = config.positions == Positions::Rope;
        Row {
            length: length.clone(),
            tokens: self.tokens,
            non_padding: self.read,
            positions: rotary.then(|| self.read.cast(DType::S32).cumsum_exclusive(length)),
            hidden: Some(self.mask(length)),
            visible: visible(config),
        }
    }

    /// Returns the mask, to be added to logits, that hides padding: `f32[batch, memory_length]`.
    pub(crate) fn mask(&self, length: &Dim) -> Tensor<'g> {
        hidden(self.read.cast(DType::S32), length)
    }

    /// Returns the tokens that are read, with `none` in place of padding: `s32[batch, length]`.
    pub(crate) fn text(&self, none: i64) -> Tensor<'g> {
        self.read.select(self.tokens, self.tokens.graph().constant(none as f64, DType::S32))
    }

    /// Returns the token that is read where the first target is predicted, `s32[batch]`.
    pub(crate) fn next(&self, config: &Config) -> Tensor<'g> {
        self.next.unwrap_or_else(|| {
            let batch = Dim::new("batch", config.batch);
            self.tokens.graph().full(config.start_token, DType::S32, [&batch])
        })
    }

    /// Returns the tokens that are read at the positions of `targets`.
    pub(crate) fn before(&self, config: &Config, targets: Tensor<'g>, length: &Dim) -> Tensor<'g> {
        match self.next {
            None => before(config, targets, length),
            Some(next) => starting_with(next, targets.shift_right(length, 1), length),
        }
    }

    /// Returns the row of these positions, whose dim is `length`, and of targets, whose dim is `of_targets`:
    /// `before` are the tokens that are read at these, and `real` is true where they count.
    pub(crate) fn row_with_targets(
        &self,
        config: &Config,
        length: &Dim,
        of_targets: &Dim,
        before: Tensor<'g>,
        real: Tensor<'g>,
    ) -> Row<'g> {
        let g = before.graph();
        let together =
            |a: Tensor<'g>, b: Tensor<'g>| concat([a.rename(length, ROW), b.rename(of_targets, ROW)], ROW);
        // The start token is read where the first target is predicted, so all positions of targets count.
        let seen = together(self.read.cast(DType::S32), g.full(1, DType::S32, before.dims()));
        let rotary = config.positions == Positions::Rope;
        Row {
            tokens: together(self.tokens, before),
            non_padding: together(self.read.cast(DType::S32), real.cast(DType::S32)).ne(0),
            positions: rotary.then(|| seen.cumsum_exclusive(ROW)),
            hidden: Some(hidden(seen, &Dim::new(ROW, 1))),
            length: Dim::new(ROW, length.size + of_targets.size),
            visible: visible(config),
        }
    }
}

/// Returns the mask, to be added to logits, that hides the positions where `seen` is 0.
fn hidden<'g>(seen: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    (seen.eq(0).cast(DType::F32) * MASKED).rename(length, "memory_length")
}

/// Returns the number of first positions of a row that every position sees.
fn visible(config: &Config) -> usize {
    match config.objective {
        Objective::Lm => 0,
        Objective::PrefixLm | Objective::SpanCorruption => config.input_length,
    }
}

/// Returns the tokens that are read at the positions of `targets`, the first of which reads the start token.
fn before<'g>(config: &Config, targets: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    let shifted = targets.shift_right(length, 1);
    match config.start_token {
        PAD => shifted,
        start => starting_with(targets.graph().constant(start, DType::S32), shifted, length),
    }
}

/// Returns `tokens` with `first` at the first position.
fn starting_with<'g>(first: Tensor<'g>, tokens: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    tokens.graph().iota(length, DType::S32).eq(0).select(first, tokens)
}

impl<'g> Row<'g> {
    /// Returns the context in which a stack reads the row.
    pub(crate) fn context(&self, cx: &Context<'g>) -> Context<'g> {
        Context {
            non_padding: Some(self.non_padding),
            tokens: Some(self.tokens),
            positions: self.positions,
            visible_prefix: self.visible,
            segment_mask: self.hidden,
            ..*cx
        }
    }

    /// Runs the decoder's stack on the row, in the context of [`Row::context`].
    pub(crate) fn forward(&self, own: &Context<'g>, embedding: &Embedding, stack: &Stack) -> StackOutput<'g> {
        let x = own.g.scope("embedding", || embedding.lookup(own, self.tokens));
        stack.forward(own, x, &self.length, None, None)
    }
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
        let stack = row.forward(&row.context(cx), &self.embedding, &self.stack);
        let x = match row.length.name == targets.name {
            true => stack.x,
            false => stack.x.slice(ROW, self.config.input_length..).rename(ROW, &targets),
        };
        let batch = Dim::new("batch", self.config.batch);
        let logits = g.scope("logits", || self.embedding.logits(cx, x, &batch, &targets));
        (stack, logits)
    }

    /// Returns the logits of the next token after each of `tokens`, `s32[batch, target_length]`, none of
    /// which is padding: `f32[batch, target_length, vocab]`.
    pub fn reading<'g>(&self, cx: &Context<'g>, tokens: Tensor<'g>) -> Tensor<'g> {
        let (length, batch) = (self.targets(), Dim::new("batch", self.config.batch));
        let non_padding = cx.g.full(1, DType::S32, tokens.dims()).ne(0);
        let row = Row { length, tokens, non_padding, positions: None, hidden: None, visible: 0 };
        let x = row.forward(&row.context(cx), &self.embedding, &self.stack).x;
        cx.g.scope("logits", || self.embedding.logits(cx, x, &batch, &row.length))
    }

    fn targets(&self) -> Dim {
        Dim::new("target_length", self.config.target_length)
    }

    fn row<'g>(&self, cx: &Context<'g>, feeds: Feeds<'g>) -> Row<'g> {
        let length = self.targets();
        let real = feeds.targets.ne(PAD);
        if let Some(inputs) = feeds.inputs {
            let of_inputs = Dim::new("length", self.config.input_length);
            let prefix = Prefix::new(&self.config, inputs, &of_inputs);
            let before = prefix.before(&self.config, feeds.targets, &length);
            return prefix.row_with_targets(&self.config, &of_inputs, &length, before, real);
        }
        let before = before(&self.config, feeds.targets, &length);
        let row =
            Row { length, tokens: before, non_padding: real, positions: None, hidden: None, visible: 0 };
        let Some([_, of_targets]) = feeds.segments else { return row };
        // Each example starts with the start token. Distances within an example need no correction.
        let first = of_targets.ne(of_targets.shift_right(&row.length, 1));
        let start = cx.g.constant(self.config.start_token, DType::S32);
        let hidden = Some(segment_mask(of_targets, of_targets, &row.length));
        Row { tokens: first.select(start, before), hidden, ..row }
    }
}
