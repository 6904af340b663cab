//! Deadlines and sizes of a job.

use std::time::Duration;

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

impl Limits {
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
}
