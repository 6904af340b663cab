//! Evaluation on held-out rows.

use super::{evaluator::Evaluator, ledger::Evaluated, options::Options, stop::Stop};
use crate::{Contract, Error, HostTensor, Result, Session};
use data::{Batch, BatchSource, Rows};
use job::Job;
use proto::manifest::{Dim, TaskKind};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

/// The evaluation data and interval.
pub(super) struct Evaluation {
    data: Arc<dyn BatchSource>,
    pub every: u64,
    batches: usize,
    evaluator: Option<Rc<dyn Evaluator>>,
    /// The value whose largest is best. `None` means the smallest loss.
    best: Option<String>,
}

impl Evaluation {
    pub(super) fn new(data: &Arc<dyn BatchSource>, options: &Options) -> Result<Option<Self>> {
        let Some(every) = options.eval_every else { return Ok(None) };
        let data = options.eval_data.as_ref().unwrap_or(data).clone();
        let batches = data.held_out_batches().min(options.eval_batches.unwrap_or(usize::MAX));
        if every == 0 || batches == 0 {
            return Err(Error::input(
                format!("`--eval-every {every}` needs at least one batch of held-out rows, got {batches}"),
                "raise --held-out, or give a longer text with --eval-data",
            ));
        }
        let (evaluator, best) = (options.evaluator.clone(), options.best.clone());
        Ok(Some(Self { data, every, batches, evaluator, best }))
    }

    /// Returns the loss of an evaluation, and its cost: the loss, or the metric of `--best` with the opposite
    /// sign.
    pub(super) fn evaluated(&self, eval: &BTreeMap<String, f64>) -> Result<Evaluated> {
        let loss = eval.get("loss").copied().unwrap_or(f64::NAN);
        let Some(name) = &self.best else { return Ok(Evaluated { loss, cost: loss }) };
        let value = eval.get(name).ok_or_else(|| {
            let has: Vec<&str> = eval.keys().map(String::as_str).collect();
            Error::input(
                format!("`--best {name}`: the evaluation has no such value"),
                format!("it has `{}`", has.join("`, `")),
            )
        })?;
        Ok(Evaluated { loss, cost: -value })
    }

    /// Returns means over the batches, and the values of the evaluator. `None` if the run is to stop before
    /// the last batch.
    pub(super) fn run(
        &self,
        session: &mut Session,
        step: u64,
        stop: &mut Stop<'_>,
    ) -> Result<Option<BTreeMap<String, f64>>> {
        let rows = rows(session)?;
        let means = means(session, held_out(&*self.data, self.batches, &rows), &mut || stop.is_here())?;
        let Some(Means { numbers: mut means, .. }) = means else { return Ok(None) };
        if let Some(evaluator) = &self.evaluator {
            means.extend(evaluator.evaluate(session, step)?);
        }
        Ok(Some(means))
    }
}

/// Means over held-out batches.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Means {
    /// The mean of each scalar output of `eval_step`, weighted by target tokens; of an output with the dim
    /// `layers` alone, such as the fraction of dropped tokens, also the mean over layers. With several
    /// corpora, also the means of each as `NAME/loss`.
    pub numbers: BTreeMap<String, f64>,
    /// The same for outputs by layer and further dims, such as the load of experts: dims and values.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// Evaluates the first `batches` batches of held-out rows. `job` is told of every batch.
///
/// # Errors
/// A batch cannot be read, or a call fails.
pub fn evaluate(session: &mut Session, data: &dyn BatchSource, batches: usize, job: &Job) -> Result<Means> {
    let rows = rows(session)?;
    let mut number = 0;
    let mut tell = || {
        number += 1;
        job.enter("evaluate", number);
        Ok(false)
    };
    Ok(means(session, held_out(data, batches, &rows), &mut tell)?.unwrap_or_default())
}

