//! Tokens on disk, made once: a folder with `tokens.bin` (little-endian numbers of 2 or 4 bytes), `documents.bin` (where
//! each document's tokens end, as 8-byte numbers, of which the highest bit says that an end token stands there), and `manifest.json`, which says whose tokens these are.
//!
//! The folder is written under another name and renamed when all of it is on disk. While training, tokens are read where
//! they are, by their position: the system keeps in memory what is used often, as it would for a mapped file, but a disk
//! that fails or a file that shrinks is an error of the read, and not a signal that ends the process.

use super::{
    files::{Text, visit},
    format::Contents,
    provenance::About,
    stream::Stream,
    tokenizer::{Bytes, EOS, Pieces, Tokenizer},
};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{BufWriter, Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const MANIFEST: &str = "manifest.json";
const TOKENS: &str = "tokens.bin";
const DOCUMENTS: &str = "documents.bin";
const FORMAT: &str = "mesh token cache";
const VERSION: u32 = 1;
/// Of a document's end: a token stands there that keeps it apart from what follows.
const APART: u64 = 1 << 63;
/// Up to so many bytes of tokens are compared with their digest when a cache is opened.
const COMPARED: u64 = 1 << 30;

/// Prepared tokens.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    manifest: Manifest,
    tokens: File,
}

/// What a cache holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// What made the tokens.
    pub tokenizer: MadeBy,
    /// Bytes of a token.
    pub width: usize,
    /// How many there are, ends of documents included.
    pub tokens: u64,
    /// How many documents.
    pub documents: u64,
    /// Bytes of their text, uncompressed.
    pub bytes: u64,
    /// The field or column that had the text.
    pub text_field: String,
    tokens_digest: String,
    documents_digest: String,
    /// The files that were read, in order.
    pub sources: Vec<Source>,
}

/// A tokenizer, as far as one needs to know it to train on its tokens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeBy {
    /// Where it came from.
    pub name: String,
    /// `bytes`, or a digest.
    pub identity: String,
    /// What its tokens are below.
    pub tokens: usize,
    /// The sentinels that it has.
    pub sentinels: Vec<i32>,
}

/// A file that was read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where it was.
    pub path: PathBuf,
    /// Its size on disk.
    pub bytes: u64,
    /// `blake3:` and the digest of its bytes.
    pub digest: String,
}

