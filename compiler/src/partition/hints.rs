//! Finds the values of a body that take the sharding of stored state.
//!
//! A state layout splits stored tensors further than the compute layout (ZeRO, FSDP). Elementwise work on
//! values of one shape, as in optimizers, is then done on the stored shards. Values connected by such
//! operations form a class, and a class in which state is read or written takes the sharding of that state.
//! Gradients join the class of the slots they update, and are therefore reduce-scattered instead of
//! all-reduced. A parameter's cast to bfloat16 joins the class of the parameter, and is therefore gathered as
//! bfloat16.

use super::Context;
use mesh::{
    Body, Type, Value,
    arena::Id,
    ir::{Control, Inst, Op, StateOp},
};

/// Returns the sharding of each value of `body` between operations: that of the compute layout, or that of
/// the state of its class. `given` are parameters and results whose sharding is decided outside.
pub(super) fn homes(cx: &Context<'_>, body: &Body, given: &[(Value, Type)]) -> Vec<Type> {
    let mut classes = Classes((0..body.values.len()).collect());
    for inst in &body.insts {
        join(&mut classes, body, inst);
    }
    let mut hint: Vec<Option<Type>> = vec![None; body.values.len()];
    let mut seed = |value: Value, ty: &Type| {
        let root = classes.root(value.index());
        if ty.dims != cx.layout(body.ty(value)).dims && hint[root].is_none() {
            hint[root] = Some(ty.clone());
        }
    };
    for (value, ty) in given {
        seed(*value, ty);
    }
    for inst in &body.insts {
        let Op::State(state) = &inst.op else { continue };
        match state {
            StateOp::Read(id) => seed(inst.results[0], &cx.env.states[*id].ty),
            StateOp::Write(id) => seed(inst.args[0], &cx.env.states[*id].ty),
        }
    }
    let home = |v: Value| {
        let mut ty = cx.layout(body.ty(v));
        if let Some(hint) = &hint[classes.root(v.index())] {
            ty.dims.iter_mut().for_each(|d| d.axes = hint.axes_of(&d.dim.name).to_vec());
        }
        ty
    };
    body.values.ids().map(home).collect()
}

fn join(classes: &mut Classes, body: &Body, inst: &Inst) {
    let same = |a: Value, b: Value| {
        let (a, b) = (body.ty(a), body.ty(b));
        a.dims.len() == b.dims.len() && a.names().all(|n| b.has(n))
    };
    match &inst.op {
        Op::Elementwise(_) => {
            let result = inst.results[0];
            inst.args.iter().filter(|a| same(**a, result)).for_each(|a| classes.join(*a, result));
        }
        Op::Control(Control::Scan(scan)) => {
            let carries = inst.args.iter().zip(&inst.results).take(scan.carries);
            carries.for_each(|(a, r)| classes.join(*a, *r));
        }
        Op::Control(Control::Cond { then: _, otherwise: _ } | Control::Grad)
        | Op::Contract(_)
        | Op::Reduce(_)
        | Op::Shape(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Collective(_) => {}
    }
}

/// Disjoint sets of values, each represented by its smallest member.
struct Classes(Vec<usize>);

impl Classes {
    fn root(&self, mut i: usize) -> usize {
        while self.0[i] != i {
            i = self.0[i];
        }
        i
    }
    fn join(&mut self, a: Value, b: Value) {
        let (a, b) = (self.root(a.index()), self.root(b.index()));
        self.0[a.max(b)] = a.min(b);
    }
}
