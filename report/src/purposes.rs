//! FLOPs of one device by purpose.
//!
//! An einsum of the backward pass is a recomputation if the forward pass has the same one: the same line and
//! scope, and the same dims of operands and result. Gradients have other dims. So is one in a rehearsal.

use super::{
    FlopsByPurpose, FlopsOfPart, flops,
    part::{PARTS, part},
    pipelines::idle_trips,
    saturating::{add, product},
    trips,
};
use mesh::{
    Body, Function, Inst, Mesh, Op,
    dsl::REHEARSAL,
    ir::{Contract, Phase},
};
use std::collections::BTreeSet;

/// The site and the dims of an einsum.
type Signature = (String, u32, String, Vec<String>);

/// The FLOPs of a function by purpose, and by part of the model.
pub(super) fn of(mesh: &Mesh, f: &Function) -> (FlopsByPurpose, Vec<FlopsOfPart>) {
    let mut forward = BTreeSet::new();
    f.body.walk(&mut |body, inst| {
        if let (Op::Contract(op), Phase::Forward) = (&inst.op, inst.site.phase) {
            forward.insert(signature(body, inst, op));
        }
    });
    let mut found = Found { mesh, forward, purpose: FlopsByPurpose::default(), parts: vec![0; PARTS.len()] };
    found.body(&f.body, 1, 0);
    // The share of experts' FLOPs beyond one expert slot per token.
    let slots = flops::slots(f);
    let experts = found.parts[index("experts")];
    let empty = (experts as f64 * (1.0 - 1.0 / slots).max(0.0)).round() as u64;
    found.purpose.empty_slots = empty.min(found.purpose.model);
    found.purpose.model -= found.purpose.empty_slots;
    let parts = PARTS.iter().zip(&found.parts).filter(|(_, flops)| **flops > 0);
    let parts = parts.map(|(part, flops)| FlopsOfPart { part: (*part).to_owned(), flops: *flops });
    (found.purpose, parts.collect())
}

struct Found<'m> {
    mesh: &'m Mesh,
    forward: BTreeSet<Signature>,
    purpose: FlopsByPurpose,
    parts: Vec<u64>,
}

impl Found<'_> {
    /// Adds a body that runs so many `times`, `idle` of them in bubbles of a pipeline.
    fn body(&mut self, body: &Body, times: u64, idle: u64) {
        for inst in &body.insts {
            if let Op::Contract(op) = &inst.op {
                let local = |d: &mesh::TensorDim| (d.dim.size / self.mesh.product(&d.axes)) as u64;
                let [flops, bubbles] = [times, idle]
                    .map(|times| product(flops::dims(body, inst, op).map(local).chain([times, 2])));
                let part = part(&inst.site.scope);
                add(&mut self.parts[index(part)], flops);
                let again = inst.site.scope.split('/').any(|word| word == REHEARSAL)
                    || inst.site.phase == Phase::Backward
                        && self.forward.contains(&signature(body, inst, op));
                let sum = match part {
                    _ if again => &mut self.purpose.remat,
                    "router" | "dispatch and combine" => &mut self.purpose.routing,
                    _ => &mut self.purpose.model,
                };
                add(sum, flops - bubbles);
                add(&mut self.purpose.bubbles, bubbles);
            }
            // Both branches of a conditional count here; none of our models has einsums in both.
            let trips = trips(&inst.op);
            let idle = product([idle, trips]).max(product([times, idle_trips(&inst.op)]));
            let times = product([times, trips]);
            inst.op.bodies().into_iter().for_each(|b| self.body(b, times, idle));
        }
    }
}

fn index(part: &str) -> usize {
    PARTS.iter().position(|p| *p == part).unwrap_or(PARTS.len() - 1)
}

fn signature(body: &Body, inst: &Inst, op: &Contract) -> Signature {
    let names = |v: &mesh::Value| {
        let mut names: Vec<&str> = body.ty(*v).names().map(|n| n.as_str()).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let mut operands: Vec<String> = inst.args.iter().map(names).collect();
    operands.sort_unstable();
    let mut out: Vec<&str> = op.out.iter().map(|n| n.as_str()).collect();
    out.sort_unstable();
    operands.push(out.join(" "));
    (inst.site.file.to_string(), inst.site.line, inst.site.scope.to_string(), operands)
}
