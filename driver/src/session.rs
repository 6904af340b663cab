//! Sessions of `generate`, `eval` and `score`: a program with parameters from a checkpoint.
//!
//! The program comes from a model, from an artefact, or from the facts of the checkpoint. Only the functions
//! that are called are compiled.

use crate::{
    artefact,
    device::{self, Chosen},
    failure::failure,
    files,
    hosts::{
        self,
        agree::{self, Facts, agree},
        member::Member,
    },
    program,
    program::Program,
    request::{Request, Setting},
    settings::key,
    subject::{has_checkpoints, is_package, newest},
};
use anyhow::Result;
use interchange::{Origin, Overrides};
use mesh::{Diagnostics, Site, dsl::Args, schedule, task::check::Purpose};
use runtime::{
    Artefact, Checkpoint, Session,
    checkpoint::{RestoreScope, is_url},
    train::compare_executables,
};
use std::{
    env,
    fmt::Debug,
    path::{Path, PathBuf},
};

/// The checkpoint of a session.
#[derive(Debug)]
pub struct Parameters {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// True if the checkpoint is the subject of the request, and thus names the model.
    is_subject: bool,
}

/// A program with its parameters and the inputs of a command, before a device is used.
pub struct Prepared<T> {
    /// The parameters.
    pub parameters: Parameters,
    /// The program.
    pub artefact: Artefact,
    /// The functions that are called. All processes of a job compile them in this order.
    pub functions: &'static [&'static str],
    /// The inputs of the command.
    pub inputs: T,
    /// The digest of the inputs, equal in all processes of a job.
    pub digest: String,
}

/// Returns the program of a session. `settings` apply unless the user has set them; only `functions` of the
/// program are compiled.
///
/// # Errors
/// Among others, if the program lacks something for `purpose`.
pub fn artefact(
    request: &Request,
    Parameters { checkpoint, is_subject }: &Parameters,
    settings: &[Setting],
    purpose: Purpose,
    functions: &[&str],
) -> Result<Artefact> {
    let artefact = if files::is_artefact(&request.subject) {
        artefact::opened(request)?
    } else {
        let request = request.completed(settings);
        let program = if *is_subject { described(&request, checkpoint)? } else { program::load(&request)? };
        with_functions(program, &request, purpose, functions)?
    };
    for name in functions {
        artefact.function(name)?;
    }
    Ok(artefact)
}

/// Returns the artefact of a program with only `functions`, if it has them.
///
/// # Errors
/// Among others, if the program lacks something for `purpose`.
pub fn with_functions(
    mut program: Program,
    request: &Request,
    purpose: Purpose,
    functions: &[&str],
) -> Result<Artefact> {
    program.require(purpose)?;
    if functions.iter().all(|name| program.module.function(name).is_some()) {
        // `prepare` computes values that the other functions read from the parameters.
        let kept = |name: &str| functions.contains(&name) || name == "prepare";
        program.module.functions.retain(|f| kept(&f.name));
    }
    artefact::of_program(&program, request)
}

/// Opens a session and restores the parameters. In a job, compares first what the processes have prepared, or
/// the error of one of them, and then their executables.
///
/// # Errors
/// Preparation failed here or in another process, or the processes differ.
pub fn open<T>(member: &Member, request: &Request, prepared: Result<Prepared<T>>) -> Result<(Session, T)> {
    let prepared = prepared.and_then(|prepared| {
        let chosen = device::load_for(request, &prepared.artefact)?;
        let facts = if member.is_in_job() { facts(&prepared, &chosen)? } else { Facts::new() };
        Ok(((prepared, chosen), facts))
    });
    let (Prepared { parameters, artefact, functions, inputs, .. }, chosen) =
        agree(member, "start", prepared)?;
    let mut session = match member.is_in_job() {
        true => hosts::device::session(request, &chosen, artefact, member)?,
        false => device::on(&chosen, request, artefact)?,
    };
    session.restore(&parameters.checkpoint, RestoreScope::Params)?;
    if member.is_in_job() {
        member.job.enter("compile", 0);
        for function in functions {
            session.compile(function)?;
        }
        compare_executables(&member.job, "the command", session.compilations())?;
    }
    Ok((session, inputs))
}

/// Returns the digest of inputs, of 16 hexadecimal digits.
pub fn digest(inputs: &impl Debug) -> String {
    compiler::artefact::digest(format!("{inputs:?}").as_bytes())[..16].to_owned()
}

