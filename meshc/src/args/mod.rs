//! Arguments that several commands take, and option files.

pub mod config;
pub mod data;
pub mod hosts;
pub mod model;
pub mod placement;
pub mod plugin;
pub mod ranges;
pub mod subject;
