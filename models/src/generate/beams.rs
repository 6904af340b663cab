//! Beam search.
//!
//! The score of a sequence is the sum of the logarithms of its tokens' probabilities, divided by
//! `length ^ length_penalty` once it has ended (the end counts as a token). Of each input as many open
//! sequences go on as there are beams, and as many ended ones are kept. An end counts only if it is among the
//! best `beams` of all continuations, as in other implementations.

use super::{DecodeState, EOS, EarlyStopping, Limits, MASKED, PAD};
use mesh::{
    DType, Dim,
    dsl::{Graph, Tensor, Tree, concat},
};

/// The score of beams that are there but do not count yet; real ones are far above.
const ABSENT: f64 = -1e9;

/// A search.
#[derive(Clone, Copy, Debug)]
pub struct Beams<'a> {
    /// Inputs.
    pub batch: &'a Dim,
    /// Sequences of each.
    pub beams: &'a Dim,
    /// When it is over.
    pub early: EarlyStopping,
}

/// The best sequences that have ended.
#[derive(Clone, Copy, Debug)]
pub struct FinishedBeams<'g> {
    /// Their tokens: `s32[batch, beams, target_length]`.
    pub tokens: Tensor<'g>,
    /// Their scores, in falling order; where there is none yet, a very low number: `f32[batch, beams]`.
    pub scores: Tensor<'g>,
    /// 1 for an input whose search is over: `s32[batch]`.
    pub complete: Tensor<'g>,
}

impl<'g> Tree<'g> for FinishedBeams<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self { tokens: f(self.tokens), scores: f(self.scores), complete: f(self.complete) }
    }
}

/// Scores before the first step: one beam counts.
pub fn first<'g>(g: &'g Graph, batch: &Dim, beams: &Dim) -> Tensor<'g> {
    (g.iota(beams, DType::S32).gt(0).cast(DType::F32) * ABSENT).broadcast(batch)
}

/// Continuations of the beams of an input, the best first.
struct Candidates<'g> {
    dim: Dim,
    scores: Tensor<'g>,
    beam: Tensor<'g>,
    token: Tensor<'g>,
}

