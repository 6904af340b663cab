//! Checkpoints: state on disk, readable under any mesh, layout and number of devices.
//!
//! A checkpoint is a folder: safetensors files with *boxes* (rectangular parts of logical tensors),
//! `manifest.json` with the location and digest of every box, and `COMMIT`, which holds the manifest's digest
//! and is written last. docs/checkpoints.md is the specification.
//!
//! A checkpoint is written under a temporary name beside its final one and renamed when all of it is on disk,
//! so a folder with the right name is complete, unless it was damaged later. Boxes are written one at a time,
//! as the devices transfer them; a device reads only the parts of files that it needs.
//!
//! If the name is a URL (`gs://bucket/run`), the files are objects of a store, and the marker alone makes
//! them a checkpoint.
//!
//! Several processes write one checkpoint together: each its own boxes, to the same temporary folder.
//!
//! Reading order: [`manifest`] with `tiling`, `storage` and `objects` (the file system and object stores),
//! `reader`, `writer` with `sink`, `together` with `meeting` and `shared` (several processes), `snapshot`
//! (state between devices and checkpoints) with `padding`, `mapping` and `load` (parameters taken by name),
//! [`folder`] (the checkpoints of a run), [`keep`] (retention), [`mod@diff`] (comparison).

pub mod diff;
pub mod folder;
pub mod keep;
mod load;
#[cfg(test)]
mod load_tests;
pub mod manifest;
mod mapping;
mod meeting;
mod objects;
mod padding;
mod reader;
mod shared;
mod sink;
mod snapshot;
mod storage;
#[cfg(test)]
mod tests;
mod tiling;
mod together;
#[cfg(test)]
mod together_tests;
mod writer;

pub use keep::Keep;
pub use load::{Fate, Plan, Row, Table};
pub use manifest::{Entry, Facts, Kind, TOKENIZER, TOKENIZER_FILE, TensorBox};
pub use mapping::{ALLOW_MISSING, INITIAL, MAP, Mapping, Pattern, Rule};
pub use objects::is_url;
pub use reader::{Checkpoint, is_checkpoint};
pub use snapshot::{RestoreScope, Snapshot};
pub use writer::Writer;

pub(crate) use meeting::Processes;
pub(crate) use shared::{VISIBLE, prove_shared};
pub(crate) use together::Together;
