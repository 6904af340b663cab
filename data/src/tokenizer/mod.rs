//! What tokens are, and where special ones are.
//!
//! In every vocabulary 0 is padding and 1 the end of a sequence. That of bytes is ByT5's: 2 stands for what is
//! unknown (no byte is), bytes follow from 3 on. Sentinels count down from the end of the vocabulary, unless a
//! tokenizer has sentinels of its own.

mod codec;
mod file;
mod loaded;
mod sentencepiece;

pub use codec::Codec;
pub use file::{FileTokenizer, open};

use crate::{Error, Result};
use std::{fmt, ops::Range, sync::Arc};

/// Separates documents in tokenized text. No text becomes this token, or token 0.
pub const DOCUMENT_END: i32 = 1;
/// What no token stands for.
pub const UNKNOWN: i32 = 2;
/// The token of byte 0.
pub const FIRST_BYTE: i32 = 3;

/// The byte tokenizer of a vocabulary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes {
    vocab: i32,
}

impl Bytes {
    /// Tokens below the sentinels.
    pub const TOKENS: usize = FIRST_BYTE as usize + 256;

    /// For a model with `vocab` tokens, of which `sentinels` are needed to mark spans.
    pub fn new(vocab: usize, sentinels: usize) -> Result<Self> {
        let need = Self::TOKENS + sentinels;
        let fits = i32::try_from(vocab).ok().filter(|_| vocab >= need);
        fits.map(|vocab| Self { vocab }).ok_or_else(|| {
            Error::input(
                format!("the model's vocabulary of {vocab} tokens does not fit bytes and sentinels"),
                format!(
                    "give the model a `vocab` of at least {need}: 3 special tokens, 256 bytes, {sentinels} sentinels"
                ),
            )
        })
    }

    /// The token of a byte.
    pub fn token(self, byte: u8) -> i32 {
        FIRST_BYTE + i32::from(byte)
    }

    /// The byte of a token, if it is one.
    pub fn byte(self, token: i32) -> Option<u8> {
        u8::try_from(token - FIRST_BYTE).ok()
    }

    /// Marks the span with this number, from 0.
    pub fn sentinel(self, span: usize) -> i32 {
        // The constructor made sure that as many sentinels as were asked for are above the bytes.
        self.vocab - 1 - span as i32
    }
}

/// What cuts text into pieces that are tokens. The crate `tokenizer` reads such from files.
pub trait Pieces: Send + Sync + fmt::Debug {
    /// The tokens of a text: no padding, no ends and no sentinels, whatever the text is.
    fn encode(&self, text: &str) -> Result<Vec<i32>>;
    /// The text of tokens; those that stand for none are left out.
    fn decode(&self, tokens: &[i32]) -> Result<String>;
    /// What tokens are below.
    fn tokens(&self) -> usize;
    /// The sentinels that it has, that of the first span first.
    fn sentinels(&self) -> &[i32];
    /// Where it comes from, for people.
    fn name(&self) -> &str;
    /// Names its behaviour: two with the same digest do the same.
    fn digest(&self) -> &str;
}

/// How text becomes tokens.
#[derive(Clone, Debug, Default)]
pub enum Tokenizer {
    /// Every byte is one.
    #[default]
    Bytes,
    /// By a vocabulary.
    Pieces(Arc<dyn Pieces>),
}

impl Tokenizer {
    /// The tokens that mark so many spans, for a model with `vocab` tokens.
    pub fn sentinels(&self, vocab: usize, count: usize) -> Result<Vec<i32>> {
        let pieces = match self {
            Self::Bytes => {
                let bytes = Bytes::new(vocab, count)?;
                return Ok((0..count).map(|span| bytes.sentinel(span)).collect());
            }
            Self::Pieces(pieces) => pieces,
        };
        let (tokens, own) = (pieces.tokens(), pieces.sentinels());
        // What the tokenizer has for this comes first. Too few of them are none: there is one order of sentinels.
        let enough = own.len() >= count;
        let need = if enough { tokens } else { tokens + count };
        let Some(last) = i32::try_from(vocab).ok().filter(|_| vocab >= need) else {
            let has = if enough || own.is_empty() {
                String::new()
            } else {
                format!(", of its own only {}", own.len())
            };
            return Err(Error::input(
                format!(
                    "the model's vocabulary of {vocab} tokens does not fit the tokenizer `{}` of {tokens}",
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
        let end = match self {
            Self::Bytes => Bytes::TOKENS,
            Self::Pieces(pieces) => pieces.tokens(),
        };
        UNKNOWN..i32::try_from(end).unwrap_or(i32::MAX)
    }

    /// Names what tokens mean: `bytes`, or a digest.
    pub fn identity(&self) -> &str {
        match self {
            Self::Bytes => "bytes",
            Self::Pieces(pieces) => pieces.digest(),
        }
    }

    /// For people.
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

    /// Words by their length: `a` is 3, `bb` is 4.
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
        fails(words(20, &[19]), &["vocabulary of 21", "`words` of 20", "at least 22", "of its own only 1"]);
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
