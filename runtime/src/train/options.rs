//! Options of training, and their validation.

use super::{evaluator::Evaluator, spike::Spikes};
use crate::{
    Error, Result,
    checkpoint::{Keep, Mapping},
};
use data::BatchSource;
use job::Job;
use std::{path::PathBuf, rc::Rc, sync::Arc};

/// Options of a training run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The last step, counted from 1. A resumed run continues up to it.
    pub steps: u64,
    /// Seed of the initial values, of dropout and other random numbers, and of the order of the data. `None`
    /// means the checkpoint's seed if the run is resumed, else 0.
    pub seed: Option<u32>,
    /// The metrics file, with one JSON object per step and line. A resumed run keeps the lines up to its
    /// step.
    pub metrics: Option<PathBuf>,
    /// A folder for TensorBoard's event files.
    pub tensorboard: Option<PathBuf>,
    /// The options of the whole run, for TensorBoard.
    pub settings: Settings,
    /// The initial parameters of a new run, in place of those from `init`. Ignored when a run is resumed.
    pub from: Option<Source>,
    /// A checkpoint that provides what the program's own rules take from it, such as a teacher, if the
    /// parameters come from another one. Ignored when a run is resumed.
    pub teacher: Option<PathBuf>,
    /// Checkpoints. `None` means that the state is lost when the session is dropped.
    pub saving: Option<Saving>,
    /// The number of steps in flight when another one is started. `None` means 2, and 0 on CPU plugins, where
    /// every step in flight has its own temporary memory and the host has nothing to do in the meantime.
    pub lag: Option<usize>,
    /// The number of batches prepared in advance.
    pub ahead: usize,
    /// Steps between evaluations on held-out rows. `None` means no evaluation.
    pub eval_every: Option<u64>,
    /// The maximum number of batches per evaluation. `None` means all held-out rows.
    pub eval_batches: Option<usize>,
    /// A corpus for evaluation, all of which is used in place of held-out rows.
    pub eval_data: Option<Arc<dyn BatchSource>>,
    /// Computes more values of every evaluation. Only in a job of one process.
    pub evaluator: Option<Rc<dyn Evaluator>>,
    /// The value of evaluations by which the best checkpoint and [`Options::patience`] are decided; its
    /// largest is best. `None` means the smallest loss on held-out rows.
    pub best: Option<String>,
    /// Stop after this many consecutive evaluations without an improvement.
    pub patience: Option<u64>,
    /// The decrease of the loss on held-out rows that counts as an improvement, in nats.
    pub min_delta: f64,
    /// Loss-spike detection and rollback. Requires checkpoints.
    pub spikes: Option<Spikes>,
    /// Stop after this many consecutive steps that the program skipped because of non-finite gradients.
    pub max_skipped: u64,
    /// Peak FLOPs per second of one device, for the utilization.
    pub peak: Option<f64>,
    /// Continue after a non-finite loss or many skipped steps.
    pub allow_non_finite: bool,
    /// The processes that train together. All of them pass equal options, except for those of rank 0's files.
    pub job: Arc<Job>,
}

/// The options of a run and the settings of its program, as the log of events has them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// A text for readers.
    pub text: String,
    /// Names and values.
    pub values: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 100,
            seed: None,
            metrics: None,
            tensorboard: None,
            settings: Settings::default(),
            from: None,
            teacher: None,
            saving: None,
            lag: None,
            ahead: 4,
            eval_every: None,
            eval_batches: None,
            eval_data: None,
            evaluator: None,
            best: None,
            patience: None,
            min_delta: 0.0,
            spikes: None,
            max_skipped: 10,
            peak: None,
            allow_non_finite: false,
            job: Arc::new(Job::alone()),
        }
    }
}

/// A checkpoint with initial parameters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The path or URL of the checkpoint.
    pub checkpoint: PathBuf,
    /// The rules by which parameters are taken from its tensors, completed by those of the program.
    pub mapping: Mapping,
    /// The file for the table of what was taken, as JSON.
    pub record: Option<PathBuf>,
}

impl Source {
    /// Returns the source of initial parameters. `None` means that the run has none.
    ///
    /// # Errors
    /// A mapping is given without a checkpoint.
    pub fn new(
        checkpoint: Option<PathBuf>,
        mapping: Mapping,
        record: Option<PathBuf>,
    ) -> Result<Option<Self>> {
        match checkpoint {
            None if !mapping.is_empty() => Err(Error::input(
                "`--map`, `--allow-missing` and `--ignore` need a checkpoint to take parameters from",
                "add --from CHECKPOINT",
            )),
            None => Ok(None),
            Some(checkpoint) => Ok(Some(Self { checkpoint, mapping, record })),
        }
    }
}

