//! Values of metrics over the predictions of a task.

use crate::{
    example::Example,
    metric::Metric,
    metrics::{
        bleu::Bleu,
        classes::{Classes, binary_f1, macro_f1, matthews, multi_label_f1},
        correlation::{pearson, spearman},
        rouge::rouge,
        squad,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// A prediction for an example whose target is known.
pub type Predicted<'a> = (&'a Example, &'a str);

impl Metric {
    /// Returns the values by their names.
    pub fn values(self, all: &[Predicted<'_>]) -> Vec<(&'static str, f64)> {
        let mean =
            |of: &dyn Fn(&Predicted<'_>) -> f64| 100.0 * all.iter().map(of).sum::<f64>() / all.len() as f64;
        let one = |value: f64| vec![(self.name(), value)];
        match self {
            Self::Accuracy => one(mean(&|(example, text)| share(is_right(example, text)))),
            Self::ExactMatch => one(mean(&|(example, text)| share(is_answer(example, text)))),
            Self::F1 => one(100.0 * binary_f1(&classes(all))),
            Self::MacroF1 => {
                let labels = all.iter().map(|(example, _)| example.labels.len()).max().unwrap_or(0);
                one(100.0 * macro_f1(&classes(all), labels))
            }
            Self::MultiLabelF1 => {
                let set = |text| -> BTreeSet<&str> {
                    str::split(text, ',').map(str::trim).filter(|l| !l.is_empty()).collect()
                };
                let sets = all.iter().map(|(e, text)| (set(e.targets.as_deref().unwrap_or("")), set(*text)));
                one(100.0 * multi_label_f1(sets))
            }
            Self::Matthews => one(100.0 * matthews(&classes(all))),
            Self::Pearson => one(100.0 * pearson(&numbers(all))),
            Self::Spearman => one(100.0 * spearman(&numbers(all))),
            Self::Squad => vec![
                ("squad_em", mean(&|(example, text)| squad::exact_match(text, &example.answers))),
                ("squad_f1", mean(&|(example, text)| squad::f1(text, &example.answers))),
            ],
            Self::GroupExactMatch => {
                let mut groups = BTreeMap::<&str, bool>::new();
                for (example, text) in all {
                    *groups.entry(&example.group).or_insert(true) &= is_right(example, text);
                }
                one(100.0 * groups.values().filter(|right| **right).count() as f64 / groups.len() as f64)
            }
            Self::Rouge => {
                let scores: Vec<[f64; 3]> = all.iter().map(|(e, text)| rouge(text, &e.answers)).collect();
                let mean = |at: usize| 100.0 * scores.iter().map(|s| s[at]).sum::<f64>() / all.len() as f64;
                vec![("rouge1", mean(0)), ("rouge2", mean(1)), ("rougeLsum", mean(2))]
            }
            Self::Bleu => {
                let mut bleu = Bleu::default();
                all.iter().for_each(|(example, text)| bleu.add(text, &example.answers));
                one(bleu.score())
            }
        }
    }
}

fn share(is_right: bool) -> f64 {
    f64::from(u8::from(is_right))
}

/// True if the prediction is the right label, or an answer where there is no label set.
fn is_right(example: &Example, text: &str) -> bool {
    match example.label {
        Some(label) => class(example, text) == Some(label),
        None => is_answer(example, text),
    }
}

fn is_answer(example: &Example, text: &str) -> bool {
    example.answers.iter().any(|answer| answer.trim() == text.trim())
}

/// Returns the label that a prediction is.
fn class(example: &Example, text: &str) -> Option<usize> {
    example.labels.iter().position(|label| label.trim() == text.trim())
}

fn classes(all: &[Predicted<'_>]) -> Vec<Classes> {
    all.iter().filter_map(|(example, text)| Some((example.label?, class(example, text)))).collect()
}

fn numbers(all: &[Predicted<'_>]) -> Vec<(f64, f64)> {
    let number = |text: &str| text.trim().parse().ok().filter(|x: &f64| x.is_finite()).unwrap_or(-1.0);
    all.iter()
        .map(|(example, text)| (number(example.targets.as_deref().unwrap_or("")), number(text)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labelled(label: usize, group: &str) -> Example {
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        let target = labels[label].clone();
        Example {
            targets: Some(target.clone()),
            answers: vec![target],
            labels,
            label: Some(label),
            group: group.into(),
            ..Example::default()
        }
    }

    fn answered(answers: &[&str]) -> Example {
        let answers: Vec<String> = answers.iter().map(|a| (*a).to_owned()).collect();
        Example { targets: Some(answers[0].clone()), answers, ..Example::default() }
    }

    #[track_caller]
    fn check(metric: Metric, all: &[(Example, &str)], expected: &[(&str, f64)]) {
        let all: Vec<Predicted<'_>> = all.iter().map(|(example, text)| (example, *text)).collect();
        let values = metric.values(&all);
        assert_eq!(values.len(), expected.len(), "{values:?}");
        for ((name, value), (wanted, number)) in values.iter().zip(expected) {
            assert!(name == wanted && (value - number).abs() < 1e-9, "{values:?} is not {expected:?}");
        }
    }

    #[test]
    fn metrics_of_labels() {
        let all = [
            (labelled(1, "a"), "yes"),
            (labelled(1, "a"), "what"),
            (labelled(0, "b"), " no "),
            (labelled(0, "b"), "no"),
        ];
        check(Metric::Accuracy, &all, &[("accuracy", 75.0)]);
        check(Metric::F1, &all, &[("f1", 200.0 / 3.0)]);
        check(Metric::MacroF1, &all, &[("macro_f1", 100.0 * (1.0 + 2.0 / 3.0) / 2.0)]);
        check(Metric::GroupExactMatch, &all, &[("group_exact_match", 50.0)]);
        check(Metric::Matthews, &all[..1], &[("matthews", 0.0)]);
    }

    #[test]
    fn metrics_of_answers() {
        let all =
            [(answered(&["the cat", "cat"]), "cat"), (answered(&["1.5"]), "1.5 "), (answered(&["2"]), "x")];
        check(Metric::ExactMatch, &all, &[("exact_match", 200.0 / 3.0)]);
        check(Metric::Accuracy, &all, &[("accuracy", 200.0 / 3.0)]);
        check(Metric::Squad, &all, &[("squad_em", 200.0 / 3.0), ("squad_f1", 200.0 / 3.0)]);
        let numbers = [(answered(&["1"]), "2"), (answered(&["2"]), "4.0"), (answered(&["-1"]), "none")];
        check(Metric::Spearman, &numbers, &[("spearman", 100.0)]);
        let sets = [(answered(&["a, b"]), "b, c"), (answered(&["a"]), "a")];
        check(Metric::MultiLabelF1, &sets, &[("multi_label_f1", 200.0 / 3.0)]);
    }
}
