//! The training loop: batches in, steps on the devices, losses out some steps later.
//!
//! The host never waits for the step it has just started. It keeps a few steps in flight and reads what the
//! earliest of them gave, so that the devices always have the next one to do; and never more than that, so
//! that neither memory nor the time between a mistake and its message grows.
//!
//! A loss that jumps is taken back: the run returns to its last checkpoint and leaves out the batches that led there.
//!
//! Reading order: here (what is asked for, and getting ready), `steps` (the loop), `evaluation`, [`spike`] (losses that
//! jump), [`saving`] (checkpoints), with `ledger` (what a run knows besides its state) and `lock`, [`metrics`] (the
//! file), [`events`] (the same for TensorBoard), [`meter`] (what steps take), [`summary`] (what is left of it all).

mod evaluation;
pub mod events;
mod feeds;
mod ledger;
mod lock;
pub mod meter;
pub mod metrics;
mod observer;
mod options;
mod run;
mod saving;
mod spike;
mod steps;
pub mod summary;
mod task;

pub use evaluation::evaluate;
pub use observer::{Observer, Rollback, Step};
pub use options::{Options, Saving};
pub use run::run;
pub use spike::Spikes;
pub use summary::Summary;
pub use task::task;
