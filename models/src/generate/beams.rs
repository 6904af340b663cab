//! Beam search.
//!
//! The score of a sequence is the sum of its tokens' log-probabilities; a finished sequence divides it by
//! `length ^ length_penalty`, where the end-of-sequence token counts. Each input keeps as many open
//! sequences as beams, and as many finished ones. A sequence finishes only if its end is among the best
//! `beams` continuations, as in other implementations.

use super::{DecodeState, EarlyStopping, Limits, MASKED, repetition, repetition::Repetition};
use crate::tokens::PAD;
use mesh::{
    DType, Dim,
    dsl::{Graph, Tensor, Tree, concat},
};

/// Score of beams that do not count yet; scores of sequences are far above.
const ABSENT: f64 = -1e9;

/// A beam search.
#[derive(Clone, Copy, Debug)]
pub struct Beams<'a> {
    /// The dim of inputs.
    pub batch: &'a Dim,
    /// The dim of open sequences of an input.
    pub beams: &'a Dim,
    /// The stopping rule.
    pub early: EarlyStopping,
    /// The number of tokens, without padding.
    pub vocab: usize,
    /// The token that ends a sequence.
    pub eos: u32,
    /// Penalty and block of repeated tokens.
    pub repetition: Repetition,
    /// The tokens that every sequence begins with; they do not count in its score and its length.
    pub prompt: &'a [u32],
}

/// The best finished sequences.
#[derive(Clone, Copy, Debug)]
pub struct FinishedBeams<'g> {
    /// Their tokens: `s32[batch, beams, target_length]`.
    pub tokens: Tensor<'g>,
    /// Their scores in descending order, `f32[batch, beams]`; unused entries hold a very low number.
    pub scores: Tensor<'g>,
    /// 1 for an input whose search has stopped: `s32[batch]`.
    pub complete: Tensor<'g>,
}

impl<'g> Tree<'g> for FinishedBeams<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self { tokens: f(self.tokens), scores: f(self.scores), complete: f(self.complete) }
    }
}

/// Returns the scores before the first step: only the first beam counts.
pub fn first<'g>(g: &'g Graph, batch: &Dim, beams: &Dim) -> Tensor<'g> {
    (g.iota(beams, DType::S32).gt(0).cast(DType::F32) * ABSENT).broadcast(batch)
}

/// Continuations of the beams of an input, in descending order of scores.
struct Candidates<'g> {
    dim: Dim,
    scores: Tensor<'g>,
    beam: Tensor<'g>,
    token: Tensor<'g>,
}

