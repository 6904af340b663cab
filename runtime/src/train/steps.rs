//! The loop over steps.

use super::{
    evaluation::Evaluation,
    events::Events,
    ledger::Ledger,
    meter::{Meter, host_memory},
    metrics::{Log, Record},
    observer::{EVALUATING, Observer, Rollback, Step, WAITING_TO_EVALUATE},
    options::Options,
    saving::Saver,
    spike,
    stop::Stop,
    stragglers::Stragglers,
    summary::{History, Summary},
};
use crate::{Contract, Error, Outputs, Result, Session};
use data::{Batch, BatchSource, Loader};
use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

/// Everything that the loop needs.
pub(super) struct Training<'a> {
    pub session: &'a mut Session,
    pub contract: Contract,
    pub data: Arc<dyn BatchSource>,
    pub options: &'a Options,
    pub seed: u32,
    pub lag: usize,
    pub observer: &'a mut dyn Observer,
    pub evaluation: Option<Evaluation>,
    pub saver: Option<Saver>,
    pub log: Log,
    pub events: Events,
    pub meter: Meter,
    pub ledger: Ledger,
    pub stop: Stop<'a>,
}

/// A step in flight.
struct InFlight {
    step: u64,
    /// The index of its batch.
    position: u64,
    outputs: Outputs,
    batch: Batch,
    begin: Instant,
    wait: Duration,
}

/// The reason why no further step is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Stopped,
    Early,
}

/// A loss spike.
struct Spike {
    step: u64,
    position: u64,
    loss: f64,
    limit: f64,
}

struct Steps<'a> {
    t: Training<'a>,
    history: History,
    in_flight: VecDeque<InFlight>,
    /// The end of the last step, unless a checkpoint, an evaluation or a rollback came after it.
    last_end: Option<Instant>,
    /// To be recorded with the next step.
    rollback: Option<Rollback>,
    stragglers: Stragglers,
    /// The last step that was started, and the last one whose results are in the ledger.
    started: u64,
    finished: u64,
    /// True if the state is not worth saving: its loss was refused, or it is being restored.
    is_unsound: bool,
    /// The first error of a log file.
    log_error: Option<String>,
    /// The number of compilations that the observer knows.
    compiled: usize,
    begin: Instant,
}