/// Options of checkpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saving {
    /// The folder of all checkpoints of the run.
    pub folder: PathBuf,
    /// Steps between checkpoints. `None` means one checkpoint, after the last step.
    pub every: Option<u64>,
    /// The checkpoints to keep.
    pub keep: Keep,
    /// Resume from the newest valid checkpoint, if there is one.
    pub resume: bool,
}

impl Options {
    /// Checks the options without loading anything.
    ///
    /// # Errors
    /// An option is out of range, or requires another option. The message names it as on the command line.
    pub fn check(&self) -> Result<()> {
        if let Some(spikes) = &self.spikes {
            spikes.check()?;
            if self.saving.is_none() {
                return Err(Error::input(
                    "`--spike-sigmas` needs checkpoints to return to after a loss spike",
                    "add --run-dir DIR or --checkpoint-dir DIR",
                ));
            }
        }
        if self.patience.is_some() && self.eval_every.is_none() {
            return Err(Error::input("`--patience` needs evaluations", "add --eval-every STEPS"));
        }
        if self.best.is_some() && self.eval_every.is_none() {
            return Err(Error::input("`--best` needs evaluations", "add --eval-every STEPS"));
        }
        if self.evaluator.is_some() && self.job.size() > 1 {
            return Err(Error::input(
                "texts are not generated during training in a job of several processes",
                "leave out --eval-metrics, and evaluate checkpoints with meshc eval --tasks",
            ));
        }
        let counts = [
            ("--max-skipped", Some(self.max_skipped)),
            ("--patience", self.patience),
            ("--eval-every", self.eval_every),
            ("--eval-batches", self.eval_batches.map(|n| n as u64)),
            ("--save-every", self.saving.as_ref().and_then(|saving| saving.every)),
        ];
        for (option, count) in counts {
            if count == Some(0) {
                return Err(out_of_range(option, "at least 1", 0.0));
            }
        }
        if self.min_delta.is_nan() || self.min_delta < 0.0 {
            return Err(out_of_range("--min-delta", "at least 0", self.min_delta));
        }
        Ok(())
    }
}

impl Spikes {
    /// Checks the ranges of `--spike-sigmas` and `--spike-window`.
    fn check(&self) -> Result<()> {
        if !(self.sigmas > 0.0 && self.sigmas.is_finite()) {
            return Err(out_of_range("--spike-sigmas", "a finite number above 0", self.sigmas));
        }
        if self.window < 2 {
            return Err(out_of_range("--spike-window", "at least 2", self.window as f64));
        }
        Ok(())
    }
}

fn out_of_range(option: &str, range: &str, value: f64) -> Error {
    Error::input(format!("`{option}` must be {range} (got {value})"), format!("change {option}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Options), expected: Option<&str>) {
        let mut options = Options { eval_every: Some(5), ..Options::default() };
        change(&mut options);
        let error = options.check().err().map(|e| e.to_string());
        let line = error.as_deref().map(|e| e.lines().next().unwrap_or_default());
        assert_eq!(line, expected);
    }

    #[test]
    fn errors_name_the_option_and_its_value() {
        let saving = || {
            let folder = PathBuf::from("checkpoints");
            Some(Saving { folder, every: None, keep: Keep::default(), resume: false })
        };
        let spikes = |sigmas, window| Some(Spikes { sigmas, window, rollbacks: 1 });
        check(|_| (), None);
        check(|o| o.min_delta = -1.0, Some("`--min-delta` must be at least 0 (got -1)"));
        check(|o| o.min_delta = f64::NAN, Some("`--min-delta` must be at least 0 (got NaN)"));
        check(|o| o.patience = Some(0), Some("`--patience` must be at least 1 (got 0)"));
        check(|o| o.max_skipped = 0, Some("`--max-skipped` must be at least 1 (got 0)"));
        check(|o| o.eval_every = Some(0), Some("`--eval-every` must be at least 1 (got 0)"));
        check(|o| o.eval_batches = Some(0), Some("`--eval-batches` must be at least 1 (got 0)"));
        check(|o| (o.eval_every, o.patience) = (None, Some(2)), Some("`--patience` needs evaluations"));
        check(
            |o| (o.saving, o.spikes) = (saving(), spikes(-1.0, 50)),
            Some("`--spike-sigmas` must be a finite number above 0 (got -1)"),
        );
        check(
            |o| (o.saving, o.spikes) = (saving(), spikes(6.0, 1)),
            Some("`--spike-window` must be at least 2 (got 1)"),
        );
        check(
            |o| o.spikes = spikes(6.0, 50),
            Some("`--spike-sigmas` needs checkpoints to return to after a loss spike"),
        );
        check(|o| (o.saving, o.spikes) = (saving(), spikes(6.0, 50)), None);
    }
}
