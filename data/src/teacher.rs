//! Rows with the largest logits of a teacher, in a file: the data of distillation without the teacher.
//!
//! The file is a safetensors file: `inputs` (`[rows, input_length]`), `targets` (`[rows, target_length]`),
//! `teacher_tokens` and `teacher_logits` (`[rows, target_length, top]`), `tokenizer` (the contents of its
//! file, if it has one), and metadata: the vocabulary, the special tokens, the identity of the tokenizer and
//! of the teacher, and a digest of everything. Reading and writing hold one row at a time.

use super::{
    batch::{Batch, Top},
    batch_source::BatchSource,
    batch_spec::BatchSpec,
    order::Permutation,
    rows::Rows,
    tokenizer::{self, Tokenizer},
};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::{
    fs::{File, Permissions},
    io::Write,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tempfile::NamedTempFile;

/// Facts about a file of logits.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct TeacherFacts {
    /// The number of rows.
    pub rows: usize,
    /// The number of logits of each target token.
    pub top: usize,
    /// Tokens of an input row.
    pub input_length: usize,
    /// Tokens of a target row.
    pub target_length: usize,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// The padding token.
    pub pad: u32,
    /// The end-of-sequence token.
    pub eos: u32,
    /// The identity of the tokenizer.
    pub tokenizer: String,
    /// The digest of the teacher's checkpoint.
    pub teacher: String,
}

/// The value of the metadata `format`.
const FORMAT: &str = "mesh.teacher_logits.1";
/// The tensors of rows.
const NAMES: [&str; 4] = ["inputs", "targets", "teacher_tokens", "teacher_logits"];
/// The first element of the key of a permutation of rows; not a purpose of the other sources.
const ORDER: u64 = 5;
/// The size of a header that no file of logits exceeds.
const LONGEST_HEADER: u64 = 1 << 20;

impl TeacherFacts {
    /// Reads the facts of a file.
    ///
    /// # Errors
    /// The file cannot be read, is no file of logits, or has another length than it says.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Opened::new(path)?.facts)
    }

    /// The shapes of the tensors of [`NAMES`].
    fn shapes(&self) -> [Vec<usize>; 4] {
        let Self { rows, top, input_length, target_length, .. } = *self;
        let logits = vec![rows, target_length, top];
        [vec![rows, input_length], vec![rows, target_length], logits.clone(), logits]
    }

    /// Returns the number of bytes of all tensors, with a tokenizer of this many. `None` means that no file
    /// is that large.
    fn bytes(&self, tokenizer: usize) -> Option<u64> {
        let mut all = tokenizer as u64;
        for shape in self.shapes() {
            let width = shape[1..].iter().try_fold(4_usize, |bytes, size| bytes.checked_mul(*size))?;
            all = all.checked_add(width.checked_mul(shape[0])? as u64)?;
        }
        i64::try_from(all).is_ok().then_some(all)
    }

    /// The number of bytes of a row in each tensor.
    fn widths(&self) -> [usize; 4] {
        self.shapes().map(|shape| shape[1..].iter().product::<usize>() * 4)
    }

    /// The header, with the length before it, and the offsets of the tensors from its end.
    fn header(&self, tokenizer: usize, digest: &str) -> (Vec<u8>, [u64; 5]) {
        let mut metadata =
            Map::from_iter([("format".to_owned(), FORMAT.into()), ("digest".to_owned(), digest.into())]);
        let facts = serde_json::to_string(self).expect("numbers and texts are JSON");
        metadata.insert("facts".to_owned(), facts.into());
        let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(metadata))]);
        let (mut at, mut starts) = (0_u64, [0; 5]);
        let rows =
            self.shapes().into_iter().zip(NAMES).map(|(shape, name)| {
                (name, if name == "teacher_logits" { "F32" } else { "I32" }, shape, 4_u64)
            });
        let all = rows.chain([("tokenizer", "U8", vec![tokenizer], 1)]);
        for ((name, dtype, shape, size), start) in all.zip(&mut starts) {
            *start = at;
            at += shape.iter().map(|n| *n as u64).product::<u64>() * size;
            let offsets = [*start, at];
            header
                .insert(name.to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        ([&(text.len() as u64).to_le_bytes()[..], &text].concat(), starts)
    }
}

