//! The task of a program, from its artefact.

use crate::{Artefact, Error, Result};
use data::{Objective, Task};

/// The task of a program, from the meta entries of its manifest.
pub fn task(artefact: &Artefact) -> Result<Task> {
    let program = &artefact.manifest.program;
    let all = Objective::ALL.map(Objective::name).join(", ");
    let task = artefact.meta("task").ok_or_else(|| {
        Error::input(
            format!("program `{program}` does not say what it is trained on"),
            format!("add the meta entry `task` to the program, one of: {all}"),
        )
    })?;
    let objective = Objective::ALL.into_iter().find(|o| o.name() == task).ok_or_else(|| {
        Error::input(
            format!("program `{program}` has the task `{task}`"),
            format!("the tasks that can be trained are: {all}"),
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
