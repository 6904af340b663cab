//! The estimated time of a step on a slice, by which layouts are ranked. Einsums run at the rate of the
//! matrix units or of memory, everything that is stored at the rate of memory, and collectives at the rate of
//! the links they use. Nothing overlaps.

use super::{bytes, flops, memory, saturating::sum, trips};
use compiler::{
    cost::{
        target::Slice,
        time::Work,
        wire::{axes, wire_bytes},
    },
    facts::is_view,
};
use mesh::{
    AxisId, Body, Function, Inst, Mesh, Op, Value,
    arena::Id,
    ir::{Binary, Collective, Contract, Elementwise, Index},
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
    /// Seconds per byte sent and per start.
    rates: FxHashMap<(Vec<AxisId>, Movement), (f64, f64)>,
}

/// The movement of data along axes, on which the time for a byte depends.
#[derive(PartialEq, Eq, Hash)]
enum Movement {
    /// Sums and gathers.
    Ring,
    /// An all-to-all.
    Exchange,
    /// A permute.
    Permute { by: isize, wrap: bool },
}

impl Sum<'_> {
    fn body(&mut self, body: &Body, times: f64) {
        let users = memory::users(body);
        let scattered = self.scattered(body);
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
                    let written = |r: &&Value| memory::stored(inst, &users[r.0 as usize]);
                    if let Some(touched) = self.few_rows(body, inst, &scattered, &users) {
                        self.work.memory += times * touched as f64 / self.slice.speed().hbm;
                    } else if !is_view(&inst.op) && inst.results.iter().any(|r| written(&r)) {
                        let all = inst.args.iter().chain(&inst.results);
                        let all = sum(all.map(|v| bytes(self.mesh, body.ty(*v))));
                        self.work.memory += times * all as f64 / self.slice.speed().hbm;
                    }
                }
            }
        }
    }

    /// The sums of few rows of a larger tensor in a body, with the bytes of the rows.
    fn scattered(&self, body: &Body) -> FxHashMap<Value, u64> {
        let size = |v: Value| bytes(self.mesh, body.ty(v));
        let sums = body.insts.iter().filter(|inst| matches!(inst.op, Op::Index(Index::ScatterAdd { .. })));
        let rows = sums.map(|inst| (inst.results[0], size(inst.args[1])));
        rows.filter(|(all, rows)| are_few(*rows, size(*all))).collect()
    }

    /// Bytes that an operation reads and writes if it handles a few rows of a larger tensor: a gather reads
    /// what it returns, and a scatter is added to the tensor in place. `None` means that it handles all.
    fn few_rows(
        &self,
        body: &Body,
        inst: &Inst,
        scattered: &FxHashMap<Value, u64>,
        users: &[Vec<Option<&Inst>>],
    ) -> Option<u64> {
        if let Op::Index(Index::Gather { .. }) = &inst.op {
            let [rows, all] = [inst.results[0], inst.args[0]].map(|v| bytes(self.mesh, body.ty(v)));
            return are_few(rows, all).then_some(rows.saturating_mul(2));
        }
        let is_sum = |inst: &Inst| inst.op == Op::Elementwise(Elementwise::Binary(Binary::Add));
        if is_sum(inst) {
            return inst.args.iter().find_map(|v| scattered.get(v)).map(|rows| rows.saturating_mul(3));
        }
        let sum = inst.results.first().filter(|result| scattered.contains_key(result))?;
        matches!(&users[sum.index()][..], [Some(user)] if is_sum(user)).then_some(0)
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
        let moved = inst.args.iter().chain(&inst.results).map(|v| bytes(self.mesh, body.ty(*v)));
        let moved = sum(moved);
        let filling = self.slice.filling(rows, columns, summed);
        f64::max(flops / speed.flops / filling, moved as f64 / speed.hbm)
    }

    fn collective(&mut self, body: &Body, inst: &Inst, op: &Collective) -> f64 {
        let wire = wire_bytes(self.mesh, op, body.ty(inst.args[0]));
        if wire == 0 {
            return 0.0;
        }
        let (mesh, slice) = (self.mesh, self.slice);
        let (ids, movement) = match op {
            Collective::AllToAll { .. } => (axes(op).iter().collect(), Movement::Exchange),
            // The order of axes is that of the shards.
            Collective::Permute { dim: _, axes, by, wrap } => {
                (axes.clone(), Movement::Permute { by: *by, wrap: *wrap })
            }
            Collective::AllReduce { .. }
            | Collective::AllGather { .. }
            | Collective::ReduceScatter { .. }
            | Collective::Shard { .. }
            | Collective::AsPending { .. } => (axes(op).iter().collect(), Movement::Ring),
        };
        let ids: Vec<AxisId> = ids;
        let (rate, start) = *self.rates.entry((ids.clone(), movement)).or_insert_with(|| {
            // Time is linear in bytes.
            let time = |wire| slice.collective_time(mesh, op, &ids, wire);
            let rate = (time(2_000_000_000) - time(1_000_000_000)) / 1e9;
            (rate, time(1_000_000_000) - 1e9 * rate)
        });
        start + rate * wire as f64
    }
}

