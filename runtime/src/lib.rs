//! Runs artefacts on PJRT plugins. Knows no model and no compiler: what it needs to know of a program
//! stands in the artefact's manifest.
//!
//! Reading order: [`artefact`] (the files), [`tensor`] and [`shard`] (logical tensors and how they lie on
//! devices), [`executables`] (compiled programs on disk), [`session`] (a client, its programs, and the state on its
//! devices), [`checkpoint`] (that state on disk), [`plugin`] (where the plugins are), [`train`] (the loop
//! over batches of the crate `data`).

pub mod artefact;
pub mod checkpoint;
pub mod error;
pub mod generate;
pub mod plugin;
pub mod session;
pub mod shard;
pub mod tensor;
pub mod train;

pub use artefact::Artefact;
pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use pjrt::ElementType;
pub use session::{Compilation, ExecutableCache, HostAllocator, Output, Outputs, Session};
pub use tensor::HostTensor;