/// Returns the facts that must be equal in all processes of a job.
fn facts<T>(prepared: &Prepared<T>, chosen: &Chosen) -> Result<Facts> {
    let mut facts = agree::of_program()?;
    facts.insert("command line".to_owned(), agree::of_words(env::args().skip(1)));
    facts.insert("plugin".to_owned(), agree::digest(&chosen.found.path)?);
    facts.insert("program".to_owned(), agree::of_artefact(&prepared.artefact)?);
    facts.insert("inputs".to_owned(), prepared.digest.clone());
    let checkpoint = &prepared.parameters.checkpoint;
    facts.insert("checkpoint".to_owned(), format!("step {}, {}", checkpoint.step(), checkpoint.digest()));
    Ok(facts)
}

/// Opens `checkpoint`, or else the checkpoint that is the subject.
///
/// # Errors
/// There is none, or there are two.
pub fn parameters(request: &Request, checkpoint: Option<&Path>) -> Result<Parameters> {
    let is_folder = request.subject.is_dir() || is_url(&request.subject);
    let is_subject = is_folder && !files::is_artefact(&request.subject) && !is_package(&request.subject);
    let checkpoint = match (checkpoint, is_subject) {
        (Some(_), true) => {
            return Err(failure(
                format!(
                    "`{}` is a checkpoint, and `--checkpoint` names another one",
                    request.subject.display()
                ),
                "leave --checkpoint out, or name the model instead of the first checkpoint",
            ));
        }
        (Some(dir), false) => newest(dir, request.host.say)?,
        (None, true) => newest(&request.subject, request.host.say)?,
        (None, false) => {
            return Err(failure(
                format!("`{}` has no parameters", request.subject.display()),
                "name a checkpoint with --checkpoint, such as a directory of `meshc train --checkpoint-dir`",
            ));
        }
    };
    Ok(Parameters { checkpoint, is_subject })
}

/// Completes the settings of a student by those of its teacher, which the newest checkpoint in `dir`
/// describes. Returns the path of that checkpoint.
///
/// # Errors
/// There is no valid checkpoint, it does not name its model, or the student is a checkpoint itself.
pub fn add_teacher(request: &mut Request, dir: &Path) -> Result<PathBuf> {
    if has_checkpoints(&request.subject) {
        return Err(failure(
            format!(
                "`{}` is a checkpoint: a student with `--teacher` has new parameters",
                request.subject.display()
            ),
            "name the student's model, such as t5_base, and its settings with --set",
        ));
    }
    let checkpoint = newest(dir, request.host.say)?;
    let Origin { model, settings: own, dtype, .. } = Origin::of(&checkpoint, None, &Overrides::default())?;
    let dtype = format!("dtype={dtype}");
    // The student's schedule is that of the program.
    let own = own.split_whitespace().filter(|setting| schedule::entry(key(setting)).is_none());
    let own = own.chain([dtype.as_str()]).map(|setting| format!("teacher.{setting}"));
    for setting in [format!("teacher={model}")].into_iter().chain(own) {
        if !request.settings.sets(key(&setting)) {
            request.settings.settings.push(setting);
        }
    }
    Ok(checkpoint.dir().to_owned())
}

/// Builds the program of the model that the checkpoint describes.
fn described(request: &Request, checkpoint: &Checkpoint) -> Result<Program> {
    let origin = Origin::of(checkpoint, None, &request.settings.overrides()?)?;
    let preset = models::zoo::named(&origin.model).ok_or_else(|| {
        failure(
            format!("`{}` names the unknown model `{}`", origin.name, origin.model),
            "name the model file, and the checkpoint with --checkpoint",
        )
    })?;
    let words = origin.settings.split_whitespace().flat_map(|s| ["--set".to_owned(), s.to_owned()]);
    let words = ["--dtype".to_owned(), origin.dtype.clone()].into_iter().chain(words);
    let parsed = Args::parse(words).map_err(|d| anyhow::anyhow!("`{}`: {d}", origin.name))?;
    let site = Site::new(origin.name.clone(), 0, 0, "");
    let program = models::program::of_task(preset, &parsed, &site);
    let mistakes = parsed.mistakes();
    if !mistakes.is_empty() {
        return Err(failure(
            format!("`{}` has invalid settings:\n{}", origin.name, Diagnostics(mistakes)),
            "correct them with --set KEY=VALUE",
        ));
    }
    Program::built(program, &origin.name)
}
