//! The intermediate representation, one for both stages.
//!
//! A [`Module`] is a program: state that is declared once, and named functions. A [`Body`] is a list of
//! instructions in SSA form. Values are defined before they are used, and a body never refers to values of
//! another body: scans and conditionals pass them as arguments. *Global* modules know no devices; *Local*
//! modules are the program of one device, with explicit collectives.

mod names;
mod op;
mod remat;
mod site;

pub use names::{is_value_name, unique};
pub use op::*;
pub use remat::Remat;
pub use site::{Phase, Site};

use crate::{Diagnostic, Mesh, Name, Schedule, Task, Type, arena::Arena, id_type};

id_type!(
    /// A value of one body.
    Value, "%"
);
id_type!(
    /// A piece of state of one module.
    StateId, "@"
);

/// A value's type and name.
#[derive(Clone, PartialEq, Debug)]
pub struct ValueData {
    /// Its type.
    pub ty: Type,
    /// A name for people, if it has one. It does not affect what the program computes.
    pub name: Option<Name>,
}

/// One operation applied to values.
#[derive(Clone, PartialEq, Debug)]
pub struct Inst {
    /// The operation.
    pub op: Op,
    /// Operands, in the order that the documentation of the operation gives.
    pub args: Vec<Value>,
    /// Results.
    pub results: Vec<Value>,
    /// The line of the model that created it.
    pub site: Site,
}

/// Instructions with parameters and results.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Body {
    /// All values of the body: parameters and results of instructions.
    pub values: Arena<Value, ValueData>,
    /// Parameters.
    pub params: Vec<Value>,
    /// Instructions in an order in which definitions come before uses.
    pub insts: Vec<Inst>,
    /// Results of the body. A value may appear twice.
    pub results: Vec<Value>,
}

/// The definition of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Def {
    /// The parameter at this position.
    Param(usize),
    /// Result `.1` of the instruction at position `.0`.
    Inst(usize, usize),
}

impl Body {
    /// The type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        &self.values[value].ty
    }
    /// Types of the parameters.
    pub fn param_types(&self) -> impl Iterator<Item = &Type> {
        self.params.iter().map(|v| self.ty(*v))
    }
    /// Types of the results.
    pub fn result_types(&self) -> impl Iterator<Item = &Type> {
        self.results.iter().map(|v| self.ty(*v))
    }
    /// Returns the definition of each value. The body must define all its values, as a verified one does.
    pub fn defs(&self) -> Vec<Def> {
        let mut defs = vec![Def::Param(usize::MAX); self.values.len()];
        for (i, v) in self.params.iter().enumerate() {
            defs[v.0 as usize] = Def::Param(i);
        }
        for (i, inst) in self.insts.iter().enumerate() {
            for (j, v) in inst.results.iter().enumerate() {
                defs[v.0 as usize] = Def::Inst(i, j);
            }
        }
        defs
    }
    /// Numbers the values in the order of their definitions and drops those without a definition. A pass
    /// that removes or moves instructions must call this. Nested bodies are not changed; names stay.
    pub fn compact(&mut self) {
        let order = self.params.iter().chain(self.insts.iter().flat_map(|inst| &inst.results));
        let count = order.clone().count();
        if self.values.len() == count && order.clone().enumerate().all(|(i, v)| v.0 as usize == i) {
            return;
        }
        let mut names = vec![Value(u32::MAX); self.values.len()];
        let mut values = Arena::new();
        for v in order {
            names[v.0 as usize] = values.push(self.values[*v].clone());
        }
        self.values = values;
        let inside = self.insts.iter_mut().flat_map(|inst| inst.args.iter_mut().chain(&mut inst.results));
        for v in self.params.iter_mut().chain(&mut self.results).chain(inside) {
            *v = names[v.0 as usize];
        }
    }
    /// Calls `f` for every instruction. Instructions of nested bodies come after the one that contains them.
    pub fn walk<'a>(&'a self, f: &mut impl FnMut(&'a Body, &'a Inst)) {
        for inst in &self.insts {
            f(self, inst);
            for body in inst.op.bodies() {
                body.walk(f);
            }
        }
    }
}

/// A named function. Its inputs are data; it accesses state by [`StateOp`]s.
#[derive(Clone, PartialEq, Debug)]
pub struct Function {
    /// The name, such as `train_step`.
    pub name: Name,
    /// Names of the inputs, one for each parameter of the body.
    pub inputs: Vec<Name>,
    /// Names of the outputs, one for each result of the body.
    pub outputs: Vec<Name>,
    /// The body.
    pub body: Body,
}

/// The kind of a state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StateKind {
    /// A trained parameter.
    Param,
    /// An optimizer's memory for a parameter.
    Slot,
    /// Any other state, such as the step number.
    Counter,
}

impl StateKind {
    /// The word in text and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Param => "param",
            Self::Slot => "slot",
            Self::Counter => "counter",
        }
    }
}

/// A tensor that stays on the devices between calls.
#[derive(Clone, PartialEq, Debug)]
pub struct StateDecl {
    /// The logical name, such as `encoder/ffn/wi`.
    pub name: Name,
    /// Its kind.
    pub kind: StateKind,
    /// Its type. In a Local module it is split as the state layout says.
    pub ty: Type,
    /// The line of the model that declares it.
    pub site: Site,
}

/// The environment of types: the mesh and the declared state.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Env {
    /// The mesh; without axes in a Global module.
    pub mesh: Mesh,
    /// All state.
    pub states: Arena<StateId, StateDecl>,
}

impl Env {
    /// The state called `name`.
    pub fn find_state(&self, name: &str) -> Option<StateId> {
        self.states.iter().find(|(_, s)| s.name == *name).map(|(id, _)| id)
    }
}

/// A string that a program states about itself, for tools and the runtime.
#[derive(Clone, PartialEq, Debug)]
pub struct Meta {
    /// The key, such as `layout`.
    pub key: Name,
    /// The value.
    pub value: String,
    /// The line of the model that states it.
    pub site: Site,
}

/// A program.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Module {
    /// The program's name.
    pub name: String,
    /// Mesh and state.
    pub env: Env,
    /// Functions, in order of definition, with unique names.
    pub functions: Vec<Function>,
    /// Strings that the program states about itself, for tools and the runtime, such as
    /// `layout = "batch:data+expert"` (its default layout).
    pub meta: Vec<Meta>,
    /// Choices that change time and memory, not results.
    pub schedule: Schedule,
    /// The contract with the runtime. `None` means the program is only compiled, or called function by
    /// function.
    pub task: Option<Task>,
}

impl Module {
    /// The function called `name`.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == *name)
    }
    /// The value of the meta entry `key`.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.meta_entry(key).map(|entry| entry.value.as_str())
    }
    /// The meta entry of `key`.
    pub fn meta_entry(&self, key: &str) -> Option<&Meta> {
        self.meta.iter().find(|entry| *entry.key == *key)
    }
    /// The function called `name`, or an error that lists the functions of the program.
    pub fn require_function(&self, name: &str) -> Result<&Function, Diagnostic> {
        self.function(name).ok_or_else(|| {
            let known: Vec<_> = self.functions.iter().map(|f| f.name.to_string()).collect();
            Diagnostic::new("", format!("program `{}` has no function `{name}`", self.name))
                .help(format!("it has {}", known.join(", ")))
        })
    }
}
