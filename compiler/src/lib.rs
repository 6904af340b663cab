//! The stages of the compiler.

pub mod artefact;
pub mod autodiff;
pub mod cost;
pub mod facts;
mod fault;
pub mod hlo;
pub mod interp;
pub mod partition;
pub mod pipeline;
pub mod simplify;
mod task;
