//! Writing a checkpoint: boxes into files of a temporary folder, then the manifest, the marker, the name.

use super::{
    COMMIT, MANIFEST, commit_of,
    manifest::{Entry, FORMAT, Facts, File, Kind, Manifest, Part, VERSION},
};
use crate::{Error, HostTensor, Result, tensor::element_type};
use pjrt::ElementType;
use serde_json::{Map, json};
use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Bytes from which a file is closed and another one begun: what a writer holds in memory, a box apart.
const FILE: usize = 128 << 20;

/// A checkpoint under construction. Dropped before [`Writer::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    target: PathBuf,
    parent: PathBuf,
    /// Whether what is at the target may be replaced.
    replace: bool,
    scratch: TempDir,
    files: Vec<File>,
    tensors: Vec<Entry>,
    index: BTreeMap<String, usize>,
    /// Boxes of the next file: tensor, number, contents.
    pending: Vec<(usize, usize, Vec<u8>)>,
    pending_bytes: usize,
}

impl Writer {
    /// Begins the checkpoint `dir`, which must not be there, or be an empty folder.
    pub fn create(dir: &Path) -> Result<Self> {
        let is_empty = || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if dir.symlink_metadata().is_ok() && !is_empty() {
            return Err(Error::input(
                format!("`{}` is there already", dir.display()),
                "name another folder, or remove it",
            ));
        }
        Self::begin(dir, false)
    }

    /// The same, but takes the place of an older checkpoint if there is one, once it is finished.
    pub fn replace(dir: &Path) -> Result<Self> {
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
        Ok(Self {
            target: dir.to_owned(),
            parent,
            replace,
            scratch,
            files: Vec::new(),
            tensors: Vec::new(),
            index: BTreeMap::new(),
            pending: Vec::new(),
            pending_bytes: 0,
        })
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
        entry.boxes.push(Part {
            file: String::new(),
            offset: 0,
            bytes: value.bytes.len() as u64,
            start: start.to_vec(),
            size: value.dims,
            blake3: blake3::hash(&value.bytes).to_hex().to_string(),
        });
        let i = entry.boxes.len() - 1;
        self.pending_bytes += value.bytes.len();
        self.pending.push((number, i, value.bytes));
        if self.pending_bytes >= FILE { self.write_file() } else { Ok(()) }
    }

    /// Writes the rest, and gives the checkpoint its name.
    pub fn finish(mut self, facts: Facts, step: u64) -> Result<()> {
        if !self.pending.is_empty() {
            self.write_file()?;
        }
        let (files, tensors) = (std::mem::take(&mut self.files), std::mem::take(&mut self.tensors));
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, step, facts, files, tensors };
        manifest.check().map_err(|why| {
            let what = format!("the checkpoint `{}` is not whole: {why}", self.target.display());
            Error::input(what, "write every element of every tensor once")
        })?;
        let text = serde_json::to_vec_pretty(&manifest).expect("numbers and texts are JSON");
        let within = self.scratch.path().to_owned();
        write_synced(&within.join(MANIFEST), &[&text])?;
        sync_folder(&within)?;
        write_synced(&within.join(COMMIT), &[commit_of(&text).as_bytes()])?;
        sync_folder(&within)?;
        self.give_name()
    }

    fn give_name(self) -> Result<()> {
        let (target, parent) = (self.target, self.parent);
        // What is replaced steps aside under a name that is no checkpoint's.
        let aside = tempfile::Builder::new().prefix(super::folder::UNFINISHED).tempdir_in(&parent);
        let aside = aside.map_err(Error::io("creating a folder in", &parent))?;
        let old = aside.path().join("old");
        if self.replace {
            fs::rename(&target, &old).map_err(Error::io("moving aside", &target))?;
        }
        if let Err(error) = fs::rename(self.scratch.path(), &target) {
            if self.replace {
                // Best effort: the error below is what matters.
                let _ = fs::rename(&old, &target);
            }
            return Err(Error::io("giving its name to", &target)(error));
        }
        sync_folder(&parent)
    }

    fn write_file(&mut self) -> Result<()> {
        let name = format!("{:05}.safetensors", self.files.len());
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
        let contents: Vec<&[u8]> =
            [&head[..]].into_iter().chain(self.pending.iter().map(|p| &p.2[..])).collect();
        write_synced(&self.scratch.path().join(&name), &contents)?;
        let mut at = head.len() as u64;
        for (tensor, i, bytes) in self.pending.drain(..) {
            let part = &mut self.tensors[tensor].boxes[i];
            (part.file, part.offset) = (name.clone(), at);
            at += bytes.len() as u64;
        }
        self.pending_bytes = 0;
        let header_blake3 = blake3::hash(&head).to_hex().to_string();
        self.files.push(File { name, bytes: at, header_bytes: head.len() as u64, header_blake3 });
        Ok(())
    }
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
fn write_synced(path: &Path, contents: &[&[u8]]) -> Result<()> {
    let mut file = fs::File::create_new(path).map_err(Error::io("creating", path))?;
    for bytes in contents {
        file.write_all(bytes).map_err(Error::io("writing", path))?;
    }
    file.sync_all().map_err(Error::io("writing", path))
}

/// Sees to it that the names in a folder are on disk.
fn sync_folder(path: &Path) -> Result<()> {
    fs::File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("writing the folder", path))
}
