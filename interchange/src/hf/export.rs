//! Export of a checkpoint as a Hugging Face model, one tensor at a time.

use super::{
    companions, config,
    elements::{narrowed, transposed},
    file::{Element, header},
    folder::{EMBEDDINGS, HEAD},
};
use crate::{
    Origin, Overrides,
    exported::{absent, check, publish, unfinished},
    facts, failure,
    types::ElementTypes,
};
use anyhow::{Context, Result};
use models::{
    Config,
    hf::{self, Tensor},
};
use runtime::checkpoint::Checkpoint;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

/// The result of an export.
#[derive(Debug)]
pub struct Exported {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of files with tensors.
    pub files: usize,
    /// The tokenizer: the names of its files, or the reason why there are none.
    pub tokenizer: Result<Vec<&'static str>, String>,
}

/// Writes the new directory `out`, with files of at most `most` bytes. A larger tensor has its own file.
pub fn export(
    dir: &Path,
    model: Option<&str>,
    overrides: &Overrides,
    out: &Path,
    most: u64,
) -> Result<Exported> {
    absent(out)?;
    let checkpoint = Checkpoint::open(dir)?;
    let origin = Origin::of(&checkpoint, model, overrides)?;
    let config = origin.config()?;
    let mut tensors = hf::tensors(&config).map_err(|why| {
        failure(
            format!("`{}` has no Hugging Face counterpart: {why}", dir.display()),
            "see docs/interchange.md",
        )
    })?;
    check(&checkpoint, &tensors.iter().map(|t| (t.param.as_str(), &t.dims)).collect())?;
    let parameters = tensors.iter().map(|t| t.sizes.iter().product::<usize>()).sum();
    tensors.extend(copied_head(&config, &tensors));
    // Without facts of an import, the type suits the precision of the model.
    let usual = if origin.dtype == "f32" { Element::F32 } else { Element::Bf16 };
    let elements = ElementTypes::of(&checkpoint, facts::ELEMENTS, usual)?;
    let text = match checkpoint.facts().get(facts::CONFIG) {
        Some(text) if overrides.is_empty() && model.is_none() => text.clone(),
        Some(_) | None => config::write(&config, dtype(elements.usual())).map_err(|why| {
            failure(
                format!("`{}` cannot be described by config.json: {why}", dir.display()),
                "see docs/interchange.md",
            )
        })?,
    };
    let tokenizer = companions::tokenizer(&checkpoint, &config)?;
    let card = companions::card(
        &config,
        parameters,
        checkpoint.step(),
        tokenizer.as_ref().err().map(String::as_str),
    );
    let scratch = unfinished(out)?;
    let shards = shards(&tensors, &elements, most);
    write(&checkpoint, &shards, &elements, scratch.path())?;
    let mut others = tokenizer.clone().unwrap_or_default();
    others.insert("config.json", text.into_bytes());
    others.insert("generation_config.json", companions::generation(&config, checkpoint.facts()));
    others.insert("README.md", card.into_bytes());
    for (name, contents) in &others {
        fs::write(scratch.path().join(name), contents).with_context(|| format!("writing {name}"))?;
    }
    publish(&scratch, out)?;
    let tokenizer = tokenizer.map(|files| files.into_keys().collect());
    Ok(Exported { tensors: tensors.len(), files: shards.len(), tokenizer })
}

/// Returns the output projection as a separate tensor if it shares the embedding but its input is not
/// scaled. Older transformers can express this only as untied tables with the same elements.
fn copied_head(config: &Config, tensors: &[Tensor]) -> Option<Tensor> {
    let copied = config.tied && !config.scales_output() && !config.is_decoder_only();
    let embedding = tensors.iter().find(|t| copied && t.name == EMBEDDINGS[0])?;
    Some(Tensor { name: HEAD.into(), ..embedding.clone() })
}

/// Returns the name of a type in `config.json`.
fn dtype(element: Element) -> &'static str {
    match element {
        Element::F32 | Element::I32 => "float32",
        Element::F64 => "float64",
        Element::Bf16 => "bfloat16",
        Element::F16 => "float16",
    }
}

fn bytes(tensor: &Tensor, elements: &ElementTypes) -> u64 {
    (tensor.sizes.iter().product::<usize>() * elements.get(&tensor.name).size()) as u64
}

fn shards<'t>(tensors: &'t [Tensor], elements: &ElementTypes, most: u64) -> Vec<Vec<&'t Tensor>> {
    let mut shards: Vec<Vec<&Tensor>> = vec![Vec::new()];
    let mut sum = 0;
    for tensor in tensors {
        let own = bytes(tensor, elements);
        if sum > 0 && sum + own > most {
            shards.push(Vec::new());
            sum = 0;
        }
        sum += own;
        shards.last_mut().expect("there is one from the start").push(tensor);
    }
    shards
}

fn write(
    checkpoint: &Checkpoint,
    shards: &[Vec<&Tensor>],
    elements: &ElementTypes,
    dir: &Path,
) -> Result<()> {
    let mut map = BTreeMap::new();
    let mut total = 0;
    for (i, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let path = dir.join(&name);
        let writing = || format!("writing `{}`", path.display());
        let mut file = BufWriter::new(File::create_new(&path).with_context(writing)?);
        let head: Vec<_> =
            shard.iter().map(|t| (t.name.clone(), elements.get(&t.name), t.sizes.clone())).collect();
        file.write_all(&header(&head)).with_context(writing)?;
        for tensor in shard {
            file.write_all(&theirs(checkpoint, tensor, elements.get(&tensor.name))?).with_context(writing)?;
            map.insert(tensor.name.clone(), name.clone());
            total += bytes(tensor, elements);
        }
        file.into_inner().context("writing")?.sync_all().with_context(writing)?;
    }
    if shards.len() > 1 {
        let files: BTreeSet<&String> = map.values().collect();
        debug_assert_eq!(files.len(), shards.len());
        let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
        let path = dir.join("model.safetensors.index.json");
        fs::write(&path, serde_json::to_vec_pretty(&index)?)
            .with_context(|| format!("writing `{}`", path.display()))?;
    }
    Ok(())
}

/// Returns the bytes of an exported tensor.
fn theirs(checkpoint: &Checkpoint, tensor: &Tensor, element: Element) -> Result<Vec<u8>> {
    let part = checkpoint.read_box(&tensor.param, &tensor.start, &tensor.part)?;
    let bytes = if tensor.transposed {
        transposed(&part.bytes, tensor.sizes[1], tensor.sizes[0])
    } else {
        part.bytes
    };
    Ok(narrowed(element, bytes))
}
