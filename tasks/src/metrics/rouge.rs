//! ROUGE-1, ROUGE-2 and ROUGE-Lsum (Lin 2004), as rouge-score computes them without a stemmer.
//!
//! The sentences of ROUGE-Lsum are lines. As T5 does, ` . ` within a text ends a line.

use std::collections::{BTreeMap, BTreeSet};

/// Returns the largest F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum over the references, each in [0, 1].
pub fn rouge(prediction: &str, references: &[String]) -> [f64; 3] {
    let prediction = Text::new(prediction);
    references
        .iter()
        .map(|reference| scores(&prediction, &Text::new(reference)))
        .fold([0.0; 3], |most, new| [most[0].max(new[0]), most[1].max(new[1]), most[2].max(new[2])])
}

struct Text {
    words: Vec<String>,
    lines: Vec<Vec<String>>,
}

impl Text {
    fn new(text: &str) -> Self {
        let text = text.replace(" . ", " .\n");
        let lines = text.split('\n').filter(|line| !line.is_empty()).map(words).collect();
        Self { words: words(&text), lines }
    }
}

fn scores(prediction: &Text, reference: &Text) -> [f64; 3] {
    let ngram = |n: usize| {
        let (of_prediction, of_reference) = (counts(&prediction.words, n), counts(&reference.words, n));
        let same: usize =
            of_reference.iter().map(|(k, count)| *count.min(of_prediction.get(k).unwrap_or(&0))).sum();
        let sum = |counts: &BTreeMap<&[String], usize>| counts.values().sum::<usize>().max(1);
        f_measure(same, sum(&of_prediction), sum(&of_reference))
    };
    [ngram(1), ngram(2), lsum(&prediction.lines, &reference.lines)]
}

/// Returns runs of ASCII letters and digits of the text in lower case.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let is_other = |c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit();
    text.split(is_other).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn counts(words: &[String], n: usize) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    counts
}

fn f_measure(same: usize, predicted: usize, wanted: usize) -> f64 {
    let (precision, recall) = (same as f64 / predicted as f64, same as f64 / wanted as f64);
    if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 }
}

/// ROUGE-Lsum: for each line of the reference, the union of its longest common subsequences with the lines of
/// the prediction; every word counts at most as often as each text has it.
fn lsum(prediction: &[Vec<String>], reference: &[Vec<String>]) -> f64 {
    let total = |lines: &[Vec<String>]| lines.iter().map(Vec::len).sum::<usize>();
    let (predicted, wanted) = (total(prediction), total(reference));
    if predicted == 0 || wanted == 0 {
        return 0.0;
    }
    let mut left = [prediction, reference].map(|lines| {
        let mut counts = BTreeMap::<&str, usize>::new();
        lines.iter().flatten().for_each(|word| *counts.entry(word).or_default() += 1);
        counts
    });
    let mut same = 0;
    for line in reference {
        let union: BTreeSet<usize> = prediction.iter().flat_map(|other| common(line, other)).collect();
        for word in union.into_iter().map(|at| line[at].as_str()) {
            if left.iter().all(|counts| counts.get(word).is_some_and(|count| *count > 0)) {
                same += 1;
                left.iter_mut().for_each(|counts| *counts.entry(word).or_default() -= 1);
            }
        }
    }
    f_measure(same, predicted, wanted)
}

/// Returns the indices in `a` of a longest common subsequence of `a` and `b`. Of several, it is the one that
/// going back from the end finds, which steps back in `b` only if that is longer than stepping back in `a`.
fn common(a: &[String], b: &[String]) -> Vec<usize> {
    let width = b.len() + 1;
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            lengths[i * width + j] = if a[i - 1] == b[j - 1] {
                lengths[(i - 1) * width + j - 1] + 1
            } else {
                lengths[(i - 1) * width + j].max(lengths[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j, mut found) = (a.len(), b.len(), Vec::new());
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            (i, j) = (i - 1, j - 1);
            found.push(i);
        } else if lengths[i * width + j - 1] > lengths[(i - 1) * width + j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
    found
}
