//! Constant folding, and removal of operations that do nothing.
//!
//! A rule replaces the one result of an instruction by another value of exactly the same type. If it would
//! change the order of dims, it does not apply. Rules preserve NaN and infinity: `0 · x` is folded for
//! integers only. Numbers are folded as a device would compute them (`number`); functions that devices
//! approximate are left alone.

mod control;
mod elementwise;
mod number;
mod shape;

use super::asks_for_gradients;
use mesh::{
    Body, BodyBuilder, Env, Inst, Module, Op, Site, Type, Value,
    arena::Id,
    ir::{Collective, Control, Pending, Reduce, ReduceKind, Shape},
};

/// Rewrites all functions. Returns true if any rule applied.
pub fn run(module: &mut Module) -> bool {
    // While a gradient is requested somewhere, stop_gradient has an effect.
    let mut gradients = false;
    for function in &module.functions {
        function.body.walk(&mut |_, inst| gradients |= inst.op == Op::Control(Control::Grad));
    }
    let mut changed = false;
    for function in &mut module.functions {
        changed |= body(&module.env, &mut function.body, gradients);
    }
    changed
}

fn body(env: &Env, body: &mut Body, gradients: bool) -> bool {
    let frozen = asks_for_gradients(body);
    let insts = std::mem::take(&mut body.insts);
    let mut folder = Folder {
        defs: vec![usize::MAX; body.values.len()],
        names: body.values.ids().collect(),
        b: BodyBuilder { env, body: std::mem::take(body) },
        site: Site::default(),
        gradients,
        frozen,
        changed: false,
    };
    insts.into_iter().for_each(|inst| folder.visit(inst));
    let Folder { b, names, changed, .. } = folder;
    *body = b.body;
    body.results.iter_mut().for_each(|r| *r = names[r.index()]);
    body.compact();
    changed
}

/// A body being rewritten.
struct Folder<'e> {
    /// The body so far.
    b: BodyBuilder<'e>,
    /// For each value, the position of its instruction in the body so far.
    defs: Vec<usize>,
    /// For each value, its replacement.
    names: Vec<Value>,
    /// The site of the current instruction.
    site: Site,
    /// True if some body of the module asks for a gradient.
    gradients: bool,
    /// True if this body does.
    frozen: bool,
    changed: bool,
}

impl Folder<'_> {
    fn visit(&mut self, mut inst: Inst) {
        inst.args.iter_mut().for_each(|a| *a = self.names[a.index()]);
        self.site = inst.site.clone();
        control::inside(self, &mut inst);
        let before = self.b.body.insts.len();
        let replaced = if self.frozen { None } else { self.rewrite(&inst) };
        let replaced = replaced.filter(|values| {
            let types = values.iter().zip(&inst.results);
            types.clone().all(|(v, r)| self.ty(*v) == self.ty(*r))
        });
        match replaced {
            Some(values) => {
                inst.results.iter().zip(values).for_each(|(r, v)| self.names[r.index()] = v);
                self.changed = true;
            }
            None => {
                // Removes the instructions of a rule that did not apply in the end.
                self.b.body.insts.truncate(before);
                inst.results.iter().for_each(|r| self.defs[r.index()] = before);
                self.b.body.insts.push(inst);
            }
        }
    }

    /// Values that can replace the results of an instruction.
    fn rewrite(&mut self, inst: &Inst) -> Option<Vec<Value>> {
        let args = &inst.args;
        let one = match &inst.op {
            Op::Elementwise(op) => elementwise::rewrite(self, op, args, inst.results[0]),
            Op::Shape(op) => shape::rewrite(self, op, args, inst.results[0]),
            Op::Reduce(op) => reduce(self, op, args),
            Op::Collective(op) => collective(self, op, args),
            Op::Control(op) => return control::rewrite(self, op, args),
            Op::Contract(_) | Op::Index(_) | Op::Random(_) | Op::State(_) => None,
        };
        one.map(|value| vec![value])
    }

    fn ty(&self, value: Value) -> &Type {
        self.b.ty(value)
    }

    /// The operation that makes a value, with its operands.
    fn def(&self, value: Value) -> Option<(&Op, &[Value])> {
        let inst = self.b.body.insts.get(*self.defs.get(value.index())?)?;
        Some((&inst.op, &inst.args))
    }

    /// The number that all elements of a value are equal to.
    fn splat(&self, value: Value) -> Option<f64> {
        match self.def(value)? {
            (Op::Shape(Shape::Constant { dtype, value }), _) => Some(number::round(*dtype, *value)),
            (Op::Shape(Shape::Broadcast { .. } | Shape::Reshape { .. } | Shape::Rename { .. }), args) => {
                self.splat(args[0])
            }
            _ => None,
        }
    }

    fn emit(&mut self, op: Op, args: &[Value]) -> Option<Vec<Value>> {
        let results = self.b.emit(op, args, &self.site).ok()?;
        let position = self.b.body.insts.len() - 1;
        for r in &results {
            debug_assert_eq!(r.index(), self.defs.len(), "values are numbered as they are made");
            self.defs.push(position);
            self.names.push(*r);
        }
        Some(results)
    }

    fn emit1(&mut self, op: Op, args: &[Value]) -> Option<Value> {
        self.emit(op, args).map(|results| results[0])
    }

    /// A value of type `ty` with all elements `number`; `None` for a pending sum.
    fn full(&mut self, ty: &Type, number: f64) -> Option<Value> {
        if !ty.pending().is_empty() {
            return None;
        }
        let dtype = ty.dtype;
        let value = self.emit1(Op::Shape(Shape::Constant { dtype, value: number }), &[])?;
        if ty.dims.is_empty() {
            return Some(value);
        }
        self.emit1(Op::Shape(Shape::Broadcast { dims: ty.dims.clone() }), &[value])
    }
}

fn reduce(f: &mut Folder, op: &Reduce, args: &[Value]) -> Option<Value> {
    let Reduce::Over { kind, dims } = op else { return None };
    if dims.is_empty() {
        return Some(args[0]);
    }
    let (inner, inner_args) = f.def(args[0])?;
    let Op::Reduce(Reduce::Over { kind: first, dims: inside }) = inner else { return None };
    let together = match kind {
        // Float sums round.
        ReduceKind::Sum => kind == first && f.ty(args[0]).dtype.is_int(),
        // Equal largest elements share the gradient differently.
        ReduceKind::Max | ReduceKind::Min => kind == first && !f.gradients,
        ReduceKind::Mean | ReduceKind::LogSumExp => false,
    };
    if !together {
        return None;
    }
    let (dims, x) = ([&inside[..], dims].concat(), inner_args[0]);
    f.emit1(Op::Reduce(Reduce::Over { kind: *kind, dims }), &[x])
}

fn collective(f: &mut Folder, op: &Collective, args: &[Value]) -> Option<Value> {
    let (inner, inner_args) = f.def(args[0])?;
    let Op::Collective(inner) = inner else { return None };
    let x = inner_args[0];
    match (op, inner) {
        // A value that only one device holds, reduced, is the value on all devices.
        (
            Collective::AllReduce { kind: Pending::Sum, axes },
            Collective::AsPending { axes: pending_axes },
        ) if axes == pending_axes => Some(x),
        (Collective::Shard { dim, axes }, Collective::AllGather { dim: whole, axes: gathered })
        | (Collective::AllGather { dim, axes }, Collective::Shard { dim: whole, axes: gathered })
            if dim == whole && axes == gathered =>
        {
            Some(x)
        }
        _ => None,
    }
}
