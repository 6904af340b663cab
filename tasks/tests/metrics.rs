//! Metrics against the programs that publish them: sacrebleu, rouge-score, SQuAD's definitions in t5,
//! scikit-learn and scipy.
//!
//! `metrics/reference.py` writes their values for texts that it and this test make of the same seeds.

use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};
use tasks::metrics::{
    bleu::Bleu,
    classes::{binary_f1, macro_f1, matthews, multi_label_f1},
    correlation::{pearson, spearman},
    rouge::rouge,
    squad,
};

/// The generator of the script.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

struct Cases {
    json: Value,
    words: Vec<String>,
}

impl Cases {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metrics/cases.json");
        let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let json: Value = serde_json::from_slice(&text).expect("the cases are JSON");
        let words = serde_json::from_value(json["words"].clone()).expect("words are texts");
        Self { json, words }
    }

    fn count(&self) -> usize {
        self.json["pairs"].as_u64().expect("a number") as usize
    }

    fn number(&self, pointer: &str) -> f64 {
        self.json.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer}"))
    }

    fn text(&self, random: &mut Random) -> String {
        let mut out = String::new();
        for at in 0..random.below(30) {
            if at > 0 {
                out += if random.below(9) == 0 { "\n" } else { " " };
            }
            out += &self.words[random.below(self.words.len())];
        }
        out
    }

    fn changed(&self, random: &mut Random, reference: &str) -> String {
        let mut words = Vec::new();
        for word in reference.split(' ') {
            match random.below(6) {
                0 => words.push(self.words[random.below(self.words.len())].as_str()),
                1 => {}
                _ => words.push(word),
            }
        }
        words.join(" ")
    }

    fn pairs(&self) -> Vec<(String, Vec<String>)> {
        let pair = |seed| {
            let random = &mut Random(seed as u64);
            let references: Vec<String> = (0..1 + random.below(2)).map(|_| self.text(random)).collect();
            let at = random.below(references.len());
            (self.changed(random, &references[at]), references)
        };
        (0..self.count()).map(pair).collect()
    }
}

#[track_caller]
fn equal(what: &str, ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0), "{what}: {ours}, not {theirs}");
}

#[test]
fn rouge_is_that_of_rouge_score() {
    let cases = Cases::read();
    for (row, (prediction, references)) in cases.pairs().iter().enumerate() {
        for (at, score) in rouge(prediction, references).into_iter().enumerate() {
            equal(
                &format!("{prediction:?} {references:?}"),
                score,
                cases.number(&format!("/rouge/{row}/{at}")),
            );
        }
    }
}

#[test]
fn answers_are_compared_as_in_squad() {
    let cases = Cases::read();
    for (row, (prediction, references)) in cases.pairs().iter().enumerate() {
        let what = format!("{prediction:?} {references:?}");
        let scores = [squad::exact_match(prediction, references), squad::f1(prediction, references)];
        for (at, score) in scores.into_iter().enumerate() {
            equal(&what, score, cases.number(&format!("/squad/{row}/{at}")));
        }
    }
}

#[test]
fn bleu_is_that_of_sacrebleu() {
    let (cases, mut all) = (Cases::read(), Bleu::default());
    let pairs = cases.pairs();
    for (group, some) in pairs.chunks(10).enumerate() {
        let mut bleu = Bleu::default();
        for (prediction, references) in some {
            bleu.add(prediction, references);
            all.add(prediction, references);
        }
        equal(&format!("pairs from {}", group * 10), bleu.score(), cases.number(&format!("/bleu/{group}")));
    }
    equal("all pairs", all.score(), cases.number(&format!("/bleu/{}", pairs.len().div_ceil(10))));
}

#[test]
fn classes_are_scored_as_in_scikit_learn() {
    let cases = Cases::read();
    let classes = |seed, count: usize| -> Vec<(usize, Option<usize>)> {
        let random = &mut Random(seed);
        let targets: Vec<usize> = (0..cases.count()).map(|_| random.below(count)).collect();
        let predicted = |target| if random.below(3) > 0 { target } else { random.below(count + 1) };
        let predicted: Vec<usize> = targets.iter().copied().map(predicted).collect();
        targets.into_iter().zip(predicted).map(|(t, p)| (t, Some(p).filter(|p| *p < count))).collect()
    };
    let (two, three) = (classes(1, 2), classes(2, 3));
    let of = |name: &str| cases.number(&format!("/classification/{name}"));
    equal("f1", binary_f1(&two), of("f1"));
    equal("macro_f1", macro_f1(&three, 3), of("macro_f1"));
    equal("matthews", matthews(&two), of("matthews_2"));
    equal("matthews", matthews(&three), of("matthews_3"));
}

#[test]
fn label_sets_are_scored_as_in_scikit_learn() {
    let cases = Cases::read();
    let random = &mut Random(3);
    let targets: Vec<Vec<bool>> =
        (0..cases.count()).map(|_| (0..5).map(|_| random.below(3) == 0).collect()).collect();
    let mut change = |target: &bool| if random.below(4) > 0 { *target } else { random.below(2) == 1 };
    let predicted: Vec<Vec<bool>> = targets.iter().map(|row| row.iter().map(&mut change).collect()).collect();
    let set = |row: &[bool]| -> BTreeSet<&str> {
        ["a", "b", "c", "d", "e"]
            .into_iter()
            .zip(row)
            .filter(|(_, has)| **has)
            .map(|(name, _)| name)
            .collect()
    };
    let sets = targets.iter().zip(&predicted).map(|(target, predicted)| (set(target), set(predicted)));
    equal("multi_label_f1", multi_label_f1(sets), cases.number("/multi_label_f1"));
}

#[test]
fn numbers_are_correlated_as_in_scipy() {
    let cases = Cases::read();
    let random = &mut Random(4);
    let mut number = || random.below(26) as f64 / 5.0;
    let pairs: Vec<(f64, f64)> = (0..cases.count())
        .map(|_| {
            let (a, b) = (number(), number());
            (a, (a + b) / 2.0)
        })
        .collect();
    equal("pearson", pearson(&pairs), cases.number("/correlation/pearson"));
    equal("spearman", spearman(&pairs), cases.number("/correlation/spearman"));
}
