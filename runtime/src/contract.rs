//! The task contract of a program, as its manifest states it.

use crate::{Artefact, Error, HostTensor, Result, Session};
use data::{Batch, BatchSpec, Rows};
use proto::manifest::{Function, InputKind, SpecialTokens, Task, TaskKind, TaskNames};
use std::collections::BTreeMap;

/// The inputs with the largest logits of a teacher.
const TEACHER: [&str; 2] = ["teacher_tokens", "teacher_logits"];

/// The task contract of a program.
#[derive(Clone, PartialEq, Debug)]
pub struct Contract {
    program: String,
    task: Task,
    names: TaskNames,
}

impl Contract {
    /// Reads the contract of an artefact.
    ///
    /// # Errors
    /// The program declares no task.
    pub fn of(artefact: &Artefact) -> Result<Self> {
        let manifest = &artefact.manifest;
        let program = manifest.program.clone();
        let task = manifest.task.clone().ok_or_else(|| {
            Error::input(
                format!("program `{program}` declares no task"),
                "declare it in the model with `p.task(Task { … })` and compile the model again",
            )
        })?;
        let names = task.names.clone().unwrap_or_default();
        Ok(Self { program, task, names })
    }

    /// Reads the contract of an artefact, whose task must be of this kind.
    ///
    /// # Errors
    /// The program declares no task, or another kind of task.
    pub fn of_kind(artefact: &Artefact, kind: TaskKind) -> Result<Self> {
        let contract = Self::of(artefact)?;
        let (own, wanted) = (name(contract.task.kind()), name(kind));
        if own == wanted {
            return Ok(contract);
        }
        Err(Error::input(
            format!("the task of program `{}` is `{own}`, not `{wanted}`", contract.program),
            format!("compile the model with --set task={wanted}"),
        ))
    }

    /// Returns the task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Returns the tokens for padding, ends of sequences, and removed spans.
    pub fn special_tokens(&self) -> SpecialTokens {
        self.task.special_tokens.unwrap_or_default()
    }

    /// Returns the names of inputs and outputs.
    pub fn names(&self) -> &TaskNames {
        &self.names
    }

    /// Returns the properties of batches that a training program requires.
    ///
    /// # Errors
    /// The artefact has no training task.
    pub fn batch_spec(artefact: &Artefact) -> Result<BatchSpec> {
        let contract = Self::of_kind(artefact, TaskKind::Train)?;
        let training = contract.task.training.unwrap_or_default();
        Ok(BatchSpec {
            batch: contract.task.batch as usize,
            input_length: contract.task.input_length as usize,
            target_length: contract.task.target_length as usize,
            vocab: contract.task.vocab as usize,
            objective: training.objective(),
            packing: training.packing,
            special_tokens: contract.special_tokens(),
        })
    }

    /// Returns the number of a teacher's logits for each target token that `train_step` takes. `None` means
    /// that it takes none.
    pub fn teacher_top(artefact: &Artefact) -> Option<usize> {
        let inputs = &artefact.function("train_step").ok()?.inputs;
        let logits = inputs.iter().find(|input| input.name == TEACHER[1])?;
        Some(logits.tensor.as_ref()?.dims.last()?.size as usize)
    }

    /// Returns the inputs of `function` that a batch and a seed provide. Inputs that the function lacks are
    /// left out.
    pub(crate) fn feeds(
        &self,
        function: &Function,
        batch: &Batch,
        seed: u32,
    ) -> BTreeMap<String, HostTensor> {
        let tensor = |tokens: &[i32]| HostTensor::s32(&[batch.size, tokens.len() / batch.size], tokens);
        let mut feeds = seeds(function, seed);
        for (role, tokens) in batch.arrays() {
            let name = self.input(role);
            if function.inputs.iter().any(|input| input.name == name) {
                feeds.insert(name.to_owned(), tensor(tokens));
            }
        }
        let takes = |name: &str| function.inputs.iter().any(|input| input.name == name);
        if let Some(top) = batch.teacher.as_ref().filter(|_| takes(TEACHER[0])) {
            let length = batch.targets.len() / batch.size;
            let dims = [batch.size, length, top.tokens.len() / batch.targets.len()];
            feeds.insert(TEACHER[0].to_owned(), HostTensor::s32(&dims, &top.tokens));
            feeds.insert(TEACHER[1].to_owned(), HostTensor::f32(&dims, &top.logits));
        }
        feeds
    }

    /// Returns the rows of a batch that the devices of this process hold parts of, when they run `function`.
    ///
    /// # Errors
    /// The artefact has no such function.
    pub(crate) fn rows(&self, session: &Session, function: &str) -> Result<Rows> {
        let roles = ["inputs", "targets", "inputs_segments", "targets_segments", TEACHER[0], TEACHER[1]];
        let names = roles.map(|role| self.input(role));
        session.rows(function, &names)
    }

    /// Returns the name of the input with this role.
    fn input<'a>(&'a self, role: &'a str) -> &'a str {
        match role {
            "inputs" => &self.names.inputs,
            "targets" => &self.names.targets,
            "inputs_segments" => &self.names.inputs_segments,
            "targets_segments" => &self.names.targets_segments,
            other => other,
        }
    }

    /// Returns the role of an output: `loss`, `row_loss`, or its own name if it has no role.
    pub(crate) fn output_role<'a>(&self, name: &'a str) -> &'a str {
        if name == self.names.loss {
            "loss"
        } else if name == self.names.row_loss {
            "row_loss"
        } else {
            name
        }
    }
}

/// Returns the inputs of `function` that are seeds.
pub(crate) fn seeds(function: &Function, seed: u32) -> BTreeMap<String, HostTensor> {
    let seeds = function.inputs.iter().filter(|input| input.kind() == InputKind::Seed);
    seeds.map(|input| (input.name.clone(), HostTensor::u32_scalar(seed))).collect()
}

fn name(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Unspecified => "unspecified",
        TaskKind::Train => "train",
        TaskKind::Score => "score",
        TaskKind::Generate => "generate",
    }
}
