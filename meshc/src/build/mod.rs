//! Builds: models to programs, artefacts, executables and sessions.
//!
//! Reading order: [`program`] (from a model file to a program, with `builtin`, `package`, `execute` and
//! `store`), [`lower`] (through the compiler), [`artefact`] (in memory), [`device`] (plugins and sessions),
//! [`session`] (programs with parameters), [`ahead`] (through a plugin's compiler), [`fit`] (programs that
//! are too large), [`verification`] (imported models).

pub mod ahead;
pub mod artefact;
mod builtin;
pub mod device;
mod execute;
pub mod fit;
pub mod lower;
mod package;
pub mod program;
pub mod session;
mod store;
pub mod verification;
