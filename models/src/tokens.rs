//! Special tokens, which every vocabulary has.

use mesh::task::SpecialTokens;

/// Padding: positions that hold no token. The decoder also starts with it.
pub const PAD: u32 = SpecialTokens::T5.pad;
/// The end-of-sequence token.
pub const EOS: u32 = SpecialTokens::T5.eos;
