//! Bytes as tokens, and where special tokens are.
//!
//! The vocabulary is ByT5's: 0 is padding, 1 the end of a sequence, 2 stands for what is unknown (no byte
//! is), bytes follow from 3 on. Sentinels count down from the end of the vocabulary.

use crate::{Error, Result};

/// Padding: counts for nothing.
pub const PAD: i32 = 0;
/// The end of a sequence.
pub const EOS: i32 = 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sentinels_and_the_rest_do_not_meet() {
        let bytes = Bytes::new(384, 7).unwrap();
        assert_eq!((bytes.token(0), bytes.token(255)), (3, 258));
        assert_eq!(
            (0..=255).map(|b| bytes.byte(bytes.token(b))).collect::<Option<Vec<_>>>().unwrap().len(),
            256
        );
        assert_eq!([PAD, EOS, UNKNOWN, 259].map(|t| bytes.byte(t)), [None; 4]);
        assert_eq!((bytes.sentinel(0), bytes.sentinel(6)), (383, 377));
        assert_eq!(Bytes::new(266, 7).unwrap().sentinel(6), 259);
        let error = Bytes::new(265, 7).unwrap_err().to_string();
        assert!(error.contains("265") && error.contains("at least 266"), "{error}");
    }
}