/// True if a tensor of `all` bytes is much larger than its rows of `rows` bytes.
fn are_few(rows: u64, all: u64) -> bool {
    rows.saturating_mul(2) <= all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of memory traffic of a function of a matrix of 64 KiB and 2 KiB of rows, on one device.
    #[track_caller]
    fn traffic(insts: &str, result: &str) -> f64 {
        let text = format!(
            "module m\nfunc f(%x x: f32[n=256, m=64], %r r: f32[k=8, m=64], %i i: s32[k=8]) -> (y: f32[n=256, \
             m=64]) {{\n{insts}\n  return {result}\n}}\n"
        );
        let module = mesh::text::parse(&text, "test").unwrap_or_else(|e| panic!("{e}"));
        let module = mesh::verify::Local::new(module).unwrap_or_else(|e| panic!("{e}"));
        let (module, slice) = (module.module(), Slice::parse("v5e:1x1").unwrap());
        work(&module.env.mesh, &module.functions[0], &slice).memory * slice.speed().hbm
    }

    #[test]
    fn few_rows_are_added_in_place_unless_their_sum_is_used_again() {
        let scatter = "  %s = scatter_add %i, %r {dim=n=256, over=[k]}";
        let once = format!("{scatter}\n  %y = add %x, %s");
        assert_eq!(traffic(&once, "%y").round(), 3.0 * 2048.0);
        let again = format!("{once}\n  %z = add %y, %s");
        assert!(traffic(&again, "%z") > 65536.0, "the scatter is stored");
        assert!(traffic(scatter, "%s") > 65536.0, "the scatter is the result");
    }

    /// Seconds of the collectives of a function with `insts`.
    #[track_caller]
    fn network(insts: &[&str]) -> f64 {
        let text = format!(
            "module m\nmesh a=2, b=8\nfunc f(%x x: f32[n=64@a+b, m=16], %z z: f32[n=64@b+a, m=16]) -> (y: \
             f32[n=64@a+b, m=16]) {{\n{}\n  return %x\n}}\n",
            insts.join("\n")
        );
        let module = mesh::text::parse(&text, "test").unwrap_or_else(|e| panic!("{e}"));
        let module = mesh::verify::Local::new(module).unwrap_or_else(|e| panic!("{e}"));
        let (module, slice) = (module.module(), Slice::parse("v5e:4x4").unwrap());
        work(&module.env.mesh, &module.functions[0], &slice).network
    }

    #[test]
    fn the_time_of_a_collective_does_not_depend_on_those_before_it() {
        let still = "  %1 = collective_permute %x {dim=n, axes=[a, b], by=16, wrap}";
        let next = "  %2 = collective_permute %x {dim=n, axes=[a, b], by=1, wrap}";
        let cut = "  %3 = collective_permute %x {dim=n, axes=[a, b], by=-3}";
        let other = "  %4 = collective_permute %z {dim=n, axes=[b, a], by=1, wrap}";
        let gather = "  %5 = all_gather %x {dim=n, axes=[a, b]}";
        let all = [still, next, cut, other, gather];
        let alone = all.map(|inst| network(&[inst]));
        assert_eq!(alone[0], 0.0, "it sends nothing");
        assert!(alone[1] > 0.0 && alone[4] > 0.0, "{alone:?}");
        // In this order of axes, neighbours are two rows of chips from each other.
        assert!(alone[3] > alone[1], "{alone:?}");
        let together = network(&all);
        assert!((together / alone.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{together} for {alone:?}");
    }
}
