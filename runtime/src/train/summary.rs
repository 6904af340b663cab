//! The end-of-run summary: losses, speed and memory.

use super::{meter::peak_memory, observer::Step};
use data::{Batch, Counts};
use serde::Serialize;
use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

/// Summary of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// The last finished step, counted from 1.
    pub step: u64,
    /// The number of steps of this run.
    pub steps: u64,
    /// True if it was stopped before the last step.
    pub stopped: bool,
    /// True if it ended early because the loss on held-out rows no longer improved.
    pub stopped_early: bool,
    /// The step with the smallest loss on held-out rows, and that loss; or the step with the largest
    /// [`Summary::best_metric`], and its value.
    pub best_eval: Option<(u64, f64)>,
    /// The value of evaluations whose largest is best. `None` means the smallest loss.
    pub best_metric: Option<String>,
    /// The number of rollbacks, including those of earlier runs.
    pub rollbacks: u64,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Mean loss of the last steps, at most 20.
    pub mean_loss: Option<f64>,
    /// Unigram entropy of all target tokens seen, in nats per token: the loss of a model that knows only the
    /// token frequencies.
    pub unigram_entropy: f64,
    /// Means of the last evaluation.
    pub eval: Option<BTreeMap<String, f64>>,
    /// Median over the steps, without the first two.
    pub tokens_per_s: Option<f64>,
    /// Median over the steps, without the first two.
    pub step_ms: Option<f64>,
    /// Fraction of the time of all steps spent waiting for data.
    pub wait_share: f64,
    /// Seconds for all steps.
    pub wall_s: f64,
    /// Peak resident bytes of the process, if known.
    pub peak_memory: Option<u64>,
    /// The first error of the files of metrics, which are then incomplete.
    pub log_error: Option<String>,
}

impl Summary {
    /// Returns the unigram entropy minus the mean loss of the last steps, in nats per token.
    pub fn below_unigram(&self) -> Option<f64> {
        self.mean_loss.map(|loss| self.unigram_entropy - loss)
    }
}

/// The number of steps in the mean of the last losses.
const LAST: usize = 20;
/// The number of first steps whose times do not count.
const WARM_UP: usize = 2;

/// Collects the values of a summary step by step.
#[derive(Clone, Debug)]
pub(super) struct History {
    step: u64,
    first_loss: Option<f64>,
    last: VecDeque<f64>,
    targets: Counts,
    eval: Option<BTreeMap<String, f64>>,
    /// Milliseconds and tokens per second of every step.
    times: Vec<(f64, f64)>,
    wait_ms: f64,
}

impl History {
    /// Starts a history after `done` steps of other runs.
    pub(super) fn new(done: u64) -> Self {
        Self {
            step: done,
            first_loss: None,
            last: VecDeque::new(),
            targets: Counts::default(),
            eval: None,
            times: Vec::new(),
            wait_ms: 0.0,
        }
    }

    pub(super) fn add(&mut self, step: &Step, batch: &Batch) {
        self.step = step.step;
        self.first_loss.get_or_insert(step.loss);
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(step.loss);
        self.targets.add(batch.target_ids());
        if step.eval.is_some() {
            self.eval.clone_from(&step.eval);
        }
        self.times.push((step.step_ms, step.tokens_per_s));
        self.wait_ms += step.wait_ms;
    }

    /// Records a rollback to this step.
    pub(super) fn roll_back_to(&mut self, step: u64) {
        self.step = step;
    }

    pub(super) fn summary(self, wall: Duration, stopped: bool) -> Summary {
        // A run of warm-up steps only uses their times.
        let warm = if self.times.len() > WARM_UP { &self.times[WARM_UP..] } else { &self.times[..] };
        let total: f64 = self.times.iter().map(|(ms, _)| ms).sum();
        Summary {
            step: self.step,
            steps: self.times.len() as u64,
            stopped,
            stopped_early: false,
            best_eval: None,
            best_metric: None,
            rollbacks: 0,
            first_loss: self.first_loss,
            last_loss: self.last.back().copied(),
            mean_loss: (!self.last.is_empty())
                .then(|| self.last.iter().sum::<f64>() / self.last.len() as f64),
            unigram_entropy: self.targets.entropy(),
            eval: self.eval,
            tokens_per_s: median(warm.iter().map(|(_, speed)| *speed)),
            step_ms: median(warm.iter().map(|(ms, _)| *ms)),
            wait_share: if total > 0.0 { self.wait_ms / total } else { 0.0 },
            wall_s: wall.as_secs_f64(),
            peak_memory: peak_memory(),
            log_error: None,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n.is_multiple_of(2) => Some((values[half - 1] + values[half]) / 2.0),
        _ => Some(values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(losses: &[f64]) -> History {
        let mut history = History::new(10);
        let batch = Batch { size: 1, inputs: vec![3, 4], targets: vec![3, 4, 0, 0], ..Batch::default() };
        for (n, loss) in losses.iter().enumerate() {
            let step_ms = if n < 2 { 1000.0 } else { n as f64 };
            let step = Step {
                step: 11 + n as u64,
                loss: *loss,
                step_ms,
                tokens_per_s: 1e6 / step_ms,
                wait_ms: 1.0,
                ..Step::default()
            };
            history.add(&step, &batch);
        }
        history
    }

    #[test]
    fn a_summary_of_steps() {
        let losses: Vec<f64> = (0..30).map(|n| 30.0 - f64::from(n)).collect();
        let summary = history(&losses).summary(Duration::from_secs(3), false);
        assert_eq!((summary.step, summary.steps), (40, 30));
        assert_eq!(
            (summary.first_loss, summary.last_loss, summary.mean_loss),
            (Some(30.0), Some(1.0), Some(10.5))
        );
        assert_eq!(summary.step_ms, Some(15.5));
        assert!((summary.unigram_entropy - 2f64.ln()).abs() < 1e-12);
        assert!((summary.wait_share - 30.0 / (2000.0 + 27.0 * 28.0 / 2.0 + 56.0)).abs() < 1e-3);
    }

    #[test]
    fn a_summary_of_nothing() {
        let summary = history(&[]).summary(Duration::ZERO, true);
        assert_eq!((summary.step, summary.steps, summary.mean_loss, summary.step_ms), (10, 0, None, None));
        assert_eq!(summary.below_unigram(), None);
    }
}
