//! Rules for bodies and instructions.
//!
//! A body is checked in one pass from the top. The pass records for every value whether it is defined, so
//! each rule costs one look-up. Types are inferred only if all operands, states and nested bodies are valid,
//! because [`infer`] relies on valid ids and types.

use super::stage::{MAX_DEPTH, Stage};
use crate::{
    Body, Diagnostic, Env, Function, Inst, Op, Site, StateId, Type, Value,
    infer::{check_type, infer},
    ir::{Control, StateOp},
    text::op_name,
};

pub(super) struct Verifier<'m> {
    env: &'m Env,
    stage: Stage,
    /// For each declared state, whether its type is legal.
    legal_states: &'m [bool],
    /// For each declared state: true if this function has written it.
    written: Vec<bool>,
    pub(super) errors: Vec<Diagnostic>,
}

/// The state of a value at some point of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Undefined,
    /// Defined with an illegal type, which was reported at the definition.
    Illegal,
    Ready,
}

impl<'m> Verifier<'m> {
    pub(super) fn new(env: &'m Env, stage: Stage, legal_states: &'m [bool]) -> Self {
        Self { env, stage, legal_states, written: vec![false; legal_states.len()], errors: Vec::new() }
    }

    /// Checks the body of a function, and that no pending value enters or leaves it.
    pub(super) fn function(&mut self, f: &Function) {
        let body = &f.body;
        let unknown = Site::default();
        let known = self.body(body, 0, &unknown);
        let sides = [("input", &f.inputs, &body.params), ("output", &f.outputs, &body.results)];
        for (what, names, values) in sides {
            for (i, v) in values.iter().enumerate() {
                let ready = known.get(v.0 as usize) == Some(&Known::Ready);
                if !ready || body.ty(*v).pending().is_empty() {
                    continue;
                }
                let name = names.get(i).map_or("?", |name| name.as_str());
                let ty = body.ty(*v).display(&self.env.mesh);
                let message = format!("{what} `{name}` has a pending sum, max or min: {ty}");
                let made = body.insts.iter().find(|inst| inst.results.contains(v));
                let site = made.map_or(&unknown, |inst| &inst.site);
                let help = "all-reduce it first: no pending value may enter or leave a function";
                self.report(Diagnostic::new("verify_v10", message).help(help), site);
            }
        }
    }

    /// Checks a body of the instruction at `site`. Returns the state of each value at its end.
    fn body(&mut self, body: &Body, depth: usize, site: &Site) -> Vec<Known> {
        let mut known = vec![Known::Undefined; body.values.len()];
        for v in &body.params {
            self.define(body, *v, "a parameter", &mut known, site);
        }
        for inst in &body.insts {
            self.inst(body, inst, depth, &mut known);
        }
        for v in &body.results {
            self.used(*v, "a result of the body", &known, site);
        }
        for (v, _) in body.values.iter().filter(|(v, _)| known[v.0 as usize] == Known::Undefined) {
            let message = format!("value {v} is never defined");
            let help = "a body has only the values of its parameters and instructions";
            self.report(Diagnostic::new("verify_v2", message).help(help), site);
        }
        known
    }

    fn inst(&mut self, body: &Body, inst: &Inst, depth: usize, known: &mut [Known]) {
        let mut sound = true;
        for v in &inst.args {
            sound &= self.used(*v, op_name(&inst.op), known, &inst.site);
        }
        sound &= self.nested(inst, depth);
        self.allowed(inst);
        if let Op::State(StateOp::Read(id) | StateOp::Write(id)) = &inst.op {
            sound &= self.state(inst, *id, depth);
        }
        let mut legal = true;
        for v in &inst.results {
            legal &= self.define(body, *v, op_name(&inst.op), known, &inst.site);
        }
        if !sound {
            return;
        }
        let args: Vec<&Type> = inst.args.iter().map(|v| body.ty(*v)).collect();
        match infer(self.env, &inst.op, &args) {
            Err(d) => self.report(d, &inst.site),
            Ok(types) if legal => {
                let recorded: Vec<&Type> = inst.results.iter().map(|v| body.ty(*v)).collect();
                let types: Vec<&Type> = types.iter().collect();
                if let Err(d) = recorded_types(self.env, &inst.op, &recorded, &types) {
                    self.report(d, &inst.site);
                }
            }
            Ok(_) => {}
        }
    }

    /// Checks the bodies of an instruction. Returns true if their parameters and results are valid.
    fn nested(&mut self, inst: &Inst, depth: usize) -> bool {
        let bodies = inst.op.bodies();
        if bodies.is_empty() {
            return true;
        }
        if depth >= MAX_DEPTH {
            let message = format!("bodies are nested more than {MAX_DEPTH} deep");
            self.report(Diagnostic::new("verify_v16", message).help("split the program"), &inst.site);
            return false;
        }
        let mut sound = true;
        for body in bodies {
            let known = self.body(body, depth + 1, &inst.site);
            let ready = |v: &Value| known.get(v.0 as usize) == Some(&Known::Ready);
            sound &= body.params.iter().all(ready) && body.results.iter().all(ready);
        }
        sound
    }

