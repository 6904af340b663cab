//! Options of training, and their validation.

use super::spike::Spikes;
use crate::{Error, Result, checkpoint::Keep};
use data::BatchSource;
use std::{path::PathBuf, sync::Arc};

/// How to train.
#[derive(Clone, Debug)]
pub struct Options {
    /// The last step, counted from 1. A session that has made some of them makes the rest.
    pub steps: u64,
    /// Seed of the initial values, of dropout and the like, and of the order of the data. Nothing: that of the
    /// checkpoint that the run goes on from, else 0.
    pub seed: Option<u32>,
    /// Where the metrics go: one JSON object a step, one on a line. A run that goes on from a checkpoint keeps
    /// the lines up to its step.
    pub metrics: Option<PathBuf>,
    /// A folder for files that TensorBoard reads.
    pub tensorboard: Option<PathBuf>,
    /// A checkpoint that the parameters of a new run come from, instead of from `init`. A run that goes on has
    /// its own.
    pub from: Option<PathBuf>,
    /// Checkpoints; nothing: the state is gone after the run, unless the session is kept.
    pub saving: Option<Saving>,
    /// How many steps may be under way when another one is started. Nothing: none on CPU plugins, where every
    /// step under way has its temporary memory and the host has nothing else to do; else 2.
    pub lag: Option<usize>,
    /// Batches made ahead of time.
    pub ahead: usize,
    /// Steps between evaluations on held-out text; nothing: no evaluation.
    pub eval_every: Option<u64>,
    /// The most batches of an evaluation; nothing: all that is held out.
    pub eval_batches: Option<usize>,
    /// Text for evaluation, all of it, instead of what is held out.
    pub eval_data: Option<Arc<dyn BatchSource>>,
    /// Stop after so many evaluations in a row that are not better than the best one.
    pub patience: Option<u64>,
    /// By how much the loss on held-out text has to be smaller to be better.
    pub min_delta: f64,
    /// When a loss is a spike: training goes back to the last checkpoint then, and leaves batches out. Needs
    /// checkpoints.
    pub spikes: Option<Spikes>,
    /// So many steps in a row that the program skips because they are not finite end training.
    pub most_skipped: u64,
    /// The most operations a second of one device, if that is known, to say what share of them is used.
    pub peak: Option<f64>,
    /// Go on when a loss is no finite number, and when one step after the other is skipped.
    pub allow_non_finite: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 100,
            seed: None,
            metrics: None,
            tensorboard: None,
            from: None,
            saving: None,
            lag: None,
            ahead: 4,
            eval_every: None,
            eval_batches: None,
            eval_data: None,
            patience: None,
            min_delta: 0.0,
            spikes: None,
            most_skipped: 10,
            peak: None,
            allow_non_finite: false,
        }
    }
}

/// Where and when state is saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saving {
    /// The folder of all checkpoints.
    pub folder: PathBuf,
    /// Steps between checkpoints; nothing: there is one, after the last step.
    pub every: Option<u64>,
    /// Which good checkpoints stay.
    pub keep: Keep,
    /// Go on from the newest good checkpoint, if there are any.
    pub resume: bool,
}

impl Options {
    /// Checks the options alone, before anything is loaded.
    ///
    /// # Errors
    /// An option is out of range, or needs another one. The message names it as the command line does.
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
        let counts = [
            ("--max-skipped", Some(self.most_skipped)),
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
        // NaN is refused too.
        if !(self.min_delta >= 0.0) {
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
    Error::input(format!("`{option}` must be {range} (got {value})"), format!("give {option} another value"))
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
        check(|o| o.most_skipped = 0, Some("`--max-skipped` must be at least 1 (got 0)"));
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
