//! Loop-invariant code motion: what a scan's body computes from captures alone is computed once, before the
//! loop, and captured. Autodiff then saves no copy of it per iteration.
//!
//! Constants, iotas and broadcasts stay inside, unless an instruction that leaves needs them: they cost
//! nothing there, and outside they would be held in memory. The same holds for elementwise operations whose
//! result is larger than all captures it comes from. Nothing leaves a loop of one iteration, which may be a
//! region that the backward pass recomputes.

use super::asks_for_gradients;
use crate::facts::{Hoisting, hoisting};
use mesh::{
    Body, BodyBuilder, Env, Inst, Module, Op, Value,
    arena::Id,
    ir::{Control, Scan},
};
use rustc_hash::FxHashMap;

/// Rewrites all functions. Returns true if anything left a loop.
pub fn run(module: &mut Module) -> bool {
    let mut changed = false;
    for function in &mut module.functions {
        changed |= body(&module.env, &mut function.body);
    }
    changed
}

fn body(env: &Env, body: &mut Body) -> bool {
    let insts = std::mem::take(&mut body.insts);
    let mut outer = BodyBuilder { env, body: std::mem::take(body) };
    let mut changed = false;
    for mut inst in insts {
        for inner in inst.op.bodies_mut() {
            changed |= self::body(env, inner);
        }
        if let Op::Control(Control::Scan(scan)) = &mut inst.op
            && scan.dim.size > 1
            && !asks_for_gradients(&scan.body)
        {
            changed |= hoist(&mut outer, scan, &mut inst.args);
        }
        outer.body.insts.push(inst);
    }
    *body = outer.body;
    body.compact();
    changed
}

/// Moves what can leave to `outer`, and captures it instead.
fn hoist(outer: &mut BodyBuilder, scan: &mut Scan, args: &mut Vec<Value>) -> bool {
    let captures = scan.slices().end;
    let inner = &mut scan.body;
    // Loop-invariant values of the body; those available outside, with their value there.
    let mut invariant = vec![false; inner.values.len()];
    // For each value, the number of elements of the largest capture it comes from.
    let mut source = vec![0; inner.values.len()];
    let mut outside: FxHashMap<Value, Value> = FxHashMap::default();
    for (param, arg) in inner.params.iter().zip(args.iter()).skip(captures) {
        invariant[param.index()] = true;
        source[param.index()] = inner.values[*param].ty.elements();
        outside.insert(*param, *arg);
    }
    let captured = outside.clone();
    let insts = std::mem::take(&mut inner.insts);
    let mut stays = Vec::new();
    let mut creators: FxHashMap<Value, usize> = FxHashMap::default();
    for inst in insts {
        let fixed = inst.args.iter().all(|a| invariant[a.index()]);
        let kind = hoisting(&inst.op);
        if fixed && kind != Hoisting::Stays {
            inst.results.iter().for_each(|r| invariant[r.index()] = true);
        }
        let size = |v: &Value| inner.values[*v].ty.elements();
        let from = inst.args.iter().map(|a| source[a.index()]).max().unwrap_or(0);
        let leaves = fixed
            && match kind {
                Hoisting::Heavy => true,
                Hoisting::Light => inst.results.iter().all(|r| size(r) <= from),
                Hoisting::Creates | Hoisting::Stays => false,
            };
        if leaves && inst.args.iter().all(|a| bring(outer, &stays, &creators, &mut outside, *a)) {
            copy(outer, &inst, &mut outside);
            inst.results.iter().for_each(|r| source[r.index()] = size(r));
            continue;
        }
        inst.results.iter().for_each(|r| {
            source[r.index()] = from;
            creators.insert(*r, stays.len());
        });
        stays.push(inst);
    }
    inner.insts = stays;
    let mut left: Vec<Value> = outside.keys().copied().collect();
    left.retain(|v| !captured.contains_key(v) && !creators.contains_key(v));
    left.sort_unstable();
    for v in &left {
        inner.params.push(*v);
        args.push(outside[v]);
    }
    inner.compact();
    !left.is_empty()
}

/// Makes an invariant value available outside by copying its producers. Returns true if that is possible:
/// only cheap producers are copied.
fn bring(
    outer: &mut BodyBuilder,
    stays: &[Inst],
    creators: &FxHashMap<Value, usize>,
    outside: &mut FxHashMap<Value, Value>,
    v: Value,
) -> bool {
    if outside.contains_key(&v) {
        return true;
    }
    let Some(inst) = creators.get(&v).map(|i| &stays[*i]) else { return false };
    let may = match hoisting(&inst.op) {
        Hoisting::Creates | Hoisting::Light => true,
        Hoisting::Heavy | Hoisting::Stays => false,
    };
    may && inst.args.iter().all(|a| bring(outer, stays, creators, outside, *a)) && {
        copy(outer, inst, outside);
        true
    }
}

/// Types outside follow from the operands there, whose dims may have another order.
fn copy(outer: &mut BodyBuilder, inst: &Inst, outside: &mut FxHashMap<Value, Value>) {
    let args: Vec<Value> = inst.args.iter().map(|a| outside[a]).collect();
    let results = outer
        .emit(inst.op.clone(), &args, &inst.site)
        .expect("an operation that was legal on these operands is legal on them outside the loop");
    outside.extend(inst.results.iter().copied().zip(results));
}
