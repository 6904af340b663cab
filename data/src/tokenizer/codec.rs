//! Conversion of text with sentinels to tokens and back.
//!
//! Sentinels are written as in T5: `<extra_id_0>` is the first one.

use super::{Bytes, FIRST_BYTE, Tokenizer};
use crate::{Error, Result, SpecialTokens};

const OPEN: &str = "<extra_id_";

/// The end token where tokens are numbered anew.
const END: u32 = 1;

/// A codec between text with sentinels and tokens.
#[derive(Clone, Debug)]
pub struct Codec {
    tokenizer: Tokenizer,
    /// The sentinels, in order.
    sentinels: Vec<i32>,
    vocab: usize,
    eos: i32,
}

impl Codec {
    /// Creates a codec for a model with `vocab` tokens, tokenized by `tokenizer`. Without sentinels of the
    /// program, those of the tokenizer or the tokens above it are sentinels.
    ///
    /// # Errors
    /// If the vocabulary is smaller than the tokenizer's, or the tokens of the tokenizer's file are numbered
    /// anew but the program has another end token than that numbering: it then has the numbers of the file.
    pub fn new(vocab: usize, tokenizer: Tokenizer, special: SpecialTokens) -> Result<Self> {
        if let Tokenizer::Pieces(pieces) = &tokenizer
            && pieces.is_renumbered()
            && special.eos != END
        {
            return Err(Error::input(
                format!(
                    "the program ends sequences with token {}, but the tokens of `{}` are numbered after padding, \
                     the end ({END}) and the unknown token",
                    special.eos,
                    pieces.name()
                ),
                "use token ids, as the model's own tokenizer numbers them",
            ));
        }
        let count = match &tokenizer {
            Tokenizer::Bytes => vocab.saturating_sub(Bytes::TOKENS),
            Tokenizer::Pieces(pieces) if pieces.has_file_numbers() => 0,
            Tokenizer::Pieces(pieces) => match pieces.sentinels().len() {
                0 => vocab.saturating_sub(pieces.tokens()),
                own => own,
            },
        };
        let sentinels = match special.sentinels {
            Some(own) => (0..own.count as i32).map(|span| own.first as i32 - span).collect(),
            None => tokenizer.sentinels(vocab, count)?,
        };
        Ok(Self { tokenizer, sentinels, vocab, eos: special.eos as i32 })
    }

    /// The sentinels, in order.
    pub fn sentinels(&self) -> &[i32] {
        &self.sentinels
    }

