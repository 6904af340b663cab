//! What is left of a run: where the loss went, how fast it was, what it took.

use super::{meter::peak_memory, observer::Step};
use data::{Batch, Counts};
use serde::Serialize;
use std::{collections::BTreeMap, collections::VecDeque, fmt, time::Duration};

/// A run in numbers.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// The last finished step, counted from 1.
    pub step: u64,
    /// Steps of this run.
    pub steps: u64,
    /// Whether it was asked to stop before the last step.
    pub stopped: bool,
    /// Whether it ended because the loss on held-out text did not get smaller any more.
    pub stopped_early: bool,
    /// The step with the smallest loss on held-out text, and that loss.
    pub best_eval: Option<(u64, f64)>,
    /// How often it went back to a checkpoint, earlier runs included.
    pub rollbacks: u64,
    /// Loss of the first step.
    pub first_loss: Option<f64>,
    /// Loss of the last step.
    pub last_loss: Option<f64>,
    /// Mean loss of the last steps, 20 at most.
    pub mean_loss: Option<f64>,
    /// Nats per token of all targets seen, if nothing is known but how frequent tokens are: the loss of a
    /// model that learnt nothing else.
    pub unigram_entropy: f64,
    /// Means of the last evaluation.
    pub eval: Option<BTreeMap<String, f64>>,
    /// Median, the first two steps apart.
    pub tokens_per_s: Option<f64>,
    /// Median, the first two steps apart.
    pub step_ms: Option<f64>,
    /// Share of all steps' time that was spent waiting for data.
    pub wait_share: f64,
    /// Seconds for all steps.
    pub wall_s: f64,
    /// The most memory that the process has had, in bytes; nothing where the system does not say.
    pub peak_memory: Option<u64>,
}

impl Summary {
    /// How far the mean loss of the last steps is below the unigram entropy, in nats per token.
    pub fn below_unigram(&self) -> Option<f64> {
        self.mean_loss.map(|loss| self.unigram_entropy - loss)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (self.stopped, self.stopped_early) {
            (true, _) => "stopped",
            (false, true) => "stopped early",
            (false, false) => "done",
        };
        write!(f, "{how} after step {}, {:.1} s", self.step, self.wall_s)?;
        if let (Some(first), Some(last), Some(mean)) = (self.first_loss, self.last_loss, self.mean_loss) {
            let (unigram, below) = (self.unigram_entropy, self.unigram_entropy - mean);
            let side = if below >= 0.0 { "below" } else { "above" };
            write!(
                f,
                "\nloss {first:.4} at first, {last:.4} at last, {mean:.4} in the mean of the last steps"
            )?;
            write!(f, ": {:.4} {side} the targets' unigram entropy of {unigram:.4} nats", below.abs())?;
        }
        if let Some(eval) = &self.eval {
            let values: Vec<String> = eval.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            write!(f, "\nheld-out text: {}", values.join(", "))?;
        }
        if let Some((step, loss)) = self.best_eval {
            write!(f, "\nsmallest loss on held-out text: {loss:.4} after step {step}")?;
        }
        if self.rollbacks > 0 {
            write!(f, "\nwent back to a checkpoint {} times", self.rollbacks)?;
        }
        if let (Some(speed), Some(step)) = (self.tokens_per_s, self.step_ms) {
            let wait = self.wait_share * 100.0;
            write!(f, "\n{speed:.0} tokens/s, {step:.1} ms a step, {wait:.2} % of it waiting for data")?;
        }
        match self.peak_memory {
            Some(bytes) => write!(f, "\nat most {:.2} GB of host memory", bytes as f64 / 1e9),
            None => Ok(()),
        }
    }
}

/// Steps whose losses make the last mean.
const LAST: usize = 20;
/// Steps whose times say nothing yet.
const WARM_UP: usize = 2;

/// What a summary is made of, collected step by step.
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
    /// Before the first step; `done` steps were made by other runs.
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
        self.targets.add(batch.targets.iter().copied());
        if step.eval.is_some() {
            self.eval.clone_from(&step.eval);
        }
        self.times.push((step.step_ms, step.tokens_per_s));
        self.wait_ms += step.wait_ms;
    }

    /// After a return to a checkpoint of this step.
    pub(super) fn back_to(&mut self, step: u64) {
        self.step = step;
    }

    pub(super) fn summary(self, wall: Duration, stopped: bool) -> Summary {
        // A run that is all warm-up has no better times than these.
        let warm = if self.times.len() > WARM_UP { &self.times[WARM_UP..] } else { &self.times[..] };
        let total: f64 = self.times.iter().map(|(ms, _)| ms).sum();
        Summary {
            step: self.step,
            steps: self.times.len() as u64,
            stopped,
            stopped_early: false,
            best_eval: None,
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
        let text = summary.to_string();
        assert!(text.starts_with("done after step 40, 3.0 s\nloss 30.0000 at first"), "{text}");
        assert!(text.contains("above the targets' unigram entropy of 0.6931 nats"), "{text}");
    }

    #[test]
    fn a_summary_of_nothing() {
        let summary = history(&[]).summary(Duration::ZERO, true);
        assert_eq!((summary.step, summary.steps, summary.mean_loss, summary.step_ms), (10, 0, None, None));
        assert_eq!(summary.below_unigram(), None);
        assert!(summary.to_string().starts_with("stopped after step 10"));
    }
}
