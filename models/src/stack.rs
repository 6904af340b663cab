//! Encoder and decoder stacks: blocks over the residual stream, run as a scan over `layers`.

mod decode;

pub use decode::{DecoderLayers, KvCache, Memory, Place, StepDecoder};

use crate::{
    Config, Context, Weights,
    attention::{Attention, AttentionDims, Rotary, causal_mask, ring::Seen},
    config::Positions,
    feed_forward::FeedForward,
    norm::RmsNorm,
    position::RelativeBias,
    stream::{self, STREAM},
    switch::{RouterMetrics, SwitchFfn},
};
use mesh::{
    Dim,
    dsl::{ScanOptions, State, Tensor, Tree, concat},
    schedule::Residual,
};

/// One block: `x += attention(norm(x))` for each attention, then `x += feed_forward(norm(x))`.
#[derive(Clone, Debug)]
struct Block {
    attention: (RmsNorm, Attention),
    /// The layer's own table of biases; `None` means that of the stack.
    bias: Option<RelativeBias>,
    cross_attention: Option<(RmsNorm, Attention)>,
    feed_forward: (RmsNorm, Ffn),
}

#[derive(Clone, Debug)]
enum Ffn {
    Dense(Box<FeedForward>),
    Switch(Box<SwitchFfn>),
}

/// A stack of blocks and the norm after them.
#[derive(Clone, Debug)]
pub struct Stack {
    name: &'static str,
    segments: Vec<Segment>,
    /// The table that all layers share; `None` means that each layer has its own.
    bias: Option<RelativeBias>,
    norm: RmsNorm,
    dims: AttentionDims,
    options: ScanOptions,
    stream: bool,
    decoder: bool,
}

/// Blocks that a scan over `layers` repeats with other parameters.
#[derive(Clone, Debug)]
struct Segment {
    layers: Dim,
    /// The blocks of one iteration: one, or as many as one period of sparse layers has. A last segment
    /// holds the remaining blocks and runs once.
    blocks: Vec<Block>,
}

/// Location of a block's parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockLocation {
    /// Index of the segment in its stack.
    pub segment: usize,
    /// Index of the block in an iteration.
    pub block: usize,
    /// Index of the iteration: the index along `layers`.
    pub layer: usize,
    /// Number of iterations of the segment: the size of `layers`.
    pub count: usize,
    /// Scope of the parameters' names.
    pub scope: String,
}

/// Output of a stack.
#[derive(Clone, Debug)]
pub struct StackOutput<'g> {
    /// The residual stream after all blocks and the final norm.
    pub x: Tensor<'g>,
    /// Intermediate values, by segment.
    pub segments: Vec<SegmentTrace<'g>>,
}

/// Intermediate values of a segment, stacked over `layers`.
#[derive(Clone, Debug)]
pub struct SegmentTrace<'g> {
    /// The input of each block of an iteration.
    pub hidden: Vec<Tensor<'g>>,
    /// Metrics for each sparse layer of an iteration.
    pub routers: Vec<RouterMetrics<'g>>,
}

impl<'g> StackOutput<'g> {
    /// Returns the metrics of each sparse layer of an iteration, over all `layers` of the stack.
    pub fn routers(&self) -> Vec<RouterMetrics<'g>> {
        let mut all: Vec<RouterMetrics<'g>> = Vec::new();
        for segment in &self.segments {
            for (i, more) in segment.routers.iter().enumerate() {
                match all.get_mut(i) {
                    Some(first) => *first = append(*first, *more),
                    None => all.push(*more),
                }
            }
        }
        all
    }
}

/// Concatenates along `layers`.
fn append<'g>(first: RouterMetrics<'g>, second: RouterMetrics<'g>) -> RouterMetrics<'g> {
    let mut rest = Vec::new();
    second.map(&mut |x| {
        rest.push(x);
        x
    });
    let mut rest = rest.into_iter();
    first.map(&mut |x| rest.next().map_or(x, |y| concat([x, y], "layers")))
}

impl Stack {
    /// Returns the stack for batches of `batch` rows.
    pub(crate) fn with_batch(&self, batch: usize) -> Self {
        let mut stack = self.clone();
        stack.dims.batch.size = batch;
        stack
    }

