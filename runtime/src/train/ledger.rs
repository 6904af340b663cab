//! The ledger: a run's knowledge besides its state, i.e. its position in the data, recent losses and
//! evaluations. It is stored in the facts of checkpoints, so that a resumed run decides as an uninterrupted
//! one.

use crate::checkpoint::{
    Facts,
    keep::{EVAL_LOSS, EVAL_VALUE, METRIC},
};
use std::{collections::VecDeque, fmt::Display, str::FromStr};

/// Names of facts.
const POSITION: &str = "data_position";
const LOSSES: &str = "recent_losses";
const ROLLBACKS: &str = "rollbacks";
const SKIPPED: &str = "skipped_in_a_row";
const LOWEST: &str = "best_eval";
const BEST: &str = "eval_to_beat";
const STALE: &str = "evaluations_since_best";
const DUE: &str = "evaluation_due";

/// Separates the numbers of a fact.
const SEPARATOR: char = ' ';

/// See the module documentation.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Ledger {
    /// The number of batches taken from the data, skipped ones included, i.e. the index of the next batch.
    pub position: u64,
    /// The last finite losses, oldest first.
    pub losses: VecDeque<f64>,
    /// The number of rollbacks.
    pub rollbacks: u64,
    /// The program's counter of skipped steps, and how many of the last consecutive steps were skipped.
    pub skipped: Option<(f64, u64)>,
    /// The value of evaluations whose largest is best. `None` means that the smallest loss is best.
    pub metric: Option<String>,
    /// The step with the smallest cost, and that cost.
    pub lowest: Option<(u64, f64)>,
    /// The last step whose cost improved by more than `--min-delta`, and that cost.
    pub best: Option<(u64, f64)>,
    /// The number of evaluations since then.
    pub stale: u64,
    /// The step and results of the last evaluation.
    pub eval: Option<(u64, Evaluated)>,
    /// True if the evaluation of the last step was interrupted and is still to be done.
    pub due: bool,
}

/// The results of an evaluation that decide which checkpoints are kept.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Evaluated {
    /// The loss on held-out rows.
    pub loss: f64,
    /// The value that is to be small: the loss, or the metric with the opposite sign.
    pub cost: f64,
}

impl Ledger {
    /// Creates the ledger of a run that has taken `position` batches.
    pub(super) fn at(position: u64) -> Self {
        Self { position, ..Self::default() }
    }

    /// Reads the ledger from the facts of a checkpoint of step `step`.
    pub(super) fn of(facts: &Facts, step: u64) -> Self {
        let metric = facts.get(METRIC).cloned();
        // Facts have values as evaluations print them.
        let cost = |value: f64| if metric.is_some() { -value } else { value };
        let of_step = |(at, value)| (at, cost(value));
        let evaluated = |loss: f64| Evaluated { loss, cost: number(facts, EVAL_VALUE).map_or(loss, cost) };
        Self {
            position: number(facts, POSITION).unwrap_or(step),
            losses: numbers(facts, LOSSES).into(),
            rollbacks: number(facts, ROLLBACKS).unwrap_or(0),
            skipped: pair(facts, SKIPPED),
            lowest: pair(facts, LOWEST).map(of_step),
            best: pair(facts, BEST).map(of_step),
            stale: number(facts, STALE).unwrap_or(0),
            eval: number(facts, EVAL_LOSS).map(|loss| (step, evaluated(loss))),
            due: facts.contains_key(DUE),
            metric,
        }
    }

    /// Returns the ledger of a run whose best evaluation is decided by `metric`. Costs of another metric are
    /// not comparable, and are forgotten.
    pub(super) fn judged_by(self, metric: Option<&str>) -> Self {
        if self.metric.as_deref() == metric {
            return self;
        }
        Self { metric: metric.map(str::to_owned), lowest: None, best: None, stale: 0, eval: None, ..self }
    }

    /// Returns the value of a cost as evaluations print it.
    pub(super) fn value(&self, cost: f64) -> f64 {
        if self.metric.is_some() { -cost } else { cost }
    }

