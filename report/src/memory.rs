//! The memory of one device, estimated from the lifetimes of values in program order.
//!
//! Assumptions about the backend. State stays in place, and a new value of a state is written over the old
//! one if the old one is not used any more (donation). Renames and reshapes are views. Constants, iotas,
//! random numbers and broadcasts are never stored. Elementwise results are not stored if all their users are
//! elementwise operations or reductions, and there is one user or they are cheap to recompute; their operands
//! are then held until the last user. Parameters that a loop casts to a narrower type slice by slice are cast
//! whole before the loop, unless something rounds the slices first. A loop holds its stacked results from its
//! start, and the most that one iteration needs; a stacked result that is a sum with a slice reuses the
//! slice's buffer. Loop-invariant values are computed before the loop and held throughout. Buffers are not
//! fragmented. The plugin's own figure is in its memory statistics; this estimate is available before
//! anything is compiled, and shows which values are responsible.

use super::{
    bytes,
    part::part,
    place,
    saturating::{add, sum},
};
use compiler::{
    cost::{in_place::places, wire},
    facts::{Storage, fuses_operands, in_place, is_view, recomputed, storage},
};
use mesh::{
    Body, DType, Function, Inst, Mesh, Module, Op, StateId, Type, Value,
    arena::Id,
    ir::{Control, Elementwise, Index, Phase, StateKind, StateOp},
    text::print_type,
};
use serde::{Deserialize, Serialize};

/// Bytes of one device at the peak, by part.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// All parts together.
    pub total: u64,
    /// Trained parameters.
    pub parameters: u64,
    /// Optimizer slots.
    pub slots: u64,
    /// Other state.
    pub counters: u64,
    /// Inputs of the function.
    pub inputs: u64,
    /// Values that the forward pass saves for the backward pass.
    pub activations: u64,
    /// Everything else.
    pub temporaries: u64,
    /// The largest values held at that moment, without state.
    pub largest: Vec<Held>,
    /// Activations and temporaries by purpose.
    #[serde(default)]
    pub purposes: Vec<Share>,
    /// The same by scope.
    #[serde(default)]
    pub scopes: Vec<Share>,
    /// The same by dims.
    #[serde(default)]
    pub dims: Vec<Share>,
}

/// A share of the memory held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    /// The name of the share.
    pub what: String,
    /// Its bytes on one device.
    pub bytes: u64,
}

/// The memory held at a moment of a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// The scope of the instruction that runs then.
    pub scope: String,
    /// True if it belongs to the backward pass.
    pub backward: bool,
    /// Bytes of one device, including state and inputs.
    pub bytes: u64,
}

/// A value held at the peak.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Its type, with dims by name.
    pub r#type: String,
    /// Its bytes on one device.
    pub bytes: u64,
    /// `file:line` of the model.
    pub source: String,
    /// The scope.
    pub scope: String,
}

/// The number of values that a report names.
const LARGEST: usize = 12;

/// The peak of a function.
pub(super) fn peak(local: &Module, f: &Function) -> Memory {
    let mesh = &local.env.mesh;
    let held = |kind: StateKind| {
        sum(local.env.states.iter().filter(|(_, s)| s.kind == kind).map(|(_, s)| bytes(mesh, &s.ty)))
    };
    let mut memory = Memory {
        parameters: held(StateKind::Param),
        slots: held(StateKind::Slot),
        counters: held(StateKind::Counter),
        inputs: sum(f.body.param_types().map(|ty| bytes(mesh, ty))),
        ..Memory::default()
    };
    let most = most(mesh, &f.body, &[], wire::gathers_once(local));
    memory.activations = sum(most.held.iter().filter(|h| h.kept).map(|h| h.held.bytes));
    memory.temporaries = sum(most.held.iter().filter(|h| !h.kept).map(|h| h.held.bytes));
    memory.total = sum([
        memory.parameters,
        memory.slots,
        memory.counters,
        memory.inputs,
        memory.activations,
        memory.temporaries,
    ]);
    memory.purposes = shares(&most.held, |h| h.purpose.to_owned());
    memory.scopes = shares(&most.held, |h| h.held.scope.clone());
    memory.dims = shares(&most.held, |h| h.dims.clone());
    let mut largest: Vec<Held> = most.held.into_iter().map(|h| h.held).collect();
    largest.sort_by_key(|h| std::cmp::Reverse(h.bytes));
    largest.truncate(LARGEST);
    memory.largest = largest;
    memory
}

/// Bytes held, summed by a word, sorted by size.
fn shares(held: &[Kept], word: impl Fn(&Kept) -> String) -> Vec<Share> {
    let mut sums: Vec<Share> = Vec::new();
    for h in held {
        let what = word(h);
        match sums.iter_mut().find(|s| s.what == what) {
            Some(share) => add(&mut share.bytes, h.held.bytes),
            None => sums.push(Share { what, bytes: h.held.bytes }),
        }
    }
    sums.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    sums
}

