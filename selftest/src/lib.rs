//! Comparison of backends with the reference interpreter, on random programs and on Switch layers.
//!
//! Absent on purpose: plugins. A backend is a trait; `driver` implements it for the devices of a plugin.
//!
//! Reading order: [`generate`] (random programs with meshes and layouts), [`law`] (backends, and the
//! comparison of their results), [`layer`] (a Switch layer with its gradient), [`families`] (counts of
//! operations), [`campaign`] (many comparisons in a limited time), [`report`] (their result).

pub mod campaign;
pub mod families;
pub mod generate;
pub mod law;
pub mod layer;
pub mod report;
