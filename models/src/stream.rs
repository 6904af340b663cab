//! The residual stream between blocks, under a name of its own.
//!
//! Where blocks are split over an axis (`heads`, `d_ff`), each ends in a sum over it. If the stream is whole, that sum
//! is all-reduced, and every device holds and norms all of it. If the stream has another name than what blocks take
//! and give ([`mesh::schedule::Residual::Stream`]), a layout may split it over the same axis: sums are reduce-scattered, norms and
//! additions work on parts, and blocks gather what they take. That is as much to send, and a fraction to hold.

use mesh::{Dim, dsl::Tensor};

/// The name.
pub const STREAM: &str = "stream";

/// The dim of `x` that is called `d_model` in blocks.
pub fn dim_of(x: Tensor<'_>, d_model: &Dim) -> Dim {
    if x.has(STREAM) { d_model.renamed(STREAM) } else { d_model.clone() }
}

/// From the stream to what a block takes.
#[track_caller]
pub fn leave<'g>(x: Tensor<'g>, d_model: &Dim) -> Tensor<'g> {
    if x.has(STREAM) { x.rename(STREAM, d_model) } else { x }
}

/// What a block gives, or a parameter over `d_model`, as it is added to `x` or multiplied with it.
#[track_caller]
pub fn enter<'g>(y: Tensor<'g>, x: Tensor<'g>, d_model: &Dim) -> Tensor<'g> {
    if x.has(STREAM) && !y.has(STREAM) { y.rename(d_model, STREAM) } else { y }
}
