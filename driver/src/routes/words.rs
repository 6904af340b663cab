//! Words of a row of tokens.

use std::{collections::HashMap, fmt::Write};

/// Words by number.
#[derive(Debug, Default)]
pub(super) struct Words {
    pub(super) list: Vec<String>,
    numbers: HashMap<String, u32>,
}

/// The signs for a space at the beginning of a piece: of SentencePiece, and of byte-level BPE.
const SPACES: [char; 2] = ['\u{2581}', '\u{120}'];

impl Words {
    /// Returns the number of the word of each token of a row, whose pieces are `pieces`. A word is a run of
    /// letters and digits; a token without any is in no word.
    pub(super) fn of_row(&mut self, pieces: &[&str]) -> Vec<Option<u32>> {
        let mut all = vec![None; pieces.len()];
        let (mut word, mut from) = (String::new(), 0);
        for (at, piece) in pieces.iter().enumerate() {
            let part = letters(piece);
            if part.is_none_or(|(begins, _)| begins) {
                self.end(&mut word, &mut all[from..at]);
                from = at;
            }
            match part {
                Some((_, letters)) => word.push_str(letters),
                None => from = at + 1,
            }
        }
        self.end(&mut word, &mut all[from..]);
        all
    }

    fn end(&mut self, word: &mut String, tokens: &mut [Option<u32>]) {
        if word.is_empty() {
            return;
        }
        let next = self.list.len() as u32;
        let readable = readable(word);
        let number = *self.numbers.entry(readable.clone()).or_insert(next);
        if number == next {
            self.list.push(readable);
        }
        tokens.fill(Some(number));
        word.clear();
    }
}

/// Returns the letters of a piece, and true if a word begins with it. `None` means that it has none.
fn letters(piece: &str) -> Option<(bool, &str)> {
    let (begins, rest) = match piece.strip_prefix(SPACES) {
        Some(rest) => (true, rest),
        None => (false, piece.strip_prefix("##").unwrap_or(piece)),
    };
    let is_byte = rest.starts_with("\\x");
    let is_word = is_byte || !rest.is_empty() && rest.chars().all(char::is_alphanumeric);
    is_word.then_some((begins, rest))
}

/// Replaces bytes beyond ASCII, which are written as `\xc3\xa9`, by the characters that they encode.
fn readable(word: &str) -> String {
    if !word.contains("\\x") {
        return word.to_owned();
    }
    let mut bytes = Vec::new();
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let byte = rest.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                let mut one = [0; 4];
                bytes.extend(first.encode_utf8(&mut one).bytes());
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    let mut text = String::new();
    for part in bytes.utf8_chunks() {
        text.push_str(part.valid());
        for byte in part.invalid() {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], expect: &[&str]) {
        let mut words = Words::default();
        let numbers = words.of_row(pieces);
        let own = |number: &Option<u32>| number.map_or("", |n| words.list[n as usize].as_str());
        assert_eq!(numbers.iter().map(own).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn words_are_runs_of_letters() {
        check(&["▁the", "▁rout", "er", ",", "▁the"], &["the", "router", "router", "", "the"]);
        check(&["<start>", "a", "b", "␣", "c", ".", "d"], &["", "ab", "ab", "", "c", "", "d"]);
        check(&["n", "\\xc3", "\\xa9", "e", "\\xff"], &["née\\xff"; 5]);
        check(
            &["Ġun", "able", "<extra_id_0>", "play", "##ing", "#9"],
            &["unable", "unable", "", "playing", "playing", ""],
        );
        check(&["▁", "a"], &["", "a"]);
    }
}
