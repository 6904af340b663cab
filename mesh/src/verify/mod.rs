//! The verifier: whether a module is a legal program of its stage. Every stage of the compiler ends in it.
//!
//! Reading order: [`Stage`], [`Global`] and [`Local`] (a module that was verified, once and for all),
//! [`verify`] (rules about the whole module), then `body` (rules about instructions). The labels are those
//! of `docs/ir.md`. All mistakes are collected; whatever was built by hand, nothing here panics.

pub(crate) mod body;
mod stage;
#[cfg(test)]
mod tests;

pub use stage::{MAX_DEPTH, Stage};

use crate::{Diagnostic, Diagnostics, Function, Module, Name, infer::check_type, ir::Env};
use body::Verifier;
use std::collections::HashSet;

/// A program over whole tensors that the verifier has accepted.
#[derive(Clone, PartialEq, Debug)]
pub struct Global(Module);

/// One device's program that the verifier has accepted.
#[derive(Clone, PartialEq, Debug)]
pub struct Local(Module);

macro_rules! verified {
    ($name:ident) => {
        impl $name {
            /// Verifies `module`; all its mistakes are the error.
            pub fn new(module: Module) -> Result<Self, Diagnostics> {
                verify(&module, Stage::$name)?;
                Ok(Self(module))
            }
            /// The module.
            pub fn module(&self) -> &Module {
                &self.0
            }
            /// The module, to be changed and verified again.
            pub fn into_module(self) -> Module {
                self.0
            }
        }
    };
}
verified!(Global);
verified!(Local);

/// Whether `module` is a legal program of `stage`; if not, everything that is wrong with it.
pub fn verify(module: &Module, stage: Stage) -> Result<(), Diagnostics> {
    let mut errors = Vec::new();
    if stage == Stage::Global && !module.env.mesh.axes().is_empty() {
        errors.push(
            Diagnostic::new("verify_v5", format!("a global program has the mesh {}", module.env.mesh))
                .help("the mesh comes with the partitioner: remove it, or verify the program as local"),
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

/// Checks the declared state; says for each piece whether its type is legal.
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
                    format!("state `{}` owes a sum, max or min: {}", state.name, state.ty.display(&env.mesh)),
                )
                .help("what is stored is settled: all-reduce it before it is written")
                .at(&state.site),
            ),
            None => {}
        }
    }
    legal
}

/// Checks that inputs and outputs have names of their own, one for each parameter and result.
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
            errors.push(Diagnostic::new(label, format!("{what} `{name}` is there twice")).help(TWICE));
        }
    }
}
