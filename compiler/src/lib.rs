//! The stages of the compiler.

pub mod artefact;
pub mod autodiff;
pub mod hlo;
mod in_place;
pub mod interp;
pub mod partition;
pub mod passes;
pub mod pipeline;
pub mod random;
pub mod report;
pub mod target;
pub mod wire;
