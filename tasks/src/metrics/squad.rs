//! Exact match and F1 of answers, as SQuAD's evaluation script 1.1 computes them (Rajpurkar et al. 2016).

use std::collections::BTreeMap;

/// Returns an answer in lower case, without punctuation of ASCII and articles, its words separated by one
/// space.
pub fn normalized(answer: &str) -> String {
    let letters = answer.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect::<String>();
    without_articles(&letters).split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns 1 if the prediction equals one of the answers after normalization, else 0.
pub fn exact_match(prediction: &str, answers: &[String]) -> f64 {
    let prediction = normalized(prediction);
    f64::from(u8::from(answers.iter().any(|answer| normalized(answer) == prediction)))
}

/// Returns the largest F1 of the prediction's words and those of one of the answers, in [0, 1].
pub fn f1(prediction: &str, answers: &[String]) -> f64 {
    let prediction = normalized(prediction);
    answers.iter().map(|answer| word_f1(&prediction, &normalized(answer))).fold(0.0, f64::max)
}

fn word_f1(prediction: &str, answer: &str) -> f64 {
    let words = |text: &str| text.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let (prediction, answer) = (words(prediction), words(answer));
    let mut left = BTreeMap::<&str, usize>::new();
    answer.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut same = 0;
    for word in &prediction {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            (*count, same) = (*count - 1, same + 1);
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (same as f64 / prediction.len() as f64, same as f64 / answer.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Replaces the words `a`, `an` and `the` by spaces.
fn without_articles(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut word) = (String::new(), String::new());
    let end = |word: &mut String, out: &mut String| {
        out.push_str(if matches!(word.as_str(), "a" | "an" | "the") { " " } else { word });
        word.clear();
    };
    for c in text.chars() {
        if is_word(c) {
            word.push(c);
        } else {
            end(&mut word, &mut out);
            out.push(c);
        }
    }
    end(&mut word, &mut out);
    out
}

/// True if Python's `str.split` separates words at this character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_normalized() {
        assert_eq!(normalized("The  Cat's (a) hat, an-other"), "cats hat another");
        assert_eq!(normalized("a.the"), "athe");
        assert_eq!(exact_match("the Eiffel Tower!", &["x".into(), "Eiffel tower".into()]), 1.0);
        assert_eq!(f1("big red dog", &["red dog".into()]), 0.8);
        assert_eq!(f1("", &["a".into()]), 0.0);
    }
}
