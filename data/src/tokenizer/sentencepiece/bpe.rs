//! BPE models: neighbours merge into the piece with the highest score, until none can merge.

use super::{
    normalizer::{SPACE, char_len},
    trie::{ROOT, State, Trie},
};
use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
    ops::Range,
};

/// A BPE model.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Normal, user-defined and unused pieces.
    trie: Trie,
    scores: Vec<f32>,
    /// True for unused pieces: they merge further, but are divided again in the end.
    unused: Vec<bool>,
    /// True if no merge depends on the text before a space or after it, so that words are independent.
    by_word: bool,
}

/// A part of the text.
struct Symbol {
    prev: Option<usize>,
    next: Option<usize>,
    range: Range<usize>,
    /// The state of the trie after its bytes. `None` means that it merges with nothing.
    state: Option<State>,
    /// True for user-defined pieces, which never merge.
    frozen: bool,
}

/// Two neighbours that can merge. The greatest merges first: the highest score, then the leftmost.
struct Merge {
    score: f32,
    left: Reverse<usize>,
    right: usize,
    /// The length of the piece. Another length means that one of the two has changed.
    length: usize,
    state: State,
}

/// A piece, or `None` for unknown text, and its range.
type Part = (Option<u32>, Range<usize>);
/// The halves of unused pieces, by piece.
type Halves<'a> = HashMap<&'a [u8], (Range<usize>, Range<usize>)>;

impl Bpe {
    /// Creates a model. `trie` has its normal, user-defined and unused pieces.
    pub fn new(trie: Trie, scores: Vec<f32>, unused: Vec<bool>, by_word: bool) -> Self {
        Self { trie, scores, unused, by_word }
    }

    /// True if no merge depends on the text before a space or after it, so that words are independent.
    pub fn by_word(&self) -> bool {
        self.by_word
    }

    /// True if words are independent: no piece has a space behind another character.
    pub fn pieces_end_at_spaces<'a>(mut pieces: impl Iterator<Item = &'a [u8]>) -> bool {
        pieces.all(|piece| word_end(piece) == piece.len())
    }

    /// Calls `take` for every piece of a normalized text, in order, with its range; `None` is unknown text.
    /// `user_defined` are pieces that never merge.
    pub fn encode(&self, text: &[u8], user_defined: &Trie, mut take: impl FnMut(Option<u32>, Range<usize>)) {
        if !self.by_word {
            self.merged(text, user_defined).into_iter().for_each(|(piece, range)| take(piece, range));
            return;
        }
        // Most words of a text occur often.
        let mut known: HashMap<&[u8], Vec<Part>> = HashMap::new();
        let mut at = 0;
        while at < text.len() {
            let word = &text[at..at + word_end(&text[at..])];
            for (piece, range) in known.entry(word).or_insert_with(|| self.merged(word, user_defined)) {
                take(*piece, at + range.start..at + range.end);
            }
            at += word.len();
        }
    }

    /// Returns the pieces of a text.
    fn merged(&self, text: &[u8], user_defined: &Trie) -> Vec<Part> {
        let mut symbols = self.symbols(text, user_defined);
        let (mut agenda, mut halves) = (BinaryHeap::new(), Halves::new());
        for right in 1..symbols.len() {
            self.propose(text, &symbols, Some(right - 1), Some(right), &mut agenda, &mut halves);
        }
        while let Some(Merge { left: Reverse(left), right, length, state, .. }) = agenda.pop() {
            let (a, b) = (symbols[left].range.clone(), symbols[right].range.clone());
            if a.is_empty() || b.is_empty() || a.len() + b.len() != length {
                continue;
            }
            let next = symbols[right].next;
            symbols[right].range = b.end..b.end;
            symbols[left] = Symbol {
                prev: symbols[left].prev,
                next,
                range: a.start..b.end,
                state: Some(state),
                frozen: false,
            };
            if let Some(next) = next {
                symbols[next].prev = Some(left);
            }
            self.propose(text, &symbols, symbols[left].prev, Some(left), &mut agenda, &mut halves);
            self.propose(text, &symbols, Some(left), next, &mut agenda, &mut halves);
        }
        let (mut out, mut at) = (Vec::new(), (!symbols.is_empty()).then_some(0));
        while let Some(symbol) = at {
            self.divide(text, symbols[symbol].range.clone(), &halves, &mut out);
            at = symbols[symbol].next;
        }
        out
    }

    /// Divides the text into characters and user-defined pieces.
    fn symbols(&self, text: &[u8], user_defined: &Trie) -> Vec<Symbol> {
        let (mut symbols, mut at) = (Vec::with_capacity(text.len()), 0);
        while at < text.len() {
            let own = user_defined.longest(&text[at..]);
            let end = at + own.unwrap_or_else(|| char_len(text[at]).min(text.len() - at));
            let number = symbols.len();
            symbols.push(Symbol {
                prev: number.checked_sub(1),
                next: (end < text.len()).then_some(number + 1),
                range: at..end,
                state: self.trie.walk(ROOT, &text[at..end]),
                frozen: own.is_some(),
            });
            at = end;
        }
        symbols
    }

    /// Puts the merge of two neighbours on the agenda if it is a piece.
    fn propose<'a>(
        &self,
        text: &'a [u8],
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
        agenda: &mut BinaryHeap<Merge>,
        halves: &mut Halves<'a>,
    ) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (a, b) = (&symbols[left], &symbols[right]);
        if a.frozen || b.frozen {
            return;
        }
        let state = a.state.and_then(|state| self.trie.walk(state, &text[b.range.clone()]));
        let Some((state, piece)) = state.and_then(|s| Some((s, self.trie.value(s)?))) else { return };
        let length = a.range.len() + b.range.len();
        agenda.push(Merge { score: self.scores[piece as usize], left: Reverse(left), right, length, state });
        if self.unused[piece as usize] {
            halves.insert(&text[a.range.start..b.range.end], (a.range.clone(), b.range.clone()));
        }
    }

    /// Appends the pieces of a symbol: an unused piece is divided as it was merged.
    fn divide(&self, text: &[u8], range: Range<usize>, halves: &Halves<'_>, out: &mut Vec<Part>) {
        // Ranges of halves may be those of the same piece elsewhere in the text; their lengths are the same.
        let mut open = vec![range];
        while let Some(range) = open.pop() {
            let name = &text[range.clone()];
            let piece = self.trie.get(name);
            if piece.is_none_or(|piece| !self.unused[piece as usize]) {
                out.push((piece, range));
                continue;
            }
            let Some((left, _)) = halves.get(name) else {
                out.push((None, range));
                continue;
            };
            let middle = range.start + left.len();
            open.push(middle..range.end);
            open.push(range.start..middle);
        }
    }
}

/// The end of the first word: spaces and what follows them up to the next space.
fn word_end(text: &[u8]) -> usize {
    let mut at = 0;
    while text[at..].starts_with(SPACE) {
        at += SPACE.len();
    }
    while at < text.len() && !text[at..].starts_with(SPACE) {
        at += 1;
    }
    at
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| self.left.cmp(&other.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}
