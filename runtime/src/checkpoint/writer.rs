//! Writing a checkpoint: boxes are collected into files, which threads write to a [`Sink`]; the commit
//! follows when all of them are written.
//!
//! At most two threads write files at the same time. Each computes the digests of its boxes while it writes.

use super::{
    manifest::{Entry, FORMAT, Facts, File, Kind, Manifest, TOKENIZER, TOKENIZER_FILE, TensorBox, VERSION},
    sink::Sink,
};
use crate::{Error, HostTensor, Result, session::SnapshotBytes, tensor::element_type};
use bytes::Bytes;
use pjrt::ElementType;
use serde_json::{Map, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

/// Size in bytes at which a file is finished and the next one begun.
const FILE: usize = 64 << 20;
/// Files written at the same time. A writer holds as many in memory, the next one, and a box.
const CONCURRENT: usize = 2;

/// A checkpoint being written. If it is dropped before [`Writer::finish`], it removes what it wrote.
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    /// Dropped, which waits for the threads, before the sink that they write to.
    threads: Threads,
    sink: Sink,
    prefix: String,
    /// Facts about the tokenizer that was added.
    tokenizer: Facts,
    files: Vec<File>,
    tensors: Vec<Entry>,
    index: BTreeMap<String, usize>,
    /// Boxes of the next file: index of the tensor, index of the box, contents.
    pending: Vec<(usize, usize, Bytes)>,
    pending_bytes: usize,
    /// Snapshots whose memory counts as used until the writer is dropped.
    snapshots: Vec<SnapshotBytes>,
}

/// Threads that write files, in the order in which they were started.
#[derive(Debug, Default)]
struct Threads(VecDeque<JoinHandle<Result<Vec<Digest>>>>);

/// Index of a tensor, index of its box, digest.
type Digest = (usize, usize, blake3::Hash);

impl Drop for Threads {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // Threads are left only after a failure, which was reported already.
            let _ = thread.join();
        }
    }
}

impl Writer {
    /// Starts a checkpoint at `dir`, which must not exist or be an empty folder.
    ///
    /// # Errors
    /// There is something at `dir` already, or the folder cannot be created.
    pub fn create(dir: &Path) -> Result<Self> {
        Ok(Self::of(dir, Sink::create(dir)?, String::new()))
    }

    /// Like [`Writer::create`], but an existing checkpoint is replaced when this one is finished.
    pub fn replace(dir: &Path) -> Result<Self> {
        Ok(Self::of(dir, Sink::replace(dir)?, String::new()))
    }

    /// Starts a checkpoint at `target`, or the part of it that this process writes. Names of files begin with
    /// `prefix`, which distinguishes processes.
    pub(super) fn of(target: &Path, sink: Sink, prefix: String) -> Self {
        Self {
            target: target.to_owned(),
            threads: Threads::default(),
            sink,
            prefix,
            tokenizer: Facts::new(),
            files: Vec::new(),
            tensors: Vec::new(),
            index: BTreeMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            snapshots: Vec::new(),
        }
    }

    /// Counts a snapshot's memory as used until the writer is dropped.
    pub(super) fn count_snapshot(&mut self, snapshots: SnapshotBytes) {
        self.snapshots.push(snapshots);
    }

