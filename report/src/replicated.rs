//! Replicated products: einsums that several devices compute alike, because an axis of the mesh splits none
//! of their dims.

use super::{flops, saturating::add, trips};
use mesh::{AxisId, AxisSet, Body, Function, Mesh, Name, Op, arena::Id};

/// The replicated FLOPs of one function.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Replicated {
    /// FLOPs of the einsums of one device.
    pub flops: u64,
    /// The FLOPs that would remain if every axis split every einsum.
    pub share: u64,
    /// For each axis, in the order of the mesh, the FLOPs of one device in einsums that it does not split.
    pub by_axis: Vec<u64>,
    /// For each axis and each dim of such einsums, the FLOPs of the einsums that have the dim; the largest
    /// first.
    pub dims: Vec<(AxisId, Name, u64)>,
}

impl Replicated {
    /// FLOPs of one device over its share: 1 if nothing is replicated.
    pub fn ratio(&self) -> f64 {
        if self.share == 0 { 1.0 } else { self.flops as f64 / self.share as f64 }
    }
}

/// Counts the replicated FLOPs of a function of a Local program. Of a conditional, both branches count.
pub fn replicated(mesh: &Mesh, f: &Function) -> Replicated {
    let mut found = Replicated { by_axis: vec![0; mesh.axes().len()], ..Replicated::default() };
    body(mesh, &f.body, 1, &mut found);
    found.dims.sort_by_key(|(axis, name, flops)| (std::cmp::Reverse(*flops), *axis, name.clone()));
    found
}

fn body(mesh: &Mesh, body: &Body, times: u64, found: &mut Replicated) {
    for inst in &body.insts {
        if let Op::Contract(op) = &inst.op {
            let mut used = AxisSet::EMPTY;
            let mut flops = times.saturating_mul(2);
            for d in flops::dims(body, inst, op) {
                d.axes.iter().for_each(|axis| _ = used.insert(*axis));
                flops = flops.saturating_mul((d.dim.size / mesh.product(&d.axes)) as u64);
            }
            let unused: Vec<AxisId> = mesh.ids().filter(|axis| !used.contains(*axis)).collect();
            add(&mut found.flops, flops);
            add(&mut found.share, flops / mesh.product(&unused) as u64);
            for axis in unused {
                add(&mut found.by_axis[axis.index()], flops);
                for d in flops::dims(body, inst, op) {
                    match found.dims.iter_mut().find(|(a, name, _)| *a == axis && *name == d.dim.name) {
                        Some((_, _, sum)) => add(sum, flops),
                        None => found.dims.push((axis, d.dim.name.clone(), flops)),
                    }
                }
            }
        }
        for inner in inst.op.bodies() {
            self::body(mesh, inner, times.saturating_mul(trips(&inst.op)), found);
        }
    }
}
