//! Batches of a command: of text or of tasks.

use data::{BatchSource, Mixture, PairMixture, TeacherRows, Tokenizer};
use std::sync::Arc;

/// Batches of text, of tasks, or of rows with a teacher's logits.
pub enum Source {
    /// Of text.
    Text(Arc<Mixture>),
    /// Of tasks.
    Tasks(Arc<PairMixture>),
    /// Of rows with a teacher's logits.
    Teacher(Arc<TeacherRows>),
}

impl Source {
    /// Returns the batches.
    pub fn batches(&self) -> Arc<dyn BatchSource> {
        match self {
            Self::Text(mixture) => mixture.clone(),
            Self::Tasks(mixture) => mixture.clone(),
            Self::Teacher(rows) => rows.clone(),
        }
    }

    /// Returns the tokenizer of the batches.
    pub fn tokenizer(&self) -> &Tokenizer {
        match self {
            Self::Text(mixture) => mixture.tokenizer(),
            Self::Tasks(mixture) => mixture.tokenizer(),
            Self::Teacher(rows) => rows.tokenizer(),
        }
    }

    /// Returns the held-out rows in the first `batches` held-out batches, the rows that they leave out, and
    /// the tokens that are in no row.
    pub fn rows(&self, batches: usize) -> [usize; 3] {
        let (all, rows, left_over) = match self {
            Self::Text(of) => {
                (of.train_rows() + of.held_out_rows(), of.held_out_rows_of(batches), of.left_over())
            }
            Self::Tasks(of) => (of.train_rows() + of.held_out_rows(), of.held_out_rows_of(batches), 0),
            Self::Teacher(of) => (of.train_rows() + of.held_out_rows(), of.held_out_rows_of(batches), 0),
        };
        [rows, all - rows, left_over]
    }
}
