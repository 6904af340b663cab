//! A candidate: one way to run a model, and its estimated cost.

use anyhow::{Result, anyhow};
use compiler::pipeline::Placement;
use mesh::{Layout, Mesh};
use serde::{Deserialize, Serialize};

/// One way to run a model. Everything is as on the command line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Candidate {
    /// Entries of the schedule besides those that are given.
    pub schedule: Vec<String>,
    /// The mesh.
    pub mesh: String,
    /// The compute layout.
    pub layout: String,
    /// The state layout.
    pub state_layout: String,
}

impl Candidate {
    /// The same under another schedule.
    pub fn with(&self, schedule: Vec<String>) -> Self {
        Self { schedule, ..self.clone() }
    }

    /// Its mesh and its number of microbatches, which determine the sizes of the tensors on a device.
    pub fn kind(&self) -> (String, Option<String>) {
        (self.mesh.clone(), self.schedule.iter().find(|s| s.starts_with("microbatches=")).cloned())
    }

    /// Where it puts a program.
    pub fn placement(&self) -> Result<Placement> {
        let wrong = |what: String| anyhow!("{what}");
        Ok(Placement {
            mesh: Mesh::parse(&self.mesh).map_err(wrong)?,
            layout: Layout::parse(&self.layout).map_err(wrong)?,
            state_layout: Layout::parse(&self.state_layout).map_err(wrong)?,
        })
    }
}

/// What one step costs on one device by our estimate.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// Bytes at the peak.
    pub bytes: u64,
    /// Arithmetic of einsums.
    pub flops: u64,
    /// Bytes that it sends.
    pub wire_bytes: u64,
    /// Seconds of einsums.
    pub products: f64,
    /// Seconds of everything else that passes over memory.
    pub memory: f64,
    /// Seconds of collectives.
    pub network: f64,
}

impl Estimate {
    /// Seconds of a step.
    pub fn seconds(&self) -> f64 {
        self.products + self.memory + self.network
    }
}
