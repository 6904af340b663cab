//! Verification of a model against expected values: the directory has `inputs.safetensors` and
//! `expected.safetensors`, and optionally `meta.json` with losses. docs/interchange.md describes the names of
//! the tensors.
//!
//! Reading order: here (which programs run with which inputs), [`backend`] (compiles them), [`run`] (one
//! program with the folder's weights), `greedy` (generation), `compare` (what came out against what
//! should have).

pub mod backend;
pub mod compare;
mod greedy;
pub mod run;

pub use backend::{Backend, Opened};

use super::Folder;
use crate::{failure, tensors};
use anyhow::{Context, Result};
use compare::{Comparison, compare, distance, is_number};
use models::{Config, Precision};
use run::{Got, Run, Total};
use runtime::HostTensor;
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// The inputs and expected values of a directory.
struct Expected {
    inputs: BTreeMap<String, HostTensor>,
    tensors: BTreeMap<String, HostTensor>,
    meta: Value,
}

impl Expected {
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            if path.is_file() {
                tensors::read(&[path])
            } else {
                Err(failure(
                    format!("`{}` has no {name}", dir.display()),
                    "--verify takes a directory with a model, inputs.safetensors and expected.safetensors",
                ))
            }
        };
        let (inputs, tensors) = (read("inputs.safetensors")?, read("expected.safetensors")?);
        let path = dir.join("meta.json");
        let meta = if path.is_file() {
            let text =
                proto::regular::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
            serde_json::from_slice(&text).with_context(|| format!("`{}` is not JSON", path.display()))?
        } else {
            Value::Null
        };
        Ok(Self { inputs, tensors, meta })
    }

    /// True if a gradient of `total`, or its norm, is expected.
    fn wants(&self, prefix: &str, total: Total) -> bool {
        let start = format!("{prefix}grad.{}.", total.name());
        let norms = self.meta["grad_norms"].as_object();
        let norm = || norms.is_some_and(|n| n.values().any(|v| v[total.name()].is_number()));
        self.tensors.keys().any(|k| k.starts_with(&start)) || (prefix.is_empty() && norm())
    }
}

/// Runs the model of `dir` and compares its results with the expected values.
pub fn verify(dir: &Path, backend: &dyn Backend) -> Result<Comparison> {
    let folder = Folder::open(dir)?;
    if let Some(class) = folder.described.causal {
        return Err(failure(
            format!(
                "`{}` has a {}, and verification needs a model with an encoder",
                dir.display(),
                class.name()
            ),
            "import it without --verify, and compare log-likelihoods of `meshc score` with those of transformers",
        ));
    }
    let expected = Expected::read(dir)?;
    let mut comparison = Comparison::default();
    let narrow = folder.config.precision != Precision::F32;
    one(&folder, &expected, folder.config.precision, "", narrow, backend, &mut comparison)?;
    if narrow {
        // Also runs the same weights in 32-bit floats throughout.
        one(&folder, &expected, Precision::F32, "f32.", false, backend, &mut comparison)?;
    }
    let known = &comparison.tensors;
    comparison.skipped = expected.tensors.keys().filter(|k| !known.contains_key(*k)).cloned().collect();
    Ok(comparison)
}

