//! Builds the training program of a [`Config`]: parameters, `train_step`, `eval_step`, and metadata for the
//! runtime.

use crate::{
    Config, Generation, Weight, Weights,
    distill::{self, Distillation, Teaching},
    generate, metadata,
    microbatch::Batch,
    model::Model,
    optimizer, routes, score,
    switch::balance_bias as balance,
};
use mesh::{
    DType, Diagnostic, Name, Site,
    dsl::{self, Args, Init, Program, Rng},
};
use std::{panic::Location, process::ExitCode};

/// The `main` of a model program: applies the command line to `config` and prints the program as `.mesh`
/// text.
#[track_caller]
pub fn main(config: Config) -> ExitCode {
    let place = Location::caller();
    let place = Site::new(place.file(), place.line(), place.column(), "");
    dsl::main(|args| of_task(config, args, &place))
}

/// Builds the program for the setting `task`: `train` (with evaluation), `generate`, `score`, `routes` or
/// `logits`.
pub fn of_task(config: Config, args: &Args, place: &Site) -> Program {
    let config = config.with(args);
    let task = args.choice("task", &["train", "generate", "score", "routes", "logits"], "train");
    match task {
        "generate" => generate::program(&config, &Generation::default().with(args), place),
        "score" => score::program(&config, place),
        "routes" => routes::program(&config, place),
        "logits" => distill::logits(&config, place),
        _ => taught(&config, Teaching::with(&config, args).as_ref(), place),
    }
}

/// Builds the training program. Mistakes of the configuration are reported at `place`; nothing is built then.
pub fn program(config: &Config, place: &Site) -> Program {
    taught(config, None, place)
}

/// Builds the training program with a teacher in the same step, if there is one.
pub fn distilled(config: &Config, distill: Option<&Distillation>, place: &Site) -> Program {
    taught(config, distill.cloned().map(Box::new).map(Teaching::Model).as_ref(), place)
}

/// Builds the training program with a teacher, if there is one.
pub fn taught(config: &Config, teaching: Option<&Teaching>, place: &Site) -> Program {
    let p = Program::new(config.name.clone());
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    if teaching.is_some_and(|teaching| distill::noted(&p, teaching, config, place)) {
        return p;
    }
    metadata::of_training(
        &p,
        config,
        teaching.map_or_else(|| config.layout(), |teaching| teaching.layout(config)),
    );
    let weights = Weights::new(&p).with_adapters(config.lora.as_ref());
    let model = Model::new(&weights, &config.microbatch());
    let trained = trained(&p, config, &weights, place);
    let teacher = teaching.map(|teaching| teaching.teacher(&p, &weights, config));
    let step = p.counter("step", DType::S32, Init::Zeros);
    let optimizer = optimizer::Update::new(&p, &config.optimizer, trained.clone());

    p.function("train_step", |g| {
        let seed = g.input("seed", DType::U32, []);
        let batch = Batch::input(g, config).with_teacher(g, teacher.as_ref().and_then(distill::Teacher::top));
        let now = step.read(g);
        let rng = Rng::new(seed, now.cast(DType::U32));
        let choices =
            batch.choices(g, |feeds, part| model.losses(g, feeds, part, Some(part.random(rng)), None));
        let of = |total| optimizer.gradients(g, total);
        let (gradients, metrics) = batch.each(g, &trained, of, |feeds, part| {
            let soft = teacher.as_ref().and_then(|teacher| teacher.targets(g, feeds));
            let losses = model.losses(g, feeds, part, Some(part.random(rng)), soft);
            let losses = losses.over_batch(config.switch.as_ref(), choices.as_deref());
            (Some(losses.total(part.share)), losses)
        });
        let loss = metrics.total.expect("every part of a training step has a total");
        let report = g.scope("optimizer", || optimizer.apply(g, loss, &gradients, now));
        if let Some(switch) = &config.switch {
            balance::update(g, &model.balance_biases(), &metrics.choices(), switch.balance_bias, report.good);
        }
        step.assign(now + 1);
        metrics.output(g, &["accuracy", "tokens"]);
        g.output("grad_norm", report.grad_norm);
        g.output("learning_rate", report.rate);
        if let Some(skipped) = report.skipped {
            g.output("skipped_steps", skipped);
        }
    });
    p.function("eval_step", |g| {
        let batch = Batch::input(g, config);
        let losses = |feeds, part| (None, model.losses(g, feeds, part, None, None));
        let (_, metrics) = batch.each(g, &[], |_| Vec::new(), losses);
        metrics.output(g, &["row_loss"]);
    });
    p
}

/// Builds a program with the state of the training program and without functions.
pub fn state(config: &Config, place: &Site) -> Program {
    let p = Program::new(config.name.clone());
    let weights = Weights::new(&p).with_adapters(config.lora.as_ref());
    Model::new(&weights, config);
    let trained = trained(&p, config, &weights, place);
    p.counter("step", DType::S32, Init::Zeros);
    optimizer::Update::new(&p, &config.optimizer, trained);
    p
}

/// Returns the parameters that training changes. Patterns that name no parameter are mistakes.
fn trained(p: &Program, config: &Config, weights: &Weights<'_>, place: &Site) -> Vec<Weight> {
    let all = weights.all();
    let names: Vec<Name> = all.iter().map(|w| w.state.name().clone()).collect();
    let names = names.iter().map(|name| &**name);
    let mistake = |what: String, help: &str| p.mistake(Diagnostic::new("", what).help(help).at(place));
    for pattern in config.freeze.idle(names.clone()) {
        mistake(
            format!("`freeze={pattern}` names no parameter"),
            "`*` stands for any text: freeze=encoder/*",
        );
    }
    for pattern in config.lora.iter().flat_map(|lora| lora.targets.idle(names.clone())) {
        mistake(format!("`lora_targets={pattern}` names no matrix"), "`*` stands for any text: */q,*/v");
    }
    let trained = weights.trained(&config.freeze);
    if trained.is_empty() {
        mistake(
            "all parameters are frozen".to_owned(),
            "freeze fewer, or evaluate the model with `meshc eval`",
        );
    }
    trained
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn state_alone_is_that_of_the_training_program() {
        for config in [zoo::switch_tiny(), zoo::t5_v1_1_small()] {
            let states = |p: Program| {
                let module = p.finish().expect("the model is legal");
                let states = module.env.states.iter();
                states.map(|(_, s)| (s.name.clone(), s.kind, s.ty.clone())).collect::<Vec<_>>()
            };
            assert_eq!(states(state(&config, &Site::default())), states(program(&config, &Site::default())));
        }
    }
}
