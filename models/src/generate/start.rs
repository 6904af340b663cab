//! The first step of rows: reading their inputs, for a whole batch or for some rows of it.

use super::{
    Decoder, Generator, MASKED, beams, prefix::ReadInputs, repetition, repetition::HISTORY, rows::Starting,
};
use crate::{
    Config, Context,
    attention::padding_mask,
    stack::{Memory, Stack},
    tokens::PAD,
};
use mesh::{
    DType, Dim,
    dsl::{Graph, Tensor},
};

impl Generator {
    /// Starts a batch.
    pub(super) fn encode(&self, g: &Graph) {
        self.clock.assign(g.constant(0, DType::S32));
        if let Decoder::Cached(decoder, _) = &self.decoder {
            decoder.clear(g);
        }
        if let Some(start) = &self.start {
            start.assign(g.full(0, DType::S32, start.dims()));
        }
        if let Some(number) = &self.number {
            number.assign(g.iota(&self.batch, DType::S32));
        }
        self.begin(g, &self.config, Starting::All);
    }

    /// Starts at most `rows` other inputs while the other rows continue.
    pub(super) fn admit(&self, g: &Graph, rows: usize) {
        let from = g.input("from", DType::S32, [&self.batch]);
        let starting = Starting::From(from);
        if let Some(start) = &self.start {
            starting.put_rows(start, self.clock.read(g).broadcast(&self.batch));
        }
        if let Some(number) = &self.number {
            starting.put_rows(number, g.input("numbers", DType::S32, [&self.batch]));
        }
        self.begin(g, &Config { batch: rows, ..self.config.clone() }, starting);
    }

    /// Reads inputs, whose number is the batch of `config`.
    fn begin<'g>(&self, g: &'g Graph, config: &Config, starting: Starting<'g>) {
        let cx = &Context::new(g, &super::encoder(config), None);
        let (batch, length) = (self.batch.sized(config.batch), Dim::new("length", self.config.input_length));
        let inputs = g.input("inputs", DType::S32, [&batch, &length]);
        let (padding, next, text) = match &self.encoder {
            Some(encoder) => (self.run_encoder(cx, encoder, inputs, &length, starting), None, None),
            None => {
                let ReadInputs { mask, next, text } = self.read_inputs(cx, config, inputs, &length, starting);
                (mask, Some(next), text)
            }
        };
        starting.put(&self.padding, padding);
        if let Some(history) = &self.history {
            let start = || g.full(self.config.start_token, DType::S32, [&batch, &Dim::new(HISTORY, 1)]);
            let text = text.unwrap_or_else(start);
            starting.put(history, repetition::begun(text, self.length.size, &self.beams));
        }
        starting.fill(g, &self.position, 0.0);
        // A row without tokens only fills up the batch.
        let used = inputs.ne(PAD).any(&length).cast(DType::S32);
        let [tokens, last, open, scores] = &self.running;
        starting.fill(g, tokens, 0.0);
        match next {
            Some(next) => starting.put(last, next.broadcast(&self.beams)),
            None => starting.fill(g, last, 0.0),
        }
        starting.put(open, used.broadcast(&self.beams));
        match &self.finished {
            None => starting.fill(g, scores, 0.0),
            Some([tokens, finished, complete]) => {
                // All beams are equal at first, so only the first one counts.
                starting.put(scores, beams::first(g, &batch, &self.beams));
                starting.fill(g, tokens, 0.0);
                starting.fill(g, finished, MASKED);
                starting.put(complete, 1i32 - used);
            }
        }
    }

    /// Runs the encoder and stores what the decoder needs; returns the mask over its positions.
    fn run_encoder<'g>(
        &self,
        cx: &Context<'g>,
        encoder: &Stack,
        inputs: Tensor<'g>,
        length: &Dim,
        starting: Starting<'g>,
    ) -> Tensor<'g> {
        let padding = padding_mask(inputs, length);
        let rows = inputs.dims()[0].size;
        let x = cx.g.scope("embedding", || self.embedding.lookup(cx, inputs));
        let read = encoder.with_batch(rows).forward(&cx.with_tokens(inputs), x, length, None, Some(padding));
        let memory = read.x.rename(length, "memory_length");
        match &self.decoder {
            Decoder::Cached(decoder, _) => {
                decoder.start(cx, Memory::Encoder(memory), &|state, value| starting.put(state, value));
            }
            Decoder::Uncached(_, state) => starting.put(state, memory),
        }
        padding
    }
}
