//! Gradients of scans and conditionals.
//!
//! The gradient of a scan is a scan in the opposite direction. Its carries are the cotangents of the forward
//! carries and, for each capture, the sum of its cotangents so far. Partitioning keeps that sum pending, so
//! that there is one all-reduce after the loop instead of one in each iteration. Cotangents of slices are
//! stacked. The forward scan gains results: the values that the backward scan cannot or should not recompute.
//! A carry that every iteration only rolls along a dim is not saved: the backward scan rolls it back.
//!
//! The gradient of a conditional is a conditional of the gradients. Each branch recomputes the forward values
//! it needs.

use super::{
    Body, Inst, Op, Outcome, Phase, Site, Value, inline,
    remat::{self, Fate},
    shape::fresh,
    tape::{Bwd, Tape},
};
use crate::activity;
use indexmap::IndexMap;
use mesh::{
    DType, TensorDim, Type,
    arena::Id,
    ir::{Control, Edge, Remat, Scan, Shape, ValueData},
};
use rustc_hash::{FxBuildHasher, FxHashMap};

pub(super) fn scan(
    t: &mut Tape,
    scan: &mut Scan,
    args: &[Value],
    results: &mut Vec<Value>,
    cts: &[Option<Bwd>],
) -> Outcome {
    let wanted: Vec<bool> = args.iter().map(|a| t.wants(*a)).collect();
    let varied = activity::scan_varied(scan, &wanted);
    let given: Vec<bool> = cts.iter().map(Option::is_some).collect();
    let slots = activity::scan_slots(scan, &varied, &given);
    let inner = Tape::new(t.out.env, std::mem::take(&mut scan.body), varied, &t.site);
    let mut back = Backward {
        inner,
        carries: vec![],
        rolled: vec![],
        slices: vec![],
        captures: vec![],
        next: vec![],
        stacked: vec![],
    };
    back.seed(t, scan, &slots, cts)?;
    back.inner.sweep()?;
    back.inner.site = t.site.clone();
    back.collect(t, scan)?;
    if back.next.is_empty() && back.stacked.is_empty() {
        scan.body = back.inner.fwd;
        return Ok(());
    }
    let (op, operands, targets) = back.finish(t, scan, args, results)?;
    let made = t.emit(Op::Control(Control::Scan(Box::new(op))), &operands)?;
    for (arg, ct) in targets.into_iter().zip(made) {
        let Some(arg) = arg else { continue };
        let ct = t.cast(ct, t.forward_ty(args[arg]).dtype)?;
        t.give(args[arg], ct)?;
    }
    Ok(())
}

/// A backward scan under construction. "Outer" values belong to the body in which the forward scan is
/// differentiated, "inner" ones to the body of the backward scan.
struct Backward<'e> {
    inner: Tape<'e>,
    carries: Vec<Carry>,
    rolled: Vec<Rolled>,
    slices: Vec<Import>,
    captures: Vec<Import>,
    /// The inner values of the carries after an iteration.
    next: Vec<Bwd>,
    stacked: Vec<Stacked>,
}

/// A carry of a backward scan.
#[derive(Clone, Copy)]
struct Carry {
    /// The forward argument whose cotangent is the final value.
    arg: usize,
    /// The outer start value.
    start: Bwd,
    /// The inner value before an iteration.
    inner: Bwd,
}

/// A forward carry that every iteration only rolls. The backward scan carries it too, and rolls it back.
#[derive(Clone, Copy)]
struct Rolled {
    /// The value after the last forward iteration, and after the current one.
    before: Import,
    /// The inner value before the current forward iteration.
    after: Bwd,
}

/// A slice or capture of a backward scan.
#[derive(Clone, Copy)]
struct Import {
    outer: Bwd,
    inner: Bwd,
}

/// The cotangent of a sliced forward argument, which the backward scan stacks.
#[derive(Clone, Copy)]
struct Stacked {
    /// The forward argument.
    arg: usize,
    /// The inner cotangent of its slice.
    inner: Bwd,
}

