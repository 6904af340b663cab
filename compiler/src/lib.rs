//! The stages of the compiler.

pub mod autodiff;
pub mod interp;
pub mod partition;
pub mod random;
pub mod wire;
