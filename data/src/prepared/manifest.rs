//! The manifest of prepared tokens.

use crate::{
    Error, Result,
    tokenizer::{Bytes, Pieces, Tokenizer},
};
use proto::regular;
use serde::{Deserialize, Serialize};
use std::{
    io::Read,
    path::{Path, PathBuf},
};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const TOKENS: &str = "tokens.bin";
pub(super) const DOCUMENTS: &str = "documents.bin";
pub(super) const FORMAT: &str = "mesh token cache";
pub(super) const VERSION: u32 = 1;
/// The bit of a document's end in `documents.bin` that says that an end token follows.
pub(super) const END_TOKEN: u64 = 1 << 63;

/// The contents of a directory of prepared tokens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub(super) format: String,
    pub(super) version: u32,
    /// The tokenizer that made the tokens.
    pub tokenizer: TokenizerRecord,
    /// Bytes per token: 2 or 4.
    pub width: usize,
    /// The number of tokens, including end tokens.
    pub tokens: u64,
    /// The number of documents.
    pub documents: u64,
    /// Bytes of text, uncompressed.
    pub bytes: u64,
    /// The field of JSON Lines or the column of Parquet that held the text.
    pub text_field: String,
    pub(super) tokens_digest: String,
    pub(super) documents_digest: String,
    /// The files that were read, in order.
    pub sources: Vec<SourceFile>,
    /// The digest of the manifest without this field. `None` in directories of earlier versions.
    #[serde(default)]
    pub(super) manifest_digest: Option<String>,
}

impl Manifest {
    /// Returns `blake3:` and the digest of the manifest without its digest.
    pub(super) fn digest(&self) -> Result<String> {
        let text = serde_json::to_vec(&Self { manifest_digest: None, ..self.clone() }).map_err(|e| {
            Error::input(
                format!("the manifest of the prepared tokens cannot be written: {e}"),
                "rename the data files so that their names are UTF-8",
            )
        })?;
        Ok(format!("blake3:{}", blake3::hash(&text).to_hex()))
    }
}

/// The properties of a tokenizer that training needs. It cannot encode or decode.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecord {
    /// The file it was read from, or `bytes`.
    pub name: String,
    /// `bytes`, or a digest.
    pub identity: String,
    /// The number of tokens.
    pub tokens: usize,
    /// Its sentinels, in order.
    pub sentinels: Vec<i32>,
}

/// A file that was read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// The path.
    pub path: PathBuf,
    /// The size on disk in bytes.
    pub bytes: u64,
    /// `blake3:` and the digest of the file.
    pub digest: String,
}

impl TokenizerRecord {
    /// Describes a tokenizer.
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let (tokens, sentinels) = match tokenizer {
            Tokenizer::Bytes => (Bytes::TOKENS, Vec::new()),
            Tokenizer::Pieces(pieces) => (pieces.tokens(), pieces.sentinels().to_vec()),
        };
        let (name, identity) = (tokenizer.name().to_owned(), tokenizer.identity().to_owned());
        Self { name, identity, tokens, sentinels }
    }

    fn unavailable(&self) -> Error {
        Error::input(
            format!("the tokenizer `{}` made these tokens, but its file is not given", self.name),
            "name its file with --tokenizer",
        )
    }
}

impl Pieces for TokenizerRecord {
    fn encode(&self, _: &str) -> Result<Vec<i32>> {
        Err(self.unavailable())
    }
    fn decode(&self, _: &[i32]) -> Result<String> {
        Err(self.unavailable())
    }
    fn tokens(&self) -> usize {
        self.tokens
    }
    fn sentinels(&self) -> &[i32] {
        &self.sentinels
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn digest(&self) -> &str {
        &self.identity
    }
}

/// Returns `blake3:` and the digest of a file.
pub(super) fn file_digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = regular::open(path).map_err(Error::io("opening", path))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk).map_err(Error::io("reading", path))? {
            0 => return Ok(format!("blake3:{}", hasher.finalize().to_hex())),
            n => hasher.update(&chunk[..n]),
        };
    }
}
