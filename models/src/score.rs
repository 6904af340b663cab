//! The scoring program: log-likelihoods of given targets.

use crate::{
    Config, Context, Switch, Weights,
    model::Model,
    objective::{Feeds, normalizer_and_wanted},
    tokens::PAD,
};
use mesh::{
    DType, Dim, Site,
    dsl::{Graph, Program},
    task::TaskKind,
};

/// Builds the scoring program, `--set task=score`: the parameters of the model and one function,
/// `score(inputs, targets)`. Its outputs have a value for each sequence: `log_likelihood` of the target in
/// nats, without padding; `tokens`, the number of target tokens; and `correct`, how many of them have the
/// highest probability at their position. Inputs of a decoder-only language model are the beginning of the
/// text that the target continues.
pub fn program(config: &Config, place: &Site) -> Program {
    let p = Program::new(config.name.clone());
    let mistakes = config.mistakes_with_inputs();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    let switch = config.switch.as_ref().map(Switch::without_sorting);
    let config = &Config { packing: false, switch, ..config.with_inputs() };
    p.task(config.task(TaskKind::Score));
    p.meta("layout", config.layout());
    p.meta("state_layout", "");
    p.meta("dtype", config.precision.name());
    p.meta("padded", config.padded());
    p.schedule(config.schedule);
    let model = Model::new(&Weights::new(&p).with_adapters(config.lora.as_ref()), config);
    p.function("score", |g| score(g, config, &model));
    p
}

fn score(g: &Graph, config: &Config, model: &Model) {
    let feeds = Feeds::input(g, config);
    let (targets, target_length) = (feeds.targets, Dim::new("target_length", config.target_length));
    let logits = model.logits(&Context::new(g, config, None), feeds);
    let vocab = config.vocab_dim();
    let counts = targets.ne(PAD).cast(DType::F32);
    let [normalizer, wanted] = normalizer_and_wanted(logits, targets, &vocab);
    let log = (wanted - normalizer) * counts;
    let right = logits.argmax(&vocab).eq(targets).cast(DType::F32) * counts;
    g.output("log_likelihood", log.sum(&target_length));
    g.output("tokens", counts.sum(&target_length));
    g.output("correct", right.sum(&target_length));
}