/// Bytes held from instruction to instruction; loop bodies count once. `memory` is the function's peak. For
/// long programs, only the highest of several neighbours is listed.
pub(super) fn timeline(local: &Module, f: &Function, memory: &Memory) -> Vec<Moment> {
    const MOST: usize = 600;
    let slices = wire::gathers_once(local);
    let state = sum([memory.parameters, memory.slots, memory.counters, memory.inputs]);
    let mut all = Vec::new();
    moments(&local.env.mesh, &f.body, (&[], slices), state, &mut all);
    let step = all.len().div_ceil(MOST).max(1);
    let highest = |some: &[Moment]| some.iter().max_by_key(|m| m.bytes).cloned();
    all.chunks(step).filter_map(highest).collect()
}

fn moments(mesh: &Mesh, body: &Body, (fixed, slices): (&[Value], bool), base: u64, all: &mut Vec<Moment>) {
    let lives = Lives::of(mesh, body, fixed, slices);
    for (i, inst) in body.insts.iter().enumerate() {
        let bytes = sum([base, lives.sum(i)]);
        let (scope, backward) = (inst.site.scope.to_string(), inst.site.phase == Phase::Backward);
        all.push(Moment { scope, backward, bytes });
        for inner in inst.op.bodies() {
            moments(mesh, inner, (unchanged(&inst.op, inner), slices), bytes, all);
        }
    }
}

/// A held value, whether it is saved for the backward pass, and its purpose.
#[derive(Clone)]
struct Kept {
    held: Held,
    kept: bool,
    purpose: &'static str,
    dims: String,
}

/// The memory that a body holds at its peak, without its parameters.
#[derive(Clone, Default)]
struct Most {
    bytes: u64,
    held: Vec<Kept>,
}

fn most(mesh: &Mesh, body: &Body, fixed: &[Value], slices: bool) -> Most {
    let lives = Lives::of(mesh, body, fixed, slices);
    let mut best = Most::default();
    for (i, inst) in body.insts.iter().enumerate() {
        let inner = inst.op.bodies().into_iter().map(|b| most(mesh, b, unchanged(&inst.op, b), slices));
        let inner = inner.max_by_key(|m| m.bytes).unwrap_or_default();
        let outer = || lives.at(i);
        let bytes = sum([inner.bytes, lives.sum(i)]);
        if bytes > best.bytes {
            let mut held: Vec<Kept> = outer().map(|v| lives.held(mesh, body, v)).collect();
            held.extend(lives.casts_at(i).map(|c| c.kept.clone()));
            held.extend(inner.held);
            best = Most { bytes, held };
        }
    }
    best
}

/// The loop-invariant parameters of an operation's body.
fn unchanged<'b>(op: &Op, body: &'b Body) -> &'b [Value] {
    let Op::Control(control) = op else { return &[] };
    match control {
        Control::Scan(scan) => &body.params[scan.slices().end..],
        Control::Cond { then: _, otherwise: _ } | Control::Grad => &[],
    }
}

/// The lifetime and size of each value of a body.
struct Lives {
    bytes: Vec<u64>,
    from: Vec<usize>,
    to: Vec<usize>,
    /// True for each value that the forward pass makes and the backward pass uses.
    crosses: Vec<bool>,
    /// The instruction that makes each value.
    maker: Vec<Option<usize>>,
    /// Parameters cast to a narrower type, for loops.
    casts: Vec<Cast>,
}

/// A parameter that is cast whole for loops that cast its slices.
struct Cast {
    of: usize,
    to: DType,
    from: usize,
    until: usize,
    kept: Kept,
}

impl Lives {
    fn of(mesh: &Mesh, body: &Body, fixed: &[Value], slices: bool) -> Self {
        let n = body.values.len();
        let root = roots(body);
        let mut lives = Self {
            bytes: vec![0; n],
            from: vec![0; n],
            to: vec![0; n],
            crosses: vec![false; n],
            maker: vec![None; n],
            casts: Vec::new(),
        };
        for (i, inst) in body.insts.iter().enumerate() {
            for r in &inst.results {
                lives.from[r.index()] = i;
                lives.maker[r.index()] = Some(i);
            }
            for v in inst.args.iter().chain(&inst.results) {
                lives.to[root[v.index()]] = i;
            }
        }
        for r in &body.results {
            lives.to[root[r.index()]] = body.insts.len();
        }
        let users = users(body);
        for inst in &body.insts {
            for r in &inst.results {
                if root[r.index()] == r.index() && stored(inst, &users[r.index()]) {
                    lives.bytes[r.index()] = bytes(mesh, body.ty(*r));
                }
            }
            for a in inst.args.iter().filter(|a| !body.params.contains(a)) {
                let a = root[a.index()];
                let forward = body.insts[lives.from[a]].site.phase == Phase::Forward;
                lives.crosses[a] |= forward && inst.site.phase == Phase::Backward;
            }
        }
        lives.hold_operands(body, &root);
        for (i, inst) in body.insts.iter().enumerate() {
            lives.reuse(inst, i, &root);
        }
        for inst in &body.insts {
            if let Op::State(StateOp::Write(id)) = &inst.op {
                lives.donate(body, *id, root[inst.args[0].index()], &root);
            }
        }
        lives.hoist(body, fixed);
        if !slices {
            lives.cast_whole(mesh, body, fixed, &root);
        }
        lives
    }

