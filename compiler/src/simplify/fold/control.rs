//! Folding rules for loops and conditionals.

use super::{Folder, asks_for_gradients};
use mesh::{
    Body, Inst, Op, TensorDim, Value,
    arena::Id,
    ir::{Control, Scan, Shape},
};
use rustc_hash::FxHashMap;

/// Folds the bodies of an instruction, and moves what does not take part in a loop out of it. Removed results
/// are replaced by other values.
pub(super) fn inside(f: &mut Folder, inst: &mut Inst) {
    let Inst { op, args, results, site: _ } = inst;
    let Op::Control(control) = op else { return };
    match control {
        Control::Scan(scan) => {
            let slices = scan.slices().end;
            create_inside(f, &mut scan.body, slices, &args[slices..]);
            f.changed |= super::body(f.b.env, &mut scan.body, f.gradients);
            if !f.frozen {
                carries(f, scan, args, results);
                stacks(f, scan, args, results);
            }
        }
        Control::Cond { then, otherwise } => {
            for branch in [then, otherwise] {
                create_inside(f, branch, 0, &args[1..]);
                f.changed |= super::body(f.b.env, branch, f.gradients);
            }
        }
        Control::Grad => {}
    }
}

/// A captured splat constant is created in the body instead. The parameter remains, for dead code
/// elimination.
fn create_inside(f: &mut Folder, body: &mut Body, first: usize, captured: &[Value]) {
    if asks_for_gradients(body) {
        return;
    }
    let mut names: FxHashMap<Value, Value> = FxHashMap::default();
    let mut made = Vec::new();
    let mut used = vec![false; body.values.len()];
    body.insts.iter().flat_map(|inst| &inst.args).chain(&body.results).for_each(|v| used[v.index()] = true);
    for (param, arg) in body.params.clone().into_iter().skip(first).zip(captured) {
        let Some(value) = f.splat(*arg).filter(|_| used[param.index()]) else { continue };
        let ty = body.ty(param).clone();
        let scalar = mesh::Type::scalar(ty.dtype);
        let mut last = body.values.push(mesh::ir::ValueData { ty: scalar, name: None });
        let op = Op::Shape(Shape::Constant { dtype: ty.dtype, value });
        made.push(Inst { op, args: vec![], results: vec![last], site: f.site.clone() });
        if !ty.dims.is_empty() {
            let op = Op::Shape(Shape::Broadcast { dims: ty.dims.clone() });
            let whole = body.values.push(mesh::ir::ValueData { ty, name: None });
            made.push(Inst { op, args: vec![last], results: vec![whole], site: f.site.clone() });
            last = whole;
        }
        names.insert(param, last);
    }
    if names.is_empty() {
        return;
    }
    f.changed = true;
    for v in body.insts.iter_mut().flat_map(|inst| &mut inst.args).chain(&mut body.results) {
        *v = names.get(v).copied().unwrap_or(*v);
    }
    body.insts.splice(0..0, made);
    body.compact();
}

/// A carry that every iteration returns unchanged becomes a capture.
fn carries(f: &mut Folder, scan: &mut Scan, args: &mut Vec<Value>, results: &mut Vec<Value>) {
    for i in (0..scan.carries).rev() {
        if scan.body.results[i] != scan.body.params[i] {
            continue;
        }
        scan.carries -= 1;
        scan.body.results.remove(i);
        let param = scan.body.params.remove(i);
        scan.body.params.push(param);
        let arg = args.remove(i);
        args.push(arg);
        let result = results.remove(i);
        f.names[result.index()] = arg;
        f.changed = true;
        scan.body.compact();
    }
}

/// A stacked result that is the same in every iteration becomes a broadcast.
fn stacks(f: &mut Folder, scan: &mut Scan, args: &[Value], results: &mut Vec<Value>) {
    for i in (scan.carries..results.len()).rev() {
        let given = scan.body.results[i];
        let slices = scan.slices().end;
        let Some(capture) = scan.body.params[slices..].iter().position(|p| *p == given) else { continue };
        let dims = vec![TensorDim { dim: scan.dim.clone(), axes: Vec::new() }];
        let before = f.b.body.insts.len();
        let made = f.emit1(Op::Shape(Shape::Broadcast { dims }), &[args[slices + capture]]);
        match made.filter(|v| f.ty(*v) == f.ty(results[i])) {
            Some(value) => {
                f.names[results[i].index()] = value;
                results.remove(i);
                scan.body.results.remove(i);
                f.changed = true;
            }
            None => f.b.body.insts.truncate(before),
        }
    }
}

/// A conditional whose predicate is known becomes one of its branches.
pub(super) fn rewrite(f: &mut Folder, op: &Control, args: &[Value]) -> Option<Vec<Value>> {
    let Control::Cond { then, otherwise } = op else { return None };
    let holds = f.splat(args[0])?;
    let branch = if holds != 0.0 { then } else { otherwise };
    let mut names: FxHashMap<Value, Value> = FxHashMap::default();
    names.extend(branch.params.iter().copied().zip(args[1..].iter().copied()));
    for inst in &branch.insts {
        f.site = inst.site.clone();
        let operands: Vec<Value> = inst.args.iter().map(|a| names[a]).collect();
        let made = f.emit(inst.op.clone(), &operands)?;
        names.extend(inst.results.iter().copied().zip(made));
    }
    Some(branch.results.iter().map(|r| names[r]).collect())
}
