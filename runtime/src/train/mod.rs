//! The training loop: batches in, steps on the devices, losses out some steps later.
//!
//! The host never waits for the step it has just started. It keeps a few steps in flight and reads what the
//! earliest of them gave, so that the devices always have the next one to do; and never more than that, so
//! that neither memory nor the time between a mistake and its message grows.
//!
//! Reading order: here, then [`saving`] (checkpoints), [`metrics`] (the file), [`summary`] (what is left of it
//! all).

pub mod metrics;
pub mod saving;
pub mod summary;

pub use saving::Saving;
pub use summary::Summary;

use crate::{
    Checkpoint, Error, HostTensor, Outputs, Result, Session,
    checkpoint::Which,
    data::{self, Batch, Loader, Source},
};
use metrics::{Log, Record};
use saving::Saver;
use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use summary::History;

/// How to train.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// The last step, counted from 1. A session that has made some of them makes the rest.
    pub steps: u64,
    /// Seed of the initial values, of dropout and the like, and of the order of the data. Nothing: that of the
    /// checkpoint that the run goes on from, else 0.
    pub seed: Option<u32>,
    /// Where the metrics go: one JSON object a step, one on a line. A run that goes on from a checkpoint keeps
    /// the lines up to its step.
    pub metrics: Option<PathBuf>,
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
    /// Go on when a loss is no finite number, and when one step after the other is skipped.
    pub allow_non_finite: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: 100,
            seed: None,
            metrics: None,
            from: None,
            saving: None,
            lag: None,
            ahead: 4,
            eval_every: None,
            eval_batches: None,
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
}

/// Is told how training goes.
pub trait Observer {
    /// A step is done. Every step, in order.
    fn step(&mut self, step: &Step);
    /// What is being done besides steps, in a few words, such as `compiling train_step`.
    fn doing(&mut self, _what: &str) {}
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
/// way are finished, and the summary says which was the last.
pub fn run(
    session: &mut Session,
    data: Source,
    options: &Options,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Summary> {
    // Before anything else, so that a wrong path does not cost a compilation.
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
    let seed = options.seed.or(resumed.as_ref().and_then(|r| r.seed)).unwrap_or(0);
    saver.iter_mut().for_each(|saver| saver.set_seed(seed));
    let seen = prepare(session, seed, evaluation.is_some(), observer, stop)?;
    if let Some(from) = from.filter(|_| session.is_initialized()) {
        observer.doing(&format!("taking the parameters from {}", from.dir().display()));
        session.restore(&from, Which::Params)?;
    }
    let done = seen.or(resumed.map(|r| r.step)).unwrap_or(0);
    log.keep(done)?;
    let loader = Loader::start(data, seed, done..options.steps.max(done), options.ahead)?;
    let lag = options.lag.map_or_else(|| default_lag(session), Ok)?;
    let now = Instant::now();
    let training = Training {
        session,
        options,
        seed,
        lag,
        observer,
        evaluation,
        saver,
        log,
        history: History::new(done),
        in_flight: VecDeque::new(),
        last_end: None,
        // Those of an earlier run are in the first number that is seen.
        skipped: (f64::INFINITY, 0),
        begin: now,
    };
    training.steps(done, loader, stop)
}

/// Compiles, and makes the state if there is none. Returns the number of steps that it has seen, if it knows.
fn prepare(
    session: &mut Session,
    seed: u32,
    evaluate: bool,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Option<u64>> {
    let functions: &[&str] = if evaluate { &["train_step", "eval_step"] } else { &["train_step"] };
    if !session.is_initialized() && !stop.load(Ordering::Relaxed) {
        observer.doing("compiling init");
        session.compile("init")?;
        observer.doing("making the initial state");
        let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(seed))]);
        session.call("init", &seed)?.wait()?;
        // It runs once, and a program takes memory.
        session.release("init");
    }
    for function in functions {
        // Whoever asked to stop meanwhile does not want to wait for a compiler.
        if !stop.load(Ordering::Relaxed) {
            observer.doing(&format!("compiling {function}"));
            session.compile(function)?;
        }
    }
    session.rest()?;
    steps_seen(session)
}

