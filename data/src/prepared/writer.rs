//! Writing prepared tokens.

use super::{
    directory::PreparedTokens,
    manifest::{
        DOCUMENTS, END_TOKEN, FORMAT, MANIFEST, Manifest, SourceFile, TOKENS, TokenizerRecord, VERSION,
        file_digest,
    },
};
use crate::{
    Error, Reading, Result,
    assembly::{Assembly, Output},
    files::{self, Sink},
    format::Part,
    tokenized_text::width,
    tokenizer::{DOCUMENT_END, Tokenizer},
};
use std::{
    fs::{self, File},
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Tokenizes files one after the other and writes their tokens into the new directory `dir`. `observe`
/// receives the number and the path of each file before it is tokenized.
///
/// # Errors
/// If `dir` exists, or a file cannot be read, tokenized or written. Nothing is left on disk then.
pub fn prepare(
    paths: &[PathBuf],
    reading: &Reading<'_>,
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
    let assembly = Assembly::new(tokenizer, &mut writer);
    let mut observed = Observed { assembly, observe, files: 0 };
    files::read(paths, reading, &mut observed)?;
    let (_, bytes) = observed.assembly.finish()?;
    writer.finish(reading.field, bytes)?;
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

/// An assembly whose files are observed.
struct Observed<'a> {
    assembly: Assembly<'a>,
    observe: &'a mut dyn FnMut(usize, &Path),
    /// The number of complete files.
    files: usize,
}

impl Sink for Observed<'_> {
    fn begin(&mut self, path: &Path) -> Result<()> {
        (self.observe)(self.files + 1, path);
        self.assembly.begin(path)
    }
    fn part(&mut self, part: Part<'_>) -> Result<()> {
        self.assembly.part(part)
    }
    fn end(&mut self, path: &Path) -> Result<()> {
        self.files += 1;
        self.assembly.end(path)
    }
    fn undo(&mut self) -> Result<()> {
        self.assembly.undo()
    }
}

/// A directory that is being written.
struct Writer<'a> {
    dir: &'a Path,
    tokenizer: &'a Tokenizer,
    width: usize,
    tokens: Hashed,
    documents: Hashed,
    /// The number of tokens so far.
    token_count: u64,
    /// The number of tokens and the digest of their bytes at the mark.
    mark: (u64, blake3::Hasher),
    /// The number of documents so far.
    document_count: u64,
    sources: Vec<SourceFile>,
}

/// A file that is hashed as it is written.
struct Hashed {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Hashed {
    fn new(path: PathBuf) -> Result<Self> {
        let file =
            BufWriter::with_capacity(1 << 20, File::create(&path).map_err(Error::io("creating", &path))?);
        Ok(Self { path, file, hasher: blake3::Hasher::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io("writing", &self.path))
    }

    /// Returns to an earlier size, and its digest.
    fn truncate(&mut self, size: u64, hasher: blake3::Hasher) -> Result<()> {
        self.hasher = hasher;
        let done = self.file.flush().and_then(|()| self.file.get_ref().set_len(size));
        let done = done.and_then(|()| self.file.seek(SeekFrom::Start(size)));
        done.map(|_| ()).map_err(Error::io("writing", &self.path))
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
            tokens: Hashed::new(dir.join(TOKENS))?,
            documents: Hashed::new(dir.join(DOCUMENTS))?,
            token_count: 0,
            mark: (0, blake3::Hasher::new()),
            document_count: 0,
            sources: Vec::new(),
        })
    }

    fn finish(&mut self, field: &str, bytes: u64) -> Result<()> {
        let mut manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            tokenizer: TokenizerRecord::of(self.tokenizer),
            width: self.width,
            tokens: self.token_count,
            documents: self.document_count,
            bytes,
            text_field: field.to_owned(),
            tokens_digest: self.tokens.finish()?,
            documents_digest: self.documents.finish()?,
            sources: std::mem::take(&mut self.sources),
            manifest_digest: None,
        };
        manifest.manifest_digest = Some(manifest.digest()?);
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

impl Output for Writer<'_> {
    fn len(&self) -> u64 {
        self.token_count
    }

    fn mark(&mut self) -> Result<()> {
        self.mark = (self.token_count, self.tokens.hasher.clone());
        Ok(())
    }

    fn undo(&mut self) -> Result<()> {
        let (count, hasher) = self.mark.clone();
        self.tokens.truncate(count * self.width as u64, hasher)?;
        self.token_count = count;
        Ok(())
    }

    fn tokens(&mut self, tokens: &[i32]) -> Result<()> {
        self.token_count += tokens.len() as u64;
        // The tokenizer's tokens are below the limit of the width.
        let bytes: Vec<u8> = match self.width {
            2 => tokens.iter().flat_map(|t| (*t as u16).to_le_bytes()).collect(),
            _ => tokens.iter().flat_map(|t| t.to_le_bytes()).collect(),
        };
        self.tokens.write(&bytes)
    }

    fn document(&mut self, end: u64, separated: bool) -> Result<()> {
        if separated {
            self.tokens(&[DOCUMENT_END])?;
        }
        self.document_count += 1;
        self.documents.write(&(end | if separated { END_TOKEN } else { 0 }).to_le_bytes())
    }

    fn file(&mut self, path: &Path) -> Result<()> {
        let bytes = fs::metadata(path).map_err(Error::io("reading the size of", path))?.len();
        self.sources.push(SourceFile { path: path.to_owned(), bytes, digest: file_digest(path)? });
        Ok(())
    }
}
