//! The most likely tokens one after the other, by running the whole decoder for each: slow, and so plain that
//! it can be compared with faster ways.

use super::{backend::Backend, run};
use crate::hf::folder::Folder;
use anyhow::{Context, Result};
use mesh::Site;
use models::{Config, probe};
use runtime::HostTensor;
use std::collections::BTreeMap;

/// The token that ends a sequence.
const END: i32 = 1;

/// `steps` tokens after the start token 0, and 0 after the end of a sequence: `[batch, steps + 1]`. `apart`: the
/// decoder's routers see one position at a time.
pub fn greedy(
    folder: &Folder,
    config: &Config,
    inputs: &BTreeMap<String, HostTensor>,
    steps: usize,
    apart: bool,
    backend: &dyn Backend,
) -> Result<Vec<f64>> {
    let [batch, length, _] = run::sizes(folder, inputs)?;
    let site = Site::new(folder.dir.display().to_string(), 0, 0, "");
    let of = |rows| Config { batch: rows, input_length: length, target_length: steps, ..config.clone() };
    let build = |rows| probe::logits(&of(rows), apart, &site);
    let mut loaded = run::load(folder, batch, config, &build, backend)?;
    let times = loaded.rows / batch;
    let mut given: BTreeMap<String, HostTensor> = BTreeMap::new();
    for name in ["input_ids", "attention_mask"] {
        given.insert(name.to_owned(), run::repeated(&inputs[name], times));
    }
    let mut ids = vec![vec![0; steps + 1]; batch];
    let mut done = vec![false; batch];
    for step in 0..steps {
        let before: Vec<i32> = ids.iter().flat_map(|row| row[..steps].to_vec()).collect();
        let before = run::repeated(&HostTensor::s32(&[batch, steps], &before), times);
        given.insert("decoder_input_ids".to_owned(), before);
        let results = loaded.session.call("logits", &given)?.wait()?;
        let logits = results["logits"].to_f64()?;
        for (row, (ids, done)) in ids.iter_mut().zip(&mut done).enumerate() {
            if *done {
                continue;
            }
            let start = (row * steps + step) * config.vocab;
            let token = best(&logits[start..start + config.vocab]).context("there is a vocabulary")?;
            ids[step + 1] = token;
            *done = token == END;
        }
    }
    Ok(ids.into_iter().flatten().map(f64::from).collect())
}

/// The first of the largest.
fn best(logits: &[f64]) -> Option<i32> {
    let mut best: Option<(usize, f64)> = None;
    for (i, x) in logits.iter().enumerate() {
        if best.is_none_or(|(_, most)| *x > most) {
            best = Some((i, *x));
        }
    }
    best.and_then(|(i, _)| i32::try_from(i).ok())
}
