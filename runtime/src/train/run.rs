//! A training run: preparation, then the loop.

use super::{
    evaluation::Evaluation,
    events::Events,
    executables,
    ledger::Ledger,
    meter::Meter,
    metrics::Log,
    observer::Observer,
    options::{Options, Source},
    saving::{Resumed, Saver},
    steps::{self, Training},
    stop::Stop,
    summary::Summary,
};
use crate::{
    Checkpoint, Contract, Error, Result, Session,
    checkpoint::{ALLOW_MISSING, MAP, Mapping, Pattern, Plan},
    contract::seeds,
};
use data::BatchSource;
use proto::manifest::TaskKind;
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

/// Trains the program of `session` on `data`.
///
/// State without a value is restored from a checkpoint if the run is resumed, and otherwise initialized by
/// `init` on the devices. When `stop` becomes true, no further step is started; the steps in flight are
/// finished, their state is saved, and the summary names the last one. The processes of a job stop after the
/// same step, whichever of them was asked to.
///
/// # Errors
/// Options, data or checkpoints are invalid, a program cannot be compiled or fails, or a file cannot be
/// written.
pub fn run(
    session: &mut Session,
    data: Arc<dyn BatchSource>,
    options: &Options,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary> {
    // First, so that a wrong option does not cost a compilation.
    options.check()?;
    let evaluation = Evaluation::new(&data, options)?;
    let (mut saver, resumed) = open_saver(session, &*data, options, observer)?;
    let from = if resumed.is_none() { Initial::all(options, session)? } else { Vec::new() };
    let mut stop = Stop::new(stop, &options.job);
    // Rank 0 writes what exists once.
    let own = |path: &Option<PathBuf>| path.clone().filter(|_| options.job.is_first());
    let resumes = options.saving.as_ref().is_some_and(|s| s.resume);
    let mut log = Log::create(own(&options.metrics).as_deref(), resumes)?;
    let mut events = Events::create(own(&options.tensorboard).as_deref())?;
    observer.on_start();
    let seed = options.seed.or(resumed.as_ref().and_then(|r| r.seed)).unwrap_or(0);
    saver.iter_mut().for_each(|saver| saver.set_seed(seed));
    options.job.enter("compile", 0);
    let seen = prepare(session, seed, evaluation.is_some(), observer, &mut stop)?;
    // A run that was stopped before it began has no state.
    let from = if session.is_initialized() { from } else { Vec::new() };
    for from in &from {
        observer.on_phase(&format!("restoring the parameters from {}", from.plan.table.checkpoint));
        session.load(&from.checkpoint, &from.plan)?;
        from.report(options, observer);
    }
    let done = seen.or(resumed.as_ref().map(|r| r.step)).unwrap_or(0);
    let ledger = resumed.map_or_else(|| Ledger::at(done), |r| r.ledger).judged_by(options.best.as_deref());
    log.keep(done)?.iter().for_each(|warning| observer.on_warning(warning));
    if let Err(error) = events.describe(&options.settings).and_then(|()| events.begin(done + 1)) {
        observer.on_warning(&format!("the log of this run is incomplete: {error}"));
    }
    let meter = new_meter(session, options, observer)?;
    let lag = options.lag.map_or_else(|| default_lag(session), Ok)?;
    let contract = Contract::of_kind(session.artefact(), TaskKind::Train)?;
    let training = Training {
        session,
        contract,
        data,
        options,
        seed,
        lag,
        observer,
        evaluation,
        saver,
        log,
        events,
        meter,
        ledger,
        stop,
    };
    steps::run(training, done)
}

/// A checkpoint that initial parameters come from.
struct Initial {
    checkpoint: Checkpoint,
    plan: Plan,
    record: Option<PathBuf>,
}

impl Initial {
    /// Returns the checkpoints of the initial parameters of a new run, in the order in which they are loaded.
    /// An empty list means that parameters are those of `init`, which the program must allow.
    fn all(options: &Options, session: &Session) -> Result<Vec<Self>> {
        let meta = &session.artefact().manifest.meta;
        let stated = |key: &str| meta.get(key).map(String::as_str);
        let Some(source) = &options.from else {
            if !meta.contains_key(MAP) {
                return Ok(Vec::new());
            }
            return Err(Error::input(
                format!("`{}` takes parameters from a checkpoint", session.artefact().manifest.program),
                "add --from CHECKPOINT, such as that of its teacher",
            ));
        };
        let Some(teacher) = &options.teacher else {
            return Ok(vec![Self::open(session, source, &stated)?]);
        };
        // The program's statements about its parameters are about those of the teacher.
        let all: Pattern = "*".parse().expect("it is a pattern");
        let mapping = Mapping { initial: vec![all], ..Mapping::default() };
        let teacher = Source { checkpoint: teacher.clone(), mapping, record: None };
        let own = |key: &str| (key == ALLOW_MISSING).then(|| stated(key)).flatten();
        Ok(vec![Self::open(session, &teacher, &stated)?, Self::open(session, source, &own)?])
    }

    /// Opens the checkpoint, and reports a mismatch or damage before anything is compiled. `stated` looks up
    /// what the program states about it.
    fn open<'m>(
        session: &Session,
        source: &Source,
        stated: &dyn Fn(&str) -> Option<&'m str>,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(&source.checkpoint)?;
        let mapping = source.mapping.completed(stated).map_err(|why| {
            Error::input(why, "correct it where the program is built, or give the rules with --map")
        })?;
        let plan = Plan::new(session, &checkpoint, &mapping)?;
        session.check_load(&checkpoint, &plan)?;
        Ok(Self { checkpoint, plan, record: source.record.clone() })
    }

    /// Reports what was taken, and writes it to the run's file.
    fn report(&self, options: &Options, observer: &mut dyn Observer) {
        observer.on_loaded(&self.plan.table);
        let Some(path) = self.record.as_ref().filter(|_| options.job.is_first()) else { return };
        let text = serde_json::to_string_pretty(&self.plan.table).expect("numbers and texts are JSON");
        if let Err(error) = std::fs::write(path, text + "\n") {
            observer.on_warning(&format!("cannot write `{}`: {error}", path.display()));
        }
    }
}

