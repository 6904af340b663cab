//! The interface between training data and the loop that consumes it.

use super::{batch::Batch, rows::Rows};
use crate::Result;
use std::{fmt, sync::Arc};

/// A source of batches for training and evaluation. Every batch is a function of its number (and, for
/// training, of the seed), so that a loop can skip, repeat and resume without state.
pub trait BatchSource: Send + Sync + fmt::Debug {
    /// The batch of training step `step`, counted from 0.
    ///
    /// # Errors
    /// If tokens cannot be read from disk.
    fn batch(&self, seed: u32, step: u64) -> Result<Batch> {
        self.batch_rows(seed, step, &Rows::all())
    }

    /// The batch of a step with only some of its rows. The tokens of other rows are not read: these rows are
    /// padding, and the batch has their numbers of tokens.
    ///
    /// # Errors
    /// If tokens cannot be read from disk.
    fn batch_rows(&self, seed: u32, step: u64, rows: &Rows) -> Result<Batch>;

    /// The number of batches in one epoch of the training rows, without an incomplete last one.
    fn epoch_batches(&self) -> usize;

    /// The number of held-out batches.
    fn held_out_batches(&self) -> usize;

    /// The held-out batch with this number, below [`BatchSource::held_out_batches`]. It does not depend on a
    /// seed, so that evaluations of different runs are comparable.
    ///
    /// # Errors
    /// If tokens cannot be read from disk.
    fn held_out_batch(&self, number: usize) -> Result<Batch> {
        self.held_out_batch_rows(number, &Rows::all())
    }

    /// A held-out batch with only some of its rows, as in [`BatchSource::batch_rows`].
    ///
    /// # Errors
    /// If tokens cannot be read from disk.
    fn held_out_batch_rows(&self, number: usize, rows: &Rows) -> Result<Batch>;

    /// The name of the corpus of a held-out batch. `None` means there is only one corpus.
    fn held_out_corpus(&self, number: usize) -> Option<&str>;

    /// The names of the corpora, in the order of [`Batch::corpora`].
    fn corpora(&self) -> Vec<&str>;

    /// A digest of the tokens and of how batches are made from them: sources with the same digest give the
    /// same batches.
    fn digest(&self) -> String;

    /// Identifies the meaning of tokens: `bytes`, or the digest of the tokenizer.
    fn tokenizer_identity(&self) -> &str;

    /// The contents of the tokenizer's file, to be stored with checkpoints. `None` means bytes, or a
    /// tokenizer of which only the description is known.
    fn tokenizer_file(&self) -> Option<Arc<[u8]>> {
        None
    }
}