fn default_lag(session: &Session) -> Result<usize> {
    let platform = session.client().platform_name().map_err(Error::pjrt("asking for the platform"))?;
    Ok(if platform == "cpu" { 0 } else { 2 })
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

/// A step that was started.
struct InFlight {
    step: u64,
    outputs: Outputs,
    batch: Batch,
    begin: Instant,
    wait: Duration,
}

struct Training<'a> {
    session: &'a mut Session,
    options: &'a Options,
    seed: u32,
    lag: usize,
    observer: &'a mut dyn Observer,
    evaluation: Option<Evaluation>,
    saver: Option<Saver>,
    log: Log,
    history: History,
    in_flight: VecDeque<InFlight>,
    /// When the last step ended that was waited for, if nothing but steps came after it.
    last_end: Option<Instant>,
    /// Steps that the program has skipped: in all, and in a row.
    skipped: (f64, u64),
    begin: Instant,
}

impl Training<'_> {
    fn steps(mut self, done: u64, mut loader: Loader, stop: &AtomicBool) -> Result<Summary> {
        let mut stopped = false;
        for step in done + 1..=self.options.steps {
            stopped = stop.load(Ordering::Relaxed);
            if stopped {
                break;
            }
            self.start(step, &mut loader)?;
            let evaluate = self.evaluation.as_ref().is_some_and(|e| step.is_multiple_of(e.every));
            let save = self.saver.as_ref().is_some_and(|s| s.is_due(step));
            // The state of a step is there until the next one is started.
            let keep = if evaluate || save { 0 } else { self.lag };
            while self.in_flight.len() > keep {
                self.finish(evaluate && self.in_flight.len() == 1)?;
            }
            if save {
                self.save(step)?;
            }
        }
        while !self.in_flight.is_empty() {
            self.finish(false)?;
        }
        if self.history.steps() > 0 {
            self.save(done + self.history.steps())?;
        }
        if let Some(saver) = &mut self.saver {
            self.observer.doing("writing the last checkpoint");
            saver.settle(self.observer)?;
        }
        Ok(self.history.summary(self.begin.elapsed(), stopped))
    }

    /// Begins to save the state after the last finished step.
    fn save(&mut self, step: u64) -> Result<()> {
        let Some(saver) = &mut self.saver else { return Ok(()) };
        self.observer.doing("saving");
        saver.save(self.session, step, self.observer)?;
        // The next step counts from its own start.
        self.last_end = None;
        Ok(())
    }

    fn start(&mut self, step: u64, loader: &mut Loader) -> Result<()> {
        let (batch, wait) = loader.next().ok_or_else(|| {
            Error::input(
                format!("the thread that makes batches ended before step {step}"),
                "this is a mistake in the program: report it with the message above",
            )
        })??;
        if self.lag == 0 {
            self.session.wait_for_room();
        }
        let begin = Instant::now();
        let mut inputs = batch.feeds();
        inputs.insert("seed".to_owned(), HostTensor::u32_scalar(self.seed));
        let outputs = self.session.call("train_step", &inputs).map_err(in_step(step))?;
        self.in_flight.push_back(InFlight { step, outputs, batch, begin, wait });
        Ok(())
    }

    /// Waits for the earliest step in flight, evaluates if asked to, and says how it was.
    fn finish(&mut self, evaluate: bool) -> Result<()> {
        let Some(InFlight { step, outputs, batch, begin, wait }) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let mut record = Record::new(step, outputs).map_err(in_step(step))?;
        let end = Instant::now();
        let since = self.last_end.replace(end).unwrap_or(begin);
        let took = end.saturating_duration_since(since);
        record.timing(batch.tokens(), took, wait);
        if evaluate && let Some(evaluation) = &self.evaluation {
            self.observer.doing("evaluating");
            record.step.eval = Some(evaluation.run(self.session).map_err(in_step(step))?);
            // The next step counts from its own start.
            self.last_end = None;
        }
        self.log.write(&record)?;
        self.history.add(&record.step, &batch);
        self.observer.step(&record.step);
        if let Some(saver) = &mut self.saver {
            saver.look(self.observer);
        }
        if self.options.allow_non_finite {
            return Ok(());
        }
        self.count_skipped(&record.step)?;
        let loss = record.step.loss;
        if loss.is_finite() {
            return Ok(());
        }
        Err(Error::input(
            format!("the loss is {loss} in step {step}"),
            "train with a lower learning rate or a longer warm-up; if activations are bf16, try f32; or allow losses that are not finite",
        ))
    }
}

