//! The kinds of paths that commands are given: artefacts, checkpoints and model packages.

use crate::files::is_artefact;
use anyhow::Result;
use runtime::{
    Checkpoint,
    checkpoint::{
        folder::{list, steps},
        is_checkpoint, is_url,
    },
};
use std::path::{Path, PathBuf};

/// The checkpoints in a run directory.
pub const CHECKPOINTS: &str = "checkpoints";

/// True if `path` is a folder with a Cargo.toml: a model program with its own dependencies.
pub fn is_package(path: &Path) -> bool {
    path.join("Cargo.toml").is_file()
}

/// True if `path` is a checkpoint, a directory of checkpoints, or a run directory with one.
pub fn has_checkpoints(path: &Path) -> bool {
    if is_checkpoint(path) || is_url(path) {
        return true;
    }
    let holds = |dir: &Path| dir.is_dir() && steps(dir).is_ok_and(|steps| !steps.is_empty());
    !is_artefact(path) && (holds(path) || holds(&path.join(CHECKPOINTS)))
}

/// True if `path` is a directory, and of no other kind than an artefact.
pub fn is_compiled(path: &Path) -> bool {
    path.is_dir() && !is_package(path) && !has_checkpoints(path)
}

/// Opens the checkpoint `dir`, or the newest valid one in it: `dir` may be a directory of checkpoints, or
/// a run directory with one. Says which checkpoints were skipped.
///
/// # Errors
/// There is no valid checkpoint.
pub fn newest(dir: &Path, say: fn(&str)) -> Result<Checkpoint> {
    let of_run = dir.join(CHECKPOINTS);
    let dir = if !is_url(dir) && !is_checkpoint(dir) && of_run.is_dir() { &of_run } else { dir };
    let mut found = if dir.is_dir() || is_url(dir) { list(dir)? } else { Vec::new() };
    while let Some(newest) = found.pop() {
        match newest.checkpoint {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) => {
                say(&format!("warning: skipped the checkpoint `{}`: {error}", newest.dir.display()))
            }
        }
    }
    Ok(Checkpoint::open(dir)?)
}

/// Returns the path of [`newest`].
///
/// # Errors
/// As [`newest`].
pub fn newest_path(dir: &Path, say: fn(&str)) -> Result<PathBuf> {
    Ok(newest(dir, say)?.dir().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn directories_have_one_kind() {
        let dir = tempfile::tempdir().unwrap();
        let made = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path.parent().unwrap().to_owned()
        };
        let kinds = |path: &Path| [is_compiled(path), is_package(path), has_checkpoints(path)];
        assert_eq!(kinds(&made("artefact/manifest.pb")), [true, false, false]);
        assert_eq!(kinds(&made("package/Cargo.toml")), [false, true, false]);
        let checkpoint = made("run/checkpoints/step_00000004/x");
        assert_eq!(kinds(checkpoint.parent().unwrap()), [false, false, true]);
        assert_eq!(kinds(&dir.path().join("run")), [false, false, true]);
        assert_eq!(kinds(&dir.path().join("nothing")), [false; 3]);
    }
}
