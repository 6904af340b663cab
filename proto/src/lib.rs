//! Protobuf messages: HLO modules and compile options for PJRT plugins, the artefact manifest, and events for
//! TensorBoard, with small tools for them.
//!
//! Reading order:
//! - [`xla`], [`manifest`] and [`tensorflow`] are generated from `protos/` (`cargo xtask codegen`);
//! - [`compile_options`] builds the options for a plugin;
//! - [`hlo_check`] and [`precision_check`] check modules, [`hlo_text`] prints them;
//! - [`manifest_check`] and [`compile_options_check`] check an artefact, [`manifest_json`] prints manifests;
//! - [`padded`] reads which dims of a program have padding;
//! - [`regular`] reads files, and refuses FIFOs, devices and sockets;
//! - [`watched`] names outputs that are prints and assertions.

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
pub mod compile_options_check;
mod enum_name;
pub mod hlo_check;
pub mod hlo_processes;
pub mod hlo_text;
pub mod manifest_check;
pub mod manifest_json;
pub mod padded;
pub mod precision_check;
pub mod regular;
pub mod watched;

#[cfg(test)]
mod sample;

/// Encoding and decoding, the methods of all messages.
pub use prost::{DecodeError, Message};
