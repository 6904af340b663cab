//! The results of an observation. The JSON form is that of `meshc routes --json`.

use super::{
    counts::{Counts, Lift},
    observer::{Counted, Layer, Observer, RANGES, Rule},
};
use serde::{Deserialize, Serialize};

/// Values with the highest lift that are shown for each expert and property.
const MOST: usize = 8;
/// Pairs of experts of two layers that are listed.
const PAIRS: usize = 4096;
/// An expert is overloaded if its load is at least this multiple of an even load.
pub const OVERLOAD: f64 = 2.0;

/// Routing of the tokens of some rows.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Routes {
    /// The name of the program.
    pub program: String,
    /// The checkpoint.
    pub checkpoint: String,
    /// Rows that were observed.
    pub rows: u64,
    /// Rows that could have been observed; more than `rows` for a sample.
    pub all_rows: u64,
    /// The names of the texts (corpora, languages, tasks); one empty name if there is only one.
    pub texts: Vec<String>,
    /// All sparse layers.
    pub layers: Vec<LayerRoutes>,
    /// Pairs of layers of a stack.
    pub coactivation: Vec<Coactivation>,
}

/// Routing in one layer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LayerRoutes {
    /// The stack: `encoder` or `decoder`.
    pub stack: String,
    /// The layer in its stack, from 0.
    pub layer: usize,
    /// The part of the layer that has experts: `ffn` or `attention`.
    pub part: String,
    /// Tokens of a group, which compete for expert slots.
    pub group_tokens: usize,
    /// Expert slots of an expert for a group; of experts of several sizes, the largest number.
    pub capacity: usize,
    /// Tokens of the stack, without padding.
    pub tokens: u64,
    /// Tokens without any expert slot.
    pub dropped_tokens: u64,
    /// Entropy of the load, in nats.
    pub entropy: f64,
    /// The largest possible entropy: the logarithm of the number of experts.
    pub largest_entropy: f64,
    /// Experts that no token chose.
    pub dead: Vec<usize>,
    /// Experts with at least twice an even load.
    pub overloaded: Vec<usize>,
    /// Mutual information of each property and the expert, as a share of the entropy of experts: from 0 to 1.
    pub information: Properties<f64>,
    /// The experts.
    pub experts: Vec<Expert>,
    /// The texts, in the order of [`Routes::texts`].
    pub texts: Vec<TextRoutes>,
    /// Drops with other capacities, replayed. Empty if the replay is not possible, for the reason in
    /// `no_what_if`.
    pub what_if: Vec<WhatIf>,
    /// The reason why other capacities are not replayed.
    pub no_what_if: Option<String>,
}

/// A value for each property of tokens.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Properties<T> {
    /// The piece of the vocabulary.
    pub piece: T,
    /// The word that the piece is in.
    pub word: T,
    /// The position in its row, in eight ranges.
    pub position: T,
    /// The text: corpus, language or task.
    pub text: T,
}

/// An expert.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Expert {
    /// Tokens that chose it.
    pub tokens: u64,
    /// These as a share of all choices.
    pub load: f64,
    /// Tokens among these that it had no slot for.
    pub dropped: u64,
    /// Mean gate.
    pub gate: f64,
    /// Expert slots for a group.
    #[serde(default)]
    pub capacity: usize,
    /// Size of its hidden layer; 0 if it has none.
    #[serde(default)]
    pub d_ff: usize,
    /// Specialization for each property: the divergence of the distribution at this expert from that of all
    /// tokens, from 0 to 1.
    pub scores: Properties<f64>,
    /// Values of each property with the highest lift.
    pub highest: Properties<Vec<Lift>>,
}

/// The routing of a text in a layer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TextRoutes {
    /// Tokens, without padding.
    pub tokens: u64,
    /// Tokens without any expert slot.
    pub dropped: u64,
    /// The share of choices that each expert gets.
    pub load: Vec<f64>,
}

/// Drops with another capacity.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WhatIf {
    /// The capacity factor.
    pub capacity_factor: f64,
    /// The capacity that it gives, in expert slots for a group.
    pub capacity: usize,
    /// Tokens without any expert slot.
    pub dropped_tokens: u64,
}

/// The experts of the same tokens in two layers of a stack.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Coactivation {
    /// The two layers, as indices of [`Routes::layers`].
    pub layers: [usize; 2],
    /// Mutual information of the experts divided by the geometric mean of their entropies, without what is
    /// expected of independent ones. `None` means that one layer uses one expert only.
    pub information: Option<f64>,
    /// Pairs of experts with the number of tokens, the most frequent first.
    pub pairs: Vec<(u32, u32, u64)>,
    /// Pairs that are not listed.
    pub left_out: usize,
}

/// Names of the values of properties.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// Pieces, by [`super::Token::piece`].
    pub pieces: &'a [String],
    /// Words, by [`super::Token::word`].
    pub words: &'a [String],
    /// Texts, by [`super::Token::text`].
    pub texts: &'a [String],
    /// Tokens of a row, by stack.
    pub length: &'a dyn Fn(&str) -> usize,
}

impl Observer {
    /// Returns the results. Program, checkpoint and rows are left to the caller.
    pub fn finish(self, names: Names<'_>) -> Routes {
        let layer = |(layer, counted): &(Layer, Counted)| {
            let tokens = self.tokens.get(&layer.stack).copied().unwrap_or(0);
            summary(layer, counted, tokens, names)
        };
        let pair = |([a, b], counts): ([usize; 2], &Counts)| {
            let mut pairs = counts.pairs();
            let left_out = pairs.len().saturating_sub(PAIRS);
            pairs.truncate(PAIRS);
            Coactivation { layers: [a, b], information: counts.normalized_information(), pairs, left_out }
        };
        Routes {
            texts: names.texts.to_vec(),
            layers: self.layers.iter().map(layer).collect(),
            coactivation: self.pairs.iter().map(|((a, b), counts)| pair(([*a, *b], counts))).collect(),
            ..Routes::default()
        }
    }
}

