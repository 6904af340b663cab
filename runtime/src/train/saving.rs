//! Checkpoints while training: when, by whom, and from which one a run goes on.
//!
//! The loop stops for as long as it takes to copy the state to the host. A thread writes the copy; the next
//! checkpoint waits for it, so that there is one copy at most. A checkpoint that cannot be written is reported,
//! and training goes on with the ones before it; after the last step it is an error.

use super::{Observer, Options};
use crate::{
    Error, Result, Session,
    checkpoint::{Checkpoint, Facts, Which, Writer, folder},
    data::Source,
};
use std::{
    path::PathBuf,
    thread::{self, JoinHandle},
};

/// Where and when state is saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saving {
    /// The folder of all checkpoints.
    pub folder: PathBuf,
    /// Steps between checkpoints; nothing: there is one, after the last step.
    pub every: Option<u64>,
    /// How many good checkpoints stay, the newest; nothing: all.
    pub keep: Option<usize>,
    /// Go on from the newest good checkpoint, if there are any.
    pub resume: bool,
}

/// Saves.
pub(super) struct Saver {
    saving: Saving,
    facts: Facts,
    /// The step that was saved last, or that this run began with.
    last: Option<u64>,
    at_work: Option<(u64, JoinHandle<Result<()>>)>,
}

/// What a run goes on from.
pub(super) struct Resumed {
    pub step: u64,
    pub seed: Option<u32>,
}

/// Names of facts.
const SEED: &str = "seed";
const DATA: &str = "data";
const TOKENIZER: &str = "tokenizer";
const POSITION: &str = "data_position";

impl Saver {
    /// Looks at the folder. If the run is to go on, takes the state from the newest good checkpoint in it, and
    /// says which newer ones are not good.
    pub(super) fn new(
        saving: &Saving,
        session: &mut Session,
        data: &Source,
        options: &Options,
        observer: &mut dyn Observer,
    ) -> Result<(Self, Option<Resumed>)> {
        let mut facts = session.checkpoint_facts();
        facts.insert(DATA.into(), data.digest());
        facts.insert(TOKENIZER.into(), data.tokenizer().identity().to_owned());
        let mut saver = Self { saving: saving.clone(), facts, last: None, at_work: None };
        let found = folder::list(&saving.folder)?;
        let place = saving.folder.display();
        if !saving.resume {
            if let Some(newest) = found.last() {
                return Err(Error::input(
                    format!("`{place}` has checkpoints already, the newest of step {}", newest.step),
                    "go on from it with --resume, or name another folder",
                ));
            }
            folder::sweep(&saving.folder)?;
            return Ok((saver, None));
        }
        folder::sweep(&saving.folder)?;
        let (count, mut skipped) = (found.len(), Vec::new());
        for found in found.into_iter().rev() {
            let tried = found.checkpoint.and_then(|c| {
                saver.check(&c, options, observer)?;
                session.restore(&c, Which::All).map(|()| c)
            });
            match tried {
                Ok(checkpoint) => {
                    observer.doing(&format!("going on from {}", checkpoint.dir().display()));
                    saver.last = Some(checkpoint.step());
                    return Ok((saver, Some(Resumed { step: checkpoint.step(), seed: seed(&checkpoint) })));
                }
                // Damage; another checkpoint may be good.
                Err(error @ (Error::Checkpoint { .. } | Error::Io { .. })) => {
                    observer.warning(&format!("skipped a checkpoint that is not good: {error}"));
                    skipped.push(found.dir);
                }
                Err(error) => return Err(error),
            }
        }
        if count == 0 {
            observer.doing(&format!("no checkpoint in {place} yet: starting at the beginning"));
            return Ok((saver, None));
        }
        Err(Error::input(
            format!("none of the {count} checkpoints in `{place}` is good"),
            "`meshc checkpoint verify` says why; name another folder to start at the beginning",
        ))
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
            observer.warning(&format!(
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

    /// Copies the state, which has seen `step` steps, and begins to write it.
    pub(super) fn save(&mut self, session: &Session, step: u64, observer: &mut dyn Observer) -> Result<()> {
        if self.last == Some(step) {
            return Ok(());
        }
        if let Err(error) = self.settle(observer) {
            observer.warning(&format!("training goes on without a checkpoint: {error}"));
        }
        let copy = session.snapshot()?;
        let (saving, mut facts) = (self.saving.clone(), self.facts.clone());
        facts.insert(POSITION.into(), step.to_string());
        let work = move || {
            let mut writer = Writer::replace(&folder::path(&saving.folder, step))?;
            copy.write(&mut writer)?;
            writer.finish(facts, step)?;
            // Only now that there is a newer one.
            saving.keep.map_or(Ok(Vec::new()), |keep| folder::prune(&saving.folder, keep, false)).map(drop)
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
            observer.warning(&format!("training goes on without a checkpoint: {error}"));
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
            observer.saved(step, &folder::path(&self.saving.folder, step));
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

fn seed(checkpoint: &Checkpoint) -> Option<u32> {
    checkpoint.facts().get(SEED)?.parse().ok()
}