/// Returns all outputs of `eval_step` for a batch, by name.
///
/// # Errors
/// The call fails.
pub fn outputs(session: &mut Session, batch: &Batch) -> Result<BTreeMap<String, HostTensor>> {
    let contract = Contract::of_kind(session.artefact(), TaskKind::Train)?;
    let feeds = contract.feeds(session.artefact().function("eval_step")?, batch, 0);
    session.call("eval_step", &feeds)?.wait()
}

/// A batch and the corpus it is from, if there are several corpora.
type OfText<'a> = Result<(Batch, Option<&'a str>)>;

fn held_out<'a>(
    data: &'a dyn BatchSource,
    batches: usize,
    rows: &'a Rows,
) -> impl Iterator<Item = OfText<'a>> {
    let batch = |number| Ok((data.held_out_batch_rows(number, rows)?, data.held_out_corpus(number)));
    (0..batches).map(batch)
}

/// Returns the rows of evaluation batches that the devices of this process need.
fn rows(session: &Session) -> Result<Rows> {
    Contract::of_kind(session.artefact(), TaskKind::Train)?.rows(session, "eval_step")
}

/// Returns the outputs of `eval_step` whose first dim is `layers`.
fn outputs_by_layer(session: &Session) -> Result<BTreeSet<String>> {
    let outputs = &session.artefact().function("eval_step")?.outputs;
    let is_by_layer = |dims: &[Dim]| dims.first().is_some_and(|d| d.name == "layers" && d.size > 0);
    let names = outputs.iter().filter(|o| o.tensor.as_ref().is_some_and(|t| is_by_layer(&t.dims)));
    Ok(names.map(|o| o.name.clone()).collect())
}

fn means<'a>(
    session: &mut Session,
    batches: impl Iterator<Item = OfText<'a>>,
    stop: &mut dyn FnMut() -> Result<bool>,
) -> Result<Option<Means>> {
    let contract = Contract::of_kind(session.artefact(), TaskKind::Train)?;
    let by_layer = outputs_by_layer(session)?;
    let mut sums = Sums::default();
    for batch in batches {
        if stop()? {
            return Ok(None);
        }
        let (batch, text) = batch?;
        let weight = batch.target_tokens();
        let texts: Vec<&str> = [""].into_iter().chain(text).collect();
        for (name, value) in outputs(session, &batch)? {
            if value.dims.is_empty() || by_layer.contains(&name) {
                let name = contract.output_role(&name);
                texts.iter().try_for_each(|text| sums.add(text, name, &value, weight))?;
            }
        }
        texts.into_iter().for_each(|text| *sums.tokens.entry(text.to_owned()).or_default() += weight);
    }
    Ok(Some(sums.means()))
}

/// Sums of value times tokens, and of tokens, for all batches (the empty name) and for each corpus.
#[derive(Default)]
struct Sums {
    values: BTreeMap<(String, String), (Vec<usize>, Vec<f64>)>,
    tokens: BTreeMap<String, usize>,
}

impl Sums {
    fn add(&mut self, text: &str, name: &str, value: &HostTensor, weight: usize) -> Result<()> {
        let values = value.to_f64()?;
        let zeros = || (value.dims.clone(), vec![0.0; values.len()]);
        let (_, sum) = self.values.entry((text.to_owned(), name.to_owned())).or_insert_with(zeros);
        sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value * weight as f64);
        Ok(())
    }

    fn means(self) -> Means {
        let full =
            |text: &str, name: &str| if text.is_empty() { name.to_owned() } else { format!("{text}/{name}") };
        let mut means = Means::default();
        for ((text, name), (dims, mut values)) in self.values {
            let tokens = self.tokens[&text] as f64;
            if dims.len() < 2 {
                let sum = values.iter().sum::<f64>() / values.len() as f64;
                means.numbers.insert(full(&text, &name), sum / tokens);
            } else {
                values.iter_mut().for_each(|value| *value /= tokens);
                means.tensors.insert(full(&text, &name), (dims, values));
            }
        }
        // `tokens` is a sum, not a mean.
        let tokens = self.tokens.iter().map(|(text, tokens)| (full(text, "tokens"), *tokens as f64));
        means.numbers.extend(tokens);
        means
    }
}
