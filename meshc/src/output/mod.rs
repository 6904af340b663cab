//! Output: errors, progress, summaries, files.

pub mod diagnostics;
pub mod failure;
pub mod files;
pub mod progress;
pub mod run_folder;
pub mod signals;
pub mod summary;
