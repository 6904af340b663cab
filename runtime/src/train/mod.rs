//! The training loop: batches in, steps on the devices, losses out some steps later.
//!
//! The host never waits for the step it has just started. It keeps a few steps in flight and reads what the
//! earliest of them gave, so that the devices always have the next one to do; and never more than that, so
//! that neither memory nor the time between a mistake and its message grows.
//!
//! A loss that jumps is taken back: the run returns to its last checkpoint and leaves out the batches that led there.
//!
//! Reading order: here (what is asked for, and getting ready), `steps` (the loop), `evaluation`, [`spike`] (losses that
//! jump), [`saving`] (checkpoints), with `ledger` (what a run knows besides its state) and `lock`, [`metrics`] (the
//! file), [`events`] (the same for TensorBoard), [`meter`] (what steps take), [`summary`] (what is left of it all).

mod evaluation;
pub mod events;
mod feeds;
mod ledger;
mod lock;
pub mod meter;
pub mod metrics;
pub mod saving;
pub mod spike;
mod steps;
pub mod summary;
mod task;

pub use evaluation::evaluate;
pub use saving::Saving;
pub use spike::Spikes;
pub use summary::Summary;
pub use task::task;

use crate::{Checkpoint, Error, HostTensor, Made, Result, Session, checkpoint::Which};
use data::Source;
use evaluation::Evaluation;
use events::Events;
use ledger::Ledger;
use meter::Meter;
use metrics::Log;
use saving::Saver;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};
use steps::Training;

/// How to train.
#[derive(Clone, Debug)]
pub struct Options {
    /// The last step, counted from 1. A session that has made some of them makes the rest.
    pub steps: u64,
    /// Seed of the initial values, of dropout and the like, and of the order of the data. Nothing: that of the
    /// checkpoint that the run goes on from, else 0.
    pub seed: Option<u32>,
    /// Where the metrics go: one JSON object a step, one on a line. A run that goes on from a checkpoint keeps
    /// the lines up to its step.
    pub metrics: Option<PathBuf>,
    /// A folder for files that TensorBoard reads.
    pub tensorboard: Option<PathBuf>,
    /// A checkpoint that the parameters of a new run come from, instead of from `init`. A run that goes on has
    /// its own.
    pub from: Option<PathBuf>,
    /// Checkpoints; nothing: the state is gone after the run, unless the session is kept.
    pub saving: Option<Saving>,
    /// How many steps may be under way when another one is started. Nothing: none on CPU plugins, where every
    /// step under way has its temporary memory and the host has nothing else to do; else 2.
    pub lag: Option<usize>,
    /// Batches made ahead of time.
    pub ahead: usize,
    /// Steps between evaluations on held-out text; nothing: no evaluation.
    pub eval_every: Option<u64>,
    /// The most batches of an evaluation; nothing: all that is held out.
    pub eval_batches: Option<usize>,
    /// Text for evaluation, all of it, instead of what is held out.
    pub eval_data: Option<Source>,
    /// Stop after so many evaluations in a row that are not better than the best one.
    pub patience: Option<u64>,
    /// By how much the loss on held-out text has to be smaller to be better.
    pub min_delta: f64,
    /// When a loss is a spike: training goes back to the last checkpoint then, and leaves batches out. Needs
    /// checkpoints.
    pub spikes: Option<Spikes>,
    /// So many steps in a row that the program skips because they are not finite end training.
    pub most_skipped: u64,
    /// The most operations a second of one device, if that is known, to say what share of them is used.
    pub peak: Option<f64>,
    /// Go on when a loss is no finite number, and when one step after the other is skipped.
    pub allow_non_finite: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 100,
            seed: None,
            metrics: None,
            tensorboard: None,
            from: None,
            saving: None,
            lag: None,
            ahead: 4,
            eval_every: None,
            eval_batches: None,
            eval_data: None,
            patience: None,
            min_delta: 0.0,
            spikes: None,
            most_skipped: 10,
            peak: None,
            allow_non_finite: false,
        }
    }
}

