//! The verifier. It checks that a module is a legal program of its stage. Every stage of the compiler ends
//! with it.
//!
//! Reading order: [`Stage`]; [`Global`] and [`Local`], the types of verified modules; [`verify`], the rules
//! for whole modules; then `body`, the rules for instructions. The labels are those of `docs/ir.md`. The
//! verifier collects all mistakes. It does not panic, whatever a module contains.

pub(crate) mod body;
mod stage;
#[cfg(test)]
mod tests;

pub use stage::{MAX_DEPTH, Stage};

use crate::{Diagnostic, Diagnostics, Function, Module, Name, infer::check_type, ir::Env};
use body::Verifier;
use std::collections::HashSet;

/// A verified program over whole tensors.
#[derive(Clone, PartialEq, Debug)]
pub struct Global(Module);

/// A verified program of one device.
#[derive(Clone, PartialEq, Debug)]
pub struct Local(Module);

macro_rules! verified {
    ($name:ident) => {
        impl $name {
            /// Verifies `module`. The error has all its mistakes.
            pub fn new(module: Module) -> Result<Self, Diagnostics> {
                verify(&module, Stage::$name)?;
                Ok(Self(module))
            }
            /// The module.
            pub fn module(&self) -> &Module {
                &self.0
            }
            /// Returns the module, which can then be changed and verified again.
            pub fn into_module(self) -> Module {
                self.0
            }
        }
    };
}
verified!(Global);
verified!(Local);

/// Checks that `module` is a legal program of `stage`. The error has all its mistakes.
pub fn verify(module: &Module, stage: Stage) -> Result<(), Diagnostics> {
    let mut errors = names(module);
    if stage == Stage::Global && !module.env.mesh.axes().is_empty() {
        errors.push(
            Diagnostic::new("verify_v5", format!("a global program has the mesh {}", module.env.mesh))
                .help("the partitioner adds the mesh: remove it, or verify the program as local"),
        );
    }
    unique(module.meta.iter().map(|entry| &entry.key), "verify_v15", "meta key", &mut errors);
    let legal_states = states(&module.env, &mut errors);
    unique(module.functions.iter().map(|f| &f.name), "verify_v7", "function", &mut errors);
    for f in &module.functions {
        let mut found = interface(f);
        let mut verifier = Verifier::new(&module.env, stage, &legal_states);
        verifier.function(f);
        found.append(&mut verifier.errors);
        errors.extend(found.into_iter().map(|d| d.in_function(&f.name)));
    }
    if errors.is_empty() { Ok(()) } else { Err(Diagnostics(errors)) }
}

/// Checks the names that tools and other programs see. Those of dims are checked with types.
fn names(module: &Module) -> Vec<Diagnostic> {
    let check = |what: &str, name: &str| {
        let help = "use a short name without control characters";
        Name::fault(what, name).map(|fault| Diagnostic::new("verify_v17", fault).help(help))
    };
    let mut errors: Vec<Diagnostic> = check("program", &module.name).into_iter().collect();
    errors.extend(module.meta.iter().filter_map(|entry| check("meta entry", &entry.key)));
    let states = module.env.states.iter();
    errors.extend(states.filter_map(|(_, state)| Some(check("state", &state.name)?.at(&state.site))));
    for f in &module.functions {
        let of_function = |d: Diagnostic| d.in_function(&f.name);
        errors.extend(check("function", &f.name).map(of_function));
        errors.extend(f.inputs.iter().filter_map(|name| check("input", name)).map(of_function));
        errors.extend(f.outputs.iter().filter_map(|name| check("output", name)).map(of_function));
    }
    errors
}

/// Checks the declared state. Returns for each state whether its type is legal.
fn states(env: &Env, errors: &mut Vec<Diagnostic>) -> Vec<bool> {
    let mut seen = HashSet::new();
    let mut legal = Vec::new();
    for (_, state) in env.states.iter() {
        if !seen.insert(&state.name) {
            let message = format!("state `{}` is declared twice", state.name);
            errors.push(Diagnostic::new("verify_v14", message).help(TWICE).at(&state.site));
        }
        let type_error = check_type(env, &state.ty).err();
        legal.push(type_error.is_none());
        match type_error {
            Some(d) => errors.push(d.at(&state.site)),
            None if !state.ty.pending().is_empty() => errors.push(
                Diagnostic::new(
                    "verify_v11",
                    format!(
                        "state `{}` has a pending sum, max or min: {}",
                        state.name,
                        state.ty.display(&env.mesh)
                    ),
                )
                .help("all-reduce the value before it is written")
                .at(&state.site),
            ),
            None => {}
        }
    }
    legal
}

/// Checks that inputs and outputs have unique names, one for each parameter and result.
fn interface(f: &Function) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    for (label, what, names, values) in [
        ("verify_v8", "input", &f.inputs, ("parameters", f.body.params.len())),
        ("verify_v9", "output", &f.outputs, ("results", f.body.results.len())),
    ] {
        if names.len() != values.1 {
            let message = format!("{} names of {what}s for {} {}", names.len(), values.1, values.0);
            errors.push(Diagnostic::new(label, message).help(format!("name every {what} once")));
        }
        unique(names, label, what, &mut errors);
    }
    errors
}

const TWICE: &str = "give one of the two another name";

fn unique<'n>(
    names: impl IntoIterator<Item = &'n Name>,
    label: &'static str,
    what: &str,
    errors: &mut Vec<Diagnostic>,
) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            errors.push(Diagnostic::new(label, format!("{what} `{name}` occurs twice")).help(TWICE));
        }
    }
}
