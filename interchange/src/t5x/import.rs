//! Import of a checkpoint of T5X or Mesh TensorFlow, one block of an array at a time.

use super::{
    array::Source,
    model::{Model, SLOTS, TARGET},
    place::pieces,
    slots::{self, State},
};
use crate::{
    Overrides, facts, failure,
    hf::{
        elements::{beyond_f32, widened},
        file::Element,
    },
    types::ElementTypes,
};
use anyhow::{Context, Result};
use mesh::DType;
use models::t5x::{Layers, Variable};
use runtime::{
    ElementType, HostTensor,
    checkpoint::{Facts, Kind, Writer},
};
use std::{collections::BTreeMap, path::Path};

/// The result of an import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// Number of arrays of parameters.
    pub arrays: usize,
    /// Number of elements of parameters.
    pub elements: u64,
    /// The step that the checkpoint states.
    pub step: u64,
    /// The optimizer slots: their number, or the reason why they were not taken.
    pub slots: Result<usize, String>,
}

/// Writes the checkpoint `out` atomically.
///
/// # Errors
/// The source has another model, or is incomplete or damaged. Then nothing is written.
pub fn import(source: &dyn Source, overrides: &Overrides, out: &Path) -> Result<Imported> {
    let model = Model::of(source, overrides)?;
    let state = with_slots(source, &model);
    let mut writer = Writer::create(out)?;
    let (mut elements, mut kinds) = (0, BTreeMap::new());
    for variable in &model.variables {
        let element = copy(source, TARGET, variable, Kind::Param, &mut writer)?;
        kinds.insert(variable.name.clone(), element);
        elements += variable.part.iter().product::<usize>() as u64;
    }
    let slots = match state {
        Err(why) => Err(why),
        Ok((state, variables)) => {
            for variable in &variables {
                copy(source, SLOTS, variable, Kind::Slot, &mut writer)?;
            }
            counters(&state, source.step(), &mut writer)?;
            Ok(variables.len())
        }
    };
    writer.finish(described(&model, &ElementTypes::imported(kinds)), source.step())?;
    Ok(Imported { arrays: model.variables.len(), elements, step: source.step(), slots })
}

/// Returns the state of the program and the slots, or the reason why they cannot be taken.
fn with_slots(source: &dyn Source, model: &Model) -> Result<(State, Vec<Variable>), String> {
    if !source.arrays().keys().any(|name| name.starts_with(SLOTS)) {
        return Err("it has none".into());
    }
    let state = State::of(&model.config)?;
    let variables = slots::variables(source, model, &state)?;
    let integers = |v: &&Variable| source.arrays()[&format!("{SLOTS}{}", v.name)].element == Element::I32;
    if let Some(variable) = variables.iter().find(integers) {
        return Err(format!("`{}` has integer elements", variable.name));
    }
    let whole: BTreeMap<&str, usize> = variables.iter().fold(BTreeMap::new(), |mut all, variable| {
        *all.entry(variable.param.as_str()).or_default() += variable.part.iter().product::<usize>();
        all
    });
    for (name, dims) in &state.slots {
        if whole.get(name.as_str()) != Some(&dims.iter().map(|d| d.1).product()) {
            return Err(format!("there is nothing for the slot `{name}`"));
        }
    }
    Ok((state, variables))
}

/// Copies an array, and returns its element type.
fn copy(
    source: &dyn Source,
    prefix: &str,
    variable: &Variable,
    kind: Kind,
    writer: &mut Writer,
) -> Result<Element> {
    let name = format!("{prefix}{}", variable.name);
    let element = source.arrays()[&name].element;
    for block in 0..source.blocks(&name) {
        let (block, bytes) = source.read(&name, block)?;
        if let Some(beyond) = beyond_f32(element, &bytes) {
            let what = format!("`{}` has the element {beyond:e}", source.own_name(&name));
            return Err(failure(
                format!("{what}, which no 32-bit float can hold"),
                "parameters are 32-bit floats: scale the model, or save it with float32 elements",
            ));
        }
        let bytes = widened(element, bytes);
        for piece in pieces(variable, &block) {
            let bytes = piece.gathered(&bytes);
            let value = HostTensor { dtype: ElementType::F32, dims: piece.sizes, bytes };
            writer.part(&variable.param, kind, &variable.dims, &piece.start, value)?;
        }
    }
    Ok(element)
}

/// Writes the counters: the step, and zeros.
fn counters(state: &State, step: u64, writer: &mut Writer) -> Result<()> {
    for (name, dtype, dims) in &state.counters {
        let dtype = match dtype {
            DType::S32 => ElementType::S32,
            DType::U32 => ElementType::U32,
            DType::F32 => ElementType::F32,
            other => anyhow::bail!("counter `{name}` has elements of type {other}"),
        };
        let sizes: Vec<usize> = dims.iter().map(|d| d.1).collect();
        let mut bytes = vec![0; sizes.iter().product::<usize>() * 4];
        if name == "step" {
            let step = i32::try_from(step)
                .with_context(|| format!("the step {step} does not fit the counter `step`, an int32"))?;
            bytes.copy_from_slice(&step.to_le_bytes());
        }
        writer.tensor(name, Kind::Counter, dims, HostTensor { dtype, dims: sizes, bytes })?;
    }
    Ok(())
}

fn described(model: &Model, types: &ElementTypes) -> Facts {
    let layers = match model.layers {
        Layers::Separate => "separate",
        Layers::Scanned => "scanned",
    };
    let mut all: Vec<(&str, String)> = vec![
        (facts::MODEL, model.preset.into()),
        (facts::SETTINGS, model.settings.clone()),
        (facts::DTYPE, model.dtype.clone()),
        (facts::T5X_LAYERS, layers.into()),
    ];
    all.extend(types.facts(facts::T5X_ELEMENTS));
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