impl Pieces for MadeBy {
    fn encode(&self, _: &str) -> Result<Vec<i32>> {
        Err(Error::input(
            format!("the tokenizer `{}` is known only by what it has made", self.name),
            "name its file with --tokenizer",
        ))
    }
    fn decode(&self, _: &[i32]) -> Result<String> {
        self.encode("").map(|_| String::new())
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

impl MadeBy {
    fn of(tokenizer: &Tokenizer) -> Self {
        let (tokens, sentinels) = match tokenizer {
            Tokenizer::Bytes => (Bytes::TOKENS, Vec::new()),
            Tokenizer::Pieces(pieces) => (pieces.tokens(), pieces.sentinels().to_vec()),
        };
        let (name, identity) = (tokenizer.name().to_owned(), tokenizer.identity().to_owned());
        Self { name, identity, tokens, sentinels }
    }
}

impl Cache {
    /// Reads files one after the other, and writes their tokens into the new folder `dir`. `observe` is told the
    /// number of each file and where it is.
    pub fn prepare(
        paths: &[PathBuf],
        field: &str,
        tokenizer: &Tokenizer,
        dir: &Path,
        observe: &mut dyn FnMut(usize, &Path),
    ) -> Result<Self> {
        if dir.exists() {
            return Err(Error::input(
                format!("`{}` exists already", dir.display()),
                "name a new folder, or remove this one",
            ));
        }
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        // Goes away with everything in it if anything fails from here on.
        let place = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .tempdir_in(parent)
            .map_err(Error::io("making a folder in", parent))?;
        let mut writer = Writer::new(place.path(), tokenizer)?;
        visit(paths, field, &mut |path, contents| {
            observe(writer.sources.len() + 1, path);
            writer.file(path, contents)
        })?;
        writer.finish(field)?;
        sync(place.path())?;
        let place = place.keep();
        fs::rename(&place, dir).map_err(|error| {
            // Nobody knows of it.
            let _ = fs::remove_dir_all(&place);
            Error::io("naming the finished folder", dir)(error)
        })?;
        sync(parent)?;
        Self::open(dir)
    }

    /// Whether `dir` is, or was meant to be, such a folder.
    pub fn is_at(dir: &Path) -> bool {
        dir.join(TOKENS).is_file() && dir.join(MANIFEST).is_file()
            || fs::read_to_string(dir.join(MANIFEST)).is_ok_and(|text| text.contains(FORMAT))
    }

    /// Opens a folder, and compares it with its manifest: sizes, the digest of the documents, and that of the tokens unless
    /// they are many; [`Cache::verify`] compares all.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(Error::io("reading the manifest", &path))?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|e| damaged(dir, format!("its manifest is not readable: {e}")))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            return Err(Error::input(
                format!(
                    "`{}` is `{}` of version {}, not `{FORMAT}` of version {VERSION}",
                    dir.display(),
                    manifest.format,
                    manifest.version
                ),
                "prepare the text again with this version of meshc",
            ));
        }
        let tokens = dir.join(TOKENS);
        let tokens = File::open(&tokens).map_err(Error::io("opening the tokens", &tokens))?;
        let cache = Self { dir: dir.to_owned(), manifest, tokens };
        let Manifest { width, tokens, documents, .. } = cache.manifest;
        let most = cache.manifest.tokenizer.tokens;
        let fits = match width {
            2 => most <= 1 << 16,
            4 => i32::try_from(most).is_ok(),
            _ => false,
        };
        if !fits || most <= EOS as usize {
            return Err(damaged(dir, format!("tokens below {most} in {width} bytes each")));
        }
        cache.has_size(TOKENS, tokens.checked_mul(width as u64))?;
        cache.has_size(DOCUMENTS, documents.checked_mul(8))?;
        cache.has_digest(DOCUMENTS, &cache.manifest.documents_digest)?;
        if tokens * width as u64 <= COMPARED {
            cache.verify()?;
        }
        Ok(cache)
    }

    /// Compares every byte with the digests.
    pub fn verify(&self) -> Result<()> {
        self.has_digest(DOCUMENTS, &self.manifest.documents_digest)?;
        self.has_digest(TOKENS, &self.manifest.tokens_digest)
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What made its tokens. It cannot make more of them unless it is bytes.
    pub fn tokenizer(&self) -> Tokenizer {
        let made_by = &self.manifest.tokenizer;
        match made_by.identity == Tokenizer::Bytes.identity() {
            true => Tokenizer::Bytes,
            false => Tokenizer::Pieces(Arc::new(made_by.clone())),
        }
    }

    pub(super) fn about(&self) -> About {
        let Manifest { bytes, sources, .. } = &self.manifest;
        About { files: sources.len(), bytes: *bytes, skipped: Vec::new(), prepared: Some(self.dir.clone()) }
    }

    pub(super) fn len(&self) -> usize {
        self.manifest.tokens as usize
    }

    pub(super) fn digest(&self) -> &str {
        &self.manifest.tokens_digest
    }

    pub(super) fn read(&self, range: Range<usize>) -> Result<Vec<i32>> {
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
        let legal = EOS..self.manifest.tokenizer.tokens as i32;
        match tokens.iter().position(|t| !legal.contains(t)) {
            None => Ok(tokens),
            Some(wrong) => Err(damaged(
                &self.dir,
                format!(
                    "token {} is {}, and tokens are below {}",
                    range.start + wrong,
                    tokens[wrong],
                    legal.end
                ),
            )),
        }
    }

    /// Where the tokens of every document begin and end.
    pub(super) fn documents(&self) -> Result<Vec<Range<usize>>> {
        let mut start = 0;
        let range = |(end, apart)| std::mem::replace(&mut start, end + usize::from(apart))..end;
        Ok(self.marked()?.into_iter().map(range).collect())
    }

    /// Where end tokens stand.
    pub(super) fn ends(&self) -> Result<Vec<usize>> {
        Ok(self.marked()?.into_iter().filter(|(_, apart)| *apart).map(|(end, _)| end).collect())
    }

    /// Where documents end, and whether an end token stands there.
    fn marked(&self) -> Result<Vec<(usize, bool)>> {
        let path = self.dir.join(DOCUMENTS);
        let bytes = fs::read(&path).map_err(Error::io("reading the documents", &path))?;
        let ends = bytes.chunks_exact(8).map(|b| b.try_into().map_or(0, u64::from_le_bytes));
        let ends: Vec<(usize, bool)> = ends.map(|end| ((end & !APART) as usize, end & APART != 0)).collect();
        let (mut start, mut good) = (0, true);
        for (end, apart) in &ends {
            good &= *end >= start && end + usize::from(*apart) <= self.len();
            start = end + usize::from(*apart);
        }
        match good {
            true => Ok(ends),
            false => Err(damaged(&self.dir, "documents end before they begin".into())),
        }
    }

    fn has_size(&self, name: &str, expected: Option<u64>) -> Result<()> {
        let path = self.dir.join(name);
        let size = fs::metadata(&path).map_err(Error::io("looking at", &path))?.len();
        match expected == Some(size) {
            true => Ok(()),
            false => Err(damaged(
                &self.dir,
                format!("`{name}` has {size} bytes, and {} were written", expected.unwrap_or(u64::MAX)),
            )),
        }
    }

    fn has_digest(&self, name: &str, expected: &str) -> Result<()> {
        match file_digest(&self.dir.join(name))? == expected {
            true => Ok(()),
            false => {
                Err(damaged(&self.dir, format!("the bytes of `{name}` are not those that were written")))
            }
        }
    }
}

