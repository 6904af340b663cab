//! The processes that run one program together: how they find each other, agree, and detect a lost process.
//!
//! A process that runs alone has a job of size 1 and needs nothing else. Otherwise rank 0 serves the
//! [`coordinator`], every rank is a [`member`], and [`discover`] finds rank, size and address from flags, a
//! cluster's environment, or the TPU VM's metadata server.
//!
//! Nothing here knows tensors or plugins: the plugin exchanges tensors over its own network.
//!
//! **Invariant.** No call waits without a deadline, and every waiting call ends when a rank is lost.

pub mod coordinator;
pub mod discover;
pub mod limits;
pub mod member;

mod connection;
mod error;
mod metadata;
mod state;
#[cfg(test)]
mod state_tests;
mod wire;

pub use coordinator::Coordinator;
pub use discover::{Found, Place};
pub use error::{Error, Result};
pub use limits::Limits;
pub use member::{Job, Meeting, Verdict};
pub use proto::job::{Difference, Failure, Holders, Loss, Member, Orders};

/// Reads a variable of the environment.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;
