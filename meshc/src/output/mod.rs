//! Output: errors, progress, summaries, files.

pub mod failure;
pub mod host;
pub mod progress;
pub mod run_folder;
pub mod signals;
pub mod stream;
pub mod summary;