/// Writes a file of logits, row by row. The file appears when it is complete.
#[derive(Debug)]
pub struct TeacherWriter {
    path: PathBuf,
    file: NamedTempFile,
    facts: TeacherFacts,
    /// The offsets of the tensors from the beginning of the file.
    starts: [u64; 5],
    tokenizer: usize,
    hasher: blake3::Hasher,
    rows: usize,
}

impl TeacherWriter {
    /// Begins a file. `tokenizer` is the one that `facts` name.
    ///
    /// # Errors
    /// The file cannot be written, or the contents of the tokenizer are not known.
    pub fn create(path: &Path, facts: TeacherFacts, tokenizer: &Tokenizer) -> Result<Self> {
        let contents = match (tokenizer, tokenizer.file()) {
            (Tokenizer::Bytes, _) => Arc::from([]),
            (Tokenizer::Pieces(_), Some(contents)) => contents,
            (Tokenizer::Pieces(_), None) => {
                return Err(Error::input(
                    format!("the contents of the tokenizer `{}` are not known", tokenizer.name()),
                    "name its file with --tokenizer",
                ));
            }
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(".logits")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .map_err(Error::io("writing", path))?;
        let (header, starts) = facts.header(contents.len(), &"0".repeat(64));
        let starts = starts.map(|start| start + header.len() as u64);
        let mut hasher = hasher(&facts);
        hasher.update(&contents);
        let tokenizer = contents.len();
        let writer = Self { path: path.to_owned(), file, facts, starts, tokenizer, hasher, rows: 0 };
        writer.write(&contents, starts[4])?;
        Ok(writer)
    }

    /// Appends a row of the lengths of the facts: input tokens, target tokens, and the largest logits.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, input: &[i32], target: &[i32], tokens: &[i32], logits: &[f32]) -> Result<()> {
        let bytes = |tokens: &[i32]| tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>();
        let logits: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        let parts = [bytes(input), bytes(target), bytes(tokens), logits];
        for ((part, width), start) in parts.iter().zip(self.facts.widths()).zip(self.starts) {
            assert_eq!(part.len(), width, "a row has the lengths of the facts");
            self.hasher.update(part);
            self.write(part, start + (self.rows * width) as u64)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Completes the file.
    ///
    /// # Errors
    /// The file cannot be written, or has fewer rows than the facts say.
    pub fn finish(mut self) -> Result<()> {
        if self.rows != self.facts.rows {
            let (rows, wanted) = (self.rows, self.facts.rows);
            return Err(Error::input(
                format!("`{}` would have {rows} of {wanted} rows", self.path.display()),
                "this is a bug: report it with the command",
            ));
        }
        let digest = self.hasher.finalize().to_hex();
        self.write(&self.facts.header(self.tokenizer, &digest).0, 0)?;
        let failed = |source| Error::Io { action: "writing", path: self.path.clone(), source };
        self.file.flush().and_then(|()| self.file.as_file().sync_all()).map_err(failed)?;
        let path = self.path.clone();
        self.file.persist(&path).map_err(|e| Error::io("writing", path)(e.error)).map(drop)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.as_file().write_all_at(bytes, at).map_err(Error::io("writing", &self.path))
    }
}

/// A file whose header and length are right.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    facts: TeacherFacts,
    digest: String,
    starts: [u64; 5],
    tokenizer: usize,
}

impl Opened {
    fn new(path: &Path) -> Result<Self> {
        let file = proto::regular::open(path).map_err(Error::io("reading", path))?;
        let length = file.metadata().map_err(Error::io("reading", path))?.len();
        let no = |why: &str| {
            Error::input(
                format!("`{}` is no file of a teacher's logits: {why}", path.display()),
                "`meshc score --logits FILE` writes one",
            )
        };
        let mut size = [0; 8];
        file.read_exact_at(&mut size, 0).map_err(|_| no("it is too short"))?;
        let size = u64::from_le_bytes(size);
        if size > LONGEST_HEADER.min(length) {
            return Err(no("it has no header of safetensors"));
        }
        let mut header = vec![0; size as usize];
        file.read_exact_at(&mut header, 8).map_err(|_| no("it is too short"))?;
        let header: Value = serde_json::from_slice(&header).map_err(|e| no(&e.to_string()))?;
        let metadata = &header["__metadata__"];
        if metadata["format"] != FORMAT {
            return Err(no(&format!("its metadata lack `format` {FORMAT}")));
        }
        let facts = metadata["facts"].as_str().unwrap_or_default();
        let facts: TeacherFacts = serde_json::from_str(facts).map_err(|e| no(&e.to_string()))?;
        let tokenizer = header["tokenizer"]["shape"][0].as_u64().unwrap_or(0) as usize;
        let digest = metadata["digest"].as_str().unwrap_or_default().to_owned();
        if facts.bytes(tokenizer).is_none() {
            return Err(no("its sizes are too large"));
        }
        if facts.target_length == 0 || facts.top == 0 {
            return Err(no("its rows have no logits"));
        }
        let (whole, starts) = facts.header(tokenizer, &digest);
        let starts = starts.map(|start| start + whole.len() as u64);
        let end = starts[4] + tokenizer as u64;
        if whole.len() as u64 != size + 8 || end != length {
            return Err(Error::input(
                format!("`{}` has {length} bytes, but its {} rows take {end}", path.display(), facts.rows),
                "the file is damaged: write it again with `meshc score --logits`",
            ));
        }
        Ok(Self { path: path.to_owned(), file, facts, digest, starts, tokenizer })
    }

