//! Tokenizers.
//!
//! Tokens 0 and 1 are reserved for padding and the end in every vocabulary. The byte vocabulary is ByT5's: 2
//! is the unknown token, which no byte becomes, and byte `b` is token `b + 3`. Sentinels are those that the
//! program states, else those of the tokenizer, else they count down from the end of the vocabulary.
//!
//! Reading order: the interface here, `file` (tokenizers read from files) with `sentencepiece` and `json`,
//! `codec` (text with sentinels to tokens and back), `names` (of tokens).

mod codec;
mod file;
mod json;
mod names;
mod sentencepiece;

pub use codec::Codec;
pub use file::{FileTokenizer, file_contents, open, parse, with_file_numbers};
pub use sentencepiece::{Conventions, Division};

use crate::{Error, Result};
use std::{fmt, ops::Range, sync::Arc};

/// Separates documents in tokenized text. No text becomes this token, or token 0.
pub const DOCUMENT_END: i32 = 1;
/// The token for text that has no other token.
pub const UNKNOWN: i32 = 2;
/// The token of byte 0.
pub const FIRST_BYTE: i32 = 3;

/// The byte tokenizer of a vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes {
    vocab: i32,
}

impl Bytes {
    /// The number of tokens without sentinels.
    pub const TOKENS: usize = FIRST_BYTE as usize + 256;

    /// Creates the byte tokenizer of a model with `vocab` tokens, `sentinels` of which mark spans.
    ///
    /// # Errors
    /// If the vocabulary is too small.
    pub fn new(vocab: usize, sentinels: usize) -> Result<Self> {
        let need = Self::TOKENS + sentinels;
        let fits = i32::try_from(vocab).ok().filter(|_| vocab >= need);
        fits.map(|vocab| Self { vocab }).ok_or_else(|| {
            Error::input(
                format!("the model's vocabulary of {vocab} tokens is too small for bytes and sentinels"),
                format!(
                    "give the model a `vocab` of at least {need}: 3 special tokens, 256 bytes, {sentinels} sentinels"
                ),
            )
        })
    }

    /// Returns the token of a byte.
    pub fn token(self, byte: u8) -> i32 {
        FIRST_BYTE + i32::from(byte)
    }

    /// Returns the byte of a token. `None` means that the token is no byte.
    pub fn byte(self, token: i32) -> Option<u8> {
        u8::try_from(token - FIRST_BYTE).ok()
    }

    /// Returns the sentinel of the span with this number, from 0.
    pub fn sentinel(self, span: usize) -> i32 {
        // The constructor checked that the sentinels are above the bytes.
        self.vocab - 1 - span as i32
    }
}

/// A tokenizer with a vocabulary of pieces of text. [`open`] reads one from a file.
pub trait Pieces: Send + Sync + fmt::Debug {
    /// Returns the tokens of a text, without padding, end tokens and sentinels.
    ///
    /// # Errors
    /// If the tokenizer fails, or can only describe tokens.
    fn encode(&self, text: &str) -> Result<Vec<i32>>;
    /// Returns the text of tokens. Tokens without text are skipped.
    ///
    /// # Errors
    /// If the tokenizer fails, or can only describe tokens.
    fn decode(&self, tokens: &[i32]) -> Result<String>;
    /// The number of tokens.
    fn tokens(&self) -> usize;
    /// The tokenizer's own sentinels, in order.
    fn sentinels(&self) -> &[i32];
    /// The file it was read from, for messages.
    fn name(&self) -> &str;
    /// A digest: tokenizers with the same digest behave the same.
    fn digest(&self) -> &str;
    /// True if tokens have other numbers than in the file, to make room for padding, the end and the unknown
    /// token.
    fn is_renumbered(&self) -> bool {
        false
    }
    /// True if tokens have the numbers of the file although these have no padding and end tokens at first:
    /// there are then no sentinels either.
    fn has_file_numbers(&self) -> bool {
        false
    }
    /// The first token that text can have.
    fn first_text_token(&self) -> i32 {
        UNKNOWN
    }
    /// The contents of the file it was read from. `None` means that only its description is known.
    fn file(&self) -> Option<Arc<[u8]>> {
        None
    }
}

/// A tokenizer.
#[derive(Clone, Debug, Default)]
pub enum Tokenizer {
    /// Every byte is a token.
    #[default]
    Bytes,
    /// A vocabulary of pieces.
    Pieces(Arc<dyn Pieces>),
}

