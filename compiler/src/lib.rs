//! The stages of the compiler.

pub mod interp;
pub mod random;
