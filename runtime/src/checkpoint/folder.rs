//! The checkpoints of a run: one folder per step, in a common folder.

use super::{
    manifest::COMMIT,
    objects::{Objects, is_url},
    reader::{Checkpoint, is_checkpoint},
};
use crate::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Prefix of the names of folders that are not a finished checkpoint.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// A folder whose name is that of a checkpoint.
#[derive(Debug)]
pub struct StoredCheckpoint {
    /// The step in its name.
    pub step: u64,
    /// Its path.
    pub dir: PathBuf,
    /// The checkpoint, or the reason why it cannot be opened. Its tensors are not checked.
    pub checkpoint: Result<Checkpoint>,
}

/// Returns the path of a step's checkpoint in `folder`.
pub fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step_{step:08}"))
}

/// Lists the checkpoints in a folder, sorted by step. A missing folder has none. In an object store, a prefix
/// without a marker is not a checkpoint.
///
/// # Errors
/// The folder cannot be read. A damaged checkpoint is not an error; it is listed with its error.
pub fn list(folder: &Path) -> Result<Vec<StoredCheckpoint>> {
    let stored = |step| {
        let dir = path(folder, step);
        StoredCheckpoint { step, checkpoint: Checkpoint::open(&dir), dir }
    };
    Ok(steps(folder)?.into_iter().map(stored).collect())
}

/// Lists the steps of the checkpoints in a folder, in order, without opening them.
///
/// # Errors
/// As [`list`].
pub fn steps(folder: &Path) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for name in names(folder)? {
        let digits =
            name.strip_prefix("step_").filter(|d| d.len() >= 8 && d.bytes().all(|b| b.is_ascii_digit()));
        let Some(step) = digits.and_then(|d| d.parse().ok()) else { continue };
        // The name of a checkpoint has no more zeros than `path` gives it.
        let dir = path(folder, step);
        if dir != folder.join(&name) || is_url(folder) && !is_finished(&dir)? {
            continue;
        }
        found.push(step);
    }
    found.sort_unstable();
    Ok(found)
}

/// True if `dir` is itself a checkpoint, complete or not.
pub fn is_one(dir: &Path) -> bool {
    is_checkpoint(dir) || dir.join("manifest.json").exists() || dir.join(COMMIT).exists()
}

/// Opens the checkpoint `dir`, or all checkpoints in it, sorted by step.
///
/// # Errors
/// `dir` cannot be read, or has no checkpoint. A damaged checkpoint is not an error; it is returned with its
/// error.
pub fn open(dir: &Path) -> Result<Vec<(PathBuf, Result<Checkpoint>)>> {
    if is_one(dir) {
        return Ok(vec![(dir.to_owned(), Checkpoint::open(dir))]);
    }
    let found = if dir.is_dir() || is_url(dir) { list(dir)? } else { Vec::new() };
    if found.is_empty() {
        return Err(Error::input(
            format!("`{}` is not a checkpoint and contains none", dir.display()),
            "name the directory that was given to `meshc train --checkpoint-dir`, or a checkpoint in it",
        ));
    }
    Ok(found.into_iter().map(|f| (f.dir, f.checkpoint)).collect())
}

/// Removes the remains of interrupted writes and removals. The caller must know that no writer is at work in
/// the folder.
pub fn sweep(folder: &Path) -> Result<()> {
    if is_url(folder) {
        for name in names(folder)?.into_iter().filter(|n| n.starts_with("step_")) {
            let dir = folder.join(name);
            if !is_finished(&dir)? {
                Objects::open(&dir)?.clear().map_err(Error::io("removing", &dir))?;
            }
        }
        return Ok(());
    }
    for name in names(folder)?.into_iter().filter(|n| n.starts_with(UNFINISHED)) {
        let path = folder.join(name);
        fs::remove_dir_all(&path).map_err(Error::io("removing", &path))?;
    }
    Ok(())
}

/// Removes a checkpoint. It is renamed first, so that a partly removed checkpoint is never found.
pub(super) fn remove(dir: &Path) -> Result<()> {
    if is_url(dir) {
        let objects = Objects::open(dir)?;
        // Without its marker it is not a checkpoint, even if the rest cannot be removed.
        return objects.remove(COMMIT).and_then(|()| objects.clear()).map_err(Error::io("removing", dir));
    }
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let going = dir.with_file_name(format!("{UNFINISHED}{name}.removed"));
    fs::rename(dir, &going).map_err(Error::io("removing", dir))?;
    fs::remove_dir_all(&going).map_err(Error::io("removing", &going))
}

/// Returns true if a prefix of an object store has a marker.
fn is_finished(dir: &Path) -> Result<bool> {
    Objects::open(dir)?.has(COMMIT).map_err(Error::io("looking at", dir))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    if is_url(folder) {
        let (_, mut names) = Objects::open(folder)?.names().map_err(Error::io("listing", folder))?;
        names.sort();
        return Ok(names);
    }
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("reading the folder", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("reading the folder", folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
