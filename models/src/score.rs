//! A program that scores: how likely the model finds given targets.

use crate::{Config, Context, Weights, attention::padding_mask, embedding::Embedding, stack::Stack};
use mesh::{
    DType, Dim, Site,
    dsl::{Graph, Program},
};

/// The program, `--set task=score`: the parameters of the model and one function,
/// `score(inputs, targets)`, with a number for each sequence: `log_likelihood` of its target (in nats, padding
/// apart), its `tokens`, and how many of them are the most likely ones where they stand (`correct`).
pub fn program(config: &Config, place: &Site) -> Program {
    let p = Program::new(config.name.clone());
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    p.meta("task", "score");
    p.meta("vocab", config.vocab);
    p.meta("batch", config.batch);
    p.meta("input_length", config.input_length);
    p.meta("target_length", config.target_length);
    p.meta("layout", config.layout());
    p.meta("state_layout", "");
    p.meta("dtype", config.precision.name());
    let w = Weights::new(&p);
    let parts = (Embedding::new(&w, config), Stack::encoder(&w, config), Stack::decoder(&w, config));
    p.function("score", |g| score(g, config, &parts));
    p
}

fn score(g: &Graph, config: &Config, (embedding, encoder, decoder): &(Embedding, Stack, Stack)) {
    let cx = &Context::new(g, config, None);
    let batch = Dim::new("batch", config.batch);
    let (length, target_length) =
        (Dim::new("length", config.input_length), Dim::new("target_length", config.target_length));
    let inputs = g.input("inputs", DType::S32, [&batch, &length]);
    let targets = g.input("targets", DType::S32, [&batch, &target_length]);
    let padding = padding_mask(inputs, &length);
    let x = g.scope("embedding", || embedding.lookup(cx, inputs));
    let memory = encoder.forward(cx, x, &length, None, padding).x.rename(&length, "memory_length");
    let y = g.scope("embedding", || embedding.lookup(cx, targets.shift_right(&target_length, 1)));
    let y = decoder.forward(cx, y, &target_length, Some(memory), padding).x;
    let logits = g.scope("logits", || embedding.logits(cx, y, &batch, &target_length));
    let counts = targets.ne(0).cast(DType::F32);
    let wanted = (logits * targets.one_hot(embedding.vocab(), DType::F32)).sum("vocab");
    let log = (wanted - logits.logsumexp("vocab")) * counts;
    let right = logits.argmax("vocab").eq(targets).cast(DType::F32) * counts;
    g.output("log_likelihood", log.sum(&target_length));
    g.output("tokens", counts.sum(&target_length));
    g.output("correct", right.sum(&target_length));
}