fn damaged(dir: &Path, why: String) -> Error {
    Error::input(
        format!("the prepared tokens in `{}` are damaged: {why}", dir.display()),
        "prepare the text again, or copy the folder again",
    )
}

fn file_digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(Error::io("opening", path))?;
    let mut part = vec![0; 1 << 20];
    loop {
        match file.read(&mut part).map_err(Error::io("reading", path))? {
            0 => return Ok(format!("blake3:{}", hasher.finalize().to_hex())),
            n => hasher.update(&part[..n]),
        };
    }
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("writing to disk", dir))
}

/// A folder being written.
struct Writer<'a> {
    dir: &'a Path,
    tokenizer: &'a Tokenizer,
    width: usize,
    tokens: Output,
    documents: Output,
    /// Tokens and documents so far, and bytes of text.
    count: u64,
    number: u64,
    bytes: u64,
    /// Where the last document ends, if it is not known yet whether it is kept apart from what follows.
    open: Option<u64>,
    sources: Vec<Source>,
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

    /// All on disk; the digest.
    fn finish(&mut self) -> Result<String> {
        let done = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        done.map_err(Error::io("writing", &self.path))?;
        Ok(format!("blake3:{}", self.hasher.finalize().to_hex()))
    }
}

impl<'a> Writer<'a> {
    fn new(dir: &'a Path, tokenizer: &'a Tokenizer) -> Result<Self> {
        let width = super::stream::width(tokenizer);
        let (tokens, documents) = (Output::new(dir.join(TOKENS))?, Output::new(dir.join(DOCUMENTS))?);
        let sources = Vec::new();
        Ok(Self {
            dir,
            tokenizer,
            width,
            tokens,
            documents,
            count: 0,
            number: 0,
            bytes: 0,
            open: None,
            sources,
        })
    }

    /// The tokens of one file, behind those of the files before it: the same as if all were read at once.
    fn file(&mut self, path: &Path, contents: Contents) -> Result<()> {
        let apart = matches!(contents, Contents::Documents(_));
        if let Some(end) = self.open.take() {
            // Parts are kept apart if one of them is to be.
            if apart {
                self.write(&[EOS])?;
            }
            self.document(end, apart)?;
        }
        let text = Text::of_file(path, contents);
        let stream = Stream::new(&text, self.tokenizer)?;
        let (start, len) = (self.count, stream.len(&text));
        for at in (0..len).step_by(1 << 16) {
            self.write(&stream.read(&text, at..len.min(at + (1 << 16))))?;
        }
        if apart {
            for end in stream.ends(&text) {
                self.document(start + end as u64, true)?;
            }
        } else {
            self.open = Some(start + len as u64);
        }
        self.bytes += text.bytes.len() as u64;
        let bytes = fs::metadata(path).map_err(Error::io("looking at", path))?.len();
        self.sources.push(Source { path: path.to_owned(), bytes, digest: file_digest(path)? });
        Ok(())
    }

    fn document(&mut self, end: u64, apart: bool) -> Result<()> {
        self.number += 1;
        self.documents.write(&(end | if apart { APART } else { 0 }).to_le_bytes())
    }