impl Backward<'_> {
    /// Brings the cotangents of the forward results into the body.
    fn seed(&mut self, t: &mut Tape, scan: &Scan, slots: &[bool], cts: &[Option<Bwd>]) -> Outcome {
        for (i, result) in self.inner.fwd.results.clone().into_iter().enumerate() {
            if !slots[i] {
                continue;
            }
            if i < scan.carries {
                let ty = self.inner.forward_ty(self.inner.fwd.params[i]).clone();
                let start = full(t, cts[i], &ty)?;
                let param = self.inner.param(ty);
                self.carries.push(Carry { arg: i, start, inner: param });
                self.inner.give(result, param)?;
            } else if let Some(ct) = cts[i] {
                let mut ty = t.ty(ct).clone();
                ty.dims.retain(|d| d.dim.name != scan.dim.name);
                let list =
                    if ty.dims.len() < t.ty(ct).dims.len() { &mut self.slices } else { &mut self.captures };
                let param = self.inner.param(ty);
                list.push(Import { outer: ct, inner: param });
                self.inner.give(result, param)?;
            }
        }
        Ok(())
    }

    /// Collects the cotangents of the forward parameters from the body.
    fn collect(&mut self, t: &mut Tape, scan: &Scan) -> Outcome {
        for Carry { arg: i, .. } in self.carries.clone() {
            let param = self.inner.fwd.params[i];
            let ty = self.inner.forward_ty(param).clone();
            let ct = self.inner.cotangent(param);
            self.next.push(full(&mut self.inner, ct, &ty)?);
        }
        for (i, param) in self.inner.fwd.params.clone().into_iter().enumerate().skip(scan.carries) {
            let Some(ct) = self.inner.cotangent(param) else { continue };
            if i < scan.slices().end {
                self.stacked.push(Stacked { arg: i, inner: ct });
                continue;
            }
            // bf16 cotangents are summed in float32.
            let ty = self.inner.forward_ty(param).with_dtype(DType::F32);
            let start = t.zeros(&ty)?;
            let sum = self.inner.param(ty);
            let ct = self.inner.cast(ct, DType::F32)?;
            let next = self.inner.binary(mesh::ir::Binary::Add, sum, ct)?;
            self.carries.push(Carry { arg: i, start, inner: sum });
            self.next.push(next);
        }
        Ok(())
    }

    /// Decides which values are saved and builds the scan. Returns it, its operands, and the forward
    /// arguments whose cotangents are its results; `None` for results that nobody needs.
    fn finish(
        mut self,
        t: &mut Tape,
        scan: &mut Scan,
        args: &[Value],
        results: &mut Vec<Value>,
    ) -> Outcome<(Scan, Vec<Bwd>, Vec<Option<usize>>)> {
        let needed: Vec<Value> = self.inner.imports.keys().copied().collect();
        let mut fates = remat::choose(&self.inner.fwd, scan.carries, &needed, scan.remat);
        let mut renamed = Vec::new();
        for (i, param) in self.inner.fwd.params.clone().into_iter().enumerate() {
            if fates[param.index()] == Fate::Available && i < scan.carries {
                renamed.extend(self.roll_back(t, scan, i, args[i], results[i]));
            } else if fates[param.index()] == Fate::Available {
                let import = Import { outer: t.primal(args[i]), inner: self.inner.primal(param) };
                let list = if i < scan.slices().end { &mut self.slices } else { &mut self.captures };
                list.push(import);
            }
        }
        let saved: Vec<Value> =
            self.inner.fwd.values.ids().filter(|v| fates[v.index()] == Fate::Saved).collect();
        for v in saved {
            let saved = self.save(t, scan, v, results);
            let outer = t.primal(saved.outer);
            let inner = match saved.name_back {
                None => self.inner.primal(v),
                Some(op) => {
                    let ty = saved.ty;
                    let param = self.inner.param(ty);
                    renamed.push(Restored { value: v, param, op });
                    param
                }
            };
            self.slices.push(Import { outer, inner });
        }
        // Saving may have added values under other names.
        fates.resize(self.inner.fwd.values.len(), Fate::Unused);
        let Self { inner, carries, rolled, slices, captures, next, stacked } = self;
        let imports = || rolled.iter().map(|r| r.before).chain(slices.iter().chain(&captures).copied());
        let operands: Vec<Bwd> =
            carries.iter().map(|c| c.start).chain(imports().map(|import| import.outer)).collect();
        let params = carries.iter().map(|c| c.inner).chain(imports().map(|import| import.inner)).collect();
        let after = rolled.iter().map(|r| r.after);
        let outputs = next.iter().copied().chain(after).chain(stacked.iter().map(|y| y.inner)).collect();
        let targets = carries.iter().map(|c| Some(c.arg)).chain(rolled.iter().map(|_| None));
        let targets = targets.chain(stacked.iter().map(|y| Some(y.arg))).collect();
        let body = assemble(&inner.fwd, &inner.imports, inner.out.body, &fates, params, renamed, outputs);
        scan.body = inner.fwd;
        let op = Scan {
            dim: scan.dim.clone(),
            carries: carries.len() + rolled.len(),
            xs: slices.len(),
            reverse: !scan.reverse,
            remat: scan.remat,
            unroll: scan.unroll,
            barrier: scan.remat != Remat::SaveAll && scan.dim.size == 1,
            body,
        };
        Ok((op, operands, targets))
    }

    /// Makes the backward scan roll forward carry `i` back: `arg` is its value before the first iteration,
    /// `result` that after the last one.
    fn roll_back(
        &mut self,
        t: &mut Tape,
        scan: &Scan,
        i: usize,
        arg: Value,
        result: Value,
    ) -> Option<Restored> {
        let (value, rolled) = (self.inner.fwd.params[i], self.inner.fwd.results[i]);
        let (dim, by) = remat::roll(&self.inner.fwd, i)?;
        let ty = self.inner.forward_ty(value).clone();
        // A carry that has come round equals its start value, so that the forward scan need not run for it.
        let size = ty.size(&dim).unwrap_or(1) as isize;
        let moved = by.rem_euclid(size) as u128 * scan.dim.size as u128;
        let round = moved.is_multiple_of(size as u128);
        let outer = t.primal(if round { arg } else { result });
        let (param, after) = (self.inner.primal(rolled), self.inner.primal(value));
        self.rolled.push(Rolled { before: Import { outer, inner: param }, after });
        let op = Op::Shape(Shape::Shift { dim, by: -by, edge: Edge::Wrap });
        Some(Restored { value, param, op: (op, t.site.clone()) })
    }

    /// Makes the forward scan return `v` of each iteration, stacked.
    fn save(&mut self, t: &mut Tape, scan: &Scan, v: Value, results: &mut Vec<Value>) -> SavedValue {
        let fwd = &mut self.inner.fwd;
        let mut ty = fwd.ty(v).clone();
        if let Some(i) = fwd.results[scan.carries..].iter().position(|r| *r == v) {
            return SavedValue { outer: results[scan.carries + i], ty, name_back: None };
        }
        let (mut given, mut name_back) = (v, None);
        if ty.has(&scan.dim.name) {
            // The stack would have two dims of the same name.
            let (from, to) = (scan.dim.name.clone(), fresh(&ty, &format!("{}_", scan.dim.name)));
            let pairs = vec![(from.clone(), to.clone())];
            ty.dims.iter_mut().filter(|d| d.dim.name == from).for_each(|d| d.dim.name = to.clone());
            given = fwd.values.push(ValueData { ty: ty.clone(), name: None });
            let op = Op::Shape(Shape::Rename { pairs });
            let site = t.site.in_phase(Phase::Forward);
            fwd.insts.push(Inst { op, args: vec![v], results: vec![given], site });
            let back = Op::Shape(Shape::Rename { pairs: vec![(to, from)] });
            name_back = Some((back, t.site.clone()));
        }
        fwd.results.push(given);
        let mut stacked = ty.clone();
        stacked.dims.insert(0, TensorDim { dim: scan.dim.clone(), axes: Vec::new() });
        let outer = t.new_forward(stacked);
        results.push(outer);
        SavedValue { outer, ty, name_back }
    }
}

