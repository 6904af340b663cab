//! Chooses the forward values that a differentiated scan saves for the backward pass.
//!
//! The backward pass needs some forward values of each iteration. Each is either saved (stacked over the
//! iterations: written once, read once, and held in memory in between) or recomputed from saved ones. The
//! policy says which operations may be recomputed. The choice is then a *minimum cut*: the fewest bytes to
//! save such that everything needed can be recomputed. Slices and captures are available anyway, and so are
//! carries that can be rolled back.

use crate::facts::{is_cheap, is_heavy};
use mesh::{
    Body, Inst, Name, Op, Value,
    arena::Id,
    ir::{Edge, Remat, Shape},
};

/// The way in which the backward pass gets a forward value of a scan's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// The backward pass does not need it.
    Unused,
    /// It is saved.
    Saved,
    /// It is a slice or capture, and is read again, or a carry that is rolled back, before or after the roll.
    Available,
    /// It is recomputed from the others.
    Recomputed,
}

/// The dim and distance by which an iteration rolls carry `i`, if it does nothing else to it. Such a carry
/// can be rolled back, and need not be saved.
pub(super) fn roll(body: &Body, i: usize) -> Option<(Name, isize)> {
    let inst = body.insts.iter().find(|inst| inst.results.contains(&body.results[i]))?;
    let Op::Shape(Shape::Shift { dim, by, edge: Edge::Wrap }) = &inst.op else { return None };
    (inst.args[0] == body.params[i]).then(|| (dim.clone(), *by))
}

/// The carries that iterations only roll: before and after an iteration. The backward scan has the value
/// after the iteration as its parameter.
fn rolled(body: &Body, carries: usize) -> Vec<(Value, Value)> {
    let rolls = (0..carries).filter(|i| roll(body, *i).is_some());
    rolls.map(|i| (body.params[i], body.results[i])).collect()
}

/// Chooses for a body whose first `carries` parameters change from iteration to iteration.
pub(super) fn choose(body: &Body, carries: usize, needed: &[Value], policy: Remat) -> Vec<Fate> {
    let saved = cut(body, carries, needed, policy);
    closure(body, carries, needed, |v| saved[v.index()])
}

/// The values that must be recomputed to get from `saved` values and parameters to those `needed`.
pub(super) fn closure(
    body: &Body,
    carries: usize,
    needed: &[Value],
    saved: impl Fn(Value) -> bool,
) -> Vec<Fate> {
    let rolled = rolled(body, carries);
    let mut fates = vec![Fate::Unused; body.values.len()];
    let mut want = vec![false; body.values.len()];
    let mut visit = |v: Value, want: &mut Vec<bool>| {
        if saved(v) {
            fates[v.index()] = Fate::Saved;
        } else if let Some((carry, _)) = rolled.iter().find(|(_, after)| *after == v) {
            fates[v.index()] = Fate::Available;
            want[carry.index()] = true;
        } else {
            want[v.index()] = true;
        }
    };
    needed.iter().for_each(|v| visit(*v, &mut want));
    let mut recomputed = Vec::new();
    for inst in body.insts.iter().rev() {
        if inst.results.iter().any(|r| want[r.index()]) {
            recomputed.extend(inst.results.iter().copied());
            inst.args.iter().for_each(|a| visit(*a, &mut want));
        }
    }
    for v in recomputed {
        // An instruction with several results may be recomputed although one of them is saved.
        if fates[v.index()] == Fate::Unused {
            fates[v.index()] = Fate::Recomputed;
        }
    }
    for param in &body.params {
        if want[param.index()] {
            fates[param.index()] = Fate::Available;
        }
    }
    fates
}

/// True if the results of an instruction may be recomputed under `policy`.
fn may_recompute(body: &Body, available: &[bool], inst: &Inst, policy: Remat) -> bool {
    match policy {
        Remat::SaveAll => is_cheap(&inst.op),
        Remat::SaveLong => is_cheap(&inst.op) || has_few_terms(body, inst, policy.few_terms()),
        Remat::SaveCompact => {
            let given = inst.results.iter().all(|r| available[r.index()]);
            is_cheap(&inst.op) || given || has_few_terms(body, inst, policy.few_terms())
        }
        Remat::SaveContractions => !is_heavy(&inst.op),
        Remat::SaveCarries => true,
    }
}

