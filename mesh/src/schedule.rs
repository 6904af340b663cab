//! The schedule of a program: choices that trade time against memory and change no result beyond rounding.
//!
//! A schedule is part of a [`crate::Module`]. The program's layers read some entries when they build the
//! program (`microbatches`, `dispatch`), the compiler's passes read others (`gather`, `attention_minor`), and
//! `meshc plan` searches over those that have candidates in [`ENTRIES`].

use crate::{Diagnostic, ir::Remat, layout::suggest};
use std::fmt;

/// The schedule of a program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Schedule {
    /// Values that layers save for the backward pass.
    pub remat: Remat,
    /// True if layers are emitted one after the other instead of as a loop.
    pub unroll: bool,
    /// Parts into which a step splits its batch; their gradients are accumulated. At least 1.
    pub microbatches: usize,
    /// Stages of a pipeline over the layers, which work at once, each on another microbatch. At least 1; 1
    /// means no pipeline.
    pub stages: usize,
    /// Gathering of parameters that the state layout shards further than the layout.
    pub gather: Gather,
    /// Rounding of parameters to the type of activations.
    pub cast: Cast,
    /// The dim of the residual stream between blocks.
    pub residual: Residual,
    /// The minor dim of attention weights.
    pub attention_minor: AttentionMinor,
    /// Blocks into which attention divides positions; keys and values move from block to block, so that no
    /// device need hold all of them. 1 attends to all positions at once. At least 1.
    pub ring: usize,
    /// Parts in which expert slots are exchanged, so that the exchange of one part can overlap with the
    /// experts' work on another. At least 1.
    pub exchange_parts: usize,
    /// Parts of the batch whose tokens are sorted by expert separately, in routing without capacity. A
    /// multiple of the number of devices that split the batch. At least 1.
    pub sorted_parts: usize,
    /// Movement of tokens to their expert slots and back.
    pub dispatch: Dispatch,
    /// Element type in which CPUs multiply matrices of bf16 values.
    pub products: Products,
    /// True if, outside training, the experts run on the smallest of several capacities that holds all
    /// occupied expert slots.
    pub skip_empty: bool,
}

/// Gathering of parameters that the state layout shards further than the layout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gather {
    /// Layer by layer, in the forward and in the backward pass: holds least.
    Layer,
    /// Once a step, in the type of activations: sends least.
    Step,
}

/// Rounding of parameters to the type of activations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cast {
    /// Wherever the compiler likes: usually for all layers at once, before the loop over them.
    Step,
    /// In the layer that uses them for the parameters of experts, otherwise as [`Cast::Step`].
    Experts,
    /// In the layer that uses them: reads more, holds less.
    Layer,
}

/// The dim of the residual stream between blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Residual {
    /// `d_model`, as inside blocks.
    DModel,
    /// `stream`, a dim that a layout can shard between blocks while `d_model` stays whole inside them.
    Stream,
}

/// The minor dim of attention weights.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttentionMinor {
    /// The positions attended to, which suits CPUs.
    Memory,
    /// The querying positions, which saves TPUs copies. The sums of the softmax then become a column of the
    /// product with the values.
    Query,
}

/// Movement of tokens to their expert slots and back. Every way gives the same result.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dispatch {
    /// The cheaper way for the size of a group.
    Auto,
    /// By index: a partial permutation, forward and backward.
    Permute,
    /// By a product with a one-hot mask.
    Einsum,
}

/// Element type in which CPUs multiply matrices of bf16 values. Sums are f32 in either.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Products {
    /// bf16 if the processor has bf16 units, else f32.
    Auto,
    /// bf16, which processors without bf16 units multiply more slowly than f32.
    Bf16,
    /// f32, of operands that are rounded to bf16.
    F32,
}

/// A setting of a schedule, described.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its key, as in `--schedule key=value`.
    pub key: &'static str,
    /// Its meaning, in one sentence.
    pub meaning: &'static str,
    /// The allowed values.
    pub values: &'static [&'static str],
    /// Values that a search tries with all values of other entries; none if it does not.
    pub candidates: &'static [&'static str],
    /// Values that a search tries as single changes of good candidates.
    pub changes: &'static [&'static str],
}

