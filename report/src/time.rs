//! The estimated time of a step on a slice, by which layouts are ranked. Einsums run at the rate of the
//! matrix units or of memory, everything that is stored at the rate of memory, and collectives at the rate of
//! the links they use. Nothing overlaps.

use super::{bytes, flops, memory, trips};
use compiler::{
    cost::{
        target::Slice,
        time::Work,
        wire::{axes, steps, wire_bytes},
    },
    facts::is_view,
};
use mesh::{
    Body, Function, Inst, Mesh, Op,
    ir::{Collective, Contract},
};
use rustc_hash::FxHashMap;

/// Seconds of one call of a function of a Local module, by the busy part.
pub fn work(mesh: &Mesh, f: &Function, slice: &Slice) -> Work {
    let mut sum = Sum { mesh, slice, work: Work::default(), rates: FxHashMap::default() };
    sum.body(&f.body, 1.0);
    sum.work
}

struct Sum<'m> {
    mesh: &'m Mesh,
    slice: &'m Slice,
    work: Work,
    /// Seconds per byte sent and per start, by axes and movement: -1 for an all-to-all, the distance for a
    /// permute.
    rates: FxHashMap<(u32, i64), (f64, f64)>,
}

impl Sum<'_> {
    fn body(&mut self, body: &Body, times: f64) {
        let users = memory::users(body);
        for inst in &body.insts {
            match &inst.op {
                Op::Contract(op) => self.work.products += times * self.product(body, inst, op),
                Op::Collective(op) => self.work.network += times * self.collective(body, inst, op),
                Op::Control(_) => {
                    let times = times * trips(&inst.op) as f64;
                    inst.op.bodies().into_iter().for_each(|b| self.body(b, times));
                }
                Op::Elementwise(_)
                | Op::Reduce(_)
                | Op::Shape(_)
                | Op::Index(_)
                | Op::Random(_)
                | Op::State(_) => {
                    let written = |r: &&mesh::Value| memory::stored(inst, &users[r.0 as usize]);
                    if !is_view(&inst.op) && inst.results.iter().any(|r| written(&r)) {
                        let all = inst.args.iter().chain(&inst.results);
                        let all: u64 = all.map(|v| bytes(self.mesh, body.ty(*v))).sum();
                        self.work.memory += times * all as f64 / self.slice.speed().hbm;
                    }
                }
            }
        }
    }

    fn product(&self, body: &Body, inst: &Inst, op: &Contract) -> f64 {
        let (a, b) = (body.ty(inst.args[0]), body.ty(inst.args[1]));
        let local = |d: &mesh::TensorDim| d.dim.size / self.mesh.product(&d.axes);
        let of = |test: &dyn Fn(&mesh::TensorDim) -> bool| -> usize {
            flops::dims(body, inst, op).filter(|d| test(d)).map(local).product()
        };
        let kept = |d: &mesh::TensorDim| op.out.contains(&d.dim.name);
        let rows = of(&|d| kept(d) && !b.has(&d.dim.name));
        let columns = of(&|d| kept(d) && !a.has(&d.dim.name));
        let summed = of(&|d| !kept(d));
        let speed = self.slice.speed();
        let flops = 2.0 * flops::dims(body, inst, op).map(|d| local(d) as f64).product::<f64>();
        let moved: u64 = inst.args.iter().chain(&inst.results).map(|v| bytes(self.mesh, body.ty(*v))).sum();
        let filling = self.slice.filling(rows, columns, summed);
        f64::max(flops / speed.flops / filling, moved as f64 / speed.hbm)
    }

    fn collective(&mut self, body: &Body, inst: &Inst, op: &Collective) -> f64 {
        let over = axes(op);
        if over.is_empty() {
            return 0.0;
        }
        let (mesh, slice) = (self.mesh, self.slice);
        let kind = match op {
            Collective::AllToAll { .. } => -1,
            Collective::Permute { by, wrap, .. } => {
                let devices = over.iter().map(|a| self.mesh.size(a) as u64).product();
                steps(devices, *by, *wrap) as i64
            }
            Collective::AllReduce { .. }
            | Collective::AllGather { .. }
            | Collective::ReduceScatter { .. }
            | Collective::Shard { .. }
            | Collective::AsPending { .. } => 0,
        };
        let ids: Vec<mesh::AxisId> = over.iter().collect();
        let (rate, start) = *self.rates.entry((over.0, kind)).or_insert_with(|| {
            // Time is linear in bytes.
            let time = |wire| slice.collective_time(mesh, op, &ids, wire);
            let rate = (time(2_000_000_000) - time(1_000_000_000)) / 1e9;
            (rate, time(1_000_000_000) - 1e9 * rate)
        });
        let wire = wire_bytes(mesh, op, body.ty(inst.args[0]));
        if wire == 0 { 0.0 } else { start + rate * wire as f64 }
    }
}
