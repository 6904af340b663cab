//! Text to tokens and back, for models over bytes.
//!
//! Sentinels, which mark missing spans, are written as in T5: `<extra_id_0>` is the first one, the last token
//! of the vocabulary.

use crate::{
    Result,
    data::tokenizer::{Bytes, EOS, FIRST_BYTE},
};

const OPEN: &str = "<extra_id_";

/// Text to tokens and back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Codec {
    bytes: Bytes,
    sentinels: usize,
    vocab: usize,
}

impl Codec {
    /// For a vocabulary of bytes; what is above the bytes are sentinels.
    pub fn new(vocab: usize) -> Result<Self> {
        let sentinels = vocab.saturating_sub(Bytes::TOKENS);
        Ok(Self { bytes: Bytes::new(vocab, 0)?, sentinels, vocab })
    }

    /// The tokens of `text`, with the end of the sequence.
    pub fn encode(&self, text: &str) -> Vec<i32> {
        let mut tokens = Vec::with_capacity(text.len() + 1);
        let mut rest = text;
        while let Some(at) = rest.find(OPEN) {
            tokens.extend(rest[..at].bytes().map(|b| self.bytes.token(b)));
            rest = &rest[at..];
            match self.sentinel(rest) {
                Some((token, length)) => {
                    tokens.push(token);
                    rest = &rest[length..];
                }
                None => {
                    tokens.extend(rest[..OPEN.len()].bytes().map(|b| self.bytes.token(b)));
                    rest = &rest[OPEN.len()..];
                }
            }
        }
        tokens.extend(rest.bytes().map(|b| self.bytes.token(b)));
        tokens.push(EOS);
        tokens
    }

    /// The sentinel that `text` begins with, and how long it is there.
    fn sentinel(&self, text: &str) -> Option<(i32, usize)> {
        let end = text.find('>')?;
        let number: usize = text[OPEN.len()..end].parse().ok()?;
        (number < self.sentinels).then(|| (self.bytes.sentinel(number), end + 1))
    }

    /// The text of `tokens` up to the end of the sequence. Bytes that are no UTF-8 become the replacement
    /// character; padding and unknown tokens are left out.
    pub fn decode(&self, tokens: &[i32]) -> String {
        let mut text = Vec::new();
        for token in tokens.iter().take_while(|t| **t != EOS) {
            if let Some(byte) = self.bytes.byte(*token) {
                text.push(byte);
            } else if *token >= FIRST_BYTE && (*token as usize) < self.vocab {
                let number = self.vocab - 1 - *token as usize;
                text.extend(format!("{OPEN}{number}>").bytes());
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_sentinels_go_both_ways() {
        let codec = Codec::new(384).unwrap();
        let text = "a <extra_id_0> b<extra_id_124>é";
        let tokens = codec.encode(text);
        assert_eq!((tokens[0], tokens[2], tokens.last()), (100, 383, Some(&1)));
        assert_eq!(tokens.iter().filter(|t| **t >= 259).collect::<Vec<_>>(), [&383, &259]);
        assert_eq!(codec.decode(&tokens), text);
        // No sentinels: such as are not there, and what only begins like one.
        for text in ["<extra_id_125>", "<extra_id_x>", "<extra_id_", "<extra_id_1"] {
            assert_eq!(codec.encode(text).len(), text.len() + 1, "{text}");
            assert_eq!(codec.decode(&codec.encode(text)), text);
        }
        assert_eq!(codec.decode(&[3 + 0xff, 0, 2, 1, 100]), "\u{fffd}");
        assert!(Codec::new(100).unwrap_err().to_string().contains("at least 259"));
    }
}
