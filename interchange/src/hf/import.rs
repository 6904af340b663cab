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
        Tokenizer::File(contents) if numbers_fit(folder, &contents) => writer.tokenizer(&contents)?,
        // Its tokens would have other numbers than those of the model.
        Tokenizer::File(_) => {}
        Tokenizer::Unknown => {}
    }
    writer.finish(recorded, 0)?;
    Ok(Imported { tensors: folder.tensors.len(), elements, warnings: generation.warnings })
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

/// True if commands give the tokens of a tokenizer the numbers that the model has. They make room for
/// padding, the end and the unknown token in a tokenizer that does not begin with them, as those of
/// decoder-only models.
fn numbers_fit(folder: &Folder, contents: &[u8]) -> bool {
    folder.described.causal.is_none()
        || data::tokenizer::parse(contents.into(), "tokenizer").is_ok_and(|parsed| parsed.offset() == 0)
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
