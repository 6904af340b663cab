//! Commands in several processes: their start, their agreement, their end.
//!
//! Reading order: [`options`] (the input), [`launch`] (starts local processes), [`member`] (one process of a
//! job), [`start`] (either of them), [`agree`] (what must be equal in all processes), [`device`] (a session
//! on some devices of the mesh).

pub mod agree;
pub mod device;
pub mod launch;
pub mod member;
pub mod options;
pub mod start;

pub use options::HostOptions;
