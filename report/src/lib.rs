//! Cost of one step of a partitioned program, computed from its Local module: parameters, FLOPs,
//! communication and memory. Nothing is run, and nothing is guessed from names except as `flops` says about
//! routers.
//!
//! The JSON form is a stable interface (`meshc report --json`, golden tests): fields keep their names and
//! units. Bytes are per device; sizes of collectives are per run, and `count` is the number of runs in a
//! step.

mod collectives;
pub mod compiled;
pub mod difference;
mod flops;
pub mod html;
mod memory;
pub mod optimized;
pub mod part;
mod pipelines;
pub mod placed;
mod purposes;
pub mod replicated;
pub mod routes;
mod saturating;
pub mod table;
#[cfg(test)]
mod tests;
mod time;

use mesh::{Diagnostic, Function, Mesh, Module, ir::Phase, ir::StateKind};
use proto::manifest::Cost;
use saturating::sum;
use serde::{Deserialize, Serialize};

pub use collectives::{CollectiveUse, Direction, Traffic};
pub use memory::{Held, Memory, Moment, Share};
pub use time::work;

/// The report on one function of a program.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The program's name.
    pub program: String,
    /// The reported function.
    pub function: String,
    /// The mesh, as `data=2,expert=4`.
    pub mesh: String,
    /// The number of devices of the mesh.
    pub devices: usize,
    /// Elements of all trained parameters, counted once over the whole mesh.
    pub parameters: u64,
    /// All state by kind.
    pub state: Vec<StateUse>,
    /// Sequences in one step; 0 if unknown.
    pub sequences: u64,
    /// Forward FLOPs per sequence as papers count (see `flops.rs`); 0 if the number of sequences is unknown.
    pub flops_per_sequence: u64,
    /// FLOPs of the einsums of one device in one step.
    pub flops_per_device: u64,
    /// The same by phase: what the model states, and what its gradient adds.
    pub flops_per_device_by_phase: FlopsByPhase,
    /// The same by purpose.
    #[serde(default)]
    pub flops_per_device_by_purpose: FlopsByPurpose,
    /// The same by part of the model.
    #[serde(default)]
    pub flops_per_device_by_part: Vec<FlopsOfPart>,
    /// The estimated peak memory of one device, by part.
    pub peak_bytes_per_device: Memory,
    /// Memory from instruction to instruction.
    #[serde(default)]
    pub timeline: Vec<Moment>,
    /// The sharding of state and inputs.
    #[serde(default)]
    pub placed: Vec<placed::Placed>,
    /// Pipelines of the forward pass, in program order.
    #[serde(default)]
    pub pipelines: Vec<Pipeline>,
    /// All communication, in program order.
    pub collectives: Vec<CollectiveUse>,
    /// Bytes sent by one device in one step, by axes.
    pub traffic: Vec<Traffic>,
}

/// State of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StateUse {
    /// `param`, `slot` or `counter`.
    pub kind: String,
    /// The number of tensors.
    pub tensors: usize,
    /// Elements, counted once over the whole mesh.
    pub elements: u64,
    /// Bytes, counted once over the whole mesh.
    pub bytes: u64,
    /// Bytes on one device.
    pub bytes_per_device: u64,
}

/// FLOPs of one device by phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FlopsByPhase {
    /// The forward pass.
    pub forward: u64,
    /// The backward pass, including recomputation.
    pub backward: u64,
}

/// FLOPs of one device by purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FlopsByPurpose {
    /// The model and its gradient.
    pub model: u64,
    /// Recomputation in the backward pass of values that were not saved.
    pub remat: u64,
    /// Routers, and dispatch and combine by product.
    pub routing: u64,
    /// Experts' FLOPs on expert slots beyond one per token.
    pub empty_slots: u64,
    /// Work of the stages of pipelines on no microbatch.
    #[serde(default)]
    pub bubbles: u64,
}

/// A pipeline of stages through which microbatches pass.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pipeline {
    /// The scope, such as `decoder`.
    pub scope: String,
    /// The number of stages.
    pub stages: usize,
    /// The number of microbatches.
    pub microbatches: usize,
    /// The share of ticks in which a stage has no work: (stages − 1) / (microbatches + stages − 1).
    pub bubbles: f64,
}

/// FLOPs of a part of the model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlopsOfPart {
    /// The part.
    pub part: String,
    /// FLOPs of one device in one step.
    pub flops: u64,
}

impl FlopsByPhase {
    fn of(&mut self, phase: Phase) -> &mut u64 {
        match phase {
            Phase::Forward => &mut self.forward,
            Phase::Backward => &mut self.backward,
        }
    }
}

