//! Prepared tokens: text that was tokenized once and is stored on disk.
//!
//! A directory of prepared tokens holds `tokens.bin` (little-endian numbers of 2 or 4 bytes), `documents.bin`
//! (for each document, the position where its tokens end, as an 8-byte number whose highest bit says that an
//! end token follows), and `manifest.json` (the tokenizer, the source files and digests).
//!
//! The directory is written under a temporary name and renamed when all of it is on disk. Training reads
//! tokens by position with ordinary reads rather than a memory map: the system caches them in the same way,
//! but a failing disk or a truncated file is an error of the read and not a signal that ends the process.
//!
//! Reading order: `manifest`, `directory` (reading), `writer`, `shared` (a folder of such directories).

mod directory;
mod manifest;
mod shared;
mod writer;

pub use directory::PreparedTokens;
pub use manifest::{Manifest, SourceFile, TokenizerRecord};
pub use shared::shared;
pub use writer::prepare;

#[cfg(test)]
mod tests;
