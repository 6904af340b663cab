//! Arrays of a checkpoint, read block by block.

use crate::hf::file::Element;
use anyhow::Result;
use std::{collections::BTreeMap, path::Path};

/// An array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Array {
    /// The element type.
    pub element: Element,
    /// The sizes, outermost first.
    pub sizes: Vec<usize>,
}

/// A box of an array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Index of the first element in each axis.
    pub start: Vec<usize>,
    /// Number of elements in each axis.
    pub sizes: Vec<usize>,
}

/// A checkpoint of arrays with the names of T5X: `target/PATH` for a parameter,
/// `state/param_states/PATH/SLOT` for its optimizer slots (`v_row`, `v_col`, `v` and `m`), and `state/step`.
pub trait Source {
    /// Returns the path, for messages.
    fn path(&self) -> &Path;

    /// Returns all arrays by name.
    fn arrays(&self) -> &BTreeMap<String, Array>;

    /// Returns the name of an array in the checkpoint itself, for messages.
    fn own_name(&self, name: &str) -> String;

    /// Returns the number of blocks in which an array is read.
    fn blocks(&self, name: &str) -> usize;

    /// Reads a block: its place, and its elements in row-major order. The blocks of an array are read in
    /// order.
    ///
    /// # Errors
    /// The block is missing or damaged.
    fn read(&self, name: &str, block: usize) -> Result<(Block, Vec<u8>)>;

    /// True if `v_row` keeps the first one of two axes that are equally large.
    fn rows_are_first(&self) -> bool;

    /// Returns the number of the training step.
    fn step(&self) -> u64;
}

/// Returns the number of elements of an array with these sizes; `None` if it is too large.
pub fn elements(sizes: &[usize]) -> Option<usize> {
    // Bytes must not overflow, either.
    let bytes = sizes.iter().try_fold(8usize, |n, size| n.checked_mul(*size))?;
    (bytes < 1 << 60).then_some(bytes / 8)
}