impl Beams<'_> {
    /// Extends all open sequences by one position.
    pub fn step<'g>(
        &self,
        now: DecodeState<'g>,
        logits: Tensor<'g>,
        limits: Limits<'g>,
        penalty: Tensor<'g>,
    ) -> DecodeState<'g> {
        let active = now.position.lt(limits.max_length);
        let log = logits - logits.logsumexp("vocab");
        let log = now.history.map_or(log, |history| self.repetition.apply(log, history));
        let log = super::mask_early_eos(log, self.eos, now.position, limits.min_length);
        let all = self.candidates(self.prompted(log, now.position), now.scores);
        let prompt = self.prompt.len() as u32;
        let length = (now.position - prompt + 1).maximum(1);
        let ends = all.token.eq(self.eos);

        // The best continuations that do not end stay open.
        let g = logits.graph();
        let low = g.constant(MASKED, DType::F32);
        let (scores, chosen) = ends.select(low, all.scores).top_k(&all.dim.name, self.beams.renamed("next"));
        let beam = all.beam.gather(&all.dim.name, chosen);
        let token = all.token.gather(&all.dim.name, chosen).rename("next", &self.beams.name);
        // The cache of a single beam lacks the dim.
        let move_beams = |x: Tensor<'g>| {
            if x.has(&self.beams.name) {
                x.gather(&self.beams.name, beam).rename("next", &self.beams.name)
            } else {
                x
            }
        };
        let row = token.broadcast(Dim::new("target_length", 1));
        let tokens = move_beams(now.tokens).dynamic_update("target_length", row, now.clock);
        let scores = scores.rename("next", &self.beams.name);
        let finished = now.finished.map(|finished| {
            let best = scores.max(&self.beams.name);
            self.end(finished, &all, &now, length, best, active, limits, penalty)
        });
        DecodeState {
            clock: now.clock + 1,
            position: now.position + 1,
            tokens: active.select(tokens, now.tokens),
            last: token,
            open: now.open,
            scores: active.select(scores, now.scores),
            history: now.history.map(|history| repetition::extended(move_beams(history), token)),
            cache: now.cache.map(&mut { move_beams }),
            finished,
        }
    }

    /// Returns log-probabilities that allow only the tokens of the prompt at its positions.
    fn prompted<'g>(&self, log: Tensor<'g>, position: Tensor<'g>) -> Tensor<'g> {
        let vocab = log.dims().into_iter().find(|d| d.name == *"vocab");
        let (Some(forced), Some(vocab)) = (super::forced(self.prompt, position), vocab) else { return log };
        let g = log.graph();
        let only = g.iota(&vocab, DType::S32).ne(forced).cast(DType::F32) * MASKED;
        position.lt(self.prompt.len() as u32).select(only, log)
    }

    /// Returns twice as many continuations as beams: even if the best one of each beam ends, enough stay
    /// open.
    fn candidates<'g>(&self, log: Tensor<'g>, scores: Tensor<'g>) -> Candidates<'g> {
        let best = Dim::new("best", self.vocab.min(2 * self.beams.size));
        let (values, tokens) = log.top_k("vocab", &best);
        let pool = Dim::new("pool", self.beams.size * best.size);
        let dim = Dim::new("candidates", pool.size.min(2 * self.beams.size));
        let flat = |x: Tensor<'g>| x.reshape([self.beams, &best], &pool);
        let (scores, at) = flat(values + scores).top_k("pool", &dim);
        Candidates { dim, scores, beam: at / best.size as u32, token: flat(tokens).gather("pool", at) }
    }

    /// Adds the sequences that end at this position to the finished ones, and stops searches that are
    /// complete.
    #[allow(clippy::too_many_arguments, reason = "the stopping rule depends on all of them")]
    fn end<'g>(
        &self,
        finished: FinishedBeams<'g>,
        all: &Candidates<'g>,
        now: &DecodeState<'g>,
        length: Tensor<'g>,
        best: Tensor<'g>,
        active: Tensor<'g>,
        limits: Limits<'g>,
        penalty: Tensor<'g>,
    ) -> FinishedBeams<'g> {
        let g = best.graph();
        let low = g.constant(MASKED, DType::F32);
        let among_best = g.iota(&all.dim, DType::S32).lt(self.beams.size as u32);
        let counts = all.token.eq(self.eos) & among_best & active & finished.complete.eq(0);
        let scores = counts.select(normalized(all.scores, length, penalty), low);
        let row = all.token.broadcast(Dim::new("target_length", 1));
        let tokens = now.tokens.gather(&self.beams.name, all.beam);
        let tokens = tokens.dynamic_update("target_length", row, now.clock);
        let new = |x: Tensor<'g>| x.rename(&all.dim.name, &self.beams.name);
        let (scores, tokens) =
            merge([finished.scores, new(scores)], [finished.tokens, new(tokens)], self.beams);

        let worst = scores.min(&self.beams.name);
        let full = worst.gt(MASKED / 2.0);
        let over = match self.early {
            EarlyStopping::First => full,
            EarlyStopping::Likely => full & worst.ge(normalized(best, length, penalty)),
            EarlyStopping::Certain => {
                // Scores are negative: with a positive penalty, dividing by the maximum length gives the
                // upper bound.
                let most = limits.max_length - self.prompt.len() as u32;
                let length = penalty.gt(0.0).select(most, length);
                full & worst.ge(normalized(best, length, penalty))
            }
        };
        let complete = finished.complete.maximum((over & active).cast(DType::S32));
        FinishedBeams { tokens, scores, complete }
    }
}

/// Returns the best sequences of each input and their scores, among the finished ones and, if the search
/// did not stop, the open ones.
pub fn best<'g>(
    finished: FinishedBeams<'g>,
    tokens: Tensor<'g>,
    scores: Tensor<'g>,
    length: Tensor<'g>,
    penalty: Tensor<'g>,
    beams: &Dim,
) -> (Tensor<'g>, Tensor<'g>) {
    let low = tokens.graph().constant(MASKED, DType::F32);
    // Beams that never counted hold no sequence.
    let counts = finished.complete.eq(0) & scores.gt(ABSENT / 2.0);
    let open = counts.select(normalized(scores, length, penalty), low);
    let (scores, tokens) = merge([finished.scores, open], [finished.tokens, tokens], beams);
    // If there are fewer sequences than beams, the rest are empty.
    let exists = scores.gt(MASKED / 2.0);
    (exists.select(tokens, PAD), scores)
}

/// Returns the length-normalized score.
fn normalized<'g>(score: Tensor<'g>, length: Tensor<'g>, penalty: Tensor<'g>) -> Tensor<'g> {
    score / length.cast(DType::F32).pow(penalty)
}

/// Returns the best sequences of two lists.
fn merge<'g>(scores: [Tensor<'g>; 2], tokens: [Tensor<'g>; 2], beams: &Dim) -> (Tensor<'g>, Tensor<'g>) {
    let next = beams.renamed("next");
    let (scores, at) = concat(scores, &beams.name).top_k(&beams.name, &next);
    let tokens = concat(tokens, &beams.name).gather(&beams.name, at);
    let back = |x: Tensor<'g>| x.rename("next", &beams.name);
    (back(scores), back(tokens))
}
