//! Retention: the checkpoints that are kept while training continues.

use super::{
    folder::{list, remove},
    manifest::Facts,
};
use crate::Result;
use std::path::{Path, PathBuf};

/// The fact with a checkpoint's loss on held-out rows.
pub const EVAL_LOSS: &str = "eval_loss";
/// The fact with the name of the value whose largest is best, in place of the smallest loss.
pub const METRIC: &str = "best_metric";
/// The fact with a checkpoint's value of that name.
pub const EVAL_VALUE: &str = "eval_metric";

/// The retention rules. A checkpoint is kept if any rule selects it; without rules, all are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// Keep this many of the newest checkpoints. With other rules only, the newest one is kept as well.
    pub newest: Option<usize>,
    /// Keep checkpoints whose step is a multiple of this.
    pub every: Option<u64>,
    /// Keep this many of the checkpoints with the smallest loss on held-out rows, or with the largest value
    /// of the run's metric.
    pub best: Option<usize>,
}

impl Keep {
    /// Keeps the `count` newest checkpoints.
    pub fn newest(count: usize) -> Self {
        Self { newest: Some(count), ..Self::default() }
    }

    /// Returns the steps of the checkpoints to remove. `all` lists steps and costs, sorted by step.
    pub fn to_remove(&self, all: &[(u64, Option<f64>)]) -> Vec<u64> {
        if *self == Self::default() {
            return Vec::new();
        }
        let newest = all.len().saturating_sub(self.newest.unwrap_or(1).max(1));
        let mut by_cost: Vec<(f64, u64)> = all
            .iter()
            .filter_map(|(step, cost)| Some(((*cost)?, *step)))
            .filter(|(cost, _)| !cost.is_nan())
            .collect();
        by_cost.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        by_cost.truncate(self.best.unwrap_or(0));
        let stays = |step: u64| {
            self.every.is_some_and(|every| every > 0 && step.is_multiple_of(every))
                || by_cost.iter().any(|(_, best)| *best == step)
        };
        all[..newest].iter().map(|(step, _)| *step).filter(|step| !stays(*step)).collect()
    }
}

/// Removes the valid checkpoints that `keep` does not select, and returns their paths. Damaged checkpoints
/// are neither counted nor removed, so that they can be inspected. The best are chosen among the checkpoints
/// that were evaluated as the newest one was. With `dry`, removes nothing.
pub fn prune(folder: &Path, keep: &Keep, dry: bool) -> Result<Vec<PathBuf>> {
    let mut good = Vec::new();
    for found in list(folder)? {
        if let Ok(checkpoint) = found.checkpoint {
            good.push((found.step, checkpoint.facts().clone(), found.dir));
        }
    }
    let going = keep.to_remove(&costs(good.iter().map(|(step, facts, _)| (*step, facts))));
    let dirs: Vec<PathBuf> =
        good.into_iter().filter(|(step, ..)| going.contains(step)).map(|(.., dir)| dir).collect();
    if !dry {
        dirs.iter().try_for_each(|dir| remove(dir))?;
    }
    Ok(dirs)
}

/// Returns steps and costs. Costs of another metric than that of the last checkpoint are not comparable with
/// it, and are left out.
fn costs<'a>(all: impl DoubleEndedIterator<Item = (u64, &'a Facts)> + Clone) -> Vec<(u64, Option<f64>)> {
    let metric = all.clone().next_back().and_then(|(_, facts)| facts.get(METRIC));
    all.map(|(step, facts)| (step, cost(facts).filter(|_| facts.get(METRIC) == metric))).collect()
}

/// Returns what is to be small: the loss of a checkpoint, or the value of its metric with the opposite sign.
fn cost(facts: &Facts) -> Option<f64> {
    let number = |name: &str| facts.get(name)?.parse::<f64>().ok();
    if facts.contains_key(METRIC) { number(EVAL_VALUE).map(|value| -value) } else { number(EVAL_LOSS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_losses_or_values_of_the_metric_with_the_opposite_sign() {
        let cost = |facts: &[(&str, &str)]| {
            cost(&facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(cost(&[]), None);
        assert_eq!(cost(&[(EVAL_LOSS, "0.5")]), Some(0.5));
        assert_eq!(cost(&[(EVAL_LOSS, "0.5"), (METRIC, "a/f1"), (EVAL_VALUE, "80")]), Some(-80.0));
        assert_eq!(cost(&[(EVAL_LOSS, "0.5"), (METRIC, "a/f1")]), None, "not evaluated by the metric");
    }

    #[test]
    fn only_costs_of_the_metric_of_the_newest_checkpoint_are_compared() {
        let facts = |all: &[(&str, &str)]| -> Facts {
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let loss = facts(&[(EVAL_LOSS, "0.5")]);
        let f1 = |value| facts(&[(EVAL_LOSS, "0.5"), (METRIC, "a/f1"), (EVAL_VALUE, value)]);
        let accuracy = facts(&[(EVAL_LOSS, "0.5"), (METRIC, "a/accuracy"), (EVAL_VALUE, "99")]);
        let all = [(1, loss.clone()), (2, accuracy), (3, f1("80")), (4, f1("70"))];
        let of = |all: &[(u64, Facts)]| costs(all.iter().map(|(step, facts)| (*step, facts)));
        assert_eq!(of(&all), [(1, None), (2, None), (3, Some(-80.0)), (4, Some(-70.0))]);
        // The newest checkpoint decides, whether it was evaluated or not.
        let newest = (5, facts(&[(METRIC, "a/accuracy")]));
        let costs_of: Vec<Option<f64>> =
            of(&[&all[..], &[newest]].concat()).into_iter().map(|(_, cost)| cost).collect();
        assert_eq!(costs_of, [None, Some(-99.0), None, None, None]);
        let back = [&all[..], &[(5, loss)]].concat();
        assert_eq!(
            Keep { best: Some(1), ..Keep::default() }.to_remove(&of(&back)),
            [2, 3, 4],
            "the losses of 1 and 5 are equal, and the earlier one is best"
        );
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn rules_are_combined() {
        let all: Vec<(u64, Option<f64>)> = vec![
            (10, Some(3.0)),
            (20, Some(1.0)),
            (25, None),
            (30, Some(f64::NAN)),
            (40, Some(2.0)),
            (50, None),
        ];
        let going = |newest, every, best| Keep { newest, every, best }.to_remove(&all);
        assert_eq!(going(None, None, None), [0u64; 0]);
        assert_eq!(going(Some(2), None, None), [10, 20, 25, 30]);
        assert_eq!(going(Some(9), None, None), [0u64; 0]);
        assert_eq!(going(None, Some(20), None), [10, 25, 30], "the newest is kept");
        assert_eq!(going(None, None, Some(1)), [10, 25, 30, 40]);
        assert_eq!(going(None, None, Some(9)), [25, 30], "a NaN loss is never the best");
        assert_eq!(going(Some(2), Some(25), Some(1)), [10, 30]);
        assert_eq!(Keep::newest(1).to_remove(&[]), [0u64; 0]);
    }
}
