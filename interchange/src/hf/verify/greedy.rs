//! Reference greedy decoding: runs the whole decoder for every token.

use super::{backend::Backend, run};
use crate::hf::folder::Folder;
use anyhow::{Context, Result};
use mesh::Site;
use models::{Config, probe};
use runtime::HostTensor;
use std::collections::BTreeMap;

/// The token that ends a sequence.
const END: i32 = 1;

/// Returns the start token 0 and `steps` generated tokens per sequence, 0 after the end: `[batch, steps +
/// 1]`. If `cached` is true, the decoder's routers see one position at a time, as with a KV cache.
pub fn greedy(
    folder: &Folder,
    config: &Config,
    inputs: &BTreeMap<String, HostTensor>,
    steps: usize,
    cached: bool,
    backend: &dyn Backend,
) -> Result<Vec<f64>> {
    let [batch, length, _] = run::sizes(folder, inputs)?;
    let site = Site::new(folder.dir.display().to_string(), 0, 0, "");
    let of = |rows| Config { batch: rows, input_length: length, target_length: steps, ..config.clone() };
    let build = |rows| probe::logits(&of(rows), cached, &site);
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

/// Returns the index of the first maximum.
fn best(logits: &[f64]) -> Option<i32> {
    let mut best: Option<(usize, f64)> = None;
    for (i, x) in logits.iter().enumerate() {
        if best.is_none_or(|(_, most)| *x > most) {
            best = Some((i, *x));
        }
    }
    best.and_then(|(i, _)| i32::try_from(i).ok())
}
