//! Reports to the caller while training runs.

use crate::{Compilation, checkpoint::Table};
use std::{collections::BTreeMap, path::Path};

/// The phase of an evaluation after a step, which the report of the step follows.
pub const EVALUATING: &str = "evaluating";
/// The phase before the first evaluation, if its program is still being compiled.
pub const WAITING_TO_EVALUATE: &str = "waiting for the compilation of eval_step";

/// A finished step.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Step {
    /// The step number, from 1.
    pub step: u64,
    /// The program's output `loss`.
    pub loss: f64,
    /// All scalar outputs of the program, and `wait_ms`.
    pub metrics: BTreeMap<String, f64>,
    /// Values that the program prints, in its order: names and texts.
    pub prints: Vec<(String, String)>,
    /// Tokens of inputs and targets, without padding, per second of [`Step::step_ms`].
    pub tokens_per_s: f64,
    /// Milliseconds from the end of the previous step to the end of this one. For the first step, from its
    /// start.
    pub step_ms: f64,
    /// Milliseconds that the loop waited for the step's batch.
    pub wait_ms: f64,
    /// Means over held-out rows, if there was an evaluation after this step.
    pub eval: Option<BTreeMap<String, f64>>,
    /// Model FLOPs utilization, if the peak of the devices is known.
    pub mfu: Option<f64>,
    /// The largest number of bytes in use on one device, if the plugin counts them.
    pub device_memory: Option<u64>,
    /// Resident bytes of this process, if known.
    pub host_memory: Option<u64>,
    /// In a job of several processes: the process that spent the longest time on its last step without
    /// waiting for others, and that time in milliseconds.
    pub slowest: Option<(u32, f64)>,
    /// The rollback before this step, if any.
    pub rollback: Option<Rollback>,
}

impl Step {
    /// Returns utilization, memory and the slowest process, if known, by their names in the metrics file.
    pub(super) fn measured(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let bytes = |n: Option<u64>| n.map(|n| n as f64);
        let all = [
            ("mfu", self.mfu),
            ("device_memory", bytes(self.device_memory)),
            ("host_memory", bytes(self.host_memory)),
            ("slowest_rank", self.slowest.map(|(rank, _)| f64::from(rank))),
            ("slowest_ms", self.slowest.map(|(_, ms)| ms)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A return to a checkpoint after a loss spike.
#[derive(Clone, PartialEq, Debug)]
pub struct Rollback {
    /// The step with the spike.
    pub from: u64,
    /// The step of the checkpoint.
    pub to: u64,
    /// The loss of that step.
    pub loss: f64,
    /// The largest loss that would not have been a spike.
    pub limit: f64,
    /// The skipped batches: the first, and one past the last.
    pub batches: (u64, u64),
}

/// Receives reports of a training run.
pub trait Observer {
    /// Called after every step, in order.
    fn on_step(&mut self, step: &Step);
    /// Called when a phase other than a step begins, with a short description such as `compiling train_step`.
    fn on_phase(&mut self, _what: &str) {}
    /// Called with a message that is neither a phase nor a problem.
    fn on_note(&mut self, _what: &str) {}
    /// Called when all checks have passed, before the first file of the run is changed and before
    /// compilation.
    fn on_start(&mut self) {}
    /// Called when the run has state that is not in a checkpoint yet, at the latest before the first step.
    fn on_state(&mut self) {}
    /// Called when a program was compiled or loaded from the cache.
    fn on_compiled(&mut self, _compilation: &Compilation) {}
    /// Called when a new run has taken its parameters from a checkpoint.
    fn on_loaded(&mut self, _table: &Table) {}
    /// Called after a rollback to step `step`.
    fn on_rollback(&mut self, _step: u64) {}
    /// Called when the state after step `step` is on disk.
    fn on_saved(&mut self, _step: u64, _dir: &Path) {}
    /// Called for problems that do not stop training.
    fn on_warning(&mut self, _what: &str) {}
}

/// Ignores all reports.
impl Observer for () {
    fn on_step(&mut self, _step: &Step) {}
}
