//! Saving checkpoints during training, and resuming from them.
//!
//! The loop takes a snapshot ([`Session::snapshot`]) and continues while a thread writes it. The next
//! checkpoint waits for that thread, so there is at most one snapshot. If a checkpoint cannot be written,
//! that is a warning, and training continues with the earlier ones; after the last step it is an error.
//!
//! In a job of several processes, all of them write each checkpoint together. Rank 0 holds the lock of the
//! folder, removes what interrupted runs left there, and chooses the checkpoint to resume from; a checkpoint
//! that any process cannot read is skipped by all.

use super::{
    ledger::Ledger,
    lock::{self, Lock},
    observer::Observer,
    options::{Options, Saving},
};
use crate::{
    Error, Result, Session,
    checkpoint::{
        Checkpoint, Facts, Processes, RestoreScope, TOKENIZER, Together, VISIBLE, folder, is_url, keep,
        prove_shared,
    },
};
use data::BatchSource;
use job::Job;
use proto::padded::{PADDED, entries};
use std::{
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

/// Saves checkpoints of a run.
pub(super) struct Saver {
    saving: Saving,
    job: Arc<Job>,
    /// The number of meetings so far, which is equal in all processes and makes their names unique.
    meetings: u64,
    facts: Facts,
    /// The file of the tokenizer, which every checkpoint contains.
    tokenizer: Option<Arc<[u8]>>,
    /// The last saved step, or the step that this run was resumed from.
    last: Option<u64>,
    writing: Option<(u64, JoinHandle<Result<()>>)>,
    /// Dropped last, when nothing is written any more. Held by rank 0. Object stores have no locks.
    lock: Option<Lock>,
}

/// The result of resuming from a checkpoint.
pub(super) struct Resumed {
    pub step: u64,
    pub seed: Option<u32>,
    pub ledger: Ledger,
}

/// Names of facts.
const SEED: &str = "seed";
const DATA: &str = "data";
const SETTINGS: &str = "settings";

impl Saver {
    /// Opens the folder. If the run is to be resumed, restores the state from the newest valid checkpoint and
    /// warns about newer damaged ones.
    ///
    /// # Errors
    /// Another run holds the folder, it has checkpoints but the run is not to be resumed, or none of them is
    /// valid or fits the options.
    pub(super) fn new(
        saving: &Saving,
        session: &mut Session,
        data: &dyn BatchSource,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<(Self, Option<Resumed>)> {
        let mut facts = session.checkpoint_facts();
        facts.insert(DATA.into(), data.digest());
        facts.insert(TOKENIZER.into(), data.tokenizer_identity().to_owned());
        let (saving, job) = (saving.clone(), options.job.clone());
        let tokenizer = data.tokenizer_file();
        let mut saver =
            Self { saving, job, meetings: 0, facts, tokenizer, last: None, writing: None, lock: None };
        let found = saver.open_folder()?;
        if found.is_empty() {
            if saver.saving.resume {
                let place = saver.saving.folder.display();
                observer.on_phase(&format!("no checkpoint in {place} yet: starting from the beginning"));
            }
            return Ok((saver, None));
        }
        let checkpoint = saver.newest(found, session, Some(options), observer)?;
        observer.on_phase(&format!("resuming from {}", checkpoint.dir().display()));
        Ok((saver, Some(Resumed::of(&checkpoint))))
    }

    /// Takes the lock of the folder on rank 0, checks that all processes reach the folder, and removes the
    /// remains of interrupted runs. Returns the steps of its checkpoints.
    fn open_folder(&mut self) -> Result<Vec<u64>> {
        let folder = self.saving.folder.clone();
        let mut lock = None;
        let job = self.job.clone();
        self.of_first("lock", || {
            lock = if is_url(&folder) { None } else { Some(Lock::take(&folder)?) };
            Ok(Vec::new())
        })?;
        self.lock = lock;
        prove_shared(&folder, processes(&job), VISIBLE)?;
        let resume = self.saving.resume;
        self.of_first("found", || {
            let found = to_continue(&folder, resume)?;
            folder::sweep(&folder)?;
            Ok(found)
        })
    }

    /// Returns the steps that rank 0 finds, in all processes.
    fn of_first(&mut self, what: &str, find: impl FnOnce() -> Result<Vec<u64>>) -> Result<Vec<u64>> {
        let name = self.meeting(what);
        let bytes = |steps: Vec<u64>| steps.iter().flat_map(|step| step.to_le_bytes()).collect();
        let bytes = processes(&self.job).of_first(&name, || find().map(bytes))?;
        Ok(bytes.as_chunks().0.iter().map(|step| u64::from_le_bytes(*step)).collect())
    }

    /// Returns the name of the next meeting.
    fn meeting(&mut self, what: &str) -> String {
        self.meetings += 1;
        format!("checkpoints {}: {what}", self.meetings)
    }

    /// Restores the state from the newest valid checkpoint of the steps `found`, and warns about newer
    /// damaged ones. With `options`, also checks that a run with these options can continue from it.
    fn newest(
        &mut self,
        found: Vec<u64>,
        session: &mut Session,
        options: Option<&Options>,
        observer: &mut dyn Observer,
    ) -> Result<Checkpoint> {
        let count = found.len();
        for step in found.into_iter().rev() {
            let tried = Checkpoint::open(&folder::path(&self.saving.folder, step)).and_then(|c| {
                options.map_or(Ok(()), |options| self.check(&c, options, observer))?;
                session.restore(&c, RestoreScope::All).map(|()| c)
            });
            if let Some(checkpoint) = self.agree_on(tried, step, observer)? {
                self.last = Some(checkpoint.step());
                return Ok(checkpoint);
            }
        }
        Err(Error::input(
            format!("none of the {count} checkpoints in `{}` is valid", self.saving.folder.display()),
            "`meshc checkpoint verify` tells why; use another folder to start from the beginning",
        ))
    }

    /// Returns the checkpoint of a step if all processes have restored it. `None` means that it is damaged,
    /// and another checkpoint may be valid.
    fn agree_on(
        &mut self,
        tried: Result<Checkpoint>,
        step: u64,
        observer: &mut dyn Observer,
    ) -> Result<Option<Checkpoint>> {
        let (checkpoint, own) = match tried {
            Ok(checkpoint) => (Some(checkpoint), Ok(Vec::new())),
            Err(error @ (Error::Checkpoint { .. } | Error::Io { .. })) => {
                (None, Ok(error.to_string().into()))
            }
            Err(error) => (None, Err(error)),
        };
        let name = self.meeting(&format!("restore step {step}"));
        let damages = processes(&self.job).all(&name, own)?;
        let Some((rank, damage)) = damages.iter().enumerate().find(|(_, damage)| !damage.is_empty()) else {
            return Ok(checkpoint);
        };
        let damage = String::from_utf8_lossy(damage);
        let at = if self.job.size() > 1 { format!("rank {rank}: ") } else { String::new() };
        observer.on_warning(&format!("skipped a damaged checkpoint: {at}{damage}"));
        Ok(None)
    }

    /// Returns true if there is a checkpoint to return to.
    pub(super) fn has_one(&self) -> bool {
        self.last.is_some()
    }

    /// Returns the last step whose state is saved or being saved.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Returns to the newest valid checkpoint, during training.
    pub(super) fn restore_last(
        &mut self,
        session: &mut Session,
        observer: &mut dyn Observer,
    ) -> Result<Resumed> {
        if let Err(error) = self.wait(observer) {
            observer.on_warning(&format!("cannot write the last checkpoint: {error}"));
        }
        let folder = self.saving.folder.clone();
        let found = self.of_first("found", || folder::steps(&folder))?;
        self.newest(found, session, None, observer).map(|checkpoint| Resumed::of(&checkpoint))
    }

    /// Sets the seed of the run, which is saved with checkpoints.
    pub(super) fn set_seed(&mut self, seed: u32) {
        self.facts.insert(SEED.into(), seed.to_string());
    }

    /// Checks that a run with `options` can continue from a checkpoint. Warns if the data differs.
    fn check(&self, checkpoint: &Checkpoint, options: &Options, observer: &mut dyn Observer) -> Result<()> {
        let dir = checkpoint.dir().display();
        if let (Some(ours), Some(theirs)) = (options.seed, seed(checkpoint))
            && ours != theirs
        {
            return Err(Error::input(
                format!("`--seed` is {ours}, but `{dir}` was made with seed {theirs}"),
                "leave out --seed to continue that run, or start a new run in another folder",
            ));
        }
        if let (Some(ours), Some(theirs)) = (self.facts.get(TOKENIZER), checkpoint.facts().get(TOKENIZER))
            && ours != theirs
        {
            return Err(Error::input(
                format!("the tokenizer is `{ours}`, but `{dir}` was trained with `{theirs}`"),
                "use that run's tokenizer, or start a new run in another folder",
            ));
        }
        let (ours, theirs) = (self.facts.get(DATA), checkpoint.facts().get(DATA));
        if theirs.is_some() && ours != theirs {
            observer.on_warning(&format!(
                "`{dir}` was trained on other data, or on other examples and batches of it: \
                 training continues with the new ones from step {}",
                checkpoint.step() + 1
            ));
        }
        let mut changed =
            changed_settings([checkpoint.facts(), &self.facts].map(|facts| facts.get(SETTINGS)));
        // Padding is that of the devices, and changes no result.
        changed.retain(|change| !is_padding(&self.facts, change));
        if !changed.is_empty() {
            observer.on_warning(&format!(
                "`{dir}` was trained with other settings of the model, and training continues with the new ones: {}",
                changed.join(", ")
            ));
        }
        Ok(())
    }

    /// Returns true if a checkpoint is due after this step.
    pub(super) fn is_due(&self, step: u64) -> bool {
        self.saving.every.is_some_and(|every| step.is_multiple_of(every))
    }

    /// Returns true if the best evaluations are to be saved.
    pub(super) fn keeps_best(&self) -> bool {
        self.saving.keep.best.is_some()
    }

    /// Takes a snapshot of the state after `step` steps, and starts to write it together with the ledger.
    pub(super) fn save(
        &mut self,
        session: &Session,
        step: u64,
        ledger: &Ledger,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        if self.last == Some(step) {
            return Ok(());
        }
        if let Err(error) = self.wait(observer) {
            observer.on_warning(&format!("training continues without a new checkpoint: {error}"));
        }
        let copy = session.snapshot()?;
        let (saving, mut facts, job) = (self.saving.clone(), self.facts.clone(), self.job.clone());
        ledger.note(&mut facts, step);
        let attempt = self.meeting(&format!("save step {step}"));
        let tokenizer = self.tokenizer.clone().filter(|_| self.job.is_first());
        let work = move || {
            let together = Together { processes: processes(&job), attempt };
            let dir = folder::path(&saving.folder, step);
            together.write(&dir, (step, facts), |writer| {
                copy.write(writer)?;
                tokenizer.map_or(Ok(()), |file| writer.tokenizer(&file))
            })?;
            // Old checkpoints are removed only after the new one is finished.
            if job.is_first() { keep::prune(&saving.folder, &saving.keep, false).map(drop) } else { Ok(()) }
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(work).map_err(|e| {
            Error::input(
                format!("cannot start a thread for a checkpoint: {e}"),
                "free some memory or threads",
            )
        })?;
        self.last = Some(step);
        self.writing = Some((step, thread));
        Ok(())
    }

    /// Reports a checkpoint that was finished in the meantime.
    pub(super) fn poll(&mut self, observer: &mut dyn Observer) {
        if self.writing.as_ref().is_some_and(|(_, thread)| thread.is_finished())
            && let Err(error) = self.wait(observer)
        {
            observer.on_warning(&format!("training continues without a new checkpoint: {error}"));
        }
    }

    /// Waits for the checkpoint that is being written.
    pub(super) fn wait(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some((step, thread)) = self.writing.take() else { return Ok(()) };
        let result = thread.join().unwrap_or_else(|_| {
            Err(Error::input(
                format!("the thread that wrote the checkpoint of step {step} panicked"),
                "this is a bug: report it with the message above",
            ))
        });
        if result.is_ok() {
            observer.on_saved(step, &folder::path(&self.saving.folder, step));
        }
        result
    }
}

/// Checks that a run can save to `folder`, before anything is compiled. Changes nothing.
///
/// # Errors
/// Another run writes to the folder, or it has checkpoints but the run is not to be resumed.
pub fn check_folder(folder: &Path, resume: bool) -> Result<()> {
    if !is_url(folder) {
        lock::is_free(folder)?;
    }
    to_continue(folder, resume).map(drop)
}

/// Returns the settings that differ, as `key=before, now after`. A setting that one of the two does not name
/// is not compared.
fn changed_settings([before, now]: [Option<&String>; 2]) -> Vec<String> {
    let pairs = |text: Option<&'_ String>| -> Vec<(String, String)> {
        let words = text.into_iter().flat_map(|text| text.split_whitespace());
        words.filter_map(|w| w.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    let now = pairs(now);
    let changed = pairs(before).into_iter().filter_map(|(key, old)| {
        let new = now.iter().find(|(k, new)| *k == key && *new != old)?;
        Some(format!("{key}={old}, now {}", new.1))
    });
    changed.collect()
}

/// True if a changed setting is one that pads a dim: the fact `padded` names it.
fn is_padding(facts: &Facts, change: &str) -> bool {
    let mut padded = facts.get(PADDED).into_iter().flat_map(|padded| entries(padded));
    padded.any(|(_, _, setting)| change.strip_prefix(setting).is_some_and(|rest| rest.starts_with('=')))
}

/// Returns the steps of the checkpoints in a folder, of which there must be none without `resume`.
fn to_continue(folder: &Path, resume: bool) -> Result<Vec<u64>> {
    let found = folder::steps(folder)?;
    match found.last().filter(|_| !resume) {
        None => Ok(found),
        Some(newest) => Err(Error::input(
            format!("`{}` already has checkpoints, the newest of step {newest}", folder.display()),
            "resume from it with --resume, or use another folder",
        )),
    }
}

/// Returns the processes of a job as its checkpoints need them.
fn processes(job: &Job) -> Processes<'_> {
    Processes { job, limit: job.limits().save }
}

impl Drop for Saver {
    fn drop(&mut self) {
        if let Some((_, thread)) = self.writing.take() {
            // Training has failed with an error already; the checkpoint is finished all the same.
            let _ = thread.join();
        }
    }
}

impl Resumed {
    fn of(checkpoint: &Checkpoint) -> Self {
        let step = checkpoint.step();
        Self { step, seed: seed(checkpoint), ledger: Ledger::of(checkpoint.facts(), step) }
    }
}

fn seed(checkpoint: &Checkpoint) -> Option<u32> {
    checkpoint.facts().get(SEED)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_both_name_are_compared() {
        let [before, now] =
            ["experts=8 ignore_padding=false lr=0.1", "ignore_padding=true vocab=9 experts=8"]
                .map(str::to_owned);
        assert_eq!(changed_settings([Some(&before), Some(&now)]), ["ignore_padding=false, now true"]);
        assert_eq!(changed_settings([None, Some(&now)]), Vec::<String>::new());
        assert_eq!(changed_settings([Some(&now), Some(&now)]), Vec::<String>::new());
        let facts = Facts::from([(PADDED.to_owned(), "vocab=13:vocab_padding".to_owned())]);
        let is_padding = |change| is_padding(&facts, change);
        assert_eq!(["vocab_padding=3, now 0", "vocab=13, now 14"].map(is_padding), [true, false]);
    }
}
