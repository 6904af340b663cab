//! Decoding one position at a time with a KV cache.
//!
//! The cache holds the keys and values of the encoder's output, computed once, and those of the decoder's
//! earlier positions, updated in place. The rest of a block runs as in training, for one position.

use super::{Block, Ffn, Segment, Stack};
use crate::{
    Context,
    attention::{KeyValue, squeeze_single_beam},
    position::CausalBias,
    switch::UnstackedExperts,
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Init, Program, State, Tensor},
};

/// Keys and values of the decoder's positions: by segment, by row (one for each iteration, or one for all
/// iterations, stacked over `layers`), by block of an iteration.
pub type KvCache<'g> = Vec<Vec<Vec<KeyValue<'g>>>>;

/// A decoder and its state between calls.
#[derive(Clone, Debug)]
pub struct StepDecoder {
    stack: Stack,
    looped: bool,
    beams: Dim,
    /// Positions of the decoder.
    own_length: Dim,
    own: Vec<Vec<Vec<[State; 2]>>>,
    memory: Vec<Vec<Vec<[State; 2]>>>,
    /// Copies of weights in the order that a step reads, by segment, row and block.
    prepared: Vec<Vec<Vec<Option<PreparedWeights>>>>,
}

/// Feed-forward weights of a block in the order in which a step reads them.
#[derive(Clone, Debug)]
enum PreparedWeights {
    /// The transposed outer matrix of a dense layer.
    Dense(State),
    /// Experts in separate states.
    Experts(UnstackedExperts),
}

/// Emission of the layers of a [`StepDecoder`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecoderLayers {
    /// As a scan over `layers`.
    Scan,
    /// One after the other. This is faster for small models and stores the decoder's parameters a second
    /// time.
    Unrolled {
        /// True if experts are copied into separate states, so that a step skips those that no token chose.
        unstacked: bool,
    },
}

/// Inputs of a step that all blocks share.
#[derive(Clone, Copy)]
struct Position<'g> {
    /// Index of the current position.
    position: Tensor<'g>,
    /// Added to logits over the decoder's positions; `None` means that every layer has its own biases.
    bias: Option<Tensor<'g>>,
    /// Added to logits over the encoder's positions.
    padding: Tensor<'g>,
}

impl StepDecoder {
    /// Declares the state, for `positions` of the decoder and `memory_length` of the encoder.
    pub fn new(
        p: &Program,
        stack: Stack,
        dtype: DType,
        beams: &Dim,
        positions: usize,
        memory_length: usize,
        blocks: DecoderLayers,
    ) -> Self {
        let looped = blocks == DecoderLayers::Scan;
        let dims = stack.dims.clone();
        let own_length = Dim::new("memory_length", positions);
        // Without a dim `beams` of size 1, as [`squeeze_single_beam`] makes keys and values.
        let own = [&dims.batch, beams, &dims.heads, &own_length, &dims.d_kv].into_iter();
        let own: Vec<Dim> = own.filter(|d| d.name != beams.name || d.size > 1).cloned().collect();
        let memory_length = Dim::new("memory_length", memory_length);
        let memory = [&dims.batch, &dims.heads, &memory_length, &dims.d_kv].map(Dim::clone);
        let declare = |what: &str, dims: &[Dim]| {
            let segment = |(s, segment): (usize, &Segment)| {
                let (rows, front) = if looped {
                    (1, vec![segment.layers.clone()])
                } else {
                    (segment.layers.size, Vec::new())
                };
                let all: Vec<Dim> = front.into_iter().chain(dims.iter().cloned()).collect();
                let state = |row, block, part| {
                    let name = format!("kept/{what}_{part}_{s}_{row}_{block}");
                    p.store(name, dtype, &all, Init::Zeros)
                };
                let row = |r| {
                    (0..segment.blocks.len())
                        .map(|b| ["keys", "values"].map(|part| state(r, b, part)))
                        .collect()
                };
                (0..rows).map(row).collect()
            };
            stack.segments.iter().enumerate().map(segment).collect()
        };
        let (own, memory) = (declare("own", &own), declare("memory", &memory));
        let prepared = prepared(p, &stack, dtype, blocks);
        Self { looped, beams: beams.clone(), own_length, own, memory, prepared, stack }
    }