/// Runs all steps after `done`.
pub(super) fn run(training: Training<'_>, done: u64) -> Result<Summary> {
    let compiled = training.session.compilations().len();
    let mut steps = Steps {
        t: training,
        history: History::new(done),
        in_flight: VecDeque::new(),
        last_end: None,
        rollback: None,
        stragglers: Stragglers::default(),
        started: done,
        finished: done,
        is_unsound: false,
        log_error: None,
        compiled,
        begin: Instant::now(),
    };
    steps.t.observer.on_state();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        steps.do_due_evaluation(done)?;
        let (last, end) = steps.run_all(done)?;
        steps.end(last, last > done, end)
    }));
    if !matches!(ran, Ok(Ok(_))) {
        // A second panic, in an observer for example, must not hide the first one.
        let _ = catch_unwind(AssertUnwindSafe(|| steps.rescue(done)));
    }
    ran.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Steps<'_> {
    /// Returns the last step and the reason to end.
    fn run_all(&mut self, done: u64) -> Result<(u64, End)> {
        let mut step = done;
        let mut loader = self.loader(step)?;
        loop {
            let end = self.reason_to_end(step)?;
            let (mut evaluate, mut save) = (false, false);
            if end.is_none() {
                step += 1;
                self.start(step, &mut loader)?;
                evaluate = self.t.evaluation.as_ref().is_some_and(|e| step.is_multiple_of(e.every));
                save = self.t.saver.as_ref().is_some_and(|s| s.is_due(step));
            }
            // The state after a step is available only until the next step starts.
            let keep = if evaluate || save || end.is_some() { 0 } else { self.t.lag };
            let mut spike = None;
            while self.in_flight.len() > keep && spike.is_none() {
                spike = self.finish(evaluate && self.in_flight.len() == 1)?;
            }
            self.report_compiled()?;
            if let Some(spike) = spike {
                step = self.roll_back(&spike)?;
                loader = self.loader(step)?;
                continue;
            }
            let best = self.t.ledger.lowest.is_some_and(|(lowest, _)| lowest == step);
            let keeps_best = self.t.saver.as_ref().is_some_and(Saver::keeps_best);
            if save || evaluate && best && keeps_best {
                self.save(step)?;
            }
            if let Some(end) = end {
                return Ok((step, end));
            }
        }
    }

    fn reason_to_end(&mut self, step: u64) -> Result<Option<End>> {
        let patience = self.t.options.patience.unwrap_or(u64::MAX);
        Ok(if self.t.stop.is_here()? {
            Some(End::Stopped)
        } else if self.t.ledger.stale >= patience {
            Some(End::Early)
        } else if step >= self.t.options.steps {
            Some(End::Done)
        } else {
            None
        })
    }

    /// Starts to prepare the batches of the steps after `step`, from the run's position in the data.
    fn loader(&self, step: u64) -> Result<Loader> {
        let first = self.t.ledger.position;
        let last = first + self.t.options.steps.saturating_sub(step);
        let rows = self.t.contract.rows(self.t.session, "train_step")?;
        Ok(Loader::start(self.t.data.clone(), self.t.seed, first..last, rows, self.t.options.ahead)?)
    }

    /// Starts to save the state after the last finished step.
    fn save(&mut self, step: u64) -> Result<()> {
        let Some(saver) = &mut self.t.saver else { return Ok(()) };
        self.t.observer.on_phase("saving");
        self.t.options.job.enter("save", step);
        saver.save(self.t.session, step, &self.t.ledger, self.t.observer)?;
        // The time of the next step counts from its own start.
        self.last_end = None;
        Ok(())
    }

    fn start(&mut self, step: u64, loader: &mut Loader) -> Result<()> {
        let (batch, wait) = loader.next().ok_or_else(|| {
            Error::input(
                format!("the thread that prepares batches ended before step {step}"),
                "this is a bug: report it with the message above",
            )
        })??;
        if self.t.lag == 0 {
            self.t.session.wait_for_memory();
        }
        self.t.options.job.enter("step", step);
        let begin = Instant::now();
        let function = self.t.session.artefact().function("train_step")?;
        let inputs = self.t.contract.feeds(function, &batch, self.t.seed);
        let outputs = self.t.session.call("train_step", &inputs).map_err(in_step(step))?;
        let position = self.t.ledger.position + self.in_flight.len() as u64;
        self.in_flight.push_back(InFlight { step, position, outputs, batch, begin, wait });
        self.started = step;
        Ok(())
    }

    /// Waits for the earliest step in flight, evaluates if requested, and reports it. A loss spike is
    /// returned and not reported.
    fn finish(&mut self, evaluate: bool) -> Result<Option<Spike>> {
        let Some(InFlight { step, position, outputs, batch, begin, wait }) = self.in_flight.pop_front()
        else {
            return Ok(None);
        };
        let record = Record::new(step, outputs, &self.t.contract).map_err(in_step(step));
        // A failed assertion: the state after the step is not worth saving.
        self.is_unsound |= matches!(record, Err(Error::Assertion { .. }));
        let mut record = record?;
        record.by_text(&batch, self.t.data.corpora().into_iter());
        let end = Instant::now();
        let since = self.last_end.replace(end).unwrap_or(begin);
        let took = end.saturating_duration_since(since);
        record.timing(batch.tokens(), took, wait);
        record.step.slowest = self.slowest(took);
        record.step.mfu = self.t.meter.utilization(took.as_secs_f64());
        record.step.device_memory = self.t.meter.device_memory();
        record.step.host_memory = host_memory();
        let spike = self.detect_spike(&record.step, position);
        self.is_unsound |= !matches!(spike, Ok(None));
        if let Some(spike) = spike? {
            return Ok(Some(spike));
        }
        self.t.ledger.position = position + 1;
        self.finished = step;
        record.step.rollback = self.rollback.take();
        if evaluate {
            record.step.eval = self.evaluate(step)?;
        }
        let sound = self.is_finite(&record.step);
        self.is_unsound |= sound.is_err();
        let written = self.t.log.write(&record);
        self.note(written);
        let written = self.t.events.add(&record);
        self.note(written);
        self.history.add(&record.step, &batch);
        self.t.observer.on_step(&record.step);
        if let Some(saver) = &mut self.t.saver {
            saver.poll(self.t.observer);
        }
        sound.map(|()| None)
    }

    /// Warns of the first line of a log that cannot be written. Checkpoints do not depend on logs.
    fn note(&mut self, written: Result<()>) {
        if let (Err(error), None) = (written, &self.log_error) {
            self.t.observer.on_warning(&format!("the log of this run is incomplete: {error}"));
            self.log_error = Some(error.to_string());
        }
    }

    /// Tells the other processes how long a step took, and reports one that delays them. Returns the slowest
    /// one and its time.
    fn slowest(&mut self, took: Duration) -> Option<(u32, f64)> {
        let job = &self.t.options.job;
        if job.size() == 1 {
            return None;
        }
        job.step_took(took, self.t.session.take_waited());
        let orders = job.orders();
        if orders.slowest_micros == 0 {
            return None;
        }
        if let Some(warning) = self.stragglers.step(job, &orders).filter(|_| job.is_first()) {
            self.t.observer.on_warning(&warning);
        }
        Some((orders.slowest_rank, orders.slowest_micros as f64 / 1e3))
    }

    /// Reports compilations that have ended in the background.
    fn report_compiled(&mut self) -> Result<()> {
        self.t.session.collect_compiled()?;
        let all = self.t.session.compilations();
        all[self.compiled..].iter().for_each(|compilation| self.t.observer.on_compiled(compilation));
        let has_new = all.len() > std::mem::replace(&mut self.compiled, all.len());
        // The memory of a new executable stays in use between runs, so the baseline must contain it.
        if has_new && self.in_flight.is_empty() {
            self.t.session.record_memory_baseline()?;
        }
        Ok(())
    }

    /// Evaluates after step `step`. If training is to stop, the evaluation is abandoned and marked as due for
    /// the resumed run.
    fn evaluate(&mut self, step: u64) -> Result<Option<BTreeMap<String, f64>>> {
        if self.t.session.is_compiling("eval_step") && !self.t.stop.is_here()? {
            self.t.observer.on_phase(WAITING_TO_EVALUATE);
            self.t.session.compile("eval_step")?;
            self.report_compiled()?;
        }
        let Some(evaluation) = &self.t.evaluation else { return Ok(None) };
        self.t.observer.on_phase(EVALUATING);
        self.t.options.job.enter("evaluate", step);
        let eval = evaluation.run(self.t.session, step, &mut self.t.stop).map_err(in_step(step))?;
        match &eval {
            Some(eval) => {
                self.t.ledger.evaluated(step, evaluation.evaluated(eval)?, self.t.options.min_delta);
            }
            None => self.t.ledger.due = true,
        }
        // The time of the next step counts from its own start.
        self.last_end = None;
        Ok(eval)
    }

    /// Does the evaluation that the previous run abandoned.
    fn do_due_evaluation(&mut self, step: u64) -> Result<()> {
        if self.t.ledger.due
            && let Some(eval) = self.evaluate(step)?
        {
            let written = self.t.log.amend(step, &eval);
            self.note(written);
        }
        Ok(())
    }

    /// Saves unsaved state, and returns the summary.
    fn end(&mut self, last: u64, has_steps: bool, end: End) -> Result<Summary> {
        // A run that was stopped before its first step saves its initial state.
        let began = end == End::Stopped && self.t.session.is_initialized();
        let saved = self.t.saver.as_ref().is_some_and(|s| s.last() == Some(last));
        if (has_steps || began) && !saved {
            self.save(last)?;
        }
        if let Some(saver) = &mut self.t.saver {
            self.t.observer.on_phase("writing the last checkpoint");
            self.t.options.job.enter("save", last);
            saver.wait(self.t.observer)?;
        }
        let mut summary = self.history.clone().summary(self.begin.elapsed(), end == End::Stopped);
        summary.stopped_early = end == End::Early;
        let ledger = &self.t.ledger;
        summary.best_eval = ledger.lowest.map(|(at, cost)| (at, ledger.value(cost)));
        summary.best_metric = ledger.metric.clone();
        summary.rollbacks = ledger.rollbacks;
        summary.log_error = self.log_error.clone();
        Ok(summary)
    }

    /// Saves the state after the last step when an error or a panic ends the loop, if that state is whole:
    /// all steps that were started have finished, and their results are in the ledger. Failures are warnings.
    ///
    /// The processes of a job save together, and the others may not have failed: they save nothing.
    fn rescue(&mut self, done: u64) {
        let is_alone = self.t.options.job.size() == 1;
        if self.t.saver.is_none() || !is_alone || self.is_unsound || self.started == done {
            return;
        }
        let saved = self.finish_all().and_then(|()| {
            self.save(self.started)?;
            self.t.saver.as_mut().map_or(Ok(()), |saver| saver.wait(self.t.observer))
        });
        if let Err(error) = saved {
            let step = self.started;
            self.t.observer.on_warning(&format!("the state after step {step} is not saved: {error}"));
        }
    }

    /// Waits for the steps in flight.
    fn finish_all(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() && !self.is_unsound {
            self.finish(false)?;
        }
        if self.is_unsound || self.finished != self.started {
            return Err(Error::input(
                "the results of that step are lost",
                "resume from the checkpoint before it",
            ));
        }
        Ok(())
    }
}

