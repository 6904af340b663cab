//! `meshc train`: compiles a model and trains it.

mod args;

pub use args::Args;

use crate::{
    args::{data, plugin::environment},
    output::{
        host::{HOST, VERSION},
        progress::Progress,
        signals::Signals,
        stream::{err, out, outln},
    },
};
use ::data::BatchSource;
use anyhow::{Context, Result};
use driver::{
    artefact,
    device::{self, Backend, Chosen},
    hosts::{
        HostOptions,
        agree::{self, Facts, agree},
        device as several, launch,
        member::Member,
        start,
    },
    interpreter, overview,
    profile::{Profile, Profiled},
    program::{self, Program},
    request::Request,
    run_folder::{self, Reserved, RunFolder},
    subject::{has_checkpoints, is_compiled, newest_path},
    target::Target,
};
use mesh::task::check::Purpose;
use runtime::{
    Artefact, Interpreter,
    checkpoint::{folder::list, is_url},
    train::{self, Observer, Source, Summary},
};
use serde_json::Value;
use std::{process::ExitCode, sync::Arc};

/// Trains, or starts the processes that train.
pub fn run(args: Args) -> Result<ExitCode> {
    let hosts = HostOptions { restarts: args.restarts.unwrap_or(0), ..args.hosts.options() };
    if let Some(size) = launch::wanted(&hosts) {
        let logs = launch::logs(args.run_dir.as_deref())?;
        let signals = Signals::watch()?;
        signals.begin();
        return launch::run(&hosts, size, args.resume, &logs, &signals.stop, HOST.say);
    }
    environment(None)?;
    let signals = Signals::watch()?;
    let member = start::join(&hosts, &args.request())?;
    signals.tell(&member.job);
    let result = train(args, &member, &signals);
    member.end(result)
}

/// Trains, alone or as a member of a job.
fn train(args: Args, member: &Member, signals: &Signals) -> Result<ExitCode> {
    member.job.enter("load", 0);
    let mut profile = Profile::start("program and data");
    let resolved = Run::resolve(args, member).and_then(|run| {
        // A signal before training begins removes the directory.
        run.reserved.dir().iter().for_each(|dir| signals.reserved(dir));
        profile.phase("plugin");
        let backend = run.backend()?;
        let facts = backend.plugin().map_or(Ok(Facts::new()), |chosen| run.facts(chosen, member))?;
        Ok(((run, backend), facts))
    });
    let (run, backend) = agree(member, "start", resolved)?;
    let Run { reserved: _dropped_last, args, request, artefact, source, options, run_folder, .. } = run;
    let chosen = backend.plugin();
    let of_data = overview::source(&source);
    let before = format!("{}{}{of_data}", args.resolved.toml(), overview::artefact(&artefact.manifest));
    if args.json {
        err!("{before}");
    } else {
        out!("{before}");
    }
    profile.phase("client");
    let mut session = match chosen.filter(|_| member.is_in_job()) {
        Some(chosen) => several::session(&request, chosen, artefact, member)?,
        None => backend.session(&request, artefact)?,
    };
    let start = run_folder.as_ref().map_or(Value::Null, |_| run_folder::start(chosen, VERSION));
    let place = run_folder.as_ref().map(|folder| (folder, &start));
    let mut progress = progress(&args, member.job.is_first(), session.artefact(), place, signals);
    profile.phase("checkpoints and logs");
    let recorded = run_folder.as_ref().and_then(|folder| Some((args.profile?, folder.at("profile"))));
    let timings = args.timings.then_some(HOST.say);
    let plugin = chosen.map(|chosen| &chosen.plugin);
    let mut observer = Profiled::new(&mut progress, profile, plugin, recorded, timings);
    let result = train::run(&mut session, source.batches(), &options, &mut observer, &signals.stop);
    observer.end();
    progress.end();
    // A run that was refused keeps the description that an earlier run has written.
    let began = result.is_ok() || !session.compilations().is_empty();
    if let Some(folder) = run_folder.as_ref().filter(|_| began) {
        let described = folder.describe(
            &session.artefact().manifest,
            session.compilations(),
            progress.warnings(),
            &start,
        );
        if let Err(error) = described {
            progress.on_warning(&format!("{error:#}"));
        }
    }
    show(&args, result, signals)
}

/// Prints the results of a run.
fn show(args: &Args, result: runtime::Result<Summary>, signals: &Signals) -> Result<ExitCode> {
    let written = args.written();
    let summary = result.with_context(|| match written.as_str() {
        "" => "training stopped".to_owned(),
        written => format!("training stopped ({written})"),
    })?;
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        out!("{}", overview::run(&summary));
        if !written.is_empty() {
            outln!("{written}");
        }
        out!("{}", args.next());
    }
    if summary.stopped { Ok(ExitCode::from(signals.code())) } else { Ok(ExitCode::SUCCESS) }
}

/// A run, resolved from the arguments before a device is used.
struct Run {
    reserved: Reserved,
    args: Args,
    request: Request,
    artefact: Artefact,
    /// The interpreter of the program, if it takes the place of a plugin.
    interpreter: Option<Arc<dyn Interpreter>>,
    source: data::Source,
    options: train::Options,
    run_folder: Option<RunFolder>,
}

