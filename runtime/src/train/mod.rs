//! The training loop.
//!
//! The host does not wait for the step it has just started. It keeps a few steps in flight and reads the
//! results of the earliest, so that the devices always have work. The number of steps in flight is bounded,
//! which bounds the memory they use and the delay of error messages.
//!
//! After a loss spike, the run returns to its last checkpoint and skips the batches that led to the spike.
//!
//! Reading order: `options`, `observer` (reports to the caller), `run` (preparation), `steps` (the loop),
//! `stop`, `stragglers`, `executables` (compared between processes), `evaluator` and `evaluation`, `spike`
//! (loss-spike detection), `saving` (checkpoints) with `ledger` and `lock`, [`metrics`] (the metrics file),
//! [`events`] (the same for TensorBoard), [`meter`] (utilization and memory), [`summary`] (the end-of-run
//! summary).

mod evaluation;
mod evaluator;
pub mod events;
mod executables;
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
mod stop;
mod stragglers;
pub mod summary;

pub use evaluation::{Means, evaluate, outputs};
pub use evaluator::Evaluator;
pub use executables::compare as compare_executables;
pub use lock::remove_unused;
pub use observer::{EVALUATING, Observer, Rollback, Step, WAITING_TO_EVALUATE};
pub use options::{Options, Saving, Settings, Source};
pub use run::run;
pub use saving::check_folder;
pub use spike::Spikes;
pub use summary::Summary;
