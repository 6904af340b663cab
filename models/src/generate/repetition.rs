//! Repetition: a penalty for tokens that a sequence already has, and a block of n-grams that it already has.
//!
//! Both are those of transformers (`RepetitionPenaltyLogitsProcessor` and
//! `NoRepeatNGramLogitsProcessor`): the sequence includes the start token and, in language modelling, the
//! input. Beam search applies them to log-probabilities, other methods to logits.

use crate::attention::MASKED;
use mesh::{
    DType, Dim,
    dsl::{Tensor, concat},
};

/// The name of the dim of the tokens of a sequence so far.
pub const HISTORY: &str = "history";

/// The place of a history that has no token yet.
pub const NONE: i64 = -1;

/// Options of repetition.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Repetition {
    /// Positive logits of tokens that a sequence has are divided by it, and negative ones multiplied. 1
    /// means no penalty.
    pub penalty: f64,
    /// No n-gram of this size occurs twice in a sequence. 0 means that all may.
    pub ngram: usize,
}

impl Default for Repetition {
    fn default() -> Self {
        Self { penalty: 1.0, ngram: 0 }
    }
}

impl Repetition {
    /// True if it changes no token.
    pub fn is_off(self) -> bool {
        self == Self::default()
    }

    /// Returns `logits`, `f32[batch, beams, vocab]`, changed by the tokens of `history`, `s32[batch, beams,
    /// history]`, whose last position is the newest token and whose first ones are [`NONE`].
    pub fn apply<'g>(self, logits: Tensor<'g>, history: Tensor<'g>) -> Tensor<'g> {
        let find = |name: &str, x: Tensor<'g>| x.dims().into_iter().find(|d| d.name == *name);
        let (Some(vocab), Some(places)) = (find("vocab", logits), find(HISTORY, history)) else {
            return logits;
        };
        let marked = |tokens: Tensor<'g>, marks: Tensor<'g>| {
            tokens.scatter_add(&vocab, HISTORY, marks.cast(DType::F32)).gt(0.0)
        };
        let mut logits = logits;
        if self.penalty != 1.0 {
            // Places without a token are outside of the vocabulary, which a scatter drops.
            let seen = marked(history, history.ge(0));
            let less = logits.lt(0.0).select(logits * self.penalty, logits / self.penalty);
            logits = seen.select(less, logits);
        }
        if (1..=places.size).contains(&self.ngram) {
            let low = logits.graph().constant(MASKED, DType::F32);
            let (next, marks) = self.repeated(history, places.size);
            logits = marked(next, marks).select(low, logits);
        }
        logits
    }

    /// Returns the tokens that follow each n-1 tokens of the history, and where these are the newest ones.
    fn repeated<'g>(self, history: Tensor<'g>, size: usize) -> (Tensor<'g>, Tensor<'g>) {
        let before = self.ngram - 1;
        let next = history.slice(HISTORY, before..);
        let newest = |i: usize| {
            let at = size - before + i;
            history.slice(HISTORY, at..at + 1).squeeze(HISTORY)
        };
        // Sequences of fewer tokens repeat nothing.
        let known = if before == 0 { next.ge(0) } else { next.ge(0) & newest(0).ge(0) };
        let marks = (0..before)
            .fold(known, |marks, i| marks & history.slice(HISTORY, i..size - before + i).eq(newest(i)));
        (next, marks)
    }
}

/// Returns the history of sequences that begin with `first`, `s32[batch, history]`, before `room` more
/// tokens.
pub fn begun<'g>(first: Tensor<'g>, room: usize, beams: &Dim) -> Tensor<'g> {
    first.pad(HISTORY, room, 0, NONE as f64).broadcast(beams)
}

/// Returns the history with one more token of each sequence, `s32[batch, beams]`.
pub fn extended<'g>(history: Tensor<'g>, token: Tensor<'g>) -> Tensor<'g> {
    let token = token.broadcast(Dim::new(HISTORY, 1));
    concat([history.slice(HISTORY, 1..), token], HISTORY)
}
