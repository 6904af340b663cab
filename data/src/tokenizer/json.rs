//! Tokenizers of `tokenizer.json`: the library `tokenizers` runs them, and words that occurred before are
//! looked up.
//!
//! Most tokenizers divide text at spaces, so the tokens of a word do not depend on its surroundings. This is
//! decided from the file: a part that this module does not know makes the library encode every text whole.

use crate::caught::caught;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use tokenizers::{NormalizedString, Normalizer, Tokenizer};

/// A tokenizer that the library runs.
pub(super) struct Json {
    tokenizer: Tokenizer,
    /// Tokens of known words, one collection for each concurrent call. `None` means that the tokens of a word
    /// may depend on its surroundings.
    known: Option<Mutex<Vec<Words>>>,
}

/// Tokens by word, in two generations: frequent words stay, and the memory is bounded.
#[derive(Default)]
struct Words {
    young: HashMap<Box<str>, Box<[u32]>>,
    /// Words that were young before, and did not occur since.
    old: HashMap<Box<str>, Box<[u32]>>,
}

/// The longest word that is remembered, in bytes.
const WORD: usize = 40;
/// The number of words in a generation: about 6 MB.
const MOST_WORDS: usize = 1 << 16;

impl Words {
    fn get(&mut self, word: &str) -> Option<&[u32]> {
        if let Some((word, tokens)) = self.old.remove_entry(word) {
            self.insert(word, tokens);
        }
        self.young.get(word).map(|tokens| &**tokens)
    }

    fn insert(&mut self, word: Box<str>, tokens: Box<[u32]>) {
        if self.young.len() == MOST_WORDS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(word, tokens);
    }
}

impl Json {
    /// Reads a `tokenizer.json`. Truncation and padding are disabled, and `</s>` in a text is ordinary text.
    ///
    /// # Errors
    /// Returns the reason why the file cannot be used.
    pub fn new(bytes: &[u8]) -> Result<Self, String> {
        let tokenizer = caught(|| Tokenizer::from_bytes(bytes))
            .ok_or("it is damaged or cut off (the library that reads it fails)")?;
        let mut tokenizer = tokenizer.map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        tokenizer.set_encode_special_tokens(true);
        let file: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let known = has_independent_words(&file, &tokenizer).then(Mutex::default);
        Ok(Self { tokenizer, known })
    }

    /// Returns the library's tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the tokens of a text.
    ///
    /// # Errors
    /// Returns the library's message. `None` means that the library panicked.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Option<String>> {
        let Some(known) = &self.known else { return self.whole(text) };
        let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut words = lock().pop().unwrap_or_default();
        let (mut out, mut rest) = (Vec::with_capacity(text.len() / 3 + 8), text);
        while !rest.is_empty() {
            let (word, others) = rest.split_at(word_end(rest));
            rest = others;
            if let Some(tokens) = words.get(word) {
                out.extend_from_slice(tokens);
                continue;
            }
            let tokens = self.whole(word)?;
            out.extend_from_slice(&tokens);
            if word.len() <= WORD {
                words.insert(word.into(), tokens.into());
            }
        }
        lock().push(words);
        Ok(out)
    }

    /// Returns the tokens that the library gives.
    fn whole(&self, text: &str) -> Result<Vec<u32>, Option<String>> {
        let encoding = caught(|| self.tokenizer.encode_fast(text, false)).ok_or(None)?;
        Ok(encoding.map_err(|error| Some(error.to_string()))?.get_ids().to_vec())
    }
}

/// Returns the length of the first word of a text that is not empty. A word ends before a single space
/// between two plain characters; so all words but the first begin with a space.
fn word_end(text: &str) -> usize {
    let spaces = text.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b' ');
    let mut ends = spaces.map(|(at, _)| at).filter(|at| {
        let (before, after) = (text[..*at].chars().next_back(), text[at + 1..].chars().next());
        before.is_some_and(is_plain) && after.is_some_and(is_plain)
    });
    ends.next().unwrap_or(text.len())
}