    /// Holds the operands of an elementwise result that is not stored as long as the result is used.
    fn hold_operands(&mut self, body: &Body, root: &[usize]) {
        for inst in body.insts.iter().rev().filter(|inst| matches!(inst.op, Op::Elementwise(_))) {
            let r = root[inst.results[0].index()];
            if self.bytes[r] > 0 || r != inst.results[0].index() {
                continue;
            }
            for a in &inst.args {
                let a = root[a.index()];
                self.to[a] = self.to[a].max(self.to[r]);
            }
        }
    }

    /// Parameters that a loop, or whose slices it, casts to a narrower type. Compilers cast them once, before
    /// the loop, and outside of all loops in which they are invariant.
    fn cast_whole(&mut self, mesh: &Mesh, body: &Body, fixed: &[Value], root: &[usize]) {
        for (i, inst) in body.insts.iter().enumerate() {
            let Op::Control(Control::Scan(scan)) = &inst.op else { continue };
            for (arg, param) in inst.args.iter().zip(&scan.body.params).skip(scan.carries) {
                let of = root[arg.index()];
                let is_fixed = fixed.iter().any(|v| root[v.index()] == of);
                let read =
                    self.maker[of].is_some_and(|m| matches!(body.insts[m].op, Op::State(StateOp::Read(_))));
                if !is_fixed && !read {
                    continue;
                }
                for user in scan.body.insts.iter().filter(|u| u.args.first() == Some(param)) {
                    let Op::Elementwise(Elementwise::Cast(to)) = user.op else { continue };
                    let ty = Type { dtype: to, ..body.ty(*arg).clone() };
                    if to.bytes() < body.ty(*arg).dtype.bytes() {
                        let (from, until) = if is_fixed { (0, body.insts.len()) } else { (i, i) };
                        self.add_cast(mesh, of, &ty, from, until, user);
                    }
                }
            }
        }
    }

    fn add_cast(&mut self, mesh: &Mesh, of: usize, ty: &Type, from: usize, until: usize, user: &Inst) {
        if let Some(known) = self.casts.iter_mut().find(|c| c.of == of && c.to == ty.dtype) {
            known.until = known.until.max(until);
            return;
        }
        let held = Held {
            r#type: print_type(ty, mesh),
            bytes: bytes(mesh, ty),
            source: place(&user.site),
            scope: user.site.scope.to_string(),
        };
        let names: Vec<&str> = ty.names().map(|n| n.as_str()).collect();
        let dims = names.join(" × ");
        let kept = Kept { held, kept: false, purpose: "parameters in the type of activations", dims };
        self.casts.push(Cast { of, to: ty.dtype, from, until, kept });
    }

    /// Elementwise results of `fixed` values alone are computed once, before the loop.
    fn hoist(&mut self, body: &Body, fixed: &[Value]) {
        let mut same = vec![false; self.bytes.len()];
        fixed.iter().for_each(|v| same[v.index()] = true);
        for inst in body.insts.iter().filter(|_| !fixed.is_empty()) {
            if let (Op::Elementwise(Elementwise::Cast(to)), Some(x)) = (&inst.op, inst.args.first())
                && fixed.contains(x)
                && to.bytes() < body.ty(*x).dtype.bytes()
            {
                // `cast_whole` counts it, outside of the loop.
                self.bytes[inst.results[0].index()] = 0;
                same[inst.results[0].index()] = true;
                continue;
            }
            let cheap = matches!(inst.op, Op::Elementwise(_)) || is_view(&inst.op);
            if !cheap || !inst.args.iter().all(|a| same[a.index()]) {
                continue;
            }
            for r in &inst.results {
                same[r.index()] = true;
                self.from[r.index()] = 0;
                self.to[r.index()] = body.insts.len();
            }
        }
    }

