//! Facts that programs state about themselves, for the runtime and for tools.

use crate::{Config, lora, switch::router::BALANCE_BIAS};
use mesh::{dsl::Program, task::TaskKind};

/// States the task and the facts of a program that takes the batches of training.
pub(crate) fn of_training(p: &Program, config: &Config, layout: String) {
    p.task(config.task(TaskKind::Train { objective: config.objective, packing: config.packing }));
    p.meta("layout", layout);
    // ZeRO: state that would be replicated over `data` is sharded. Optimizer slots alone are twice the
    // parameters.
    p.meta("state_layout", "*:data");
    p.meta("dtype", config.precision.name());
    p.meta("padded", config.padded());
    p.schedule(config.schedule);
    let (model, settings) = config.described();
    p.meta("model", model);
    p.meta("settings", settings);
    // A checkpoint to start from is one of the model without adapters, and may lack biases.
    let adapters = config.lora.as_ref().map(|_| format!("*/{} */{}", lora::A, lora::B));
    let biased = config.switch.as_ref().is_some_and(|switch| switch.balance_bias > 0.0);
    let missing: Vec<String> =
        adapters.into_iter().chain(biased.then(|| format!("*/{BALANCE_BIAS}"))).collect();
    if !missing.is_empty() {
        p.meta("from.allow_missing", missing.join(" "));
    }
}
