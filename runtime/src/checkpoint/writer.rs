//! Writing a checkpoint. In a file system: boxes into files of a temporary folder, then the manifest, the
//! marker, and a rename. In an object store: boxes into objects, then the manifest, then the marker.
//!
//! At most two threads write files at the same time. Each computes the digests of its boxes while it writes.

use super::{
    manifest::{COMMIT, Entry, FORMAT, Facts, File, Kind, MANIFEST, Manifest, TensorBox, VERSION, commit_of},
    objects::{self, Objects, is_url},
};
use crate::{Error, HostTensor, Result, session::SnapshotBytes, tensor::element_type};
use bytes::Bytes;
use pjrt::ElementType;
use serde_json::{Map, json};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};
use tempfile::TempDir;

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
    files: Vec<File>,
    tensors: Vec<Entry>,
    index: BTreeMap<String, usize>,
    /// Boxes of the next file: index of the tensor, index of the box, contents.
    pending: Vec<(usize, usize, Bytes)>,
    pending_bytes: usize,
    /// Snapshots whose memory counts as used until the writer is dropped.
    snapshots: Vec<SnapshotBytes>,
}

/// The destination of files before the checkpoint is committed.
#[derive(Debug)]
enum Sink {
    Folder(Folder),
    Objects(Attempt),
}

#[derive(Debug)]
struct Folder {
    parent: PathBuf,
    /// True if an existing checkpoint at the target may be replaced.
    replace: bool,
    scratch: TempDir,
}