/// True for an einsum that sums at most `most` terms per element.
fn has_few_terms(body: &Body, inst: &Inst, most: usize) -> bool {
    let Op::Contract(op) = &inst.op else { return false };
    let [a, b] = [inst.args[0], inst.args[1]].map(|v| body.ty(v));
    let more = b.dims.iter().filter(|d| !a.has(&d.dim.name));
    let gone = a.dims.iter().chain(more).filter(|d| !op.out.contains(&d.dim.name));
    gone.map(|d| d.dim.size).product::<usize>() <= most
}

/// For each value, true if cheap operations and einsums compute it from slices and captures alone, which are
/// available anyway.
fn available(body: &Body, carries: usize) -> Vec<bool> {
    let mut available = vec![false; body.values.len()];
    body.params[carries..].iter().for_each(|v| available[v.index()] = true);
    for (before, after) in rolled(body, carries) {
        available[before.index()] = true;
        available[after.index()] = true;
    }
    for inst in &body.insts {
        let may = is_cheap(&inst.op) || matches!(inst.op, Op::Contract(_));
        let is = may && inst.args.iter().all(|a| available[a.index()]);
        inst.results.iter().for_each(|r| available[r.index()] |= is);
    }
    available
}

/// Flags of the values to save: the minimum cut between what cannot be recomputed and what is needed. Of
/// several such cuts, the one nearest to what is needed, because it recomputes the least.
fn cut(body: &Body, carries: usize, needed: &[Value], policy: Remat) -> Vec<bool> {
    let count = body.values.len();
    let (source, sink) = (2 * count, 2 * count + 1);
    let available = available(body, carries);
    let mut graph = Graph::new(2 * count + 2);
    let is_carry = |v: Value| body.params[..carries].contains(&v);
    for (v, data) in body.values.iter() {
        let may_be_kept = policy != Remat::SaveCarries || is_carry(v);
        let bytes = (data.ty.elements() * data.ty.dtype.bytes()) as u64;
        graph.edge(2 * v.index(), 2 * v.index() + 1, if may_be_kept { bytes } else { ENDLESS });
    }
    let rolled = rolled(body, carries);
    for carry in body.params[..carries].iter().filter(|v| rolled.iter().all(|(before, _)| before != *v)) {
        graph.edge(source, 2 * carry.index(), ENDLESS);
    }
    for inst in &body.insts {
        for result in inst.results.iter().filter(|v| rolled.iter().all(|(_, after)| after != *v)) {
            if !may_recompute(body, &available, inst, policy) {
                graph.edge(source, 2 * result.index(), ENDLESS);
                continue;
            }
            for arg in &inst.args {
                graph.edge(2 * arg.index() + 1, 2 * result.index(), ENDLESS);
            }
        }
    }
    for v in needed {
        graph.edge(2 * v.index() + 1, sink, ENDLESS);
    }
    let near = graph.sink_side(source, sink);
    (0..count).map(|v| near[2 * v + 1] && !near[2 * v]).collect()
}

const ENDLESS: u64 = u64::MAX / 4;

/// A flow network; edge `e ^ 1` is edge `e` reversed.
struct Graph {
    out: Vec<Vec<usize>>,
    to: Vec<usize>,
    room: Vec<u64>,
}

impl Graph {
    fn new(nodes: usize) -> Self {
        Self { out: vec![Vec::new(); nodes], to: Vec::new(), room: Vec::new() }
    }

    fn edge(&mut self, from: usize, to: usize, capacity: u64) {
        for (a, b, room) in [(from, to, capacity), (to, from, 0)] {
            self.out[a].push(self.to.len());
            self.to.push(b);
            self.room.push(room);
        }
    }

    /// Fills the network along shortest paths (Edmonds and Karp 1972). Returns the nodes from which the sink
    /// can still be reached.
    fn sink_side(&mut self, source: usize, sink: usize) -> Vec<bool> {
        while let Some(path) = self.path(source, sink) {
            let flow = path.iter().map(|e| self.room[*e]).min().unwrap_or(0);
            for e in path {
                self.room[e] -= flow;
                self.room[e ^ 1] += flow;
            }
        }
        let mut near = vec![false; self.out.len()];
        near[sink] = true;
        let mut queue = vec![sink];
        while let Some(node) = queue.pop() {
            for e in &self.out[node] {
                // `e ^ 1` runs from `to[e]` to `node`.
                let from = self.to[*e];
                if self.room[*e ^ 1] > 0 && !near[from] {
                    near[from] = true;
                    queue.push(from);
                }
            }
        }
        near
    }

