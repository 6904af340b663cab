//! Changes of a field's value in a template: `{score|round 0.2}`.

use crate::value::text_of;
use data::records::Fields;
use serde_json::Value;

/// A change of a field's value.
#[derive(Clone, PartialEq, Debug)]
pub enum Filter {
    /// `round STEP`: a number, rounded to the nearest multiple of the step, half to even.
    Round(f64, usize),
    /// `mark INDEX STAR`: the word whose index (counted from 0, words separated by white space) is in the
    /// field INDEX, between two marks.
    Mark(String, String),
    /// `highlights`: lines that begin with `@highlight` become sentences, as T5 does for ReCoRD.
    Highlights,
    /// `plain`: without HTML tags; `<br>` is a space.
    Plain,
    /// `spaced`: with spaces around every character that is not an ASCII letter, digit or underscore, as T5
    /// does for SQuAD; no spaces at the ends, and one between words.
    Spaced,
}

impl Filter {
    /// Parses what follows `|` in a template.
    ///
    /// # Errors
    /// The known filters, if this is none of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let wrong = || {
            format!(
                "`{text}` is no filter; filters are `round STEP`, `mark INDEX MARK`, `highlights`, `plain` and `spaced`"
            )
        };
        Ok(match words.as_slice() {
            ["round", step] => {
                let size: f64 =
                    step.parse().ok().filter(|s| *s > 0.0 && f64::is_finite(*s)).ok_or_else(wrong)?;
                Self::Round(size, step.split_once('.').map_or(0, |(_, decimals)| decimals.len()))
            }
            ["mark", index, mark] => Self::Mark((*index).to_owned(), (*mark).to_owned()),
            ["highlights"] => Self::Highlights,
            ["plain"] => Self::Plain,
            ["spaced"] => Self::Spaced,
            _ => return Err(wrong()),
        })
    }

    /// Returns the changed text of a value.
    ///
    /// # Errors
    /// A predicate that follows the name of the field, such as `is not a number`.
    pub fn apply(&self, value: &Value, fields: &Fields) -> Result<String, String> {
        match self {
            Self::Round(step, decimals) => {
                let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
                let number = number.ok_or("is not a number")?;
                Ok(format!("{:.decimals$}", (number / step).round_ties_even() * step))
            }
            Self::Mark(index, mark) => {
                let text = text_of(value)?;
                let at = fields
                    .get(index)
                    .and_then(Value::as_u64)
                    .ok_or(format!("cannot be marked: `{index}` is not the index of a word"))?;
                let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                let count = words.len();
                let word =
                    words.get_mut(at as usize).ok_or(format!("has {count} words, and `{index}` is {at}"))?;
                *word = format!("{mark}{word}{mark}");
                Ok(words.join(" "))
            }
            Self::Highlights => Ok(highlights(&text_of(value)?)),
            Self::Plain => Ok(plain(&text_of(value)?)),
            Self::Spaced => Ok(spaced(&text_of(value)?)),
        }
    }
}

/// Replaces `\n@highlight\n` by a space after a sentence's end, else by `. `.
fn highlights(text: &str) -> String {
    let parts: Vec<&str> = text.split("\n@highlight\n").collect();
    let mut out = String::new();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            out += if out.ends_with(['.', '?', '!', '"', '\'']) { " " } else { ". " };
        }
        out += part;
    }
    out
}

/// Puts spaces around characters that are not part of an ASCII word.
fn spaced(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let spaced: String =
        text.chars().map(|c| if is_word(c) { c.to_string() } else { format!(" {c} ") }).collect();
    words(&spaced)
}

/// Replaces runs of white space by one space, without any at the ends.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Removes what stands between `<` and `>`.
fn plain(text: &str) -> String {
    let text = text.replace("<br>", " ");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('<') {
        let Some((_, after)) = after.split_once('>') else { break };
        out += before;
        rest = after;
    }
    out += rest;
    words(&out)
}