/// Characters that combine with no neighbour: printable ASCII, Latin and Cyrillic letters.
const PLAIN: [(char, char); 4] =
    [('!', '~'), ('\u{c0}', '\u{24f}'), ('\u{400}', '\u{481}'), ('\u{48a}', '\u{4ff}')];

fn is_plain(c: char) -> bool {
    PLAIN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// True if every word, as [`word_end`] finds it, has the tokens that it has within a text: the parts of the
/// tokenizer see one word at a time, and normalization leaves the ends of words where they are.
fn has_independent_words(file: &Value, tokenizer: &Tokenizer) -> bool {
    let Some(added) = file["added_tokens"].as_array() else { return false };
    normalizes_locally(&file["normalizer"])
        && divides_at_spaces(&file["pre_tokenizer"])
        && is_determined(&file["model"])
        && added.iter().all(|token| is_within_words(token, tokenizer))
        && PLAIN
            .iter()
            .all(|(first, last)| (*first..=*last).all(|c| stays_in_word(&c.to_string(), tokenizer)))
}

/// True if normalization replaces characters or runs of spaces, without regard to what is further away.
fn normalizes_locally(part: &Value) -> bool {
    match part["type"].as_str() {
        None => part.is_null(),
        Some(
            "NFC" | "NFD" | "NFKC" | "NFKD" | "Nmt" | "Lowercase" | "StripAccents" | "Precompiled"
            | "BertNormalizer",
        ) => true,
        Some("Replace") => part["pattern"]["Regex"] == " {2,}",
        // Words end with a character that is no space.
        Some("Strip") => part["strip_left"] == false,
        Some("Sequence") => all(&part["normalizers"], normalizes_locally),
        Some(_) => false,
    }
}

/// True if every space before a word begins a part of the text, to which a model is applied.
fn divides_at_spaces(part: &Value) -> bool {
    match part["type"].as_str() {
        Some("Metaspace") => part["split"] != false,
        Some("ByteLevel") => part["use_regex"] != false,
        Some("WhitespaceSplit" | "Whitespace" | "BertPreTokenizer") => true,
        Some("Sequence") => {
            let also = |part: &Value| {
                let is_local = matches!(part["type"].as_str(), Some("Digits" | "Punctuation"));
                is_local || divides_at_spaces(part)
            };
            let parts = &part["pretokenizers"];
            parts.get(0).is_some_and(divides_at_spaces) && all(parts, also)
        }
        Some(_) | None => false,
    }
}

/// True if the tokens of a part of a text are no matter of chance.
fn is_determined(model: &Value) -> bool {
    match model["type"].as_str() {
        Some("BPE") => model["dropout"].is_null(),
        Some("Unigram" | "WordPiece" | "WordLevel") => true,
        Some(_) | None => false,
    }
}

/// True if an added token is found within a word only. Special tokens are not searched for.
fn is_within_words(token: &Value, tokenizer: &Tokenizer) -> bool {
    let within = |content: &str| {
        let has_space = content.contains(char::is_whitespace);
        !has_space
            && token["lstrip"] == false
            && token["rstrip"] == false
            && stays_in_word(content, tokenizer)
    };
    token["special"] == true || token["content"].as_str().is_some_and(within)
}

/// True if a text is not empty and has no space after normalization.
fn stays_in_word(text: &str, tokenizer: &Tokenizer) -> bool {
    let Some(normalizer) = tokenizer.get_normalizer() else { return true };
    let normalized = caught(|| {
        let mut text = NormalizedString::from(text);
        normalizer.normalize(&mut text).is_ok().then(|| text.get().to_owned())
    });
    normalized.flatten().is_some_and(|new| !new.is_empty() && !new.contains(char::is_whitespace))
}

fn all(parts: &Value, holds: impl Fn(&Value) -> bool) -> bool {
    parts.as_array().is_some_and(|parts| parts.iter().all(holds))
}

#[cfg(test)]
mod tests;