    /// Returns the tokens of `text`, with an end token.
    ///
    /// # Errors
    /// If the tokenizer fails, or makes a token outside the vocabulary.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = self.encode_part(text)?;
        tokens.push(self.eos);
        Ok(tokens)
    }

    /// Returns the tokens of `text`, without an end token.
    ///
    /// # Errors
    /// If the tokenizer fails, or makes a token outside the vocabulary.
    pub fn encode_part(&self, text: &str) -> Result<Vec<i32>> {
        let mut tokens = Vec::with_capacity(text.len() + 1);
        // `done` is the end of the text that is tokenized; the search for sentinels continues at `at`.
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
        Ok(tokens)
    }

    /// Appends the tokens of text without sentinels.
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

    /// Returns the sentinel that `text` begins with, and the length of its name.
    fn sentinel(&self, text: &str) -> Option<(i32, usize)> {
        let end = text.find('>')?;
        let number: usize = text[OPEN.len()..end].parse().ok()?;
        self.sentinels.get(number).map(|token| (*token, end + 1))
    }

    /// Returns the text of `tokens` up to the end token. Bytes that are not UTF-8 become the replacement
    /// character; padding and unknown tokens are skipped.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, tokens: &[i32]) -> Result<String> {
        let end = tokens.iter().position(|t| *t == self.eos).unwrap_or(tokens.len());
        let mark =
            |token: i32| self.sentinels.iter().position(|s| *s == token).map(|n| format!("{OPEN}{n}>"));
        let Tokenizer::Pieces(pieces) = &self.tokenizer else {
            let bytes = Bytes::new(self.vocab, 0)?;
            let mut text = Vec::new();
            for token in &tokens[..end] {
                // ByT5's sentinels are bytes that no text has.
                match mark(*token) {
                    Some(mark) => text.extend(mark.bytes()),
                    None => text.extend(bytes.byte(*token)),
                }
            }
            return Ok(String::from_utf8_lossy(&text).into_owned());
        };
        // The text on each side of a sentinel is decoded separately and joined with spaces.
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
    use crate::Sentinels;
    use crate::tokenizer::tests::words;

    fn codec(vocab: usize, tokenizer: Tokenizer) -> Result<Codec> {
        Codec::new(vocab, tokenizer, SpecialTokens { pad: 0, eos: 1, sentinels: None })
    }

    #[test]
    fn text_and_sentinels_go_both_ways() {
        let it = codec(384, Tokenizer::Bytes).unwrap();
        let text = "a <extra_id_0> b<extra_id_124>é";
        let tokens = it.encode(text).unwrap();
        assert_eq!((tokens[0], tokens[2], tokens.last()), (100, 383, Some(&1)));
        assert_eq!(tokens.iter().filter(|t| **t >= 259).collect::<Vec<_>>(), [&383, &259]);
        assert_eq!(it.decode(&tokens).unwrap(), text);
        // Unknown sentinels, and text that only begins like one, are ordinary text.
        for text in ["<extra_id_125>", "<extra_id_x>", "<extra_id_", "<extra_id_1"] {
            assert_eq!(it.encode(text).unwrap().len(), text.len() + 1, "{text}");
            assert_eq!(it.decode(&it.encode(text).unwrap()).unwrap(), text);
        }
        assert_eq!(it.decode(&[3 + 0xff, 0, 2, 1, 100]).unwrap(), "\u{fffd}");
        assert!(codec(100, Tokenizer::Bytes).unwrap_err().to_string().contains("at least 259"));
    }

    #[test]
    fn sentinels_of_a_program_may_be_bytes_as_in_byt5() {
        let special = SpecialTokens { pad: 0, eos: 1, sentinels: Some(Sentinels { first: 258, count: 11 }) };
        let it = Codec::new(384, Tokenizer::Bytes, special).unwrap();
        let tokens = it.encode("The dog <extra_id_0>a ball").unwrap();
        let expect = [87, 107, 104, 35, 103, 114, 106, 35, 258, 100, 35, 101, 100, 111, 111, 1];
        assert_eq!(tokens, expect);
        let text = "é\u{10ffff} <extra_id_10> <extra_id_11>";
        assert_eq!(it.encode(text).unwrap()[7], 248);
        assert_eq!(it.decode(&it.encode(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn pieces_have_their_own_sentinels_or_those_above_them() {
        let it = codec(32, words(20, &[19, 18])).unwrap();
        let tokens = it.encode("a bb <extra_id_1> ccc<extra_id_7>").unwrap();
        // There is no eighth sentinel: it is part of a word, `ccc<extra_id_7>`.
        assert_eq!(tokens, [3, 4, 18, 17, 1]);
        assert_eq!(it.decode(&[3, 4, 18, 5, 1, 3]).unwrap(), "x xx <extra_id_1> xxx");
        let above = codec(22, words(20, &[])).unwrap();
        assert_eq!(above.encode("<extra_id_0> a").unwrap(), [21, 3, 1]);
        assert_eq!(above.decode(&[21, 3]).unwrap(), "<extra_id_0> x");
        let error = codec(10, words(20, &[])).unwrap_err().to_string();
        assert!(error.contains("vocabulary of 10") && error.contains("`words` of 20"), "{error}");
        let error = codec(20, words(20, &[])).unwrap().encode(&"x".repeat(40)).unwrap_err().to_string();
        assert!(error.contains("makes token 42") && error.contains("below 20"), "{error}");
    }
}