impl Tokenizer {
    /// Returns the tokens that mark `count` spans, for a model with `vocab` tokens.
    ///
    /// # Errors
    /// If the vocabulary is too small for the tokenizer and the sentinels.
    pub fn sentinels(&self, vocab: usize, count: usize) -> Result<Vec<i32>> {
        let pieces = match self {
            Self::Bytes => {
                let bytes = Bytes::new(vocab, count)?;
                return Ok((0..count).map(|span| bytes.sentinel(span)).collect());
            }
            Self::Pieces(pieces) => pieces,
        };
        let (tokens, own) = (pieces.tokens(), pieces.sentinels());
        // The tokenizer's own sentinels are used if there are enough; otherwise none of them.
        let enough = own.len() >= count;
        let need = if enough { tokens } else { tokens + count };
        let Some(last) = i32::try_from(vocab).ok().filter(|_| vocab >= need) else {
            let has = if enough || own.is_empty() {
                String::new()
            } else {
                format!(", and the tokenizer has only {}", own.len())
            };
            return Err(Error::input(
                format!(
                    "the model's vocabulary of {vocab} tokens is too small for the tokenizer `{}` of {tokens}",
                    pieces.name()
                ),
                format!(
                    "give the model a `vocab` of at least {need} (spans are marked by {count} sentinels{has}), or name the \
                     tokenizer that the model was made for"
                ),
            ));
        };
        Ok(if enough {
            own[..count].to_vec()
        } else {
            (0..count as i32).map(|span| last - 1 - span).collect()
        })
    }

    /// The range of tokens that text can have.
    pub fn text_tokens(&self) -> Range<i32> {
        let (first, end) = match self {
            Self::Bytes => (UNKNOWN, Bytes::TOKENS),
            Self::Pieces(pieces) => (pieces.first_text_token(), pieces.tokens()),
        };
        first..i32::try_from(end).unwrap_or(i32::MAX)
    }

    /// Identifies the meaning of tokens: `bytes`, or a digest.
    pub fn identity(&self) -> &str {
        match self {
            Self::Bytes => "bytes",
            Self::Pieces(pieces) => pieces.digest(),
        }
    }

    /// The contents of its file. `None` means bytes, or a tokenizer of which only the description is known.
    pub fn file(&self) -> Option<Arc<[u8]>> {
        match self {
            Self::Bytes => None,
            Self::Pieces(pieces) => pieces.file(),
        }
    }

    /// The name, for messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Bytes => "bytes",
            Self::Pieces(pieces) => pieces.name(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tokenizer of words by their length: `a` is token 3, `bb` is 4.
    #[derive(Debug)]
    pub(crate) struct Words {
        pub tokens: usize,
        pub sentinels: Vec<i32>,
    }

    impl Pieces for Words {
        fn encode(&self, text: &str) -> Result<Vec<i32>> {
            Ok(text.split_whitespace().map(|word| 2 + word.len() as i32).collect())
        }
        fn decode(&self, tokens: &[i32]) -> Result<String> {
            let words = tokens.iter().filter(|t| **t > UNKNOWN).map(|t| "x".repeat(*t as usize - 2));
            Ok(words.collect::<Vec<_>>().join(" "))
        }
        fn tokens(&self) -> usize {
            self.tokens
        }
        fn sentinels(&self) -> &[i32] {
            &self.sentinels
        }
        fn name(&self) -> &str {
            "words"
        }
        fn digest(&self) -> &str {
            "the digest"
        }
    }

    pub(crate) fn words(tokens: usize, sentinels: &[i32]) -> Tokenizer {
        Tokenizer::Pieces(Arc::new(Words { tokens, sentinels: sentinels.to_vec() }))
    }

    #[test]
    fn sentinels_are_the_tokenizers_or_count_down_above_it() {
        assert_eq!(Tokenizer::Bytes.sentinels(300, 2).unwrap(), [299, 298]);
        assert_eq!(words(20, &[19, 18, 17]).sentinels(32, 2).unwrap(), [19, 18]);
        assert_eq!(words(20, &[]).sentinels(32, 2).unwrap(), [31, 30]);
        assert_eq!(words(20, &[19]).sentinels(22, 2).unwrap(), [21, 20]);
        let fails = |tokenizer: Tokenizer, parts: &[&str]| {
            let error = tokenizer.sentinels(21, 2).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        fails(words(20, &[19]), &["vocabulary of 21", "`words` of 20", "at least 22", "has only 1"]);
        fails(words(22, &[19, 18]), &["`words` of 22", "at least 22 "]);
    }

    #[test]
    fn bytes_sentinels_and_the_rest_do_not_meet() {
        let bytes = Bytes::new(384, 7).unwrap();
        assert_eq!((bytes.token(0), bytes.token(255)), (3, 258));
        assert_eq!(
            (0..=255).map(|b| bytes.byte(bytes.token(b))).collect::<Option<Vec<_>>>().unwrap().len(),
            256
        );
        assert_eq!([0, DOCUMENT_END, UNKNOWN, 259].map(|t| bytes.byte(t)), [None; 4]);
        assert_eq!((bytes.sentinel(0), bytes.sentinel(6)), (383, 377));
        assert_eq!(Bytes::new(266, 7).unwrap().sentinel(6), 259);
        let error = Bytes::new(265, 7).unwrap_err().to_string();
        assert!(error.contains("265") && error.contains("at least 266"), "{error}");
    }
}