    /// Fills the copies of weights; to be called once, after the parameters have been loaded.
    pub fn prepare(&self, cx: &Context<'_>) {
        let g = cx.g;
        g.scope(self.stack.name, || {
            for (segment, rows) in self.stack.segments.iter().zip(&self.prepared) {
                for (i, row) in rows.iter().enumerate() {
                    for (block, prepared) in segment.blocks.iter().zip(row) {
                        g.at(&segment.layers, i, || match (&block.feed_forward.1, prepared) {
                            (Ffn::Dense(ffn), Some(PreparedWeights::Dense(transposed))) => {
                                ffn.set_transposed(cx, transposed)
                            }
                            (Ffn::Switch(ffn), Some(PreparedWeights::Experts(unstacked))) => {
                                ffn.copy_unstacked(cx, unstacked)
                            }
                            (Ffn::Dense(_) | Ffn::Switch(_), _) => {}
                        });
                    }
                }
            }
        });
    }

    /// Starts a new batch: caches keys and values of `memory`, the encoder's output, and clears those of
    /// the decoder.
    pub fn start<'g>(&self, cx: &Context<'g>, memory: Tensor<'g>) {
        let g = cx.g;
        let zeros = |state: &State| state.assign(g.constant(0, state.ty().dtype).broadcast(state.dims()));
        self.own.iter().flatten().flatten().flatten().for_each(zeros);
        let length = Dim::new("memory_length", 1);
        let keep = |segment: &Segment, cx: &Context<'g>| -> Vec<KeyValue<'g>> {
            let cross = segment.blocks.iter().filter_map(|b| b.cross_attention.as_ref());
            cross.map(|(_, attention)| attention.keys_values(cx, memory, &length)).collect()
        };
        g.scope(self.stack.name, || {
            for (segment, states) in self.stack.segments.iter().zip(&self.memory) {
                let rows: Vec<Vec<KeyValue<'g>>> = if self.looped {
                    vec![g.scan(&segment.layers, (), (), |(), ()| ((), keep(segment, cx))).1]
                } else {
                    (0..segment.layers.size).map(|i| g.at(&segment.layers, i, || keep(segment, cx))).collect()
                };
                write(states, &rows);
            }
        });
    }

    /// Reads the KV cache of the decoder's positions.
    pub fn read_cache<'g>(&self, g: &'g Graph) -> KvCache<'g> {
        let block = |b: &[State; 2]| b.each_ref().map(|state| state.read(g));
        let row = |row: &Vec<[State; 2]>| row.iter().map(block).collect();
        self.own.iter().map(|segment| segment.iter().map(row).collect()).collect()
    }

    /// Writes the KV cache for the next call.
    pub fn write_cache(&self, cache: &KvCache<'_>) {
        self.own.iter().zip(cache).for_each(|(states, rows)| write(states, rows));
    }

    /// Runs one position: `x` of `[batch, beams, d_model]` through all blocks and the final norm. `causal` is
    /// the result of [`StepDecoder::causal`]. Returns the output and the updated cache.
    pub fn step<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        position: Tensor<'g>,
        causal: Option<&CausalBias<'g>>,
        padding: Tensor<'g>,
        cache: KvCache<'g>,
    ) -> (Tensor<'g>, KvCache<'g>) {
        let g = cx.g;
        g.scope(self.stack.name, || {
            let now = Position { position, bias: causal.map(|causal| causal.at(position)), padding };
            let mut x = x;
            let mut next: KvCache<'g> = Vec::new();
            let segments = self.stack.segments.iter().zip(cache).zip(self.memory.iter().zip(&self.prepared));
            for ((segment, rows), (memory, prepared)) in segments {
                let mut done = Vec::new();
                for (i, (row, memory)) in rows.into_iter().zip(memory).enumerate() {
                    let seen = (&memory[..], &prepared[i][..]);
                    let step = |x, row| self.iteration(cx, segment, x, row, seen, now);
                    let (after, row) = if self.looped {
                        g.scan(&segment.layers, x, row, step)
                    } else {
                        g.at(&segment.layers, i, || step(x, row))
                    };
                    x = after;
                    done.push(row);
                }
                next.push(done);
            }
            (self.stack.norm.forward(cx, x), next)
        })
    }

    /// Returns the biases of all positions, to be computed once and used in every step. `None` means that
    /// every layer has its own biases.
    pub fn causal<'g>(&self, cx: &Context<'g>) -> Option<CausalBias<'g>> {
        let bias = self.stack.bias.as_ref()?;
        Some(cx.g.scope("relative_bias", || bias.causal(cx, &self.own_length)))
    }

    fn iteration<'g>(
        &self,
        cx: &Context<'g>,
        segment: &Segment,
        x: Tensor<'g>,
        cache: Vec<KeyValue<'g>>,
        (memory, prepared): (&[[State; 2]], &[Option<PreparedWeights>]),
        now: Position<'g>,
    ) -> (Tensor<'g>, Vec<KeyValue<'g>>) {
        let mut x = x;
        let mut next = Vec::new();
        for (i, ((block, cache), memory)) in segment.blocks.iter().zip(cache).zip(memory).enumerate() {
            let scope = if segment.blocks.len() == 1 { "block".into() } else { format!("block_{i}") };
            let memory = memory.each_ref().map(|state| state.read(cx.g));
            let seen = (memory, prepared[i].as_ref());
            let (after, cache) = cx.g.scope(scope, || block.step(cx, x, self, cache, seen, now));
            x = after;
            next.push(cache);
        }
        (x, next)
    }
}