/// A step that is done.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// The program's output `loss`.
    pub loss: f64,
    /// All outputs of the program that are single numbers, and `wait_ms`.
    pub metrics: BTreeMap<String, f64>,
    /// Tokens of inputs and targets, padding apart, per second of [`Step::step_ms`].
    pub tokens_per_s: f64,
    /// Milliseconds from the end of the step before to the end of this one. The first step has none before
    /// it, and counts from its start.
    pub step_ms: f64,
    /// Milliseconds that the loop waited for this step's data.
    pub wait_ms: f64,
    /// Means over held-out text after this step, if there was an evaluation.
    pub eval: Option<BTreeMap<String, f64>>,
    /// Model FLOPs utilization, where the peak of the devices is known.
    pub mfu: Option<f64>,
    /// The most bytes in use on one device, where the plugin counts them.
    pub device_memory: Option<u64>,
    /// Bytes of host memory of this process, where the system says it.
    pub host_memory: Option<u64>,
    /// What was taken back before this step.
    pub rollback: Option<Rollback>,
}

impl Step {
    /// What is known of memory and utilization, by the names that the metrics file has.
    fn measured(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let bytes = |n: Option<u64>| n.map(|n| n as f64);
        let all = [
            ("mfu", self.mfu),
            ("device_memory", bytes(self.device_memory)),
            ("host_memory", bytes(self.host_memory)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A return to a checkpoint because of a loss.
#[derive(Clone, PartialEq, Debug)]
pub struct Rollback {
    /// The step that the loss was of.
    pub from: u64,
    /// The step of the checkpoint.
    pub to: u64,
    /// The loss.
    pub loss: f64,
    /// What it should have been at most.
    pub limit: f64,
    /// Batches that are left out, the first one and one past the last.
    pub batches: (u64, u64),
}

/// Is told how training goes.
pub trait Observer {
    /// A step is done. Every step, in order.
    fn step(&mut self, step: &Step);
    /// What is being done besides steps, in a few words, such as `compiling train_step`.
    fn doing(&mut self, _what: &str) {}
    /// Nothing stands in the way of the run, as far as can be known: what it writes to is its own from now on.
    fn begins(&mut self) {}
    /// A program is ready to run.
    fn made(&mut self, _made: &Made) {}
    /// What came after this step is taken back.
    fn back(&mut self, _step: u64) {}
    /// The state after this step is on disk.
    fn saved(&mut self, _step: u64, _dir: &Path) {}
    /// Something is not as it should be, but training goes on.
    fn warning(&mut self, _what: &str) {}
}

/// Nobody.
impl Observer for () {
    fn step(&mut self, _step: &Step) {}
}

/// Trains the program of `session` on `data`.
///
/// State that the session does not have yet comes from a checkpoint, if the run is to go on from one, and is
/// made by `init` on the devices otherwise. When `stop` becomes true, no further step is started; those under
/// way are finished, their state is saved, and the summary says which was the last.
pub fn run(
    session: &mut Session,
    data: Source,
    options: &Options,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary> {
    // Before anything else, so that a wrong path does not cost a compilation.
    check(options)?;
    let evaluation = Evaluation::new(&data, options)?;
    let (mut saver, resumed) = match &options.saving {
        Some(saving) => {
            let (saver, resumed) = Saver::new(saving, session, &data, options, observer)?;
            (Some(saver), resumed)
        }
        None => (None, None),
    };
    let from = options.from.as_deref().filter(|_| resumed.is_none()).map(Checkpoint::open).transpose()?;
    if let Some(from) = &from {
        // Twice: what does not fit is said before anything is compiled.
        session.restore(from, Which::Params)?;
    }
    let mut log = Log::create(options.metrics.as_deref(), options.saving.as_ref().is_some_and(|s| s.resume))?;
    let mut events = Events::create(options.tensorboard.as_deref())?;
    observer.begins();
    let seed = options.seed.or(resumed.as_ref().and_then(|r| r.seed)).unwrap_or(0);
    saver.iter_mut().for_each(|saver| saver.set_seed(seed));
    let saves = options.saving.as_ref().is_some_and(|s| s.every.is_some() || s.keep.best.is_some());
    let seen = prepare(session, seed, (evaluation.is_some(), saves), observer, stop)?;
    if let Some(from) = from.filter(|_| session.is_initialized()) {
        observer.doing(&format!("taking the parameters from {}", from.dir().display()));
        session.restore(&from, Which::Params)?;
    }
    let done = seen.or(resumed.as_ref().map(|r| r.step)).unwrap_or(0);
    let ledger = resumed.map_or_else(|| Ledger::at(done), |r| r.ledger);
    log.keep(done)?;
    events.begin(done + 1)?;
    let meter = Meter::new(session, options.peak)?;
    if let Some(why) = meter.reason() {
        observer.doing(&format!("no FLOPs utilization in the metrics: {why}"));
    }
    let lag = options.lag.map_or_else(|| default_lag(session), Ok)?;
    let training = Training {
        session,
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

/// Whether what is asked for goes together.
fn check(options: &Options) -> Result<()> {
    let wrong = |what: &str, help: &str| Err(Error::input(what, help));
    if let Some(spikes) = &options.spikes {
        if options.saving.is_none() {
            return wrong(
                "spikes of the loss need checkpoints to go back to",
                "name a folder for checkpoints",
            );
        }
        if !(spikes.sigmas > 0.0 && spikes.sigmas.is_finite()) || spikes.window < 2 {
            return wrong(
                &format!("a spike of {} standard deviations of {} losses", spikes.sigmas, spikes.window),
                "give a number above 0, of at least 2 losses",
            );
        }
    }
    if options.eval_every.is_none() && options.patience.is_some() {
        return wrong("stopping early needs evaluations", "evaluate every so many steps");
    }
    if options.most_skipped == 0
        || options.patience == Some(0)
        || options.min_delta.is_nan()
        || options.min_delta < 0.0
    {
        return wrong(
            "no step, or no evaluation, would be left",
            "give numbers from 1, and no negative difference",
        );
    }
    Ok(())
}

/// Compiles, and makes the state if there is none. Returns the number of steps that it has seen, if it knows.
fn prepare(
    session: &mut Session,
    seed: u32,
    (evaluates, saves): (bool, bool),
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Option<u64>> {
    if !session.is_initialized() && !stop.load(Ordering::Relaxed) {
        compile("init", observer, session, |session| session.compile("init").map(drop))?;
        observer.doing("making the initial state");
        let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(seed))]);
        session.call("init", &seed)?.wait()?;
        // It runs once, and a program takes memory.
        session.release("init");
    }
    let functions = ["train_step"].into_iter().chain(evaluates.then_some("eval_step"));
    for function in functions {
        // Whoever asked to stop meanwhile does not want to wait for a compiler.
        if !stop.load(Ordering::Relaxed) {
            compile(function, observer, session, |session| session.compile(function).map(drop))?;
        }
    }
    if saves && session.uses_host_memory()? && !stop.load(Ordering::Relaxed) {
        let what = "train_step for the steps after checkpoints";
        compile(what, observer, session, |session| session.prepare_snapshots("train_step"))?;
    }
    session.rest()?;
    steps_seen(session)
}

fn compile(
    what: &str,
    observer: &mut dyn Observer,
    session: &mut Session,
    make: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    observer.doing(&format!("compiling {what}"));
    let before = session.made().len();
    make(session)?;
    session.made()[before..].iter().for_each(|made| observer.made(made));
    Ok(())
}

fn default_lag(session: &Session) -> Result<usize> {
    Ok(if session.uses_host_memory()? { 0 } else { 2 })
}

/// The counter `step` of the program's state, if it has one.
fn steps_seen(session: &Session) -> Result<Option<u64>> {
    let has = session.artefact().manifest.state.iter().any(|s| s.name == "step");
    if !has || !session.is_initialized() {
        return Ok(None);
    }
    let value = session.state("step")?.to_f64()?;
    Ok(value.first().map(|v| *v as u64))
}

/// Says in which step a call of the plugin failed.
fn in_step(step: u64) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Pjrt { context, source } => Error::Pjrt { context: format!("step {step}: {context}"), source },
        other => other,
    }
}
