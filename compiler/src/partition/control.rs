//! Scans and conditionals. Values enter and leave a body with the sharding they have outside, without pending
//! sums. Scans have three exceptions. Stored parameters that the loop slices enter as they are stored, so
//! that each iteration gathers its own slice (FSDP), unless the schedule gathers them once. Stacked results
//! may leave pending, so that one all-reduce after the loop reduces all slices. A carry that only accumulates
//! may stay pending throughout the loop.

use super::{
    insts,
    walk::{Walk, whole},
};
use mesh::{
    AxisSet, Body, Diagnostic, Inst, Name, Site, Type, Value,
    ir::{Binary, Control, Elementwise, Op, Scan, Unary},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Control) -> Result<(), Diagnostic> {
    match op {
        Control::Scan(op) => scan(walk, inst, op),
        Control::Cond { then, otherwise } => cond(walk, inst, then, otherwise),
        Control::Grad => {
            Err(Diagnostic::new("", "a request for a gradient stands in a program that is to be partitioned")
                .help("expand gradients first"))
        }
    }
}

fn cond(walk: &mut Walk<'_>, inst: &Inst, then: &Body, otherwise: &Body) -> Result<(), Diagnostic> {
    let mut args = vec![walk.get_layout(inst.args[0])?];
    let params: Vec<Type> = inst.args[1..].iter().map(|v| walk.home(*v)).collect();
    for (v, want) in inst.args[1..].iter().zip(&params) {
        args.push(walk.get(*v, want)?);
    }
    let results: Vec<Type> = inst.results.iter().map(|r| walk.home(*r)).collect();
    let branch = |global: &Body| -> Result<Box<Body>, Diagnostic> {
        let given = global.results.iter().copied().zip(results.iter().cloned()).collect();
        let mut inner = Walk::new(walk.cx, global, &params, given);
        insts(&mut inner)?;
        let done = global.results.iter().zip(&results).map(|(r, want)| inner.result(*r, want));
        let done = done.collect::<Result<Vec<Value>, _>>()?;
        Ok(Box::new(inner.b.finish(done)))
    };
    let op = Control::Cond { then: branch(then)?, otherwise: branch(otherwise)? };
    walk.done(inst, Op::Control(op), &args)
}

/// The form of a loop carry.
#[derive(Clone, Copy, PartialEq)]
enum Carry {
    /// Not pending.
    Reduced,
    /// The carry accumulates; the axes over which it may be pending are not known yet.
    Open,
    /// The carry accumulates, and is pending over these axes throughout the loop.
    Pending(AxisSet),
}

fn scan(walk: &mut Walk<'_>, inst: &Inst, op: &Scan) -> Result<(), Diagnostic> {
    let kind = |i| if accumulates(&op.body, i).is_some() { Carry::Open } else { Carry::Reduced };
    let mut carries: Vec<Carry> = (0..op.carries).map(kind).collect();
    // Finds the axes of pending carries by trial. A carry whose result does not keep its axes becomes
    // reduced; if the search takes long, all do.
    for left in (0..op.carries + 2).rev() {
        let inner = body(walk, inst, op, &carries)?;
        let pending_axes = op.body.results.iter().map(|r| inner.pending_axes(*r));
        let next: Vec<Carry> =
            carries.iter().zip(pending_axes).map(|(c, pending_axes)| decide(*c, pending_axes)).collect();
        if next == carries {
            return emit(walk, inst, op, &carries, inner);
        }
        carries = if left > 1 { next } else { vec![Carry::Reduced; op.carries] };
    }
    let inner = body(walk, inst, op, &carries)?;
    emit(walk, inst, op, &carries, inner)
}

fn decide(carry: Carry, pending_axes: AxisSet) -> Carry {
    match carry {
        Carry::Reduced => Carry::Reduced,
        Carry::Open if pending_axes.is_empty() => Carry::Reduced,
        Carry::Open => Carry::Pending(pending_axes),
        Carry::Pending(sum) if sum == pending_axes => carry,
        Carry::Pending(_) => Carry::Reduced,
    }
}

/// The sharding of each argument of the scan, including the scanned dim.
fn outside(walk: &Walk<'_>, inst: &Inst, op: &Scan, carries: &[Carry]) -> Vec<Type> {
    let lies = |(i, v): (usize, &Value)| {
        if let Some(carry) = carries.get(i) {
            return carried(walk, inst, i, *carry);
        }
        let home = walk.home(*v);
        let sliced = i < op.slices().end && !walk.cx.gather_once && home.axes_of(&op.dim.name).is_empty();
        if sliced { home } else { walk.layout(*v) }
    };
    inst.args.iter().enumerate().map(lies).collect()
}

fn carried(walk: &Walk<'_>, inst: &Inst, i: usize, carry: Carry) -> Type {
    match carry {
        Carry::Reduced => walk.home(inst.results[i]),
        // With the sharding of stored state it could not be pending over the axes that split only the state.
        Carry::Open => walk.layout(inst.results[i]),
        Carry::Pending(sum) => {
            let mut ty = walk.layout(inst.results[i]);
            ty.sum = sum;
            ty
        }
    }
}

