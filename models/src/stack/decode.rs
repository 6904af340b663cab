//! Decoding one position at a time with a KV cache.
//!
//! The cache holds the keys and values of the inputs, computed once, and those of the decoder's earlier
//! positions, updated in place. The latter is a ring: every step writes the same place in all rows, so that a
//! row can begin at any step, and a place counts for a row if the row is old enough. Keys and values of the
//! inputs are those of the encoder's output, for cross-attention; a decoder without encoder reads the inputs
//! itself, and its self-attention sees them before its own positions. The rest of a block runs as in
//! training, for one position.

use super::{Block, Ffn, Segment, SegmentTrace, Stack, StackOutput};
use crate::{
    Context,
    attention::{Cached, KeyValue, MASKED, squeeze_single_beam},
    position::{RingBias, StepBias},
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
    /// Positions of the inputs before those of the decoder; 0 with an encoder.
    before: Dim,
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

/// The place of a step.
#[derive(Clone, Copy, Debug)]
pub struct Place<'g> {
    /// The place that all rows write in the ring of the decoder's own positions: `s32[]`.
    pub clock: Tensor<'g>,
    /// The index of each row's position: `s32[batch]`.
    pub position: Tensor<'g>,
}

/// Inputs of a step that all blocks share.
struct Position<'g> {
    clock: Tensor<'g>,
    /// Distances to the places of the ring, `s32[memory_length]`.
    ages: Tensor<'g>,
    /// Relative positions of the inputs, `s32[batch, memory_length]`, if self-attention sees them.
    relative: Option<Tensor<'g>>,
    /// Added to logits over the decoder's own positions.
    own: Vec<Tensor<'g>>,
    /// Added to logits over the positions of the inputs.
    inputs: Vec<Tensor<'g>>,
}

