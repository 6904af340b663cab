//! The destination of a checkpoint's files before it is committed.
//!
//! In a file system, it is a folder beside the final one, which the commit renames. In an object store, it is
//! the final prefix: objects have names of this attempt, and count only once there is a marker.
//!
//! Several processes can write to one destination. One of them, the host, creates it, commits it, and removes
//! it if the checkpoint fails; the others are guests.

use super::{
    folder::UNFINISHED,
    manifest::{COMMIT, MANIFEST, commit_of},
    objects::{self, Objects, is_url},
};
use crate::{Error, Result};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// See the module documentation.
#[derive(Debug)]
pub(super) enum Sink {
    Folder(Folder),
    /// The folder of another process.
    Guest(PathBuf),
    Objects(Attempt),
}

#[derive(Debug)]
pub(super) struct Folder {
    parent: PathBuf,
    /// True if an existing checkpoint at the target may be replaced.
    replace: bool,
    scratch: TempDir,
}

/// Objects of this process that no marker covers yet. Removed on drop.
#[derive(Debug)]
pub(super) struct Attempt {
    objects: Objects,
    url: PathBuf,
    /// A part of the names of its files.
    name: String,
    written: BTreeSet<String>,
}

/// Writes one file of a sink, on any thread.
pub(super) type WriteFile = Box<dyn FnOnce(Vec<Bytes>) -> Result<()> + Send>;

impl Sink {
    /// Prepares to write a checkpoint at `target`, which must not exist or be an empty folder.
    pub fn create(target: &Path) -> Result<Self> {
        if is_url(target) {
            let there = Objects::open(target)?.has(COMMIT).map_err(Error::io("looking at", target))?;
            return if there { Err(exists(target)) } else { Self::objects(target, objects::attempt()) };
        }
        let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
        if target.symlink_metadata().is_ok() && !is_empty() {
            return Err(exists(target));
        }
        Self::folder(target, false)
    }

    /// Like [`Sink::create`], but an existing checkpoint is replaced by the commit.
    pub fn replace(target: &Path) -> Result<Self> {
        if is_url(target) {
            return Self::objects(target, objects::attempt());
        }
        let is_ours = || target.join(MANIFEST).is_file() || target.join(COMMIT).is_file();
        let replaces = target.symlink_metadata().is_ok() && is_ours();
        if replaces { Self::folder(target, true) } else { Self::create(target) }
    }

    /// Joins the attempt of another process. `name` is its [`Sink::attempt`].
    pub fn join(target: &Path, name: &str) -> Result<Self> {
        if is_url(target) {
            Self::objects(target, name.to_owned())
        } else {
            Ok(Self::Guest(target.with_file_name(name)))
        }
    }

    /// Returns the name of the attempt, with which other processes join it.
    pub fn attempt(&self) -> String {
        let last = |path: &Path| path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        match self {
            Self::Folder(folder) => last(folder.scratch.path()),
            Self::Guest(path) => last(path),
            Self::Objects(attempt) => attempt.name.clone(),
        }
    }

