//! Arguments that several commands take, and option files.

pub mod data;
pub mod hosts;
pub mod model;
pub mod placement;
pub mod plugin;
pub mod subject;

pub use options::{config, ranges};
