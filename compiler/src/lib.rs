//! The compiler: from programs over named dims to HLO for each device of a mesh.

mod activity;
pub mod artefact;
pub mod autodiff;
pub mod cost;
pub mod facts;
mod fault;
pub mod hlo;
pub mod interp;
pub mod lint;
pub mod partition;
pub mod pipeline;
pub mod precision;
pub mod simplify;
mod task;
