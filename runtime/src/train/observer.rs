//! What a caller is told while training runs.

use crate::Compilation;
use std::{collections::BTreeMap, path::Path};

/// A step that is done.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// The program's output `loss`.
    pub loss: f64,
    /// All outputs of the program that are single numbers, and `wait_ms`.
    pub metrics: BTreeMap<String, f64>,
    /// Tokens of inputs and targets, padding apart, per second of [`Step::step_ms`].
    pub tokens_per_s: f64,
    /// Milliseconds from the end of the step before to the end of this one. The first step has none before
    /// it, and counts from its start.
    pub step_ms: f64,
    /// Milliseconds that the loop waited for this step's data.
    pub wait_ms: f64,
    /// Means over held-out text after this step, if there was an evaluation.
    pub eval: Option<BTreeMap<String, f64>>,
    /// Model FLOPs utilization, where the peak of the devices is known.
    pub mfu: Option<f64>,
    /// The most bytes in use on one device, where the plugin counts them.
    pub device_memory: Option<u64>,
    /// Bytes of host memory of this process, where the system says it.
    pub host_memory: Option<u64>,
    /// What was taken back before this step.
    pub rollback: Option<Rollback>,
}

impl Step {
    /// What is known of memory and utilization, by the names that the metrics file has.
    pub(super) fn measured(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let bytes = |n: Option<u64>| n.map(|n| n as f64);
        let all = [
            ("mfu", self.mfu),
            ("device_memory", bytes(self.device_memory)),
            ("host_memory", bytes(self.host_memory)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A return to a checkpoint because of a loss.
#[derive(Clone, PartialEq, Debug)]
pub struct Rollback {
    /// The step that the loss was of.
    pub from: u64,
    /// The step of the checkpoint.
    pub to: u64,
    /// The loss.
    pub loss: f64,
    /// What it should have been at most.
    pub limit: f64,
    /// Batches that are left out, the first one and one past the last.
    pub batches: (u64, u64),
}

/// Is told how training goes.
pub trait Observer {
    /// A step is done. Every step, in order.
    fn on_step(&mut self, step: &Step);
    /// What is being done besides steps, in a few words, such as `compiling train_step`.
    fn on_phase(&mut self, _what: &str) {}
    /// Nothing stands in the way of the run, as far as can be known: what it writes to is its own from now on.
    fn on_start(&mut self) {}
    /// A program is ready to run.
    fn on_compiled(&mut self, _compilation: &Compilation) {}
    /// What came after this step is taken back.
    fn on_rollback(&mut self, _step: u64) {}
    /// The state after this step is on disk.
    fn on_saved(&mut self, _step: u64, _dir: &Path) {}
    /// Something is not as it should be, but training goes on.
    fn on_warning(&mut self, _what: &str) {}
}

/// Nobody.
impl Observer for () {
    fn on_step(&mut self, _step: &Step) {}
}