    /// Adds the file of the tokenizer, and the facts about it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tokenizer(&mut self, contents: &[u8]) -> Result<()> {
        let name = self.sink.name("tokenizer", "bin");
        self.sink.write(&name)(vec![Bytes::copy_from_slice(contents)])?;
        let digest = format!("blake3:{}", blake3::hash(contents).to_hex());
        self.tokenizer =
            [(TOKENIZER, digest), (TOKENIZER_FILE, name)].map(|(key, value)| (key.to_owned(), value)).into();
        Ok(())
    }

    /// Returns `facts` with those about the tokenizer that was added.
    pub(super) fn with_tokenizer(&self, facts: Facts) -> Facts {
        facts.into_iter().chain(self.tokenizer.clone()).collect()
    }

    /// Adds a whole tensor. `dims` are names and sizes, outermost first.
    ///
    /// # Errors
    /// As for [`Writer::part`].
    pub fn tensor(
        &mut self,
        name: &str,
        kind: Kind,
        dims: &[(String, usize)],
        value: HostTensor,
    ) -> Result<()> {
        self.part(name, kind, dims, &vec![0; dims.len()], value)
    }

    /// Adds the box of a tensor that begins at `start`. Boxes may be added in any order, but must not
    /// overlap.
    ///
    /// # Errors
    /// The box is inconsistent with its contents or with earlier boxes of the tensor, or an earlier file
    /// could not be written.
    pub fn part(
        &mut self,
        name: &str,
        kind: Kind,
        dims: &[(String, usize)],
        start: &[usize],
        value: HostTensor,
    ) -> Result<()> {
        let wrong = |why: String| {
            Error::input(
                format!("tensor `{name}` {why}"),
                "this is a bug in the code that writes the checkpoint",
            )
        };
        let element = value.dtype.byte_size().filter(|_| element_type(&value.dtype.to_string()).is_ok());
        let element = element.ok_or_else(|| wrong(format!("has elements of {}", value.dtype)))?;
        if value.dims.iter().product::<usize>() * element != value.bytes.len() {
            return Err(wrong(format!("of sizes {:?} has {} bytes", value.dims, value.bytes.len())));
        }
        let number = *self.index.entry(name.to_owned()).or_insert_with(|| {
            self.tensors.push(Entry {
                name: name.to_owned(),
                kind,
                dtype: value.dtype.to_string(),
                dims: dims.to_vec(),
                boxes: Vec::new(),
            });
            self.tensors.len() - 1
        });
        let entry = &mut self.tensors[number];
        if entry.dims != dims || entry.kind != kind || entry.dtype != value.dtype.to_string() {
            return Err(wrong(format!("is {} in one box and of another type in the next", entry.shape())));
        }
        entry.boxes.push(TensorBox {
            file: String::new(),
            offset: 0,
            bytes: value.bytes.len() as u64,
            start: start.to_vec(),
            size: value.dims,
            // Set once the box is written.
            blake3: String::new(),
        });
        let i = entry.boxes.len() - 1;
        self.pending_bytes += value.bytes.len();
        self.pending.push((number, i, value.bytes.into()));
        if self.pending_bytes >= FILE { self.write_file() } else { Ok(()) }
    }

    /// Writes the remaining boxes and commits the checkpoint.
    ///
    /// # Errors
    /// A tensor is incomplete, or a file cannot be written. Then there is no new checkpoint, and an old one
    /// stays.
    pub fn finish(mut self, facts: Facts, step: u64) -> Result<()> {
        let (files, tensors) = self.complete()?;
        let facts = self.with_tokenizer(facts);
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, step, facts, files, tensors };
        self.commit(&manifest)
    }

    /// Writes the remaining boxes, waits until all files are written, and returns the files and the tensors
    /// with their boxes.
    pub(super) fn complete(&mut self) -> Result<(Vec<File>, Vec<Entry>)> {
        if !self.pending.is_empty() {
            self.write_file()?;
        }
        while !self.threads.0.is_empty() {
            self.finish_first()?;
        }
        Ok((std::mem::take(&mut self.files), std::mem::take(&mut self.tensors)))
    }

    /// Commits the checkpoint with this manifest.
    pub(super) fn commit(self, manifest: &Manifest) -> Result<()> {
        manifest.check().map_err(|why| {
            let what = format!("the checkpoint `{}` is incomplete: {why}", self.target.display());
            Error::input(what, "write every element of every tensor once")
        })?;
        let text = serde_json::to_vec_pretty(manifest).expect("numbers and texts are JSON");
        let tokenizer = manifest.facts.get(TOKENIZER_FILE).map(String::as_str);
        let files: BTreeSet<&str> =
            manifest.files.iter().map(|file| file.name.as_str()).chain(tokenizer).collect();
        self.sink.commit(&self.target, &text, &files)
    }

    /// Returns the destination of the files.
    pub(super) fn sink(&mut self) -> &mut Sink {
        &mut self.sink
    }

    /// Drops the writer, and keeps its files.
    pub(super) fn keep(self) {
        self.sink.keep();
    }

    fn write_file(&mut self) -> Result<()> {
        let stem = format!("{}{:05}", self.prefix, self.files.len());
        let name = self.sink.name(&stem, "safetensors");
        let mut heads = Map::new();
        heads.insert("__metadata__".into(), json!({ "format": FORMAT }));
        let mut at = 0;
        for (tensor, i, bytes) in &self.pending {
            let entry = &self.tensors[*tensor];
            let (part, end) = (&entry.boxes[*i], at + bytes.len());
            let head =
                json!({ "dtype": safetensors(&entry.dtype), "shape": part.size, "data_offsets": [at, end] });
            heads.insert(part.name_in_file(entry), head);
            at = end;
        }
        let mut header = serde_json::to_vec(&heads).expect("numbers and texts are JSON");
        // The format requires that tensors begin at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        let head = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        let mut at = head.len() as u64;
        for (tensor, i, bytes) in &self.pending {
            let part = &mut self.tensors[*tensor].boxes[*i];
            (part.file, part.offset) = (name.clone(), at);
            at += bytes.len() as u64;
        }
        let header_blake3 = blake3::hash(&head).to_hex().to_string();
        self.files.push(File {
            name: name.clone(),
            bytes: at,
            header_bytes: head.len() as u64,
            header_blake3,
        });
        self.pending_bytes = 0;
        let boxes = std::mem::take(&mut self.pending);
        while self.threads.0.len() >= CONCURRENT {
            self.finish_first()?;
        }
        self.start(&name, head.into(), boxes)
    }

    /// Starts to write a file.
    fn start(&mut self, name: &str, head: Bytes, boxes: Vec<(usize, usize, Bytes)>) -> Result<()> {
        let contents: Vec<Bytes> = [head].into_iter().chain(boxes.iter().map(|b| b.2.clone())).collect();
        let write = self.sink.write(name);
        let work = move || {
            thread::scope(|scope| {
                let digests = scope.spawn(|| {
                    boxes.iter().map(|(tensor, i, bytes)| (*tensor, *i, blake3::hash(bytes))).collect()
                });
                write(contents)?;
                Ok(digests.join().expect("hashing bytes does not panic"))
            })
        };
        let thread = thread::Builder::new().name("checkpoint file".to_owned()).spawn(work);
        let thread = thread.map_err(Error::io("starting a thread that writes", &self.target))?;
        self.threads.0.push_back(thread);
        Ok(())
    }

    /// Waits for the file that was started first, and records the digests of its boxes.
    fn finish_first(&mut self) -> Result<()> {
        let Some(thread) = self.threads.0.pop_front() else { return Ok(()) };
        let digests = thread.join().unwrap_or_else(|_| {
            Err(Error::input(
                format!("the thread that wrote a file of `{}` panicked", self.target.display()),
                "this is a bug: report it with the message above",
            ))
        })?;
        for (tensor, i, digest) in digests {
            self.tensors[tensor].boxes[i].blake3 = digest.to_hex().to_string();
        }
        Ok(())
    }
}

/// Returns safetensors' name of an element type.
fn safetensors(dtype: &str) -> &'static str {
    match element_type(dtype) {
        Ok(ElementType::Bf16) => "BF16",
        Ok(ElementType::S32) => "I32",
        Ok(ElementType::U32) => "U32",
        Ok(ElementType::Pred) => "BOOL",
        Ok(_) | Err(_) => "F32",
    }
}
