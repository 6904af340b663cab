//! Activity analysis: the values that depend on a differentiated value, and the values that get a cotangent.
//! Derivatives flow between floats, through operations whose derivative is not zero everywhere.

use crate::facts::{Flow, flow};
use mesh::{Body, Inst, Value, arena::Id, ir::Scan};

/// Flags, by index of the value, of the values that depend on one of `seeds`.
pub(crate) fn varied(body: &Body, seeds: &[Value]) -> Vec<bool> {
    let mut flags = vec![false; body.values.len()];
    for seed in seeds {
        flags[seed.index()] = body.ty(*seed).dtype.is_float();
    }
    for inst in &body.insts {
        for (result, flag) in inst.results.iter().zip(forward(body, inst, &flags)) {
            // A seed may itself be the result of an instruction.
            flags[result.index()] |= flag;
        }
    }
    flags
}

/// The values of `xs` on which `loss` does not depend through operations with a derivative: their gradient is
/// zero whatever the inputs are.
pub(crate) fn without_gradient(body: &Body, loss: Value, xs: &[Value]) -> Vec<Value> {
    let flags = useful_to(body, &[loss], &[true]);
    xs.iter().copied().filter(|x| !flags[x.index()]).collect()
}

/// Flags of the values on which a result flagged in `results` depends.
fn useful(body: &Body, results: &[bool]) -> Vec<bool> {
    useful_to(body, &body.results, results)
}

/// Flags of the values on which a value of `ends` flagged in `wanted` depends.
fn useful_to(body: &Body, ends: &[Value], wanted: &[bool]) -> Vec<bool> {
    let mut flags = vec![false; body.values.len()];
    for (result, flag) in ends.iter().zip(wanted) {
        flags[result.index()] |= flag & body.ty(*result).dtype.is_float();
    }
    for inst in body.insts.iter().rev() {
        let wanted: Vec<bool> = inst.results.iter().map(|r| flags[r.index()]).collect();
        for (arg, flag) in inst.args.iter().zip(backward(inst, &wanted)) {
            flags[arg.index()] |= flag & body.ty(*arg).dtype.is_float();
        }
    }
    flags
}

fn forward(body: &Body, inst: &Inst, flags: &[bool]) -> Vec<bool> {
    let args: Vec<bool> = inst.args.iter().map(|a| flags[a.index()]).collect();
    if !args.contains(&true) {
        return vec![false; inst.results.len()];
    }
    let float = |v: &Value| body.ty(*v).dtype.is_float();
    match flow(&inst.op) {
        Flow::All => inst.results.iter().map(float).collect(),
        Flow::Pairs => inst.results.iter().zip(&args).map(|(r, a)| float(r) && *a).collect(),
        Flow::Second => vec![args[1]],
        Flow::Nothing => vec![false; inst.results.len()],
        Flow::Scan(scan) => of(&scan.body.results, &scan_varied(scan, &args)),
        Flow::Cond(then, otherwise) => {
            let branch = |body: &Body| of(&body.results, &varied(body, &flagged(&body.params, &args[1..])));
            branch(then).iter().zip(branch(otherwise)).map(|(a, b)| a | b).collect()
        }
    }
}

fn backward(inst: &Inst, results: &[bool]) -> Vec<bool> {
    let any = results.contains(&true);
    match flow(&inst.op) {
        Flow::All => vec![any; inst.args.len()],
        Flow::Pairs => results.to_vec(),
        Flow::Second => vec![false, any],
        Flow::Nothing => vec![false; inst.args.len()],
        Flow::Scan(scan) => {
            let every = vec![true; scan.body.values.len()];
            of(&scan.body.params, &fixpoint(scan, &every, results).1)
        }
        Flow::Cond(then, otherwise) => {
            let branch = |body: &Body| of(&body.params, &useful(body, results));
            let either = branch(then).into_iter().zip(branch(otherwise)).map(|(a, b)| a | b);
            std::iter::once(false).chain(either).collect()
        }
    }
}

/// Flags of the values of a scan's body that depend on flagged arguments, in any iteration.
pub(crate) fn scan_varied(scan: &Scan, args: &[bool]) -> Vec<bool> {
    let mut args = args.to_vec();
    loop {
        let flags = varied(&scan.body, &flagged(&scan.body.params, &args));
        let mut grown = false;
        for i in 0..scan.carries {
            let flag = flags[scan.body.results[i].index()];
            grown |= flag && !args[i];
            args[i] |= flag;
        }
        if !grown {
            return flags;
        }
    }
}

/// Flags of the results of a scan's body that get a cotangent in some iteration, given the flags of the
/// scan's results. Carries that do not vary get none.
pub(crate) fn scan_slots(scan: &Scan, varied: &[bool], results: &[bool]) -> Vec<bool> {
    fixpoint(scan, varied, results).0
}

/// [`scan_slots`], and the flags of all values on which they depend.
fn fixpoint(scan: &Scan, varied: &[bool], results: &[bool]) -> (Vec<bool>, Vec<bool>) {
    let mut slots: Vec<bool> =
        scan.body.results.iter().zip(results).map(|(v, flag)| *flag && varied[v.index()]).collect();
    loop {
        let flags = useful(&scan.body, &slots);
        let mut grown = false;
        for (slot, param) in slots.iter_mut().zip(&scan.body.params[..scan.carries]) {
            let flag = flags[param.index()] && varied[param.index()];
            grown |= flag && !*slot;
            *slot |= flag;
        }
        if !grown {
            return (slots, flags);
        }
    }
}

fn of(values: &[Value], flags: &[bool]) -> Vec<bool> {
    values.iter().map(|v| flags[v.index()]).collect()
}

fn flagged(values: &[Value], flags: &[bool]) -> Vec<Value> {
    values.iter().zip(flags).filter(|(_, flag)| **flag).map(|(v, _)| *v).collect()
}
