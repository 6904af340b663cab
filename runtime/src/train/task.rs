//! The task of a program.

use crate::{Artefact, Error, Result};
use data::{Objective, Task};

/// Reads the task from the meta entries of an artefact's manifest.
///
/// # Errors
/// A meta entry is missing or invalid.
pub fn task(artefact: &Artefact) -> Result<Task> {
    let program = &artefact.manifest.program;
    let all = Objective::ALL.map(Objective::name).join(", ");
    let task = artefact.meta("task").ok_or_else(|| {
        Error::input(
            format!("program `{program}` does not state its task"),
            format!("add the meta entry `task` to the program, one of: {all}"),
        )
    })?;
    let objective = Objective::ALL.into_iter().find(|o| o.name() == task).ok_or_else(|| {
        Error::input(
            format!("program `{program}` has the task `{task}`, which cannot be trained"),
            format!("trainable tasks are: {all}"),
        )
    })?;
    Ok(Task {
        batch: artefact.number("batch")?,
        input_length: artefact.number("input_length")?,
        target_length: artefact.number("target_length")?,
        vocab: artefact.number("vocab")?,
        objective,
        packing: artefact.meta("packing") == Some("true"),
    })
}
