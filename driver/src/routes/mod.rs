//! Observation of routing: runs the batches of evaluation and records which experts tokens choose.
//!
//! Reading order: [`observe`], `tensors` (recorded choices in the outputs of a program), `words` (from pieces
//! to words). What is computed from the choices is in [`report::routes`].

mod tensors;
mod words;

use crate::{failure::failure, request::Setting, source::Source};
use anyhow::Result;
use data::{Batch, BatchSource, BatchSpec, order::Permutation};
use mesh::dsl::Args;
use models::{
    Config, Switch,
    routes::{Router, groups, routers},
    switch::options::{EvalCapacity, RoutingMethod},
};
use report::routes::{Extent, Layer, Names, Observer, Record, Routes, Rule, Token, most_counts};
use runtime::{Artefact, Contract, Session, train};
use std::collections::BTreeMap;
use tensors::{Recorded, recorded};
use words::Words;

/// The functions of the program that records routing.
pub const FUNCTIONS: [&str; 1] = ["eval_step"];
/// The capacity factors that are replayed by default.
const FACTORS: [f64; 6] = [1.0, 1.25, 1.5, 2.0, 3.0, 4.0];
/// Counts that an observation without `sample` has at most: 2.5 GiB, at 39 bytes for each.
const COUNTS: u64 = 1 << 26;

/// Returns the setting that makes that program.
pub fn settings() -> [Setting; 1] {
    [("task", "routes".to_owned())]
}

/// Options of an observation.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Largest number of rows, rounded up to whole batches. `None` means all, or as many as are sure to fit
    /// into 2.5 GiB: with thousands of experts in many layers, counts are many.
    pub sample: Option<usize>,
    /// The capacity factors that are replayed. Empty means the usual ones.
    pub factors: Vec<f64>,
}

/// Routes the held-out batches of a source, and returns which tokens went where. `checkpoint` is the name of
/// the parameters.
///
/// # Errors
/// The program has no sparse layers or does not record routing, there is no batch, or a call fails.
pub fn observe(
    session: &mut Session,
    checkpoint: &str,
    source: &Source,
    options: &Options,
) -> Result<Routes> {
    let config = config(session.artefact())?;
    let spec = Contract::batch_spec(session.artefact())?;
    let mut observation = Observation::new(&config, spec, source, &options.factors)?;
    let batches = source.batches();
    let all = batches.held_out_batches();
    let most = options.sample.or_else(|| {
        let batches = observation.affordable(all, COUNTS);
        (batches < all).then_some(batches * spec.batch)
    });
    let chosen = sample(&*batches, spec.batch, most);
    if chosen.is_empty() {
        return Err(failure("the data have less than one batch", "give more text, or raise --held-out"));
    }
    for number in &chosen {
        let batch = batches.held_out_batch(*number)?;
        let outputs = train::outputs(session, &batch)?;
        observation.add(session.artefact(), &batch, batches.held_out_corpus(*number), &outputs)?;
    }
    let all_rows = source.rows(all)[0] as u64;
    let program = session.artefact().manifest.program.clone();
    Ok(observation.finish(program, checkpoint.to_owned(), all_rows))
}

/// Returns the configuration of the model that a program was made of.
fn config(artefact: &Artefact) -> Result<Config> {
    let name = &artefact.manifest.program;
    let known = artefact.meta("model").zip(artefact.meta("settings"));
    let preset = known.and_then(|(model, settings)| Some((models::zoo::named(model)?, settings)));
    let Some((preset, settings)) = preset else {
        return Err(failure(
            format!("program `{name}` does not record routing: it is not made of the library `models`"),
            "name a model or a checkpoint of that library",
        ));
    };
    let words = settings.split_whitespace().flat_map(|s| ["--set".to_owned(), s.to_owned()]);
    let parsed = Args::parse(words).map_err(|d| anyhow::anyhow!("the settings of `{name}`: {d}"))?;
    Ok(preset.with(&parsed))
}

/// Returns the numbers of the held-out batches to observe: all, or as many as hold `most` rows, in equal
/// numbers from each corpus and in a fixed pseudo-random order within it.
fn sample(batches: &dyn BatchSource, rows: usize, most: Option<usize>) -> Vec<usize> {
    let mut of_corpus = BTreeMap::<&str, Vec<usize>>::new();
    for number in 0..batches.held_out_batches() {
        of_corpus.entry(batches.held_out_corpus(number).unwrap_or_default()).or_default().push(number);
    }
    let Some(most) = most else { return of_corpus.into_values().flatten().collect() };
    let wanted = most.div_ceil(rows.max(1));
    let mut orders: Vec<_> = of_corpus
        .values()
        .map(|all| {
            let order = Permutation::new(all.len() as u64, &[0]);
            (0..all.len() as u64).map(move |i| all[order.at(i) as usize])
        })
        .collect();
    let mut chosen = Vec::new();
    while chosen.len() < wanted {
        let before = chosen.len();
        chosen.extend(orders.iter_mut().filter_map(Iterator::next));
        if chosen.len() == before {
            break;
        }
    }
    chosen.truncate(wanted);
    chosen
}

