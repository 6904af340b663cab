//! Reading prepared tokens.

use super::manifest::{DOCUMENTS, END_TOKEN, FORMAT, MANIFEST, Manifest, TOKENS, VERSION, file_digest};
use crate::{
    Error, Provenance, Result,
    tokenizer::{DOCUMENT_END, Tokenizer},
};
use proto::regular;
use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Up to this many bytes of tokens, opening a directory compares them with their digest.
const VERIFIED_ON_OPEN: u64 = 1 << 30;

/// A directory of prepared tokens.
#[derive(Debug)]
pub struct PreparedTokens {
    dir: PathBuf,
    manifest: Manifest,
    tokens: File,
}

impl PreparedTokens {
    /// True if `dir` is a directory of prepared tokens, possibly a damaged one.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(TOKENS).is_file() && dir.join(MANIFEST).is_file()
            || regular::read_to_string(&dir.join(MANIFEST)).is_ok_and(|text| text.contains(FORMAT))
    }

    /// Opens a directory and compares it with its manifest: the sizes, the digest of the documents, and the
    /// digest of the tokens unless they are more than 1 GiB. [`PreparedTokens::verify`] compares everything.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the format is of another version.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let text = regular::read_to_string(&path).map_err(Error::io("reading the manifest", &path))?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|e| damaged(dir, format!("its manifest is not readable: {e}")))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            return Err(Error::input(
                format!(
                    "`{}` has format `{}` version {}, expected `{FORMAT}` version {VERSION}",
                    dir.display(),
                    manifest.format,
                    manifest.version
                ),
                "prepare the text again with this version of meshc",
            ));
        }
        if let Some(digest) = &manifest.manifest_digest
            && *digest != manifest.digest()?
        {
            return Err(damaged(dir, "the digest of its manifest differs".into()));
        }
        let tokens = dir.join(TOKENS);
        let tokens = regular::open(&tokens).map_err(Error::io("opening the tokens", &tokens))?;
        let prepared = Self { dir: dir.to_owned(), manifest, tokens };
        prepared.check()?;
        Ok(prepared)
    }

    fn check(&self) -> Result<()> {
        let Manifest { width, tokens, documents, .. } = self.manifest;
        let vocab = self.manifest.tokenizer.tokens;
        let fits = match width {
            2 => vocab <= 1 << 16,
            4 => i32::try_from(vocab).is_ok(),
            _ => false,
        };
        if !fits || vocab <= DOCUMENT_END as usize {
            return Err(damaged(
                &self.dir,
                format!("a tokenizer of {vocab} tokens, stored in {width} bytes each"),
            ));
        }
        self.check_size(TOKENS, tokens.checked_mul(width as u64))?;
        self.check_size(DOCUMENTS, documents.checked_mul(8))?;
        self.check_digest(DOCUMENTS, &self.manifest.documents_digest)?;
        if tokens * width as u64 <= VERIFIED_ON_OPEN {
            self.check_digest(TOKENS, &self.manifest.tokens_digest)?;
        }
        Ok(())
    }

    /// Compares all files with their digests.
    ///
    /// # Errors
    /// If a file cannot be read or its digest differs.
    pub fn verify(&self) -> Result<()> {
        self.check_digest(DOCUMENTS, &self.manifest.documents_digest)?;
        self.check_digest(TOKENS, &self.manifest.tokens_digest)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The tokenizer that made the tokens. Unless it is `bytes`, it cannot encode or decode.
    pub fn tokenizer(&self) -> Tokenizer {
        let record = &self.manifest.tokenizer;
        if record.identity == Tokenizer::Bytes.identity() {
            Tokenizer::Bytes
        } else {
            Tokenizer::Pieces(Arc::new(record.clone()))
        }
    }

    pub(crate) fn provenance(&self) -> Provenance {
        let Manifest { bytes, sources, .. } = &self.manifest;
        Provenance {
            files: sources.len(),
            bytes: *bytes,
            skipped: Vec::new(),
            prepared: Some(self.dir.clone()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.manifest.tokens as usize
    }

    /// The digest of the tokens.
    pub fn digest(&self) -> &str {
        &self.manifest.tokens_digest
    }

    pub(crate) fn read(&self, range: Range<usize>) -> Result<Vec<i32>> {
        let width = self.manifest.width;
        let mut bytes = vec![0; range.len() * width];
        let at = (range.start * width) as u64;
        self.tokens
            .read_exact_at(&mut bytes, at)
            .map_err(Error::io("reading tokens of", self.dir.join(TOKENS)))?;
        let tokens: Vec<i32> = match width {
            2 => bytes.chunks_exact(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
            _ => bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        };
        let legal = DOCUMENT_END..self.manifest.tokenizer.tokens as i32;
        match tokens.iter().position(|t| !legal.contains(t)) {
            None => Ok(tokens),
            Some(wrong) => Err(damaged(
                &self.dir,
                format!(
                    "token {} is {}, but the tokenizer has tokens below {}",
                    range.start + wrong,
                    tokens[wrong],
                    legal.end
                ),
            )),
        }
    }

    /// The token range of every document.
    pub(crate) fn documents(&self) -> Result<Vec<Range<usize>>> {
        let mut start = 0;
        let range = |(end, separated)| std::mem::replace(&mut start, end + usize::from(separated))..end;
        Ok(self.document_ends()?.into_iter().map(range).collect())
    }

    /// The positions of end tokens.
    pub(crate) fn ends(&self) -> Result<Vec<usize>> {
        Ok(self
            .document_ends()?
            .into_iter()
            .filter(|(_, separated)| *separated)
            .map(|(end, _)| end)
            .collect())
    }

    /// For each document, the position where its tokens end; true if an end token follows.
    fn document_ends(&self) -> Result<Vec<(usize, bool)>> {
        let path = self.dir.join(DOCUMENTS);
        let bytes = regular::read(&path).map_err(Error::io("reading the documents", &path))?;
        let ends = bytes.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes));
        let ends: Vec<(usize, bool)> =
            ends.map(|end| ((end & !END_TOKEN) as usize, end & END_TOKEN != 0)).collect();
        let (mut start, mut good) = (0, true);
        for (end, separated) in &ends {
            good &= *end >= start && end + usize::from(*separated) <= self.len();
            start = end + usize::from(*separated);
        }
        if good { Ok(ends) } else { Err(damaged(&self.dir, "a document ends before it begins".into())) }
    }

    fn check_size(&self, name: &str, expected: Option<u64>) -> Result<()> {
        let path = self.dir.join(name);
        let size = fs::metadata(&path).map_err(Error::io("reading the size of", &path))?.len();
        if expected == Some(size) {
            return Ok(());
        }
        let expected = expected.unwrap_or(u64::MAX);
        Err(damaged(&self.dir, format!("`{name}` has {size} bytes, expected {expected}")))
    }

    fn check_digest(&self, name: &str, expected: &str) -> Result<()> {
        if file_digest(&self.dir.join(name))? == expected {
            return Ok(());
        }
        Err(damaged(&self.dir, format!("the digest of `{name}` differs from the manifest's")))
    }
}

fn damaged(dir: &Path, why: String) -> Error {
    Error::input(
        format!("the prepared tokens in `{}` are damaged: {why}", dir.display()),
        "prepare the text again, or copy the directory again",
    )
}
