//! Checkpoints of T5X, also with Flaxformer's Switch Transformers.
//!
//! Reading order: `array` (the interface of a checkpoint of arrays), [`zarr`] and [`flax`]
//! (the files of T5X), [`folder`] (both), [`model`] (the settings that arrays imply), [`place`] (boxes of
//! variables as boxes of parameters), [`slots`] (Adafactor), [`import`] and [`export`]. The names and places
//! of variables are in `models::t5x`.

pub mod array;
pub mod export;
pub mod flax;
pub mod folder;
pub mod import;
pub mod model;
pub mod place;
pub mod slots;
pub mod zarr;

#[cfg(test)]
mod tests;
