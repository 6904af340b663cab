//! The result of a campaign.

use crate::{
    families::Counts,
    law::{Failure, Worst},
};
use mesh::Mesh;
use serde_json::{Value, json};
use std::{fmt, time::Duration};

/// The result of a campaign.
#[derive(Clone, Debug)]
pub struct Report {
    /// The requested number of random programs.
    pub requested: usize,
    /// The number of random programs that were compared.
    pub programs: usize,
    /// The number of Switch layers that were compared.
    pub layers: usize,
    /// The seed.
    pub seed: u64,
    /// The mesh, empty for one device.
    pub mesh: String,
    /// The instructions that were run, on every device of the mesh.
    pub families: Counts,
    /// The largest difference of results that agree.
    pub worst: Worst,
    /// Programs whose results differ.
    pub failures: Vec<Failure>,
    /// The time that it took.
    pub elapsed: Duration,
}

impl Report {
    /// Returns the report of a campaign that has not begun.
    pub(crate) fn new(requested: usize, seed: u64, mesh: &Mesh) -> Self {
        Self {
            requested,
            programs: 0,
            layers: 0,
            seed,
            mesh: mesh.to_string(),
            families: Counts::default(),
            worst: Worst::default(),
            failures: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// True if something was compared, and all of it agreed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.layers > 0 && (self.programs > 0 || self.requested == 0)
    }

    /// Returns the report as JSON.
    pub fn json(&self) -> Value {
        let families: serde_json::Map<String, Value> =
            self.families.named().map(|(name, count)| (name.to_owned(), json!(count))).collect();
        let failures: Vec<Value> = self.failures.iter().map(failure).collect();
        json!({
            "passed": self.passed(),
            "mesh": self.mesh,
            "seed": self.seed,
            "programs": self.programs,
            "programs_requested": self.requested,
            "layers": self.layers,
            "seconds": self.elapsed.as_secs_f64(),
            "families": families,
            "worst_relative": self.worst.relative,
            "worst_of_tolerance": self.worst.of_tolerance,
            "failures": failures,
        })
    }
}

fn failure(failure: &Failure) -> Value {
    let case = &failure.case;
    json!({
        "message": failure.message,
        "seed": case.seed,
        "mesh": case.mesh.to_string(),
        "layout": case.layout.to_string(),
        "state_layout": case.state_layout.to_string(),
        "program": mesh::text::print(&case.module),
        "reproduction": failure.to_string(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "{failure}")?;
        }
        let Self { programs, requested, layers, seed, elapsed, worst, .. } = self;
        let place = if self.mesh.is_empty() { "one device" } else { &self.mesh };
        let seconds = elapsed.as_secs_f64();
        writeln!(f, "mesh         {place}")?;
        writeln!(
            f,
            "programs     {programs} of {requested}, and {layers} Switch layers with their gradients"
        )?;
        writeln!(f, "time         {seconds:.1} s, from seed {seed}")?;
        let counts: Vec<String> = self.families.named().map(|(name, n)| format!("{name} {n}")).collect();
        writeln!(f, "operations   {}", counts.join(", "))?;
        let (relative, part) = (worst.relative, 100.0 * worst.of_tolerance);
        writeln!(f, "worst error  {relative:.1e} of the largest element, {part:.0} % of the tolerance")?;
        match self.failures.len() {
            0 if self.passed() => {
                write!(f, "passed: the devices compute what the reference interpreter computes")
            }
            0 => write!(f, "FAILED: nothing was compared within the time limit"),
            n => write!(f, "FAILED: {n} programs differ from the reference interpreter (above)"),
        }
    }
}
