//! Metrics of classes: F1 of one class, macro-averaged F1, F1 of several labels, and the correlation
//! coefficient of Matthews.

use std::collections::BTreeSet;

/// A target class and a predicted one. `None` means that the prediction is no class, which is always wrong.
pub type Classes = (usize, Option<usize>);

/// Returns the F1 of class 1 in [0, 1], for two classes. A prediction that is no class counts as the wrong
/// one.
pub fn binary_f1(all: &[Classes]) -> f64 {
    let of = |(target, predicted): &Classes| (*target, Some(predicted.unwrap_or(usize::from(*target != 1))));
    f1_of(1, &all.iter().map(of).collect::<Vec<_>>())
}

/// Returns the mean of the F1 of `classes` classes, in [0, 1].
pub fn macro_f1(all: &[Classes], classes: usize) -> f64 {
    (0..classes).map(|class| f1_of(class, all)).sum::<f64>() / classes.max(1) as f64
}

fn f1_of(class: usize, all: &[Classes]) -> f64 {
    let count = |is: fn(bool, bool) -> bool| {
        all.iter().filter(|(t, p)| is(*t == class, *p == Some(class))).count() as f64
    };
    let (same, missed, wrong) = (count(|t, p| t && p), count(|t, p| t && !p), count(|t, p| !t && p));
    if same == 0.0 { 0.0 } else { 2.0 * same / (2.0 * same + missed + wrong) }
}

/// Returns the micro-averaged F1 of sets of labels, in [0, 1]: each pair is a target set and a predicted one.
pub fn multi_label_f1<'a>(all: impl IntoIterator<Item = (BTreeSet<&'a str>, BTreeSet<&'a str>)>) -> f64 {
    let (mut same, mut sizes) = (0, 0);
    for (target, predicted) in all {
        same += target.intersection(&predicted).count();
        sizes += target.len() + predicted.len();
    }
    if same == 0 { 0.0 } else { 2.0 * same as f64 / sizes as f64 }
}

/// Returns the correlation coefficient of Matthews for any number of classes (Gorodkin 2004), in [-1, 1];
/// 0 if all targets or all predictions are the same. Predictions that are no class form one more.
pub fn matthews(all: &[Classes]) -> f64 {
    let most = all.iter().map(|(t, p)| (*t).max(p.unwrap_or(0))).max().unwrap_or(0);
    let (mut of_target, mut of_predicted) = (vec![0.0; most + 2], vec![0.0; most + 2]);
    let mut same = 0.0;
    for (target, predicted) in all {
        of_target[*target] += 1.0;
        of_predicted[predicted.unwrap_or(most + 1)] += 1.0;
        same += f64::from(u8::from(*predicted == Some(*target)));
    }
    let n = all.len() as f64;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let both = same * n - dot(&of_target, &of_predicted);
    let spread = (n * n - dot(&of_target, &of_target)) * (n * n - dot(&of_predicted, &of_predicted));
    if spread == 0.0 { 0.0 } else { both / spread.sqrt() }
}
