//! Generation with decoder-only models: the decoder reads the inputs before its first step.
//!
//! Positions of inputs and of generated tokens are separate parts of a row, so that the rows of a batch run
//! in step although their inputs have different lengths. Beams share the keys and values of their inputs.

use super::{
    DecodeState, Decoder, Generator, reads_text,
    repetition::{HISTORY, NONE},
    rows::Starting,
};
use crate::{
    Config, Context,
    attention::MASKED,
    config::Positions,
    decoder::Prefix,
    stack::{Memory, Stack},
};
use mesh::{
    DType, Dim,
    dsl::{State, Tensor, concat},
};

/// The inputs as the decoder has read them.
pub(super) struct ReadInputs<'g> {
    /// The mask over their positions, `f32[batch, memory_length]`.
    pub(super) mask: Tensor<'g>,
    /// The token that the first step reads, `s32[batch]`.
    pub(super) next: Tensor<'g>,
    /// The text that targets continue, `s32[batch, history]`; `None` means that they continue none.
    pub(super) text: Option<Tensor<'g>>,
}

impl Generator {
    /// Reads the inputs, whose number is the batch of `config`, and stores what the decoder needs.
    pub(super) fn read_inputs<'g>(
        &self,
        cx: &Context<'g>,
        config: &Config,
        inputs: Tensor<'g>,
        length: &Dim,
        starting: Starting<'g>,
    ) -> ReadInputs<'g> {
        let prefix = Prefix::new(config, inputs, length);
        let row = prefix.row(config, length);
        match &self.decoder {
            Decoder::Cached(decoder, _) => {
                let cx = &row.context(cx);
                let stack = decoder.stack().with_batch(config.batch);
                let read = row.forward(cx, &self.embedding, &stack);
                let memory = Memory::Inputs(&read, length);
                decoder.start(cx, memory, &|state, value| starting.put(state, value));
            }
            Decoder::Uncached(_, state) => starting.put(state, inputs.rename(length, "memory_length")),
        }
        let next = prefix.next(config);
        let text = reads_text(config).then(|| {
            let last = next.broadcast(Dim::new(HISTORY, 1));
            concat([prefix.text(NONE).rename(length, HISTORY), last], HISTORY)
        });
        ReadInputs { mask: prefix.mask(length), next, text }
    }

    /// Returns the rotary position of the first step, `s32[batch]`: the number of tokens of the inputs.
    /// `None` means that there are no rotary positions.
    pub(super) fn first_place<'g>(&self, padding: Tensor<'g>) -> Option<Tensor<'g>> {
        let rotary = self.config.positions == Positions::Rope;
        rotary.then(|| padding.gt(MASKED / 2.0).cast(DType::S32).sum("memory_length"))
    }

    /// Returns the decoder's output at the current position, reading inputs and all earlier tokens again.
    pub(super) fn reread<'g>(
        &self,
        cx: &Context<'g>,
        decoder: &Stack,
        inputs: &State,
        now: &DecodeState<'g>,
    ) -> Tensor<'g> {
        let g = cx.g;
        // Every beam is a separate sequence.
        let rows = self.batch.sized(self.batch.size * self.beams.size);
        let flat = |x: Tensor<'g>| x.reshape([&self.batch, &self.beams], &rows);
        let length = Dim::new("length", self.config.input_length);
        let inputs = flat(inputs.read(g).rename("memory_length", &length).broadcast(&self.beams));
        let prefix = Prefix::new(&self.config, inputs, &length);
        let before = prefix.before(&self.config, flat(now.tokens), &self.length);
        let real = g.full(1, DType::S32, before.dims());
        let row = prefix.row_with_targets(&self.config, &length, &self.length, before, real);
        let read = row.forward(&row.context(cx), &self.embedding, decoder);
        let place = now.clock + length.size as u32;
        let x = read.x.dynamic_slice(&row.length.name, place, 1).squeeze(&row.length.name);
        x.reshape(&rows, [&self.batch, &self.beams])
    }
}