/// The value of entries that take a number.
const COUNT: &[&str] = &["a whole number from 1"];
const FLAG: &[&str] = &["false", "true"];
const REMAT: &[(&str, Remat)] = &[
    ("all", Remat::SaveAll),
    ("long", Remat::SaveLong),
    ("compact", Remat::SaveCompact),
    ("contractions", Remat::SaveContractions),
    ("carries", Remat::SaveCarries),
];
const GATHER: &[(&str, Gather)] = &[("layer", Gather::Layer), ("step", Gather::Step)];
const CAST: &[(&str, Cast)] = &[("step", Cast::Step), ("experts", Cast::Experts), ("layer", Cast::Layer)];
const RESIDUAL: &[(&str, Residual)] = &[("d_model", Residual::DModel), ("stream", Residual::Stream)];
const ATTENTION_MINOR: &[(&str, AttentionMinor)] =
    &[("memory", AttentionMinor::Memory), ("query", AttentionMinor::Query)];
/// `sort` is a second name of `permute`.
const DISPATCH: &[(&str, Dispatch)] = &[
    ("auto", Dispatch::Auto),
    ("permute", Dispatch::Permute),
    ("einsum", Dispatch::Einsum),
    ("sort", Dispatch::Permute),
];

const PRODUCTS: &[(&str, Products)] =
    &[("auto", Products::Auto), ("bf16", Products::Bf16), ("f32", Products::F32)];

/// All entries, in the order in which they are printed.
pub const ENTRIES: [Entry; 14] = [
    Entry {
        key: "remat",
        meaning: "Values that layers save for the backward pass; the rest is recomputed.",
        values: &["all", "long", "compact", "contractions", "carries"],
        candidates: &["all", "long", "compact", "contractions", "carries"],
        changes: &[],
    },
    Entry {
        key: "unroll",
        meaning: "Emits layers one after the other instead of as a loop.",
        values: FLAG,
        candidates: &[],
        changes: &[],
    },
    Entry {
        key: "microbatches",
        meaning: "Parts into which a step splits its batch; their gradients are accumulated.",
        values: COUNT,
        candidates: &["1", "2", "4", "8", "16", "32"],
        changes: &[],
    },
    Entry {
        key: "stages",
        meaning: "Stages of a pipeline over the layers, which work at once on different microbatches.",
        values: COUNT,
        candidates: &[],
        changes: &[],
    },
    Entry {
        key: "gather",
        meaning: "Gathers parameters that the state layout shards further in each layer or once a step.",
        values: &["layer", "step"],
        candidates: &[],
        changes: &["layer", "step"],
    },
    Entry {
        key: "cast",
        meaning: "Rounds parameters to the type of activations once a step or in each layer.",
        values: &["step", "experts", "layer"],
        candidates: &[],
        changes: &["step", "experts", "layer"],
    },
    Entry {
        key: "residual",
        meaning: "The dim of the residual stream between blocks.",
        values: &["d_model", "stream"],
        candidates: &[],
        changes: &[],
    },
    Entry {
        key: "attention_minor",
        meaning: "The minor dim of attention weights.",
        values: &["memory", "query"],
        candidates: &[],
        changes: &["memory", "query"],
    },
    Entry {
        key: "ring",
        meaning: "Blocks of positions between which keys and values move; 1 attends to all positions at once.",
        values: COUNT,
        candidates: &[],
        changes: &[],
    },
    Entry {
        key: "exchange_parts",
        meaning: "Parts in which expert slots are exchanged, so that exchange and experts can overlap.",
        values: COUNT,
        candidates: &[],
        changes: &[],
    },
    Entry {
        key: "sorted_parts",
        meaning: "Parts of the batch whose tokens are sorted by expert separately, in routing without capacity.",
        values: COUNT,
        candidates: &[],
        changes: &[],
    },
    Entry {
        key: "dispatch",
        meaning: "Moves tokens to their expert slots and back by index or by a product with a mask.",
        values: &["auto", "permute", "einsum"],
        candidates: &["permute", "einsum"],
        changes: &[],
    },
    Entry {
        key: "products",
        meaning: "Element type in which CPUs multiply bf16 matrices; auto is f32 without bf16 units.",
        values: &["auto", "bf16", "f32"],
        candidates: &[],
        changes: &[],
    },
    Entry {
        key: "skip_empty",
        meaning: "Skips empty expert slots outside training, at the price of a larger program.",
        values: FLAG,
        candidates: &[],
        changes: &[],
    },
];

