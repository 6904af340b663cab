//! A folder of checkpoints, one for each step that was kept.

use super::Checkpoint;
use crate::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How the names of folders begin that are no checkpoints yet, or no longer.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// A folder with the name of a checkpoint.
#[derive(Debug)]
pub struct Found {
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

/// All checkpoints in a folder, the oldest first. A folder that is not there has none.
pub fn list(folder: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for name in names(folder)? {
        let digits =
            name.strip_prefix("step_").filter(|d| d.len() >= 8 && d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(step) = digits.and_then(|d| d.parse().ok()) {
            let dir = folder.join(&name);
            found.push(Found { step, checkpoint: Checkpoint::open(&dir), dir });
        }
    }
    found.sort_by_key(|f| f.step);
    Ok(found)
}

/// Removes all good checkpoints but the newest `keep`, and returns where they were. Damaged ones are left for
/// someone to look at, and do not count. With `dry`, nothing is removed.
pub fn prune(folder: &Path, keep: usize, dry: bool) -> Result<Vec<PathBuf>> {
    let good: Vec<PathBuf> =
        list(folder)?.into_iter().filter(|f| f.checkpoint.is_ok()).map(|f| f.dir).collect();
    let old = good[..good.len().saturating_sub(keep)].to_vec();
    if !dry {
        old.iter().try_for_each(|dir| remove(dir))?;
    }
    Ok(old)
}

/// Removes what interrupted writers and removers left. For who knows that there is none at work.
pub fn sweep(folder: &Path) -> Result<()> {
    for name in names(folder)?.into_iter().filter(|n| n.starts_with(UNFINISHED)) {
        let path = folder.join(name);
        fs::remove_dir_all(&path).map_err(Error::io("removing", &path))?;
    }
    Ok(())
}

/// Removes a checkpoint. It loses its name first, so that no half of one is ever found.
fn remove(dir: &Path) -> Result<()> {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let going = dir.with_file_name(format!("{UNFINISHED}{name}.removed"));
    fs::rename(dir, &going).map_err(Error::io("removing", dir))?;
    fs::remove_dir_all(&going).map_err(Error::io("removing", &going))
}

fn names(folder: &Path) -> Result<Vec<String>> {
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