/// A forward value that the forward scan saves.
struct SavedValue {
    /// The stacked value, outside of the scan.
    outer: Value,
    /// The type of one slice of it.
    ty: Type,
    /// The rename that restores the value's dims, if saving had to rename one.
    name_back: Option<(Op, Site)>,
}

/// A forward value that a backward body restores by applying `op` to a parameter.
struct Restored {
    value: Value,
    param: Bwd,
    op: (Op, Site),
}

/// A cotangent with all dims of its value.
fn full(t: &mut Tape, ct: Option<Bwd>, ty: &Type) -> Outcome<Bwd> {
    match ct {
        Some(ct) => t.with_dims(ct, &ty.dims),
        None => t.zeros(ty),
    }
}

/// Builds a body that first recomputes forward values as `fates` says, and then runs the instructions of
/// `out`. `params` are the parameters of `out` that remain parameters; its other parameters are imports that
/// are recomputed.
fn assemble(
    fwd: &Body,
    imports: &IndexMap<Value, Bwd, FxBuildHasher>,
    out: Body,
    fates: &[Fate],
    params: Vec<Bwd>,
    renamed: Vec<Restored>,
    results: Vec<Bwd>,
) -> Body {
    let mut body = Body::default();
    let mut names: FxHashMap<Value, Value> = FxHashMap::default();
    for Bwd(param) in params {
        let fresh = body.values.push(out.values[param].clone());
        body.params.push(fresh);
        names.insert(param, fresh);
    }
    let mut there: FxHashMap<Value, Value> = FxHashMap::default();
    for Restored { value, param, op: (op, site) } in renamed {
        let fresh = body.values.push(fwd.values[value].clone());
        body.insts.push(Inst { op, args: vec![names[&param.0]], results: vec![fresh], site });
        there.insert(value, fresh);
    }
    for (value, import) in imports {
        if let Some(known) = names.get(&import.0) {
            there.insert(*value, *known);
        }
    }
    for inst in &fwd.insts {
        if inst.results.iter().any(|r| fates[r.index()] == Fate::Recomputed) {
            remake(&mut body, fwd, inst, &mut there);
        }
    }
    for (value, import) in imports {
        names.insert(import.0, there[value]);
    }
    inline(&mut body, out.values, out.insts, &mut names);
    body.results = results.iter().map(|r| names[&r.0]).collect();
    body.compact();
    body
}