/// The entry called `key`.
pub fn entry(key: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.key == key)
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            remat: Remat::SaveAll,
            unroll: false,
            microbatches: 1,
            stages: 1,
            gather: Gather::Layer,
            cast: Cast::Step,
            residual: Residual::DModel,
            attention_minor: AttentionMinor::Memory,
            ring: 1,
            exchange_parts: 1,
            sorted_parts: 1,
            dispatch: Dispatch::Auto,
            products: Products::Auto,
            skip_empty: false,
        }
    }
}

impl Schedule {
    /// Reads `key=value` entries with spaces between; what is not named has its default.
    ///
    /// # Errors
    /// Names the entry, its value and what is allowed.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        let mut schedule = Self::default();
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(|| {
                Diagnostic::new("", format!("schedule entry `{word}` has no value"))
                    .help(format!("write it as {word}=VALUE"))
            })?;
            schedule.set(key, value)?;
        }
        Ok(schedule)
    }

    /// Sets the entry `key` to `value`.
    ///
    /// # Errors
    /// Names the entry, its value and what is allowed; the schedule is unchanged then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Diagnostic> {
        match key {
            "remat" => self.remat = choice(key, value, REMAT)?,
            "unroll" => self.unroll = flag(key, value)?,
            "microbatches" => self.microbatches = count(key, value)?,
            "stages" => self.stages = count(key, value)?,
            "gather" => self.gather = choice(key, value, GATHER)?,
            "cast" => self.cast = choice(key, value, CAST)?,
            "residual" => self.residual = choice(key, value, RESIDUAL)?,
            "attention_minor" => self.attention_minor = choice(key, value, ATTENTION_MINOR)?,
            "ring" => self.ring = count(key, value)?,
            "exchange_parts" => self.exchange_parts = count(key, value)?,
            "sorted_parts" => self.sorted_parts = count(key, value)?,
            "dispatch" => self.dispatch = choice(key, value, DISPATCH)?,
            "products" => self.products = choice(key, value, PRODUCTS)?,
            "skip_empty" => self.skip_empty = flag(key, value)?,
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    /// The value of the entry `key`, as [`Schedule::set`] takes it; `None` if there is no such entry.
    pub fn get(&self, key: &str) -> Option<String> {
        Some(match key {
            "remat" => word(self.remat, REMAT).to_owned(),
            "unroll" => self.unroll.to_string(),
            "microbatches" => self.microbatches.to_string(),
            "stages" => self.stages.to_string(),
            "gather" => word(self.gather, GATHER).to_owned(),
            "cast" => word(self.cast, CAST).to_owned(),
            "residual" => word(self.residual, RESIDUAL).to_owned(),
            "attention_minor" => word(self.attention_minor, ATTENTION_MINOR).to_owned(),
            "ring" => self.ring.to_string(),
            "exchange_parts" => self.exchange_parts.to_string(),
            "sorted_parts" => self.sorted_parts.to_string(),
            "dispatch" => word(self.dispatch, DISPATCH).to_owned(),
            "products" => word(self.products, PRODUCTS).to_owned(),
            "skip_empty" => self.skip_empty.to_string(),
            _ => return None,
        })
    }

    /// The entries that differ from their defaults, with their values.
    pub fn changed(&self) -> Vec<(&'static str, String)> {
        let default = Self::default();
        let value = |key| self.get(key).filter(|value| default.get(key).as_ref() != Some(value));
        ENTRIES.iter().filter_map(|entry| Some((entry.key, value(entry.key)?))).collect()
    }
}

