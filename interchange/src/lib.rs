//! Checkpoints of other systems, and checkpoint surgery.
//!
//! Reading order: [`facts`] (what a checkpoint says about its model), [`origin`] (the configuration those
//! facts describe), [`hf`] (Hugging Face's T5, mT5 and SwitchTransformers: import, export, verification),
//! [`t5x`] and [`tensorflow`] (checkpoints of T5X and of Mesh TensorFlow), [`arrays`] (either one), `types`
//! (element types of what was imported),
//! [`experts`] (checkpoints with more or fewer experts, or none), [`lora`] (merged adapters), [`tensors`]
//! (safetensors files).
//!
//! Absent on purpose: the compiler. Verification runs a model through the trait [`hf::verify::Backend`],
//! which the caller implements.

pub mod arrays;
pub mod experts;
mod exported;
pub mod facts;
pub mod hf;
pub mod lora;
pub mod origin;
pub mod t5x;
pub mod tensorflow;
pub mod tensors;
mod types;

pub use origin::{Origin, Overrides};

/// An error that the user can correct: what is wrong, and what to do.
fn failure(what: impl Into<String>, help: impl Into<String>) -> anyhow::Error {
    runtime::Error::Input { what: what.into(), help: help.into() }.into()
}
