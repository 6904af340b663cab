//! Lints: warnings about legal programs that are probably not what their author meant.
//!
//! Every function takes a verified Global module, as its author wrote it, so that places are lines of the
//! model.

use crate::activity;
use mesh::{
    Body, Diagnostic, Inst, Module, Name, Op, Site, Value,
    ir::{Control, Shape, StateId, StateKind, StateOp},
    task::check,
};
use rustc_hash::{FxHashMap, FxHashSet};

/// Labels of all lints of this module.
pub const LABELS: [&str; 5] =
    ["one_sided_sum", "unused_value", "unused_parameter", "no_gradient", "unused_output"];

/// Returns all warnings about `module`, one for each line of the model.
pub fn lints(module: &Module) -> Vec<Diagnostic> {
    let mut all: Vec<Diagnostic> = Vec::new();
    let used = used_lines(module);
    for function in &module.functions {
        let mut found = Vec::new();
        body(module, &function.body, &used, &mut found);
        all.extend(found.into_iter().map(|lint| lint.in_function(&function.name)));
    }
    all.extend(unused_parameters(module));
    for (function, output) in check::unused_outputs(module) {
        let message = format!("no command reads the output `{output}`");
        let help = "remove it, or read it with `meshc run`";
        all.push(Diagnostic::new("unused_output", message).help(help).in_function(&function));
    }
    // A layer that is called twice, and functions that share lines, give one warning each.
    let mut seen = FxHashSet::default();
    all.retain(|lint| seen.insert((lint.label, lint.message.clone(), lint.site.as_ref().map(line))));
    all
}

/// A place in a source file.
type Line = (Name, u32, u32);

fn line(site: &Site) -> Line {
    (site.file.clone(), site.line, site.column)
}

/// Lines of which a result is used: a layer may compute a value that only some functions use.
fn used_lines(module: &Module) -> FxHashSet<Line> {
    fn add(body: &Body, lines: &mut FxHashSet<Line>) {
        let used = uses(body);
        for inst in &body.insts {
            if inst.results.iter().any(|result| used.contains(result)) {
                lines.insert(line(&inst.site));
            }
            inst.op.bodies().into_iter().for_each(|inner| add(inner, lines));
        }
    }
    let mut lines = FxHashSet::default();
    module.functions.iter().for_each(|function| add(&function.body, &mut lines));
    lines
}

/// Values that an instruction or the results of `body` use.
fn uses(body: &Body) -> FxHashSet<Value> {
    let args = body.insts.iter().flat_map(|inst| &inst.args);
    body.results.iter().chain(args).copied().collect()
}

fn body(module: &Module, body: &Body, used: &FxHashSet<Line>, all: &mut Vec<Diagnostic>) {
    for inst in &body.insts {
        all.extend(one_sided_sum(body, inst));
        all.extend(unused_value(inst, used));
        if matches!(inst.op, Op::Control(Control::Grad)) {
            no_gradient(module, body, inst, all);
        }
        inst.op.bodies().into_iter().for_each(|inner| self::body(module, inner, used, all));
    }
}

/// An einsum sums over every dim that its result lacks. If only one operand has such a dim, the dim was
/// probably forgotten in the list of results.
fn one_sided_sum(body: &Body, inst: &Inst) -> Option<Diagnostic> {
    let Op::Contract(op) = &inst.op else { return None };
    let (a, b) = (body.ty(inst.args[0]), body.ty(inst.args[1]));
    let summed = |x: &mesh::Type, other: &mesh::Type| {
        let alone = x.dims.iter().filter(|d| !other.has(&d.dim.name) && !op.out.contains(&d.dim.name));
        alone.map(|d| format!("`{}`", d.dim.name)).collect::<Vec<_>>()
    };
    let names = [summed(a, b), summed(b, a)].concat();
    (!names.is_empty()).then(|| {
        let message = format!("the einsum sums over {}, which only one operand has", names.join(" and "));
        Diagnostic::new("one_sided_sum", message)
            .help("add the dim to the results, or sum the operand with `.sum(…)` first to show the intent")
            .at(&inst.site)
    })
}

/// A value that is computed and used nowhere.
fn unused_value(inst: &Inst, used: &FxHashSet<Line>) -> Option<Diagnostic> {
    // States are warned of once for the whole program, and constants are often shared.
    let is_counted = !matches!(inst.op, Op::State(_) | Op::Shape(Shape::Constant { dtype: _, value: _ }));
    (is_counted && !used.contains(&line(&inst.site))).then(|| {
        Diagnostic::new("unused_value", "the result of this line is never used")
            .help("remove the line, or make the result an output")
            .at(&inst.site)
    })
}

/// The values of states that `body` reads.
fn reads(body: &Body) -> impl Iterator<Item = (Value, StateId)> {
    body.insts.iter().filter_map(|inst| {
        if let Op::State(StateOp::Read(state)) = inst.op { Some((inst.results[0], state)) } else { None }
    })
}

/// Parameters that no function reads.
fn unused_parameters(module: &Module) -> Vec<Diagnostic> {
    let mut read: FxHashSet<StateId> = FxHashSet::default();
    for function in &module.functions {
        let used = uses(&function.body);
        read.extend(reads(&function.body).filter(|(value, _)| used.contains(value)).map(|(_, state)| state));
    }
    let unread =
        module.env.states.iter().filter(|(id, state)| state.kind == StateKind::Param && !read.contains(id));
    unread
        .map(|(_, state)| {
            Diagnostic::new("unused_parameter", format!("no function reads the parameter `{}`", state.name))
                .help("remove it: it takes memory and space in checkpoints")
                .at(&state.site)
        })
        .collect()
}

/// Values for which a gradient is requested, and on which the loss does not depend.
fn no_gradient(module: &Module, body: &Body, inst: &Inst, all: &mut Vec<Diagnostic>) {
    let states: FxHashMap<Value, StateId> = reads(body).collect();
    for x in activity::without_gradient(body, inst.args[0], &inst.args[1..]) {
        let help = "use it in the loss, or stop asking for its gradient";
        let lint = match states.get(&x).map(|id| &module.env.states[*id]) {
            Some(state) => {
                let message = format!(
                    "the gradient of the parameter `{}` is zero: the loss does not depend on it",
                    state.name
                );
                Diagnostic::new("no_gradient", message).help(help).at(&state.site)
            }
            None => {
                let message = "the gradient is zero for one of its values: the loss does not depend on it";
                Diagnostic::new("no_gradient", message).help(help).at(&inst.site)
            }
        };
        all.push(lint);
    }
}

#[cfg(test)]
mod tests;
