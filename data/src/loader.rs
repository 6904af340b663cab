//! Batches ahead of time: a thread of its own makes the next ones while the devices work.

use super::{batch::Batch, source::Source};
use crate::{Error, Result};
use std::{
    ops::Range,
    sync::mpsc::{Receiver, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The batches of some steps, in order, at most so many ahead.
#[derive(Debug)]
pub struct Loader {
    /// Nothing once dropping has begun.
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Begins to make the batches of `steps`, and holds at most `ahead` that nobody has taken.
    pub fn start(source: Source, seed: u32, steps: Range<u64>, ahead: usize) -> Result<Self> {
        let (sender, batches) = sync_channel(ahead.max(1));
        let work = move || {
            // Nobody takes batches any more once the loader is dropped.
            for step in steps {
                if sender.send(source.batch(seed, step)).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("data".to_owned()).spawn(work).map_err(|e| {
            Error::input(
                format!("no thread for the data could be started: {e}"),
                "free some memory or threads",
            )
        })?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }
}

impl Iterator for Loader {
    type Item = Result<(Batch, Duration)>;

    /// The next batch, and how long it had to be waited for; or why it cannot be read. Nothing after the last.
    fn next(&mut self) -> Option<Self::Item> {
        let begin = Instant::now();
        let batch = self.batches.as_ref()?.recv().ok()?;
        Some(batch.map(|batch| (batch, begin.elapsed())))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Wakes the thread if it waits to send.
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to return, and a panic of it was seen as the end of the batches.
            let _ = thread.join();
        }
    }
}
