//! Errors of a job.

use proto::job::Loss;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a job.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place of this process in the job cannot be told, or is contradictory.
    #[error("{0}")]
    Place(String),
    /// The coordinator cannot be started or reached.
    #[error("{0}")]
    Connection(String),
    /// The coordinator refused a call.
    #[error("{0}")]
    Refused(String),
    /// A deadline passed.
    #[error("{0}")]
    Deadline(String),
    /// Another rank is lost: this process cannot go on.
    #[error("{}", describe(.0))]
    Lost(Loss),
}

/// The sentence that a survivor prints about a lost rank.
pub fn describe(loss: &Loss) -> String {
    let place = if loss.phase.is_empty() {
        String::from("before its first heartbeat")
    } else if loss.phase == "step" {
        format!("in step {}", loss.step)
    } else {
        format!("in phase `{}` at step {}", loss.phase, loss.step)
    };
    format!("lost rank {} ({}) {place}: {}", loss.rank, loss.host, loss.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_names_rank_host_phase_and_step() {
        let loss = |phase: &str| Loss {
            rank: 3,
            host: "vm-3".into(),
            phase: phase.into(),
            step: 120,
            reason: "its connection closed".into(),
        };
        assert_eq!(describe(&loss("step")), "lost rank 3 (vm-3) in step 120: its connection closed");
        assert_eq!(
            describe(&loss("save")),
            "lost rank 3 (vm-3) in phase `save` at step 120: its connection closed"
        );
        assert!(describe(&loss("")).contains("before its first heartbeat"));
    }
}
