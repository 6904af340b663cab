//! Writing a checkpoint: boxes into files of a temporary folder, then the manifest, the marker, the name. In an object
//! store: boxes into objects, then the manifest, then the marker.
//!
//! Files are written by threads, two at a time at most, each of which takes the digests of its boxes while it writes
//! them.

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

/// Bytes from which a file is closed and another one begun.
const FILE: usize = 64 << 20;
/// Files that are written at the same time. A writer holds as many in memory, the next one, and a box.
const AT_ONCE: usize = 2;

/// A checkpoint under construction. Dropped before [`Writer::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    /// Dropped, which waits for them, before what they write to.
    at_work: AtWork,
    sink: Sink,
    files: Vec<File>,
    tensors: Vec<Entry>,
    index: BTreeMap<String, usize>,
    /// Boxes of the next file: tensor, number, contents.
    pending: Vec<(usize, usize, Bytes)>,
    pending_bytes: usize,
    /// Memory that counts as taken until the writer is gone.
    held: Vec<SnapshotBytes>,
}

/// Where files go until there is a checkpoint.
#[derive(Debug)]
enum Sink {
    Folder(Folder),
    Objects(Attempt),
}

#[derive(Debug)]
struct Folder {
    parent: PathBuf,
    /// Whether what is at the target may be replaced.
    replace: bool,
    scratch: TempDir,
}

/// Objects that no marker covers yet; removed when dropped.
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
            // Best effort: nothing refers to it.
            let _ = self.objects.remove(name);
        }
    }
}

/// Threads that write files, the first one first.
#[derive(Debug, Default)]
struct AtWork(VecDeque<JoinHandle<Result<Vec<Digest>>>>);

/// The digest of a box of a tensor.
type Digest = (usize, usize, blake3::Hash);

impl Drop for AtWork {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // Only after a failure is there anything left, and that is what matters.
            let _ = thread.join();
        }
    }
}

impl Writer {
    /// Begins the checkpoint `dir`, which must not be there, or be an empty folder.
    pub fn create(dir: &Path) -> Result<Self> {
        if is_url(dir) {
            let there = Objects::open(dir)?.has(COMMIT).map_err(Error::io("looking at", dir))?;
            return if there { Err(is_there(dir)) } else { Self::begin_objects(dir) };
        }
        let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if dir.symlink_metadata().is_ok() && !is_empty() {
            return Err(is_there(dir));
        }
        Self::begin(dir, false)
    }

    /// The same, but takes the place of an older checkpoint if there is one, once it is finished.
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
                format!("`{}` cannot be a checkpoint: it has no name", dir.display()),
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
            at_work: AtWork::default(),
            sink,
            files: Vec::new(),
            tensors: Vec::new(),
            index: BTreeMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            held: Vec::new(),
        }
    }

    /// Memory that counts as taken until this is written.
    pub(super) fn hold(&mut self, held: SnapshotBytes) {
        self.held.push(held);
    }

    /// Adds a whole tensor; `dims` are names and sizes, outermost first.
    pub fn tensor(
        &mut self,
        name: &str,
        kind: Kind,
        dims: &[(String, usize)],
        value: HostTensor,
    ) -> Result<()> {
        self.part(name, kind, dims, &vec![0; dims.len()], value)
    }

    /// Adds the box of a tensor that begins at `start`. Boxes come in any order, but may not overlap.
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
                "this is a mistake of whoever writes the checkpoint",
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
            return Err(wrong(format!("is {} in one box and something else in another", entry.shape())));
        }
        entry.boxes.push(TensorBox {
            file: String::new(),
            offset: 0,
            bytes: value.bytes.len() as u64,
            start: start.to_vec(),
            size: value.dims,
            // Known once it is written.
            blake3: String::new(),
        });
        let i = entry.boxes.len() - 1;
        self.pending_bytes += value.bytes.len();
        self.pending.push((number, i, value.bytes.into()));
        if self.pending_bytes >= FILE { self.write_file() } else { Ok(()) }
    }

    /// Writes the rest, and makes a checkpoint of it.
    pub fn finish(mut self, facts: Facts, step: u64) -> Result<()> {
        if !self.pending.is_empty() {
            self.write_file()?;
        }
        while !self.at_work.0.is_empty() {
            self.settle()?;
        }
        let (files, tensors) = (std::mem::take(&mut self.files), std::mem::take(&mut self.tensors));
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, step, facts, files, tensors };
        manifest.check().map_err(|why| {
            let what = format!("the checkpoint `{}` is not whole: {why}", self.target.display());
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
        // As the format wants it: tensors begin at a multiple of 8.
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
        while self.at_work.0.len() >= AT_ONCE {
            self.settle()?;
        }
        self.start(name, head.into(), boxes)
    }

    /// Begins to write a file.
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
                Ok(digests.join().expect("taking digests of bytes does not panic"))
            })
        };
        let thread = thread::Builder::new().name("checkpoint file".to_owned()).spawn(work);
        let thread = thread.map_err(Error::io("starting a thread that writes", &self.target))?;
        self.at_work.0.push_back(thread);
        Ok(())
    }

    /// Waits for the file that was begun first, and notes the digests of its boxes.
    fn settle(&mut self) -> Result<()> {
        let Some(thread) = self.at_work.0.pop_front() else { return Ok(()) };
        let digests = thread.join().unwrap_or_else(|_| {
            Err(Error::input(
                format!("a thread that wrote a file of `{}` ended by itself", self.target.display()),
                "this is a mistake in the program: report it with the message above",
            ))
        })?;
        for (tensor, i, digest) in digests {
            self.tensors[tensor].boxes[i].blake3 = digest.to_hex().to_string();
        }
        Ok(())
    }
}

