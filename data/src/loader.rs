//! Prefetching: a thread makes the next batches while the devices work.

use super::{batch::Batch, batch_source::BatchSource, rows::Rows};
use crate::{Error, Result};
use std::{
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// An iterator over the batches of consecutive steps.
#[derive(Debug)]
pub struct Loader {
    /// `None` once the loader is being dropped.
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts a thread that makes the batches of `steps` with the rows `rows`, at most `ahead` of them before
    /// they are used.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(
        source: Arc<dyn BatchSource>,
        seed: u32,
        steps: Range<u64>,
        rows: Rows,
        ahead: usize,
    ) -> Result<Self> {
        let (sender, batches) = sync_channel(ahead.max(1));
        let work = move || {
            for step in steps {
                // Sending fails once the loader is dropped.
                if sender.send(source.batch_rows(seed, step, &rows)).is_err() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("data".to_owned()).spawn(work).map_err(|e| {
            Error::input(
                format!("the thread that makes batches cannot be started: {e}"),
                "free some memory or threads",
            )
        })?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }
}

impl Iterator for Loader {
    type Item = Result<(Batch, Duration)>;

    /// Returns the next batch and the time spent waiting for it. `None` means the steps are over.
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
            // The thread returns no value, and a panic was already seen as the end of the batches.
            let _ = thread.join();
        }
    }
}
