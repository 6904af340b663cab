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
    padding, parts, program,
    program::Program,
    request::{Request, Setting},
    settings::key,
    subject::{has_checkpoints, is_package, newest},
};
use anyhow::Result;
use data::teacher::TeacherFacts;
use interchange::{Origin, Overrides};
use mesh::{Diagnostics, Site, dsl::Args, schedule, task::check::Purpose};
use runtime::{
    Artefact, Checkpoint, Session,
    checkpoint::{RestoreScope, TOKENIZER, is_url},
    train::compare_executables,
};
use std::{
    env,
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The checkpoint of a session.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The checkpoint.
    pub checkpoint: Arc<Checkpoint>,
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
        let program = if *is_subject { fitting(&request, checkpoint)? } else { program::load(&request)? };
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
        // `prepare` computes values that the other functions read from the parameters; `admit` is called if
        // there are more inputs than rows.
        let kept = |name: &str| functions.contains(&name) || ["prepare", "admit"].contains(&name);
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
    Ok(Parameters { checkpoint: Arc::new(checkpoint), is_subject })
}

/// Completes the settings of a student by those of its teacher, which the newest checkpoint in `dir`
/// describes. Returns the path of that checkpoint. `start` is the checkpoint of the student, if it has one:
/// it then takes no parameters from its teacher.
///
/// # Errors
/// There is no valid checkpoint, it does not name its model, the student is a checkpoint itself, or the
/// tokenizers of the two checkpoints differ.
pub fn add_teacher(request: &mut Request, dir: &Path, start: Option<&Path>) -> Result<PathBuf> {
    if has_checkpoints(&request.subject) {
        return Err(failure(
            format!(
                "`{}` is a checkpoint: `--teacher` needs the model of the student",
                request.subject.display()
            ),
            "name the student's model, such as t5_base, its settings with --set, and its checkpoint, if it has \
             one, with --from",
        ));
    }
    let checkpoint = newest(dir, request.host.say)?;
    if let Some(start) = start {
        let own = newest(start, |_| ())?;
        let [theirs, ours] = [&checkpoint, &own].map(|of| of.facts().get(TOKENIZER));
        if let (Some(theirs), Some(ours)) = (theirs, ours)
            && theirs != ours
        {
            return Err(failure(
                format!(
                    "the tokenizer of the teacher, {theirs}, is not that of the student, {ours}: `--teacher {}` and \
                     `--from {}`",
                    dir.display(),
                    start.display()
                ),
                "a student needs the vocabulary of its teacher",
            ));
        }
        add(request, "distill_init=false".to_owned());
    }
    let Origin { model, settings: own, dtype, .. } = Origin::of(&checkpoint, None, &Overrides::default())?;
    let dtype = format!("dtype={dtype}");
    // The student's schedule is that of the program.
    let own = own.split_whitespace().filter(|setting| schedule::entry(key(setting)).is_none());
    let own = own.chain([dtype.as_str()]).map(|setting| format!("teacher.{setting}"));
    for setting in [format!("teacher={model}")].into_iter().chain(own) {
        add(request, setting);
    }
    Ok(checkpoint.dir().to_owned())
}

/// Completes the settings of a student by the number of a teacher's logits in a file.
///
/// # Errors
/// The file is no file of logits.
pub fn add_teacher_logits(request: &mut Request, path: &Path) -> Result<()> {
    let top = TeacherFacts::read(path)?.top;
    add(request, format!("distill_logits={top}"));
    Ok(())
}

/// Adds a setting unless the user has set it.
fn add(request: &mut Request, setting: String) {
    if !request.settings.sets(key(&setting)) {
        request.settings.settings.push(setting);
    }
}

/// Returns the program of the model that a checkpoint describes, for the mesh of the request.
fn fitting(request: &Request, checkpoint: &Checkpoint) -> Result<Program> {
    let program = described(request, checkpoint)?;
    let unpadded = padding::dropped(&program.module, request);
    let other = parts::needed(&program.module, unpadded.as_ref().unwrap_or(request)).or(unpadded);
    other.map_or(Ok(program), |request| described(&request, checkpoint))
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
