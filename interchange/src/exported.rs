//! Parts that exports share: comparison of parameters with the model, and directories that appear when they
//! are complete.

use crate::failure;
use anyhow::{Context, Result};
use runtime::checkpoint::{Checkpoint, Kind};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

/// Largest number of names in a message.
const LISTED: usize = 20;

/// Checks the parameters of the checkpoint against those of the model, whose dims `params` gives by name.
pub fn check(checkpoint: &Checkpoint, params: &BTreeMap<&str, &Vec<(String, usize)>>) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, dims) in params {
        match checkpoint.tensor(name) {
            None => wrong.push(format!("`{name}` is missing")),
            Some(entry) if entry.dims != **dims || entry.dtype != "f32" => {
                let sizes: Vec<String> = dims.iter().map(|(n, s)| format!("{n}={s}")).collect();
                wrong.push(format!(
                    "`{name}` is {}; the settings require f32[{}]",
                    entry.shape(),
                    sizes.join(", ")
                ));
            }
            Some(_) => {}
        }
    }
    let extra = checkpoint
        .tensors()
        .iter()
        .filter(|t| t.kind == Kind::Param && !params.contains_key(t.name.as_str()));
    wrong.extend(extra.map(|t| format!("`{}` is unexpected", t.name)));
    if wrong.is_empty() {
        return Ok(());
    }
    Err(failure(
        format!(
            "the parameters in `{}` do not match its settings:\n    {}",
            checkpoint.dir().display(),
            shortened(&wrong)
        ),
        "name the model and the settings of training: --model switch --set d_model=64 …",
    ))
}

/// Formats a list for a message, truncated if it is long.
pub fn shortened(list: &[String]) -> String {
    let mut text = list.iter().take(LISTED).cloned().collect::<Vec<_>>().join("\n    ");
    if list.len() > LISTED {
        text += &format!("\n    and {} more", list.len() - LISTED);
    }
    text
}

/// Checks that a directory can be created.
///
/// # Errors
/// There is something at `out`.
pub fn absent(out: &Path) -> Result<()> {
    match out.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(failure(
            format!("`{}` already exists", out.display()),
            "name another directory, or remove it",
        )),
    }
}

/// Creates a directory beside `out`, which [`publish`] moves there.
pub fn unfinished(out: &Path) -> Result<TempDir> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    fs::create_dir_all(parent).with_context(|| format!("creating the directory `{}`", parent.display()))?;
    tempfile::Builder::new()
        .prefix(".unfinished-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .tempdir_in(parent)
        .with_context(|| format!("creating a directory in `{}`", parent.display()))
}

/// Moves a complete directory to `out`.
pub fn publish(scratch: &TempDir, out: &Path) -> Result<()> {
    fs::rename(scratch.path(), out)
        .with_context(|| format!("moving the finished directory to `{}`", out.display()))
}
