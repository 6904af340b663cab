//! The tokens of a corpus: a text tokenized in memory, or prepared tokens on disk.

use super::{
    prepared::PreparedTokens,
    provenance::Provenance,
    reading::Reading,
    text::Text,
    tokenized_text::{Origin, TokenizedText},
    tokenizer::Tokenizer,
};
use crate::{Error, Result};
use std::{ops::Range, path::PathBuf, sync::Arc};

/// The tokens of a corpus. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    storage: Storage,
    tokenizer: Tokenizer,
    provenance: Provenance,
}

#[derive(Debug)]
enum Storage {
    Memory(TokenizedText),
    Prepared(Box<PreparedTokens>),
}

impl Tokens {
    /// Tokenizes files, directories and patterns, or opens one directory written by
    /// [`prepare`](super::prepared::prepare). A tokenizer of `None` means that of the prepared tokens, or
    /// bytes.
    ///
    /// # Errors
    /// If a file cannot be read or tokenized, or `paths` name prepared tokens together with other data.
    pub fn open(paths: &[PathBuf], reading: &Reading<'_>, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        match paths.iter().find(|path| PreparedTokens::is_at(path)) {
            None => {
                let tokenizer = tokenizer.unwrap_or(&Tokenizer::Bytes);
                let (tokens, origin) = TokenizedText::read_files(paths, reading, tokenizer)?;
                Ok(Self::of_memory(tokens, origin, tokenizer))
            }
            Some(dir) if paths.len() == 1 => Self::of_prepared(PreparedTokens::open(dir)?, tokenizer),
            Some(dir) => Err(Error::input(
                format!("`{}` holds prepared tokens, but other data is given with it", dir.display()),
                "name the two corpora, as in --data a=DIR b=FILE, or prepare all of the data together",
            )),
        }
    }

    /// Tokenizes a text.
    ///
    /// # Errors
    /// If the tokenizer fails, or the text is not UTF-8 and the tokenizer is not `bytes`.
    pub fn of_text(text: &Text, tokenizer: &Tokenizer) -> Result<Self> {
        let origin = Origin { files: 1, bytes: text.bytes.len() as u64, skipped: Vec::new() };
        Ok(Self::of_memory(TokenizedText::new(text, tokenizer)?, origin, tokenizer))
    }

    fn of_memory(tokens: TokenizedText, origin: Origin, tokenizer: &Tokenizer) -> Self {
        let Origin { files, bytes, skipped } = origin;
        let provenance = Provenance { files, bytes, skipped, prepared: None };
        Self(Arc::new(Inner { storage: Storage::Memory(tokens), tokenizer: tokenizer.clone(), provenance }))
    }

    /// Wraps prepared tokens.
    ///
    /// # Errors
    /// If a tokenizer is given that is not the one that made the tokens.
    pub fn of_prepared(prepared: PreparedTokens, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let record = prepared.tokenizer();
        let tokenizer = match tokenizer {
            Some(given) if given.identity() != record.identity() => {
                return Err(Error::input(
                    format!(
                        "the tokens in `{}` were made by the tokenizer `{}` ({}), not by `{}` ({})",
                        prepared.dir().display(),
                        record.name(),
                        record.identity(),
                        given.name(),
                        given.identity()
                    ),
                    "leave out --tokenizer, give the one that made the tokens, or prepare the text again",
                ));
            }
            // A tokenizer from a file can also tokenize other text.
            Some(given) => given.clone(),
            None => record,
        };
        let provenance = prepared.provenance();
        Ok(Self(Arc::new(Inner { storage: Storage::Prepared(Box::new(prepared)), tokenizer, provenance })))
    }

    /// The number of tokens, including end tokens after documents.
    pub fn len(&self) -> usize {
        match &self.0.storage {
            Storage::Memory(tokens) => tokens.len(),
            Storage::Prepared(prepared) => prepared.len(),
        }
    }

    /// True if there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tokens in `range`, which is within `0..len`.
    ///
    /// # Errors
    /// If the tokens on disk cannot be read or are damaged.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<i32>> {
        match &self.0.storage {
            Storage::Memory(tokens) => Ok(tokens.read(range)),
            Storage::Prepared(prepared) => prepared.read(range),
        }
    }

    /// The positions of end tokens, which separate documents.
    ///
    /// # Errors
    /// If the documents on disk cannot be read or are damaged.
    pub fn ends(&self) -> Result<Vec<usize>> {
        match &self.0.storage {
            Storage::Memory(tokens) => Ok(tokens.ends()),
            Storage::Prepared(prepared) => prepared.ends(),
        }
    }

    /// The tokenizer that made the tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// The origin of the tokens.
    pub fn provenance(&self) -> &Provenance {
        &self.0.provenance
    }

    /// The unit of lengths in messages: `bytes` or `tokens`.
    pub(super) fn unit(&self) -> &'static str {
        match &self.0.storage {
            Storage::Memory(TokenizedText::Bytes(_)) => "bytes",
            Storage::Memory(_) | Storage::Prepared(_) => "tokens",
        }
    }

    /// A digest of the tokens: the same for a text and for the tokens prepared from it.
    pub fn digest(&self) -> String {
        match &self.0.storage {
            Storage::Memory(tokens) => tokens.digest(),
            Storage::Prepared(prepared) => prepared.digest().to_owned(),
        }
    }
}