    /// Lets an elementwise result reuse the buffer of an operand that is not used afterwards.
    fn reuse(&mut self, inst: &Inst, i: usize, root: &[usize]) {
        if !in_place(&inst.op) {
            return;
        }
        let bytes = self.bytes[inst.results[0].index()];
        let mut args = inst.args.iter().map(|a| root[a.index()]);
        if let Some(a) =
            args.find(|a| bytes > 0 && self.to[*a] == i && self.bytes[*a] == bytes && self.from[*a] < i)
        {
            self.to[a] = i - 1;
        }
    }

    /// Lets the new value of a state reuse the buffer of the old one if that is not used afterwards.
    fn donate(&mut self, body: &Body, state: StateId, new: usize, root: &[usize]) {
        let reads = body.insts.iter().filter(|inst| inst.op == Op::State(StateOp::Read(state)));
        let last = reads.map(|inst| self.to[root[inst.results[0].index()]]).max().unwrap_or(0);
        if last <= self.from[new] {
            self.bytes[new] = 0;
        }
    }

    /// Values held while instruction `i` runs.
    fn at(&self, i: usize) -> impl Iterator<Item = Value> + '_ {
        let live = move |v: &usize| self.bytes[*v] > 0 && self.from[*v] <= i && i <= self.to[*v];
        (0..self.bytes.len()).filter(live).map(Value::new)
    }

    fn casts_at(&self, i: usize) -> impl Iterator<Item = &Cast> {
        self.casts.iter().filter(move |c| c.from <= i && i <= c.until)
    }

    /// Bytes held while instruction `i` runs.
    fn sum(&self, i: usize) -> u64 {
        let values = self.at(i).map(|v| self.bytes[v.index()]);
        sum(values.chain(self.casts_at(i).map(|c| c.kept.held.bytes)))
    }

    fn held(&self, mesh: &Mesh, body: &Body, v: Value) -> Kept {
        let inst =
            self.maker[v.index()].map(|i| &body.insts[i]).expect("only results of instructions have bytes");
        let site = &inst.site;
        let held = Held {
            r#type: print_type(body.ty(v), mesh),
            bytes: self.bytes[v.index()],
            source: place(site),
            scope: site.scope.to_string(),
        };
        let kept = self.crosses[v.index()];
        let names: Vec<&str> = body.ty(v).names().map(|n| n.as_str()).collect();
        Kept { held, kept, purpose: purpose(inst, kept), dims: names.join(" × ") }
    }
}

/// The purpose of a held value.
fn purpose(inst: &Inst, kept: bool) -> &'static str {
    let moved = matches!(inst.op, Op::Index(Index::Permute { .. } | Index::OneHot { .. }));
    if matches!(inst.op, Op::Collective(_)) {
        "results of collectives"
    } else if moved || matches!(part(&inst.site.scope), "dispatch and combine" | "router") {
        "dispatch"
    } else if kept {
        "activations kept for the backward pass"
    } else if inst.site.phase == Phase::Backward {
        "gradients and recomputation"
    } else {
        "temporaries of the forward pass"
    }
}

/// For each value, the one whose buffer it uses: its own, or that of the operand that it is a view of or that
/// a loop writes it over.
fn roots(body: &Body) -> Vec<usize> {
    let mut root: Vec<usize> = (0..body.values.len()).collect();
    for inst in &body.insts {
        if is_view(&inst.op) {
            root[inst.results[0].index()] = root[inst.args[0].index()];
        }
        if let Op::Control(Control::Scan(scan)) = &inst.op
            && !scan.unroll
        {
            for (y, place) in inst.results[scan.carries..].iter().zip(places(scan)) {
                root[y.index()] = place.map_or(y.index(), |x| root[inst.args[x].index()]);
            }
        }
    }
    root
}

/// For each value, the instructions that use it; `None` stands for the body's results.
pub(super) fn users(body: &Body) -> Vec<Vec<Option<&Inst>>> {
    let mut users = vec![Vec::new(); body.values.len()];
    for inst in &body.insts {
        for (j, a) in inst.args.iter().enumerate() {
            if !inst.args[..j].contains(a) {
                users[a.index()].push(Some(inst));
            }
        }
    }
    body.results.iter().for_each(|r| users[r.index()].push(None));
    users
}

/// True if results of `inst` are written to memory.
pub(super) fn stored(inst: &Inst, users: &[Option<&Inst>]) -> bool {
    match storage(&inst.op) {
        Storage::Never => false,
        Storage::Always => true,
        Storage::UnlessFused => {
            let fused = |user: &Option<&Inst>| user.is_some_and(|u| fuses_operands(&u.op));
            let all = !users.is_empty() && users.iter().all(fused);
            !(all && (users.len() == 1 || recomputed(&inst.op)))
        }
    }
}
