//! The messages that cross a boundary: HLO modules and compile options for PJRT plugins, our artefact
//! manifest, and events for TensorBoard; with the small tools that go with them.
//!
//! Reading order: [`xla`], [`manifest`] and [`tensorflow`] are generated from `protos/` (`cargo xtask codegen`);
//! [`compile_options`] builds the options a plugin wants; [`hlo_alias`] makes a module leave its state where it is;
//! [`hlo_check`], [`precision_check`] and [`hlo_text`] look at modules; [`manifest_check`] and [`manifest_json`] at manifests.

#[rustfmt::skip]
#[path = "gen/xla.rs"]
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod xla;

#[rustfmt::skip]
#[path = "gen/mesh.manifest.rs"]
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod manifest;

#[rustfmt::skip]
#[path = "gen/mesh.job.rs"]
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod job;

#[rustfmt::skip]
#[path = "gen/tensorflow.rs"]
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod tensorflow;

pub mod compile_options;
mod enum_name;
pub mod hlo_alias;
pub mod hlo_check;
pub mod hlo_text;
pub mod manifest_check;
pub mod manifest_json;
pub mod precision_check;

#[cfg(test)]
mod sample;

/// Encoding and decoding, the methods all messages have.
pub use prost::{DecodeError, Message};
