//! Modules to text. Nothing here fails: a module that breaks rules prints too (what has no form shows as
//! `?`), so that a stage's wrong result can be looked at.

use super::{
    attrs::AttrWriter,
    op::{attributes, op_name},
    write::{push, write_name, write_string, write_type},
};
use crate::{
    Body, Env, Function, Inst, Mesh, Module, Name, Schedule, Site, StateDecl, Type, Value,
    ir::{Op, Phase},
};

/// The canonical text of a module. It does not say whether the module is global or local: that is known
/// to whoever verifies it.
pub fn print(module: &Module) -> String {
    let mut p = Printer { out: String::with_capacity(1 << 12), env: &module.env, depth: 0 };
    p.module(module);
    p.out
}

/// The text of a type, as it stands in `.mesh` text.
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
        for (key, value) in &module.meta {
            self.out.push_str("meta ");
            write_name(&mut self.out, key);
            self.out.push_str(" = ");
            write_string(&mut self.out, value);
            self.out.push('\n');
        }
        if module.schedule != Schedule::default() {
            self.out.push_str(&format!("schedule {}\n", module.schedule));
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
        let numbers = Numbers::new(&f.body);
        self.out.push_str("func ");
        write_name(&mut self.out, &f.name);
        self.out.push('(');
        for i in 0..f.body.params.len().max(f.inputs.len()) {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.input(&f.body, &numbers, f.body.params.get(i).copied(), f.inputs.get(i));
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
        self.braces(&f.body, &numbers, "return");
        self.out.push('\n');
    }

    /// `%0 seed: u32[]`. The value is called as the input unless `as` says otherwise.
    fn input(&mut self, body: &Body, numbers: &Numbers, value: Option<Value>, input: Option<&Name>) {
        if let Some(value) = value {
            numbers.write(&mut self.out, value);
            let name = body.values.get(value).and_then(|v| v.name.as_ref());
            match name {
                None => self.out.push_str(" as _"),
                Some(name) if Some(name) == input => {}
                Some(name) => {
                    self.out.push_str(" as ");
                    write_name(&mut self.out, name);
                }
            }
            self.out.push(' ');
        }
        match input {
            Some(input) => write_name(&mut self.out, input),
            None => self.out.push('?'),
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

    /// ` { … return %1 }`, each instruction on a line of its own.
    fn braces(&mut self, body: &Body, numbers: &Numbers, end: &str) {
        self.out.push_str(" {\n");
        self.depth += 1;
        for inst in &body.insts {
            self.indent();
            self.inst(body, numbers, inst);
            self.out.push('\n');
        }
        self.indent();
        self.out.push_str(end);
        self.values(numbers, &body.results);
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

    fn inst(&mut self, body: &Body, numbers: &Numbers, inst: &Inst) {
        for (i, v) in inst.results.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            self.definition(body, numbers, *v);
        }
        if !inst.results.is_empty() {
            self.out.push_str(" = ");
        }
        self.out.push_str(op_name(&inst.op));
        self.values(numbers, &inst.args);
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
            let numbers = Numbers::new(body);
            self.out.push_str(if i == 0 { " (" } else { " else (" });
            for (j, v) in body.params.iter().enumerate() {
                if j > 0 {
                    self.out.push_str(", ");
                }
                self.definition(body, &numbers, *v);
                self.out.push_str(": ");
                self.type_of(body, Some(*v));
            }
            self.out.push(')');
            self.braces(body, &numbers, "yield");
        }
    }

    fn definition(&mut self, body: &Body, numbers: &Numbers, v: Value) {
        numbers.write(&mut self.out, v);
        if let Some(name) = body.values.get(v).and_then(|data| data.name.as_ref()) {
            self.out.push_str(" as ");
            write_name(&mut self.out, name);
        }
    }

    fn values(&mut self, numbers: &Numbers, values: &[Value]) {
        for (i, v) in values.iter().enumerate() {
            self.out.push_str(if i == 0 { " " } else { ", " });
            numbers.write(&mut self.out, *v);
        }
    }
}

/// The numbers by which the values of a body print: dense, in the order of their definitions.
struct Numbers(Vec<u32>);

impl Numbers {
    fn new(body: &Body) -> Self {
        let mut numbers = vec![u32::MAX; body.values.len()];
        let mut next = 0;
        for v in body.params.iter().chain(body.insts.iter().flat_map(|inst| &inst.results)) {
            if let Some(number @ &mut u32::MAX) = numbers.get_mut(v.0 as usize) {
                *number = next;
                next += 1;
            }
        }
        Self(numbers)
    }

    fn write(&self, out: &mut String, v: Value) {
        match self.0.get(v.0 as usize) {
            Some(&n) if n != u32::MAX => push(out, format_args!("%{n}")),
            _ => push(out, format_args!("%?{}", v.0)),
        }
    }
}

/// ` @ models/t5.rs:12:5 "encoder/ffn" !`, nothing for the default site.
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
