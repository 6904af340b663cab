//! Arguments that commands share, and files of options.

pub mod config;
pub mod data;
pub mod model;
pub mod placement;
pub mod plugin;
pub mod ranges;
pub mod subject;
pub mod target;