/// Objects that no marker covers yet. Removed on drop.
#[derive(Debug)]
struct Attempt {
    objects: Objects,
    /// A part of the names of its files.
    name: String,
    written: Vec<String>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        for name in &self.written {
            // Best effort: nothing refers to the object.
            let _ = self.objects.remove(name);
        }
    }
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
        if is_url(dir) {
            let there = Objects::open(dir)?.has(COMMIT).map_err(Error::io("looking at", dir))?;
            return if there { Err(exists(dir)) } else { Self::begin_objects(dir) };
        }
        let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if dir.symlink_metadata().is_ok() && !is_empty() {
            return Err(exists(dir));
        }
        Self::begin(dir, false)
    }

    /// Like [`Writer::create`], but an existing checkpoint is replaced when this one is finished.
    pub fn replace(dir: &Path) -> Result<Self> {
        if is_url(dir) {
            return Self::begin_objects(dir);
        }
        let is_ours = || dir.join(MANIFEST).is_file() || dir.join(COMMIT).is_file();
        if dir.symlink_metadata().is_ok() && is_ours() { Self::begin(dir, true) } else { Self::create(dir) }
    }

    fn begin(dir: &Path, replace: bool) -> Result<Self> {
        let Some(name) = dir.file_name() else {
            return Err(Error::input(
                format!("`{}` cannot be a checkpoint: the path has no file name", dir.display()),
                "name a folder",
            ));
        };
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(Error::io("creating the folder", &parent))?;
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{}{}.", super::folder::UNFINISHED, name.to_string_lossy()))
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(&parent)
            .map_err(Error::io("creating a folder in", &parent))?;
        Ok(Self::new(dir, Sink::Folder(Folder { parent, replace, scratch })))
    }

    fn begin_objects(url: &Path) -> Result<Self> {
        let objects = Objects::open(url)?;
        let name = objects::attempt();
        Ok(Self::new(url, Sink::Objects(Attempt { objects, name, written: Vec::new() })))
    }

    fn new(target: &Path, sink: Sink) -> Self {
        Self {
            target: target.to_owned(),
            threads: Threads::default(),
            sink,
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
        if !self.pending.is_empty() {
            self.write_file()?;
        }
        while !self.threads.0.is_empty() {
            self.finish_first()?;
        }
        let (files, tensors) = (std::mem::take(&mut self.files), std::mem::take(&mut self.tensors));
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, step, facts, files, tensors };
        manifest.check().map_err(|why| {
            let what = format!("the checkpoint `{}` is incomplete: {why}", self.target.display());
            Error::input(what, "write every element of every tensor once")
        })?;
        let text = serde_json::to_vec_pretty(&manifest).expect("numbers and texts are JSON");
        match self.sink {
            Sink::Folder(folder) => folder.commit(&self.target, &text),
            Sink::Objects(attempt) => attempt.commit(&self.target, text),
        }
    }

    fn write_file(&mut self) -> Result<()> {
        let number = self.files.len();
        let name = match &self.sink {
            Sink::Folder(_) => format!("{number:05}.safetensors"),
            Sink::Objects(attempt) => format!("{number:05}-{}.safetensors", attempt.name),
        };
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
        self.start(name, head.into(), boxes)
    }

    /// Starts to write a file.
    fn start(&mut self, name: String, head: Bytes, boxes: Vec<(usize, usize, Bytes)>) -> Result<()> {
        let contents: Vec<Bytes> = [head].into_iter().chain(boxes.iter().map(|b| b.2.clone())).collect();
        let path = match &self.sink {
            Sink::Folder(folder) => folder.scratch.path().join(&name),
            Sink::Objects(_) => self.target.join(&name),
        };
        let objects = match &mut self.sink {
            Sink::Folder(_) => None,
            Sink::Objects(attempt) => {
                attempt.written.push(name.clone());
                Some(attempt.objects.clone())
            }
        };
        let write = move || match objects {
            None => write_synced(&path, &contents),
            Some(objects) => objects.put(&name, contents).map_err(Error::io("writing", path)),
        };
        let work = move || {
            thread::scope(|scope| {
                let digests = scope.spawn(|| {
                    boxes.iter().map(|(tensor, i, bytes)| (*tensor, *i, blake3::hash(bytes))).collect()
                });
                write()?;
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

impl Folder {
    /// Writes manifest and marker, and renames the folder to its final name.
    fn commit(self, target: &Path, manifest: &[u8]) -> Result<()> {
        let within = self.scratch.path();
        write_synced(&within.join(MANIFEST), &[manifest])?;
        sync_folder(within)?;
        write_synced(&within.join(COMMIT), &[commit_of(manifest).as_bytes()])?;
        sync_folder(within)?;
        // The old checkpoint is moved to a name that is not a checkpoint's.
        let aside = tempfile::Builder::new().prefix(super::folder::UNFINISHED).tempdir_in(&self.parent);
        let aside = aside.map_err(Error::io("creating a folder in", &self.parent))?;
        let old = aside.path().join("old");
        if self.replace {
            fs::rename(target, &old).map_err(Error::io("moving aside", target))?;
        }
        if let Err(error) = fs::rename(within, target) {
            if self.replace {
                // Best effort: the error below is the one to report.
                let _ = fs::rename(&old, target);
            }
            return Err(Error::io("renaming the finished checkpoint to", target)(error));
        }
        sync_folder(&self.parent)
    }
}

impl Attempt {
    /// Writes manifest and marker. An old checkpoint loses its marker first, and its files are removed
    /// afterwards.
    fn commit(mut self, target: &Path, manifest: Vec<u8>) -> Result<()> {
        let failed = |action| Error::io(action, target);
        let (before, _) = self.objects.names().map_err(failed("listing"))?;
        self.objects.remove(COMMIT).map_err(failed("removing the old marker of"))?;
        let marker = commit_of(&manifest);
        self.objects.put(MANIFEST, vec![manifest.into()]).map_err(failed("writing the manifest of"))?;
        self.objects.put(COMMIT, vec![marker.into()]).map_err(failed("writing the marker of"))?;
        let ours = std::mem::take(&mut self.written);
        for name in before.iter().filter(|n| !ours.contains(n) && ![MANIFEST, COMMIT].contains(&n.as_str())) {
            self.objects.remove(name).map_err(failed("removing old files of"))?;
        }
        Ok(())
    }
}

fn exists(dir: &Path) -> Error {
    Error::input(format!("`{}` already exists", dir.display()), "name another folder, or remove it")
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

/// Writes a file and syncs it to disk.
fn write_synced(path: &Path, contents: &[impl AsRef<[u8]>]) -> Result<()> {
    let mut file = fs::File::create_new(path).map_err(Error::io("creating", path))?;
    for bytes in contents {
        file.write_all(bytes.as_ref()).map_err(Error::io("writing", path))?;
    }
    file.sync_all().map_err(Error::io("writing", path))
}

/// Syncs the names in a folder to disk.
fn sync_folder(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("writing the folder", path))
}
