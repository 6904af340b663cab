//! The tokens of a text, in memory.

use super::{
    files::Text,
    tokenizer::{DOCUMENT_END, FIRST_BYTE, Pieces, Tokenizer},
};
use crate::{Error, Result};
use rayon::prelude::*;
use std::{collections::BTreeSet, ops::Range};

/// The tokens of a text, in the smallest type that holds them. An end token follows every separated document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenizedText {
    /// The bytes of the text are the tokens.
    Bytes,
    /// Tokens below 65,536.
    Small(Vec<u16>),
    /// Any tokens.
    Large(Vec<u32>),
}

impl TokenizedText {
    /// Tokenizes `text` in parallel.
    ///
    /// # Errors
    /// If the tokenizer fails, makes an invalid token, or the text is not UTF-8 and the tokenizer is not
    /// `bytes`.
    pub fn new(text: &Text, tokenizer: &Tokenizer) -> Result<Self> {
        Ok(match tokenizer {
            Tokenizer::Bytes if text.ends.is_empty() => Self::Bytes,
            Tokenizer::Bytes => {
                let mut all = Vec::with_capacity(text.bytes.len() + text.ends.len());
                for part in text.parts() {
                    let end = part.end;
                    all.extend(text.bytes[part].iter().map(|b| FIRST_BYTE as u16 + u16::from(*b)));
                    if text.ends.binary_search(&end).is_ok() {
                        all.push(DOCUMENT_END as u16);
                    }
                }
                Self::Small(all)
            }
            Tokenizer::Pieces(pieces) if pieces.tokens() <= 1 << 16 => {
                Self::Small(pieced(text, &**pieces, |token| u16::try_from(token).ok())?)
            }
            Tokenizer::Pieces(pieces) => {
                Self::Large(pieced(text, &**pieces, |token| u32::try_from(token).ok())?)
            }
        })
    }

    /// The number of tokens. `text` is the text they were made of.
    pub fn len(&self, text: &Text) -> usize {
        match self {
            Self::Bytes => text.bytes.len(),
            Self::Small(all) => all.len(),
            Self::Large(all) => all.len(),
        }
    }

    /// Returns the tokens in `range`, which is within `0..len`.
    pub fn read(&self, text: &Text, range: Range<usize>) -> Vec<i32> {
        match self {
            Self::Bytes => text.bytes[range].iter().map(|b| FIRST_BYTE + i32::from(*b)).collect(),
            Self::Small(all) => all[range].iter().map(|t| i32::from(*t)).collect(),
            // Lossless: every token was an i32.
            Self::Large(all) => all[range].iter().map(|t| *t as i32).collect(),
        }
    }

    /// The positions of end tokens. No text becomes an end token.
    pub fn ends(&self, text: &Text) -> Vec<usize> {
        let found = |all: &mut dyn Iterator<Item = bool>| {
            all.enumerate().filter(|(_, e)| *e).map(|(at, _)| at).collect()
        };
        match self {
            Self::Bytes => {
                debug_assert!(text.ends.is_empty(), "a text with documents stores its end tokens");
                Vec::new()
            }
            Self::Small(all) => found(&mut all.iter().map(|t| i32::from(*t) == DOCUMENT_END)),
            Self::Large(all) => found(&mut all.iter().map(|t| *t == DOCUMENT_END as u32)),
        }
    }

    /// Returns `blake3:` and the digest of all tokens as little-endian numbers of the stored width.
    pub fn digest(&self, text: &Text) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part: Vec<u8> = Vec::with_capacity(1 << 20);
        let len = self.len(text);
        for at in (0..len).step_by(1 << 18) {
            let end = len.min(at + (1 << 18));
            part.clear();
            match self {
                Self::Bytes => {
                    part.extend(
                        text.bytes[at..end]
                            .iter()
                            .flat_map(|b| (FIRST_BYTE as u16 + u16::from(*b)).to_le_bytes()),
                    );
                }
                Self::Small(all) => part.extend(all[at..end].iter().flat_map(|t| t.to_le_bytes())),
                Self::Large(all) => part.extend(all[at..end].iter().flat_map(|t| t.to_le_bytes())),
            }
            hasher.update(&part);
        }
        format!("blake3:{}", hasher.finalize().to_hex())
    }
}

/// Bytes per stored token of a tokenizer.
pub(super) fn width(tokenizer: &Tokenizer) -> usize {
    match tokenizer {
        Tokenizer::Pieces(pieces) if pieces.tokens() > 1 << 16 => 4,
        Tokenizer::Bytes | Tokenizer::Pieces(_) => 2,
    }
}

/// The size in bytes at which long documents are divided, at the end of a line, so that a tokenizer gets a
/// bounded text.
const CHUNK: usize = 1 << 16;

