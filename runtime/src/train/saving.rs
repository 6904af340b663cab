//! Saving checkpoints during training, and resuming from them.
//!
//! The loop takes a snapshot ([`Session::snapshot`]) and continues while a thread writes it. The next
//! checkpoint waits for that thread, so there is at most one snapshot. If a checkpoint cannot be written,
//! that is a warning, and training continues with the earlier ones; after the last step it is an error.

use super::{
    ledger::Ledger,
    lock::Lock,
    observer::Observer,
    options::{Options, Saving},
};
use crate::{
    Error, Result, Session,
    checkpoint::{Checkpoint, Facts, RestoreScope, Writer, folder, is_url, keep},
};
use data::BatchSource;
use std::thread::{self, JoinHandle};

/// Saves checkpoints of a run.
pub(super) struct Saver {
    saving: Saving,
    facts: Facts,
    /// The last saved step, or the step that this run was resumed from.
    last: Option<u64>,
    writing: Option<(u64, JoinHandle<Result<()>>)>,
    /// Dropped last, when nothing is written any more. Object stores have no locks.
    _lock: Option<Lock>,
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
const TOKENIZER: &str = "tokenizer";

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
        let lock = (!is_url(&saving.folder)).then(|| Lock::take(&saving.folder)).transpose()?;
        let mut saver = Self { saving: saving.clone(), facts, last: None, writing: None, _lock: lock };
        let found = folder::list(&saving.folder)?;
        let place = saving.folder.display();
        if !saving.resume
            && let Some(newest) = found.last()
        {
            return Err(Error::input(
                format!("`{place}` already has checkpoints, the newest of step {}", newest.step),
                "resume from it with --resume, or use another folder",
            ));
        }
        folder::sweep(&saving.folder)?;
        if found.is_empty() {
            if saving.resume {
                observer.on_phase(&format!("no checkpoint in {place} yet: starting from the beginning"));
            }
            return Ok((saver, None));
        }
        let checkpoint = saver.newest(session, Some(options), observer)?;
        observer.on_phase(&format!("resuming from {}", checkpoint.dir().display()));
        Ok((saver, Some(Resumed::of(&checkpoint))))
    }

    /// Restores the state from the newest valid checkpoint, and warns about newer damaged ones. With
    /// `options`, also checks that a run with these options can continue from it.
    fn newest(
        &mut self,
        session: &mut Session,
        options: Option<&Options>,
        observer: &mut dyn Observer,
    ) -> Result<Checkpoint> {
        let found = folder::list(&self.saving.folder)?;
        let count = found.len();
        for found in found.into_iter().rev() {
            let tried = found.checkpoint.and_then(|c| {
                options.map_or(Ok(()), |options| self.check(&c, options, observer))?;
                session.restore(&c, RestoreScope::All).map(|()| c)
            });
            match tried {
                Ok(checkpoint) => {
                    self.last = Some(checkpoint.step());
                    return Ok(checkpoint);
                }
                // This one is damaged; another checkpoint may be valid.
                Err(error @ (Error::Checkpoint { .. } | Error::Io { .. })) => {
                    observer.on_warning(&format!("skipped a damaged checkpoint: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::input(
            format!("none of the {count} checkpoints in `{}` is valid", self.saving.folder.display()),
            "`meshc checkpoint verify` tells why; use another folder to start from the beginning",
        ))
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
        self.newest(session, None, observer).map(|checkpoint| Resumed::of(&checkpoint))
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
        let (saving, mut facts) = (self.saving.clone(), self.facts.clone());
        ledger.note(&mut facts, step);
        let work = move || {
            let mut writer = Writer::replace(&folder::path(&saving.folder, step))?;
            copy.write(&mut writer)?;
            writer.finish(facts, step)?;
            // Old checkpoints are removed only after the new one is finished.
            keep::prune(&saving.folder, &saving.keep, false).map(drop)
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