/// So many steps skipped in a row, and nothing will come of the next one either.
const SKIPPED: u64 = 10;
/// The output in which a program counts the steps that changed nothing, if it has one.
const SKIPPED_STEPS: &str = "skipped_steps";

impl Training<'_> {
    fn count_skipped(&mut self, step: &Step) -> Result<()> {
        let Some(all) = step.metrics.get(SKIPPED_STEPS) else { return Ok(()) };
        let (before, in_a_row) = self.skipped;
        self.skipped = (*all, if *all > before { in_a_row + 1 } else { 0 });
        if self.skipped.1 < SKIPPED {
            return Ok(());
        }
        Err(Error::input(
            format!(
                "{SKIPPED} steps in a row up to step {} were skipped: their gradients are not finite",
                step.step
            ),
            "go on from an earlier checkpoint with a lower learning rate or a longer warm-up; if activations are bf16, try f32",
        ))
    }
}

/// Evaluation on held-out text.
struct Evaluation {
    data: Source,
    every: u64,
    batches: usize,
}

impl Evaluation {
    fn new(data: &Source, options: &Options) -> Result<Option<Self>> {
        let Some(every) = options.eval_every else { return Ok(None) };
        let batches = data.held_out_batches().min(options.eval_batches.unwrap_or(usize::MAX));
        if every == 0 || batches == 0 {
            return Err(Error::input(
                format!("evaluation every {every} steps on {batches} batches of held-out text"),
                "hold out a share of the text, and evaluate every so many steps, or not at all",
            ));
        }
        Ok(Some(Self { data: data.clone(), every, batches }))
    }

    fn run(&self, session: &mut Session) -> Result<BTreeMap<String, f64>> {
        evaluate(session, &self.data, self.batches)
    }
}

/// Means of all outputs of `eval_step` that are single numbers, by the tokens of the targets, over the first
/// `batches` batches of held-out text. Where there are several texts, the same for each: `NAME/loss`.
pub fn evaluate(session: &mut Session, data: &Source, batches: usize) -> Result<BTreeMap<String, f64>> {
    // Of all (the empty name) and of each text: means times tokens, and tokens.
    let mut sums = BTreeMap::<(String, String), f64>::new();
    let mut tokens = BTreeMap::<String, usize>::new();
    for number in 0..batches {
        let batch = data.held_out_batch(number)?;
        let weight = batch.target_tokens();
        let texts: Vec<&str> = [""].into_iter().chain(data.held_out_text(number)).collect();
        for (name, value) in session.call("eval_step", &batch.feeds())?.wait()? {
            if value.dims.is_empty() {
                let value = value.to_f64()?[0] * weight as f64;
                for text in &texts {
                    *sums.entry(((*text).to_owned(), name.clone())).or_default() += value;
                }
            }
        }
        texts.into_iter().for_each(|text| *tokens.entry(text.to_owned()).or_default() += weight);
    }
    let full =
        |text: &str, name: &str| if text.is_empty() { name.to_owned() } else { format!("{text}/{name}") };
    let mean =
        |((text, name), sum): ((String, String), f64)| (full(&text, &name), sum / tokens[&text] as f64);
    let mut means: BTreeMap<String, f64> = sums.into_iter().map(mean).collect();
    // The mean number of tokens in a batch says nothing; their number does.
    means.extend(tokens.iter().map(|(text, tokens)| (full(text, "tokens"), *tokens as f64)));
    Ok(means)
}

/// Says in which step a call of the plugin failed.
fn in_step(step: u64) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Pjrt { context, source } => Error::Pjrt { context: format!("step {step}: {context}"), source },
        other => other,
    }
}

/// The task of a session's program, for [`Source::new`].
pub fn task(session: &Session) -> Result<data::Task> {
    data::Task::of(session.artefact())
}