    fn write(&mut self, tokens: &[i32]) -> Result<()> {
        self.count += tokens.len() as u64;
        // The stream made sure that all are below what the width holds.
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
            tokenizer: MadeBy::of(self.tokenizer),
            width: self.width,
            tokens: self.count,
            documents: self.number,
            bytes: self.bytes,
            text_field: field.to_owned(),
            tokens_digest: self.tokens.finish()?,
            documents_digest: self.documents.finish()?,
            sources: std::mem::take(&mut self.sources),
        };
        let path = self.dir.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| {
            Error::input(format!("the manifest cannot be written: {e}"), "name files by UTF-8")
        })?;
        let mut file = File::create(&path).map_err(Error::io("creating", &path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(Error::io("writing", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::words, *};
    use crate::Corpus;

    /// Text files and documents, in an order in which every kind follows every kind.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let lines = "{\"text\": \"a bb ccc\"}\n{\"text\": \"dddd a\"}\n";
        for (name, text) in [
            ("a.txt", "a bb "),
            ("b.txt", "ccc a"),
            ("c.jsonl", lines),
            ("d.jsonl", lines),
            ("e.txt", "bb bb"),
        ] {
            fs::create_dir_all(dir.path().join("in")).unwrap();
            fs::write(dir.path().join("in").join(name), text).unwrap();
        }
        dir
    }

    fn prepared(place: &Path, tokenizer: &Tokenizer) -> Result<Cache> {
        Cache::prepare(&[place.join("in")], "text", tokenizer, &place.join("out"), &mut |_, _| ())
    }

    #[test]
    fn prepared_tokens_are_those_of_the_text() {
        for tokenizer in [Tokenizer::Bytes, words(300, &[299, 298]), words(70_000, &[])] {
            let dir = folder();
            let cache = Corpus::of_cache(prepared(dir.path(), &tokenizer).unwrap(), None).unwrap();
            let text = Corpus::open(&[dir.path().join("in")], "text", Some(&tokenizer)).unwrap();
            let all = |corpus: &Corpus| corpus.read(0..corpus.len()).unwrap();
            assert_eq!(all(&cache), all(&text));
            assert_eq!(cache.ends().unwrap(), text.ends().unwrap());
            assert_eq!(cache.digest(), text.digest());
            assert_eq!(cache.read(3..5).unwrap(), text.read(3..5).unwrap());
            assert_eq!((cache.about().bytes, cache.about().files), (text.about().bytes, 5));
            assert_eq!(cache.tokenizer().identity(), tokenizer.identity());
            assert_eq!(
                cache.tokenizer().sentinels(80_000, 2).unwrap(),
                tokenizer.sentinels(80_000, 2).unwrap()
            );
            // Three text files, and two lines in each of two others; the texts before and after are apart from them.
            let Tokens { documents, ends } = count(&dir.path().join("out"));
            assert_eq!((documents, ends), (7, 5));
        }
    }

    struct Tokens {
        documents: usize,
        ends: usize,
    }

    fn count(dir: &Path) -> Tokens {
        let cache = Cache::open(dir).unwrap();
        Tokens { documents: cache.documents().unwrap().len(), ends: cache.ends().unwrap().len() }
    }

    #[track_caller]
    fn fails(result: Result<impl Sized>, parts: &[&str]) {
        let error = result.err().expect("this does not work").to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn a_changed_bit_or_a_missing_byte_is_found() {
        let dir = folder();
        prepared(dir.path(), &words(300, &[])).unwrap();
        let out = dir.path().join("out");
        for name in [TOKENS, DOCUMENTS] {
            let whole = fs::read(out.join(name)).unwrap();
            for at in 0..whole.len() {
                let mut altered = whole.clone();
                altered[at] ^= 1 << (at % 8);
                fs::write(out.join(name), altered).unwrap();
                fails(Cache::open(&out), &["damaged", name, "help:"]);
            }
            fs::write(out.join(name), &whole[..whole.len() - 1]).unwrap();
            fails(Cache::open(&out), &["damaged", name, "bytes"]);
            fs::write(out.join(name), &whole).unwrap();
        }
        let manifest = fs::read_to_string(out.join(MANIFEST)).unwrap();
        fs::write(out.join(MANIFEST), manifest.replace("\"version\": 1", "\"version\": 9")).unwrap();
        fails(Cache::open(&out), &["version 9"]);
        fs::write(out.join(MANIFEST), &manifest[..manifest.len() - 9]).unwrap();
        fails(Cache::open(&out), &["damaged", "manifest"]);
        fs::write(out.join(MANIFEST), manifest.replace("\"width\": 2", "\"width\": 0")).unwrap();
        fails(Cache::open(&out), &["damaged", "0 bytes"]);
        fs::write(out.join(MANIFEST), manifest).unwrap();
        fs::remove_file(out.join(TOKENS)).unwrap();
        assert!(Cache::is_at(&out));
        fails(Cache::open(&out), &["opening the tokens"]);
    }

    #[test]
    fn what_cannot_be_prepared_leaves_nothing() {
        let dir = folder();
        let names = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        fs::write(dir.path().join("in/f.jsonl"), "{\"text\": 1}").unwrap();
        fails(prepared(dir.path(), &Tokenizer::Bytes), &["f.jsonl", "line 1"]);
        assert_eq!(names(), ["in"]);
        fs::remove_file(dir.path().join("in/f.jsonl")).unwrap();
        prepared(dir.path(), &Tokenizer::Bytes).unwrap();
        fails(prepared(dir.path(), &Tokenizer::Bytes), &["out` exists already"]);
        let out = dir.path().join("out");
        let cache = || Cache::open(&out).unwrap();
        fails(Corpus::of_cache(cache(), Some(&words(300, &[]))), &["`bytes`", "not by `words` (the digest)"]);
        fails(
            Corpus::open(&[out.clone(), dir.path().join("in")], "text", None),
            &["prepared tokens", "beside"],
        );
        let made_by = MadeBy::of(&words(300, &[]));
        fails(made_by.encode("a"), &["`words`", "--tokenizer"]);
    }
}
