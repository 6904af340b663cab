//! BLEU of a corpus (Papineni et al. 2002), as sacrebleu computes it by default: tokens of mteval-v13a,
//! n-grams up to 4, and exponential smoothing of precisions that are 0.

use super::squad::is_space;
use std::collections::BTreeMap;

/// The largest length of an n-gram.
const ORDER: usize = 4;

/// The counts of a corpus, from which its BLEU follows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bleu {
    same: [usize; ORDER],
    total: [usize; ORDER],
    predicted: usize,
    wanted: usize,
}

impl Bleu {
    /// Adds a prediction with its references. Does nothing without a reference.
    pub fn add(&mut self, prediction: &str, references: &[String]) {
        let prediction = tokens(prediction);
        let references: Vec<Vec<String>> = references.iter().map(|text| tokens(text)).collect();
        let distance = |length: usize| (length.abs_diff(prediction.len()), length);
        let Some(closest) = references.iter().map(|r| distance(r.len())).min() else { return };
        self.predicted += prediction.len();
        self.wanted += closest.1;
        for n in 1..=ORDER {
            let mut most = BTreeMap::<&[String], usize>::new();
            for reference in &references {
                for (gram, count) in counts(reference, n) {
                    let known = most.entry(gram).or_default();
                    *known = count.max(*known);
                }
            }
            for (gram, count) in counts(&prediction, n) {
                self.total[n - 1] += count;
                self.same[n - 1] += count.min(most.get(gram).copied().unwrap_or(0));
            }
        }
    }

    /// Returns BLEU, in [0, 100].
    pub fn score(&self) -> f64 {
        if self.same.iter().all(|same| *same == 0) {
            return 0.0;
        }
        let mut smooth = 1.0;
        let mut sum = 0.0;
        for (same, total) in self.same.iter().zip(self.total) {
            if total == 0 {
                // No prediction has an n-gram of this length.
                return 0.0;
            }
            let precision = if *same == 0 {
                smooth *= 2.0;
                100.0 / (smooth * total as f64)
            } else {
                100.0 * *same as f64 / total as f64
            };
            sum += precision.ln();
        }
        let brevity = match self.predicted < self.wanted {
            true => (1.0 - self.wanted as f64 / self.predicted as f64).exp(),
            false => 1.0,
        };
        brevity * (sum / ORDER as f64).exp()
    }
}

fn counts(tokens: &[String], n: usize) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    tokens.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    counts
}

/// Returns the tokens of mteval-v13a: most punctuation by itself, periods and commas unless between digits,
/// and a dash after a digit.
fn tokens(text: &str) -> Vec<String> {
    let text = text.trim_end_matches(is_space).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")]
        .iter()
        .fold(text, |text, (entity, character)| text.replace(entity, character));
    let mut line: Vec<char> = Vec::new();
    for c in format!(" {text} ").chars() {
        match is_alone(c) {
            true => line.extend([' ', c, ' ']),
            false => line.push(c),
        }
    }
    let is_stop = |c: char| matches!(c, '.' | ',');
    let line = pairs(&line, |a, b| (!a.is_ascii_digit() && is_stop(b)).then(|| vec![a, ' ', b, ' ']));
    let line = pairs(&line, |a, b| (is_stop(a) && !b.is_ascii_digit()).then(|| vec![' ', a, ' ', b]));
    let line = pairs(&line, |a, b| (a.is_ascii_digit() && b == '-').then(|| vec![a, ' ', b, ' ']));
    let line: String = line.into_iter().collect();
    line.split(is_space).filter(|token| !token.is_empty()).map(str::to_owned).collect()
}

/// True if a character is always a token by itself.
fn is_alone(c: char) -> bool {
    matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/')
}

/// Replaces pairs of neighbouring characters from left to right; each character is in one pair at most.
fn pairs(line: &[char], replace: impl Fn(char, char) -> Option<Vec<char>>) -> Vec<char> {
    let (mut out, mut at) = (Vec::with_capacity(line.len()), 0);
    while at < line.len() {
        match line.get(at + 1).and_then(|next| replace(line[at], *next)) {
            Some(new) => {
                out.extend(new);
                at += 2;
            }
            None => {
                out.push(line[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_mteval() {
        let of = |text: &str| tokens(text).join(" ");
        assert_eq!(
            of("Hello, world. It's 3.14 (about 1,000-fold)!"),
            "Hello , world . It's 3.14 ( about 1,000 - fold ) !"
        );
        assert_eq!(of("a&amp;b &lt;x&gt; end...\n"), "a & b < x > end . . .");
    }
}
