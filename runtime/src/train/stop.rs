//! Requests to stop, on which all processes of a run agree.

use crate::{Error, Result};
use job::Job;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The request to stop of this process, and the agreement of all processes.
pub(super) struct Stop<'a> {
    /// Set when this process was asked to stop.
    requested: &'a AtomicBool,
    job: Arc<Job>,
    /// True once the other processes know of the request.
    told: bool,
    /// True once all processes are to stop.
    agreed: bool,
}

impl<'a> Stop<'a> {
    pub(super) fn new(requested: &'a AtomicBool, job: &Arc<Job>) -> Self {
        Self { requested, job: job.clone(), told: false, agreed: false }
    }

    /// Returns the job whose processes agree.
    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    /// Returns true if the run is to stop here. All processes call this at the same points and get the same
    /// answers.
    pub(super) fn is_here(&mut self) -> Result<bool> {
        if self.job.size() == 1 {
            return Ok(self.requested.load(Ordering::Relaxed));
        }
        if !self.told && self.requested.load(Ordering::Relaxed) {
            self.job.request_stop();
            self.told = true;
        }
        if !self.agreed {
            self.agreed = self.job.boundary().map_err(|e| Error::Job(e.to_string()))?;
        }
        Ok(self.agreed)
    }
}