/// Runs with one precision, and compares with the expected values whose names begin with `prefix`.
fn one(
    folder: &Folder,
    expected: &Expected,
    precision: Precision,
    prefix: &str,
    narrow: bool,
    backend: &dyn Backend,
    comparison: &mut Comparison,
) -> Result<()> {
    let totals: Vec<Total> = Total::ALL.into_iter().filter(|t| expected.wants(prefix, *t)).collect();
    let config = Config { precision, ..folder.config.clone() };
    let mut run = Run::new(folder, &config, &expected.inputs, !totals.is_empty(), backend)?;
    if prefix.is_empty() {
        comparison.placed = run.placed.clone();
    }
    let mut all: BTreeMap<Total, Got> = BTreeMap::new();
    for total in if totals.is_empty() { vec![Total::Ce] } else { totals.clone() } {
        all.insert(total, run.probe(total)?);
    }
    let first = all.values().next().expect("at least one total was run");
    for (name, want) in &expected.tensors {
        let Some(plain) = name.strip_prefix(prefix).filter(|p| !p.starts_with("f32.")) else { continue };
        if let Some(got) = first.tensors.get(plain) {
            comparison.tensors.insert(name.clone(), compare(name, got, want, narrow)?);
        } else if let Some((total, parameter)) = gradient(plain) {
            let found = all.get(&total).and_then(|got| got.gradients.get(parameter));
            if let Some(got) = found {
                comparison.tensors.insert(name.clone(), compare(name, got, want, narrow)?);
                let exact = expected.tensors.get(&format!("f32.{name}")).filter(|_| narrow);
                if let Some(exact) = exact {
                    // The gradient in 16 bits, compared with the exact gradient.
                    let name = format!("bf16.{name}");
                    comparison.tensors.insert(name.clone(), compare(&name, got, exact, narrow)?);
                }
            }
        }
    }
    losses(&run, first, expected, prefix, narrow, comparison);
    for (name, want) in &expected.tensors {
        let cached = match name.strip_prefix(prefix) {
            Some("generate.cached") => true,
            Some("generate.uncached") => false,
            Some(_) | None => continue,
        };
        let steps = want.dims.get(1).map_or(0, |n| n.saturating_sub(1));
        if steps > 0 {
            // Always in 32-bit floats: rounding to 16 bits decides near ties.
            let exact = Config { precision: Precision::F32, ..config.clone() };
            let ids = greedy::greedy(folder, &exact, &expected.inputs, steps, cached, backend)?;
            comparison.tensors.insert(name.clone(), compare(name, &ids, want, narrow)?);
        }
    }
    if prefix.is_empty() {
        norms(&all, expected, narrow, comparison);
        descent(&mut run, &all, expected, comparison)?;
    }
    Ok(())
}

/// Parses `grad.TOTAL.PARAMETER`.
fn gradient(name: &str) -> Option<(Total, &str)> {
    let (total, parameter) = name.strip_prefix("grad.")?.split_once('.')?;
    Some((Total::ALL.into_iter().find(|t| t.name() == total)?, parameter))
}

fn losses(
    run: &Run,
    got: &Got,
    expected: &Expected,
    prefix: &str,
    narrow: bool,
    comparison: &mut Comparison,
) {
    let key = if prefix.is_empty() { "scalars" } else { "scalars_f32" };
    let wanted = expected.meta[key].as_object();
    let all = run.losses(got);
    for (name, got) in &all {
        let want = wanted.and_then(|w| w.get(name)).and_then(Value::as_f64);
        comparison.losses.insert(format!("{prefix}{name}"), compare::Loss::new(*got, want, 2e-5, narrow));
    }
    let missing = wanted.into_iter().flatten().map(|(name, _)| name).filter(|n| !all.contains_key(*n));
    comparison.skipped_losses.extend(missing.map(|n| format!("{prefix}{n}")));
}

/// Compares the norms of the parameters' gradients.
fn norms(all: &BTreeMap<Total, Got>, expected: &Expected, narrow: bool, comparison: &mut Comparison) {
    for (parameter, by_total) in expected.meta["grad_norms"].as_object().into_iter().flatten() {
        for (total, got) in all {
            let Some(want) = by_total[total.name()].as_f64() else { continue };
            let Some(gradient) = got.gradients.get(parameter) else { continue };
            let norm = distance(gradient, &vec![0.0; gradient.len()]);
            let name = format!("{}.{parameter}", total.name());
            let allowed = if is_number(want) { 5e-4 * want } else { 0.0 };
            comparison.norms.insert(name, compare::Loss::new(norm, Some(want), allowed, narrow));
        }
    }
}

/// Compares the losses of plain gradient descent on one batch.
fn descent(
    run: &mut Run,
    all: &BTreeMap<Total, Got>,
    expected: &Expected,
    comparison: &mut Comparison,
) -> Result<()> {
    let wanted = &expected.meta["train_sgd"];
    let (Some(rate), Some(losses)) = (wanted["learning_rate"].as_f64(), wanted["losses"].as_array()) else {
        return Ok(());
    };
    let name = wanted["loss"].as_str().unwrap_or_default();
    let Some(total) = Total::ALL.into_iter().find(|t| t.name() == name) else { return Ok(()) };
    let Some(mut got) = all.get(&total).cloned() else { return Ok(()) };
    for (i, want) in losses.iter().enumerate() {
        if i > 0 {
            run.descend(&got, rate)?;
            got = run.probe(total)?;
        }
        let loss = run.losses(&got)[&format!("loss.{name}")];
        comparison
            .losses
            .insert(format!("train_sgd.{i}"), compare::Loss::new(loss, want.as_f64(), 1e-3, false));
    }
    Ok(())
}
