//! The contents of a tokenizer file.

use std::collections::{BTreeSet, HashMap};
use tokenizers::Tokenizer;

/// The contents of a tokenizer file.
pub(super) struct Loaded {
    pub tokenizer: Tokenizer,
    pub names: HashMap<String, u32>,
    pub special: BTreeSet<u32>,
}