/// The state of an observation.
struct Observation {
    spec: BatchSpec,
    routers: Vec<Router>,
    /// For each router, the numbers of its layers among those of the observer.
    numbers: Vec<Vec<usize>>,
    observer: Observer,
    pieces: Vec<String>,
    words: Words,
    texts: Vec<String>,
    rows: u64,
}

impl Observation {
    fn new(config: &Config, spec: BatchSpec, source: &Source, factors: &[f64]) -> Result<Self> {
        let routers = routers(config);
        let Some(switch) = config.sparse_layers().filter(|_| !routers.is_empty()) else {
            return Err(failure(
                format!("`{}` has no sparse layers: there is nothing to route", config.name),
                "name a model with experts, such as a checkpoint of `switch_tiny`",
            ));
        };
        let mut factors = if factors.is_empty() { FACTORS.to_vec() } else { factors.to_vec() };
        factors.sort_by(f64::total_cmp);
        factors.dedup();
        let (mut layers, mut numbers) = (Vec::new(), Vec::new());
        for router in &routers {
            let length = if router.decoder { spec.target_length } else { spec.input_length };
            let layer = Layer {
                d_ff: sizes(config, &switch, router),
                ..layer(&switch, router, spec.batch, length, &factors)
            };
            let new = router.layers.iter().map(|number| Layer { number: *number, ..layer.clone() });
            numbers.push((layers.len()..layers.len() + router.layers.len()).collect());
            layers.extend(new);
        }
        let mut pieces = source.tokenizer().names(spec.vocab)?;
        // The decoder starts with the padding token; other padding is not observed.
        if let Some(start) = pieces.get_mut(spec.pad() as usize) {
            *start = "<start>".to_owned();
        }
        let texts = source.batches().corpora().iter().map(|text| (*text).to_owned()).collect();
        let (observer, words) = (Observer::new(layers), Words::default());
        Ok(Self { spec, routers, numbers, observer, pieces, words, texts, rows: 0 })
    }