/// The sharding that each result of the body must have: a carry's as it entered; a stacked result's as the
/// consumer outside wants it, unless the scanned dim is split there.
fn wanted(walk: &Walk<'_>, inst: &Inst, op: &Scan, carries: &[Carry]) -> Vec<Type> {
    let lies = |(i, r): (usize, &Value)| {
        if let Some(carry) = carries.get(i) {
            return carried(walk, inst, i, *carry);
        }
        let home = walk.home(*r);
        let stacked = if home.axes_of(&op.dim.name).is_empty() { home } else { walk.layout(*r) };
        without(&stacked, &op.dim.name)
    };
    inst.results.iter().enumerate().map(lies).collect()
}

fn without(ty: &Type, dim: &Name) -> Type {
    let mut ty = whole(ty, dim);
    ty.dims.retain(|d| d.dim.name != *dim);
    ty
}

/// Walks the body; its results have not been requested yet.
fn body<'w>(walk: &Walk<'w>, inst: &Inst, op: &'w Scan, carries: &[Carry]) -> Result<Walk<'w>, Diagnostic> {
    let params: Vec<Type> = outside(walk, inst, op, carries)
        .iter()
        .enumerate()
        .map(|(i, ty)| if op.slices().contains(&i) { without(ty, &op.dim.name) } else { ty.clone() })
        .collect();
    let given = op.body.results.iter().copied().zip(wanted(walk, inst, op, carries)).collect();
    let mut inner = Walk::new(walk.cx, &op.body, &params, given);
    let open = carries.iter().enumerate().filter(|(_, c)| **c == Carry::Open);
    inner.flexible = open.map(|(i, _)| op.body.params[i]).collect();
    let pending = carries.iter().enumerate().filter(|(_, c)| **c != Carry::Reduced);
    inner.added = bound(&op.body, pending.filter_map(|(i, _)| accumulates(&op.body, i)).flatten());
    insts(&mut inner)?;
    Ok(inner)
}

fn users(body: &Body, v: Value) -> usize {
    let insts = body.insts.iter().filter(|inst| inst.args.contains(&v)).count();
    insts + body.results.iter().filter(|r| **r == v).count()
}

fn emit(
    walk: &mut Walk<'_>,
    inst: &Inst,
    op: &Scan,
    carries: &[Carry],
    mut inner: Walk<'_>,
) -> Result<(), Diagnostic> {
    let mut results = Vec::new();
    for (i, (r, mut want)) in op.body.results.iter().zip(wanted(walk, inst, op, carries)).enumerate() {
        if i >= op.carries && want.dims == inner.layout(*r).dims {
            want.sum = inner.lazy(*r).minus(want.split());
        }
        results.push(inner.result(*r, &want)?);
    }
    let origins: Vec<Option<Site>> = op.body.results.iter().map(|r| inner.origin(*r).cloned()).collect();
    let body = inner.b.finish(results);
    let mut args = Vec::new();
    for (v, want) in inst.args.iter().zip(outside(walk, inst, op, carries)) {
        args.push(walk.get(*v, &want)?);
    }
    let local = Scan { body, ..op.clone() };
    let made = walk.b.emit(Op::Control(Control::Scan(Box::new(local))), &args, &walk.site)?;
    for ((out, made), origin) in inst.results.iter().zip(made).zip(origins) {
        let site = origin.unwrap_or_else(|| inst.site.clone());
        walk.set_origin(*out, site);
        walk.set(*out, made);
    }
    Ok(())
}

/// Adds to `added` the terms of its sums that have no other use.
fn bound(body: &Body, added: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut all: Vec<Value> = added.collect();
    let mut next = 0;
    while let Some(v) = all.get(next).copied() {
        next += 1;
        let maker = body.insts.iter().find(|inst| inst.results.contains(&v));
        let Some(maker) = maker.filter(|_| users(body, v) == 1) else { continue };
        if let Op::Elementwise(
            Elementwise::Cast(_)
            | Elementwise::StopGradient
            | Elementwise::Unary(Unary::Neg)
            | Elementwise::Binary(Binary::Add | Binary::Sub),
        ) = &maker.op
        {
            all.extend(&maker.args);
        }
    }
    all
}

/// The values that are added to carry `i` on the way from its parameter to its result. `None` if the carry
/// has another use.
fn accumulates(body: &Body, i: usize) -> Option<Vec<Value>> {
    let mut value = body.params[i];
    let mut added = Vec::new();
    loop {
        let used = body.results.iter().filter(|r| **r == value).count();
        let mut users = body.insts.iter().filter(|inst| inst.args.contains(&value));
        let (user, more) = (users.next(), users.next().is_some());
        match user {
            None => {
                let done = used == 1 && body.results[i] == value && value != body.params[i];
                return done.then_some(added);
            }
            Some(user) if used == 0 && !more && adds(user, value) => {
                added.extend(user.args.iter().copied().filter(|a| *a != value));
                value = user.results[0];
            }
            Some(_) => return None,
        }
    }
}

fn adds(inst: &Inst, value: Value) -> bool {
    let times = inst.args.iter().filter(|a| **a == value).count();
    match &inst.op {
        Op::Elementwise(Elementwise::Binary(Binary::Add)) => times == 1,
        Op::Elementwise(Elementwise::Binary(Binary::Sub)) => times == 1 && inst.args[0] == value,
        Op::Elementwise(Elementwise::StopGradient) => true,
        Op::Elementwise(Elementwise::Unary(Unary::Neg)) => false,
        Op::Elementwise(_)
        | Op::Contract(_)
        | Op::Reduce(_)
        | Op::Shape(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_)
        | Op::Collective(_) => false,
    }
}