/// Prints the entries that differ from their defaults: `remat=carries microbatches=4`.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, value)) in self.changed().into_iter().enumerate() {
            let space = if i > 0 { " " } else { "" };
            write!(f, "{space}{key}={value}")?;
        }
        Ok(())
    }
}

fn unknown(key: &str) -> Diagnostic {
    let known: Vec<&str> = ENTRIES.iter().map(|entry| entry.key).collect();
    let list = format!("the entries are {}", known.join(", "));
    Diagnostic::new("", format!("a schedule has no entry `{key}`")).help(
        match suggest(key, known.iter().copied()) {
            Some(hint) => format!("did you mean `{hint}`? {list}"),
            None => list,
        },
    )
}

/// The word for `value`: the first one of `words` that means it.
fn word<T: Copy + PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, v)| *v == value).map_or("", |(word, _)| *word)
}

fn choice<T: Copy>(key: &str, text: &str, words: &[(&'static str, T)]) -> Result<T, Diagnostic> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let error = wrong(key, text);
        match suggest(text, words.iter().map(|(word, _)| *word)) {
            Some(hint) => error.help(format!("did you mean `{hint}`?")),
            None => error,
        }
    })
}

fn flag(key: &str, text: &str) -> Result<bool, Diagnostic> {
    text.parse().map_err(|_| wrong(key, text))
}

fn count(key: &str, text: &str) -> Result<usize, Diagnostic> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| wrong(key, text))
}

fn wrong(key: &str, text: &str) -> Diagnostic {
    let allowed = entry(key).map_or_else(String::new, |entry| entry.values.join(", "));
    let allowed = if allowed.contains(", ") { format!("one of {allowed}") } else { allowed };
    Diagnostic::new("", format!("schedule entry `{key}` must be {allowed}, got `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` is a schedule that prints as `printed`.
    #[track_caller]
    fn prints(text: &str, printed: &str) {
        assert_eq!(Schedule::parse(text).map(|s| s.to_string()), Ok(printed.to_owned()));
        assert_eq!(Schedule::parse(text), Schedule::parse(printed));
    }

    #[track_caller]
    fn fails(text: &str, error: &str) {
        assert_eq!(Schedule::parse(text).expect_err("the schedule is wrong").to_string(), error);
    }

    #[test]
    fn only_changes_are_printed() {
        prints("", "");
        prints("microbatches=1 remat=all gather=layer", "");
        prints("microbatches=4 remat=carries", "remat=carries microbatches=4");
        prints("dispatch=sort skip_empty=true", "dispatch=permute skip_empty=true");
    }

    #[test]
    fn every_entry_takes_its_values_and_prints_them() {
        for entry in ENTRIES {
            let values = if entry.values == COUNT { &["1", "7"] } else { entry.values };
            for value in values {
                let mut schedule = Schedule::default();
                schedule.set(entry.key, value).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(schedule.get(entry.key).as_deref(), Some(*value), "{}", entry.key);
                assert_eq!(Schedule::parse(&schedule.to_string()), Ok(schedule));
            }
            let mut schedule = Schedule::default();
            entry
                .candidates
                .iter()
                .chain(entry.changes)
                .for_each(|c| assert_eq!(schedule.set(entry.key, c), Ok(())));
        }
    }

    #[test]
    fn mistakes_name_the_entry_and_what_is_allowed() {
        fails(
            "remat=carrie",
            "error: schedule entry `remat` must be one of all, long, compact, contractions, carries, got `carrie`\n  \
             help: did you mean `carries`?",
        );
        fails(
            "microbatches=0",
            "error: schedule entry `microbatches` must be a whole number from 1, got `0`",
        );
        fails("unroll=yes", "error: schedule entry `unroll` must be one of false, true, got `yes`");
        fails("unroll", "error: schedule entry `unroll` has no value\n  help: write it as unroll=VALUE");
        fails(
            "rematt=all",
            "error: a schedule has no entry `rematt`\n  help: did you mean `remat`? the entries are remat, unroll, \
             microbatches, stages, gather, cast, residual, attention_minor, ring, exchange_parts, sorted_parts, dispatch, products, \
             skip_empty",
        );
    }
}