/// The values of a batch whose keys and values a decoder caches before its first step.
#[derive(Clone, Copy, Debug)]
pub enum Memory<'a, 'g> {
    /// The encoder's output, with the dim `memory_length`.
    Encoder(Tensor<'g>),
    /// The output of a decoder without encoder for the inputs, and their dim.
    Inputs(&'a StackOutput<'g>, &'a Dim),
}

impl StepDecoder {
    /// Declares the state, for `positions` of the decoder and `memory_length` of the inputs.
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
        let before = if stack.has_encoder() { 0 } else { memory_length.size };
        let before = own_length.sized(before);
        Self { looped, beams: beams.clone(), own_length, before, own, memory, prepared, stack }
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

    /// Returns the stack, to read inputs with.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Clears keys and values of the decoder's own positions, before the first batch.
    pub fn clear(&self, g: &Graph) {
        let zeros = |state: &State| state.assign(g.constant(0, state.ty().dtype).broadcast(state.dims()));
        self.own.iter().flatten().flatten().flatten().for_each(zeros);
    }

    /// Starts rows: caches keys and values of `memory` by `put`, which takes a state and its value for these
    /// rows. `cx` is the context in which the inputs were read. Rows do not see
    /// positions of the decoder that are older than they are.
    pub fn start<'g>(&self, cx: &Context<'g>, memory: Memory<'_, 'g>, put: &dyn Fn(&State, Tensor<'g>)) {
        let g = cx.g;
        g.scope(self.stack.name, || {
            for (i, (segment, states)) in self.stack.segments.iter().zip(&self.memory).enumerate() {
                let rows = match memory {
                    Memory::Encoder(memory) => self.of_encoder(cx, segment, memory),
                    Memory::Inputs(read, length) => self.of_inputs(cx, segment, &read.segments[i], length),
                };
                put_all(states, &rows, put);
            }
        });
    }

    /// Returns keys and values of the encoder's output for cross-attention.
    fn of_encoder<'g>(
        &self,
        cx: &Context<'g>,
        segment: &Segment,
        memory: Tensor<'g>,
    ) -> Vec<Vec<KeyValue<'g>>> {
        let (g, length) = (cx.g, Dim::new("memory_length", 1));
        let keep = || -> Vec<KeyValue<'g>> {
            let cross = segment.blocks.iter().filter_map(|b| b.cross_attention.as_ref());
            cross.map(|(_, attention)| attention.keys_values(cx, memory, &length)).collect()
        };
        if self.looped {
            return vec![g.scan(&segment.layers, (), (), |(), ()| ((), keep())).1];
        }
        (0..segment.layers.size).map(|i| g.at(&segment.layers, i, keep)).collect()
    }

    /// Returns keys and values of the inputs for self-attention, from the inputs of all blocks.
    fn of_inputs<'g>(
        &self,
        cx: &Context<'g>,
        segment: &Segment,
        trace: &SegmentTrace<'g>,
        length: &Dim,
    ) -> Vec<Vec<KeyValue<'g>>> {
        let (g, layers) = (cx.g, &segment.layers);
        let keep = |hidden: Vec<Tensor<'g>>| -> Vec<KeyValue<'g>> {
            let of = |(block, x): (&Block, Tensor<'g>)| {
                let (norm, attention) = &block.attention;
                let made = attention.keys_values(cx, norm.forward(cx, x), length);
                made.map(|x| x.rename(length, "memory_length"))
            };
            g.scope("attention", || segment.blocks.iter().zip(hidden).map(of).collect())
        };
        if self.looped {
            return vec![g.scan(layers, (), trace.hidden.clone(), |(), hidden| ((), keep(hidden))).1];
        }
        let layer =
            |i: usize| trace.hidden.iter().map(|x| x.slice(layers, i..i + 1).squeeze(layers)).collect();
        (0..layers.size).map(|i| g.at(layers, i, || keep(layer(i)))).collect()
    }

    /// Reads the KV cache of the decoder's positions.
    pub fn read_cache<'g>(&self, g: &'g Graph) -> KvCache<'g> {
        let block = |b: &[State; 2]| b.each_ref().map(|state| state.read(g));
        let row = |row: &Vec<[State; 2]>| row.iter().map(block).collect();
        self.own.iter().map(|segment| segment.iter().map(row).collect()).collect()
    }

    /// Writes the KV cache for the next call.
    pub fn write_cache(&self, cache: &KvCache<'_>) {
        self.own
            .iter()
            .zip(cache)
            .for_each(|(states, rows)| put_all(states, rows, &|state, x| state.assign(x)));
    }

    /// Runs one position: `x` of `[batch, beams, d_model]` through all blocks and the final norm. `biases` is
    /// the result of [`StepDecoder::biases`], and `padding` the mask added to logits over the positions of
    /// the inputs. Rotary positions are those of the context. Returns the output and the updated cache.
    pub fn step<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        place: Place<'g>,
        biases: Option<&RingBias<'g>>,
        padding: Tensor<'g>,
        cache: KvCache<'g>,
    ) -> (Tensor<'g>, KvCache<'g>) {
        let g = cx.g;
        g.scope(self.stack.name, || {
            let now = self.at(cx, place, biases, padding);
            let mut x = x;
            let mut next: KvCache<'g> = Vec::new();
            let segments = self.stack.segments.iter().zip(cache).zip(self.memory.iter().zip(&self.prepared));
            for ((segment, rows), (memory, prepared)) in segments {
                let mut done = Vec::new();
                for (i, (row, memory)) in rows.into_iter().zip(memory).enumerate() {
                    let seen = (&memory[..], &prepared[i][..]);
                    let step = |x, row| self.iteration(cx, segment, x, row, seen, &now);
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
    /// layers share no biases.
    pub fn biases<'g>(&self, cx: &Context<'g>) -> Option<RingBias<'g>> {
        let bias = self.stack.bias.as_ref()?;
        Some(cx.g.scope("relative_bias", || bias.ring(cx, &self.own_length, self.before.size)))
    }

    /// Returns the inputs of a step that all blocks share.
    fn at<'g>(
        &self,
        cx: &Context<'g>,
        Place { clock, position }: Place<'g>,
        biases: Option<&RingBias<'g>>,
        padding: Tensor<'g>,
    ) -> Position<'g> {
        let back = clock - cx.g.iota(&self.own_length, DType::S32);
        let ages = back.lt(0).select(back + self.own_length.size as u32, back);
        let relative = (self.before.size > 0)
            .then(|| cx.g.iota(&self.before, DType::S32) - self.before.size as u32 - position);
        let hides = |hidden: Tensor<'g>| hidden.cast(DType::F32) * MASKED;
        let (mut own, mut inputs) = (vec![hides(ages.gt(position))], vec![padding]);
        if let Some(StepBias { own: of_own, inputs: of_inputs }) = biases.map(|b| b.at(clock, position)) {
            own.push(of_own);
            inputs.extend(of_inputs);
        }
        if cx.window > 0 {
            own.push(hides(ages.ge(cx.window as u32)));
            // Cross-attention has no window.
            inputs.extend(relative.map(|relative| hides((-relative).ge(cx.window as u32))));
        }
        Position { clock, ages, relative, own, inputs }
    }

    fn iteration<'g>(
        &self,
        cx: &Context<'g>,
        segment: &Segment,
        x: Tensor<'g>,
        cache: Vec<KeyValue<'g>>,
        (memory, prepared): (&[[State; 2]], &[Option<PreparedWeights>]),
        now: &Position<'g>,
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

/// Puts keys and values of a segment into their states.
fn put_all<'g>(states: &[Vec<[State; 2]>], rows: &[Vec<KeyValue<'g>>], put: &dyn Fn(&State, Tensor<'g>)) {
    let states = states.iter().flatten().flatten();
    states.zip(rows.iter().flatten().flatten()).for_each(|(state, value)| put(state, *value));
}