impl Run {
    fn resolve(mut args: Args, member: &Member) -> Result<Self> {
        args.run_dir.as_deref().map_or(Ok(()), RunFolder::check)?;
        args.check_place(member)?;
        // Rank 0 uses the folder for all. A run that cannot save is refused before anything is built.
        if let Some(folder) = args.checkpoints().filter(|_| member.job.is_first()) {
            train::check_folder(&folder, args.resume)?;
        }
        let mut request = Request { several_hosts: member.is_in_job(), ..args.request() };
        args.check_interpreter(&request, member)?;
        let teacher = args.add_teacher(&mut request)?;
        let program = if is_compiled(&args.subject) { None } else { Some(program(&args, &request)?) };
        let named = args.from.as_ref().or(has_checkpoints(&args.subject).then_some(&args.subject));
        let from = named.map(|dir| newest_path(dir, HOST.say)).transpose()?;
        let texts = args.data.open(&member.job, from.as_deref())?;
        let eval_texts = match args.eval_data.as_slice() {
            [] => None,
            files => Some(args.data.open_others(&member.job, files, &texts)?),
        };
        let (artefact, interpreter) = match &program {
            Some(program) if request.plugin.is_interpreter() => {
                let (artefact, interpreter) = interpreter::of_program(program, &request)?;
                (artefact, Some(interpreter))
            }
            Some(program) => (artefact::of_program(program, &request)?, None),
            None => (artefact::opened(&request)?, None),
        };
        let holds_out = args.eval_every.is_some() && eval_texts.is_none();
        let held_out = args.held_out.unwrap_or(if holds_out { 0.05 } else { 0.0 });
        let source = texts.source(&artefact, held_out)?;
        let eval_data: Option<Arc<dyn BatchSource>> = match eval_texts {
            Some(texts) => Some(texts.source(&artefact, 1.0)?.batches()),
            None => None,
        };
        let reserved = args.choose_run_dir(member, &artefact.manifest.program)?;
        // Rank 0 writes what exists once.
        let run_dir = args.run_dir.as_ref().filter(|_| member.job.is_first());
        let run_folder = run_dir.map(|dir| RunFolder::create(dir)).transpose()?;
        args.complete(&artefact, held_out);
        let record = run_folder.as_ref().map(|folder| folder.at(run_folder::LOADED));
        let from = Source::new(from, args.mapping(), record)?;
        let target: Option<Target> = artefact.manifest.target.parse().ok();
        let peak = target.as_ref().and_then(Target::slice).map(|slice| slice.speed().flops);
        let evaluator = args.evaluator(&request, &source, run_folder.as_ref())?;
        let options = train::Options {
            from,
            teacher,
            eval_data,
            evaluator,
            peak,
            job: member.job.clone(),
            ..args.options()
        };
        Ok(Self { reserved, args, request, artefact, interpreter, source, options, run_folder })
    }

    /// Loads the plugin, unless the interpreter takes its place.
    fn backend(&self) -> Result<Backend> {
        match &self.interpreter {
            Some(interpreter) => Ok(Backend::Interpreter(interpreter.clone())),
            None => Ok(Backend::Plugin(device::load_for(&self.request, &self.artefact)?)),
        }
    }

    /// Returns the facts that must be equal in all processes of a job.
    fn facts(&self, chosen: &Chosen, member: &Member) -> Result<Facts> {
        if !member.is_in_job() {
            return Ok(Facts::new());
        }
        let mut facts = agree::of_program()?;
        facts.extend(agree::of_options(self.args.resolved.values()));
        facts.insert("plugin".to_owned(), agree::digest(&chosen.found.path)?);
        facts.insert("program".to_owned(), agree::of_artefact(&self.artefact)?);
        facts.insert("data".to_owned(), self.source.batches().digest());
        facts.insert("tokenizer".to_owned(), self.source.batches().tokenizer_identity().to_owned());
        if let Some(data) = &self.options.eval_data {
            facts.insert("data of --eval-data".to_owned(), data.digest());
        }
        if let Some(folder) = self.args.checkpoint_dir.as_ref().filter(|_| self.args.resume) {
            let newest = list(folder)?.into_iter().rev().find(|found| found.checkpoint.is_ok());
            let step = newest.map_or("none".to_owned(), |found| format!("step {}", found.step));
            facts.insert("checkpoint to resume from".to_owned(), step);
        }
        Ok(facts)
    }
}

/// Returns the observer of a run, which writes the options and the description of the run when training
/// begins.
fn progress(
    args: &Args,
    is_first: bool,
    artefact: &Artefact,
    run: Option<(&RunFolder, &Value)>,
    signals: &Signals,
) -> Progress {
    let folder = args.run_dir.clone().or(args.checkpoint_dir.clone());
    let folder = folder.filter(|folder| is_first && !is_url(folder));
    let (options, manifest) = (args.resolved.toml(), artefact.manifest.clone());
    let run = run.map(|(folder, start)| (folder.clone(), start.clone()));
    Progress::new(args.steps, signals.stop.clone()).at_state(signals.beginning()).first(move || {
        folder.map_or(Ok(()), |folder| run_folder::keep_config(&folder, &options))?;
        run.map_or(Ok(()), |(run, start)| run.describe(&manifest, &[], &[], &start))
    })
}

/// Returns the program of the model, ready for training.
fn program(args: &Args, request: &Request) -> Result<Program> {
    let program = program::load(request)?;
    program.require(Purpose::Train)?;
    if args.eval_every.is_some() {
        program.require(Purpose::Evaluate)?;
    }
    Ok(program)
}
