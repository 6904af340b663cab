//! Sums over iterations inside the loop that computes the terms (Local only). Where a carry of a loop only
//! adds what an inner loop stacks (the gradients of stacked layers, summed over microbatches), the inner loop
//! slices the sum and returns it with its own term added. Then there is no stack of terms beside the sum, and
//! the sum is read and written once instead of twice. Partitioning has decided before where sums are reduced.

use mesh::{
    Body, BodyBuilder, Env, Inst, Module, Op, Site, Type, Value,
    ir::{Binary, Control, Elementwise, Scan},
};

/// Rewrites all functions. Returns true if any loop took over a sum.
pub fn run(module: &mut Module) -> bool {
    let env = &module.env;
    module.functions.iter_mut().fold(false, |changed, f| body(env, &mut f.body) | changed)
}

fn body(env: &Env, body: &mut Body) -> bool {
    let mut changed = false;
    for inst in &mut body.insts {
        for inner in inst.op.bodies_mut() {
            changed |= self::body(env, inner);
        }
        if let Op::Control(Control::Scan(scan)) = &mut inst.op {
            for i in 0..scan.carries {
                changed |= carry(env, &mut scan.body, i);
            }
        }
    }
    changed
}

/// An accumulating carry: the positions of the addition, of a cast before it, and of the loop that stacks the
/// term, with the number of the loop's result.
struct Sum {
    add: usize,
    cast: Option<usize>,
    maker: usize,
    result: usize,
}

/// Lets the loop that computes the terms of carry `i` take over its sum. Returns true if that was possible.
fn carry(env: &Env, body: &mut Body, i: usize) -> bool {
    let Some(sum) = find(body, i) else { return false };
    let carried = body.params[i];
    let ty = body.ty(carried).clone();
    let Inst { results, site, .. } = body.insts[sum.add].clone();
    let inst = &mut body.insts[sum.maker];
    let Op::Control(Control::Scan(scan)) = &mut inst.op else { return false };
    let place = scan.slices().end;
    if !take_over(env, scan, sum.result, &ty, &site) {
        return false;
    }
    inst.args.insert(place, carried);
    inst.results[sum.result] = results[0];
    let mut at = 0..;
    body.insts.retain(|_| at.next().is_some_and(|k| k != sum.add && Some(k) != sum.cast));
    body.compact();
    true
}

/// Turns result `k` of `scan`, whose slices are added to those of a sum of type `ty`, into that sum.
fn take_over(env: &Env, scan: &mut Scan, k: usize, ty: &Type, site: &Site) -> bool {
    let mut slice = ty.clone();
    slice.dims.retain(|d| d.dim.name != scan.dim.name);
    let mut b = BodyBuilder { env, body: scan.body.clone() };
    let old = b.param(slice.clone(), None);
    // Slices come before captures.
    b.body.params.pop();
    b.body.params.insert(scan.slices().end, old);
    let mut emit = |op, args: &[Value]| b.emit1(Op::Elementwise(op), args, site);
    let term = emit(Elementwise::Cast(slice.dtype), &[scan.body.results[k]]);
    let Ok(next) = term.and_then(|term| emit(Elementwise::Binary(Binary::Add), &[old, term])) else {
        return false;
    };
    b.body.results[k] = next;
    scan.body = b.body;
    scan.xs += 1;
    true
}

fn find(body: &Body, i: usize) -> Option<Sum> {
    let carried = body.params[i];
    let add = only_user(body, carried)?;
    let Inst { op, args, results, .. } = &body.insts[add];
    // The sum has no other use than the carry.
    let round = body.results.iter().enumerate().all(|(k, r)| (*r == results[0]) == (k == i));
    let elsewhere = body.insts.iter().any(|inst| inst.args.contains(&results[0]));
    if *op != Op::Elementwise(Elementwise::Binary(Binary::Add)) || !round || elsewhere {
        return None;
    }
    let mut term = *args.iter().find(|a| **a != carried)?;
    let mut user = add;
    let mut maker = maker(body, term)?;
    let mut cast = None;
    if let Op::Elementwise(Elementwise::Cast(_)) = &body.insts[maker].op {
        if only_user(body, term)? != add {
            return None;
        }
        (cast, user) = (Some(maker), maker);
        term = body.insts[maker].args[0];
        maker = self::maker(body, term)?;
    }
    let Op::Control(Control::Scan(scan)) = &body.insts[maker].op else { return None };
    let result = body.insts[maker].results.iter().position(|r| *r == term)?;
    // The loop puts its dim first, and keeps the order of the other dims of the sum.
    let order = body.ty(carried).dims.first().is_some_and(|d| d.dim.name == scan.dim.name)
        && body.ty(carried).dims == body.ty(results[0]).dims;
    let alike = order && body.ty(carried).with_dtype(body.ty(term).dtype).matches(body.ty(term));
    (result >= scan.carries && alike && only_user(body, term)? == user).then_some(Sum {
        add,
        cast,
        maker,
        result,
    })
}

/// The instruction that uses `v`, if that is its only use.
fn only_user(body: &Body, v: Value) -> Option<usize> {
    let users = body.insts.iter().enumerate();
    let mut uses = users.flat_map(|(k, inst)| inst.args.iter().filter(|a| **a == v).map(move |_| k));
    let user = uses.next()?;
    (uses.next().is_none() && !body.results.contains(&v)).then_some(user)
}

fn maker(body: &Body, v: Value) -> Option<usize> {
    body.insts.iter().position(|inst| inst.results.contains(&v))
}