    /// Checks that the operation exists in this stage.
    fn allowed(&mut self, inst: &Inst) {
        match (&inst.op, self.stage) {
            (Op::Collective(_), Stage::Global) => {
                let message = format!("`{}` in a global program", op_name(&inst.op));
                let help = "the partitioner adds collectives: say in the layout which dims are split";
                self.report(Diagnostic::new("verify_v4", message).help(help), &inst.site);
            }
            (Op::Control(Control::Grad), Stage::Local) => {
                let help = "gradients are expanded before the program is partitioned";
                self.report(Diagnostic::new("verify_v6", "`grad` in a local program").help(help), &inst.site);
            }
            (Op::Collective(_), Stage::Local) | (Op::Control(_), _) => {}
            (Op::Elementwise(_) | Op::Contract(_) | Op::Reduce(_) | Op::Shape(_), _) => {}
            (Op::Index(_) | Op::Random(_) | Op::State(_), _) => {}
        }
    }

    /// Checks an access to state. Returns true if its declared type is legal.
    fn state(&mut self, inst: &Inst, id: StateId, depth: usize) -> bool {
        let name = self.env.states.get(id).map_or("?", |s| s.name.as_str());
        if depth > 0 {
            let message = format!("state `{name}` is accessed inside a nested body");
            let help = "read it before the loop or conditional and pass it as an operand; return the new value as \
                        a result and write it after";
            self.report(Diagnostic::new("verify_v13", message).help(help), &inst.site);
        }
        let index = id.0 as usize;
        if matches!(inst.op, Op::State(StateOp::Write(_))) && index < self.written.len() {
            if self.written[index] {
                let message = format!("state `{name}` is written twice");
                let help = "a function writes each state at most once: write only the last value";
                self.report(Diagnostic::new("verify_v12", message).help(help), &inst.site);
            }
            self.written[index] = true;
        }
        // `infer` reports an undeclared id.
        self.legal_states.get(index).copied().unwrap_or(true)
    }

    /// Marks `v` as defined. Returns true if it is valid.
    fn define(&mut self, body: &Body, v: Value, by: &str, known: &mut [Known], site: &Site) -> bool {
        let Some(data) = body.values.get(v) else {
            let message = format!("{by} defines {v}, but the body has {} values", body.values.len());
            self.report(Diagnostic::new("verify_v1", message), site);
            return false;
        };
        let state = &mut known[v.0 as usize];
        if *state != Known::Undefined {
            let message = format!("value {v} is defined twice, the second time by {by}");
            let help = "every value has one definition";
            self.report(Diagnostic::new("verify_v2", message).help(help), site);
            return false;
        }
        match check_type(self.env, &data.ty) {
            Ok(()) => *state = Known::Ready,
            Err(d) => {
                *state = Known::Illegal;
                self.report(d, site);
            }
        }
        *state == Known::Ready
    }

    /// Checks that `v` is defined. Returns true if it is valid.
    fn used(&mut self, v: Value, by: &str, known: &[Known], site: &Site) -> bool {
        match known.get(v.0 as usize) {
            Some(Known::Ready) => true,
            Some(Known::Illegal) => false,
            Some(Known::Undefined) | None => {
                let message = format!("{by} uses {v}, which is not defined before");
                let help = "a body sees only its parameters and the results of its earlier instructions";
                self.report(Diagnostic::new("verify_v1", message).help(help), site);
                false
            }
        }
    }

    fn report(&mut self, error: Diagnostic, site: &Site) {
        // The default site is not a place.
        self.errors.push(if *site == Site::default() { error } else { error.at(site) });
    }
}

/// Checks that the recorded types of an instruction's results are the inferred ones.
pub(crate) fn recorded_types(
    env: &Env,
    op: &Op,
    recorded: &[&Type],
    inferred: &[&Type],
) -> Result<(), Diagnostic> {
    if recorded.len() == inferred.len() && recorded.iter().zip(inferred).all(|(r, i)| r == i) {
        return Ok(());
    }
    let list = |types: &[&Type]| {
        let words: Vec<_> = types.iter().map(|ty| ty.display(&env.mesh).to_string()).collect();
        if words.is_empty() { "no result".to_owned() } else { words.join(", ") }
    };
    Err(Diagnostic::new(
        "verify_v3",
        format!("`{}` gives {}, but {} is recorded", op_name(op), list(inferred), list(recorded)),
    )
    .help("types follow from the operands: change the operands or the recorded type"))
}
