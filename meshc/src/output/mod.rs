//! Output: errors, progress, summaries, files.

pub mod failure;
pub mod host;
pub mod progress;
pub mod signals;
pub mod stream;