    /// Reads the whole file, and compares the digest.
    fn verified(self) -> Result<(Self, Tokenizer)> {
        let contents = self.read(self.starts[4], self.tokenizer)?;
        let mut hasher = hasher(&self.facts);
        hasher.update(&contents);
        for row in 0..self.facts.rows {
            for (start, width) in self.starts.into_iter().zip(self.facts.widths()) {
                hasher.update(&self.read(start + (row * width) as u64, width)?);
            }
        }
        let found = hasher.finalize().to_hex().to_string();
        let damaged = |what: String| {
            Error::input(
                format!("`{}` is damaged: {what}", self.path.display()),
                "write it again with `meshc score --logits`",
            )
        };
        if found != self.digest {
            return Err(damaged(format!("its digest is {found}, and it should be {}", self.digest)));
        }
        let tokenizer = match self.facts.tokenizer.as_str() {
            "bytes" => Tokenizer::Bytes,
            _ => Tokenizer::Pieces(tokenizer::parse(contents.into(), &self.path.display().to_string())?),
        };
        let (own, wanted) = (tokenizer.identity(), &self.facts.tokenizer);
        match own == wanted {
            true => Ok((self, tokenizer)),
            false => Err(damaged(format!("its tokenizer is {own}, and it should be {wanted}"))),
        }
    }

    fn read(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).map_err(Error::io("reading", &self.path))?;
        Ok(bytes)
    }
}

fn hasher(facts: &TeacherFacts) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(serde_json::to_string(facts).expect("numbers and texts are JSON").as_bytes());
    hasher
}

/// Batches of rows with a teacher's logits. The last rows are held out.
#[derive(Debug)]
pub struct TeacherRows {
    spec: BatchSpec,
    opened: Opened,
    tokenizer: Tokenizer,
    train: usize,
}

impl TeacherRows {
    /// Opens a file for a program, whose training step takes `top` logits of each target token. `None` means
    /// that it takes none. The share `held_out` of the rows, at their end, is for evaluation only.
    ///
    /// # Errors
    /// The file is damaged, or its vocabulary, special tokens, lengths or logits do not fit the program.
    pub fn open(path: &Path, spec: BatchSpec, top: Option<usize>, held_out: f64) -> Result<Self> {
        let opened = Opened::new(path)?;
        fits(&opened, &spec, top)?;
        let (opened, tokenizer) = opened.verified()?;
        let rows = opened.facts.rows;
        let train = rows - ((rows as f64 * held_out).ceil() as usize).min(rows);
        if train == 0 && held_out < 1.0 || rows == 0 {
            return Err(Error::input(
                format!("`{}` has {rows} rows, and {} of them are held out", path.display(), rows - train),
                "write more rows, or lower --held-out",
            ));
        }
        Ok(Self { spec, opened, tokenizer, train })
    }