impl Beams<'_> {
    /// One position more.
    pub fn step<'g>(
        &self,
        now: DecodeState<'g>,
        logits: Tensor<'g>,
        limits: Limits<'g>,
        penalty: Tensor<'g>,
    ) -> DecodeState<'g> {
        let active = now.position.lt(limits.max_length);
        let log = logits - logits.logsumexp("vocab");
        let log = super::mask_early_eos(log, now.position, limits.min_length);
        let all = self.candidates(log, now.scores);
        let length = now.position + 1;
        let ends = all.token.eq(EOS);

        // The best that do not end go on.
        let g = logits.graph();
        let low = g.constant(MASKED, DType::F32);
        let (scores, chosen) = ends.select(low, all.scores).top_k(&all.dim.name, &self.beams.renamed("next"));
        let beam = all.beam.gather(&all.dim.name, chosen);
        let token = all.token.gather(&all.dim.name, chosen).rename("next", &self.beams.name);
        // What is kept for a single beam lacks the dim.
        let move_beams = |x: Tensor<'g>| match x.has(&self.beams.name) {
            true => x.gather(&self.beams.name, beam).rename("next", &self.beams.name),
            false => x,
        };
        let row = token.broadcast(&Dim::new("target_length", 1));
        let tokens = move_beams(now.tokens).dynamic_update("target_length", row, now.position);
        let scores = scores.rename("next", &self.beams.name);
        let ended = now.ended.map(|ended| {
            let best = scores.max(&self.beams.name);
            self.end(ended, &all, &now, length, best, active, limits, penalty)
        });
        DecodeState {
            position: now.position + 1,
            tokens: active.select(tokens, now.tokens),
            last: token,
            open: now.open,
            scores: active.select(scores, now.scores),
            kept: now.kept.map(&mut { move_beams }),
            ended,
        }
    }

    /// Twice as many continuations as there are beams: even if each beam's best one ends, enough go on.
    fn candidates<'g>(&self, log: Tensor<'g>, scores: Tensor<'g>) -> Candidates<'g> {
        let vocab = log.dims().iter().find(|d| d.name == *"vocab").map_or(1, |d| d.size);
        let best = Dim::new("best", vocab.min(2 * self.beams.size));
        let (values, tokens) = log.top_k("vocab", &best);
        let pool = Dim::new("pool", self.beams.size * best.size);
        let dim = Dim::new("candidates", pool.size.min(2 * self.beams.size));
        let flat = |x: Tensor<'g>| x.reshape([self.beams, &best], &pool);
        let (scores, at) = flat(values + scores).top_k("pool", &dim);
        Candidates { dim, scores, beam: at / best.size as u32, token: flat(tokens).gather("pool", at) }
    }

    /// With what ends at this position.
    #[allow(clippy::too_many_arguments, reason = "all that decides whether a search is over")]
    fn end<'g>(
        &self,
        ended: FinishedBeams<'g>,
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
        let counts = all.token.eq(EOS) & among_best & active & ended.complete.eq(0);
        let scores = counts.select(normalized(all.scores, length, penalty), low);
        let row = all.token.broadcast(&Dim::new("target_length", 1));
        let tokens = now.tokens.gather(&self.beams.name, all.beam);
        let tokens = tokens.dynamic_update("target_length", row, now.position);
        let new = |x: Tensor<'g>| x.rename(&all.dim.name, &self.beams.name);
        let (scores, tokens) = merge([ended.scores, new(scores)], [ended.tokens, new(tokens)], self.beams);

        let worst = scores.min(&self.beams.name);
        let full = worst.gt(MASKED / 2.0);
        let over = match self.early {
            EarlyStopping::First => full,
            EarlyStopping::Likely => full & worst.ge(normalized(best, length, penalty)),
            EarlyStopping::Certain => {
                // Scores are not positive: a longer sequence divides by more if the penalty is positive.
                let length = penalty.gt(0.0).select(limits.max_length, length);
                full & worst.ge(normalized(best, length, penalty))
            }
        };
        let complete = ended.complete.maximum((over & active).cast(DType::S32));
        FinishedBeams { tokens, scores, complete }
    }
}

/// The best sequences of each input, and their scores: of those that have ended, and where the search was not
/// over, of those that are open.
pub fn best<'g>(
    ended: FinishedBeams<'g>,
    tokens: Tensor<'g>,
    scores: Tensor<'g>,
    length: Tensor<'g>,
    penalty: Tensor<'g>,
    beams: &Dim,
) -> (Tensor<'g>, Tensor<'g>) {
    let low = tokens.graph().constant(MASKED, DType::F32);
    // Beams that never counted are no sequences.
    let counts = ended.complete.eq(0) & scores.gt(ABSENT / 2.0);
    let open = counts.select(normalized(scores, length, penalty), low);
    let (scores, tokens) = merge([ended.scores, open], [ended.tokens, tokens], beams);
    // Where there are fewer sequences than beams, the rest are empty.
    let real = scores.gt(MASKED / 2.0);
    (real.select(tokens, PAD), scores)
}

/// A score made comparable between lengths.
fn normalized<'g>(score: Tensor<'g>, length: Tensor<'g>, penalty: Tensor<'g>) -> Tensor<'g> {
    score / length.cast(DType::F32).pow(penalty)
}

/// The best of two lists of sequences.
fn merge<'g>(scores: [Tensor<'g>; 2], tokens: [Tensor<'g>; 2], beams: &Dim) -> (Tensor<'g>, Tensor<'g>) {
    let next = beams.renamed("next");
    let (scores, at) = concat(scores, &beams.name).top_k(&beams.name, &next);
    let tokens = concat(tokens, &beams.name).gather(&beams.name, at);
    let back = |x: Tensor<'g>| x.rename("next", &beams.name);
    (back(scores), back(tokens))
}
