//! Import of a Hugging Face model as a checkpoint, one tensor at a time.

use super::{
    elements::{beyond_f32, transposed, widened},
    file::Element,
    folder::{Folder, Tokenizer},
    generation::GenerationDefaults,
};
use crate::{facts, failure, types::ElementTypes};
use anyhow::Result;
use models::hf::Tensor;
use runtime::{
    ElementType, HostTensor,
    checkpoint::{Facts, Kind, TOKENIZER, Writer},
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// Number of Hugging Face tensors.
    pub tensors: usize,
    /// Number of elements.
    pub elements: u64,
    /// Options of generation of the directory that `meshc generate` does not follow.
    pub warnings: Vec<String>,
}

/// Writes the checkpoint `out` atomically.
pub fn import(folder: &Folder, out: &Path) -> Result<Imported> {
    let generation = GenerationDefaults::read(&folder.dir, &folder.described.text, &folder.config)?;
    let mut warnings = generation.warnings;
    let mut writer = Writer::create(out)?;
    let mut kinds: BTreeMap<String, Element> = BTreeMap::new();
    let mut elements = 0;
    for tensor in &folder.tensors {
        let (element, value) = part(folder, tensor)?;
        kinds.insert(tensor.name.clone(), element);
        elements += value.dims.iter().product::<usize>() as u64;
        writer.part(&tensor.param, Kind::Param, &tensor.dims, &tensor.start, value)?;
    }
    let mut recorded = described(folder, &ElementTypes::imported(kinds));
    if !generation.settings.is_empty() {
        recorded.insert(facts::GENERATION.into(), generation.settings);
    }
    match folder.tokenizer()? {
        Tokenizer::Bytes => drop(recorded.insert(TOKENIZER.into(), "bytes".into())),
        Tokenizer::File(contents) => match with_model_numbers(folder, contents) {
            Ok(contents) => writer.tokenizer(&contents)?,
            Err(why) => warnings.push(format!(
                "the tokenizer of `{}` is not stored, so that commands take token ids only: {why}",
                folder.dir.display()
            )),
        },
        Tokenizer::Unknown => {}
    }
    writer.finish(recorded, 0)?;
    Ok(Imported { tensors: folder.tensors.len(), elements, warnings })
}

/// Reads a Hugging Face tensor as a part of one of our parameters, and returns its original element type.
pub fn part(folder: &Folder, tensor: &Tensor) -> Result<(Element, HostTensor)> {
    let (element, bytes) = folder.read(&tensor.name)?;
    if let Some(beyond) = beyond_f32(element, &bytes) {
        return Err(failure(
            format!("tensor `{}` has the element {beyond:e}, which no 32-bit float can hold", tensor.name),
            "parameters are 32-bit floats: scale the model, or save it with float32 elements",
        ));
    }
    let bytes = widened(element, bytes);
    let bytes = if tensor.transposed { transposed(&bytes, tensor.sizes[0], tensor.sizes[1]) } else { bytes };
    Ok((element, HostTensor { dtype: ElementType::F32, dims: tensor.part.clone(), bytes }))
}

/// Returns the contents of a tokenizer with which commands give tokens the numbers that the model has, or the
/// reason why there is none. Tokenizers of decoder-only models often do not begin with padding and the end;
/// their tokens keep the numbers of the file then.
fn with_model_numbers(folder: &Folder, contents: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
    if folder.described.causal.is_none() {
        return Ok(contents);
    }
    let parse = |contents: &[u8]| {
        data::tokenizer::parse(contents.into(), "tokenizer").map_err(|error| error.to_string())
    };
    if parse(&contents)?.offset() == 0 {
        return Ok(contents);
    }
    let marked = data::tokenizer::with_file_numbers(&contents);
    let parsed = parse(&marked)?;
    let [before, after] = parsed.added().map_err(|error| error.to_string())?;
    let start = folder.config.start_token as i32;
    let (starts, ends) = added_by_class(folder);
    let starts = starts.unwrap_or(!before.is_empty());
    if !starts {
        return Err(format!("it adds no start token to a text, and the model begins with token {start}"));
    }
    if !before.is_empty() && before != [start] {
        return Err(format!("it begins a text with tokens {before:?}, and the model with token {start}"));
    }
    if ends.unwrap_or(!after.is_empty()) {
        return Err("it adds an end token to a text, which generation would have to continue".into());
    }
    Ok(marked)
}

/// Returns whether the settings of the tokenizer say that it adds a start token and an end token to a text.
/// `None` means that the tokenizer's file says so.
fn added_by_class(folder: &Folder) -> (Option<bool>, Option<bool>) {
    let text = proto::regular::read(&folder.dir.join("tokenizer_config.json")).ok();
    let settings: Value = text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let is_llama = settings["tokenizer_class"].as_str().is_some_and(|class| class.contains("Llama"));
    let flag = |key: &str, usual: bool| settings[key].as_bool().or(is_llama.then_some(usual));
    (flag("add_bos_token", true), flag("add_eos_token", false))
}

fn described(folder: &Folder, types: &ElementTypes) -> Facts {
    let mut all: Vec<(&str, String)> = vec![
        (facts::MODEL, folder.described.model.into()),
        (facts::SETTINGS, folder.described.line()),
        (facts::DTYPE, folder.described.dtype.into()),
        (facts::CONFIG, folder.described.text.clone()),
    ];
    all.extend(types.facts(facts::ELEMENTS));
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
