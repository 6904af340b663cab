//! Handles of declared state.

use super::{Graph, Tensor, shared::Shared};
use crate::{Diagnostic, Dim, Name, StateId, Type};
use std::rc::Rc;

/// A handle of a declared state.
#[derive(Clone, Debug)]
pub struct State(Rc<Handle>);

#[derive(Debug)]
struct Handle {
    name: Name,
    ty: Type,
    /// `None` if the declaration was a mistake.
    id: Option<StateId>,
    program: Rc<Shared>,
}

impl State {
    pub(super) fn new(name: Name, ty: Type, id: StateId, program: &Rc<Shared>) -> Self {
        Self(Rc::new(Handle { name, ty, id: Some(id), program: Rc::clone(program) }))
    }
    pub(super) fn poison(name: Name, ty: Type, program: &Rc<Shared>) -> Self {
        Self(Rc::new(Handle { name, ty, id: None, program: Rc::clone(program) }))
    }

    /// The full name, with scopes.
    pub fn name(&self) -> &Name {
        &self.0.name
    }
    /// The declared type.
    pub fn ty(&self) -> &Type {
        &self.0.ty
    }
    /// The declared dims.
    pub fn dims(&self) -> Vec<Dim> {
        self.0.ty.logical().cloned().collect()
    }

    /// Returns the value at the call of the function, regardless of assignments. Inside a scan over one of
    /// its dims this is the slice of the iteration, so that a layer need not know whether it is stacked.
    #[track_caller]
    pub fn read<'g>(&self, g: &'g Graph) -> Tensor<'g> {
        let site = g.site();
        match self.own(g) {
            Ok(Some(id)) => g.read(id, &site),
            Ok(None) => g.poison(),
            Err(diagnostic) => {
                g.note(diagnostic, &site);
                g.poison()
            }
        }
    }

    /// Sets the value after the return of the function. A function assigns each state at most once, at its
    /// top level.
    #[track_caller]
    pub fn assign(&self, value: Tensor<'_>) {
        let (g, site) = (value.graph, value.graph.site());
        match self.own(g) {
            Ok(Some(id)) => g.write(id, value, &site),
            Ok(None) => {}
            Err(diagnostic) => g.note(diagnostic, &site),
        }
    }

    fn own(&self, g: &Graph) -> Result<Option<StateId>, Diagnostic> {
        if g.belongs_to(&self.0.program) {
            return Ok(self.0.id);
        }
        Err(Diagnostic::new("", format!("state `{}` belongs to another program", self.0.name))
            .help("declare it in the program whose function uses it"))
    }
}