fn summary(layer: &Layer, counted: &Counted, tokens: u64, names: Names<'_>) -> LayerRoutes {
    let chosen = counted.properties[0].sums(layer.experts).1;
    let all = chosen.iter().sum::<u64>().max(1) as f64;
    let load: Vec<f64> = chosen.iter().map(|n| *n as f64 / all).collect();
    let entropy = load.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
    let where_load = |is: &dyn Fn(f64) -> bool| (0..layer.experts).filter(|e| is(load[*e])).collect();
    let what_if = layer.what_if.iter().zip(&counted.what_if);
    let what_if = what_if.map(|((factor, capacity), dropped)| WhatIf {
        capacity_factor: *factor,
        capacity: most(capacity),
        dropped_tokens: *dropped,
    });
    let (information, experts) = experts(layer, counted, &chosen, &load, names);
    let no_what_if = reason(layer.rule).map(str::to_owned);
    LayerRoutes {
        stack: layer.stack.clone(),
        layer: layer.number,
        part: layer.part.clone(),
        group_tokens: layer.group,
        capacity: most(&layer.capacity),
        tokens,
        dropped_tokens: counted.dropped_tokens,
        entropy,
        largest_entropy: (layer.experts as f64).ln(),
        dead: where_load(&|load| load == 0.0),
        overloaded: where_load(&|load| load * layer.experts as f64 >= OVERLOAD),
        information,
        experts,
        texts: (0..names.texts.len() as u32).map(|text| of_text(layer, counted, text)).collect(),
        what_if: if no_what_if.is_some() { Vec::new() } else { what_if.collect() },
        no_what_if,
    }
}

fn most(capacities: &[usize]) -> usize {
    capacities.iter().copied().max().unwrap_or(0)
}

/// Returns the reason why other capacities cannot be replayed.
fn reason(rule: Rule) -> Option<&'static str> {
    match rule {
        Rule::Tokens { .. } => None,
        Rule::TwoSteps => Some("with `expert_groups`, tokens of several groups compete in the second step"),
        Rule::Experts => Some(
            "experts choose tokens (`routing` = expert_choice or expert_selection): another capacity chooses others",
        ),
    }
}

fn experts(
    layer: &Layer,
    counted: &Counted,
    chosen: &[u64],
    load: &[f64],
    names: Names<'_>,
) -> (Properties<f64>, Vec<Expert>) {
    let length = (names.length)(&layer.stack);
    let name = |property: usize, value: u32| match property {
        0 => names.pieces.get(value as usize).cloned().unwrap_or_default(),
        1 => names.words.get(value as usize).cloned().unwrap_or_default(),
        2 => range(value as usize, length),
        _ => names.texts.get(value as usize).cloned().unwrap_or_default(),
    };
    let relations = counted.properties.each_ref().map(|counts| counts.relation(layer.experts));
    let mut number = 0;
    let mut lifts = counted.properties.each_ref().map(|counts| {
        number += 1;
        counts.lifts(layer.experts, MOST, |value| name(number - 1, value))
    });
    let expert = |e: usize| Expert {
        tokens: chosen[e],
        load: load[e],
        dropped: counted.dropped[e],
        gate: counted.gates[e] / chosen[e].max(1) as f64,
        capacity: layer.capacity.get(e).copied().unwrap_or(0),
        d_ff: layer.d_ff.get(e).copied().unwrap_or(0),
        scores: Properties::of(relations.each_ref().map(|relation| relation.scores[e])),
        highest: Properties::of(lifts.each_mut().map(|lifts| std::mem::take(&mut lifts[e]))),
    };
    let experts = (0..layer.experts).map(expert).collect();
    (Properties::of(relations.map(|relation| relation.information)), experts)
}

fn of_text(layer: &Layer, counted: &Counted, text: u32) -> TextRoutes {
    let (dropped, tokens) = counted.texts.get(&text).copied().unwrap_or_default();
    let chosen: Vec<u64> = (0..layer.experts as u32).map(|e| counted.properties[3].of(text, e)).collect();
    let all = chosen.iter().sum::<u64>().max(1) as f64;
    TextRoutes { tokens, dropped, load: chosen.iter().map(|n| *n as f64 / all).collect() }
}

/// Returns the positions of a range, such as `0–15`.
fn range(number: usize, length: usize) -> String {
    let ranges = RANGES.min(length).max(1);
    let first = |number: usize| (number * length).div_ceil(ranges);
    format!("{}–{}", first(number), first(number + 1).saturating_sub(1))
}

impl<T> Properties<T> {
    /// Creates them from values in the order of the fields.
    fn of([piece, word, position, text]: [T; 4]) -> Self {
        Self { piece, word, position, text }
    }

    /// Returns them in the order of the fields.
    pub fn all(&self) -> [&T; 4] {
        [&self.piece, &self.word, &self.position, &self.text]
    }
}

impl LayerRoutes {
    /// Returns the name: `encoder layer 1`, and the part if it is not the feed-forward layer.
    pub fn name(&self) -> String {
        let part = if self.part == "ffn" { String::new() } else { format!(" {}", self.part) };
        format!("{} layer {}{part}", self.stack, self.layer)
    }
}