    /// Returns the location of block `i` of the encoder or decoder of `config`.
    pub fn location(config: &Config, decoder: bool, i: usize) -> BlockLocation {
        let (period, stack) = (config.period(decoder), if decoder { "decoder" } else { "encoder" });
        let repeats = config.layers(decoder) / period;
        let (whole, block) = (repeats * period, i % period);
        let (layer, count) = if i < whole { (i / period, repeats) } else { (0, 1) };
        let segment = usize::from(i >= whole && whole > 0);
        let scope = match (period, i < whole) {
            (1, _) => stack.to_owned(),
            (_, true) => format!("{stack}/block_{block}"),
            (_, false) => format!("{stack}/rest/block_{block}"),
        };
        BlockLocation { segment, block, layer, count, scope }
    }

    /// Returns the biases for the choice of each router of an iteration, as [`StackOutput::routers`] counts
    /// them, by segment. Empty without such biases.
    pub fn balance_biases(&self) -> Vec<Vec<State>> {
        let mut all: Vec<Vec<State>> = Vec::new();
        for segment in &self.segments {
            for (i, state) in segment.blocks.iter().flat_map(Block::balance_biases).enumerate() {
                match all.get_mut(i) {
                    Some(states) => states.push(state.clone()),
                    None => all.push(vec![state.clone()]),
                }
            }
        }
        all
    }

    /// Declares an encoder.
    pub fn encoder(w: &Weights<'_>, config: &Config) -> Self {
        Self::new(w, config, "encoder", false)
    }

    /// Declares a decoder: causal, with cross-attention to the encoder's output.
    pub fn decoder(w: &Weights<'_>, config: &Config) -> Self {
        Self::new(w, config, "decoder", true)
    }

    fn new(w: &Weights<'_>, config: &Config, name: &'static str, decoder: bool) -> Self {
        let dims = AttentionDims::new(config);
        let (layers, period) = (config.layers(decoder), config.period(decoder));
        w.scope(name, || {
            let block = |i| Block::new(w, config, &dims, i, decoder);
            let blocks = |count| (0..count).map(|i| w.scope(format!("block_{i}"), || block(i))).collect();
            let segment = |layers, blocks: &dyn Fn() -> Vec<Block>| {
                let layers = Dim::new("layers", layers);
                Segment { blocks: w.stacked(&layers, blocks), layers }
            };
            let mut segments = Vec::new();
            match (period, layers / period) {
                (1, _) => segments.push(segment(layers, &|| vec![block(0)])),
                (_, 0) => {}
                (_, repeats) => segments.push(segment(repeats, &|| blocks(period))),
            }
            if !layers.is_multiple_of(period) {
                segments.push(w.scope("rest", || segment(1, &|| blocks(layers % period))));
            }
            let shared = !config.layer_biases && config.positions == Positions::Relative;
            let bias = shared.then(|| relative_bias(w, config, &dims, decoder));
            Self {
                name,
                segments,
                bias,
                norm: RmsNorm::new(w, "norm", &dims.d_model, config.epsilon),
                dims: dims.clone(),
                options: ScanOptions {
                    remat: config.schedule.remat,
                    unroll: config.schedule.unroll,
                    reverse: false,
                    stages: config.schedule.stages,
                },
                stream: config.schedule.residual == Residual::Stream,
                decoder,
            }
        })
    }

    /// True if the blocks attend to the output of an encoder.
    fn has_encoder(&self) -> bool {
        self.segments.iter().flat_map(|s| &s.blocks).any(|block| block.cross_attention.is_some())
    }

    /// Applies the stack to embeddings `x` of `[batch, length, d_model]`. `memory` is the encoder's output
    /// that a decoder attends to, and its dim `memory_length`; `padding` is the mask added to logits over the
    /// encoder's positions. A decoder without encoder has neither.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        length: &Dim,
        memory: Option<(Tensor<'g>, &Dim)>,
        padding: Option<Tensor<'g>>,
    ) -> StackOutput<'g> {
        cx.g.scope(self.name, || {
            let attended = self.attended(cx, length, memory, padding);
            let x = if self.stream { x.rename(&self.dims.d_model, STREAM) } else { x };
            let mut x = cx.drop(x, &[length]);
            let mut segments = Vec::new();
            for segment in &self.segments {
                let (next, (hidden, routers)) =
                    cx.g.scan_with(&segment.layers, self.options, x, (), |x, ()| {
                        segment.forward(&cx.iteration(), x, &self.dims, &attended)
                    });
                x = next;
                segments.push(SegmentTrace { hidden, routers });
            }
            let x = cx.drop(self.norm.forward(cx, x), &[length]);
            StackOutput { x: stream::leave(x, &self.dims.d_model), segments }
        })
    }
}