    /// Returns the largest number of batches, of `all`, that are sure to have at most `most` counts; at least
    /// one.
    fn affordable(&self, all: usize, most: u64) -> usize {
        let [inputs, targets] =
            [self.spec.input_length, self.spec.target_length].map(|length| (self.spec.batch * length) as u64);
        let fits = |batches: usize| {
            let tokens = [inputs, targets].map(|tokens| tokens.saturating_mul(batches as u64));
            let texts = self.texts.len().max(1) as u64;
            let extent = Extent { pieces: self.spec.vocab as u64, texts, tokens };
            most_counts(self.observer.layers(), &extent) <= most
        };
        let (mut low, mut high) = (1, all.max(1));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            (low, high) = if fits(middle) { (middle, high) } else { (low, middle - 1) };
        }
        low
    }

    /// Adds the outputs of a batch.
    fn add(
        &mut self,
        artefact: &Artefact,
        batch: &Batch,
        text: Option<&str>,
        outputs: &BTreeMap<String, runtime::HostTensor>,
    ) -> Result<()> {
        let text = text.and_then(|text| self.texts.iter().position(|own| own == text)).unwrap_or(0) as u32;
        let is_used = |row: &[i32]| row.iter().any(|token| *token != batch.pad);
        self.rows += batch.targets.chunks(self.spec.target_length).filter(|row| is_used(row)).count() as u64;
        for (stack, decoder) in [("encoder", false), ("decoder", true)] {
            let (tokens, length) = self.tokens(batch, decoder, text);
            let own = self.routers.iter().zip(&self.numbers).filter(|(router, _)| router.decoder == decoder);
            let own: Vec<(Recorded, &Vec<usize>)> = own
                .map(|(router, numbers)| Ok((recorded(artefact, outputs, &router.name)?, numbers)))
                .collect::<Result<_>>()?;
            let mut records: Vec<(usize, Record<'_>)> = Vec::new();
            for (recorded, numbers) in &own {
                for (i, number) in numbers.iter().enumerate() {
                    let record = Record {
                        chosen: &recorded.chosen[i],
                        gate: &recorded.gate[i],
                        state: recorded.state.as_ref().map_or(&[], |all| &all[i]),
                        priority: recorded.priority.as_ref().map(|all| all[i].as_slice()),
                    };
                    records.push((*number, record));
                }
            }
            // In the order of the stack.
            records.sort_by_key(|(number, _)| self.observer.layer(*number).number);
            self.observer
                .add(stack, (&tokens, length), &records)
                .map_err(|what| anyhow::anyhow!("{what}; this is a bug of mesh"))?;
        }
        Ok(())
    }

    /// Returns the tokens that a stack reads, `None` for padding, and their number in a row. The decoder
    /// reads the target token before the one that it predicts.
    fn tokens(&mut self, batch: &Batch, decoder: bool, text: u32) -> (Vec<Option<Token>>, usize) {
        let (ids, length) = match decoder {
            true => (&batch.targets, self.spec.target_length),
            false => (&batch.inputs, self.spec.input_length),
        };
        let segments = batch.segments.as_ref().map(|[_, targets]| targets);
        let mut all = Vec::with_capacity(ids.len());
        for (number, row) in ids.chunks(length.max(1)).enumerate() {
            let first = |at: usize| {
                let same = |of: &Vec<i32>| of[number * length + at] == of[number * length + at - 1];
                at == 0 || segments.is_some_and(|of| !same(of))
            };
            let read = |at: usize| match decoder {
                true if first(at) => batch.pad,
                true => row[at - 1],
                false => row[at],
            };
            let read: Vec<u32> = (0..row.len()).map(|at| read(at) as u32).collect();
            let pieces: Vec<&str> = read
                .iter()
                .map(|token| self.pieces.get(*token as usize).map_or("", String::as_str))
                .collect();
            let words = self.words.of_row(&pieces);
            let token = |at: usize| Token { piece: read[at], word: words[at], position: at, text };
            all.extend((0..row.len()).map(|at| (row[at] != batch.pad).then(|| token(at))));
        }
        (all, length)
    }

    fn finish(self, program: String, checkpoint: String, all_rows: u64) -> Routes {
        let lengths = [self.spec.input_length, self.spec.target_length];
        let length = move |stack: &str| lengths[usize::from(stack == "decoder")];
        let (pieces, words, texts) = (&self.pieces, &self.words.list, &self.texts);
        let found = self.observer.finish(Names { pieces, words, texts, length: &length });
        Routes { program, checkpoint, rows: self.rows, all_rows, ..found }
    }
}

/// Returns the size of the hidden layer of each expert; none for experts in attention.
fn sizes(config: &Config, switch: &Switch, router: &Router) -> Vec<usize> {
    let sizes = if router.part == "ffn" { switch.sizes(config.d_ff) } else { Vec::new() };
    of_experts(&sizes.iter().map(|size| (size.count, size.d_ff)).collect::<Vec<_>>())
}

/// Returns a value for each expert, of values for numbers of experts.
fn of_experts(sizes: &[(usize, usize)]) -> Vec<usize> {
    sizes.iter().flat_map(|(count, value)| std::iter::repeat_n(*value, *count)).collect()
}

/// Returns the facts of the layers of a router.
fn layer(switch: &Switch, router: &Router, batch: usize, length: usize, factors: &[f64]) -> Layer {
    let [_, group, capacity] = groups(switch, batch, length);
    let two_steps = switch.expert_groups > 0;
    let rule = match switch.routing {
        RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection => Rule::Experts,
        RoutingMethod::Switch if two_steps => Rule::TwoSteps,
        RoutingMethod::Switch | RoutingMethod::TopK | RoutingMethod::Hash | RoutingMethod::Random => {
            Rule::Tokens { one_slot: false }
        }
        RoutingMethod::Ntlb => Rule::Tokens { one_slot: true },
    };
    let with = |factor: &f64| {
        let eval_capacity = EvalCapacity::Factor;
        let other =
            Switch { eval_capacity, eval_capacity_factor: *factor, fixed_capacity: 0, ..switch.clone() };
        (*factor, of_experts(&other.capacities(group, false)))
    };
    let capacities = match two_steps {
        true => vec![switch.group_capacities(group, false).1; switch.experts],
        false => of_experts(&switch.capacities(group, false)),
    };
    Layer {
        stack: if router.decoder { "decoder" } else { "encoder" }.to_owned(),
        number: 0,
        part: router.part.to_owned(),
        experts: switch.experts,
        group,
        choices: match rule {
            Rule::Experts => switch.experts * capacity,
            Rule::Tokens { .. } | Rule::TwoSteps => group * switch.choices(),
        },
        capacity: capacities,
        d_ff: Vec::new(),
        rule,
        what_if: factors.iter().map(with).collect(),
    }
}