impl Folder {
    /// Writes manifest and marker, and gives the folder its name.
    fn commit(self, target: &Path, manifest: &[u8]) -> Result<()> {
        let within = self.scratch.path();
        write_synced(&within.join(MANIFEST), &[manifest])?;
        sync_folder(within)?;
        write_synced(&within.join(COMMIT), &[commit_of(manifest).as_bytes()])?;
        sync_folder(within)?;
        // What is replaced steps aside under a name that is no checkpoint's.
        let aside = tempfile::Builder::new().prefix(super::folder::UNFINISHED).tempdir_in(&self.parent);
        let aside = aside.map_err(Error::io("creating a folder in", &self.parent))?;
        let old = aside.path().join("old");
        if self.replace {
            fs::rename(target, &old).map_err(Error::io("moving aside", target))?;
        }
        if let Err(error) = fs::rename(within, target) {
            if self.replace {
                // Best effort: the error below is what matters.
                let _ = fs::rename(&old, target);
            }
            return Err(Error::io("giving its name to", target)(error));
        }
        sync_folder(&self.parent)
    }
}

impl Attempt {
    /// Writes manifest and marker. What was there before has no marker meanwhile, and is removed afterwards.
    fn commit(mut self, target: &Path, manifest: Vec<u8>) -> Result<()> {
        let failed = |action| Error::io(action, target);
        let (before, _) = self.objects.names().map_err(failed("listing"))?;
        self.objects.remove(COMMIT).map_err(failed("removing the old marker of"))?;
        let marker = commit_of(&manifest);
        self.objects.put(MANIFEST, vec![manifest.into()]).map_err(failed("writing the manifest of"))?;
        self.objects.put(COMMIT, vec![marker.into()]).map_err(failed("writing the marker of"))?;
        let ours = std::mem::take(&mut self.written);
        for name in before.iter().filter(|n| !ours.contains(n) && ![MANIFEST, COMMIT].contains(&n.as_str())) {
            self.objects.remove(name).map_err(failed("removing what was there before of"))?;
        }
        Ok(())
    }
}

fn is_there(dir: &Path) -> Error {
    Error::input(format!("`{}` is there already", dir.display()), "name another folder, or remove it")
}

/// What safetensors calls an element type.
fn safetensors(dtype: &str) -> &'static str {
    match element_type(dtype) {
        Ok(ElementType::Bf16) => "BF16",
        Ok(ElementType::S32) => "I32",
        Ok(ElementType::U32) => "U32",
        Ok(ElementType::Pred) => "BOOL",
        Ok(_) | Err(_) => "F32",
    }
}

/// Writes a file that is on disk when this returns.
fn write_synced(path: &Path, contents: &[impl AsRef<[u8]>]) -> Result<()> {
    let mut file = fs::File::create_new(path).map_err(Error::io("creating", path))?;
    for bytes in contents {
        file.write_all(bytes.as_ref()).map_err(Error::io("writing", path))?;
    }
    file.sync_all().map_err(Error::io("writing", path))
}

/// Sees to it that the names in a folder are on disk.
fn sync_folder(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("writing the folder", path))
}
