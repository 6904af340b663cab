//! The residual stream between blocks, with its own dim.
//!
//! Blocks sharded over an axis (`heads`, `d_ff`) end in a sum over it. If the stream is replicated over
//! that axis, the sum is all-reduced, and every device stores and normalizes the whole stream. If the
//! stream has its own dim ([`mesh::schedule::Residual::Stream`]), a layout can shard it over the same axis:
//! sums are reduce-scattered, norms and additions work on shards, and blocks all-gather their input. This
//! sends as many bytes and stores a fraction (sequence parallelism of Korthikanti et al. 2022, over
//! `d_model`).

use mesh::{Dim, dsl::Tensor};

/// Name of the dim between blocks.
pub const STREAM: &str = "stream";

/// Returns the dim of `x` that is called `d_model` inside blocks.
pub fn dim_of(x: Tensor<'_>, d_model: &Dim) -> Dim {
    if x.has(STREAM) { d_model.renamed(STREAM) } else { d_model.clone() }
}

/// Renames the stream to the dim that a block takes.
#[track_caller]
pub fn leave<'g>(x: Tensor<'g>, d_model: &Dim) -> Tensor<'g> {
    if x.has(STREAM) { x.rename(STREAM, d_model) } else { x }
}

/// Renames the output of a block, or a parameter over `d_model`, to the dim of `x`.
#[track_caller]
pub fn enter<'g>(y: Tensor<'g>, x: Tensor<'g>, d_model: &Dim) -> Tensor<'g> {
    if x.has(STREAM) && !y.has(STREAM) { y.rename(d_model, STREAM) } else { y }
}
