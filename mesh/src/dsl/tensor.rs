//! A tensor of a function under construction: a handle of two words that is copied at will.

use super::Graph;
use crate::{DType, Diagnostic, Dim, Name, Op, Site, Type, Value};

/// A tensor. Its methods are the operations, spread over the files of the op families.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(super) graph: &'g Graph,
    /// Nothing for a poison tensor: the result of a mistake that was noted already.
    pub(super) id: Option<Ref>,
}

/// A value and the body it lives in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ref {
    pub(super) body: u32,
    pub(super) value: Value,
}

impl<'g> Tensor<'g> {
    /// The function this tensor belongs to.
    pub fn graph(self) -> &'g Graph {
        self.graph
    }

    /// The type; nothing for a poison tensor or one whose body has ended.
    pub fn ty(self) -> Option<Type> {
        self.id.and_then(|id| self.graph.type_of(id))
    }

    /// The element type; `f32` for a poison tensor.
    pub fn dtype(self) -> DType {
        self.ty().map_or(DType::F32, |ty| ty.dtype)
    }

    /// The dims; none for a poison tensor.
    pub fn dims(self) -> Vec<Dim> {
        self.ty().map_or_else(Vec::new, |ty| ty.logical().cloned().collect())
    }

    /// Whether it has a dim of this name.
    pub fn has(self, dim: impl Into<Name>) -> bool {
        self.ty().is_some_and(|ty| ty.has(&dim.into()))
    }

    /// Whether it stands for the result of a mistake.
    pub fn is_poison(self) -> bool {
        self.id.is_none()
    }

    /// An operation with one result on this tensor and `more`.
    pub(super) fn apply(self, op: Op, more: &[Self], site: &Site) -> Self {
        let mut args = vec![self];
        args.extend(more);
        self.graph.emit1(op, &args, site)
    }

    /// Notes a mistake; the result is poison.
    pub(super) fn wrong(self, diagnostic: Diagnostic, site: &Site) -> Self {
        self.graph.note(diagnostic, site);
        self.graph.poison()
    }
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ty() {
            Some(ty) => write!(f, "{}", ty.display(&crate::Mesh::default())),
            None => f.write_str("poison"),
        }
    }
}