impl Block {
    fn step<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        decoder: &StepDecoder,
        cache: KeyValue<'g>,
        (memory, prepared): (KeyValue<'g>, Option<&PreparedWeights>),
        now: &Position<'g>,
    ) -> (Tensor<'g>, KeyValue<'g>) {
        let (g, beams) = (cx.g, &decoder.beams);
        let mut x = x;
        let of_itself = self.cross_attention.is_none().then_some(memory);
        let (found, cache) = g.scope("attention", || self.attend(cx, x, decoder, (of_itself, cache), now));
        x += found;
        if let Some((norm, attention)) = &self.cross_attention {
            x += g.scope("cross_attention", || {
                let seen = Cached { kv: memory, masks: now.inputs.clone() };
                attention.step(cx, norm.forward(cx, x), beams, &[seen])
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
    /// cached positions, and to those of the inputs if there are any.
    fn attend<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        decoder: &StepDecoder,
        (inputs, cache): (Option<KeyValue<'g>>, KeyValue<'g>),
        now: &Position<'g>,
    ) -> (Tensor<'g>, KeyValue<'g>) {
        let ((norm, attention), beams) = (&self.attention, &decoder.beams);
        let h = norm.forward(cx, x);
        let [key, value] = attention.keys_values(cx, h, beams).map(|x| squeeze_single_beam(x, beams));
        let one = Dim::new("memory_length", 1);
        let put = |all: Tensor<'g>, x: Tensor<'g>| {
            all.dynamic_update("memory_length", x.broadcast(&one), now.clock)
        };
        let cache = [put(cache[0], key), put(cache[1], value)];
        let bias = self.bias.as_ref();
        let bias = bias.map(|bias| cx.g.scope("relative_bias", || bias.at_step(cx, now.ages, now.relative)));
        let [of_inputs, own] = bias.map_or([None, None], |bias| [bias.inputs, Some(bias.own)]);
        let with = |bias: Option<Tensor<'g>>, masks: &[Tensor<'g>]| -> Vec<Tensor<'g>> {
            bias.into_iter().chain(masks.iter().copied()).collect()
        };
        let before = inputs.map(|kv| Cached { kv, masks: with(of_inputs, &now.inputs) });
        let own = Cached { kv: cache, masks: with(own, &now.own) };
        let seen: Vec<Cached<'g>> = before.into_iter().chain([own]).collect();
        (attention.step(cx, h, beams, &seen), cache)
    }
}
