//! Export of a checkpoint in the format of T5X, one chunk of an array at a time.

use super::{
    array::{Array, Block},
    flax,
    folder::TREE,
    model::{SLOTS, TARGET},
    place::pieces,
    slots::{State, exported},
    zarr::Zarr,
};
use crate::{
    Origin, Overrides,
    exported::{absent, check, publish, unfinished},
    facts, failure,
    hf::{elements::narrowed, file::Element},
    types::ElementTypes,
};
use anyhow::{Context, Result};
use models::{
    Config,
    t5x::{Layers, Variable, variables},
};
use rmpv::Value;
use runtime::checkpoint::{Checkpoint, Kind};
use std::{fs, path::Path};

/// The version of the format.
const VERSION: i64 = 3;

/// The result of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// Number of arrays of parameters.
    pub arrays: usize,
    /// The optimizer slots: their number, or the reason why they were not exported.
    pub slots: Result<usize, String>,
}

/// Writes the new directory `out`, with chunks compressed by gzip if `gzip`.
///
/// # Errors
/// T5X has no such model, or the checkpoint is damaged. Then nothing is written.
pub fn export(
    dir: &Path,
    model: Option<&str>,
    overrides: &Overrides,
    out: &Path,
    gzip: bool,
) -> Result<Exported> {
    absent(out)?;
    let checkpoint = Checkpoint::open(dir)?;
    let config = Origin::of(&checkpoint, model, overrides)?.config()?;
    let layers = match checkpoint.facts().get(facts::T5X_LAYERS).map(String::as_str) {
        Some("scanned") => Layers::Scanned,
        Some(_) | None => Layers::Separate,
    };
    let params = variables(&config, layers).map_err(|why| {
        failure(format!("`{}` has no counterpart in T5X: {why}", dir.display()), "see docs/interchange.md")
    })?;
    check(&checkpoint, &params.iter().map(|v| (v.param.as_str(), &v.dims)).collect())?;
    let step = checkpoint.step();
    let step = i32::try_from(step)
        .with_context(|| format!("`{}` has the step {step}, and a step of T5X is an int32", dir.display()))?;
    // T5X stores 32-bit floats.
    let elements = ElementTypes::of(&checkpoint, facts::T5X_ELEMENTS, Element::F32)?;
    let slots = slots(&checkpoint, &config, &params);
    let scratch = unfinished(out)?;
    let mut tree = Tree { checkpoint: &checkpoint, dir: scratch.path(), gzip, leaves: Vec::new() };
    for variable in &params {
        tree.in_folder(TARGET, variable, elements.get(&variable.name))?;
    }
    let array = Array { element: Element::I32, sizes: Vec::new() };
    tree.inline("state/step", &array, step.to_le_bytes().to_vec());
    if let Ok((slots, unused)) = &slots {
        for slot in slots {
            match slot.name.ends_with("/v") || slot.name.ends_with("/m") {
                true => tree.in_folder(SLOTS, slot, Element::F32)?,
                false => tree.in_tree(SLOTS, slot)?,
            }
        }
        for name in unused {
            let array = Array { element: Element::F32, sizes: vec![1] };
            tree.inline(&format!("{SLOTS}{name}"), &array, vec![0; 4]);
        }
    }
    let mut leaves = tree.leaves;
    leaves.push(("version".to_owned(), Value::from(VERSION)));
    let path = scratch.path().join(TREE);
    fs::write(&path, flax::to_bytes(leaves)).with_context(|| format!("writing `{}`", path.display()))?;
    publish(&scratch, out)?;
    Ok(Exported { arrays: params.len(), slots: slots.map(|(slots, _)| slots.len()) })
}

/// Returns the slots as variables and the paths of unused slots, or the reason why they cannot be exported.
fn slots(
    checkpoint: &Checkpoint,
    config: &Config,
    params: &[Variable],
) -> Result<(Vec<Variable>, Vec<String>), String> {
    if !checkpoint.tensors().iter().any(|t| t.kind == Kind::Slot) {
        return Err("it has none".into());
    }
    let state = State::of(config)?;
    let fits = |name: &str| {
        let entry = checkpoint.tensor(name).filter(|entry| entry.kind == Kind::Slot && entry.dtype == "f32");
        entry.is_some_and(|entry| state.slots.get(name) == Some(&entry.dims))
    };
    exported(params, &state, fits)
}

/// The tree that is being written.
struct Tree<'c> {
    checkpoint: &'c Checkpoint,
    dir: &'c Path,
    gzip: bool,
    leaves: Vec<(String, Value)>,
}

impl Tree<'_> {
    /// Writes an array to a folder.
    fn in_folder(&mut self, prefix: &str, variable: &Variable, element: Element) -> Result<()> {
        let path = format!("{prefix}{}", variable.name);
        let (name, array) = (path.replace('/', "."), Array { element, sizes: variable.sizes() });
        let zarr = Zarr::create(&self.dir.join(&name), &array, self.gzip)?;
        for block in 0..zarr.blocks() {
            let bytes = self.block(variable, &zarr.place(block))?;
            zarr.write(block, &narrowed(element, bytes))?;
        }
        self.leaves.push((format!("optimizer/{path}"), flax::spec(&array, &name)));
        Ok(())
    }

    /// Adds an array of 32-bit floats to the tree itself.
    fn in_tree(&mut self, prefix: &str, variable: &Variable) -> Result<()> {
        let sizes = variable.sizes();
        let bytes = self.block(variable, &Block { start: vec![0; sizes.len()], sizes: sizes.clone() })?;
        let array = Array { element: Element::F32, sizes };
        self.inline(&format!("{prefix}{}", variable.name), &array, bytes);
        Ok(())
    }

    fn inline(&mut self, path: &str, array: &Array, bytes: Vec<u8>) {
        self.leaves.push((format!("optimizer/{path}"), flax::inline(array, bytes)));
    }

    /// Returns the elements of a block, 32-bit floats.
    fn block(&self, variable: &Variable, block: &Block) -> Result<Vec<u8>> {
        let mut bytes = vec![0; block.sizes.iter().product::<usize>() * 4];
        for piece in pieces(variable, block) {
            let part = self.checkpoint.read_box(&variable.param, &piece.start, &piece.sizes)?;
            piece.scatter(&part.bytes, &mut bytes);
        }
        Ok(bytes)
    }
}
