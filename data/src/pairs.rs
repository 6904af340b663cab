//! Pairs of an input and a target: the examples of supervised tasks, as tokens in memory.

/// Pairs of input and target tokens. Inputs and targets end with the end token.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pairs {
    tokens: Vec<i32>,
    /// The ends of each pair's input and target in `tokens`.
    ends: Vec<[usize; 2]>,
    truncated: [usize; 2],
}

impl Pairs {
    /// Appends a pair. An input or target that is longer than its room, at least 1, is cut, and its last
    /// token replaced by its end token.
    pub fn push(&mut self, input: &[i32], target: &[i32], room: [usize; 2]) {
        let sides = [(input, room[0]), (target, room[1])].into_iter().zip(&mut self.truncated);
        let ends = sides.map(|((tokens, room), truncated)| {
            let (text, end) = tokens.split_at(tokens.len().saturating_sub(1));
            *truncated += usize::from(tokens.len() > room);
            self.tokens.extend_from_slice(&text[..text.len().min(room.saturating_sub(1))]);
            self.tokens.extend_from_slice(end);
            self.tokens.len()
        });
        let ends: Vec<usize> = ends.collect();
        self.ends.push([ends[0], ends[1]]);
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The numbers of inputs and of targets that were cut.
    pub fn truncated(&self) -> [usize; 2] {
        self.truncated
    }

    /// The number of tokens of all pairs.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the input and the target of a pair.
    pub fn get(&self, index: usize) -> (&[i32], &[i32]) {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before][1]);
        let [input, target] = self.ends[index];
        (&self.tokens[start..input], &self.tokens[input..target])
    }

    /// The numbers of input and target tokens of all pairs, in order.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.len()).map(|index| {
            let (input, target) = self.get(index);
            (input.len(), target.len())
        })
    }

    /// Adds everything that determines the pairs to a digest.
    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        for (input, target) in (0..self.len()).map(|index| self.get(index)) {
            for tokens in [input, target] {
                hasher.update(&(tokens.len() as u64).to_le_bytes());
                for token in tokens {
                    hasher.update(&token.to_le_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_sides_are_cut_before_their_end_token_and_counted() {
        let mut pairs = Pairs::default();
        pairs.push(&[5, 6, 7, 1], &[8, 1], [3, 2]);
        pairs.push(&[1], &[8, 9, 1], [3, 2]);
        pairs.push(&[5, 6, 1], &[8, 9, 4, 1], [1, 4]);
        assert_eq!(pairs.get(0), (&[5, 6, 1][..], &[8, 1][..]));
        assert_eq!(pairs.get(1), (&[1][..], &[8, 1][..]));
        assert_eq!(pairs.get(2), (&[1][..], &[8, 9, 4, 1][..]));
        assert_eq!((pairs.len(), pairs.truncated(), pairs.tokens()), (3, [2, 1], 13));
        assert_eq!(pairs.sizes().collect::<Vec<_>>(), [(3, 2), (1, 2), (1, 4)]);
    }
}