    /// The facts of the file.
    pub fn facts(&self) -> &TeacherFacts {
        &self.opened.facts
    }

    /// The tokenizer of the rows.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The number of held-out rows in the first `batches` held-out batches.
    pub fn held_out_rows_of(&self, batches: usize) -> usize {
        self.held_out_rows().min(batches.saturating_mul(self.spec.batch))
    }

    /// The number of rows for training.
    pub fn train_rows(&self) -> usize {
        self.train
    }

    /// The number of held-out rows.
    pub fn held_out_rows(&self) -> usize {
        self.opened.facts.rows - self.train
    }

    /// Describes the rows in one line.
    pub fn describe(&self) -> String {
        let TeacherFacts { rows, top, teacher, .. } = &self.opened.facts;
        let teacher = teacher.get(..16).unwrap_or(teacher);
        format!("{rows} rows with {top} logits of the teacher {teacher}, {} held out", self.held_out_rows())
    }

    /// Puts a row into row `to` of the batch, or counts its tokens if the row is not needed.
    fn fill(&self, row: usize, batch: &mut Batch, (to, needed): (usize, &Rows)) -> Result<()> {
        let widths = self.opened.facts.widths();
        let bytes = |part: usize| {
            self.opened.read(self.opened.starts[part] + (row * widths[part]) as u64, widths[part])
        };
        let numbers = |part: usize| -> Result<Vec<[u8; 4]>> { Ok(bytes(part)?.as_chunks().0.to_vec()) };
        let tokens = |part: usize| -> Result<Vec<i32>> {
            Ok(numbers(part)?.into_iter().map(i32::from_le_bytes).collect())
        };
        let pad = self.spec.pad();
        let used = |tokens: &[i32]| tokens.iter().rposition(|t| *t != pad).map_or(0, |last| last + 1);
        let (input, target) = (tokens(0)?, tokens(1)?);
        let (input, target) = (&input[..used(&input)], &target[..used(&target)]);
        if !needed.contains(to) {
            batch.count(to, (input.len(), target.len()));
            return Ok(());
        }
        batch.put(to, input, target);
        if let Some(top) = &mut batch.teacher {
            let start = to * self.spec.target_length * self.opened.facts.top;
            let range = start..start + widths[2] / 4;
            top.tokens[range.clone()].copy_from_slice(&tokens(2)?);
            let logits: Vec<f32> = numbers(3)?.into_iter().map(f32::from_le_bytes).collect();
            top.logits[range].copy_from_slice(&logits);
        }
        Ok(())
    }
}

/// Checks that the rows fit a program.
fn fits(opened: &Opened, spec: &BatchSpec, top: Option<usize>) -> Result<()> {
    let TeacherFacts { vocab, pad, eos, input_length, target_length, top: own, .. } = opened.facts;
    let file = opened.path.display();
    let tokens = spec.special_tokens;
    if vocab != spec.vocab || (pad, eos) != (tokens.pad, tokens.eos) {
        return Err(Error::input(
            format!(
                "the teacher of `{file}` has another vocabulary: {vocab} tokens, padding {pad}, end {eos}; the program \
                 has {}, {} and {}",
                spec.vocab, tokens.pad, tokens.eos
            ),
            "a student needs the vocabulary of its teacher",
        ));
    }
    // A program without inputs leaves them out.
    let longer = input_length > spec.input_length && spec.input_length > 0;
    if longer || target_length > spec.target_length {
        return Err(Error::input(
            format!(
                "the rows of `{file}` have {input_length} input and {target_length} target tokens, and the program \
                 takes {} and {}",
                spec.input_length, spec.target_length
            ),
            format!("add --set input_length={input_length} --set target_length={target_length}"),
        ));
    }
    if spec.packing {
        return Err(Error::input(
            format!("the rows of `{file}` hold one example each, and the program packs several"),
            "set packing=false",
        ));
    }
    match top.filter(|top| *top != own) {
        Some(top) => Err(Error::input(
            format!("`{file}` has {own} logits for each target token, and the program takes {top}"),
            format!("set distill_logits={own}, or write the file with --top {top}"),
        )),
        None => Ok(()),
    }
}