/// Tokenizes the document in the range `of`, chunk by chunk.
pub(super) fn document_tokens(text: &Text, of: Range<usize>, pieces: &dyn Pieces) -> Result<Vec<i32>> {
    let bytes = &text.bytes[of.clone()];
    let document = std::str::from_utf8(bytes).map_err(|error| {
        Error::input(
            format!("the text is not UTF-8 at offset {}", of.start + error.valid_up_to()),
            "a tokenizer other than `bytes` needs UTF-8",
        )
    })?;
    let mut all = Vec::new();
    for chunk in chunks(document, CHUNK) {
        let tokens = pieces.encode(chunk)?;
        let known = 2..pieces.tokens() as i32;
        if let Some(wrong) = tokens.iter().find(|t| !known.contains(t)) {
            return Err(Error::input(
                format!(
                    "the tokenizer `{}` makes token {wrong} of text, but tokens of text must be from 2 to below {}",
                    pieces.name(),
                    known.end
                ),
                "0 and 1 are reserved for padding and the end: use a tokenizer whose text does not use them",
            ));
        }
        all.extend(tokens);
    }
    Ok(all)
}

fn chunks(mut text: &str, most: usize) -> Vec<&str> {
    let mut out = Vec::new();
    while text.len() > most {
        let bytes = text.as_bytes();
        let last = bytes[..most].iter().rposition(|b| *b == b'\n');
        let end = last.or_else(|| bytes[most..].iter().position(|b| *b == b'\n').map(|at| most + at));
        // A line break is one character, so that both sides are valid UTF-8.
        let (chunk, rest) = text.split_at(end.map_or(text.len(), |at| at + 1));
        out.push(chunk);
        text = rest;
    }
    out.push(text);
    out.retain(|chunk| !chunk.is_empty());
    out
}

fn pieced<T: Send>(
    text: &Text,
    pieces: &dyn Pieces,
    token: impl Fn(i32) -> Option<T> + Sync,
) -> Result<Vec<T>> {
    let ends: BTreeSet<usize> = text.ends.iter().copied().collect();
    let documents: Vec<Range<usize>> = text.documents().collect();
    // In groups, so that few documents are in memory as lists of 32-bit tokens.
    let mut all = Vec::new();
    for some in documents.chunks(4096) {
        let tokens: Vec<Vec<i32>> = some
            .par_iter()
            .map(|document| document_tokens(text, document.clone(), pieces))
            .collect::<Result<_>>()?;
        for (document, tokens) in some.iter().zip(tokens) {
            // Tokens fit the type: they are below the tokenizer's number of tokens.
            all.extend(tokens.into_iter().filter_map(&token));
            if ends.contains(&document.end) {
                all.extend(token(DOCUMENT_END));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::words, *};

    #[test]
    fn long_documents_are_divided_at_line_ends() {
        assert_eq!(chunks("ab\ncd\nefgh", 6), ["ab\ncd\n", "efgh"]);
        assert_eq!(chunks("abcdefgh\nij", 3), ["abcdefgh\n", "ij"]);
        assert_eq!(chunks("abcdefgh", 3), ["abcdefgh"]);
        assert_eq!(chunks("\u{e9}\u{e9}\n\u{e9}\n", 5), ["\u{e9}\u{e9}\n", "\u{e9}\n"]);
        let long: String = (0..40_000)
            .map(|i| format!("w{}{}", "x".repeat(i % 3), if i % 9 == 0 { "\n" } else { " " }))
            .collect();
        assert!(chunks(&long, CHUNK).len() > 1 && chunks(&long, CHUNK).concat() == long);
        let tokenizer = words(8, &[]);
        let Tokenizer::Pieces(pieces) = &tokenizer else { unreachable!("words are pieces") };
        let stream = TokenizedText::new(&Text::new(long.as_str()), &tokenizer).unwrap();
        let whole: Vec<u16> = pieces.encode(&long).unwrap().into_iter().map(|t| t as u16).collect();
        assert_eq!(stream, TokenizedText::Small(whole));
    }

    #[test]
    fn documents_are_tokenized_separately() {
        // Two documents and a text file: `a bb`, `ccc`, `d`.
        let mut text = Text::new("a bbcccd");
        text.ends = vec![4, 7];
        assert_eq!(
            TokenizedText::new(&text, &words(9, &[])).unwrap(),
            TokenizedText::Small(vec![3, 4, 1, 5, 1, 3])
        );
        assert_eq!(
            TokenizedText::new(&text, &words(70_000, &[])).unwrap(),
            TokenizedText::Large(vec![3, 4, 1, 5, 1, 3])
        );
        let error = TokenizedText::new(&text, &words(5, &[])).unwrap_err().to_string();
        assert!(error.contains("makes token 5") && error.contains("below 5"), "{error}");
        let error = TokenizedText::new(&Text::new(vec![b'a', 0xff]), &words(5, &[])).unwrap_err().to_string();
        assert!(error.contains("not UTF-8 at offset 1"), "{error}");
    }
}
