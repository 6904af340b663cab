//! Where an instruction comes from: the line of the model, the scope, and the direction.

use crate::Name;
use std::{ops::Deref, sync::Arc};

/// Which half of a step an instruction belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Phase {
    /// What the model says.
    #[default]
    Forward,
    /// What autodiff added: cotangents and recomputation.
    Backward,
}

/// A place in a model. Cheap to clone; instructions made by a pass carry the site of their cause.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Site(Arc<SiteData>);

/// The parts of a [`Site`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SiteData {
    /// Source file, as the compiler of the model names it.
    pub file: Name,
    /// Line, from 1; 0 when unknown.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// Scope path such as `encoder/layers/ffn`; empty at the top.
    pub scope: Name,
    /// Direction.
    pub phase: Phase,
}

impl Default for SiteData {
    fn default() -> Self {
        Self { file: "".into(), line: 0, column: 0, scope: "".into(), phase: Phase::Forward }
    }
}

impl Site {
    /// A place in the forward half.
    pub fn new(file: impl Into<Name>, line: u32, column: u32, scope: impl Into<Name>) -> Self {
        Self(Arc::new(SiteData {
            file: file.into(),
            line,
            column,
            scope: scope.into(),
            phase: Phase::Forward,
        }))
    }
    /// The same place in another direction.
    pub fn in_phase(&self, phase: Phase) -> Self {
        if self.phase == phase {
            self.clone()
        } else {
            Self(Arc::new(SiteData { phase, ..(*self.0).clone() }))
        }
    }
}

impl Deref for Site {
    type Target = SiteData;
    fn deref(&self) -> &SiteData {
        &self.0
    }
}
