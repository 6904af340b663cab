//! Special tokens, which every vocabulary has.

/// Padding: positions that hold no token. The decoder also starts with it.
pub const PAD: u32 = 0;
/// The end-of-sequence token.
pub const EOS: u32 = 1;
