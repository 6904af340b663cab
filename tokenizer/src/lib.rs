//! Tokenizers from files.
