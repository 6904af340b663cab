//! Conversion of a batch to inputs of a program.

use crate::HostTensor;
use data::Batch;
use std::collections::BTreeMap;

/// Returns the arrays of `batch` by the names of the program's inputs, each of shape `[batch, length]`.
pub(super) fn feeds(batch: &Batch) -> BTreeMap<String, HostTensor> {
    let tensor = |tokens: &[i32]| HostTensor::s32(&[batch.size, tokens.len() / batch.size], tokens);
    batch.arrays().map(|(name, tokens)| (name.to_owned(), tensor(tokens))).collect()
}