/// Opens the folder of checkpoints, if there is one, and resumes from it.
fn open_saver(
    session: &mut Session,
    data: &dyn BatchSource,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<(Option<Saver>, Option<Resumed>)> {
    let Some(saving) = &options.saving else { return Ok((None, None)) };
    let (saver, resumed) = Saver::new(saving, session, data, options, observer)?;
    Ok((Some(saver), resumed))
}

/// Creates the meter, and reports if it cannot measure utilization.
fn new_meter(session: &Session, options: &Options, observer: &mut dyn Observer) -> Result<Meter> {
    let meter = Meter::new(session, options.peak)?;
    // An interpreter has no devices to use well.
    if let Some(why) = meter.reason().filter(|_| session.client().is_some()) {
        observer.on_note(&format!("no FLOPs utilization in the metrics: {why}"));
    }
    Ok(meter)
}

/// Compiles the programs, and initializes the state if necessary. Returns the number of steps that the state
/// has seen, if the program counts them.
///
/// The first program is compiled by this thread, the others meanwhile in the background. A process that is
/// alone does not wait for `eval_step`, which the first evaluation needs.
fn prepare(
    session: &mut Session,
    seed: u32,
    evaluates: bool,
    observer: &mut dyn Observer,
    stop: &mut Stop<'_>,
) -> Result<Option<u64>> {
    let init = (!session.is_initialized()).then_some("init");
    if session.client().is_none() {
        // An interpreter compiles nothing.
        if init.is_some() && !stop.is_here()? {
            initialize(session, seed, observer)?;
        }
        return steps_seen(session);
    }
    let functions = init.into_iter().chain(["train_step"]).chain(evaluates.then_some("eval_step"));
    let functions: Vec<&str> = functions.collect();
    session.compile_ahead(&functions[1..])?;
    for (number, function) in functions.iter().enumerate() {
        // A run that is to stop should not wait for a compiler.
        if stop.is_here()? {
            break;
        }
        let phase = match functions.len() {
            1 => format!("compiling {function}"),
            all => format!("compiling {function} ({} of {all})", number + 1),
        };
        if *function == "eval_step" && stop.job().size() == 1 {
            observer.on_note(&format!("{phase} in the background"));
            continue;
        }
        observer.on_phase(&phase);
        let before = session.compilations().len();
        session.compile(function)?;
        let compiled = &session.compilations()[before..];
        compiled.iter().for_each(|compilation| observer.on_compiled(compilation));
        executables::compare(stop.job(), function, compiled)?;
        if *function == "init" {
            initialize(session, seed, observer)?;
        }
    }
    session.record_memory_baseline()?;
    steps_seen(session)
}

/// Computes the initial state on the devices.
fn initialize(session: &mut Session, seed: u32, observer: &mut dyn Observer) -> Result<()> {
    observer.on_phase("initializing the state");
    observer.on_state();
    let seed = seeds(session.artefact().function("init")?, seed);
    session.call("init", &seed)?.wait()?;
    // It runs only once, and an executable takes memory.
    session.release("init");
    Ok(())
}

fn default_lag(session: &Session) -> Result<usize> {
    Ok(if session.uses_host_memory()? { 0 } else { 2 })
}

/// Returns the counter `step` of the program's state, if there is one.
fn steps_seen(session: &Session) -> Result<Option<u64>> {
    let has = session.artefact().manifest.state.iter().any(|s| s.name == "step");
    if !has || !session.is_initialized() {
        return Ok(None);
    }
    let value = session.state("step")?.to_f64()?;
    Ok(value.first().map(|v| *v as u64))
}
