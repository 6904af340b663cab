//! Common subexpression elimination: of instructions that compute the same from the same values, the first
//! remains. Two random operations are the same if everything they depend on is. Loops and conditionals are
//! not compared as wholes, but equal arguments and equal results of one become one.

use super::{asks_for_gradients, dce::retain};
use crate::facts::commutes;
use mesh::{
    Body, Inst, Module, Op, Value,
    arena::Id,
    ir::{Control, Dist, Edge, Elementwise, Index, Random, Scan, Shape, StateOp},
};
use rustc_hash::{FxHashMap, FxHasher};
use std::hash::{Hash, Hasher};

/// Rewrites all functions. Returns true if anything was merged.
pub fn run(module: &mut Module) -> bool {
    module.functions.iter_mut().fold(false, |changed, function| body(&mut function.body) | changed)
}

fn body(body: &mut Body) -> bool {
    let mut same: Vec<Value> = body.values.ids().collect();
    let mut seen: FxHashMap<u64, Vec<usize>> = FxHashMap::default();
    let mut kept: Vec<Inst> = Vec::with_capacity(body.insts.len());
    let mut changed = false;
    let frozen = asks_for_gradients(body);
    for mut inst in std::mem::take(&mut body.insts) {
        inst.args.iter_mut().for_each(|a| *a = same[a.index()]);
        changed |= inside(&mut inst, (!frozen).then_some(&mut same));
        let Some(hash) = hash(&inst).filter(|_| !frozen) else {
            kept.push(inst);
            continue;
        };
        let twins = seen.entry(hash).or_default();
        let twin = twins.iter().map(|i| &kept[*i]).find(|twin| {
            // Swapped operands may give the dims in another order.
            let types = twin.results.iter().zip(&inst.results);
            equal(&twin.op, &inst.op)
                && operands(twin) == operands(&inst)
                && types.clone().all(|(a, b)| body.values[*a].ty == body.values[*b].ty)
        });
        if let Some(twin) = twin {
            for (r, t) in inst.results.iter().zip(&twin.results) {
                same[r.index()] = *t;
                if body.values[*t].name.is_none() {
                    body.values[*t].name = body.values[*r].name.take();
                }
            }
            changed = true;
        } else {
            twins.push(kept.len());
            kept.push(inst);
        }
    }
    body.insts = kept;
    body.results.iter_mut().for_each(|r| *r = same[r.index()]);
    body.compact();
    changed
}

/// The operands, sorted if the operation is commutative.
fn operands(inst: &Inst) -> Vec<Value> {
    let mut args = inst.args.clone();
    if commutes(&inst.op) {
        args.sort_unstable();
    }
    args
}

/// A hash of operation and operands; `None` for instructions that are never merged. Attributes that rarely
/// differ are left to [`equal`].
fn hash(inst: &Inst) -> Option<u64> {
    let mut h = FxHasher::default();
    std::mem::discriminant(&inst.op).hash(&mut h);
    match &inst.op {
        Op::Elementwise(op) => {
            std::mem::discriminant(op).hash(&mut h);
            match op {
                Elementwise::Unary(op) => op.hash(&mut h),
                Elementwise::Binary(op) => op.hash(&mut h),
                Elementwise::Compare(op) => op.hash(&mut h),
                Elementwise::Cast(to) => to.hash(&mut h),
                Elementwise::Select | Elementwise::StopGradient | Elementwise::WithGradient => {}
            }
        }
        Op::Contract(op) => op.hash(&mut h),
        Op::Reduce(op) => op.hash(&mut h),
        Op::Shape(op) => shape(op, &mut h),
        Op::Index(op) => std::mem::discriminant::<Index>(op).hash(&mut h),
        Op::Random(Random { stream, .. }) => stream.hash(&mut h),
        Op::State(StateOp::Read(id)) => id.hash(&mut h),
        Op::State(StateOp::Write(_)) => return None,
        Op::Control(Control::Grad) => {}
        Op::Control(Control::Scan(_) | Control::Cond { .. }) => return None,
        Op::Collective(op) => op.hash(&mut h),
    }
    operands(inst).hash(&mut h);
    Some(h.finish())
}

fn shape(op: &Shape, h: &mut FxHasher) {
    std::mem::discriminant(op).hash(h);
    match op {
        Shape::Constant { dtype, value } => (dtype, value.to_bits()).hash(h),
        Shape::Iota { dim, dtype } => (dim, dtype).hash(h),
        Shape::Rename { pairs } => pairs.hash(h),
        Shape::Reshape { from, to } => (from, to).hash(h),
        Shape::Broadcast { dims } => dims.hash(h),
        Shape::Slice { dim, start, limit, stride } => (dim, start, limit, stride).hash(h),
        Shape::Pad { dim, low, high, value } => (dim, low, high, value.to_bits()).hash(h),
        Shape::Concat { dim } => dim.hash(h),
        Shape::Shift { dim, by, edge } => {
            let value = match edge {
                Edge::Fill(value) => Some(value.to_bits()),
                Edge::Wrap => None,
            };
            (dim, by, value).hash(h);
        }
    }
}

