//! From the recorded choices of batches to counts.

use super::{
    counts::Counts,
    replay::{Group, assign},
};
use std::collections::BTreeMap;

/// The way in which a layer assigns expert slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Each token chooses; expert slots are assigned in one step, so that other capacities can be replayed.
    Tokens {
        /// True if a token gets one expert slot at most ("no token left behind").
        one_slot: bool,
    },
    /// Each token chooses; tokens are dispatched in two steps, to groups of experts and from there to
    /// experts.
    TwoSteps,
    /// Each expert chooses its tokens.
    Experts,
}

/// A sparse layer.
#[derive(Clone, PartialEq, Debug)]
pub struct Layer {
    /// The stack: `encoder` or `decoder`.
    pub stack: String,
    /// The layer in its stack, from 0.
    pub number: usize,
    /// The part of the layer that has experts: `ffn` or `attention`.
    pub part: String,
    /// Number of experts.
    pub experts: usize,
    /// Tokens of a group, which compete for expert slots.
    pub group: usize,
    /// Choices that a group records at most.
    pub choices: usize,
    /// Expert slots of each expert for a group.
    pub capacity: Vec<usize>,
    /// Size of the hidden layer of each expert; empty if experts have none.
    pub d_ff: Vec<usize>,
    /// The way in which expert slots are assigned.
    pub rule: Rule,
    /// Capacity factors, with the capacities that they give, of which drops are counted.
    pub what_if: Vec<(f64, Vec<usize>)>,
}

/// The properties of a token, as numbers of names that the observer's user has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Token {
    /// The piece of the vocabulary.
    pub piece: u32,
    /// The word that the piece is in. `None` means that it is in none.
    pub word: Option<u32>,
    /// The position in its row, from 0.
    pub position: usize,
    /// The text (corpus, language, task) it is from.
    pub text: u32,
}

/// The recorded choices of a layer for one batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// If tokens choose, the experts of each token, `[tokens, choices]`, with the tokens of all groups. If
    /// experts choose, the token of each expert slot within its group or -1, `[groups, slots]`.
    pub chosen: &'a [i32],
    /// Gates, in the same order.
    pub gate: &'a [f32],
    /// If tokens choose: 0 for a choice that does not count, 1 for one without an expert slot, 2 for one with
    /// an expert slot, in the same order.
    pub state: &'a [u8],
    /// The gates that decide the order in which tokens get expert slots, `[tokens]`. `None` means the order
    /// of tokens.
    pub priority: Option<&'a [f32]>,
}

/// Number of ranges into which the positions of a row are divided.
pub const RANGES: usize = 8;

/// Counts of all batches so far.
#[derive(Clone, Debug)]
pub struct Observer {
    pub(super) layers: Vec<(Layer, Counted)>,
    /// For pairs of layers of a stack: tokens by the experts of both.
    pub(super) pairs: BTreeMap<(usize, usize), Counts>,
    /// Tokens that were counted, without padding, by stack.
    pub(super) tokens: BTreeMap<String, u64>,
}

/// Counts of a layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// By piece, word, range of positions, and text.
    pub(super) properties: [Counts; 4],
    /// By expert: choices without an expert slot, and the sum of gates.
    pub(super) dropped: Vec<u64>,
    pub(super) gates: Vec<f64>,
    /// Tokens without any expert slot.
    pub(super) dropped_tokens: u64,
    /// The same by text, and all tokens.
    pub(super) texts: BTreeMap<u32, (u64, u64)>,
    /// Tokens without any expert slot, for each of the layer's `what_if`.
    pub(super) what_if: Vec<u64>,
}

/// One choice of a token, or of an expert.
struct Choice {
    token: usize,
    expert: u32,
    gate: f32,
    has_slot: bool,
}

