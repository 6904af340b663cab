//! Unigram models: the pieces of a text are those with the largest sum of scores (Viterbi).
//!
//! Sums are rounded as SentencePiece rounds them, because equal sums are common (`....` as `..` `..` or as
//! `.` `...`), and rounding decides between them.

use super::{
    normalizer::char_len,
    trie::{ROOT, Trie},
};
use std::ops::Range;

/// A unigram model.
#[derive(Debug)]
pub(super) struct Unigram {
    /// The score of every normal piece. `None` for other pieces.
    scores: Vec<Option<f32>>,
    unknown_score: f32,
}

/// The distance of the score of an unknown character from the smallest score.
const UNKNOWN_PENALTY: f32 = 10.0;

/// The sum at which sums start again from zero, so that rounding stays small in long texts.
const RESET: f32 = 100_000.0;

/// The best path to a position.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    /// The start of the last piece, from the start of the segment; [`NO_PATH`] without a path.
    start: u32,
    piece: Option<u32>,
}

const NO_PATH: u32 = u32::MAX;
const NOTHING: Best = Best { score: 0.0, start: NO_PATH, piece: None };

impl Unigram {
    /// Creates a model from the score of every normal piece; `None` for other pieces.
    pub fn new(scores: Vec<Option<f32>>) -> Self {
        let unknown_score = scores.iter().flatten().copied().fold(f32::MAX, f32::min) - UNKNOWN_PENALTY;
        Self { scores, unknown_score }
    }

    /// Calls `take` for every piece of a normalized text, in order, with its range; `None` is unknown
    /// text. `pieces` are the normal and
    /// the user-defined pieces.
    pub fn encode(&self, text: &[u8], pieces: &Trie, mut take: impl FnMut(Option<u32>, Range<usize>)) {
        // A segment ends wherever every path has a boundary. Only its paths are in memory.
        let mut best = vec![NOTHING];
        let mut path: Vec<(Option<u32>, Range<usize>)> = Vec::new();
        let (mut segment, mut at, mut furthest) = (0, 0, 0);
        loop {
            if at >= furthest && at > segment {
                let mut end = at - segment;
                while end > 0 {
                    let Best { start, piece, .. } = best[end];
                    path.push((piece, segment + start as usize..segment + end));
                    end = start as usize;
                }
                for (piece, range) in path.drain(..).rev() {
                    take(piece, range);
                }
                let score = best[at - segment].score;
                best.clear();
                best.push(Best { score, ..NOTHING });
                segment = at;
            }
            if at >= text.len() {
                return;
            }
            let end = self.extend(text, pieces, segment, at, &mut best);
            furthest = furthest.max(end);
            at = (at + char_len(text[at])).min(text.len());
        }
    }

    /// Extends the best path to `at` by every piece that the text has there. Returns the end of the longest.
    #[inline]
    fn extend(&self, text: &[u8], pieces: &Trie, segment: usize, at: usize, best: &mut Vec<Best>) -> usize {
        let from = at - segment;
        let mut here = best[from].score;
        if here.abs() > RESET {
            best[from..].iter_mut().filter(|b| b.start != NO_PATH).for_each(|b| b.score -= here);
            best[from].score = 0.0;
            here = 0.0;
        }
        let one = char_len(text[at]).min(text.len() - at);
        let (mut state, mut has_one, mut furthest) = (ROOT, false, at + one);
        for (length, byte) in (1..).zip(&text[at..]) {
            let Some(next) = pieces.next(state, *byte) else { break };
            state = next;
            let Some(piece) = pieces.value(state) else { continue };
            let score = self.scores[piece as usize].unwrap_or_else(|| user_defined_score(length));
            reach(best, from, length, here + score, Some(piece));
            has_one |= length == one;
            furthest = furthest.max(at + length);
        }
        if !has_one {
            reach(best, from, one, here + self.unknown_score, None);
        }
        furthest
    }
}

/// Takes a piece of `length` bytes at `from` if no better path reaches its end.
#[inline]
fn reach(best: &mut Vec<Best>, from: usize, length: usize, score: f32, piece: Option<u32>) {
    if best.len() <= from + length {
        best.resize(from + length + 1, NOTHING);
    }
    let target = &mut best[from + length];
    if target.start == NO_PATH || score > target.score {
        *target = Best { score, start: from as u32, piece };
    }
}

/// The score of a user-defined piece, which is larger than that of every other division of its bytes.
fn user_defined_score(length: usize) -> f32 {
    (0.1 * (length - 1) as f64) as f32
}
