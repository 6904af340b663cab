//! The tokens of texts, in memory.

use super::{
    assembly::{Assembly, Output},
    chunked::Chunked,
    files::{self, Skipped},
    reading::Reading,
    text::Text,
    tokenizer::{DOCUMENT_END, FIRST_BYTE, Tokenizer},
};
use crate::Result;
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// The tokens of texts, in the smallest type that holds them. An end token follows every separated document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenizedText {
    /// Tokens that are all bytes of text, as these bytes.
    Bytes(Chunked<u8>),
    /// Tokens below 65,536.
    Small(Chunked<u16>),
    /// Any tokens.
    Large(Chunked<u32>),
}

/// The size of a text, and the files it was read from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Origin {
    pub files: usize,
    pub bytes: u64,
    pub skipped: Vec<Skipped>,
}

impl TokenizedText {
    fn empty(tokenizer: &Tokenizer) -> Self {
        match (tokenizer, width(tokenizer)) {
            (Tokenizer::Bytes, _) => Self::Bytes(Chunked::default()),
            (Tokenizer::Pieces(_), 2) => Self::Small(Chunked::default()),
            (Tokenizer::Pieces(_), _) => Self::Large(Chunked::default()),
        }
    }

    /// Tokenizes files.
    ///
    /// # Errors
    /// If a file cannot be read, or its text cannot be tokenized.
    pub(super) fn read_files(
        paths: &[PathBuf],
        reading: &Reading<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<(Self, Origin)> {
        let mut memory = Memory { all: Self::empty(tokenizer), mark: 0 };
        let mut assembly = Assembly::new(tokenizer, &mut memory);
        let skipped = files::read(paths, reading, &mut assembly)?;
        let (files, bytes) = assembly.finish()?;
        Ok((memory.all, Origin { files, bytes, skipped }))
    }

    /// Tokenizes a text.
    ///
    /// # Errors
    /// If the tokenizer fails, makes an invalid token, or the text is not UTF-8 and the tokenizer is not
    /// `bytes`.
    pub fn new(text: &Text, tokenizer: &Tokenizer) -> Result<Self> {
        let mut memory = Memory { all: Self::empty(tokenizer), mark: 0 };
        let mut assembly = Assembly::new(tokenizer, &mut memory);
        assembly.of_text(text)?;
        assembly.finish()?;
        Ok(memory.all)
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(all) => all.len(),
            Self::Small(all) => all.len(),
            Self::Large(all) => all.len(),
        }
    }

    /// True if there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tokens in `range`, which is within `0..len`.
    pub fn read(&self, range: Range<usize>) -> Vec<i32> {
        match self {
            Self::Bytes(all) => all.range(range).map(|b| FIRST_BYTE + i32::from(b)).collect(),
            Self::Small(all) => all.range(range).map(i32::from).collect(),
            // Lossless: every token was an i32.
            Self::Large(all) => all.range(range).map(|t| t as i32).collect(),
        }
    }

    /// The positions of end tokens. No text becomes an end token.
    pub fn ends(&self) -> Vec<usize> {
        let found = |all: &mut dyn Iterator<Item = bool>| {
            all.enumerate().filter(|(_, end)| *end).map(|(at, _)| at).collect()
        };
        match self {
            Self::Bytes(_) => Vec::new(),
            Self::Small(all) => found(&mut all.range(0..all.len()).map(|t| i32::from(t) == DOCUMENT_END)),
            Self::Large(all) => found(&mut all.range(0..all.len()).map(|t| t == DOCUMENT_END as u32)),
        }
    }

