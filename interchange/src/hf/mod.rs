//! Models of Hugging Face's transformers: T5, mT5, umT5, SwitchTransformers, and decoder-only models.
//!
//! Reading order: `file` (safetensors files, tensor by tensor), `keys`, `sentinels` and
//! `causal` and [`config`] (`config.json`), [`folder`] (both, checked against each other), [`elements`]
//! (element types, transposition), [`import`] and [`export`] (to a checkpoint of mesh and back) with
//! `companions` (tokenizer and model card) and [`generation`] (defaults of generation), [`verify`] (a
//! model against numbers that came with it). The names and places of tensors are in `models::hf`.

mod causal;
mod companions;
pub mod config;
pub mod elements;
pub mod export;
pub mod file;
pub mod folder;
pub mod generation;
pub mod import;
mod keys;
mod sentinels;
pub mod verify;

pub use folder::Folder;