fn remake(body: &mut Body, fwd: &Body, inst: &Inst, there: &mut FxHashMap<Value, Value>) {
    let mut inst = inst.clone();
    backward(&mut inst);
    inst.args.iter_mut().for_each(|a| *a = there[a]);
    for result in &mut inst.results {
        let fresh = body.values.push(fwd.values[*result].clone());
        // A result that is also saved keeps the saved value.
        there.entry(*result).or_insert(fresh);
        *result = fresh;
    }
    body.insts.push(inst);
}

/// Marks an instruction, with all nested bodies, as part of the backward pass.
fn backward(inst: &mut Inst) {
    inst.site = inst.site.in_phase(Phase::Backward);
    inst.op.bodies_mut().into_iter().flat_map(|body| &mut body.insts).for_each(backward);
}

pub(super) fn cond(
    t: &mut Tape,
    then: &Body,
    otherwise: &Body,
    args: &[Value],
    cts: &[Option<Bwd>],
) -> Outcome {
    let mut branches = [branch(t, then, args, cts)?, branch(t, otherwise, args, cts)?];
    let operands = &args[1..];
    let gets = |branch: &Branch, i: usize| branch.inner.cotangent(branch.inner.fwd.params[i]);
    let targets: Vec<usize> =
        (0..operands.len()).filter(|i| branches.iter().any(|b| gets(b, *i).is_some())).collect();
    if targets.is_empty() {
        return Ok(());
    }
    let mut outputs = Vec::new();
    let mut fates = Vec::new();
    for branch in &mut branches {
        let mut values = Vec::new();
        for i in &targets {
            let ty = branch.inner.forward_ty(branch.inner.fwd.params[*i]).clone();
            let ct = gets(branch, *i);
            values.push(full(&mut branch.inner, ct, &ty)?);
        }
        outputs.push(values);
        let needed: Vec<Value> = branch.inner.imports.keys().copied().collect();
        fates.push(remat::closure(&branch.inner.fwd, 0, &needed, |_| false));
    }
    let given = |b: usize, i: usize| fates[b][branches[b].inner.fwd.params[i].index()] == Fate::Available;
    let used: Vec<usize> = (0..operands.len()).filter(|i| given(0, *i) || given(1, *i)).collect();

    let bodies = branches.into_iter().zip(outputs).zip(&fates).map(|((mut branch, outputs), fates)| {
        let mut params: Vec<Bwd> =
            used.iter().map(|i| branch.inner.primal(branch.inner.fwd.params[*i])).collect();
        params.append(&mut branch.cotangents);
        let Tape { fwd, out, imports, .. } = branch.inner;
        Box::new(assemble(&fwd, &imports, out.body, fates, params, Vec::new(), outputs))
    });
    let [then, otherwise]: [Box<Body>; 2] =
        bodies.collect::<Vec<_>>().try_into().expect("two branches go in and two come out");
    let mut inputs = vec![t.primal(args[0])];
    inputs.extend(used.iter().map(|i| t.primal(operands[*i])));
    inputs.extend(cts.iter().flatten());
    let made = t.emit(Op::Control(Control::Cond { then, otherwise }), &inputs)?;
    targets.into_iter().zip(made).try_for_each(|(i, ct)| t.give(operands[i], ct))
}

/// The gradient of one branch, under construction.
struct Branch<'e> {
    inner: Tape<'e>,
    /// The parameters that are cotangents of the results.
    cotangents: Vec<Bwd>,
}

fn branch<'e>(t: &Tape<'e>, body: &Body, args: &[Value], cts: &[Option<Bwd>]) -> Outcome<Branch<'e>> {
    let seeds: Vec<Value> =
        body.params.iter().zip(&args[1..]).filter(|(_, a)| t.wants(**a)).map(|(p, _)| *p).collect();
    let varied = activity::varied(body, &seeds);
    let mut inner = Tape::new(t.out.env, body.clone(), varied, &t.site);
    let mut cotangents = Vec::new();
    for (result, ct) in body.results.iter().zip(cts) {
        if let Some(ct) = ct {
            let param = inner.param(t.ty(*ct).clone());
            cotangents.push(param);
            inner.give(*result, param)?;
        }
    }
    inner.sweep()?;
    inner.site = t.site.clone();
    Ok(Branch { inner, cotangents })
}
