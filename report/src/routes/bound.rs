//! The memory of an observation: how many counts it can have at most.

use super::observer::{Layer, RANGES};
use std::collections::BTreeMap;

/// The names that tokens of an observation can have, and the numbers of tokens.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Pieces of the vocabulary.
    pub pieces: u64,
    /// Texts: corpora, languages or tasks.
    pub texts: u64,
    /// Tokens of the encoder and of the decoder.
    pub tokens: [u64; 2],
}

/// Returns the largest number of counts, to which memory and time are proportional: of every layer by piece,
/// word, range of positions and text, and of every two layers of a stack by pair of experts.
///
/// A count needs a token, so that a sample bounds the number, whatever the number of experts.
pub fn most_counts<'l>(layers: impl IntoIterator<Item = &'l Layer>, extent: &Extent) -> u64 {
    let mut all = 0u64;
    let mut of_stack: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for layer in layers {
        let (experts, tokens) = (layer.experts as u64, extent.of(&layer.stack));
        let choices = tokens.div_ceil(layer.group.max(1) as u64).saturating_mul(layer.choices as u64);
        let of = |values: u64| values.saturating_mul(experts).min(choices);
        all = [of(extent.pieces), choices, of(RANGES as u64), of(extent.texts)]
            .into_iter()
            .fold(all, u64::saturating_add);
        let before = of_stack.entry(&layer.stack).or_default();
        let pairs = before.iter().map(|other| other.saturating_mul(experts).min(tokens));
        all = pairs.fold(all, u64::saturating_add);
        before.push(experts);
    }
    all
}

impl Extent {
    fn of(&self, stack: &str) -> u64 {
        self.tokens[usize::from(stack == "decoder")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{Names, Observer, Record, Routes, Rule, Token};

    const TOKENS: usize = 512;
    const EXPERTS: usize = 2048;
    const LAYERS: usize = 15;
    const ROWS: usize = 8;

    /// The layers of Switch-C: 2,048 experts in each of 15 layers of both stacks.
    fn switch_c() -> Vec<Layer> {
        let layer = |stack: &str, number| Layer {
            stack: stack.into(),
            number,
            part: "ffn".into(),
            experts: EXPERTS,
            group: TOKENS,
            choices: TOKENS,
            capacity: vec![1; EXPERTS],
            d_ff: Vec::new(),
            rule: Rule::Tokens { one_slot: false },
            what_if: vec![(1.0, vec![1; EXPERTS]), (4.0, vec![4; EXPERTS])],
        };
        let stacks = ["encoder", "decoder"].into_iter();
        stacks.flat_map(|stack| (0..LAYERS).map(move |number| layer(stack, number))).collect()
    }

    /// Observes rows of `TOKENS` tokens, which go to experts by a hash of piece and layer.
    fn observed(rows: usize) -> (Observer, u64) {
        let mut observer = Observer::new(switch_c());
        let hash = |a: usize, b: usize| (a.wrapping_mul(2_654_435_761) ^ b.wrapping_mul(40_503)) >> 7;
        for row in 0..rows {
            let token = |at: usize| {
                let piece = (hash(row, at) % 32_128) as u32;
                Some(Token { piece, word: Some(piece), position: at, text: (row % 2) as u32 })
            };
            let tokens: Vec<Option<Token>> = (0..TOKENS).map(token).collect();
            for (number, stack) in ["encoder", "decoder"].into_iter().enumerate() {
                let chosen: Vec<Vec<i32>> = (0..LAYERS)
                    .map(|layer| {
                        let pieces = tokens.iter().flatten().map(|token| token.piece as usize);
                        pieces.map(|piece| (hash(piece, layer + 1) % EXPERTS) as i32).collect()
                    })
                    .collect();
                let states: Vec<Vec<u8>> = chosen.iter().map(|chosen| first_come(chosen)).collect();
                let records: Vec<(usize, Record<'_>)> = (0..LAYERS)
                    .map(|layer| {
                        let record = Record {
                            chosen: &chosen[layer],
                            gate: &[0.5; TOKENS],
                            state: &states[layer],
                            priority: None,
                        };
                        (number * LAYERS + layer, record)
                    })
                    .collect();
                observer.add(stack, (&tokens, TOKENS), &records).unwrap();
            }
        }
        let tokens = [(rows * TOKENS) as u64; 2];
        let most = most_counts(&switch_c(), &Extent { pieces: 32_128, texts: 2, tokens });
        (observer, most)
    }

    /// The first token of each expert has its only slot.
    fn first_come(chosen: &[i32]) -> Vec<u8> {
        let mut taken = vec![false; EXPERTS];
        chosen.iter().map(|e| 2 - u8::from(std::mem::replace(&mut taken[*e as usize], true))).collect()
    }

    fn finished(observer: Observer) -> Routes {
        let names: Vec<String> = (0..32_128).map(|n| format!("piece{n}")).collect();
        let texts = ["one".to_owned(), "two".to_owned()];
        let length = |_: &str| TOKENS;
        observer.finish(Names { pieces: &names, words: &names, texts: &texts, length: &length })
    }

    #[test]
    fn thousands_of_experts_in_many_layers_are_observed_by_sampling() {
        let (observer, most) = observed(ROWS);
        let own = observer.counts();
        // Pieces, words, positions, texts and 14 / 2 pairs of layers, of 30 layers.
        assert!(own <= most && most <= (ROWS * TOKENS) as u64 * 30 * (4 + 7), "{own} of {most}");
        assert!(own > most / 3, "the bound is close: {own} of {most}");
        let found = finished(observer);
        assert_eq!((found.layers.len(), found.coactivation.len()), (30, 2 * LAYERS * (LAYERS - 1) / 2));
        for layer in &found.layers {
            let tokens: u64 = layer.experts.iter().map(|expert| expert.tokens).sum();
            assert_eq!((layer.experts.len(), tokens), (EXPERTS, (ROWS * TOKENS) as u64));
            assert_eq!(layer.what_if[0].dropped_tokens, layer.dropped_tokens);
            assert!(layer.what_if[1].dropped_tokens < layer.dropped_tokens);
        }
        // The text and the page have a bounded number of experts of each layer.
        let lines = found.to_string().lines().count();
        assert!(lines < 30 * (16 + 16) + found.coactivation.len(), "{lines} lines");
        let page = crate::html::routes::page(&found).len();
        assert!(page < 4 << 20, "the page has {page} bytes");
    }

    /// Checks the bound for a number of tokens of each stack.
    #[track_caller]
    fn check(layers: &[Layer], tokens: [u64; 2], expect: u64) {
        assert_eq!(most_counts(layers, &Extent { pieces: 32_128, texts: 2, tokens }), expect);
    }

    #[test]
    fn the_bound_is_the_smaller_one_of_tokens_and_of_names_by_experts() {
        let all = switch_c();
        check(&all, [0, 0], 0);
        check(&all[..1], [512, 0], 4 * 512);
        check(&all[..2], [512, 9999], 2 * 4 * 512 + 512);
        // 8 ranges of positions and 2 texts by 2,048 experts are fewer than the tokens.
        check(&all[..1], [51_200, 0], 51_200 * 2 + 8 * 2048 + 2 * 2048);
        let all = [&all[..1], &all[15..16]].concat();
        check(&all, [512, 1024], 4 * 512 + 4 * 1024);
        let experts = Layer { choices: EXPERTS * 4, rule: Rule::Experts, ..all[0].clone() };
        check(&[experts], [512, 0], 2 * 8192 + 8192 + 4096);
        check(&switch_c(), [u64::MAX; 2], u64::MAX);
    }
}
