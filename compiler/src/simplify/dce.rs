//! Dead code elimination: removes instructions whose results are not used, and unused results, carries,
//! slices and captures of loops, conditionals, sorts and gradients. The remaining values are renumbered in
//! order.

use mesh::{
    Body, Inst, Module, Op, Value,
    arena::Id,
    ir::{Control, Index, Scan, StateOp},
};

/// Rewrites all functions. Returns true if anything was removed.
pub fn run(module: &mut Module) -> bool {
    module.functions.iter_mut().fold(false, |changed, function| body(&mut function.body) | changed)
}

/// Rewrites one body; its parameters and results stay.
pub fn body(body: &mut Body) -> bool {
    let mut live = vec![false; body.values.len()];
    body.results.iter().for_each(|v| live[v.index()] = true);
    let mut changed = false;
    let mut kept = Vec::new();
    for mut inst in std::mem::take(&mut body.insts).into_iter().rev() {
        if !inst.results.iter().any(|r| live[r.index()]) && !writes(&inst.op) {
            changed = true;
            continue;
        }
        changed |= prune(&mut inst, &live);
        inst.args.iter().for_each(|a| live[a.index()] = true);
        kept.push(inst);
    }
    kept.reverse();
    body.insts = kept;
    body.compact();
    changed
}

/// True if the instruction has an effect besides its results.
fn writes(op: &Op) -> bool {
    matches!(op, Op::State(StateOp::Write(_)))
}

/// Removes unused parts of an instruction that stays.
fn prune(inst: &mut Inst, live: &[bool]) -> bool {
    let used: Vec<bool> = inst.results.iter().map(|r| live[r.index()]).collect();
    let Inst { op, args, results, site: _ } = inst;
    match op {
        Op::Control(Control::Scan(op)) => scan(op, args, results, used),
        Op::Control(Control::Cond { then, otherwise }) => cond([then, otherwise], args, results, &used),
        Op::Control(Control::Grad) => {
            retain(results, |i| used[i]);
            retain(args, |i| i == 0 || used[i - 1])
        }
        Op::Index(Index::Sort { .. }) => {
            retain(results, |i| i == 0 || used[i]);
            retain(args, |i| i == 0 || used[i])
        }
        Op::Index(
            Index::OneHot { .. }
            | Index::Gather { .. }
            | Index::ScatterAdd { .. }
            | Index::ScatterExtreme { .. }
            | Index::Permute { .. }
            | Index::TopK { .. }
            | Index::CumSum { .. }
            | Index::DynamicSlice { .. }
            | Index::DynamicUpdate { .. },
        )
        | Op::Elementwise(_)
        | Op::Contract(_)
        | Op::Reduce(_)
        | Op::Shape(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Collective(_) => false,
    }
}

fn scan(op: &mut Scan, args: &mut Vec<Value>, results: &mut Vec<Value>, mut used: Vec<bool>) -> bool {
    let mut changed = body(&mut op.body);
    // A carry stays if its last value is used, or if a remaining result needs it.
    loop {
        let needed = needs(&op.body, &used);
        let missing = (0..op.carries).find(|i| needed[op.body.params[*i].index()] && !used[*i]);
        match missing {
            Some(i) => used[i] = true,
            None => break,
        }
    }
    let carries = used[..op.carries].iter().filter(|u| **u).count();
    let gone = |i: usize| i < op.carries && !used[i];
    changed |= retain(results, |i| used[i]);
    retain(&mut op.body.results, |i| used[i]);
    retain(&mut op.body.params, |i| !gone(i));
    retain(args, |i| !gone(i));
    op.carries = carries;
    changed |= body(&mut op.body);

    let everything = vec![true; op.body.results.len()];
    let needed = needs(&op.body, &everything);
    let keep: Vec<bool> =
        op.body.params.iter().enumerate().map(|(i, p)| i < op.carries || needed[p.index()]).collect();
    op.xs = keep[op.slices()].iter().filter(|k| **k).count();
    retain(&mut op.body.params, |i| keep[i]);
    if retain(args, |i| keep[i]) {
        op.body.compact();
        changed = true;
    }
    changed
}

fn cond(
    branches: [&mut Box<Body>; 2],
    args: &mut Vec<Value>,
    results: &mut Vec<Value>,
    used: &[bool],
) -> bool {
    let mut changed = retain(results, |i| used[i]);
    let mut needed = vec![false; args.len() - 1];
    let [then, otherwise] = branches;
    for branch in [&mut **then, &mut **otherwise] {
        retain(&mut branch.results, |i| used[i]);
        changed |= body(branch);
        let everything = vec![true; branch.results.len()];
        let flags = needs(branch, &everything);
        branch.params.iter().zip(&mut needed).for_each(|(p, n)| *n |= flags[p.index()]);
    }
    if retain(args, |i| i == 0 || needed[i - 1]) {
        for branch in [then, otherwise] {
            retain(&mut branch.params, |i| needed[i]);
            branch.compact();
        }
        changed = true;
    }
    changed
}

/// Flags of the values that some results of a body need.
fn needs(body: &Body, results: &[bool]) -> Vec<bool> {
    let mut live = vec![false; body.values.len()];
    body.results.iter().zip(results).for_each(|(v, used)| live[v.index()] |= used);
    for inst in body.insts.iter().rev() {
        if inst.results.iter().any(|r| live[r.index()]) || writes(&inst.op) {
            inst.args.iter().for_each(|a| live[a.index()] = true);
        }
    }
    live
}

/// Retains the items at wanted positions. Returns true if any was removed.
pub(super) fn retain<T>(items: &mut Vec<T>, mut wanted: impl FnMut(usize) -> bool) -> bool {
    let before = items.len();
    let mut i = 0;
    items.retain(|_| {
        i += 1;
        wanted(i - 1)
    });
    items.len() != before
}
