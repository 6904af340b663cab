//! Communication: every collective with the bytes it sends, how often it runs, and the line of the model that
//! caused it.

use super::{
    bytes, place,
    saturating::{add, product},
    trips,
};
use compiler::cost::wire::{axes, wire_bytes};
use mesh::{
    Body, DType, Function, Inst, Mesh, Op,
    ir::{Collective, Phase},
    text::op_name,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One collective of a step, or several equal ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CollectiveUse {
    /// Its name in `.mesh` text, such as `all_reduce`.
    pub kind: String,
    /// The axes it communicates over.
    pub axes: Vec<String>,
    /// The element type that is sent.
    pub dtype: String,
    /// Bytes of the operand on one device.
    pub bytes: u64,
    /// Bytes that one device sends (ring algorithms).
    pub wire_bytes: u64,
    /// The number of runs in one step.
    pub count: u64,
    /// The pass it belongs to.
    pub direction: Direction,
    /// `file:line` of the model.
    pub source: String,
}

/// The forward or backward pass of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The computation that the model states.
    #[default]
    Forward,
    /// The computation that its gradient adds.
    Backward,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
        })
    }
}

/// Bytes that one device sends over some axes in one step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// The axes.
    pub axes: Vec<String>,
    /// Bytes in total.
    pub wire_bytes: u64,
    /// The number of collectives that run.
    pub count: u64,
}

/// All collectives of a function. (Collectives in the branches of a conditional count as if both ran.)
pub(super) fn collect(mesh: &Mesh, f: &Function) -> Vec<CollectiveUse> {
    let mut found = Vec::new();
    body(mesh, &f.body, 1, &mut found);
    found
}

fn body(mesh: &Mesh, body_: &Body, times: u64, found: &mut Vec<CollectiveUse>) {
    for inst in &body_.insts {
        if let Op::Collective(op) = &inst.op
            && let Some(used) = describe(mesh, body_, inst, op, times)
        {
            let alike = |u: &&mut CollectiveUse| CollectiveUse { count: used.count, ..(**u).clone() } == used;
            match found.iter_mut().find(alike) {
                Some(other) => add(&mut other.count, used.count),
                None => found.push(used),
            }
        }
        for inner in inst.op.bodies() {
            body(mesh, inner, product([times, trips(&inst.op)]), found);
        }
    }
}

fn describe(mesh: &Mesh, body: &Body, inst: &Inst, op: &Collective, times: u64) -> Option<CollectiveUse> {
    let over = axes(op);
    if over.is_empty() {
        return None;
    }
    let x = body.ty(inst.args[0]);
    Some(CollectiveUse {
        kind: op_name(&inst.op).to_owned(),
        axes: over.iter().map(|a| mesh.name(a).to_string()).collect(),
        dtype: DType::name(x.dtype).to_owned(),
        bytes: bytes(mesh, x),
        wire_bytes: wire_bytes(mesh, op, x),
        count: times,
        direction: match inst.site.phase {
            Phase::Forward => Direction::Forward,
            Phase::Backward => Direction::Backward,
        },
        source: place(&inst.site),
    })
}

/// Bytes sent in total, by axes.
pub(super) fn traffic(all: &[CollectiveUse]) -> Vec<Traffic> {
    let mut sums: Vec<Traffic> = Vec::new();
    for used in all {
        let sent = product([used.wire_bytes, used.count]);
        match sums.iter_mut().find(|t| t.axes == used.axes) {
            Some(t) => {
                add(&mut t.wire_bytes, sent);
                add(&mut t.count, used.count);
            }
            None => {
                sums.push(Traffic { axes: used.axes.clone(), wire_bytes: sent, count: used.count });
            }
        }
    }
    sums
}
