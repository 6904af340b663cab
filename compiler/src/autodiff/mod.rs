//! Reverse-mode differentiation, from Global to Global: replaces every [`Control::Grad`].
//!
//! `grad(loss, x…)` becomes a sweep over the instructions before it, from the last to the first. The sweep
//! carries *cotangents*: `∂loss/∂v` for each value `v` between an `x` and the loss. The rule of each
//! operation is in the file of its family; rules share the `tape::Tape`. (There is no `random` and no `state`
//! file: the sweep ends at random numbers and reads.)
//!
//! Three properties keep the result small, because they decide the speed of a training step:
//! - only values that depend on an `x` get a cotangent (`activity`), and a zero cotangent is left out;
//! - a cotangent may lack dims of its value: it is then constant along them, and is broadcast only where an
//!   operation needs it (the cotangent of a mean stays one number);
//! - a differentiated scan saves the smallest set of values from which the others are cheap to recompute
//!   (`remat`).
//!
//! Conventions where mathematics leaves a choice: at a tie, `max(a, b)` and `min(a, b)` give the gradient to
//! `a`; a maximum over dims divides it evenly among the largest elements; the derivative of `relu` at 0 and
//! of `abs` at 0 is 0; `x^y` has derivative 0 in `y` where `x` is 0. A sum of bf16 cotangents over many
//! elements is computed in float32.

mod contract;
mod control;
mod elementwise;
mod index;
mod reduce;
mod remat;
mod shape;
mod tape;
#[cfg(test)]
mod tests;

use crate::activity;
use mesh::{
    Body, Diagnostic, Diagnostics, Env, Inst, Module, Op, Site, Value,
    ir::{Control, Phase},
};
use rustc_hash::FxHashMap;
use tape::{Bwd, Outcome, Tape};

/// Replaces every request for a gradient by the instructions that compute it. Innermost bodies come first, so
/// that gradients of gradients work.
pub fn expand(module: &Module) -> Result<Module, Diagnostics> {
    let mut module = module.clone();
    let mut mistakes = Vec::new();
    for function in &mut module.functions {
        match expand_body(&module.env, std::mem::take(&mut function.body)) {
            Ok(body) => function.body = body,
            Err(mistake) => mistakes.push(mistake.in_function(&function.name)),
        }
    }
    if mistakes.is_empty() { Ok(module) } else { Err(Diagnostics(mistakes)) }
}

fn expand_body(env: &Env, mut body: Body) -> Outcome<Body> {
    let mut gradients: FxHashMap<Value, Value> = FxHashMap::default();
    for mut inst in std::mem::take(&mut body.insts) {
        for arg in &mut inst.args {
            *arg = gradients.get(arg).copied().unwrap_or(*arg);
        }
        if inst.op == Op::Control(Control::Grad) {
            let values = differentiate(env, &mut body, inst.args[0], &inst.args[1..], &inst.site)?;
            gradients.extend(inst.results.iter().copied().zip(values));
            continue;
        }
        for inner in inst.op.bodies_mut() {
            *inner = expand_body(env, std::mem::take(inner))?;
        }
        body.insts.push(inst);
    }
    for result in &mut body.results {
        *result = gradients.get(result).copied().unwrap_or(*result);
    }
    body.compact();
    Ok(body)
}

/// Appends the sweep to `body`, whose instructions are those before the request. Returns the gradients, each
/// with exactly the type of its `x`.
fn differentiate(env: &Env, body: &mut Body, loss: Value, xs: &[Value], site: &Site) -> Outcome<Vec<Value>> {
    let varied = activity::varied(body, xs);
    let mut tape = Tape::new(env, std::mem::take(body), varied, site);
    let one = tape.constant(tape.forward_ty(loss).dtype, 1.0)?;
    tape.give(loss, one)?;
    tape.sweep()?;
    tape.site = site.in_phase(Phase::Backward);
    let mut gradients = Vec::new();
    for x in xs {
        let ty = tape.forward_ty(*x).clone();
        let gradient = match tape.cotangent(*x) {
            Some(ct) => tape.exactly(ct, &ty)?,
            None => tape.zeros(&ty)?,
        };
        gradients.push(gradient);
    }
    let Tape { fwd, out, imports, .. } = tape;
    *body = fwd;
    let mut names = imports.into_iter().map(|(value, import)| (import.0, value)).collect();
    inline(body, out.body.values, out.body.insts, &mut names);
    Ok(gradients.into_iter().map(|Bwd(value)| names[&value]).collect())
}

/// Appends `insts` to `target`. `names` maps their operands to values of `target`; their results are added to
/// it.
fn inline(
    target: &mut Body,
    values: mesh::arena::Arena<Value, mesh::ir::ValueData>,
    insts: Vec<Inst>,
    names: &mut FxHashMap<Value, Value>,
) {
    for mut inst in insts {
        for arg in &mut inst.args {
            *arg = names[arg];
        }
        for result in &mut inst.results {
            let fresh = target.values.push(values[*result].clone());
            names.insert(*result, fresh);
            *result = fresh;
        }
        target.insts.push(inst);
    }
}

/// Applies the rule of one instruction: from the cotangents of its results, of which at least one exists, to
/// those of its operands.
fn pull(t: &mut Tape, inst: &mut Inst, cts: &[Option<Bwd>]) -> Outcome {
    let Inst { op, args, results, site } = inst;
    let only = || cts[0].expect("one result of this operation is a float, and some cotangent is there");
    match op {
        Op::Elementwise(op) => elementwise::pull(t, op, args, results[0], only()),
        Op::Contract(op) => contract::pull(t, op, args, only()),
        Op::Reduce(op) => reduce::pull(t, op, args[0], results[0], only()),
        Op::Shape(op) => shape::pull(t, op, args, only()),
        Op::Index(op) => index::pull(t, op, args, results, cts),
        // Random numbers depend on integers only, and state is read, not computed.
        Op::Random(_) | Op::State(_) => Ok(()),
        Op::Control(Control::Scan(scan)) => control::scan(t, scan, args, results, cts),
        Op::Control(Control::Cond { then, otherwise }) => control::cond(t, then, otherwise, args, cts),
        Op::Control(Control::Grad) => Err(unexpected("a request for a gradient", site)),
        Op::Collective(_) => Err(unexpected("a collective", site)),
    }
}

fn unexpected(what: &str, site: &Site) -> Diagnostic {
    Diagnostic::new("", format!("{what} in a body that is being differentiated"))
        .help("differentiate the Global program, before it is partitioned")
        .at(site)
}
