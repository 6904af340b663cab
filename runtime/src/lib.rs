//! Runs artefacts on PJRT plugins. Knows neither models nor the compiler: everything it needs to know about a
//! program is in the artefact's manifest.
//!
//! Reading order: [`artefact`] (the files), [`contract`] (the task), [`tensor`] and [`shard`] (logical
//! tensors and their shards), [`session`] (a client, its programs, and state on devices), [`checkpoint`]
//! (state on disk), [`plugin`] (finding and installing plugins), [`processes`] (collectives between CPU
//! processes), [`tokens`] (text that processes tokenize once), [`train`] (the training loop over batches of
//! the crate `data`), [`generate`] (generation and scoring), [`watched`] (prints and assertions of programs).

pub mod artefact;
pub mod checkpoint;
pub mod contract;
pub mod error;
pub mod generate;
pub mod plugin;
pub mod processes;
pub mod session;
pub mod shard;
pub mod tensor;
pub mod tokens;
pub mod train;
pub mod watched;

pub use artefact::Artefact;
pub use checkpoint::Checkpoint;
pub use contract::Contract;
pub use error::{Error, Result};
pub use pjrt::ElementType;
pub use session::{
    CallSpan, Calls, Compilation, ExecutableCache, HostAllocator, Interpreted, Interpreter, Output, Outputs,
    Placement, Session,
};
pub use tensor::HostTensor;
