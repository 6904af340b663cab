//! The printer. It does not fail: a module that breaks rules prints too, with `?` for what cannot be
//! printed, so that the wrong result of a stage can be inspected.

use super::{
    attrs::AttrWriter,
    op::{attributes, op_name},
    write::{push, write_name, write_string, write_type},
};
use crate::{
    Body, Env, Function, Inst, Mesh, Module, Name, Schedule, Site, StateDecl, Type, Value,
    ir::{Meta, Op, Phase, is_value_name, unique},
};
use std::{borrow::Cow, collections::HashSet};

/// Returns the canonical text of a module. The text does not say whether the module is Global or Local.
pub fn print(module: &Module) -> String {
    let mut p = Printer { out: String::with_capacity(1 << 12), env: &module.env, depth: 0 };
    p.module(module);
    p.out
}

/// Returns the text of a type.
pub fn print_type(ty: &Type, mesh: &Mesh) -> String {
    let mut out = String::new();
    write_type(&mut out, ty, mesh);
    out
}

struct Printer<'m> {
    out: String,
    env: &'m Env,
    depth: usize,
}

impl Printer<'_> {
    fn module(&mut self, module: &Module) {
        self.out.push_str("module ");
        write_name(&mut self.out, &module.name);
        self.out.push('\n');
        for (i, axis) in self.env.mesh.axes().iter().enumerate() {
            self.out.push_str(if i == 0 { "mesh " } else { ", " });
            write_name(&mut self.out, &axis.name);
            push(&mut self.out, format_args!("={}", axis.size));
        }
        if !self.env.mesh.axes().is_empty() {
            self.out.push('\n');
        }
        for Meta { key, value, site } in &module.meta {
            self.out.push_str("meta ");
            write_name(&mut self.out, key);
            self.out.push_str(" = ");
            write_string(&mut self.out, value);
            write_site(&mut self.out, site);
            self.out.push('\n');
        }
        if module.schedule != Schedule::default() {
            self.out.push_str(&format!("schedule {}\n", module.schedule));
        }
        if let Some(task) = &module.task {
            push(&mut self.out, format_args!("task {task}\n"));
        }
        for (_, state) in module.env.states.iter() {
            self.state(state);
        }
        for function in &module.functions {
            self.out.push('\n');
            self.function(function);
        }
    }

    fn state(&mut self, state: &StateDecl) {
        push(&mut self.out, format_args!("state {} ", state.kind.name()));
        write_name(&mut self.out, &state.name);
        self.out.push_str(": ");
        write_type(&mut self.out, &state.ty, &self.env.mesh);
        write_site(&mut self.out, &state.site);
        self.out.push('\n');
    }

    fn function(&mut self, f: &Function) {
        let labels = Labels::new(&f.body);
        self.out.push_str("func ");
        write_name(&mut self.out, &f.name);
        self.out.push('(');
        for i in 0..f.body.params.len().max(f.inputs.len()) {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.input(&f.body, &labels, f.body.params.get(i).copied(), f.inputs.get(i));
        }
        self.out.push(')');
        for i in 0..f.body.results.len().max(f.outputs.len()) {
            self.out.push_str(if i == 0 { " -> (" } else { ", " });
            match f.outputs.get(i) {
                Some(name) => write_name(&mut self.out, name),
                None => self.out.push('?'),
            }
            self.out.push_str(": ");
            self.type_of(&f.body, f.body.results.get(i).copied());
        }
        if f.body.results.len().max(f.outputs.len()) > 0 {
            self.out.push(')');
        }
        self.braces(&f.body, &labels, "return");
        self.out.push('\n');
    }

    /// `%0 seed: u32[]`, or `%seed: u32[]` where the value has the name of the input.
    fn input(&mut self, body: &Body, labels: &Labels<'_>, value: Option<Value>, input: Option<&Name>) {
        if let Some(value) = value {
            labels.write(&mut self.out, value);
        }
        let same = value.and_then(|v| labels.name(v)).is_some_and(|name| input.is_some_and(|i| *i == *name));
        if !same {
            self.out.push_str(if value.is_some() { " " } else { "" });
            match input {
                Some(input) => write_name(&mut self.out, input),
                None => self.out.push('?'),
            }
        }
        self.out.push_str(": ");
        self.type_of(body, value);
    }

    fn type_of(&mut self, body: &Body, value: Option<Value>) {
        match value.and_then(|v| body.values.get(v)) {
            Some(data) => write_type(&mut self.out, &data.ty, &self.env.mesh),
            None => self.out.push('?'),
        }
    }

    /// ` { … return %1 }`, one line per instruction.
    fn braces(&mut self, body: &Body, labels: &Labels<'_>, end: &str) {
        self.out.push_str(" {\n");
        self.depth += 1;
        for inst in &body.insts {
            self.indent();
            self.inst(body, labels, inst);
            self.out.push('\n');
        }
        self.indent();
        self.out.push_str(end);
        self.values(labels, &body.results);
        self.depth -= 1;
        self.out.push('\n');
        self.indent();
        self.out.push('}');
    }

    fn indent(&mut self) {
        for _ in 0..self.depth {
            self.out.push_str("  ");
        }
    }

    fn inst(&mut self, body: &Body, labels: &Labels<'_>, inst: &Inst) {
        for (i, v) in inst.results.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            labels.write(&mut self.out, *v);
        }
        if !inst.results.is_empty() {
            self.out.push_str(" = ");
        }
        self.out.push_str(op_name(&inst.op));
        self.values(labels, &inst.args);
        self.op(&inst.op);
        for (i, v) in inst.results.iter().enumerate() {
            self.out.push_str(if i == 0 { " : " } else { ", " });
            self.type_of(body, Some(*v));
        }
        write_site(&mut self.out, &inst.site);
    }

    /// The attributes and bodies of an operation.
    fn op(&mut self, op: &Op) {
        let mut attrs = AttrWriter::new(&mut self.out, &self.env.mesh);
        attributes(op, self.env, &mut attrs);
        attrs.close();
        for (i, body) in op.bodies().into_iter().enumerate() {
            let labels = Labels::new(body);
            self.out.push_str(if i == 0 { " (" } else { " else (" });
            for (j, v) in body.params.iter().enumerate() {
                if j > 0 {
                    self.out.push_str(", ");
                }
                labels.write(&mut self.out, *v);
                self.out.push_str(": ");
                self.type_of(body, Some(*v));
            }
            self.out.push(')');
            self.braces(body, &labels, "yield");
        }
    }

    fn values(&mut self, labels: &Labels<'_>, values: &[Value]) {
        for (i, v) in values.iter().enumerate() {
            self.out.push_str(if i == 0 { " " } else { ", " });
            labels.write(&mut self.out, *v);
        }
    }
}