/// Equality that distinguishes 0 from -0 and finds NaN equal to itself.
fn equal(a: &Op, b: &Op) -> bool {
    match (a, b) {
        (
            Op::Shape(Shape::Constant { dtype: s, value: x }),
            Op::Shape(Shape::Constant { dtype: t, value: y }),
        ) => s == t && x.to_bits() == y.to_bits(),
        (Op::Shape(Shape::Pad { value: x, .. }), Op::Shape(Shape::Pad { value: y, .. })) => {
            a == b && x.to_bits() == y.to_bits()
        }
        (
            Op::Shape(Shape::Shift { edge: Edge::Fill(x), .. }),
            Op::Shape(Shape::Shift { edge: Edge::Fill(y), .. }),
        ) => a == b && x.to_bits() == y.to_bits(),
        (
            Op::Random(Random { dist: Dist::Bernoulli(x), .. }),
            Op::Random(Random { dist: Dist::Bernoulli(y), .. }),
        ) => a == b && x.to_bits() == y.to_bits(),
        (a, b) => a == b,
    }
}

/// Rewrites the bodies of an instruction. Results that are equal are entered in `same`, if given.
fn inside(inst: &mut Inst, same: Option<&mut Vec<Value>>) -> bool {
    let Inst { op, args, results, site: _ } = inst;
    let Op::Control(control) = op else { return false };
    match control {
        Control::Scan(scan) => body(&mut scan.body) | merge_scan(scan, args, results, same),
        Control::Cond { then, otherwise } => {
            body(then) | body(otherwise) | merge_cond([then, otherwise], args, results, same)
        }
        Control::Grad => false,
    }
}

fn merge_scan(
    scan: &mut Scan,
    args: &mut Vec<Value>,
    results: &mut Vec<Value>,
    same: Option<&mut Vec<Value>>,
) -> bool {
    let (carries, slices) = (scan.carries, scan.slices().end);
    // The first argument with the same value in the same role. Carries change, each in its own way, and have
    // no twin.
    let twin = |i: usize| {
        let mut role = if i < carries { i..i } else { if i < slices { carries..i } else { slices..i } };
        role.find(|j| args[*j] == args[i] && same_param(&scan.body, *j, i)).unwrap_or(i)
    };
    let twins: Vec<usize> = (0..args.len()).map(twin).collect();
    let gone = twins[carries..slices].iter().zip(carries..).filter(|(twin, i)| **twin != *i).count();
    let changed = drop_params(&mut scan.body, &twins);
    scan.xs -= gone;
    retain(args, |i| twins[i] == i);
    scan.body.compact();

    let given: Vec<Value> = scan.body.results.clone();
    let twin = |i: usize| (carries..i).find(|j| i >= carries && given[*j] == given[i]).unwrap_or(i);
    let twins: Vec<usize> = (0..given.len()).map(twin).collect();
    let Some(same) = same else { return changed };
    drop_results(results, &twins, same);
    retain(&mut scan.body.results, |i| twins[i] == i) | changed
}

fn merge_cond(
    branches: [&mut Box<Body>; 2],
    args: &mut Vec<Value>,
    results: &mut Vec<Value>,
    same: Option<&mut Vec<Value>>,
) -> bool {
    let operands = &args[1..];
    let [then, otherwise] = branches;
    let twin = |i: usize| {
        let like = |j: &usize| same_param(then, *j, i) && same_param(otherwise, *j, i);
        (0..i).find(|j| operands[*j] == operands[i] && like(j)).unwrap_or(i)
    };
    let twins: Vec<usize> = (0..operands.len()).map(twin).collect();
    let changed = drop_params(then, &twins) | drop_params(otherwise, &twins);
    retain(args, |i| i == 0 || twins[i - 1] == i - 1);
    then.compact();
    otherwise.compact();

    let given: Vec<(Value, Value)> =
        then.results.iter().copied().zip(otherwise.results.iter().copied()).collect();
    let twins: Vec<usize> =
        (0..given.len()).map(|i| (0..i).find(|j| given[*j] == given[i]).unwrap_or(i)).collect();
    let Some(same) = same else { return changed };
    drop_results(results, &twins, same);
    retain(&mut otherwise.results, |i| twins[i] == i);
    retain(&mut then.results, |i| twins[i] == i) | changed
}

/// True if one parameter can replace the other: their dims also have the same order, and no gradient
/// distinguishes them.
fn same_param(body: &Body, i: usize, j: usize) -> bool {
    body.ty(body.params[i]) == body.ty(body.params[j]) && !asks_for_gradients(body)
}

/// Removes parameters that have a twin before them.
fn drop_params(body: &mut Body, twins: &[usize]) -> bool {
    let mut names: FxHashMap<Value, Value> = FxHashMap::default();
    for (i, twin) in twins.iter().enumerate() {
        if *twin != i {
            names.insert(body.params[i], body.params[*twin]);
        }
    }
    if names.is_empty() {
        return false;
    }
    for v in body.insts.iter_mut().flat_map(|inst| &mut inst.args).chain(&mut body.results) {
        *v = names.get(v).copied().unwrap_or(*v);
    }
    retain(&mut body.params, |i| twins[i] == i)
}

fn drop_results(results: &mut Vec<Value>, twins: &[usize], same: &mut [Value]) {
    for (i, twin) in twins.iter().enumerate() {
        if *twin != i {
            same[results[i].index()] = results[*twin];
        }
    }
    retain(results, |i| twins[i] == i);
}
