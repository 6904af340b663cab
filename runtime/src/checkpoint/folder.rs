//! A folder of checkpoints, one for each step that was kept.

use super::{
    manifest::COMMIT,
    objects::{Objects, is_url},
    reader::Checkpoint,
};
use crate::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How the names of folders begin that are no checkpoints yet, or no longer.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// A folder with the name of a checkpoint.
#[derive(Debug)]
pub struct StoredCheckpoint {
    /// The step in its name.
    pub step: u64,
    /// Where it is.
    pub dir: PathBuf,
    /// The checkpoint, or what is wrong with it. Its tensors were not read.
    pub checkpoint: Result<Checkpoint>,
}

/// Where in `folder` the checkpoint of a step lies.
pub fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step_{step:08}"))
}

/// All checkpoints in a folder, the oldest first. A folder that is not there has none. In an object store, what has no
/// marker is not finished, and no checkpoint.
pub fn list(folder: &Path) -> Result<Vec<StoredCheckpoint>> {
    let mut found = Vec::new();
    for name in names(folder)? {
        let digits =
            name.strip_prefix("step_").filter(|d| d.len() >= 8 && d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(step) = digits.and_then(|d| d.parse().ok()) {
            let dir = folder.join(&name);
            if is_url(folder) && !is_finished(&dir)? {
                continue;
            }
            found.push(StoredCheckpoint { step, checkpoint: Checkpoint::open(&dir), dir });
        }
    }
    found.sort_by_key(|f| f.step);
    Ok(found)
}

/// Removes what interrupted writers and removers left. For who knows that there is none at work.
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

/// Removes a checkpoint. It loses its name first, so that no half of one is ever found.
pub(super) fn remove(dir: &Path) -> Result<()> {
    if is_url(dir) {
        let objects = Objects::open(dir)?;
        // Without its marker it is no checkpoint, whatever comes of the rest.
        return objects.remove(COMMIT).and_then(|()| objects.clear()).map_err(Error::io("removing", dir));
    }
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let going = dir.with_file_name(format!("{UNFINISHED}{name}.removed"));
    fs::rename(dir, &going).map_err(Error::io("removing", dir))?;
    fs::remove_dir_all(&going).map_err(Error::io("removing", &going))
}

/// Whether a prefix of an object store has a marker.
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
