//! Deadlines and sizes of a job.

use std::{str::FromStr, time::Duration};

/// Deadlines and sizes. The defaults suit pods; tests shorten them.
#[derive(Clone, PartialEq, Debug)]
pub struct Limits {
    /// Time for all ranks to join.
    pub join: Duration,
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Silence after which a rank counts as lost.
    pub dead_after: Duration,
    /// Longest compilation.
    pub compile: Duration,
    /// Longest step before a median is known. Afterwards the limit is the larger of
    /// [`Limits::step_floor`] and [`Limits::step_factor`] medians.
    pub first_step: Duration,
    /// Lower bound of the limit of a step.
    pub step_floor: Duration,
    /// Limit of a step in medians of the ranks' step times.
    pub step_factor: u32,
    /// Longest save of a checkpoint.
    pub save: Duration,
    /// Longest evaluation.
    pub evaluate: Duration,
    /// Largest message, in bytes: what a rank brings to a barrier, or a stored value.
    pub message_bytes: usize,
    /// Largest sum of all stored keys and values, in bytes.
    pub store_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            join: Duration::from_secs(600),
            heartbeat: Duration::from_secs(1),
            dead_after: Duration::from_secs(10),
            compile: Duration::from_secs(3600),
            first_step: Duration::from_secs(1800),
            step_floor: Duration::from_secs(60),
            step_factor: 20,
            save: Duration::from_secs(3600),
            evaluate: Duration::from_secs(3600),
            message_bytes: 4 << 20,
            store_bytes: 256 << 20,
        }
    }
}

/// A limit that the user sets for a phase, `PHASE=SECONDS`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PhaseLimit {
    phase: Phase,
    limit: Duration,
}

/// A phase with a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Compile,
    Step,
    Save,
    Evaluate,
}

impl FromStr for PhaseLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (phase, seconds) = text.split_once('=').ok_or("must be PHASE=SECONDS, such as save=600")?;
        let phase = match phase {
            "compile" => Phase::Compile,
            "step" => Phase::Step,
            "save" => Phase::Save,
            "evaluate" => Phase::Evaluate,
            _ => return Err(format!("the phase must be compile, step, save or evaluate (got `{phase}`)")),
        };
        let parsed = seconds.parse().ok().filter(|seconds: &f64| *seconds > 0.0);
        let seconds = parsed
            .ok_or_else(|| format!("the limit must be a number of seconds above 0 (got `{seconds}`)"))?;
        // A year, to which larger values are reduced, is a duration on every platform.
        Ok(Self { phase, limit: Duration::from_secs_f64(seconds.min(31e6)) })
    }
}

impl Limits {
    /// Sets the limit of a phase. That of a step holds for all steps, in place of multiples of the median.
    pub fn set(&mut self, PhaseLimit { phase, limit }: PhaseLimit) {
        match phase {
            Phase::Compile => self.compile = limit,
            Phase::Step => (self.first_step, self.step_floor, self.step_factor) = (limit, limit, 0),
            Phase::Save => self.save = limit,
            Phase::Evaluate => self.evaluate = limit,
        }
    }

    /// The longest time that a rank may stay in `phase` (the word of its heartbeats) at one step, given the
    /// median wall time of a step. `None` for phases without a limit.
    pub fn of_phase(&self, phase: &str, median_step: Option<Duration>) -> Option<Duration> {
        match phase {
            "compile" => Some(self.compile),
            "step" => Some(match median_step {
                Some(median) => self.step_floor.max(median * self.step_factor),
                None => self.first_step,
            }),
            "save" => Some(self.save),
            "evaluate" => Some(self.evaluate),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_step_follows_the_median() {
        let limits = Limits::default();
        let of = |median| limits.of_phase("step", median).unwrap();
        assert_eq!(of(None), limits.first_step);
        assert_eq!(of(Some(Duration::from_millis(10))), limits.step_floor);
        assert_eq!(of(Some(Duration::from_secs(7))), Duration::from_secs(140));
        assert_eq!(limits.of_phase("load data", None), None);
    }

    #[test]
    fn limits_are_set_by_phase() {
        #[track_caller]
        fn check(text: &str, phase: &str, expected: f64) {
            let mut limits = Limits::default();
            limits.set(text.parse().unwrap());
            for median in [None, Some(Duration::from_secs(7))] {
                assert_eq!(limits.of_phase(phase, median), Some(Duration::from_secs_f64(expected)), "{text}");
            }
        }
        check("compile=7200", "compile", 7200.0);
        check("step=0.5", "step", 0.5);
        check("save=60", "save", 60.0);
        check("evaluate=1e99", "evaluate", 31e6);
        for (text, part) in [
            ("save", "must be PHASE=SECONDS"),
            ("join=3", "(got `join`)"),
            ("save=0", "above 0 (got `0`)"),
            ("save=NaN", "(got `NaN`)"),
            ("save=-1", "(got `-1`)"),
            ("save=", "(got ``)"),
        ] {
            let error = text.parse::<PhaseLimit>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
