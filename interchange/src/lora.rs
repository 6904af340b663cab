//! Merging of low-rank adapters into their matrices.

use crate::{Origin, Overrides, facts, failure};
use anyhow::{Context, Result};
use models::lora::{A, B, Lora};
use runtime::{
    HostTensor,
    checkpoint::{Checkpoint, Entry, Kind, Writer},
};
use std::path::Path;

/// Writes the parameters of `from` as the checkpoint `out` of the model without adapters: every matrix
/// with an adapter is `W + alpha / rank · A B`. Slots and counters are left. Returns the number of merged
/// matrices.
///
/// # Errors
/// The checkpoint does not name its model or has no adapters, or a file cannot be read or written.
pub fn merge(from: &Checkpoint, out: &Path) -> Result<usize> {
    let origin = Origin::of(from, None, &Overrides::default())?;
    let lora = origin.config()?.lora.ok_or_else(|| {
        failure(
            format!("`{}` has no adapters", from.dir().display()),
            "name a checkpoint of a model with `--set lora_rank=RANK`",
        )
    })?;
    let mut writer = Writer::create(out)?;
    let mut merged = 0;
    for entry in from.tensors().iter().filter(|e| e.kind == Kind::Param && !is_part(&e.name)) {
        let mut value = from.read(&entry.name)?;
        if from.tensor(&part(entry, A)).is_some() {
            add(from, entry, &lora, &mut value)?;
            merged += 1;
        }
        writer.part(&entry.name, entry.kind, &entry.dims, &vec![0; entry.dims.len()], value)?;
    }
    if let Some(tokenizer) = from.tokenizer()? {
        writer.tokenizer(&tokenizer)?;
    }
    let mut described = from.facts().clone();
    let settings = origin.settings.split(' ').filter(|s| !s.starts_with("lora_"));
    described.insert(facts::SETTINGS.into(), settings.collect::<Vec<_>>().join(" "));
    writer.finish(described, from.step())?;
    Ok(merged)
}

fn is_part(name: &str) -> bool {
    name.rsplit_once('/').is_some_and(|(_, last)| last == A || last == B)
}

fn part(entry: &Entry, name: &str) -> String {
    format!("{}/{name}", entry.name)
}

/// Adds the product of an adapter to its matrix.
fn add(from: &Checkpoint, entry: &Entry, lora: &Lora, value: &mut HostTensor) -> Result<()> {
    let read = |name: &str| -> Result<(Vec<f64>, Vec<usize>, usize)> {
        let name = part(entry, name);
        let dims = &from.tensor(&name).with_context(|| format!("`{name}` is missing"))?.dims;
        // The distance between neighbours along a dim, 0 for a dim that the part does not have.
        let stride = |dim: &str| {
            let at = dims.iter().position(|d| d.0 == dim);
            at.map_or(0, |at| dims[at + 1..].iter().map(|d| d.1).product())
        };
        let of_matrix = entry.dims.iter().map(|d| stride(&d.0)).collect();
        Ok((from.read(&name)?.to_f64()?, of_matrix, stride(RANK)))
    };
    let ((a, a_strides, a_rank), (b, b_strides, b_rank)) = (read(A)?, read(B)?);
    let (scale, sizes) = (lora.scale() as f32, entry.sizes());
    let mut index = vec![0; sizes.len()];
    for bytes in value.bytes.chunks_exact_mut(4) {
        let place = |strides: &[usize]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        let (at_a, at_b) = (place(&a_strides), place(&b_strides));
        let product = (0..lora.rank).map(|r| a[at_a + r * a_rank] as f32 * b[at_b + r * b_rank] as f32);
        let own = f32::from_le_bytes(bytes.try_into().expect("chunks have four bytes"));
        bytes.copy_from_slice(&(own + product.sum::<f32>() * scale).to_le_bytes());
        for (i, size) in index.iter_mut().zip(&sizes).rev() {
            *i += 1;
            if *i < *size {
                break;
            }
            *i = 0;
        }
    }
    Ok(())
}

/// The dim between the two parts of an adapter.
const RANK: &str = "lora_rank";
