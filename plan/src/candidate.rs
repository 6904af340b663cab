//! Candidates and their estimated costs.

use anyhow::{Result, anyhow};
use compiler::pipeline::Placement;
use mesh::{Layout, Mesh};
use serde::{Deserialize, Serialize};

/// A mesh, layouts and a schedule, in the form of the command line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Candidate {
    /// Schedule entries in addition to those that the user fixed.
    pub schedule: Vec<String>,
    /// The mesh.
    pub mesh: String,
    /// The compute layout.
    pub layout: String,
    /// The state layout.
    pub state_layout: String,
}

impl Candidate {
    /// Returns the candidate with another schedule.
    pub fn with(&self, schedule: Vec<String>) -> Self {
        Self { schedule, ..self.clone() }
    }

    /// Returns the number of axes of the mesh.
    pub fn axes(&self) -> usize {
        self.mesh.split(',').filter(|axis| !axis.is_empty()).count()
    }

    /// Returns the mesh and the microbatches entry. Candidates that differ in other choices are near each
    /// other, and their estimates are compared more exactly.
    pub fn kind(&self) -> (String, Option<String>) {
        (self.mesh.clone(), self.schedule.iter().find(|s| s.starts_with("microbatches=")).cloned())
    }

    /// Returns the candidate as options of the command line.
    pub fn options(&self) -> String {
        let mut words = Vec::new();
        if !self.mesh.is_empty() {
            words.push(format!("--mesh {}", self.mesh));
        }
        words.push(format!("--layout '{}'", self.layout));
        words.push(format!("--state-layout '{}'", self.state_layout));
        words.extend(self.schedule.iter().map(|s| format!("--schedule {s}")));
        words.join(" ")
    }

    /// Parses the placement.
    pub fn placement(&self) -> Result<Placement> {
        let wrong = |what: String| anyhow!("{what}");
        Ok(Placement {
            mesh: Mesh::parse(&self.mesh).map_err(wrong)?,
            layout: Layout::parse(&self.layout).map_err(wrong)?,
            state_layout: Layout::parse(&self.state_layout).map_err(wrong)?,
        })
    }
}

/// The estimated cost of one step on one device.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// Peak memory, in bytes.
    pub bytes: u64,
    /// FLOPs of einsums.
    pub flops: u64,
    /// Bytes sent by collectives.
    pub wire_bytes: u64,
    /// Seconds of einsums.
    pub products: f64,
    /// Seconds of all other operations, which are bound by memory bandwidth.
    pub memory: f64,
    /// Seconds of collectives.
    pub network: f64,
}

impl Estimate {
    /// Returns the seconds of a step.
    pub fn seconds(&self) -> f64 {
        self.products + self.memory + self.network
    }
}