    /// Returns `blake3:` and the digest of all tokens as little-endian numbers of the stored width.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part: Vec<u8> = Vec::with_capacity(1 << 20);
        let len = self.len();
        for at in (0..len).step_by(1 << 18) {
            let range = at..len.min(at + (1 << 18));
            part.clear();
            match self {
                Self::Bytes(all) => {
                    part.extend(
                        all.range(range).flat_map(|b| (FIRST_BYTE as u16 + u16::from(b)).to_le_bytes()),
                    );
                }
                Self::Small(all) => part.extend(all.range(range).flat_map(u16::to_le_bytes)),
                Self::Large(all) => part.extend(all.range(range).flat_map(u32::to_le_bytes)),
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

/// Tokens that are collected in memory.
struct Memory {
    all: TokenizedText,
    mark: usize,
}

impl Output for Memory {
    fn len(&self) -> u64 {
        self.all.len() as u64
    }

    fn mark(&mut self) -> Result<()> {
        self.mark = self.all.len();
        Ok(())
    }

    fn undo(&mut self) -> Result<()> {
        match &mut self.all {
            TokenizedText::Bytes(all) => all.truncate(self.mark),
            TokenizedText::Small(all) => all.truncate(self.mark),
            TokenizedText::Large(all) => all.truncate(self.mark),
        }
        Ok(())
    }

    fn tokens(&mut self, tokens: &[i32]) -> Result<()> {
        // Tokens fit the type: they are below the tokenizer's number of tokens.
        match &mut self.all {
            TokenizedText::Bytes(all) => all.extend(tokens.iter().map(|t| (t - FIRST_BYTE) as u8)),
            TokenizedText::Small(all) => all.extend(tokens.iter().map(|t| *t as u16)),
            TokenizedText::Large(all) => all.extend(tokens.iter().map(|t| *t as u32)),
        }
        Ok(())
    }

    fn document(&mut self, _: u64, separated: bool) -> Result<()> {
        if !separated {
            return Ok(());
        }
        if let TokenizedText::Bytes(bytes) = &mut self.all {
            // An end token is no byte.
            let bytes = std::mem::take(bytes);
            self.all = TokenizedText::Small(bytes.map(|b| FIRST_BYTE as u16 + u16::from(b)));
        }
        match &mut self.all {
            TokenizedText::Bytes(_) => unreachable!("bytes were converted"),
            TokenizedText::Small(all) => all.extend([DOCUMENT_END as u16]),
            TokenizedText::Large(all) => all.extend([DOCUMENT_END as u32]),
        }
        Ok(())
    }

    fn file(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::words, *};

    fn all(text: &Text, tokenizer: &Tokenizer) -> Vec<i32> {
        let tokens = TokenizedText::new(text, tokenizer).unwrap();
        tokens.read(0..tokens.len())
    }

    #[test]
    fn long_documents_have_the_tokens_of_their_lines() {
        let long: String = (0..40_000)
            .map(|i| format!("w{}{}", "x".repeat(i % 3), if i % 9 == 0 { "\n" } else { " " }))
            .collect();
        let tokenizer = words(8, &[]);
        let Tokenizer::Pieces(pieces) = &tokenizer else { unreachable!("words are pieces") };
        assert_eq!(all(&Text::new(long.as_str()), &tokenizer), pieces.encode(&long).unwrap());
    }

    #[test]
    fn documents_are_tokenized_separately() {
        // Two documents and a text file: `a bb`, `ccc`, `d`.
        let mut text = Text::new("a bbcccd");
        text.ends = vec![4, 7];
        for tokenizer in [words(9, &[]), words(70_000, &[])] {
            assert_eq!(all(&text, &tokenizer), [3, 4, 1, 5, 1, 3]);
        }
        let bytes = TokenizedText::new(&text, &Tokenizer::Bytes).unwrap();
        assert_eq!((bytes.ends(), bytes.read(3..6)), (vec![4, 8], vec![101, 1, 102]));
        let error = TokenizedText::new(&text, &words(5, &[])).unwrap_err().to_string();
        assert!(error.contains("makes token 5") && error.contains("below 5"), "{error}");
        let error = TokenizedText::new(&Text::new(vec![b'a', 0xff]), &words(5, &[])).unwrap_err().to_string();
        assert!(error.contains("not UTF-8 at offset 1"), "{error}");
    }

    #[test]
    fn a_file_that_turns_out_to_be_binary_leaves_no_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("a.txt", b"a bb\n");
        // More than is tokenized at once, and binary at the end.
        write("b.txt", &[b"bb ".repeat(3 << 20).as_slice(), b"\0"].concat());
        write("c.txt", b"ccc");
        let paths = [dir.path().to_owned()];
        for tokenizer in [words(9, &[]), words(70_000, &[])] {
            let (tokens, origin) =
                TokenizedText::read_files(&paths, &Reading::default(), &tokenizer).unwrap();
            assert_eq!(tokens.read(0..tokens.len()), [3, 4, 5]);
            assert_eq!((origin.files, origin.bytes, origin.skipped.len()), (2, 8, 1));
        }
    }
}