/// Declares states for weights that a step reads in another order; none for layers in a scan.
fn prepared(
    p: &Program,
    stack: &Stack,
    dtype: DType,
    blocks: DecoderLayers,
) -> Vec<Vec<Vec<Option<PreparedWeights>>>> {
    let declare = |(s, segment): (usize, &Segment)| {
        let block = |row: usize, (b, block): (usize, &Block)| {
            let name = |what: &str| format!("kept/{what}_{s}_{row}_{b}");
            match (&block.feed_forward.1, blocks) {
                (Ffn::Dense(ffn), DecoderLayers::Unrolled { .. }) => {
                    Some(PreparedWeights::Dense(ffn.transposed(p, &name("wo"), dtype)))
                }
                (Ffn::Switch(ffn), DecoderLayers::Unrolled { unstacked: true }) => {
                    Some(PreparedWeights::Experts(ffn.unstacked(p, &name("experts"), dtype)))
                }
                (Ffn::Switch(_), DecoderLayers::Unrolled { unstacked: false }) | (_, DecoderLayers::Scan) => {
                    None
                }
            }
        };
        let rows = if blocks == DecoderLayers::Scan { 1 } else { segment.layers.size };
        (0..rows).map(|row| segment.blocks.iter().enumerate().map(|b| block(row, b)).collect()).collect()
    };
    stack.segments.iter().enumerate().map(declare).collect()
}

/// Assigns keys and values of a segment to their states.
fn write(states: &[Vec<[State; 2]>], rows: &[Vec<KeyValue<'_>>]) {
    let states = states.iter().flatten().flatten();
    states.zip(rows.iter().flatten().flatten()).for_each(|(state, value)| state.assign(*value));
}

impl Block {
    fn step<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        decoder: &StepDecoder,
        cache: KeyValue<'g>,
        (memory, prepared): (KeyValue<'g>, Option<&PreparedWeights>),
        now: Position<'g>,
    ) -> (Tensor<'g>, KeyValue<'g>) {
        let (g, beams) = (cx.g, &decoder.beams);
        let mut x = x;
        let (found, cache) = g.scope("attention", || self.attend(cx, x, decoder, cache, now));
        x += found;
        if let Some((norm, attention)) = &self.cross_attention {
            x += g.scope("cross_attention", || {
                attention.step(cx, norm.forward(cx, x), beams, memory, &[now.padding])
            });
        }
        let y = g.scope("ffn", || {
            let (norm, ffn) = &self.feed_forward;
            let h = norm.forward(cx, x);
            let batch = &decoder.stack.dims.batch;
            match (ffn, prepared) {
                (Ffn::Dense(ffn), Some(PreparedWeights::Dense(transposed))) => {
                    ffn.forward_transposed(cx, h, (batch, beams), transposed)
                }
                (Ffn::Switch(ffn), Some(PreparedWeights::Experts(unstacked))) => {
                    ffn.forward_unstacked(cx, h, (batch, beams), unstacked)
                }
                (Ffn::Dense(ffn), _) => ffn.forward(cx, h, batch, beams),
                (Ffn::Switch(ffn), _) => ffn.forward(cx, h, batch, beams).0,
            }
        });
        (x + y, cache)
    }

    /// Self-attention of the current position: adds its key and value to the cache, then attends to all
    /// cached positions.
    fn attend<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        decoder: &StepDecoder,
        cache: KeyValue<'g>,
        now: Position<'g>,
    ) -> (Tensor<'g>, KeyValue<'g>) {
        let ((norm, attention), beams) = (&self.attention, &decoder.beams);
        let h = norm.forward(cx, x);
        let [key, value] = attention.keys_values(cx, h, beams).map(|x| squeeze_single_beam(x, beams));
        let one = Dim::new("memory_length", 1);
        let put = |all: Tensor<'g>, x: Tensor<'g>| {
            all.dynamic_update("memory_length", x.broadcast(&one), now.position)
        };
        let cache = [put(cache[0], key), put(cache[1], value)];
        let own = self.bias.as_ref().map(|bias| {
            cx.g.scope("relative_bias", || bias.causal_at(cx, now.position, &decoder.own_length))
        });
        let biases: Vec<Tensor<'g>> = own.into_iter().chain(now.bias).collect();
        (attention.step(cx, h, beams, cache, &biases), cache)
    }
}