    fn folder(target: &Path, replace: bool) -> Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(Error::input(
                format!("`{}` cannot be a checkpoint: the path has no file name", target.display()),
                "name a folder",
            ));
        };
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        };
        fs::create_dir_all(&parent).map_err(Error::io("creating the folder", &parent))?;
        let scratch = tempfile::Builder::new()
            .prefix(&format!("{UNFINISHED}{}.", name.to_string_lossy()))
            .permissions(Permissions::from_mode(0o777))
            .tempdir_in(&parent)
            .map_err(Error::io("creating a folder in", &parent))?;
        Ok(Self::Folder(Folder { parent, replace, scratch }))
    }

    fn objects(url: &Path, name: String) -> Result<Self> {
        let objects = Objects::open(url)?;
        Ok(Self::Objects(Attempt { objects, url: url.to_owned(), name, written: BTreeSet::new() }))
    }

    /// Returns a file name for this attempt.
    pub fn name(&self, stem: &str, extension: &str) -> String {
        match self {
            Self::Folder(_) | Self::Guest(_) => format!("{stem}.{extension}"),
            Self::Objects(attempt) => format!("{stem}-{}.{extension}", attempt.name),
        }
    }

    /// Returns a function that writes a new file.
    pub fn write(&mut self, name: &str) -> WriteFile {
        let path = match self {
            Self::Folder(folder) => folder.scratch.path().join(name),
            Self::Guest(folder) => folder.join(name),
            Self::Objects(attempt) => {
                attempt.written.insert(name.to_owned());
                let (objects, url, name) = (attempt.objects.clone(), attempt.url.join(name), name.to_owned());
                return Box::new(move |contents| {
                    objects.put(&name, contents).map_err(Error::io("writing", url))
                });
            }
        };
        Box::new(move |contents| write_synced(&path, &contents))
    }

    /// Reads a small file of this attempt.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        match self.dir() {
            Ok(dir) => fs::read(dir.join(name)).map_err(Error::io("reading", dir.join(name))),
            Err(attempt) => attempt.objects.read(name).map_err(Error::io("reading", attempt.url.join(name))),
        }
    }

    /// Removes a file of this attempt.
    pub fn remove(&self, name: &str) -> Result<()> {
        match self.dir() {
            Ok(dir) => fs::remove_file(dir.join(name)).map_err(Error::io("removing", dir.join(name))),
            Err(attempt) => {
                attempt.objects.remove(name).map_err(Error::io("removing", attempt.url.join(name)))
            }
        }
    }

    /// Returns the sizes of all files in bytes, in a store also of those of other attempts.
    pub fn sizes(&self) -> Result<BTreeMap<String, u64>> {
        match self.dir() {
            Ok(dir) => folder_sizes(dir).map_err(Error::io("listing", dir)),
            Err(attempt) => attempt.objects.sizes().map_err(Error::io("listing", &attempt.url)),
        }
    }

    /// Returns the folder that holds the files, or the attempt in a store.
    pub fn dir(&self) -> std::result::Result<&Path, &Attempt> {
        match self {
            Self::Folder(folder) => Ok(folder.scratch.path()),
            Self::Guest(path) => Ok(path),
            Self::Objects(attempt) => Err(attempt),
        }
    }

    /// Commits the checkpoint. `files` are the names of its files.
    pub fn commit(self, target: &Path, manifest: &[u8], files: &BTreeSet<&str>) -> Result<()> {
        match self {
            Self::Folder(folder) => folder.commit(target, manifest),
            Self::Objects(attempt) => attempt.commit(target, manifest, files),
            Self::Guest(path) => Err(Error::input(
                format!("`{}` was created by another process, which must commit it", path.display()),
                "this is a bug: report it",
            )),
        }
    }

    /// Keeps the files of a guest: the checkpoint is committed, or may be.
    pub fn keep(self) {
        match self {
            Self::Folder(_) | Self::Guest(_) => {}
            Self::Objects(mut attempt) => attempt.written.clear(),
        }
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
        let aside = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.parent);
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
    fn commit(mut self, target: &Path, manifest: &[u8], files: &BTreeSet<&str>) -> Result<()> {
        let failed = |action| Error::io(action, target);
        let (before, _) = self.objects.names().map_err(failed("listing"))?;
        self.objects.remove(COMMIT).map_err(failed("removing the old marker of"))?;
        let marker = commit_of(manifest);
        let manifest = Bytes::copy_from_slice(manifest);
        self.objects.put(MANIFEST, vec![manifest]).map_err(failed("writing the manifest of"))?;
        self.objects.put(COMMIT, vec![marker.into()]).map_err(failed("writing the marker of"))?;
        self.written.clear();
        for name in before
            .iter()
            .filter(|n| !files.contains(&n.as_str()) && ![MANIFEST, COMMIT].contains(&n.as_str()))
        {
            // Best effort: the checkpoint is complete, and nothing refers to the object.
            let _ = self.objects.remove(name);
        }
        Ok(())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        for name in &self.written {
            // Best effort: nothing refers to the object.
            let _ = self.objects.remove(name);
        }
    }
}

fn exists(dir: &Path) -> Error {
    Error::input(format!("`{}` already exists", dir.display()), "name another folder, or remove it")
}

fn folder_sizes(dir: &Path) -> std::io::Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        sizes.insert(entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len());
    }
    Ok(sizes)
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
