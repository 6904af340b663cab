//! Import and export of checkpoints of arrays, T5X's and TensorFlow's, with a summary of each.

use crate::{
    Overrides,
    t5x::{array::Source, export, folder::Folder, import},
    tensorflow,
};
use anyhow::Result;
use std::path::Path;

/// Imports the checkpoint at `path`, TensorFlow's if there is an index, else T5X's, as the checkpoint `out`.
/// Returns a summary.
///
/// # Errors
/// As for [`import::import`].
pub fn import(path: &Path, overrides: &Overrides, out: &Path) -> Result<String> {
    let source: Box<dyn Source> = match tensorflow::Checkpoint::is_at(path) {
        true => Box::new(tensorflow::Checkpoint::open(path)?),
        false => Box::new(Folder::open(path)?),
    };
    let done = import::import(&*source, overrides, out)?;
    let slots = match done.slots {
        Ok(count) => format!("optimizer slots: {count} arrays"),
        Err(why) => format!("optimizer slots: none, because {why}; training starts with new ones"),
    };
    let (out, step) = (out.display(), done.step);
    Ok(format!("{out}: {} arrays, {} parameters, step {step}\n{slots}", done.arrays, done.elements))
}

/// Exports the checkpoint `dir` as the checkpoint `out` of T5X, compressed with gzip. Returns a summary.
///
/// # Errors
/// As for [`export::export`].
pub fn export(dir: &Path, model: Option<&str>, overrides: &Overrides, out: &Path) -> Result<String> {
    let done = export::export(dir, model, overrides, out, true)?;
    let slots = match done.slots {
        Ok(count) => format!("optimizer slots: {count} arrays"),
        Err(why) => format!("optimizer slots: none, because {why}"),
    };
    Ok(format!("{}: {} arrays\n{slots}", out.display(), done.arrays))
}
