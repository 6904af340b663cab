//! The place of a process in a job, as far as the user has given it.

use job::{Limits, discover::Flags};

/// The input of a job's processes.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The place of this process. What is missing is found in the environment.
    pub flags: Flags,
    /// The deadlines of the job.
    pub limits: Limits,
    /// Number of local processes to start. `None` means that this process is the only one on this machine.
    pub processes: Option<usize>,
    /// Number of times that lost local processes are started again.
    pub restarts: usize,
}