impl BatchSource for TeacherRows {
    fn batch_rows(&self, seed: u32, step: u64, needed: &Rows) -> Result<Batch> {
        let mut batch = Batch::empty(&self.spec);
        let length = self.spec.batch * self.spec.target_length * self.opened.facts.top;
        batch.teacher = Some(Top { tokens: vec![0; length], logits: vec![0.0; length] });
        let (size, rows) = (self.spec.batch as u64, self.train as u64);
        let mut order: Option<(u64, Permutation)> = None;
        for (to, number) in (step * size..(step + 1) * size).enumerate() {
            let epoch = number / rows;
            if order.as_ref().is_none_or(|(known, _)| *known != epoch) {
                order = Some((epoch, Permutation::new(rows, &[ORDER, u64::from(seed), epoch])));
            }
            let row = order.as_ref().map_or(0, |(_, order)| order.at(number % rows));
            self.fill(row as usize, &mut batch, (to, needed))?;
        }
        Ok(batch)
    }

    fn epoch_batches(&self) -> usize {
        self.train / self.spec.batch
    }

    fn held_out_batches(&self) -> usize {
        self.held_out_rows().div_ceil(self.spec.batch)
    }

    fn held_out_batch_rows(&self, number: usize, needed: &Rows) -> Result<Batch> {
        let mut batch = Batch::empty(&self.spec);
        let first = self.train + number * self.spec.batch;
        for (to, row) in (first..self.opened.facts.rows.min(first + self.spec.batch)).enumerate() {
            self.fill(row, &mut batch, (to, needed))?;
        }
        Ok(batch)
    }

    fn held_out_corpus(&self, _number: usize) -> Option<&str> {
        None
    }

