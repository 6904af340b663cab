//! The stages of the compiler.

pub mod artefact;
pub mod autodiff;
pub mod cost;
pub mod hlo;
pub mod interp;
pub mod partition;
pub mod passes;
pub mod pipeline;