/// The positions that the blocks of a stack attend to, and masks.
struct Attended<'a, 'g> {
    /// Positions of the stack.
    length: &'a Dim,
    /// The encoder's output, and its positions.
    memory: Option<(Tensor<'g>, Dim)>,
    /// The mask added to logits over the encoder's positions.
    padding: Option<Tensor<'g>>,
    /// Masks added to logits of self-attention, if it is not divided into blocks.
    masks: Vec<Tensor<'g>>,
    /// The bias that all layers share.
    bias: Option<&'a RelativeBias>,
    decoder: bool,
}

impl<'g> Attended<'_, 'g> {
    /// Arguments of self-attention by blocks; `own` is the bias of the layer.
    fn itself<'b>(&'b self, own: Option<&'b RelativeBias>) -> Seen<'b, 'g> {
        let padding = self.padding.filter(|_| !self.decoder);
        Seen { length: self.length, bias: own.or(self.bias), causal: self.decoder, padding }
    }
}

/// The encoder's positions.
const LENGTH: &str = "length";

impl Stack {
    fn attended<'a, 'g>(
        &'a self,
        cx: &Context<'g>,
        length: &'a Dim,
        memory: Option<(Tensor<'g>, &Dim)>,
        padding: Option<Tensor<'g>>,
    ) -> Attended<'a, 'g> {
        let (bias, decoder) = (self.bias.as_ref(), self.decoder);
        if cx.schedule.ring > 1 {
            // Blocks keep the sharding of the positions that they are made of.
            let divided = |x: Tensor<'g>| x.rename("memory_length", LENGTH);
            let memory = memory.map(|(x, positions)| (divided(x), positions.renamed(LENGTH)));
            let padding = padding.map(divided);
            return Attended { length, memory, padding, masks: Vec::new(), bias, decoder };
        }
        let memory = memory.map(|(x, positions)| (x, positions.clone()));
        let masks = self.masks(cx, length, padding);
        Attended { length, memory, padding, masks, bias, decoder }
    }

    /// Returns the masks, to be added to logits of self-attention, that all layers share.
    fn masks<'g>(&self, cx: &Context<'g>, length: &Dim, padding: Option<Tensor<'g>>) -> Vec<Tensor<'g>> {
        let own = length.renamed("memory_length");
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| cx.g.scope("relative_bias", || bias.forward(cx, length, &own)));
        // Padding of the decoder comes last in a row, so the causal mask hides it from all positions that
        // count.
        let (first, second) = match (bias, self.decoder) {
            (Some(bias), true) => (Some(bias + causal_mask(cx, length, &own)), None),
            (None, true) => (Some(causal_mask(cx, length, &own)), None),
            (Some(bias), false) => (Some(bias), padding),
            (None, false) => (padding, None),
        };
        first.into_iter().chain(second).chain(cx.segment_mask).collect()
    }
}

/// Declares a table of relative position biases.
fn relative_bias(w: &Weights<'_>, config: &Config, dims: &AttentionDims, decoder: bool) -> RelativeBias {
    RelativeBias::new(w, config.buckets, config.max_distance, &dims.heads, &dims.d_model, !decoder)
}

/// Inputs of the blocks of an iteration, and metrics of their routers.
type Trace<'g> = (Vec<Tensor<'g>>, Vec<RouterMetrics<'g>>);

impl Segment {
    /// Runs one iteration.
    fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        dims: &AttentionDims,
        attended: &Attended<'_, 'g>,
    ) -> (Tensor<'g>, Trace<'g>) {
        let (mut hidden, mut routers) = (Vec::new(), Vec::new());
        let mut x = x;
        for (i, block) in self.blocks.iter().enumerate() {
            hidden.push(stream::leave(x, &dims.d_model));
            let scope = if self.blocks.len() == 1 { "block".into() } else { format!("block_{i}") };
            x = cx.g.scope(scope, || block.forward(cx, x, dims, attended, &mut routers));
        }
        (x, (hidden, routers))
    }
}

