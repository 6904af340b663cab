//! The two stages of the language, and the bound on nesting.

/// The two stages of the language.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Whole tensors; no devices.
    Global,
    /// One device's program, with explicit communication.
    Local,
}

/// The largest nesting depth of bodies: a bound on recursion in every stage, far above what models use.
pub const MAX_DEPTH: usize = 64;