/// The text of the values of a body: `%NAME` for a value with a name, else `%` and its position in the order
/// of definitions. A name that an earlier value of the body has gets a suffix.
struct Labels<'b>(Vec<Option<Label<'b>>>);

enum Label<'b> {
    Number(usize),
    Name(Cow<'b, str>),
}

impl<'b> Labels<'b> {
    fn new(body: &'b Body) -> Self {
        let mut labels: Vec<Option<Label<'b>>> = body.values.ids().map(|_| None).collect();
        let mut taken: HashSet<Cow<'b, str>> = HashSet::new();
        let mut position = 0;
        for v in body.params.iter().chain(body.insts.iter().flat_map(|inst| &inst.results)) {
            let Some(label @ None) = labels.get_mut(v.0 as usize) else { continue };
            let name = body.values[*v].name.as_deref().filter(|name| is_value_name(name));
            *label = Some(match name {
                Some(name) => {
                    let name = unique(name, &taken);
                    taken.insert(name.clone());
                    Label::Name(name)
                }
                None => Label::Number(position),
            });
            position += 1;
        }
        Self(labels)
    }

    fn name(&self, v: Value) -> Option<&str> {
        match self.0.get(v.0 as usize) {
            Some(Some(Label::Name(name))) => Some(name),
            Some(Some(Label::Number(_)) | None) | None => None,
        }
    }

    fn write(&self, out: &mut String, v: Value) {
        match self.0.get(v.0 as usize) {
            Some(Some(Label::Number(n))) => push(out, format_args!("%{n}")),
            Some(Some(Label::Name(name))) => push(out, format_args!("%{name}")),
            Some(None) | None => push(out, format_args!("%?{}", v.0)),
        }
    }
}

/// ` @ models/t5_tiny.rs:12:5 "encoder/ffn" !`; the empty text for the default site.
fn write_site(out: &mut String, site: &Site) {
    if *site == Site::default() {
        return;
    }
    out.push_str(" @ ");
    write_name(out, &site.file);
    push(out, format_args!(":{}:{}", site.line, site.column));
    if !site.scope.is_empty() {
        out.push(' ');
        write_string(out, &site.scope);
    }
    match site.phase {
        Phase::Forward => {}
        Phase::Backward => out.push_str(" !"),
    }
}