/// The output that counts steps without an update, if the program has it.
const SKIPPED_STEPS: &str = "skipped_steps";

/// Non-finite losses and loss spikes.
impl Steps<'_> {
    /// Counts the steps that the program skips.
    ///
    /// # Errors
    /// Too many consecutive steps were skipped, or the loss is not finite in a step that was not skipped.
    fn is_finite(&mut self, step: &Step) -> Result<()> {
        let mut is_skipped = false;
        if let Some(all) = step.metrics.get(SKIPPED_STEPS) {
            // The first value may include skipped steps of earlier runs.
            let start = if step.step == 1 { 0.0 } else { *all };
            let (before, in_a_row) = self.t.ledger.skipped.unwrap_or((start, 0));
            is_skipped = *all > before;
            self.t.ledger.skipped = Some((*all, if is_skipped { in_a_row + 1 } else { 0 }));
        }
        if self.t.options.allow_non_finite {
            return Ok(());
        }
        let most = self.t.options.max_skipped;
        if self.t.ledger.skipped.is_some_and(|(_, in_a_row)| in_a_row >= most) {
            return Err(Error::input(
                format!(
                    "{most} steps in a row up to step {} were skipped: their gradients are not finite",
                    step.step
                ),
                "resume from an earlier checkpoint with a lower learning rate or a longer warm-up; if activations are bf16, try f32",
            ));
        }
        if step.loss.is_finite() || is_skipped {
            return Ok(());
        }
        Err(Error::input(
            format!("the loss is {} in step {}", step.loss, step.step),
            "use a lower learning rate or a longer warm-up; if activations are bf16, try f32; or add --allow-non-finite",
        ))
    }

    /// Returns the spike if the loss of a step is one and a rollback is possible.
    fn detect_spike(&mut self, step: &Step, position: u64) -> Result<Option<Spike>> {
        let Some(spikes) = self.t.options.spikes else { return Ok(None) };
        let limit = spikes.limit(&self.t.ledger.losses);
        // A non-finite loss is handled in `is_finite`.
        let Some(limit) = limit.filter(|limit| step.loss > *limit && step.loss.is_finite()) else {
            spike::remember(&mut self.t.ledger.losses, step.loss, spikes.window);
            return Ok(None);
        };
        let Step { step, loss, .. } = *step;
        let what = format!(
            "the loss of step {step} is {loss:.4}, above the limit of {limit:.4} from the {} losses before it",
            spikes.window
        );
        if self.t.ledger.rollbacks >= spikes.rollbacks {
            return Err(Error::input(
                format!("{what}, after {} rollbacks", self.t.ledger.rollbacks),
                "resume from an earlier checkpoint with a lower learning rate, inspect the data, or raise --max-rollbacks",
            ));
        }
        if !self.t.saver.as_ref().is_some_and(Saver::has_one) {
            self.t.observer.on_warning(&format!("{what}, but there is no checkpoint to return to yet"));
            spike::remember(&mut self.t.ledger.losses, loss, spikes.window);
            return Ok(None);
        }
        self.t.observer.on_warning(&what);
        Ok(Some(Spike { step, position, loss, limit }))
    }

    /// Returns to the last checkpoint and skips the batches since then. Returns the checkpoint's step.
    ///
    /// Nothing has to be saved for that: a run that is killed before the next checkpoint resumes from the
    /// same one, computes the same loss, and rolls back in the same way.
    fn roll_back(&mut self, spike: &Spike) -> Result<u64> {
        for later in std::mem::take(&mut self.in_flight) {
            // The results are not used.
            let _ = later.outputs.wait();
        }
        let Some(saver) = &mut self.t.saver else {
            return Err(Error::input(
                "there are no checkpoints to return to",
                "add --run-dir DIR or --checkpoint-dir DIR",
            ));
        };
        let resumed = saver.restore_last(self.t.session, self.t.observer)?;
        (self.started, self.finished, self.is_unsound) = (resumed.step, resumed.step, false);
        let batches = (resumed.ledger.position, spike.position + 1);
        let rollbacks = self.t.ledger.rollbacks + 1;
        let ledger = resumed.ledger.judged_by(self.t.options.best.as_deref());
        self.t.ledger = Ledger { position: batches.1, rollbacks, ..ledger };
        let to = resumed.step;
        let kept = self.t.log.keep(to);
        if let Ok(Some(warning)) = &kept {
            self.t.observer.on_warning(warning);
        }
        self.note(kept.map(drop));
        let written = self.t.events.begin(to + 1);
        self.note(written);
        self.history.roll_back_to(to);
        self.last_end = None;
        self.t.observer.on_rollback(to);
        self.t.observer.on_phase(&format!(
            "rolled back to step {to}; skipping batches {} to {}",
            batches.0,
            batches.1 - 1
        ));
        let Spike { step: from, loss, limit, .. } = *spike;
        self.rollback = Some(Rollback { from, to, loss, limit, batches });
        Ok(to)
    }
}

/// Adds the step to the error of a call.
fn in_step(step: u64) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Pjrt { context, source } => Error::Pjrt { context: format!("step {step}: {context}"), source },
        Error::Assertion { values, .. } => Error::Assertion { step: Some(step), values },
        other => other,
    }
}
