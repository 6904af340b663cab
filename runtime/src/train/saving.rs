//! Checkpoints while training: when, by whom, and from which one a run goes on.
//!
//! The loop takes a snapshot and goes on: what that takes is [`Session::snapshot`]'s to say. A thread writes it; the
//! next checkpoint waits for that, so that there is one snapshot at most. A checkpoint that cannot be written is
//! reported, and training goes on with the ones before it; after the last step it is an error.

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

/// Saves.
pub(super) struct Saver {
    saving: Saving,
    facts: Facts,
    /// The step that was saved last, or that this run began with.
    last: Option<u64>,
    at_work: Option<(u64, JoinHandle<Result<()>>)>,
    /// Last: it goes when nothing is written any more. Object stores have no locks.
    _lock: Option<Lock>,
}

/// What a run goes on from.
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
    /// Looks at the folder. If the run is to go on, takes the state from the newest good checkpoint in it, and
    /// says which newer ones are not good.
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
        let mut saver = Self { saving: saving.clone(), facts, last: None, at_work: None, _lock: lock };
        let found = folder::list(&saving.folder)?;
        let place = saving.folder.display();
        if !saving.resume
            && let Some(newest) = found.last()
        {
            return Err(Error::input(
                format!("`{place}` has checkpoints already, the newest of step {}", newest.step),
                "go on from it with --resume, or name another folder",
            ));
        }
        folder::sweep(&saving.folder)?;
        if found.is_empty() {
            if saving.resume {
                observer.on_phase(&format!("no checkpoint in {place} yet: starting at the beginning"));
            }
            return Ok((saver, None));
        }
        let checkpoint = saver.newest(session, Some(options), observer)?;
        observer.on_phase(&format!("going on from {}", checkpoint.dir().display()));
        Ok((saver, Some(Resumed::of(&checkpoint))))
    }

    /// Takes the state from the newest good checkpoint in the folder, and says which newer ones are not good. With
    /// `options`, it must be one that a run with these goes on from.
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
                // Damage; another checkpoint may be good.
                Err(error @ (Error::Checkpoint { .. } | Error::Io { .. })) => {
                    observer.on_warning(&format!("skipped a checkpoint that is not good: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::input(
            format!("none of the {count} checkpoints in `{}` is good", self.saving.folder.display()),
            "`meshc checkpoint verify` says why; name another folder to start at the beginning",
        ))
    }

    /// Whether there is a checkpoint to go back to.
    pub(super) fn has_one(&self) -> bool {
        self.last.is_some()
    }

    /// The last step whose state is saved, or being saved.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Takes the state from the last good checkpoint, while training.
    pub(super) fn back(&mut self, session: &mut Session, observer: &mut dyn Observer) -> Result<Resumed> {
        if let Err(error) = self.settle(observer) {
            observer.on_warning(&format!("the last checkpoint could not be written: {error}"));
        }
        self.newest(session, None, observer).map(|checkpoint| Resumed::of(&checkpoint))
    }

    /// The seed of this run, which is a part of what is saved.
    pub(super) fn set_seed(&mut self, seed: u32) {
        self.facts.insert(SEED.into(), seed.to_string());
    }

    /// Whether a run with `options` goes on as the one that wrote a checkpoint would have.
    fn check(&self, checkpoint: &Checkpoint, options: &Options, observer: &mut dyn Observer) -> Result<()> {
        let dir = checkpoint.dir().display();
        if let (Some(ours), Some(theirs)) = (options.seed, seed(checkpoint))
            && ours != theirs
        {
            return Err(Error::input(
                format!("the seed is {ours}, but `{dir}` was made with seed {theirs}"),
                "leave --seed out to go on as before, or start anew in another folder",
            ));
        }
        if let (Some(ours), Some(theirs)) = (self.facts.get(TOKENIZER), checkpoint.facts().get(TOKENIZER))
            && ours != theirs
        {
            return Err(Error::input(
                format!("tokens are those of `{ours}`, but `{dir}` was trained with those of `{theirs}`"),
                "name the tokenizer that training began with, or start anew in another folder",
            ));
        }
        let (ours, theirs) = (self.facts.get(DATA), checkpoint.facts().get(DATA));
        if theirs.is_some() && ours != theirs {
            observer.on_warning(&format!(
                "the text, or how it is cut into examples and batches, is not what `{dir}` was trained on: \
                 training goes on with the new examples from step {}",
                checkpoint.step() + 1
            ));
        }
        Ok(())
    }

    /// Whether state is to be saved after this step.
    pub(super) fn is_due(&self, step: u64) -> bool {
        self.saving.every.is_some_and(|every| step.is_multiple_of(every))
    }

    /// Whether the best of all evaluations is to be saved.
    pub(super) fn keeps_best(&self) -> bool {
        self.saving.keep.best.is_some()
    }

    /// Takes a snapshot of the state, which has seen `step` steps, and begins to write it with what the run knows.
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
        if let Err(error) = self.settle(observer) {
            observer.on_warning(&format!("training goes on without a checkpoint: {error}"));
        }
        let copy = session.snapshot()?;
        let (saving, mut facts) = (self.saving.clone(), self.facts.clone());
        ledger.note(&mut facts, step);
        let work = move || {
            let mut writer = Writer::replace(&folder::path(&saving.folder, step))?;
            copy.write(&mut writer)?;
            writer.finish(facts, step)?;
            // Only now that there is a newer one.
            keep::prune(&saving.folder, &saving.keep, false).map(drop)
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(work).map_err(|e| {
            Error::input(
                format!("no thread for a checkpoint could be started: {e}"),
                "free some memory or threads",
            )
        })?;
        self.last = Some(step);
        self.at_work = Some((step, thread));
        Ok(())
    }

    /// Says that a checkpoint is written, if that has just happened.
    pub(super) fn look(&mut self, observer: &mut dyn Observer) {
        if self.at_work.as_ref().is_some_and(|(_, thread)| thread.is_finished())
            && let Err(error) = self.settle(observer)
        {
            observer.on_warning(&format!("training goes on without a checkpoint: {error}"));
        }
    }

    /// Waits for the checkpoint that is being written.
    pub(super) fn settle(&mut self, observer: &mut dyn Observer) -> Result<()> {
        let Some((step, thread)) = self.at_work.take() else { return Ok(()) };
        let result = thread.join().unwrap_or_else(|_| {
            Err(Error::input(
                format!("the thread that wrote the checkpoint of step {step} ended by itself"),
                "this is a mistake in the program: report it with the message above",
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
        if let Some((_, thread)) = self.at_work.take() {
            // Training has failed already, with a message of its own; the checkpoint is finished all the same.
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
