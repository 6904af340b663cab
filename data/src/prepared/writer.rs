//! Writing prepared tokens.

use super::{
    directory::PreparedTokens,
    manifest::{
        DOCUMENTS, END_TOKEN, FORMAT, MANIFEST, Manifest, SourceFile, TOKENS, TokenizerRecord, VERSION,
        file_digest,
    },
};
use crate::{
    Error, Result, Text,
    files::visit,
    format::Contents,
    tokenized_text::{TokenizedText, width},
    tokenizer::{DOCUMENT_END, Tokenizer},
};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

/// Tokens that are written at once.
const CHUNK: usize = 1 << 16;

/// Tokenizes files one after the other and writes their tokens into the new directory `dir`. `observe`
/// receives the number and the path of each file before it is tokenized.
///
/// # Errors
/// If `dir` exists, or a file cannot be read, tokenized or written. Nothing is left on disk then.
pub fn prepare(
    paths: &[PathBuf],
    field: &str,
    tokenizer: &Tokenizer,
    dir: &Path,
    observe: &mut dyn FnMut(usize, &Path),
) -> Result<PreparedTokens> {
    if dir.exists() {
        return Err(Error::input(
            format!("`{}` exists already", dir.display()),
            "name a new directory, or remove this one",
        ));
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    // The temporary directory is removed if anything fails from here on.
    let temporary = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .tempdir_in(parent)
        .map_err(Error::io("creating a directory in", parent))?;
    let mut writer = Writer::new(temporary.path(), tokenizer)?;
    visit(paths, field, &mut |path, contents| {
        observe(writer.sources.len() + 1, path);
        writer.file(path, contents)
    })?;
    writer.finish(field)?;
    sync(temporary.path())?;
    let temporary = temporary.keep();
    fs::rename(&temporary, dir).map_err(|error| {
        // The error of the rename is the one to report.
        let _ = fs::remove_dir_all(&temporary);
        Error::io("renaming the finished directory to", dir)(error)
    })?;
    sync(parent)?;
    PreparedTokens::open(dir)
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("writing to disk", dir))
}

/// A directory that is being written.
struct Writer<'a> {
    dir: &'a Path,
    tokenizer: &'a Tokenizer,
    width: usize,
    tokens: Output,
    documents: Output,
    /// The number of tokens so far.
    token_count: u64,
    /// The number of documents so far.
    document_count: u64,
    /// Bytes of text so far.
    bytes: u64,
    /// The end of the last document while it is undecided whether an end token follows: that depends on the
    /// next file.
    open: Option<u64>,
    sources: Vec<SourceFile>,
}

/// A file that is hashed as it is written.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Output {
    fn new(path: PathBuf) -> Result<Self> {
        let file =
            BufWriter::with_capacity(1 << 20, File::create(&path).map_err(Error::io("creating", &path))?);
        Ok(Self { path, file, hasher: blake3::Hasher::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io("writing", &self.path))
    }

    /// Flushes everything to disk and returns the digest.
    fn finish(&mut self) -> Result<String> {
        let done = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        done.map_err(Error::io("writing", &self.path))?;
        Ok(format!("blake3:{}", self.hasher.finalize().to_hex()))
    }
}

impl<'a> Writer<'a> {
    fn new(dir: &'a Path, tokenizer: &'a Tokenizer) -> Result<Self> {
        Ok(Self {
            dir,
            tokenizer,
            width: width(tokenizer),
            tokens: Output::new(dir.join(TOKENS))?,
            documents: Output::new(dir.join(DOCUMENTS))?,
            token_count: 0,
            document_count: 0,
            bytes: 0,
            open: None,
            sources: Vec::new(),
        })
    }

    /// Appends the tokens of one file. The result is the same as if all files were tokenized together.
    fn file(&mut self, path: &Path, contents: Contents) -> Result<()> {
        let separated = matches!(contents, Contents::Documents(_));
        if let Some(end) = self.open.take() {
            // Two neighbours are separated if either of them is a document of a format with documents.
            if separated {
                self.write(&[DOCUMENT_END])?;
            }
            self.document(end, separated)?;
        }
        let text = Text::of_file(path, contents);
        let tokens = TokenizedText::new(&text, self.tokenizer)?;
        let (start, len) = (self.token_count, tokens.len(&text));
        for at in (0..len).step_by(CHUNK) {
            self.write(&tokens.read(&text, at..len.min(at + CHUNK)))?;
        }
        if separated {
            for end in tokens.ends(&text) {
                self.document(start + end as u64, true)?;
            }
        } else {
            self.open = Some(start + len as u64);
        }
        self.bytes += text.bytes.len() as u64;
        let bytes = fs::metadata(path).map_err(Error::io("reading the size of", path))?.len();
        self.sources.push(SourceFile { path: path.to_owned(), bytes, digest: file_digest(path)? });
        Ok(())
    }

    fn document(&mut self, end: u64, separated: bool) -> Result<()> {
        self.document_count += 1;
        self.documents.write(&(end | if separated { END_TOKEN } else { 0 }).to_le_bytes())
    }

    fn write(&mut self, tokens: &[i32]) -> Result<()> {
        self.token_count += tokens.len() as u64;
        // The tokenizer's tokens are below the limit of the width.
        let bytes: Vec<u8> = match self.width {
            2 => tokens.iter().flat_map(|t| (*t as u16).to_le_bytes()).collect(),
            _ => tokens.iter().flat_map(|t| t.to_le_bytes()).collect(),
        };
        self.tokens.write(&bytes)
    }

    fn finish(&mut self, field: &str) -> Result<()> {
        if let Some(end) = self.open.take() {
            self.document(end, false)?;
        }
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            tokenizer: TokenizerRecord::of(self.tokenizer),
            width: self.width,
            tokens: self.token_count,
            documents: self.document_count,
            bytes: self.bytes,
            text_field: field.to_owned(),
            tokens_digest: self.tokens.finish()?,
            documents_digest: self.documents.finish()?,
            sources: std::mem::take(&mut self.sources),
        };
        let path = self.dir.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| {
            Error::input(
                format!("the manifest of the prepared tokens cannot be written: {e}"),
                "rename the data files so that their names are UTF-8",
            )
        })?;
        let mut file = File::create(&path).map_err(Error::io("creating", &path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(Error::io("writing", &path))
    }
}