impl Block {
    fn new(w: &Weights<'_>, config: &Config, dims: &AttentionDims, i: usize, decoder: bool) -> Self {
        let norm = || RmsNorm::new(w, "norm", &dims.d_model, config.epsilon);
        let switch = config.sparse_layers();
        let sparse = switch.as_ref().filter(|_| config.is_sparse(decoder, i));
        let attention = || (norm(), Attention::new(w, dims));
        let own_attention = || match sparse {
            Some(switch) if switch.sparse_parts.attention() => (norm(), Attention::switch(w, dims, switch)),
            Some(_) | None if config.positions == Positions::Rope => {
                let group = config.query_group();
                let queries = (group > 1).then(|| Dim::new("queries", group));
                (norm(), Attention::rotary(w, dims, Rotary { theta: config.rope_theta, queries }))
            }
            Some(_) | None => attention(),
        };
        let d_ff = Dim::new("d_ff", config.d_ff);
        let feed_forward = || match sparse {
            Some(switch) if switch.sparse_parts.ffn() => {
                Ffn::Switch(Box::new(SwitchFfn::new(w, &dims.d_model, &d_ff, config.activation, switch)))
            }
            Some(_) | None => {
                Ffn::Dense(Box::new(FeedForward::new(w, &dims.d_model, &d_ff, config.activation)))
            }
        };
        let bias = || relative_bias(w, config, dims, decoder);
        Self {
            attention: w.scope("attention", own_attention),
            bias: config.layer_biases.then(|| w.scope("attention", bias)),
            cross_attention: (decoder && !config.is_decoder_only())
                .then(|| w.scope("cross_attention", attention)),
            feed_forward: w.scope("ffn", || (norm(), feed_forward())),
        }
    }

    /// Returns the biases for the choice, in the order of the routers' metrics.
    fn balance_biases(&self) -> impl Iterator<Item = &State> {
        let ffn = match &self.feed_forward.1 {
            Ffn::Dense(_) => None,
            Ffn::Switch(ffn) => ffn.balance_bias(),
        };
        self.attention.1.balance_bias().into_iter().chain(ffn)
    }

    fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        AttentionDims { batch, d_model, .. }: &AttentionDims,
        attended: &Attended<'_, 'g>,
        metrics: &mut Vec<RouterMetrics<'g>>,
    ) -> Tensor<'g> {
        let (g, length) = (cx.g, attended.length);
        let mut x = x;
        x += g.scope("attention", || {
            let (norm, _) = &self.attention;
            let h = stream::leave(norm.forward(cx, x), d_model);
            let (found, of_router) = self.attend_to_itself(cx, h, attended);
            metrics.extend(of_router);
            cx.drop(stream::enter(found, x, d_model), &[length])
        });
        if let (Some((norm, attention)), Some((memory, positions))) =
            (&self.cross_attention, &attended.memory)
        {
            x += g.scope("cross_attention", || {
                let h = stream::leave(norm.forward(cx, x), d_model);
                let padding = attended.padding;
                let (found, _) = if cx.schedule.ring > 1 {
                    let seen = Seen { length: positions, bias: None, causal: false, padding };
                    attention.forward_in_ring(cx, h, length, *memory, seen)
                } else {
                    attention.forward(cx, h, length, *memory, padding.as_slice())
                };
                cx.drop(stream::enter(found, x, d_model), &[length])
            });
        }
        x + g.scope("ffn", || {
            let (norm, ffn) = &self.feed_forward;
            let h = norm.forward(cx, x);
            let y = match ffn {
                Ffn::Dense(ffn) => ffn.forward(cx, stream::leave(h, d_model), batch, length),
                Ffn::Switch(ffn) => {
                    let (y, of_router) = ffn.forward(cx, h, batch, length);
                    metrics.push(of_router);
                    y
                }
            };
            cx.drop(stream::enter(y, x, d_model), &[length])
        })
    }

    /// Self-attention of `h`.
    fn attend_to_itself<'g>(
        &self,
        cx: &Context<'g>,
        h: Tensor<'g>,
        attended: &Attended<'_, 'g>,
    ) -> (Tensor<'g>, Option<RouterMetrics<'g>>) {
        let (length, attention) = (attended.length, &self.attention.1);
        if cx.schedule.ring > 1 {
            return attention.forward_in_ring(cx, h, length, h, attended.itself(self.bias.as_ref()));
        }
        let own = h.rename(length, "memory_length");
        let memory_length = length.renamed("memory_length");
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| cx.g.scope("relative_bias", || bias.forward(cx, length, &memory_length)));
        let masks: Vec<Tensor<'g>> = bias.into_iter().chain(attended.masks.iter().copied()).collect();
        attention.forward(cx, h, length, own, &masks)
    }
}