    fn corpora(&self) -> Vec<&str> {
        vec![""]
    }

    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?} {} {}", self.spec, self.train, self.opened.digest).as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    fn tokenizer_identity(&self) -> &str {
        self.tokenizer.identity()
    }

    fn tokenizer_file(&self) -> Option<Arc<[u8]>> {
        self.tokenizer.file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Objective, SpecialTokens};

    const SPEC: BatchSpec = BatchSpec {
        batch: 2,
        input_length: 4,
        target_length: 3,
        vocab: 300,
        objective: Objective::SpanCorruption,
        packing: false,
        special_tokens: SpecialTokens { pad: 0, eos: 1, sentinels: None },
    };

    fn facts() -> TeacherFacts {
        TeacherFacts {
            rows: 5,
            top: 2,
            input_length: 3,
            target_length: 2,
            vocab: 300,
            pad: 0,
            eos: 1,
            tokenizer: "bytes".into(),
            teacher: "t".into(),
        }
    }

    /// Writes rows `[n, 1, 0] -> [n, 1]` with the logits `[n, n + 1]` and `[-1, 0]` of the tokens `[n, 2]`
    /// and `[1, 2]`.
    fn written(path: &Path, rows: i32) -> Result<()> {
        let mut writer = TeacherWriter::create(path, facts(), &Tokenizer::Bytes)?;
        for n in 10..10 + rows {
            let logits = [n as f32, n as f32 + 1.0, -1.0, 0.0];
            writer.push(&[n, 1, 0], &[n, 1], &[n, 2, 1, 2], &logits)?;
        }
        writer.finish()
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        written(&path, 5).unwrap();
        assert_eq!(TeacherFacts::read(&path).unwrap(), facts());
        let rows = TeacherRows::open(&path, SPEC, Some(2), 0.3).unwrap();
        assert_eq!((rows.train_rows(), rows.held_out_rows(), rows.epoch_batches()), (3, 2, 1));
        let held_out = rows.held_out_batch(0).unwrap();
        assert_eq!(held_out.inputs, [13, 1, 0, 0, 14, 1, 0, 0]);
        assert_eq!((held_out.targets, held_out.teacher), (vec![13, 1, 0, 14, 1, 0], None));
        let mut seen = Vec::new();
        for step in 0..3 {
            let batch = rows.batch(7, step).unwrap();
            assert_eq!(batch, rows.batch(7, step).unwrap());
            let top = batch.teacher.unwrap();
            for row in 0..2 {
                let n = batch.inputs[row * 4];
                seen.push(n);
                assert_eq!(top.tokens[row * 6..][..6], [n, 2, 1, 2, 0, 0]);
                assert_eq!(top.logits[row * 6..][..6], [n as f32, n as f32 + 1.0, -1.0, 0.0, 0.0, 0.0]);
            }
        }
        for epoch in seen.chunks_mut(3) {
            epoch.sort_unstable();
            assert_eq!(epoch, [10, 11, 12]);
        }
        // Other programs can read the file.
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        assert_eq!(header["teacher_logits"]["shape"], json!([5, 2, 2]));
    }

    #[test]
    fn sizes_that_no_file_has_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        let fails = |facts: TeacherFacts, tokenizer: u64, part: &str| {
            let text = serde_json::to_string(&facts).unwrap();
            let header = json!({
                "__metadata__": { "format": FORMAT, "digest": "", "facts": text },
                "tokenizer": { "dtype": "U8", "shape": [tokenizer], "data_offsets": [0, 0] },
            });
            let header = header.to_string().into_bytes();
            std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
            let error = TeacherFacts::read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "`{part}` is not in:\n{error}");
        };
        let large = "its sizes are too large";
        fails(TeacherFacts { top: usize::MAX, ..facts() }, 0, large);
        fails(TeacherFacts { top: usize::MAX / 2, target_length: 2, ..facts() }, 0, large);
        fails(TeacherFacts { input_length: 1 << 62, ..facts() }, 0, large);
        fails(TeacherFacts { input_length: 1 << 62, rows: 0, ..facts() }, 0, large);
        fails(TeacherFacts { rows: 1 << 59, ..facts() }, 0, large);
        fails(facts(), u64::MAX, large);
        fails(facts(), i64::MAX as u64, large);
        fails(facts(), 1 << 62, "but its 5 rows take");
        fails(TeacherFacts { rows: 1 << 57, ..facts() }, 0, "rows take");
        fails(TeacherFacts { target_length: 0, top: usize::MAX, ..facts() }, 0, "its rows have no logits");
        fails(TeacherFacts { top: 0, ..facts() }, 0, "its rows have no logits");
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("t.safetensors");
        assert!(written(&path, 4).unwrap_err().to_string().contains("4 of 5 rows"));
        assert!(std::fs::read_dir(place.path()).unwrap().next().is_none(), "nothing is half-written");
        written(&path, 5).unwrap();
        let fails = |spec: BatchSpec, top: usize, part: &str| {
            let error = TeacherRows::open(&path, spec, Some(top), 0.0).unwrap_err().to_string();
            assert!(error.contains(part), "`{part}` is not in:\n{error}");
        };
        fails(BatchSpec { vocab: 301, ..SPEC }, 2, "another vocabulary: 300 tokens");
        let tokens = SpecialTokens { eos: 2, ..SPEC.special_tokens };
        fails(BatchSpec { special_tokens: tokens, ..SPEC }, 2, "end 1");
        fails(BatchSpec { target_length: 1, ..SPEC }, 2, "--set target_length=2");
        fails(BatchSpec { packing: true, ..SPEC }, 2, "packing=false");
        fails(SPEC, 3, "2 logits for each target token, and the program takes 3");
        let whole = std::fs::read(&path).unwrap();
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &changed).unwrap();
        fails(SPEC, 2, "is damaged: its digest is");
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        fails(SPEC, 2, "but its 5 rows take");
        std::fs::write(&path, "x").unwrap();
        fails(SPEC, 2, "is no file of a teacher's logits");
    }
}
