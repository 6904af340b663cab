//! Text to tokens and back.
//!
//! Sentinels, which mark missing spans, are written as in T5: `<extra_id_0>` is the first one. They are the
//! tokenizer's own, or count down from the last token of the vocabulary.

use super::{Bytes, EOS, FIRST_BYTE, Tokenizer};
use crate::{Error, Result};

const OPEN: &str = "<extra_id_";

/// Text to tokens and back.
#[derive(Clone, Debug)]
pub struct Codec {
    tokenizer: Tokenizer,
    /// That of the first span first.
    sentinels: Vec<i32>,
    vocab: usize,
}

impl Codec {
    /// For a vocabulary of bytes; what is above the bytes are sentinels.
    pub fn new(vocab: usize) -> Result<Self> {
        Self::with(vocab, Tokenizer::Bytes)
    }

    /// For a model with `vocab` tokens, as `tokenizer` makes them.
    pub fn with(vocab: usize, tokenizer: Tokenizer) -> Result<Self> {
        let count = match &tokenizer {
            Tokenizer::Bytes => vocab.saturating_sub(Bytes::TOKENS),
            Tokenizer::Pieces(pieces) => match pieces.sentinels().len() {
                0 => vocab.saturating_sub(pieces.tokens()),
                own => own,
            },
        };
        let sentinels = tokenizer.sentinels(vocab, count)?;
        Ok(Self { tokenizer, sentinels, vocab })
    }

    /// The tokens of `text`, with the end of the sequence.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = Vec::with_capacity(text.len() + 1);
        // What is up to here is in `tokens`; what begins like a sentinel behind it is looked for in `rest`.
        let (mut done, mut at) = (0, 0);
        while let Some(found) = text[at..].find(OPEN) {
            let start = at + found;
            match self.sentinel(&text[start..]) {
                Some((token, length)) => {
                    self.plain(&text[done..start], &mut tokens)?;
                    tokens.push(token);
                    (done, at) = (start + length, start + length);
                }
                None => at = start + OPEN.len(),
            }
        }
        self.plain(&text[done..], &mut tokens)?;
        tokens.push(EOS);
        Ok(tokens)
    }

    /// Text without sentinels.
    fn plain(&self, text: &str, tokens: &mut Vec<i32>) -> Result<()> {
        match &self.tokenizer {
            Tokenizer::Bytes => tokens.extend(text.bytes().map(|b| FIRST_BYTE + i32::from(b))),
            Tokenizer::Pieces(pieces) => {
                let new = pieces.encode(text)?;
                if let Some(wrong) = new.iter().find(|t| !(0..self.vocab as i64).contains(&i64::from(**t))) {
                    return Err(Error::input(
                        format!("the tokenizer `{}` makes token {wrong} of text", pieces.name()),
                        format!("the model has tokens below {}", self.vocab),
                    ));
                }
                tokens.extend(new);
            }
        }
        Ok(())
    }

    /// The sentinel that `text` begins with, and how long it is there.
    fn sentinel(&self, text: &str) -> Option<(i32, usize)> {
        let end = text.find('>')?;
        let number: usize = text[OPEN.len()..end].parse().ok()?;
        self.sentinels.get(number).map(|token| (*token, end + 1))
    }

    /// The text of `tokens` up to the end of the sequence. Bytes that are no UTF-8 become the replacement
    /// character; padding and unknown tokens are left out.
    pub fn decode(&self, tokens: &[i32]) -> Result<String> {
        let end = tokens.iter().position(|t| *t == EOS).unwrap_or(tokens.len());
        let mark =
            |token: i32| self.sentinels.iter().position(|s| *s == token).map(|n| format!("{OPEN}{n}>"));
        let Tokenizer::Pieces(pieces) = &self.tokenizer else {
            let bytes = Bytes::new(self.vocab, 0)?;
            let mut text = Vec::new();
            for token in &tokens[..end] {
                match bytes.byte(*token) {
                    Some(byte) => text.push(byte),
                    None => text.extend(mark(*token).unwrap_or_default().bytes()),
                }
            }
            return Ok(String::from_utf8_lossy(&text).into_owned());
        };
        // Text on both sides of a sentinel is text of its own; a space stands for what was between.
        let mut parts: Vec<String> = Vec::new();
        let mut rest = &tokens[..end];
        while !rest.is_empty() {
            let at = rest.iter().position(|t| self.sentinels.contains(t)).unwrap_or(rest.len());
            parts.push(pieces.decode(&rest[..at])?);
            parts.extend(rest.get(at).and_then(|token| mark(*token)));
            rest = rest.get(at + 1..).unwrap_or_default();
        }
        parts.retain(|part| !part.is_empty());
        Ok(parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::words;

    #[test]
    fn text_and_sentinels_go_both_ways() {
        let codec = Codec::new(384).unwrap();
        let text = "a <extra_id_0> b<extra_id_124>é";
        let tokens = codec.encode(text).unwrap();
        assert_eq!((tokens[0], tokens[2], tokens.last()), (100, 383, Some(&1)));
        assert_eq!(tokens.iter().filter(|t| **t >= 259).collect::<Vec<_>>(), [&383, &259]);
        assert_eq!(codec.decode(&tokens).unwrap(), text);
        // No sentinels: such as are not there, and what only begins like one.
        for text in ["<extra_id_125>", "<extra_id_x>", "<extra_id_", "<extra_id_1"] {
            assert_eq!(codec.encode(text).unwrap().len(), text.len() + 1, "{text}");
            assert_eq!(codec.decode(&codec.encode(text).unwrap()).unwrap(), text);
        }
        assert_eq!(codec.decode(&[3 + 0xff, 0, 2, 1, 100]).unwrap(), "\u{fffd}");
        assert!(Codec::new(100).unwrap_err().to_string().contains("at least 259"));
    }

    #[test]
    fn pieces_have_their_own_sentinels_or_those_above_them() {
        let codec = Codec::with(32, words(20, &[19, 18])).unwrap();
        let tokens = codec.encode("a bb <extra_id_1> ccc<extra_id_7>").unwrap();
        // Nobody has an eighth sentinel: it is a part of a word, `ccc<extra_id_7>`.
        assert_eq!(tokens, [3, 4, 18, 17, 1]);
        assert_eq!(codec.decode(&[3, 4, 18, 5, 1, 3]).unwrap(), "x xx <extra_id_1> xxx");
        let above = Codec::with(22, words(20, &[])).unwrap();
        assert_eq!(above.encode("<extra_id_0> a").unwrap(), [21, 3, 1]);
        assert_eq!(above.decode(&[21, 3]).unwrap(), "<extra_id_0> x");
        let error = Codec::with(10, words(20, &[])).unwrap_err().to_string();
        assert!(error.contains("vocabulary of 10") && error.contains("`words` of 20"), "{error}");
        let error = Codec::with(20, words(20, &[])).unwrap().encode(&"x".repeat(40)).unwrap_err().to_string();
        assert!(error.contains("makes token 42") && error.contains("below 20"), "{error}");
    }
}