impl Report {
    /// The cost entry of the manifest.
    pub fn cost(&self) -> Cost {
        Cost {
            flops_per_device: self.flops_per_device,
            peak_bytes_per_device: self.peak_bytes_per_device.total,
            collective_bytes_per_device: sum(self
                .collectives
                .iter()
                .map(|c| c.bytes.saturating_mul(c.count))),
        }
    }
}

/// Reports on `function` of a Local module. The default is `train_step`, else `eval_step`, else the first
/// function.
pub fn report(local: &Module, function: Option<&str>) -> Result<Report, Diagnostic> {
    let f = match function {
        Some(name) => local.require_function(name)?,
        None => local
            .function("train_step")
            .or_else(|| local.function("eval_step"))
            .or_else(|| local.functions.first())
            .ok_or_else(|| Diagnostic::new("", format!("program `{}` has no function", local.name)))?,
    };
    let mesh = &local.env.mesh;
    let state = state(local);
    let params = state.iter().filter(|s| s.kind == StateKind::Param.name());
    let parameters = sum(params.map(|s| s.elements));
    let sequences = sequences(local, f);
    let counted = flops::per_step(f);
    let by_phase = flops::per_device(mesh, f);
    let (by_purpose, by_part) = purposes::of(mesh, f);
    let peak = memory::peak(local, f);
    let collectives = collectives::collect(mesh, f);
    Ok(Report {
        program: local.name.clone(),
        function: f.name.to_string(),
        mesh: mesh.to_string(),
        devices: mesh.devices(),
        parameters,
        state,
        sequences,
        flops_per_sequence: counted.checked_div(u128::from(sequences)).map_or(0, clip),
        flops_per_device: by_phase.forward.saturating_add(by_phase.backward),
        flops_per_device_by_phase: by_phase,
        flops_per_device_by_purpose: by_purpose,
        flops_per_device_by_part: by_part,
        timeline: memory::timeline(local, f, &peak),
        peak_bytes_per_device: peak,
        placed: placed::all(local, f),
        pipelines: pipelines::of(f),
        traffic: collectives::traffic(&collectives),
        collectives,
    })
}

fn clip(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn state(local: &Module) -> Vec<StateUse> {
    let mesh = &local.env.mesh;
    let of = |kind: StateKind| {
        let all: Vec<_> = local.env.states.iter().map(|(_, s)| s).filter(|s| s.kind == kind).collect();
        let bytes = |ty: &mesh::Type| ty.elements() as u64 * ty.dtype.bytes() as u64;
        StateUse {
            kind: kind.name().to_owned(),
            tensors: all.len(),
            elements: sum(all.iter().map(|s| s.ty.elements() as u64)),
            bytes: sum(all.iter().map(|s| bytes(&s.ty))),
            bytes_per_device: sum(all.iter().map(|s| s.ty.local_bytes(mesh) as u64)),
        }
    };
    [StateKind::Param, StateKind::Slot, StateKind::Counter].map(of).into()
}

/// The batch size of the program's task, else the size of the dim `batch` of the first input that has it.
fn sequences(local: &Module, f: &Function) -> u64 {
    let stated = local.task.as_ref().map(|task| task.batch as u64);
    let input = || f.body.param_types().find_map(|ty| ty.size("batch")).map(|n| n as u64);
    stated.or_else(input).unwrap_or(0)
}

/// `file:line`, as reports name a place; empty if unknown.
fn place(site: &mesh::Site) -> String {
    if site.line == 0 { site.file.to_string() } else { format!("{}:{}", site.file, site.line) }
}

/// The number of runs of an operation's bodies per run of the operation.
fn trips(op: &mesh::Op) -> u64 {
    match op {
        mesh::Op::Control(mesh::ir::Control::Scan(scan)) => scan.dim.size as u64,
        mesh::Op::Control(mesh::ir::Control::Cond { .. } | mesh::ir::Control::Grad)
        | mesh::Op::Elementwise(_)
        | mesh::Op::Contract(_)
        | mesh::Op::Reduce(_)
        | mesh::Op::Shape(_)
        | mesh::Op::Index(_)
        | mesh::Op::Random(_)
        | mesh::Op::State(_)
        | mesh::Op::Collective(_) => 1,
    }
}

/// Bytes of one device's shard of a type.
fn bytes(mesh: &Mesh, ty: &mesh::Type) -> u64 {
    ty.local_bytes(mesh) as u64
}