    /// Adds the ledger to the facts of a checkpoint of step `step`.
    pub(super) fn note(&self, facts: &mut Facts, step: u64) {
        let mut put = |name: &str, value: String| {
            facts.insert(name.to_owned(), value);
        };
        put(POSITION, self.position.to_string());
        if !self.losses.is_empty() {
            let all: Vec<String> = self.losses.iter().map(f64::to_string).collect();
            put(LOSSES, all.join(&SEPARATOR.to_string()));
        }
        if self.rollbacks > 0 {
            put(ROLLBACKS, self.rollbacks.to_string());
        }
        if let Some((count, in_a_row)) = self.skipped {
            put(SKIPPED, two(count, in_a_row));
        }
        if let Some((at, cost)) = self.lowest {
            put(LOWEST, two(at, self.value(cost)));
        }
        if let Some((at, cost)) = self.best {
            put(BEST, two(at, self.value(cost)));
            put(STALE, self.stale.to_string());
        }
        if let Some(metric) = &self.metric {
            put(METRIC, metric.clone());
        }
        if let Some((_, eval)) = self.eval.filter(|(at, _)| *at == step) {
            put(EVAL_LOSS, eval.loss.to_string());
            if self.metric.is_some() {
                put(EVAL_VALUE, self.value(eval.cost).to_string());
            }
        }
        if self.due {
            put(DUE, "yes".to_owned());
        }
    }

    /// Records an evaluation. It counts as an improvement if its cost is smaller than the best one by more
    /// than `delta`.
    pub(super) fn evaluated(&mut self, step: u64, eval: Evaluated, delta: f64) {
        let cost = eval.cost;
        self.eval = Some((step, eval));
        self.due = false;
        if self.lowest.is_none_or(|(_, lowest)| cost < lowest) && !cost.is_nan() {
            self.lowest = Some((step, cost));
        }
        if self.best.is_none_or(|(_, best)| cost < best - delta) && !cost.is_nan() {
            self.best = Some((step, cost));
            self.stale = 0;
        } else {
            self.stale += 1;
        }
    }
}

fn number<T: FromStr>(facts: &Facts, name: &str) -> Option<T> {
    facts.get(name)?.parse().ok()
}

fn numbers(facts: &Facts, name: &str) -> Vec<f64> {
    let text = facts.get(name).map_or("", String::as_str);
    text.split(SEPARATOR).filter_map(|number| number.parse().ok()).collect()
}

fn pair<A: FromStr, B: FromStr>(facts: &Facts, name: &str) -> Option<(A, B)> {
    let (a, b) = facts.get(name)?.split_once(SEPARATOR)?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

fn two(a: impl Display, b: impl Display) -> String {
    format!("{a}{SEPARATOR}{b}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_round_trip() {
        let mut ledger = Ledger::at(47);
        ledger.losses = [0.1, 2.5e-7, f64::from(0.1f32)].into();
        ledger.rollbacks = 2;
        ledger.skipped = Some((3.0, 1));
        let of_loss = |loss| Evaluated { loss, cost: loss };
        for (step, loss) in [(10, 2.0), (20, 1.0), (30, 0.95), (40, f64::NAN)] {
            ledger.evaluated(step, of_loss(loss), 0.1);
        }
        assert_eq!((ledger.best, ledger.stale), (Some((20, 1.0)), 2));
        assert_eq!(ledger.lowest, Some((30, 0.95)));
        ledger.due = true;
        let mut facts = Facts::new();
        ledger.note(&mut facts, 44);
        // The loss of another step does not belong to this checkpoint.
        assert_eq!(Ledger::of(&facts, 44), Ledger { eval: None, ..ledger.clone() });
        ledger.evaluated(44, of_loss(0.5), 0.1);
        let mut facts = Facts::new();
        ledger.note(&mut facts, 44);
        assert_eq!(Ledger::of(&facts, 44), ledger);
        // Checkpoints from other programs have none of these facts.
        assert_eq!(Ledger::of(&Facts::new(), 9), Ledger::at(9));
    }
    #[test]
    fn facts_have_values_of_the_metric_as_evaluations_print_them() {
        let mut ledger = Ledger::at(0).judged_by(Some("sst2/accuracy"));
        ledger.evaluated(10, Evaluated { loss: 0.5, cost: -81.0 }, 0.0);
        ledger.evaluated(20, Evaluated { loss: 0.25, cost: -80.0 }, 0.0);
        let mut facts = Facts::new();
        ledger.note(&mut facts, 20);
        let fact = |name: &str| facts.get(name).map(String::as_str);
        assert_eq!(
            [METRIC, EVAL_LOSS, EVAL_VALUE, LOWEST, BEST].map(fact),
            [Some("sst2/accuracy"), Some("0.25"), Some("80"), Some("10 81"), Some("10 81")]
        );
        assert_eq!(Ledger::of(&facts, 20), ledger);
        // Another metric does not compare with these values.
        let other = ledger.clone().judged_by(None);
        assert_eq!((other.lowest, other.best, other.stale, other.eval), (None, None, 0, None));
        assert_eq!(ledger.clone().judged_by(Some("sst2/accuracy")), ledger);
    }
}
