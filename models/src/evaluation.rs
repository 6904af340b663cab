//! Programs that take the batches of evaluation and have no training step.

use crate::{Config, Weights, metadata, model::Model};
use mesh::{
    Schedule, Site,
    dsl::{Graph, Program},
};

/// Builds a program with the parameters of a model and the function `eval_step`, whose operations `step`
/// adds. A batch is one microbatch.
pub(crate) fn of_evaluation(
    config: Config,
    place: &Site,
    step: impl for<'g> FnOnce(&'g Graph, &Model, &Config),
) -> Program {
    let config = Config { schedule: Schedule { microbatches: 1, ..config.schedule }, ..config };
    let p = Program::new(config.name.clone());
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    metadata::of_training(&p, &config, config.layout());
    let model = Model::new(&Weights::new(&p).with_adapters(config.lora.as_ref()), &config);
    p.function("eval_step", |g| step(g, &model, &config));
    p
}