impl Observer {
    /// Creates an observer of these layers.
    pub fn new(layers: Vec<Layer>) -> Self {
        let counted = |layer: &Layer| Counted {
            dropped: vec![0; layer.experts],
            gates: vec![0.0; layer.experts],
            what_if: vec![0; layer.what_if.len()],
            ..Counted::default()
        };
        let layers = layers.into_iter().map(|layer| (layer.clone(), counted(&layer))).collect();
        Self { layers, pairs: BTreeMap::new(), tokens: BTreeMap::new() }
    }

    /// Returns a layer.
    pub fn layer(&self, number: usize) -> &Layer {
        &self.layers[number].0
    }

    /// Returns all layers.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().map(|(layer, _)| layer)
    }

    /// Returns the number of counts, of which [`super::most_counts`] is the largest.
    pub fn counts(&self) -> u64 {
        let of_layers = self.layers.iter().flat_map(|(_, counted)| &counted.properties);
        of_layers.chain(self.pairs.values()).map(|counts| counts.len() as u64).sum()
    }

    /// Adds a batch of a stack: its tokens, `None` for padding, in rows of `length`; and the choices of its
    /// layers, by their number among the layers of the observer.
    ///
    /// # Errors
    /// The choices are not those of the layer: their replay assigns other expert slots, or an expert does not
    /// exist. The message names the layer.
    pub fn add(
        &mut self,
        stack: &str,
        (tokens, length): (&[Option<Token>], usize),
        records: &[(usize, Record<'_>)],
    ) -> Result<(), String> {
        *self.tokens.entry(stack.to_owned()).or_default() += tokens.iter().flatten().count() as u64;
        let mut firsts: Vec<(usize, Vec<Option<u32>>)> = Vec::new();
        for (number, record) in records {
            let (layer, counted) = &mut self.layers[*number];
            let of_layer =
                |what: &str| format!("{} layer {} ({}): {what}", layer.stack, layer.number, layer.part);
            let choices = match layer.rule {
                Rule::Experts => by_experts(layer, record),
                Rule::Tokens { .. } | Rule::TwoSteps => by_tokens(record, tokens.len()),
            };
            let beyond = |c: &Choice| c.token >= tokens.len() || c.expert as usize >= layer.experts;
            if choices.iter().any(beyond) {
                return Err(of_layer("a choice names an expert or a token that does not exist"));
            }
            if let Rule::Tokens { one_slot } = layer.rule {
                counted.replay(layer, one_slot, record, tokens).map_err(of_layer)?;
            }
            firsts.push((*number, counted.count(layer, &choices, (tokens, length))));
        }
        for (i, (a, left)) in firsts.iter().enumerate() {
            for (b, right) in &firsts[i + 1..] {
                let pair = self.pairs.entry((*a, *b)).or_default();
                left.iter()
                    .zip(right)
                    .filter_map(|(a, b)| Some((*a)?).zip(*b))
                    .for_each(|(a, b)| pair.add(a, b));
            }
        }
        Ok(())
    }
}

fn by_tokens(record: &Record<'_>, tokens: usize) -> Vec<Choice> {
    let choices = record.chosen.len() / tokens.max(1);
    let all = record.chosen.iter().zip(record.gate).zip(record.state).enumerate();
    let counts = all.filter(|(_, (_, state))| **state > 0);
    let choice = |(at, ((expert, gate), state)): (usize, ((&i32, &f32), &u8))| Choice {
        token: at / choices.max(1),
        expert: u32::try_from(*expert).unwrap_or(u32::MAX),
        gate: *gate,
        has_slot: *state == 2,
    };
    counts.map(choice).collect()
}

fn by_experts(layer: &Layer, record: &Record<'_>) -> Vec<Choice> {
    // Experts that choose have the same capacity.
    let capacity = layer.capacity.first().copied().unwrap_or(1).max(1);
    let slots = layer.experts * capacity;
    let all = record.chosen.iter().zip(record.gate).enumerate();
    let choice = |(at, (token, gate)): (usize, (&i32, &f32))| {
        let token = usize::try_from(*token).ok()?;
        let (group, slot) = (at / slots, at % slots);
        let expert = (slot / capacity) as u32;
        Some(Choice { token: group * layer.group + token, expert, gate: *gate, has_slot: true })
    };
    all.filter_map(choice).collect()
}

impl Counted {
    /// Counts the choices; returns the first expert of each token. If experts choose, or a token gets one
    /// expert slot at most, it is the one with the largest gate among those with an expert slot.
    fn count(
        &mut self,
        layer: &Layer,
        choices: &[Choice],
        (tokens, length): (&[Option<Token>], usize),
    ) -> Vec<Option<u32>> {
        let mut first: Vec<Option<(f32, u32)>> = vec![None; tokens.len()];
        let mut has_slot = vec![false; tokens.len()];
        let by_gate = layer.rule == Rule::Experts;
        let one_slot = layer.rule == Rule::Tokens { one_slot: true };
        for choice in choices {
            if one_slot && has_slot[choice.token] {
                continue;
            }
            has_slot[choice.token] |= choice.has_slot;
            let Some(token) = &tokens[choice.token] else { continue };
            // Without a slot, a token that gets one at most goes on to its next expert.
            let passes = one_slot && !choice.has_slot;
            let slot = &mut first[choice.token];
            if slot.is_none_or(|(gate, _)| by_gate && choice.gate > gate) && !passes {
                *slot = Some((choice.gate, choice.expert));
            }
            if passes {
                self.dropped[choice.expert as usize] += 1;
                continue;
            }
            self.add(token, choice, length);
        }
        for (token, has_slot) in
            tokens.iter().zip(has_slot).filter_map(|(token, has)| Some((token.as_ref()?, has)))
        {
            let of_text = self.texts.entry(token.text).or_default();
            of_text.1 += 1;
            if !has_slot {
                of_text.0 += 1;
                self.dropped_tokens += 1;
            }
        }
        first.into_iter().map(|first| first.map(|(_, expert)| expert)).collect()
    }

    fn add(&mut self, token: &Token, choice: &Choice, length: usize) {
        let expert = choice.expert;
        let range = token.position * RANGES.min(length) / length.max(1);
        let values = [Some(token.piece), token.word, Some(range as u32), Some(token.text)];
        for (counts, value) in self.properties.iter_mut().zip(values) {
            if let Some(value) = value {
                counts.add(value, expert);
            }
        }
        self.dropped[expert as usize] += u64::from(!choice.has_slot);
        self.gates[expert as usize] += f64::from(choice.gate);
    }

    /// Replays the assignment of expert slots with the layer's capacity, which must give what was recorded,
    /// and counts the tokens that other capacities drop.
    fn replay(
        &mut self,
        layer: &Layer,
        one_slot: bool,
        record: &Record<'_>,
        tokens: &[Option<Token>],
    ) -> Result<(), &'static str> {
        let choices = record.chosen.len() / tokens.len().max(1);
        let counts: Vec<bool> = record.state.iter().map(|state| *state > 0).collect();
        let chosen: Vec<u32> = record.chosen.iter().map(|expert| *expert as u32).collect();
        for (number, own) in tokens.chunks(layer.group).enumerate() {
            let (from, to) = (number * layer.group, number * layer.group + own.len());
            let range = from * choices..to * choices;
            let group = Group {
                choices,
                chosen: &chosen[range.clone()],
                counts: &counts[range.clone()],
                priority: record.priority.map(|gates| &gates[from..to]),
                one_slot,
            };
            let has = assign(&group, &layer.capacity);
            if !has.iter().zip(&record.state[range]).all(|(has, state)| *has == (*state == 2)) {
                return Err("the recorded choices do not lead to the expert slots that the program assigned");
            }
            for (dropped, (_, capacity)) in self.what_if.iter_mut().zip(&layer.what_if) {
                let has = assign(&group, capacity);
                let without = |of_token: &&[bool]| !of_token.contains(&true);
                let tokens = own.iter().zip(has.chunks(choices)).filter(|(token, _)| token.is_some());
                *dropped += tokens.filter(|(_, of_token)| without(of_token)).count() as u64;
            }
        }
        Ok(())
    }
}
