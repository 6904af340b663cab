//! Meetings of the processes of a job: all of them succeed, or all of them fail.

use crate::{Error, Result};
use job::{Job, member::Contribution};
use std::time::Duration;

/// The processes of a job, and the longest time that one waits for the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processes<'j> {
    pub job: &'j Job,
    pub limit: Duration,
}

impl Processes<'_> {
    /// Waits for all processes. Returns their bytes by rank if `own` is `Ok` in all of them. `name` is used
    /// once in the job.
    ///
    /// # Errors
    /// The own error, or else that of the first process that has one: [`Error::Disagreement`] in a job of
    /// several, since all of them fail. [`Error::Job`] if a process is lost or does not come in time; then it
    /// is not known whether the others succeeded.
    pub fn all(&self, name: &str, own: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let (payload, failure) = match &own {
            Ok(bytes) => (bytes.clone(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        let here = Contribution { failure, payload, ..Contribution::default() };
        // A lost process is often the cause of the own error: rank 0 may have removed the files.
        let meeting = self.job.meet(name, here, self.limit).map_err(|error| Error::Job(error.to_string()))?;
        if self.job.size() == 1 {
            own?;
        } else {
            own.map_err(|error| Error::Disagreement(error.to_string()))?;
        }
        let failures = &meeting.verdict.failures;
        let Some(first) = failures.first() else { return Ok(meeting.payloads) };
        let (what, help) = first.message.split_once(HELP).unwrap_or((&first.message, DEFAULT_HELP));
        let others = match failures.len() - 1 {
            0 => String::new(),
            count => format!(" (and {count} other processes failed)"),
        };
        let message = format!("rank {} ({}): {what}{others}{HELP}{help}", first.rank, first.host);
        Err(Error::Disagreement(message))
    }

    /// Returns the bytes of rank 0 in all processes. The other ranks' `own` is ignored.
    ///
    /// # Errors
    /// As [`Processes::all`].
    pub fn of_first(&self, name: &str, own: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let own = if self.job.is_first() { own() } else { Ok(Vec::new()) };
        let mut all = self.all(name, own)?;
        if all.is_empty() {
            return Err(Error::Job(format!("meeting `{name}` has no reply of rank 0")));
        }
        Ok(all.swap_remove(0))
    }
}

/// Separates an error from its remedy in messages.
const HELP: &str = "\n  help: ";
const DEFAULT_HELP: &str = "look at the output of that process";
