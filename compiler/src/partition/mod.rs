//! The partitioner: makes the program of one device of a mesh, with explicit collectives, from a program over
//! named dims.
//!
//! Each body is walked once. Every Global value has a *layout* sharding, which applies the rules of the
//! compute layout dim by dim, and a *home* sharding, which is the same unless the value belongs to a class
//! with stored state (`hints`). During the walk, each Global value keeps the Local values that represent it
//! (`walk`): as computed, reduced, resharded. An operation asks for the sharding it needs, and [`reshard`]
//! makes it from the nearest one, once.
//!
//! Sums are reduced lazily. A sum over a split dim leaves a pending sum; linear operations keep it pending as
//! long as that does not make it larger; the first use that is not linear reduces it, once for all uses.
//!
//! The family files decide what an operation does with split dims and pending sums. An operation that cannot
//! work on a split dim is decomposed into operations that can (logsumexp, argmax, cumsum, top_k, …), or the
//! dim is gathered.
//!
//! [`peephole`], a separate pass, improves what the walk could not foresee.

mod check;
mod contract;
mod control;
mod elementwise;
mod hints;
mod index;
pub mod outputs;
mod parts;
pub mod peephole;
mod random;
mod reduce;
pub mod reshard;
mod shape;
mod state;
#[cfg(test)]
mod tests;
mod walk;

pub use check::check;

use crate::cost::wire;
use mesh::{
    Body, Diagnostic, Diagnostics, Env, Function, Inst, Mesh, Module, Type, Value, arena::Arena, ir::Op,
    layout::AxisMap,
};
use walk::Walk;

/// Shared by the walks of all bodies.
pub(crate) struct Context<'c> {
    /// Mesh and state of the Local module.
    env: &'c Env,
    /// The compute layout, without axes of size 1.
    compute: &'c AxisMap,
    /// True if stored parameters are gathered once a step instead of layer by layer.
    gather_once: bool,
}

impl Context<'_> {
    /// Applies the compute layout to a Global type.
    fn layout(&self, ty: &Type) -> Type {
        self.compute.apply(ty)
    }
}

/// Partitions a Global module without requests for gradients. `compute` says which dim is split over which
/// axes in every value, `state` how stored tensors are split further: rules that [`check`] has accepted.
pub fn partition(
    global: &Module,
    mesh: &Mesh,
    compute: &AxisMap,
    state: &AxisMap,
) -> Result<Module, Diagnostics> {
    // Axes of size 1 split nothing.
    let (compute, state) = (drop_ones(compute, mesh), drop_ones(state, mesh));
    let mut states = Arena::new();
    for (_, decl) in global.env.states.iter() {
        let mut decl = decl.clone();
        decl.ty = compute.apply_to_state(&state, &decl.ty, mesh);
        states.push(decl);
    }
    let env = Env { mesh: mesh.clone(), states };
    let cx = Context { env: &env, compute: &compute, gather_once: wire::gathers_once(global) };
    let mut functions = Vec::new();
    let mut mistakes = Diagnostics::default();
    for f in &global.functions {
        match function(&cx, &f.body) {
            Ok(body) => functions.push(Function { body, ..f.clone() }),
            Err(d) => mistakes.0.push(d.in_function(&f.name)),
        }
    }
    if !mistakes.0.is_empty() {
        return Err(mistakes);
    }
    let (name, meta) = (global.name.clone(), global.meta.clone());
    Ok(Module { name, env, functions, meta, schedule: global.schedule, task: global.task.clone() })
}

fn drop_ones(map: &AxisMap, mesh: &Mesh) -> AxisMap {
    map.filtered(|axis| mesh.size(axis) > 1)
}

fn function(cx: &Context<'_>, global: &Body) -> Result<Body, Diagnostic> {
    let params: Vec<Type> = global.param_types().map(|ty| cx.layout(ty)).collect();
    let mut walk = Walk::new(cx, global, &params, Vec::new());
    insts(&mut walk)?;
    let result = |r: &Value| walk.result(*r, &cx.layout(global.ty(*r)));
    let results: Result<Vec<Value>, _> = global.results.iter().map(result).collect();
    Ok(walk.b.finish(results?))
}

/// Partitions all instructions of a body, in order.
fn insts(walk: &mut Walk<'_>) -> Result<(), Diagnostic> {
    for inst in &walk.global.insts {
        walk.site = inst.site.clone();
        one(walk, inst).map_err(|d| d.at(&inst.site))?;
        walk.trace(inst);
    }
    Ok(())
}

fn one(walk: &mut Walk<'_>, inst: &Inst) -> Result<(), Diagnostic> {
    match &inst.op {
        Op::Elementwise(op) => elementwise::partition(walk, inst, op),
        Op::Contract(op) => contract::partition(walk, inst, op),
        Op::Reduce(op) => reduce::partition(walk, inst, op),
        Op::Shape(op) => shape::partition(walk, inst, op),
        Op::Index(op) => index::partition(walk, inst, op),
        Op::Random(op) => random::partition(walk, inst, op),
        Op::State(op) => state::partition(walk, inst, op),
        Op::Control(op) => control::partition(walk, inst, op),
        Op::Collective(_) => {
            Err(Diagnostic::new("", "a collective stands in a program that is not partitioned yet")
                .help("collectives come from the layout; leave them out of the model"))
        }
    }
}