    fn path(&self, source: usize, sink: usize) -> Option<Vec<usize>> {
        let mut reached_by = vec![usize::MAX; self.out.len()];
        let mut queue = std::collections::VecDeque::from([source]);
        while let Some(node) = queue.pop_front() {
            for e in &self.out[node] {
                let next = self.to[*e];
                if self.room[*e] > 0 && next != source && reached_by[next] == usize::MAX {
                    reached_by[next] = *e;
                    queue.push_back(next);
                }
            }
        }
        let mut path = Vec::new();
        let mut node = sink;
        while node != source {
            let e = reached_by[node];
            if e == usize::MAX {
                return None;
            }
            path.push(e);
            node = self.to[e ^ 1];
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::{
        BodyBuilder, DType, Dim, Env, Site, Type,
        ir::{Contract, Elementwise, Unary},
    };

    /// `carry -> einsum z -> gelu h`, of which the backward pass needs `z` and `h`.
    fn body() -> (Body, [Value; 4]) {
        let env = Env::default();
        let mut b = BodyBuilder::new(&env);
        let x = b.param(Type::new(DType::F32, [Dim::new("batch", 4), Dim::new("d", 2)]), None);
        let w = b.param(Type::new(DType::F32, [Dim::new("d", 2), Dim::new("f", 3)]), None);
        let out = vec!["batch".into(), "f".into()];
        let einsum = Op::Contract(Contract { out, dtype: DType::F32 });
        let z = b.emit1(einsum, &[x, w], &Site::default()).unwrap();
        let gelu = Op::Elementwise(Elementwise::Unary(Unary::Gelu));
        let h = b.emit1(gelu, &[z], &Site::default()).unwrap();
        (b.finish(vec![x, h]), [x, w, z, h])
    }

    #[track_caller]
    fn check(policy: Remat, want: [Fate; 4]) {
        let (body, [x, w, z, h]) = body();
        let fates = choose(&body, 1, &[w, z, h], policy);
        assert_eq!([x, w, z, h].map(|v| fates[v.index()]), want, "{policy:?}");
    }

    #[test]
    fn an_activation_is_recomputed_from_its_einsum() {
        check(Remat::SaveAll, [Fate::Unused, Fate::Available, Fate::Saved, Fate::Recomputed]);
        check(Remat::SaveContractions, [Fate::Unused, Fate::Available, Fate::Saved, Fate::Recomputed]);
    }

    #[test]
    fn a_product_of_few_terms_is_recomputed() {
        check(Remat::SaveLong, [Fate::Saved, Fate::Available, Fate::Recomputed, Fate::Recomputed]);
        check(Remat::SaveCompact, [Fate::Saved, Fate::Available, Fate::Recomputed, Fate::Recomputed]);
    }

    #[test]
    fn a_product_of_slices_and_captures_needs_nothing_kept() {
        let env = Env::default();
        let mut b = BodyBuilder::new(&env);
        let dims = |names: [&str; 2]| Type::new(DType::F32, names.map(|n| Dim::new(n, 1024)));
        let x = b.param(dims(["batch", "d"]), None);
        let memory = b.param(dims(["batch", "e"]), None);
        let w = b.param(dims(["e", "d"]), None);
        let product =
            |out: [&str; 2]| Op::Contract(Contract { out: out.map(Into::into).into(), dtype: DType::F32 });
        let keys = b.emit1(product(["batch", "d"]), &[memory, w], &Site::default()).unwrap();
        let own = b.emit1(product(["batch", "e"]), &[x, w], &Site::default()).unwrap();
        let body = b.finish(vec![x]);
        let fates = |policy| {
            let fates = choose(&body, 1, &[keys, own], policy);
            [x, memory, w, keys, own].map(|v| fates[v.index()])
        };
        use Fate::{Available, Recomputed, Saved, Unused};
        // The consumer of the carry is saved: it has 1024 terms per element.
        assert_eq!(fates(Remat::SaveCompact), [Unused, Available, Available, Recomputed, Saved]);
        assert_eq!(fates(Remat::SaveLong), [Unused, Unused, Unused, Saved, Saved]);
        assert_eq!(fates(Remat::SaveAll), [Unused, Unused, Unused, Saved, Saved]);
    }

    #[test]
    fn saving_only_carries_recomputes_the_einsum() {
        check(Remat::SaveCarries, [Fate::Saved, Fate::Available, Fate::Recomputed, Fate::Recomputed]);
    }
}
